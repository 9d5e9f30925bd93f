//! An operation that is awaited.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Ring;
use super::key::{OpKey, Owner};
use super::operation::Operation;

/// An operation that is awaited: `(result, operation)`, the result as bytes moved or a positive errno.
///
/// Its completion wakes whoever polled it last. That is the task as a rule, which costs nothing. A future
/// that a task polls with a waker of its own, as collections of futures do, has its waker kept until the
/// operation is collected or dropped.
pub struct Running {
    ring: Ring,
    state: RunningState,
}

enum RunningState {
    Fresh(Option<Operation>),
    /// The owner is the task.
    Submitted(OpKey),
    /// The owner is [`Owner::Within`], with its waker in this place.
    Within(OpKey, u32),
    Finished,
}

impl Ring {
    /// Runs an operation for the current task.
    pub fn run(&self, operation: Operation) -> Running {
        Running { ring: self.clone(), state: RunningState::Fresh(Some(operation)) }
    }

    /// Lets the current task sleep.
    pub async fn sleep(&self, duration: Duration) {
        let _expired = self.run(Operation::sleep(duration)).await;
    }
}

impl Running {
    /// Keeps the waker of who polls now.
    #[cold]
    fn keep_waker(ring: &Ring, context: &Context<'_>) -> u32 {
        let waker = context.waker().clone();
        ring.table(|table| table.keep_waker(waker))
    }

    fn submit(ring: &Ring, operation: Operation, context: &Context<'_>) -> RunningState {
        match ring.task_of(context) {
            Some(task) => RunningState::Submitted(ring.push(operation, Owner::Task(task))),
            None => {
                let place = Self::keep_waker(ring, context);
                RunningState::Within(ring.push(operation, Owner::Within(place)), place)
            }
        }
    }

    /// It has not finished, and who polls now may be another than before. Wakers are cloned and dropped
    /// outside of the table.
    fn wait(ring: &Ring, state: &mut RunningState, context: &Context<'_>) {
        match (ring.task_of(context), &*state) {
            (Some(task), &RunningState::Submitted(key)) => {
                ring.table(|table| table.set_owner(key, Owner::Task(task)))
            }
            (Some(task), &RunningState::Within(key, place)) => {
                *state = RunningState::Submitted(key);
                ring.table(|table| table.set_owner(key, Owner::Task(task)));
                drop(ring.table(|table| table.withdraw_waker(place)));
            }
            (None, &RunningState::Submitted(key)) => {
                let place = Self::keep_waker(ring, context);
                ring.table(|table| table.set_owner(key, Owner::Within(place)));
                *state = RunningState::Within(key, place);
            }
            (None, &RunningState::Within(_, place)) => {
                if !ring.table(|table| table.will_wake(place, context.waker())) {
                    let waker = context.waker().clone();
                    drop(ring.table(|table| table.replace_waker(place, waker)));
                }
            }
            (_, RunningState::Fresh(_) | RunningState::Finished) => {
                unreachable!("only what is in flight waits")
            }
        }
    }
}

impl Future for Running {
    type Output = (Result<u32, i32>, Operation);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { ring, state } = &mut *self;
        let key = match state {
            RunningState::Fresh(operation) => {
                let operation = operation.take().expect("an operation is submitted once");
                *state = Self::submit(ring, operation, context);
                return Poll::Pending;
            }
            RunningState::Submitted(key) | RunningState::Within(key, _) => *key,
            RunningState::Finished => panic!("polled after completion"),
        };
        match ring.table(|table| table.collect(key)) {
            Some(finished) => {
                if let RunningState::Within(_, place) = *state {
                    drop(ring.table(|table| table.withdraw_waker(place)));
                }
                *state = RunningState::Finished;
                Poll::Ready(finished)
            }
            None => {
                Self::wait(ring, state, context);
                Poll::Pending
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        match self.state {
            RunningState::Submitted(key) => self.ring.table(|table| table.abandon(key)),
            RunningState::Within(key, place) => {
                self.ring.table(|table| table.abandon(key));
                drop(self.ring.table(|table| table.withdraw_waker(place)));
            }
            RunningState::Fresh(_) | RunningState::Finished => {}
        }
    }
}
