//! Where changes of an image wait while its head is being sealed.
//!
//! A change is a WRITE whose payload is here, a TRIM, or a WRITE_ZEROES. It holds nothing of the device
//! while it waits, no lock and no memory of the reserve, so what is under way can end. Reads and FLUSHes
//! pass.

use std::cell::Cell;

use crate::exec::Waiters;

/// The entrance of an image on its shard.
#[derive(Default)]
pub(super) struct Entrance {
    is_closed: Cell<bool>,
    /// Changes that are under way.
    inside: Cell<usize>,
    /// One of the two has changed while it was closed.
    changed: Waiters,
}

/// A change that is under way.
pub(super) struct Inside<'a>(&'a Entrance);

/// Keeps further changes out.
pub(super) struct ClosedEntrance<'a>(&'a Entrance);

impl Entrance {
    /// A change begins, unless it has to wait.
    #[inline]
    pub(super) async fn enter(&self) -> Inside<'_> {
        if self.is_closed.get() {
            self.changed.until(|| (!self.is_closed.get()).then_some(())).await;
        }
        self.inside.set(self.inside.get() + 1);
        Inside(self)
    }

    /// From now on none enters. It is closed by one at a time.
    pub(super) fn close(&self) -> ClosedEntrance<'_> {
        assert!(!self.is_closed.replace(true), "it is closed by one at a time");
        ClosedEntrance(self)
    }
}

impl ClosedEntrance<'_> {
    /// Returns when nothing is under way any more.
    pub(super) async fn drained(&self) {
        let Self(entrance) = self;
        entrance.changed.until(|| (entrance.inside.get() == 0).then_some(())).await;
    }
}

impl Drop for ClosedEntrance<'_> {
    fn drop(&mut self) {
        self.0.is_closed.set(false);
        self.0.changed.wake_all();
    }
}

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.inside.set(self.0.inside.get() - 1);
        if self.0.is_closed.get() {
            self.0.changed.wake_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: &mut Pin<&mut F>) -> Poll<F::Output> {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn changes_wait_while_it_is_closed_and_it_is_drained_when_the_last_one_has_left() {
        let entrance = Entrance::default();
        let Poll::Ready(first) = poll(&mut pin!(entrance.enter())) else { panic!("it is open") };
        let closed = entrance.close();
        let mut second = pin!(entrance.enter());
        assert!(poll(&mut second).is_pending());
        {
            let mut drained = pin!(closed.drained());
            assert!(poll(&mut drained).is_pending());
            drop(first);
            assert!(poll(&mut drained).is_ready());
        }
        assert!(poll(&mut second).is_pending());
        drop(closed);
        assert!(poll(&mut second).is_ready());
        assert_eq!(entrance.inside.get(), 0);
    }
}
