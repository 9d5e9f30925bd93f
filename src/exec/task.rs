//! The shard's executor: fixed slots, a ready list, one kind of future. All safe code.
//!
//! There are no wakers. A task waits for ring operations, for a turn given to others, or for a helper's answer; each of them puts the
//! task's index on the ready list. Slots are pinned boxes that are reused: a task costs no allocation once its slot
//! exists.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::ring::Ring;

/// Tasks that can go on; shared by all who may wake one.
#[derive(Debug, Clone, Default)]
pub struct ReadyList {
    ready: Rc<RefCell<Vec<u32>>>,
}

impl ReadyList {
    /// Lets a task run in this turn or the next.
    pub fn wake(&self, task: u32) {
        self.ready.borrow_mut().push(task);
    }

    /// Whether no task can go on.
    pub fn is_empty(&self) -> bool {
        self.ready.borrow().is_empty()
    }

    /// Tasks that can go on; one that was woken twice counts twice.
    #[cfg(test)]
    pub(crate) fn length(&self) -> usize {
        self.ready.borrow().len()
    }

    /// Gives way once: the current task goes on after the others that are ready.
    pub async fn give_way(&self, ring: &Ring) {
        let mut woken = false;
        std::future::poll_fn(|_context| {
            if std::mem::replace(&mut woken, true) {
                return Poll::Ready(());
            }
            self.wake(ring.current_task());
            Poll::Pending
        })
        .await;
    }
}

/// Runs futures side by side within the current task, at most `most` at once; what they gave, in their order.
///
/// Whatever wakes the task, each of them looks whether it was meant.
pub(crate) async fn side_by_side<F: Future>(futures: impl Iterator<Item = F>, most: usize) -> Vec<F::Output> {
    let mut fresh = futures.enumerate();
    let mut running: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    let mut outputs: Vec<Option<F::Output>> = Vec::new();
    std::future::poll_fn(|context| {
        loop {
            let room = most.max(1) - running.len();
            running.extend(fresh.by_ref().take(room).map(|(index, future)| (index, Box::pin(future))));
            let before = running.len();
            running.retain_mut(|(index, future)| {
                let Poll::Ready(output) = future.as_mut().poll(context) else { return true };
                outputs.resize_with(outputs.len().max(*index + 1), || None);
                outputs[*index] = Some(output);
                false
            });
            match running.len() {
                0 if before == 0 => return Poll::Ready(()),
                left if left == before => return Poll::Pending,
                // Others may take their places.
                _ => {}
            }
        }
    })
    .await;
    outputs.into_iter().map(|output| output.expect("all have ended")).collect()
}

/// The tasks of one shard, all of one future type.
pub struct Tasks<F> {
    slots: Vec<Pin<Box<Option<F>>>>,
    /// Slots without a task; the last one is the next to be taken, since its memory was used last.
    free: Vec<u32>,
    ready: ReadyList,
    /// The list being worked on; kept for its memory.
    turn: Vec<u32>,
    ring: Ring,
}

impl<F: Future<Output = ()>> Tasks<F> {
    /// An executor without tasks.
    pub fn new(ring: Ring, ready: ReadyList) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), ready, turn: Vec::new(), ring }
    }

    /// Puts a task into a free slot and makes it ready.
    pub fn spawn(&mut self, future: F) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Box::pin(None));
            self.slots.len() as u32 - 1
        });
        self.slots[index as usize].set(Some(future));
        self.ready.wake(index);
    }

    /// Tasks that have not ended.
    pub fn running(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Runs each ready task once; what becomes ready meanwhile waits for the next call.
    pub fn run_ready(&mut self) {
        let mut turn = std::mem::take(&mut self.turn);
        std::mem::swap(&mut turn, &mut self.ready.ready.borrow_mut());
        let mut context = Context::from_waker(Waker::noop());
        for index in turn.drain(..) {
            let slot = &mut self.slots[index as usize];
            // A task that was woken twice may have ended in between.
            let Some(future) = slot.as_mut().as_pin_mut() else { continue };
            self.ring.set_current_task(index);
            if future.poll(&mut context).is_ready() {
                slot.set(None);
                self.free.push(index);
            }
        }
        self.turn = turn;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;

    use super::*;

    #[test]
    fn futures_run_side_by_side_up_to_a_bound_and_keep_their_order() {
        let started = Cell::new(0);
        let ended: [Cell<bool>; 5] = Default::default();
        let futures = (0..5).map(|index| {
            let (started, ended) = (&started, &ended);
            async move {
                started.set(started.get() + 1);
                let end =
                    |_: &mut Context<'_>| if ended[index].get() { Poll::Ready(()) } else { Poll::Pending };
                std::future::poll_fn(end).await;
                index
            }
        });
        let mut all = pin!(side_by_side(futures, 2));
        let mut poll = || all.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending() && started.get() == 2);
        ended[1].set(true);
        assert!(poll().is_pending() && started.get() == 3);
        assert!(poll().is_pending() && started.get() == 3);
        ended.iter().for_each(|end| end.set(true));
        assert_eq!(poll(), Poll::Ready(vec![0, 1, 2, 3, 4]));
        assert_eq!(
            pin!(side_by_side(std::iter::empty::<std::future::Ready<()>>(), 2))
                .poll(&mut Context::from_waker(Waker::noop())),
            Poll::Ready(vec![])
        );
    }
}
