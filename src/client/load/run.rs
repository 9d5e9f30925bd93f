//! The loop of the load generator.

use std::time::{Duration, Instant};

use super::plan::Pacer;
use super::results::{LoadRecorder, Results};
use super::set_up::Load;
use super::{LoadFailure, Observer};
use crate::ring::{Completion, Event, Operation, Owner, SendMode, Wait};

/// Completions handled in one turn.
const COMPLETIONS: usize = 4096;
/// How long before an intended start the loop stops sleeping: the kernel may wake it late by 50 µs and more.
const SPIN: u64 = 150_000;
/// How long requests in flight are waited for after the last one started.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the goodbye to the server may take.
const GOODBYE: Duration = Duration::from_millis(200);

/// The length of an interval, in nanoseconds.
pub(super) const TICK: u64 = 1_000_000_000;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunPhase {
    /// Nothing counts yet, until that time.
    WarmUp(u64),
    Measure,
    /// Every block that was written is read; the next one to look at.
    ReadBack(u64),
}

/// What is known when the measuring ends.
pub(super) struct Measured {
    pub(super) cpu: Duration,
    /// Operations of each connection.
    pub(super) connections: Vec<u64>,
    pub(super) unstarted: u64,
}

/// A run. All times are nanoseconds since `epoch`.
pub(super) struct Run<'a> {
    pub(super) load: &'a mut Load,
    pub(super) observer: &'a mut dyn Observer,
    pub(super) epoch: Instant,
    pub(super) phase: RunPhase,
    pub(super) recorder: LoadRecorder,
    /// Since when results count.
    pub(super) measure_start: u64,
    pub(super) cpu_start: Duration,
    pub(super) interval_start: u64,
    pub(super) next_tick: u64,
    /// A timer is in flight.
    pub(super) is_timed: bool,
    /// Connections that could start something.
    pub(super) ready: Vec<u32>,
    /// Connections whose batch is to be sent.
    pub(super) filled: Vec<u32>,
    /// The connection that is first to start the next operation of an open loop.
    pub(super) rotation: usize,
    /// The plan has no more operations; since when.
    pub(super) exhausted: Option<u64>,
    pub(super) in_flight: usize,
    pub(super) last_completion: u64,
    /// Taken when the measuring ended.
    pub(super) measured: Option<Measured>,
    pub(super) is_interrupted: bool,
}

/// More than 584 years count as so many.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Load {
    pub fn run(mut self, observer: &mut dyn Observer) -> Results {
        let mut run = Run::new(&mut self, observer);
        let failure = run.until_over().err();
        let results = run.finish(failure);
        self.part();
        results
    }

    /// Says goodbye on every connection, so that the server does not log a broken one.
    fn part(mut self) {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            connection.say_goodbye();
            if let Some(batch) = connection.take_batch(0) {
                let operation = Operation::Send { socket: connection.socket, mode: SendMode::Whole, batch };
                self.ring.push(operation, Owner::Connection(index as u32));
            }
        }
        // Sends complete as they are submitted unless the server does not read; the ring ends what is left.
        let mut events = Vec::new();
        self.ring.submit_and_reap(Wait::AtMost(GOODBYE), COMPLETIONS, &mut events);
    }
}

