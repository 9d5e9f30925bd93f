//! The requests of one connection that are in flight.

use super::framing::RequestInFlight;
use super::plan::LoadKind;

/// A request in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestSlot {
    /// Told apart from earlier uses of the slot: the upper half of the cookie.
    use_number: u32,
    pub(super) in_flight: bool,
    pub(super) kind: LoadKind,
    /// Of the working area.
    pub(super) block: u64,
    /// Bytes from the start of the export.
    pub(super) offset: u64,
    /// When it started or should have: nanoseconds.
    pub(super) start: u64,
    /// Bytes of content so far.
    pub(super) covered: u64,
    /// The first error value of its reply, or 0.
    pub(super) error: u32,
    /// When content is verified: which generation is written, or must be read.
    pub(super) generation: u32,
}

/// As many slots as the connection is deep.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<RequestSlot>,
    free: Vec<u32>,
    length: u64,
}

impl Slots {
    /// `depth` slots for requests of `length` bytes.
    pub(super) fn new(depth: usize, length: u32) -> Self {
        let unused = RequestSlot {
            use_number: 0,
            in_flight: false,
            kind: LoadKind::Read,
            block: 0,
            offset: 0,
            start: 0,
            covered: 0,
            error: 0,
            generation: 0,
        };
        Self { slots: vec![unused; depth], free: (0..depth as u32).rev().collect(), length: length.into() }
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a free slot; gives its index and the request's cookie.
    #[inline]
    pub(super) fn take(&mut self, kind: LoadKind, block: u64, offset: u64, start: u64) -> (u32, u64) {
        let index = self.free.pop().expect("the caller saw a free slot");
        let slot = &mut self.slots[index as usize];
        let use_number = slot.use_number.wrapping_add(1);
        *slot = RequestSlot {
            use_number,
            in_flight: true,
            kind,
            block,
            offset,
            start,
            covered: 0,
            error: 0,
            generation: 0,
        };
        (index, u64::from(use_number) << 32 | u64::from(index))
    }

    /// The request in flight that has a cookie, as its reply sees it.
    #[inline]
    pub(super) fn asked(&self, cookie: u64) -> Option<RequestInFlight> {
        let slot = self.slots.get(cookie as u32 as usize)?;
        let is_it = slot.in_flight && slot.use_number == (cookie >> 32) as u32;
        is_it.then_some(RequestInFlight {
            is_read: slot.kind == LoadKind::Read,
            offset: slot.offset,
            length: self.length,
        })
    }

    /// By the lower half of a cookie that [`Slots::asked`] knows.
    #[inline]
    pub(super) fn get_mut(&mut self, cookie: u64) -> &mut RequestSlot {
        &mut self.slots[cookie as u32 as usize]
    }

    /// Frees a slot; gives what it held.
    #[inline]
    pub(super) fn release(&mut self, cookie: u64) -> RequestSlot {
        let index = cookie as u32;
        let slot = &mut self.slots[index as usize];
        slot.in_flight = false;
        self.free.push(index);
        *slot
    }
}
