//! One budget for the memory of all handshakes: options that come in, answers that go out.
//!
//! A handshake keeps [`FREE_BYTES`] or less of each without a claim; that counts as bookkeeping, as its task
//! does. Before it reads a longer option, or makes a longer answer, it claims the bytes. When the budget is
//! used up it waits, and its client with it: the socket is the backpressure. A handshake has one claim at a
//! time, and gives it up before it waits for another one. So handshakes cannot wait for each other, and each
//! ends with the handshake timeout at the latest.
//!
//! The budget is given out in the order in which it is asked for. Clients that hold all of it delay those
//! that need some, by turns of at most the timeout. A client whose options and answers are no longer than
//! [`FREE_BYTES`] is never delayed: that is every usual client. A LIST of many exports needs more.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that a handshake may keep without a claim: more than most clients send in all.
pub(super) const FREE_BYTES: usize = 1024;

/// The budget.
#[derive(Debug, Clone)]
pub(super) struct HandshakeMemory {
    free: Arc<Semaphore>,
    total: u32,
}

/// What one handshake has of it.
#[derive(Debug)]
pub(super) struct Claim {
    memory: HandshakeMemory,
    permit: Option<OwnedSemaphorePermit>,
}

impl HandshakeMemory {
    /// So many bytes for all handshakes together.
    pub(super) fn new(bytes: usize) -> Self {
        let total = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// A claim to nothing yet.
    pub(super) fn claim(&self) -> Claim {
        Claim { memory: self.clone(), permit: None }
    }
}

impl Claim {
    /// Claims the memory of a vector that grows to `bytes` bytes, in place of the claim before. Waits until
    /// the budget has it. A handshake that needs more than the whole budget gets all of it.
    pub(super) async fn hold(&mut self, bytes: usize) {
        if bytes <= FREE_BYTES {
            self.permit = None;
            return;
        }
        let wanted = u32::try_from(2 * bytes).unwrap_or(u32::MAX).min(self.memory.total);
        if self.permit.as_ref().is_some_and(|permit| permit.num_permits() >= wanted as usize) {
            return;
        }
        self.permit = None;
        let permit = match Arc::clone(&self.memory.free).try_acquire_many_owned(wanted) {
            Ok(permit) => permit,
            Err(_none_left) => {
                tracing::debug!(bytes = wanted, "the memory for handshakes is used up, a client waits");
                let later = Arc::clone(&self.memory.free).acquire_many_owned(wanted);
                later.await.expect("the semaphore is never closed")
            }
        };
        self.permit = Some(permit);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll(future: impl Future<Output = ()>) -> Poll<()> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn claims_share_the_budget_and_little_is_free() {
        let memory = HandshakeMemory::new(100_000);
        let [mut one, mut other, mut small] = [(); 3].map(|()| memory.claim());
        assert!(poll(one.hold(40_000)).is_ready());
        assert!(poll(other.hold(40_000)).is_pending(), "it waits");
        assert!(poll(small.hold(FREE_BYTES)).is_ready(), "who needs little does not");
        assert!(poll(one.hold(40_000)).is_ready(), "it has it already");
        assert!(poll(one.hold(0)).is_ready());
        assert!(poll(other.hold(1 << 30)).is_ready(), "more than there is: all of it");
        assert_eq!(memory.free.available_permits(), 0);
        drop(other);
        assert_eq!(memory.free.available_permits(), 100_000);
    }

    #[test]
    fn whoever_wants_more_gives_back_first() {
        let memory = HandshakeMemory::new(10_000);
        let [mut one, mut other] = [(); 2].map(|()| memory.claim());
        assert!(poll(one.hold(2_000)).is_ready() && poll(other.hold(3_000)).is_ready());
        {
            let mut grows = pin!(one.hold(3_000));
            let mut context = Context::from_waker(Waker::noop());
            assert!(grows.as_mut().poll(&mut context).is_pending());
            drop(other);
            assert!(grows.as_mut().poll(&mut context).is_ready());
        }
        assert_eq!(memory.free.available_permits(), 4_000);
    }
}
