//! Collects what the shards recorded: once a second, and when a client of the HTTP servers asks.
//!
//! A question is a message, and a shard answers it between two turns by handing over an interval. The shard
//! never waits for the collector; the collector waits for a shard for a bounded time. At most one question to
//! a shard is open. An interval that was read is emptied here and goes back with the next question, so that
//! neither side allocates.

use std::cell::{Ref, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::latency_log::LatencyLog;
use crate::control::catalogue::Entry;
use crate::control::plane::Plane;
use crate::stats::{ConnectionInfo, History, Interval, SlowRequest, Totals};

/// How long an answer is waited for; one that comes later still counts.
const PATIENCE: Duration = Duration::from_millis(250);
/// What is not older need not be asked for again, however many want to see it.
const FRESH: Duration = Duration::from_millis(50);
/// The length of an interval.
const SECOND: Duration = Duration::from_secs(1);

/// What comes to the collector, in order.
enum CollectorMessage {
    /// What a shard recorded.
    Recorded(usize, Box<Interval>),
    /// No shard has anything of an export any more, and what they recorded of it came before.
    Removed(usize, oneshot::Sender<()>),
}

/// See the module.
pub(in crate::control) struct Collector {
    plane: Rc<Plane>,
    state: RefCell<CollectorState>,
    answer: UnboundedSender<CollectorMessage>,
    answered: Notify,
}

/// Everything that is known.
pub(in crate::control) struct CollectorState {
    /// Since the start.
    pub(in crate::control) totals: Totals,
    /// The last quarter of an hour.
    pub(in crate::control) history: History,
    /// By number.
    pub(in crate::control) shards: Vec<ShardState>,
    log: Option<LatencyLog>,
    second_began: Instant,
}

/// What is known of a shard beside its statistics.
#[derive(Default)]
pub(in crate::control) struct ShardState {
    /// Its connections when they were last asked for.
    pub(in crate::control) connections: Vec<ConnectionInfo>,
    /// The open question: since when, and whether it is for connections too.
    asked: Option<(Instant, bool)>,
    answered: Option<Instant>,
    listed: Option<Instant>,
    spare: Option<Box<Interval>>,
    /// It panicked.
    pub(in crate::control) failed: bool,
}

impl ShardState {
    /// It has not failed, and answered the last question or still has time to.
    pub(in crate::control) fn is_responsive(&self) -> bool {
        !self.failed && self.asked.is_none_or(|(since, _)| since.elapsed() < SECOND)
    }
}

impl Collector {
    /// Starts collecting, in tasks of its own.
    ///
    /// # Errors
    /// The latency log cannot be written, or is none.
    pub(in crate::control) fn start(
        plane: Rc<Plane>,
        latency_log: Option<PathBuf>,
    ) -> std::io::Result<Rc<Self>> {
        let shards = plane.shard_count();
        let log = latency_log.map(LatencyLog::open).transpose()?;
        let state = CollectorState {
            totals: Totals::new(0, shards),
            history: History::new(0),
            shards: (0..shards).map(|_| ShardState::default()).collect(),
            log,
            second_began: Instant::now(),
        };
        let (answer, answers) = unbounded_channel();
        let collector = Self { plane, state: RefCell::new(state), answer, answered: Notify::new() };
        let collector = Rc::new(collector);
        collector.plane.catalogue().iter().for_each(|entry| collector.added(entry));
        tokio_uring::spawn(Rc::clone(&collector).take_answers(answers));
        tokio_uring::spawn(Rc::clone(&collector).every_second());
        Ok(collector)
    }

    /// What is known.
    pub(in crate::control) fn state(&self) -> Ref<'_, CollectorState> {
        self.state.borrow()
    }

    /// Asks every shard and waits for their answers, for a bounded time. `connections`: lists of connections
    /// too.
    pub(in crate::control) async fn refresh(&self, connections: bool) {
        if connections {
            // A question that is open may be one without them.
            self.settle().await;
        }
        self.ask(connections, FRESH);
        self.settle().await;
    }

    /// Takes what a shard recorded last, when it has ended.
    pub(in crate::control) fn take_last(&self, shard: usize, interval: Box<Interval>) {
        self.take(shard, interval);
    }

    /// An export is served from now on.
    pub(in crate::control) fn added(&self, entry: &Entry) {
        let mut state = self.state.borrow_mut();
        state.totals.grow(entry.index() + 1);
        state.history.grow(entry.index() + 1);
        if let Some(log) = &mut state.log {
            log.name(entry.index(), &entry.info.name);
        }
    }

    /// An export is gone, on all shards: forgets it, and what they recorded of it before.
    pub(in crate::control) async fn removed(&self, export: usize) {
        let (forgotten, done) = oneshot::channel();
        // What the shards sent before they gave it up stands before this.
        if self.answer.send(CollectorMessage::Removed(export, forgotten)).is_ok() {
            let _ended = done.await;
        }
    }

    fn forget(&self, export: usize) {
        let mut state = self.state.borrow_mut();
        state.totals.forget_export(export);
        state.history.forget_export(export);
        if let Some(log) = &mut state.log {
            log.forget_export(export);
        }
    }

    /// A shard has failed: it has no connections, and tasks that wait for its answer go on.
    pub(in crate::control) fn note_failure(&self, shard: usize) {
        let mut state = self.state.borrow_mut();
        state.totals.forget_gauges(shard);
        state.shards[shard] = ShardState { failed: true, ..ShardState::default() };
        drop(state);
        self.answered.notify_waiters();
    }

    /// Ends the last second, when all shards have ended.
    pub(in crate::control) fn finish(&self) {
        self.end_second();
    }

    async fn take_answers(self: Rc<Self>, mut answers: UnboundedReceiver<CollectorMessage>) {
        while let Some(answer) = answers.recv().await {
            match answer {
                CollectorMessage::Recorded(shard, interval) => self.take(shard, interval),
                CollectorMessage::Removed(export, forgotten) => {
                    self.forget(export);
                    // The task that waited may have gone.
                    let _told = forgotten.send(());
                }
            }
        }
    }

    async fn every_second(self: Rc<Self>) {
        let mut ticks = interval(SECOND);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.ask(false, Duration::ZERO);
            self.settle().await;
            self.end_second();
        }
    }

    /// Asks the shards that have no open question and whose answer is older than `fresh`.
    fn ask(&self, connections: bool, fresh: Duration) {
        for (shard, state) in self.state.borrow_mut().shards.iter_mut().enumerate() {
            let last = if connections { state.listed } else { state.answered };
            if state.failed || state.asked.is_some() || last.is_some_and(|last| last.elapsed() < fresh) {
                continue;
            }
            let answer = self.answer.clone();
            // The receiver is gone when the process ends.
            let answer = move |interval| drop(answer.send(CollectorMessage::Recorded(shard, interval)));
            let asked = self.plane.collect(shard, state.spare.take(), connections, answer);
            state.asked = asked.then(|| (Instant::now(), connections));
        }
    }

    /// Waits until no question is open, or no longer.
    async fn settle(&self) {
        let settled = async {
            while self.state.borrow().shards.iter().any(|shard| shard.asked.is_some()) {
                self.answered.notified().await;
            }
        };
        let _late = timeout(PATIENCE, settled).await;
    }

    fn take(&self, shard: usize, mut interval: Box<Interval>) {
        let mut state = self.state.borrow_mut();
        let CollectorState { totals, history, shards, log, .. } = &mut *state;
        totals.add(shard, &interval);
        history.add(&interval);
        if let Some(log) = log {
            log.add(&interval);
        }
        self.tell_slow(&interval);
        let of = &mut shards[shard];
        of.answered = Some(Instant::now());
        if of.asked.take().is_some_and(|(_, connections)| connections) {
            of.connections.clone_from(&interval.connections);
            of.listed = of.answered;
        }
        // Here and not on the shard, which has better things to do.
        interval.clear();
        of.spare = Some(interval);
        self.answered.notify_waiters();
    }

    fn end_second(&self) {
        let mut state = self.state.borrow_mut();
        let CollectorState { totals, history, log, second_began, .. } = &mut *state;
        let length = std::mem::replace(second_began, Instant::now()).elapsed();
        let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let gauges = (0..totals.exports.len()).map(|export| totals.export_gauges(export)).collect();
        history.finish_second(end.as_millis() as u64, length.as_millis() as u64, gauges);
        if let Some(log) = log {
            log.end_interval(length);
        }
    }

    fn tell_slow(&self, interval: &Interval) {
        for slow in &interval.slow {
            if let Some(entry) = self.plane.catalogue().at(slow.export) {
                log_slow(slow, &entry.info.name, interval.end);
            }
        }
        if interval.more_slow > 0 {
            tracing::warn!(target: "ringnbd::slow", requests = interval.more_slow, "more slow requests, not told apart");
        }
    }
}

fn log_slow(slow: &SlowRequest, export: &str, now: u64) {
    let SlowRequest { peer, timing, sent, .. } = slow;
    let microseconds = |start: u64, end: u64| end.saturating_sub(start) / 1000;
    tracing::warn!(
        target: "ringnbd::slow",
        %peer,
        export,
        command = timing.operation().name(),
        offset = timing.offset,
        length = timing.length,
        throttled_us = timing.throttled() / 1000,
        queue_us = microseconds(timing.arrived, timing.submitted),
        backend_us = microseconds(timing.submitted, timing.completed),
        send_us = microseconds(timing.completed, *sent),
        total_us = microseconds(timing.arrived, *sent) + timing.throttled() / 1000,
        ago_us = microseconds(*sent, now),
        "slow request"
    );
}
