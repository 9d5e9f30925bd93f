//! The half of a turn that starts operations.

use super::plan::{LoadKind, PlanStep, Planned};
use super::run::{Run, RunPhase};
use super::verify::Verifier;
use crate::ring::{Operation, Owner, SendMode};

/// The result of an attempt to start an operation.
enum StartAttempt {
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
        if self.load.options.rate.is_some() && !matches!(self.phase, RunPhase::ReadBack(_)) {
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

    /// Starts all that one connection can. True if it must be tried again although nothing of its own
    /// completes.
    #[inline]
    fn fill_one(&mut self, key: u32, now: u64) -> bool {
        let mut has_started = false;
        let mut stays = false;
        while self.load.connections[key as usize].can_start() {
            match self.start(key as usize, now) {
                StartAttempt::Yes => has_started = true,
                StartAttempt::Later | StartAttempt::NotBefore(_) => {
                    stays = true;
                    break;
                }
                StartAttempt::Over => break,
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
                StartAttempt::Yes => {
                    self.filled.push(key as u32);
                    self.rotation = (key + 1) % count;
                }
                StartAttempt::NotBefore(time) => return Some(time),
                StartAttempt::Later | StartAttempt::Over => return None,
            }
        }
    }

    /// Starts the next operation on a connection that has room.
    #[inline]
    fn start(&mut self, key: usize, now: u64) -> StartAttempt {
        let load = &mut *self.load;
        if load.verifier.is_some() {
            return self.start_verified(key, now);
        }
        let next = load.plan.next(now, |_, _| true);
        let PlanStep::Start(planned) = next else { return self.not_started(next, now) };
        let payload = (planned.kind == LoadKind::Write).then(|| load.payloads.next(key));
        load.connections[key].start(&planned, &load.area, 0, payload);
        self.in_flight += 1;
        StartAttempt::Yes
    }

    /// The same with known content.
    fn start_verified(&mut self, key: usize, now: u64) -> StartAttempt {
        let load = &mut *self.load;
        let length = load.area.block_size as usize;
        let verifier = load.verifier.as_mut().expect("the caller saw it");
        // Before anything is decided: a write needs memory.
        let Some(mut lease) = load.pool.lend(length) else { return StartAttempt::Later };
        let next = match &mut self.phase {
            RunPhase::ReadBack(block) => next_to_read_back(block, verifier),
            _ => load.plan.next(now, |kind, block| verifier.tracker.begin(kind, block)),
        };
        let PlanStep::Start(planned) = next else { return self.not_started(next, now) };
        let (generation, payload) = match planned.kind {
            LoadKind::Trim | LoadKind::Flush => (0, None),
            LoadKind::Read => (verifier.tracker.to_read(planned.block).unwrap_or(0), None),
            LoadKind::Write => {
                let generation = verifier.fill(planned.block, lease.bytes_mut(0..length));
                (generation, Some((lease.freeze(), 0)))
            }
        };
        load.connections[key].start(&planned, &load.area, generation, payload);
        self.in_flight += 1;
        StartAttempt::Yes
    }

    #[cold]
    fn not_started(&mut self, next: PlanStep, now: u64) -> StartAttempt {
        match next {
            PlanStep::At(time) => StartAttempt::NotBefore(time),
            PlanStep::InUse => StartAttempt::Later,
            PlanStep::Over | PlanStep::Start(_) => {
                self.exhausted.get_or_insert(now);
                StartAttempt::Over
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

fn next_to_read_back(block: &mut u64, verifier: &mut Verifier) -> PlanStep {
    let Some(found) = verifier.tracker.next_known(*block) else { return PlanStep::Over };
    *block = found + 1;
    assert!(verifier.tracker.begin(LoadKind::Read, found), "only reads are in flight");
    PlanStep::Start(Planned { kind: LoadKind::Read, block: found, intended: None })
}
