//! One turn after the other.

use crate::backend::Device;
use crate::shard::turn::shard::Shard;

use std::rc::Rc;
use std::time::Duration;

use crate::exec::Tasks;
use crate::ring::{Event, Wait};
use crate::shard::request::ShardJob;
use crate::shard::request::serve::{TaskContext, work};
use crate::stats::Interval;

impl Shard {
    /// Looks whether the last turns have waited for pages.
    pub(super) fn watch_faults(&mut self) {
        let now = self.recorder.now();
        let is_due = self.fault_watch.is_due(now) && !canary!(FaultsIgnored);
        if is_due && self.fault_watch.look(self.ring.major_faults(), now) {
            self.devices.iter().for_each(Device::distrust_page_cache);
        }
        self.fault_watch.turn(now);
    }

    /// What was started in this turn goes to the kernel now.
    fn mark_submitted(&mut self) {
        if self.started.is_empty() {
            return;
        }
        let now = self.recorder.clock();
        for id in self.started.drain(..) {
            self.requests.submitted(id, now);
        }
    }

    /// How long the next system call may wait.
    pub(crate) fn wait(&mut self) -> Wait {
        let busy = !self.shared.context.ready.is_empty()
            || !self.to_feed.is_empty()
            || !self.to_flush.is_empty()
            || !self.jobs.is_empty()
            || self.doorbell_rang
            || (self.shutdown.is_some() && !self.has_clients())
            || self.throttle.may_deal()
            || self.may_retry();
        if busy { Wait::No } else { Wait::Forever }
    }

    /// The same, after spinning; and since when it has nothing to do.
    fn before_sleep(&mut self) -> (Wait, Option<Duration>) {
        let wait = self.wait();
        if wait == Wait::No {
            return (wait, None);
        }
        let context = &self.shared.context;
        let outstanding = &context.outstanding;
        let idle_since = self.busy_poll.spin(&self.ring, || outstanding.has_ended());
        (outstanding.before_sleep(&context.helpers), idle_since)
    }
}

/// A shard with its tasks: what a thread runs, or a simulation steps.
pub(crate) struct Worker<F> {
    pub(crate) shard: Shard,
    pub(crate) tasks: Tasks<F>,
    events: Vec<Event>,
    work: fn(Rc<TaskContext>, ShardJob) -> F,
}

impl<F: Future<Output = ()>> Worker<F> {
    /// A shard whose jobs are done by `work`.
    pub(crate) fn new(shard: Shard, work: fn(Rc<TaskContext>, ShardJob) -> F) -> Self {
        let tasks = Tasks::new(shard.ring.clone(), shard.shared.context.ready.clone());
        let events = Vec::with_capacity(shard.limits.completions_per_turn);
        Self { shard, tasks, events, work }
    }

    /// One turn of the loop; `None` when the shard has shut down, otherwise [`Wait::No`] when the next turn
    /// has something to do.
    pub(crate) fn turn(&mut self) -> Option<Wait> {
        let shard = &mut self.shard;
        if shard.shutdown_is_over() {
            let tasks = self.tasks.running();
            let expected = shard.shared.context.background.running();
            assert!(tasks == expected || shard.cut_off.is_some(), "a task outlives every connection");
            return None;
        }
        shard.take_messages();
        shard.tend_departure();
        shard.look_at_sends();
        shard.flush();
        shard.feed();
        shard.run(&mut self.tasks, &self.work);
        shard.flush();
        shard.receive();
        shard.mark_submitted();
        let (wait, idle_since) = shard.before_sleep();
        shard.ring.submit_and_reap(wait, shard.limits.completions_per_turn, &mut self.events);
        if let Some(since) = idle_since {
            shard.busy_poll.waited(shard.ring.now() - since);
        }
        shard.recorder.turn();
        shard.watch_faults();
        let next = if self.events.is_empty() { wait } else { Wait::No };
        shard.record(&mut self.events);
        Some(next)
    }
}

/// Runs a shard until it has shut down; gives what it recorded since it was last asked.
pub(crate) fn run(shard: Shard) -> Box<Interval> {
    let mut worker = Worker::new(shard, work);
    while worker.turn().is_some() {}
    worker.shard.hand_over(None, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_task<F>(_work: impl Fn(Rc<TaskContext>, ShardJob) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_task_is_small_enough_to_be_moved_for_each_request() {
        assert!(size_of_task(work) <= 832, "{} bytes", size_of_task(work));
    }
}
