//! A request in flight, and the rules that its reply must keep.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::error::ReplyError;
use crate::client::request::ClientRequest;
use crate::wire::*;

/// The most separate pieces of one read before the gaps between them are filled.
pub(super) const MAX_PIECES: usize = 1 << 16;
/// Errors with an offset in one reply.
pub(super) const MAX_ERROR_OFFSETS: usize = 1 << 10;

/// A request in flight and what came of its reply.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: ClientRequest,
    /// Bytes of a READ that content chunks covered, and where, unless one chunk covered them all.
    covered: u64,
    pieces: BTreeMap<u64, u64>,
    has_content: bool,
    error_offsets: BTreeSet<u64>,
    contexts: Vec<u32>,
    /// The one context that a BLOCK_STATUS asks for; all that were selected without.
    only: Option<u32>,
    /// The first error value of the reply.
    error: Option<u32>,
}

impl Pending {
    pub(super) fn new(request: ClientRequest) -> Self {
        Self {
            request,
            covered: 0,
            pieces: BTreeMap::new(),
            has_content: false,
            error_offsets: BTreeSet::new(),
            contexts: Vec::new(),
            only: None,
            error: None,
        }
    }

    /// A BLOCK_STATUS for one context.
    pub(super) fn for_context(request: ClientRequest, context: u32) -> Self {
        Self { only: Some(context), ..Self::new(request) }
    }

    /// The whole data of a simple reply.
    pub(super) fn cover_all(&mut self) {
        self.covered = self.request.length;
    }

    /// A content chunk of at least one byte: inside the request, over nothing that an earlier chunk covered,
    /// and with DF the only one.
    pub(super) fn cover(&mut self, offset: u64, length: u64) -> Result<(), ReplyError> {
        let outside = ReplyError::Outside { offset, length };
        let overlap = ReplyError::Overlap { offset, length };
        let request = &self.request;
        let end = offset.checked_add(length).ok_or(outside.clone())?;
        if offset < request.offset || end - request.offset > request.length {
            return Err(outside);
        }
        if self.has_content && request.flags & NBD_CMD_FLAG_DF != 0 {
            return Err(ReplyError::Fragmented);
        }
        self.has_content = true;
        // More bytes than the request has must overlap; after one chunk for everything this check alone
        // decides.
        if self.covered + length > request.length || self.error_offsets.range(offset..end).next().is_some() {
            return Err(overlap);
        }
        self.covered += length;
        if length < request.length {
            self.insert_piece(offset, end).ok_or(overlap)?;
        }
        if self.pieces.len() > MAX_PIECES {
            return Err(ReplyError::TooManyPieces);
        }
        Ok(())
    }

    /// Adds a piece and joins it with its neighbours; `None` when it overlaps one.
    fn insert_piece(&mut self, start: u64, end: u64) -> Option<()> {
        let before = self.pieces.range(..=start).next_back().map(|(&from, &to)| (from, to));
        let after = self.pieces.range(start..).next().map(|(&from, &to)| (from, to));
        if before.is_some_and(|(_, to)| to > start) || after.is_some_and(|(from, _)| from < end) {
            return None;
        }
        let mut joined = (start, end);
        if let Some((from, _)) = before.filter(|&(_, to)| to == start) {
            joined.0 = from;
        }
        if let Some((from, to)) = after.filter(|&(from, _)| from == end) {
            self.pieces.remove(&from);
            joined.1 = to;
        }
        self.pieces.insert(joined.0, joined.1);
        Some(())
    }

    /// An error chunk.
    pub(super) fn fail(&mut self, error: u32, kind: u16, offset: Option<u64>) -> Result<(), ReplyError> {
        self.error.get_or_insert(error);
        if let Some(offset) = offset {
            let request = &self.request;
            if offset < request.offset || offset - request.offset >= request.length {
                return Err(ReplyError::Malformed { kind, what: "has an offset outside the request" });
            }
            self.error_offsets.insert(offset);
            if self.error_offsets.len() > MAX_ERROR_OFFSETS {
                return Err(ReplyError::TooManyPieces);
            }
        }
        Ok(())
    }

    /// A status chunk of `descriptors` extents for a context: one chunk for each that was selected, one
    /// extent with REQ_ONE.
    pub(super) fn describe(
        &mut self,
        kind: u16,
        context: u32,
        descriptors: u64,
        selected: &[u32],
    ) -> Result<(), ReplyError> {
        let malformed = |what| ReplyError::Malformed { kind, what };
        if !selected.contains(&context) {
            return Err(malformed("is about a context that was not selected"));
        }
        if self.only.is_some_and(|only| only != context) {
            return Err(malformed("is about a context that was not asked for"));
        }
        if self.contexts.contains(&context) {
            return Err(malformed("is the second about its context"));
        }
        if descriptors > 1 && self.request.flags & NBD_CMD_FLAG_REQ_ONE != 0 {
            return Err(malformed("has several extents, where one was asked for"));
        }
        self.contexts.push(context);
        Ok(())
    }

    /// One extent that begins `before` bytes into the request; gives where the next begins.
    ///
    /// The lengths' alignment is not checked: a wrong one does no harm here.
    pub(super) fn extend(&self, kind: u16, before: u64, length: u64) -> Result<u64, ReplyError> {
        let malformed = |what| ReplyError::Malformed { kind, what };
        let request = &self.request;
        if length == 0 {
            return Err(malformed("has an extent of no bytes"));
        }
        // "the sum of the *length* fields of the first N-1 extents (if any) MUST be less than the requested
        // length"
        if before > 0 && before >= request.length {
            return Err(malformed("has an extent that begins after the end of the request"));
        }
        if request.flags & NBD_CMD_FLAG_REQ_ONE != 0 && length > request.length {
            return Err(malformed("has an extent longer than the request, which asked for one within it"));
        }
        let after = before.checked_add(length).filter(|after| request.offset.checked_add(*after).is_some());
        after.ok_or(malformed("has an extent that ends beyond 64 bits"))
    }

    /// The end of the reply: its error value, or nothing is missing.
    pub(super) fn finish(self, selected: &[u32]) -> Result<Option<u32>, ReplyError> {
        let asked = self.request.length;
        let contexts = if self.only.is_some() { 1 } else { selected.len() };
        match (self.error, self.request.command) {
            (Some(error), _) => Ok(Some(error)),
            (None, NBD_CMD_READ) if self.covered < asked => {
                Err(ReplyError::Incomplete { got: self.covered, asked })
            }
            (None, NBD_CMD_BLOCK_STATUS) if self.contexts.len() < contexts => {
                Err(ReplyError::MissingContext { got: self.contexts.len(), asked: contexts })
            }
            (None, _) => Ok(None),
        }
    }
}
