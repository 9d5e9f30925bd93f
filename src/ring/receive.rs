//! Receive memory that all connections of a shard share: a ring of buffers provided to the kernel.
//!
//! The kernel takes a buffer only when data has arrived, so an idle connection holds none.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::sys::Mapping;

/// The only buffer group of a ring.
pub(super) const GROUP: u16 = 0;

/// The provided buffers of a ring.
#[derive(Debug, Clone)]
pub(super) struct ReceiveRing {
    inner: Rc<ReceiveCore>,
}

#[derive(Debug)]
struct ReceiveCore {
    /// `struct io_uring_buf_ring`: entries, whose first also holds the tail.
    entries: Mapping,
    memory: Mapping,
    count: u16,
    buffer_length: u32,
    tail: Cell<u16>,
    /// The next entry that a simulated kernel takes.
    #[cfg(feature = "sim")]
    head: Cell<u16>,
    /// Buffers that the kernel can take.
    available: Cell<u16>,
}

/// A filled receive buffer; it goes back to the kernel on drop.
#[derive(Debug)]
pub struct Received {
    ring: Rc<ReceiveCore>,
    buffer: u16,
    length: u32,
}

impl ReceiveRing {
    /// Maps `count` (a power of two) buffers of `buffer_length` bytes and provides them all.
    pub(super) fn new(count: u16, buffer_length: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= 1 << 14);
        let entries = Mapping::anonymous(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Mapping::anonymous(usize::from(count) * buffer_length as usize)?;
        let inner = ReceiveCore {
            entries,
            memory,
            count,
            buffer_length,
            tail: Cell::new(0),
            #[cfg(feature = "sim")]
            head: Cell::new(0),
            available: Cell::new(0),
        };
        (0..count).for_each(|buffer| inner.provide(buffer));
        Ok(Self { inner: Rc::new(inner) })
    }

    /// Address and number of entries, for registration.
    pub(super) fn registration(&self) -> (u64, u16) {
        (self.inner.entries.address() as u64, self.inner.count)
    }

    /// The buffer that the kernel took and filled with `length` bytes.
    pub(super) fn take(&self, buffer: u16, length: u32) -> Received {
        assert!(buffer < self.inner.count && length <= self.inner.buffer_length);
        self.inner.available.set(self.inner.available.get() - 1);
        Received { ring: Rc::clone(&self.inner), buffer, length }
    }

    /// Does the kernel's part: takes the next provided buffer and fills it. Returns its number and the bytes
    /// filled.
    #[cfg(feature = "sim")]
    pub(super) fn fill(&self, fill: impl FnOnce(&mut [u8]) -> usize) -> Option<(u16, u32)> {
        let head = self.inner.head.get();
        if head == self.inner.tail.get() {
            return None;
        }
        self.inner.head.set(head.wrapping_add(1));
        let slot = usize::from(head & (self.inner.count - 1));
        // SAFETY: an entry between head and tail was provided and names a whole buffer inside the mapping,
        // which is not used otherwise until it is taken as a `Received`. The memory is initialised.
        let (buffer, bytes) = unsafe {
            let entry = &*self.inner.entries.address().cast::<BufRingEntry>().add(slot);
            (entry.bid(), std::slice::from_raw_parts_mut(entry.addr() as *mut u8, entry.len() as usize))
        };
        let length = fill(bytes);
        Some((buffer, length as u32))
    }

    /// Buffers that the kernel can take.
    pub(super) fn available(&self) -> u16 {
        self.inner.available.get()
    }
}

impl ReceiveCore {
    fn provide(&self, buffer: u16) {
        let slot = self.tail.get() & (self.count - 1);
        // SAFETY: `slot` is inside the mapping of `count` entries. The kernel reads an entry only below the
        // tail, which is moved past it afterwards; until then the entry is ours. Writing single fields leaves
        // the tail, which overlays the first entry, alone.
        unsafe {
            let entry = &mut *self.entries.address().cast::<BufRingEntry>().add(usize::from(slot));
            entry.set_addr(self.memory.address().add(usize::from(buffer) * self.buffer_length as usize) as u64);
            entry.set_len(self.buffer_length);
            entry.set_bid(buffer);
        }
        self.tail.set(self.tail.get().wrapping_add(1));
        self.available.set(self.available.get() + 1);
        // SAFETY: the tail is the last 16 bits of the first entry; the mapping outlives this call, and only
        // this thread writes it.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.address().cast::<BufRingEntry>()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail.get(), Ordering::Release);
        }
    }
}

impl Received {
    pub fn bytes(&self) -> &[u8] {
        let start = usize::from(self.buffer) * self.ring.buffer_length as usize;
        // SAFETY: the buffer is inside the mapping, its bytes are initialised, and the kernel has given it up
        // until it is provided again.
        unsafe { std::slice::from_raw_parts(self.ring.memory.address().add(start), self.length as usize) }
    }
}

impl Received {
    /// The same, to be changed where they are.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let start = usize::from(self.buffer) * self.ring.buffer_length as usize;
        // SAFETY: as in `bytes`; a buffer that was taken has one holder, and `&mut self` makes the access
        // exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ring.memory.address().add(start), self.length as usize) }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.ring.provide(self.buffer);
    }
}