impl<'a> Run<'a> {
    fn new(load: &'a mut Load, observer: &'a mut dyn Observer) -> Self {
        let connections = load.connections.len();
        let warm_up = nanoseconds(load.options.warm_up);
        load.plan.pace(load.options.rate.map(|rate| Pacer::new(0, rate)));
        Self {
            load,
            observer,
            epoch: Instant::now(),
            phase: RunPhase::WarmUp(warm_up),
            recorder: LoadRecorder::new(),
            measure_start: 0,
            cpu_start: Duration::ZERO,
            interval_start: 0,
            next_tick: TICK,
            is_timed: false,
            ready: Vec::with_capacity(connections),
            filled: Vec::with_capacity(connections),
            rotation: 0,
            exhausted: None,
            in_flight: 0,
            last_completion: 0,
            measured: None,
            is_interrupted: false,
        }
    }

    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    fn until_over(&mut self) -> Result<(), LoadFailure> {
        let mut events = Vec::with_capacity(COMPLETIONS);
        for key in 0..self.load.connections.len() as u32 {
            self.receive(key, false);
            self.list(key);
        }
        loop {
            let now = self.now();
            self.advance(now)?;
            let next_start = self.fill(now);
            if self.exhausted.is_some() && self.in_flight == 0 {
                if !self.begin_read_back() {
                    return Ok(());
                }
                continue;
            }
            self.flush();
            self.keep_time(now);
            self.submit_and_reap(next_start, &mut events);
            let now = self.now();
            for event in events.drain(..) {
                let owner = event.owner;
                let completion = self.load.ring.collect(event);
                match owner {
                    Owner::Connection(key) => self.completed(key, completion, now)?,
                    Owner::Shard => self.noticed(&completion),
                    _ => unreachable!("there are no tasks, and no requests to a backend"),
                }
            }
        }
    }

    /// Handles what the clock brings: the end of the warm-up, a tick, the end of patience.
    #[inline]
    fn advance(&mut self, now: u64) -> Result<(), LoadFailure> {
        if let RunPhase::WarmUp(end) = self.phase
            && now >= end
        {
            self.begin_measuring(if end == 0 { 0 } else { now });
        }
        if now >= self.next_tick {
            self.end_interval(now);
            self.next_tick = now + TICK - (now - self.next_tick) % TICK;
        }
        match self.exhausted {
            Some(since) if self.in_flight > 0 && now - since >= PATIENCE.as_nanos() as u64 => {
                Err(LoadFailure::Silent { in_flight: self.in_flight, waited: PATIENCE })
            }
            _ => Ok(()),
        }
    }

    /// A timer for the next thing that only time brings.
    #[inline]
    fn keep_time(&mut self, now: u64) {
        if std::mem::replace(&mut self.is_timed, true) {
            return;
        }
        let end = match self.phase {
            RunPhase::WarmUp(end) => end,
            RunPhase::Measure => self.load.plan.end(),
            RunPhase::ReadBack(_) => u64::MAX,
        };
        let next = if end > now { end.min(self.next_tick) } else { self.next_tick };
        let duration = Duration::from_nanos(next.saturating_sub(now));
        self.load.ring.push(Operation::sleep(duration), Owner::Shard);
    }

    /// Submits, and waits for a completion or for the next intended start.
    #[inline]
    fn submit_and_reap(&mut self, next_start: Option<u64>, events: &mut Vec<Event>) {
        let ring = &self.load.ring;
        let Some(start) = next_start else { return ring.submit_and_reap(Wait::Forever, COMPLETIONS, events) };
        let left = start.saturating_sub(self.now());
        if left > SPIN {
            let wait = Wait::AtMost(Duration::from_nanos(left - SPIN));
            return ring.submit_and_reap(wait, COMPLETIONS, events);
        }
        ring.submit_and_reap(Wait::No, COMPLETIONS, events);
        while events.is_empty() && self.now() < start {
            if ring.has_work() {
                ring.submit_and_reap(Wait::No, COMPLETIONS, events);
            }
            std::hint::spin_loop();
        }
    }

    /// Handles a completion of the loop's own: the timer, or the request to stop.
    fn noticed(&mut self, completion: &Completion) {
        match completion.operation {
            Operation::Sleep { .. } => self.is_timed = false,
            Operation::Watch { .. } if self.load.stop.is_requested() => {
                self.is_interrupted = true;
                self.load.plan.limit(0, 0);
                if let RunPhase::ReadBack(next) = &mut self.phase {
                    *next = u64::MAX;
                }
            }
            _ => {}
        }
    }

    pub(super) fn list(&mut self, key: u32) {
        let connection = &mut self.load.connections[key as usize];
        if !std::mem::replace(&mut connection.is_listed, true) {
            self.ready.push(key);
        }
    }
}
