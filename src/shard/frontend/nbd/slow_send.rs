//! Sends that take long: what is fast for prompt clients is not always good for those that fetch their
//! replies later.
//!
//! A send of memory of ours moves all it has, waiting for room in the socket in between: one operation
//! instead of five for a long read. But nothing of it counts as progress before its end, so when it takes
//! longer than [`PROMPT`] it is ended early, and the next ones end whenever the socket is full, until one is
//! prompt again. A reply from a mapped file that is cut in two by a full socket is left where it is as long
//! as there may be room at once. After [`PROMPT`] the rest is copied into memory of ours: no error can take
//! its place any more, should it be gone when there is room at last.
//!
//! The shard looks while sends are under way, once in [`PROMPT`]. One that ends within it is looked at in
//! vain once.

use crate::ring::{MappedRange, OpKey, Payload, SendMode};
use crate::shard::frontend::nbd::outbound::{Outbound, PROMPT, Queued};

/// What a look at a connection's send shows.
#[derive(Debug)]
pub(crate) enum Slow {
    /// Nothing to wait for.
    No,
    /// It may still be prompt.
    NotYet,
    /// A send that moves everything takes long.
    Sending(OpKey),
    /// A range of a mapped file of which a part has left waits for room: no error can take the place of the
    /// rest, should it be gone then.
    Torn(MappedRange),
}

/// The connections to be looked at.
#[derive(Debug, Default)]
pub(crate) struct SlowSends {
    pub(crate) keys: Vec<u32>,
    /// The next look.
    pub(crate) timer: Option<OpKey>,
    /// It has come.
    pub(crate) is_due: bool,
}

impl SlowSends {
    /// Its operations in flight, which belong to no request.
    pub(crate) fn operations(&self) -> usize {
        usize::from(self.timer.is_some())
    }
}

impl Outbound {
    /// The send was handed to the ring.
    pub(crate) fn started(&mut self, mode: SendMode, operation: OpKey) {
        self.whole = (mode == SendMode::Whole).then_some(operation);
    }

    /// How its send goes.
    pub(crate) fn look(&mut self, now: u64) -> Slow {
        self.is_watched = false;
        if !self.is_sending() {
            return Slow::No;
        }
        if now < self.started + PROMPT.as_nanos() as u64 {
            return Slow::NotYet;
        }
        if let Some(operation) = self.whole.take() {
            return Slow::Sending(operation);
        }
        if self.pausing == 1
            && std::mem::take(&mut self.uncopied)
            && let Some(Queued { chunk, left: 1.., .. }) = self.queue.front()
            && let Payload::Mapped(mapped) = &chunk.payload
        {
            return Slow::Torn(mapped.clone());
        }
        Slow::No
    }

    /// Notes that it is looked at; whether it was already.
    pub(crate) fn note_watched(&mut self) -> bool {
        std::mem::replace(&mut self.is_watched, true)
    }
}
