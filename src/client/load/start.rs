//! The half of a turn that starts operations.

use super::plan::{Kind, Next, Planned};
use super::run::{Phase, Run};
use super::verify::Verifier;
use crate::ring::{Operation, Owner, SendMode};

/// What came of the attempt to start an operation.
enum Started {
    Yes,
    /// Not before that time.
    NotBefore(u64),
    /// When something in flight has ended.
    Later,
    Over,
}

impl Run<'_> {
    /// Starts what can be started. Gives the time of the next intended start, if that is what is waited for.
    #[inline]
    pub(super) fn fill(&mut self, now: u64) -> Option<u64> {
        if self.load.options.rate.is_some() && !matches!(self.phase, Phase::ReadBack(_)) {
            return self.fill_paced(now);
        }
        let mut ready = std::mem::take(&mut self.ready);
        // One that cannot go on for now stays listed.
        ready.retain(|&key| {
            let stays = self.fill_one(key, now);
            self.load.connections[key as usize].is_listed = stays;
            stays
        });
        self.ready = ready;
        None
    }

    /// Starts all that one connection can; whether it has to be asked again although nothing of its own completes.
    #[inline]
    fn fill_one(&mut self, key: u32, now: u64) -> bool {
        let mut has_started = false;
        let mut stays = false;
        while self.load.connections[key as usize].can_start() {
            match self.start(key as usize, now) {
                Started::Yes => has_started = true,
                Started::Later | Started::NotBefore(_) => {
                    stays = true;
                    break;
                }
                Started::Over => break,
            }
        }
        if has_started {
            self.filled.push(key);
        }
        stays
    }

    /// The open loop: what is due starts on the next connection that has room.
    fn fill_paced(&mut self, now: u64) -> Option<u64> {
        let count = self.load.connections.len();
        let slots = count * self.load.options.depth;
        loop {
            let mut candidates = (self.rotation..count).chain(0..self.rotation);
            // A search through thousands of full connections in every turn would itself become the delay.
            let found = match self.in_flight < slots {
                true => candidates.find(|key| self.load.connections[*key].can_start()),
                false => None,
            };
            let Some(key) = found else {
                // Nothing can start, but the end of the plan is still to be noticed.
                if self.load.plan.is_over(now) {
                    self.exhausted.get_or_insert(now);
                }
                return None;
            };
            match self.start(key, now) {
                Started::Yes => {
                    self.filled.push(key as u32);
                    self.rotation = (key + 1) % count;
                }
                Started::NotBefore(time) => return Some(time),
                Started::Later | Started::Over => return None,
            }
        }
    }

    /// Starts the next operation on a connection that has room.
    #[inline]
    fn start(&mut self, key: usize, now: u64) -> Started {
        let load = &mut *self.load;
        if load.verifier.is_some() {
            return self.start_verified(key, now);
        }
        let next = load.plan.next(now, |_, _| true);
        let Next::Start(planned) = next else { return self.not_started(next, now) };
        let payload = (planned.kind == Kind::Write).then(|| load.payloads.next(key));
        load.connections[key].start(&planned, &load.area, 0, payload);
        self.in_flight += 1;
        Started::Yes
    }

    /// The same with known content.
    fn start_verified(&mut self, key: usize, now: u64) -> Started {
        let load = &mut *self.load;
        let length = load.area.block_size as usize;
        let verifier = load.verifier.as_mut().expect("the caller saw it");
        // Before anything is decided: a write needs memory.
        let Some(mut lease) = load.pool.lend(length, 0) else { return Started::Later };
        let next = match &mut self.phase {
            Phase::ReadBack(block) => next_to_read_back(block, verifier),
            _ => load.plan.next(now, |kind, block| verifier.tracker.begin(kind, block)),
        };
        let Next::Start(planned) = next else { return self.not_started(next, now) };
        let (generation, payload) = match planned.kind {
            Kind::Trim | Kind::Flush => (0, None),
            Kind::Read => (verifier.tracker.to_read(planned.block).unwrap_or(0), None),
            Kind::Write => {
                let generation = verifier.fill(planned.block, lease.bytes_mut(0..length));
                (generation, Some((lease.freeze(), 0)))
            }
        };
        load.connections[key].start(&planned, &load.area, generation, payload);
        self.in_flight += 1;
        Started::Yes
    }

    #[cold]
    fn not_started(&mut self, next: Next, now: u64) -> Started {
        match next {
            Next::At(time) => Started::NotBefore(time),
            Next::InUse => Started::Later,
            Next::Over | Next::Start(_) => {
                self.exhausted.get_or_insert(now);
                Started::Over
            }
        }
    }

    /// Sends what was filled: one send for each connection, one clock reading for all.
    #[inline]
    pub(super) fn flush(&mut self) {
        if self.filled.is_empty() {
            return;
        }
        let now = self.now();
        for key in self.filled.drain(..) {
            let connection = &mut self.load.connections[key as usize];
            if let Some(batch) = connection.take_batch(now) {
                let operation = Operation::Send { socket: connection.socket, mode: SendMode::Whole, batch };
                self.load.ring.push(operation, Owner::Connection(key));
            }
        }
    }
}

fn next_to_read_back(block: &mut u64, verifier: &mut Verifier) -> Next {
    let Some(found) = verifier.tracker.next_known(*block) else { return Next::Over };
    *block = found + 1;
    assert!(verifier.tracker.begin(Kind::Read, found), "only reads are in flight");
    Next::Start(Planned { kind: Kind::Read, block: found, intended: None })
}
