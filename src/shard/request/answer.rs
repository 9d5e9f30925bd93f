//! What comes of a request.

use crate::block::{BlockError, Extent, NumberedExtent};
use crate::ring::{Lease, Payload, SharedLease};

/// The outcome of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It is done, and has nothing to tell.
    Done,
    /// All bytes of a read.
    Data(Payload),
    /// A read in parts, from its first byte on and without gaps. A failure is what happened behind the last
    /// part.
    Parts { parts: Vec<ReadPart>, failure: Option<BlockError> },
    /// The extents of each map, under the front-end's name for it, and memory for the reply.
    Extents { found: Vec<(u32, Described)>, lease: Lease },
    /// It failed as a whole.
    Failed(BlockError),
}

/// What a map says of a range.
#[derive(Debug)]
pub(crate) enum Described {
    /// What is allocated.
    Allocation(Vec<Extent>),
    /// Numbers of the map's own.
    Numbers(Vec<NumberedExtent>),
}

/// A part of a read.
#[derive(Debug)]
pub(crate) struct ReadPart {
    /// Bytes, at least 1.
    pub(crate) length: u32,
    /// Its data from the start of a lease; none of a hole.
    pub(crate) data: Option<SharedLease>,
}

impl Answer {
    /// The answer to a request that has nothing to tell but whether it was done.
    pub(crate) fn of(result: Result<(), BlockError>) -> Self {
        result.map_or_else(Self::Failed, |()| Self::Done)
    }

    /// Why it is not all that was asked for.
    pub(crate) fn failure(&self) -> Option<BlockError> {
        match self {
            Self::Failed(error) => Some(*error),
            Self::Parts { failure, .. } => *failure,
            _ => None,
        }
    }
}
