//! Spare send batches, small and large: thousands of connections that send little then cost little.

use crate::nbd::server::reply::LONGEST_HEADER;
use crate::ring::SendBatch;

/// Chunks of a small batch, which is all that most connections need.
const SMALL_CHUNKS: usize = 8;
const SMALL_PIECES: usize = SMALL_CHUNKS * SendBatch::PIECES_PER_CHUNK;

/// Spare batches of a shard.
// An operation holds one behind a pointer: they are boxed once, not for each send.
#[allow(clippy::vec_box)]
#[derive(Debug)]
pub(crate) struct Batches {
    small: Vec<Box<SendBatch>>,
    large: Vec<Box<SendBatch>>,
    pieces_per_send: usize,
}

impl Batches {
    /// None yet; they are made as they are needed.
    pub(crate) fn new(pieces_per_send: usize) -> Self {
        Self { small: Vec::new(), large: Vec::new(), pieces_per_send }
    }

    /// A batch with room for `chunks` chunks, or for as many as one send can take.
    pub(crate) fn take(&mut self, chunks: usize) -> Box<SendBatch> {
        let (spare, pieces) = match chunks > SMALL_CHUNKS {
            true => (&mut self.large, self.pieces_per_send),
            false => (&mut self.small, SMALL_PIECES.min(self.pieces_per_send)),
        };
        let fresh = || Box::new(SendBatch::with_capacity(pieces, pieces * LONGEST_HEADER / 2));
        spare.pop().unwrap_or_else(fresh)
    }

    /// Gives back a batch that is empty.
    pub(crate) fn give(&mut self, batch: Box<SendBatch>) {
        debug_assert!(batch.is_empty());
        if batch.room() > SMALL_PIECES { self.large.push(batch) } else { self.small.push(batch) }
    }

    /// Makes room for another chunk in a batch that has none; false when it is as large as one can be.
    pub(crate) fn grow(&mut self, batch: &mut Box<SendBatch>) -> bool {
        let is_large = batch.chunks() > SMALL_CHUNKS || self.pieces_per_send <= SMALL_PIECES;
        if batch.is_full() || is_large {
            return false;
        }
        let mut large = self.take(usize::MAX);
        large.append(batch);
        self.give(std::mem::replace(batch, large));
        batch.has_room_for_chunk(LONGEST_HEADER)
    }
}
