//! The shard's executor: fixed slots, a ready list, one kind of future. All safe code.
//!
//! There are no wakers. A task waits for ring operations, for a turn given to others, or for a helper's answer; each of them puts the
//! task's index on the ready list. Slots are pinned boxes that are reused: a task costs no allocation once its slot
//! exists.
#![forbid(unsafe_code)]

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

/// The tasks of one shard, all of one future type.
pub struct Tasks<F> {
    slots: Vec<Pin<Box<Option<F>>>>,
    ready: ReadyList,
    /// The list being worked on; kept for its memory.
    turn: Vec<u32>,
    ring: Ring,
    running: usize,
}

impl<F: Future<Output = ()>> Tasks<F> {
    /// An executor without tasks.
    pub fn new(ring: Ring, ready: ReadyList) -> Self {
        Self { slots: Vec::new(), ready, turn: Vec::new(), ring, running: 0 }
    }

    /// Puts a task into slot `index`, which must be free, and makes it ready.
    pub fn spawn(&mut self, index: u32, future: F) {
        while self.slots.len() <= index as usize {
            self.slots.push(Box::pin(None));
        }
        let slot = &mut self.slots[index as usize];
        assert!(slot.is_none(), "slot {index} runs a task already");
        slot.set(Some(future));
        self.running += 1;
        self.ready.wake(index);
    }

    /// Tasks that have not ended.
    pub fn running(&self) -> usize {
        self.running
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
                self.running -= 1;
            }
        }
        self.turn = turn;
    }
}
