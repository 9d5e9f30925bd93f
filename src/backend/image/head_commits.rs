//! The commits of one layer that takes writes, and from when on they count.
//!
//! A head that takes over in a snapshot takes writes before the catalogue leads to it, and before the head
//! that it stands on is durable. What is synced of it meanwhile would be lost in a power cut with the head
//! itself. So FLUSH and FUA wait until both are so.

use std::sync::Mutex;

use crate::backend::durability::Syncs;
use crate::block::BlockError;
use crate::exec::{Waiters, lock};

/// See above.
#[derive(Debug, Default)]
pub(in crate::backend) struct HeadCommits {
    /// FLUSHes that share a commit; see [`ImageDevice::flush`](super::ImageDevice::flush).
    pub(super) syncs: Syncs,
    footing: Mutex<Footing>,
    changed: Waiters,
}

/// Whether an image would find the head again after a power cut, and all that it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Footing {
    #[default]
    Sure,
    /// It is on its way.
    Awaited,
    /// It will not be known before the image is opened again.
    Failed,
}

impl HeadCommits {
    fn set(&self, footing: Footing) {
        *lock(&self.footing) = footing;
        self.changed.wake_all();
    }

    /// It has taken over from a head that is not durable yet.
    pub(super) fn take_over(&self) {
        self.set(Footing::Awaited);
    }

    /// The catalogue leads to it, and all that it stands on is durable.
    pub(super) fn become_sure(&self) {
        self.set(Footing::Sure);
    }

    /// That failed.
    pub(super) fn fail(&self) {
        self.set(Footing::Failed);
    }

    /// Waits until what is durable of it would be found again.
    pub(super) async fn is_sure(&self) -> Result<(), BlockError> {
        let look = || match *lock(&self.footing) {
            Footing::Sure => Some(Ok(())),
            Footing::Failed => Some(Err(BlockError::Io)),
            Footing::Awaited => None,
        };
        self.changed.until(look).await
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn what_is_durable_of_a_head_counts_when_the_head_is_sure() {
        let mut context = Context::from_waker(Waker::noop());
        let commits = HeadCommits::default();
        assert_eq!(pin!(commits.is_sure()).poll(&mut context), Poll::Ready(Ok(())));
        commits.take_over();
        let mut waits = pin!(commits.is_sure());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        commits.become_sure();
        assert_eq!(waits.poll(&mut context), Poll::Ready(Ok(())));
        commits.take_over();
        let mut waits = pin!(commits.is_sure());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        commits.fail();
        assert_eq!(waits.poll(&mut context), Poll::Ready(Err(BlockError::Io)));
        assert_eq!(pin!(commits.is_sure()).poll(&mut context), Poll::Ready(Err(BlockError::Io)));
    }
}
