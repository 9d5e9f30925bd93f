//! Received bytes become requests: of connections that waited, and of those with new bytes.

use std::rc::Rc;

use crate::exec::Tasks;
use crate::shard::admission::Admission;
use crate::shard::admission::queue::{Listed, Need};
use crate::shard::frontend::nbd::closing::{Closing, Reason};
use crate::shard::frontend::nbd::connection::{Connection, Fed, Feeding};
use crate::shard::request::ShardJob;
use crate::shard::request::serve::TaskContext;
use crate::shard::turn::flush::to_flush;
use crate::shard::turn::shard::Shard;

impl Shard {
    /// Received bytes become requests: first of connections that had to wait, then of the others.
    pub(crate) fn feed(&mut self) {
        if self.throttle.is_in_force() {
            self.release_throttled();
        }
        self.retry();
        for _ in 0..self.to_feed.len().min(self.limits.connections_per_turn) {
            let key = self.to_feed.pop_front().expect("counted");
            self.connections[key as usize].listed = Listed::No;
            self.feed_one(key);
        }
        // Behind the others, so that what has just come takes part.
        if self.throttle.is_in_force() {
            self.deal();
            self.throttle.arm(&self.ring);
        }
        if self.partial_records.get() > self.limits.partial_records {
            self.drop_partial_records();
        }
    }

    /// Ends connections that have kept the front of a record for the longest time, as many as must be.
    #[cold]
    fn drop_partial_records(&mut self) {
        let since = |(key, connection): (usize, &Connection)| Some((connection.partial_since()?, key));
        let mut kept: Vec<_> = self.connections.iter().filter_map(since).collect();
        kept.sort_unstable();
        for (_, key) in kept {
            if self.partial_records.get() <= self.limits.partial_records {
                return;
            }
            let connection = &mut self.connections[key];
            connection.because(Reason::Evicted).end(Closing::Abort);
            to_flush(&mut self.to_flush, key as u32, connection);
        }
    }

    /// Puts a connection on the list to be fed. One that waits is fed too: what it did itself may let it go
    /// on, without a try of the others.
    pub(crate) fn list(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        match std::mem::replace(&mut connection.listed, Listed::ToFeed) {
            Listed::ToFeed => return,
            Listed::Waiting { place, .. } => self.admission.stop_waiting(place),
            Listed::No => {}
        }
        self.to_feed.push_back(key);
    }

    /// Feeds one connection, which is on no list; false when it has to wait for the shard and got nothing at
    /// all.
    pub(crate) fn feed_one(&mut self, key: u32) -> bool {
        let connection = &mut self.connections[key as usize];
        let before = connection.ledger.in_flight();
        let scarce = self.ring.available_receive_buffers() < self.limits.receive_buffers() / 4;
        let most_in_flight = self.admission.most_in_flight(&connection.ledger, self.requests.unsent());
        let mut feeding = Feeding {
            limits: &self.limits,
            ring: &self.ring,
            batches: &mut self.batches,
            requests: &mut self.requests,
            most_in_flight,
            admission: &mut self.admission,
            shutting_down: self.shutdown.is_some(),
            scarce_buffers: scarce,
            now: self.recorder.now(),
            fault_watch: &mut self.fault_watch,
            recorder: &mut self.recorder,
            key,
            jobs: &mut self.jobs,
            started: &mut self.started,
        };
        let fed = connection.feed(&mut feeding);
        let began_requests = connection.ledger.in_flight() > before;
        if connection.outbound.wants_to_send() || connection.closing != Closing::No || self.stops_idle {
            to_flush(&mut self.to_flush, key, connection);
        }
        let waits_for = if let Fed::WaitsForShard(need) = fed { Some(need) } else { None };
        self.admission.fed(key, &connection.ledger, waits_for);
        let buffers = self.ring.available_receive_buffers() > 0;
        let need = match fed {
            Fed::Ended if connection.should_watch_client() => {
                self.to_receive.push(key);
                return true;
            }
            Fed::NeedsBytes if buffers || connection.receives_payload() => {
                self.to_receive.push(key);
                return true;
            }
            Fed::NeedsBytes => Need::Buffer,
            Fed::WaitsForShard(need) => need,
            Fed::WaitsForReplies => {
                self.watch();
                return true;
            }
            Fed::Throttled => {
                let (gate, now) = (connection.gate_number, self.recorder.now());
                if connection.waits_for_rate() {
                    self.throttle.note(gate, now);
                }
                self.watch();
                return true;
            }
            Fed::Ended => return true,
        };
        let held = connection.ledger.held();
        connection.listed = Listed::Waiting { place: self.admission.wait(key, need), held };
        self.watch();
        began_requests
    }

    /// Feeds connections that wait, until in each queue one was fed in vain.
    fn retry(&mut self) {
        let buffers = self.ring.available_receive_buffers() > 0;
        self.admission.mark_retries(buffers, self.requests.unsent());
        if !self.admission.has_waiting() {
            return;
        }
        for queue in Admission::queues() {
            for _ in 0..self.limits.connections_per_turn {
                let Some(key) = self.admission.next_retry(queue) else { break };
                self.connections[key as usize].listed = Listed::No;
                if !self.feed_one(key) {
                    break;
                }
            }
        }
    }

    /// Whether a retry of a connection that waits could succeed.
    pub(crate) fn may_retry(&mut self) -> bool {
        self.admission.may_retry(self.ring.available_receive_buffers() > 0, self.requests.unsent())
    }

    /// Jobs become tasks; all that are ready run.
    pub(crate) fn run<F: Future<Output = ()>>(
        &mut self,
        tasks: &mut Tasks<F>,
        work: &impl Fn(Rc<TaskContext>, ShardJob) -> F,
    ) {
        for job in self.jobs.drain(..) {
            tasks.spawn(work(Rc::clone(&self.shared), job));
        }
        tasks.run_ready();
        for task in self.shared.context.background.take() {
            tasks.spawn(work(Rc::clone(&self.shared), ShardJob::Background(task)));
        }
        let context = &self.shared.context;
        context.outstanding.commit(&context.helpers);
        let mut answered = std::mem::take(&mut *self.shared.answered.borrow_mut());
        let after_run = if answered.is_empty() { 0 } else { self.recorder.clock() };
        for (id, answer) in answered.drain(..) {
            self.answer(id, answer, after_run);
        }
        *self.shared.answered.borrow_mut() = answered;
        self.take_opened();
        self.take_visited();
    }
}
