//! Leases that travel to other threads and back.
//!
//! A lease belongs to its shard: it counts without locks. A [`Loan`] is a lease that nobody can count, split
//! or share, so that it may be sent anywhere, with nothing but its bytes to be reached. On its own thread it
//! becomes the lease again. A loan that is dropped elsewhere is forgotten: its memory stays lent, and so the
//! arena stays mapped. Whoever lends sees to it that loans come back.

use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::buffer::{Lease, SharedLease};

thread_local! {
    /// The calling thread. Not its [`std::thread::ThreadId`], which takes longer to ask for.
    static HERE: u64 = {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

/// Part of a lease, on its way to another thread or back.
#[derive(Debug)]
pub(crate) struct Loan {
    held: ManuallyDrop<Held>,
    /// The part of it that may be reached.
    address: *mut u8,
    length: usize,
    /// The thread of the shard.
    home: u64,
}

#[derive(Debug)]
enum Held {
    /// The only lease of its bytes.
    Own(Lease),
    /// Bytes that nobody writes.
    Shared(SharedLease),
}

// SAFETY: off its own thread nothing of the lease is touched: `held` is taken out or dropped only where
// `HERE` is `home`. The bytes are memory of the arena, which lives as long as the lease; they are reached by
// this loan alone, or are written by nobody.
unsafe impl Send for Loan {}

impl Loan {
    /// Lends part of a lease, to be written.
    pub(crate) fn own(mut lease: Lease, part: Range<usize>) -> Self {
        let bytes = lease.bytes_mut(part);
        let (address, length) = (bytes.as_mut_ptr(), bytes.len());
        Self { held: ManuallyDrop::new(Held::Own(lease)), address, length, home: HERE.with(|here| *here) }
    }

    /// Lends part of a lease, to be read.
    pub(crate) fn shared(lease: SharedLease, part: Range<usize>) -> Self {
        let bytes = lease.bytes(part);
        let (address, length) = (bytes.as_ptr().cast_mut(), bytes.len());
        Self { held: ManuallyDrop::new(Held::Shared(lease)), address, length, home: HERE.with(|here| *here) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the part lies in the lease, whose memory stays lent and mapped as long as this loan. Nobody
        // else writes it: the lease is the only one of its bytes, or it is shared, and then nobody writes
        // them at all.
        unsafe { std::slice::from_raw_parts(self.address, self.length) }
    }

    /// The bytes to write; none of a lease that is shared.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match *self.held {
            // SAFETY: as in `bytes`; the lease is the only one of these bytes, and `&mut self` makes the
            // access exclusive.
            Held::Own(_) => unsafe { std::slice::from_raw_parts_mut(self.address, self.length) },
            Held::Shared(_) => &mut [],
        }
    }

    /// Ends the loan, on the thread where it was made: the lease, if it was lent to be written.
    pub(crate) fn give_back(self) -> Option<Lease> {
        assert!(self.is_home(), "a lease belongs to its shard");
        let mut loan = ManuallyDrop::new(self);
        // SAFETY: it is taken out once, because the loan itself is not dropped, and on its own thread.
        match unsafe { ManuallyDrop::take(&mut loan.held) } {
            Held::Own(lease) => Some(lease),
            Held::Shared(lease) => {
                drop(lease);
                None
            }
        }
    }

    fn is_home(&self) -> bool {
        HERE.with(|here| *here) == self.home
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.is_home() {
            // SAFETY: it is dropped once, here, and on its own thread.
            unsafe { ManuallyDrop::drop(&mut self.held) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::BufferPool;

    #[test]
    fn a_loan_travels_and_comes_back_as_the_lease() {
        let pool = BufferPool::new(48 << 20, 32 << 20).unwrap();
        let free = pool.free_bytes();
        let mut loan = Loan::own(pool.lend(8192).unwrap(), 100..200);
        let mut loan = std::thread::spawn(move || {
            loan.bytes_mut().fill(7);
            loan
        })
        .join()
        .unwrap();
        assert_eq!(loan.bytes_mut().len(), 100);
        let lease = loan.give_back().unwrap();
        assert!(lease.bytes(100..200).iter().all(|byte| *byte == 7));
        let mut loan = Loan::shared(lease.freeze(), 0..4096);
        assert!(loan.bytes_mut().is_empty() && loan.bytes()[150] == 7);
        assert!(loan.give_back().is_none());
        drop(Loan::own(pool.lend(8192).unwrap(), 0..1));
        assert_eq!(pool.free_bytes(), free);
    }

    #[test]
    fn what_is_dropped_elsewhere_is_forgotten_and_stays_mapped() {
        let pool = BufferPool::new(48 << 20, 32 << 20).unwrap();
        let free = pool.free_bytes();
        let lost = Loan::own(pool.lend(4096).unwrap(), 0..4096);
        std::thread::spawn(move || drop(lost)).join().unwrap();
        assert_eq!(pool.free_bytes(), free - 4096);
        let mut late = Loan::own(pool.lend(4096).unwrap(), 0..4096);
        drop(pool);
        std::thread::spawn(move || late.bytes_mut().fill(1)).join().unwrap();
    }
}
