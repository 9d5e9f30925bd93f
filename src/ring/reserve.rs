//! Memory of the arena that is kept for devices: what they need to carry requests out, besides the memory
//! that admission gives to the requests themselves.
//!
//! Whoever asks waits in line; what comes back goes to the first one in it, when it is enough for that one.
//! So a long lease is not starved by short ones. Each holds what it was given until it drops it, and asks for
//! no more meanwhile: two that did could wait for each other for ever.

use std::task::{Poll, Waker};

use super::buffer::{BufferPool, Lease};
use super::reserve_line::ReserveWaiter;
use super::zone::ZoneKind;

/// The reserve of a pool.
pub(crate) struct Reserve<'a>(&'a BufferPool);

/// A place in the line.
struct ReserveTicket<'a> {
    pool: &'a BufferPool,
    number: u64,
}

impl BufferPool {
    /// The memory that is kept for devices; none unless the ring was [told so](super::RingOptions::reserve).
    pub(crate) fn reserve(&self) -> Reserve<'_> {
        Reserve(self)
    }

    /// Gives what came back to the first of those who wait, and to the next ones, as far as it goes.
    pub(super) fn serve_reserve(&self) {
        loop {
            let mut line = self.reserve_line().borrow_mut();
            let Some(first) = line.waiting.front() else { return };
            let Some(lease) = self.take(ZoneKind::Reserve, first.length, 0) else { return };
            let first = line.waiting.pop_front().expect("it was looked at");
            line.given.push((first.ticket, lease));
            drop(line);
            if let Some(waker) = first.waker {
                waker.wake();
            }
        }
    }
}

impl Reserve<'_> {
    /// Waits for a lease of at least `length` bytes.
    pub(crate) async fn lend(&self, length: usize) -> Lease {
        assert!(length <= self.0.longest_of_reserve(), "a lease of {length} bytes is more than the reserve");
        let ticket = self.join(length);
        self.0.serve_reserve();
        std::future::poll_fn(|context| match ticket.take() {
            Some(lease) => Poll::Ready(lease),
            None => {
                ticket.waits(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    fn join(&self, length: usize) -> ReserveTicket<'_> {
        let mut line = self.0.reserve_line().borrow_mut();
        let number = line.next;
        line.next += 1;
        line.waiting.push_back(ReserveWaiter { ticket: number, length, waker: None });
        ReserveTicket { pool: self.0, number }
    }
}

impl ReserveTicket<'_> {
    fn take(&self) -> Option<Lease> {
        let mut line = self.pool.reserve_line().borrow_mut();
        let index = line.given.iter().position(|(ticket, _)| *ticket == self.number)?;
        Some(line.given.swap_remove(index).1)
    }

    fn waits(&self, waker: Waker) {
        let mut line = self.pool.reserve_line().borrow_mut();
        let own = line.waiting.iter_mut().find(|waiting| waiting.ticket == self.number);
        let replaced = own.and_then(|own| own.waker.replace(waker));
        drop(line);
        drop(replaced);
    }
}

impl Drop for ReserveTicket<'_> {
    fn drop(&mut self) {
        let mut line = self.pool.reserve_line().borrow_mut();
        let place = line.waiting.iter().position(|waiting| waiting.ticket == self.number);
        let left = place.and_then(|place| line.waiting.remove(place));
        drop(line);
        // What it was given and did not take goes to the next one, and so does its turn.
        drop(self.take());
        if left.is_some() {
            self.pool.serve_reserve();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::Context;

    use super::*;
    use crate::ring::zone::UNIT;

    fn pool() -> BufferPool {
        BufferPool::with_reserve(8 << 20, 1 << 20, 8 * UNIT).unwrap()
    }

    fn poll(future: &mut Pin<&mut impl Future<Output = Lease>>) -> Option<Lease> {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(lease) => Some(lease),
            Poll::Pending => None,
        }
    }

    #[test]
    fn what_comes_back_goes_to_the_first_in_line() {
        let pool = pool();
        let free = pool.free_bytes();
        let reserve = pool.reserve();
        let small = || reserve.lend(UNIT);
        let mut held: Vec<Lease> = (0..8).map(|_| poll(&mut pin!(small())).unwrap()).collect();
        let (mut long, mut short) = (pin!(reserve.lend(4 * UNIT)), pin!(small()));
        assert!(poll(&mut long).is_none() && poll(&mut short).is_none());
        held.pop();
        assert!(poll(&mut short).is_none(), "it came later, though there is enough for it");
        held.clear();
        let long = poll(&mut long).unwrap();
        assert_eq!(long.capacity(), 4 * UNIT);
        let short = poll(&mut short).unwrap();
        assert!(poll(&mut pin!(reserve.lend(4 * UNIT))).is_none(), "the rest is in pieces");
        drop((long, short));
        assert_eq!(pool.free_bytes(), free);
    }

    #[test]
    fn who_gives_up_hands_on_what_it_was_given() {
        let pool = pool();
        let reserve = pool.reserve();
        let all = poll(&mut pin!(reserve.lend(8 * UNIT))).unwrap();
        let mut last = pin!(reserve.lend(8 * UNIT));
        {
            let (mut given, mut waits) = (pin!(reserve.lend(UNIT)), pin!(reserve.lend(8 * UNIT)));
            assert!(poll(&mut given).is_none() && poll(&mut waits).is_none());
            assert!(poll(&mut last).is_none());
            drop(all);
        }
        assert!(poll(&mut last).is_some());
    }

    #[test]
    fn the_reserve_is_nobody_elses() {
        let (with, without) = (pool(), BufferPool::new(8 << 20, 1 << 20).unwrap());
        let all = |pool: &BufferPool| std::iter::from_fn(|| pool.lend(UNIT)).collect::<Vec<_>>();
        let (first, second) = (all(&with), all(&without));
        assert_eq!(first.len(), second.len());
        assert!(poll(&mut pin!(with.reserve().lend(8 * UNIT))).is_some());
        assert_eq!(with.total_bytes(), without.total_bytes() + 8 * UNIT);
    }
}
