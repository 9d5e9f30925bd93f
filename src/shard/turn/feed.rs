//! Received bytes become requests: of connections that waited, and of those with new bytes.

use std::rc::Rc;

use crate::shard::admission::queue::{Listed, Need, QUEUES};
use crate::shard::frontend::nbd::connection::{Fed, Feeding};
use crate::shard::frontend::nbd::ending::Ending;
use crate::shard::request::Work;
use crate::shard::request::serve::Shared;
use crate::shard::request::table::RequestId;
use crate::shard::turn::flush::to_flush;
use crate::shard::turn::shard::Shard;
use crate::task::Tasks;

impl Shard {
    /// Received bytes become requests: first of those who had to wait, then of those that come new.
    pub(crate) fn feed(&mut self) {
        self.try_waiting();
        for _ in 0..self.to_feed.len().min(self.limits.connections_per_turn) {
            let key = self.to_feed.pop_front().expect("counted");
            self.connections[key as usize].listed = Listed::No;
            self.feed_one(key);
        }
    }

    /// Puts a connection on the list to be fed. One that waits is fed too: what it did itself may let it go on, without a try of the others.
    pub(crate) fn list(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        match std::mem::replace(&mut connection.listed, Listed::ToFeed) {
            Listed::ToFeed => return,
            Listed::Waiting { place, .. } => self.waiting.remove(place),
            Listed::No => {}
        }
        self.to_feed.push_back(key);
    }

    /// Feeds one connection, which is on no list; false when it has to wait for the shard and got nothing at all.
    pub(crate) fn feed_one(&mut self, key: u32) -> bool {
        let connection = &mut self.connections[key as usize];
        let before = connection.in_flight;
        let scarce = self.ring.available_receive_buffers() < self.limits.receive_buffers() / 4;
        let most = self.room.most(before, self.requests.unsent());
        let mut feeding = Feeding {
            limits: &self.limits,
            pool: &self.pool,
            ring: &self.ring,
            batches: &mut self.batches,
            seniority: &mut self.seniority,
            requests: &mut self.requests,
            most_in_flight: most.min(self.limits.requests_per_connection),
            room: &self.room,
            shutting_down: self.shutdown.is_some(),
            scarce_buffers: scarce,
            now: self.recorder.now(),
            fault_watch: &mut self.fault_watch,
            recorder: &mut self.recorder,
            key,
            admitted: &mut self.admitted,
            started: &mut self.started,
        };
        let fed = connection.feed(&mut feeding);
        let began_requests = connection.in_flight > before;
        if connection.outbound.wants_to_send() || connection.ending != Ending::No || self.shutdown.is_some() {
            to_flush(&mut self.to_flush, key, connection);
        }
        let waits_for = if let Fed::WaitsForShard(need) = fed { Some(need) } else { None };
        connection.stand_in_line(waits_for, key, &mut self.seniority);
        self.seniority.take_freed().for_each(|kind| self.waiting.try_all(kind));
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
            Fed::Ended => return true,
        };
        connection.listed = Listed::Waiting { place: self.waiting.push(key, need), held: connection.held };
        self.watch();
        began_requests
    }

    /// Feeds connections that wait, until in each queue one was fed in vain.
    pub(crate) fn try_waiting(&mut self) {
        self.pool.want_long(self.waiting.wants_long());
        if self.waiting.is_empty() {
            return;
        }
        let returned = self.pool.take_returned();
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.wake(|need| self.is_met(need, returned));
        self.waiting = waiting;
        for queue in 0..QUEUES {
            for _ in 0..self.limits.connections_per_turn {
                let Some(key) = self.waiting.pop_untried(queue) else { break };
                self.connections[key as usize].listed = Listed::No;
                if !self.feed_one(key) {
                    break;
                }
            }
        }
    }

    /// Whether trying some of those who wait has a point.
    pub(crate) fn may_go_on(&self) -> bool {
        // Whoever waited for a long lease may have left.
        self.pool.want_long(self.waiting.wants_long());
        let returned = self.pool.has_returned();
        !self.waiting.is_empty()
            && (self.waiting.has_untried() || self.waiting.is_enough(|need| self.is_met(need, returned)))
    }

    /// Whether a need may be met now. Memory that is there is not enough by itself, as it may lie in pieces: some must have `returned`. For
    /// the others being there is enough, so whoever needs the least of them gets it when he is tried.
    fn is_met(&self, need: Need, returned: bool) -> bool {
        let met = match need {
            Need::Memory(shortage) => returned && self.pool.could_meet(shortage),
            Need::Slot { room } => self.room.has(self.requests.unsent(), room) && self.requests.free() > 0,
            Need::Buffer => return self.ring.available_receive_buffers() > 0,
        };
        met && !canary!(LostWakeUp)
    }

    /// A connection has come or gone: the others' shares are others.
    pub(crate) fn share_out(&mut self) {
        let connections = self.connections.len();
        let more_memory = self.pool.share_among(connections);
        if self.room.share_among(connections) || more_memory {
            self.waiting.shares_grew();
        }
    }

    /// Admitted requests become tasks; all that are ready run.
    pub(crate) fn run<F: Future<Output = ()>>(
        &mut self,
        tasks: &mut Tasks<F>,
        serve: &impl Fn(Rc<Shared>, RequestId, Work) -> F,
    ) {
        for (id, work) in self.admitted.drain(..) {
            tasks.spawn(serve(Rc::clone(&self.shared), id, work));
        }
        tasks.run_ready();
        let mut answered = std::mem::take(&mut *self.shared.answered.borrow_mut());
        let after_run = if answered.is_empty() { 0 } else { self.recorder.clock() };
        for (id, answer) in answered.drain(..) {
            self.answer(id, answer, after_run);
        }
        *self.shared.answered.borrow_mut() = answered;
    }
}
