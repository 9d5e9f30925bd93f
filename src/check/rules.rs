//! What each reply has to obey, as functions of what was received.

use std::collections::BTreeMap;

use super::wire::{ProbeRequest, be16, be32, be64};
use crate::nbd::wire::*;

/// The error values that a reply may have ("Error values").
const LEGAL_ERRORS: [u32; 8] =
    [NBD_EPERM, NBD_EIO, NBD_ENOMEM, NBD_EINVAL, NBD_ENOSPC, NBD_EOVERFLOW, NBD_ENOTSUP, NBD_ESHUTDOWN];

/// Why a reply breaks a rule.
pub(super) type Broken = String;

/// A structured or extended reply chunk.
#[derive(Debug, Clone)]
pub(super) struct ProbeChunk {
    pub(super) flags: u16,
    pub(super) kind: u16,
    pub(super) cookie: u64,
    /// The request's offset, which an extended chunk repeats.
    pub(super) echo: Option<u64>,
    pub(super) payload: Vec<u8>,
}

impl ProbeChunk {
    pub(super) fn is_done(&self) -> bool {
        self.flags & NBD_REPLY_FLAG_DONE != 0
    }

    pub(super) fn is_error(&self) -> bool {
        self.kind & NBD_REPLY_TYPE_FLAG_ERROR != 0
    }

    pub(super) fn is_content(&self) -> bool {
        matches!(self.kind, NBD_REPLY_TYPE_OFFSET_DATA | NBD_REPLY_TYPE_OFFSET_HOLE)
    }
}

/// The whole answer to a request.
#[derive(Debug, Clone, Default)]
pub(super) struct ProbeReply {
    /// 0, or an error value.
    pub(super) error: u32,
    /// What a READ gave.
    pub(super) data: Vec<u8>,
    /// As they came; none of a simple reply.
    pub(super) chunks: Vec<ProbeChunk>,
}

/// The text when `holds` is false.
pub(super) fn rule(holds: bool, broken: impl FnOnce() -> Broken) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(broken()) }
}

pub(super) fn legal_error(error: u32) -> Result<(), Broken> {
    rule(error == 0 || LEGAL_ERRORS.contains(&error), || format!("{error} is no error value of NBD"))
}

/// What a chunk must look like on its own ("Structured reply types").
pub(super) fn chunk_obeys(chunk: &ProbeChunk) -> Result<(), Broken> {
    let (kind, length) = (chunk.kind, chunk.payload.len());
    rule(chunk.flags & !NBD_REPLY_FLAG_DONE == 0, || {
        format!("a chunk has the reply flags {:#x}; only DONE (1) is known", chunk.flags)
    })?;
    let shape = |holds: bool, wanted: &str| {
        rule(holds, || format!("a chunk of type {kind} has {length} bytes; it must have {wanted}"))
    };
    match kind {
        NBD_REPLY_TYPE_NONE => {
            shape(length == 0, "none")?;
            rule(chunk.is_done(), || "a chunk of type NONE must have the flag DONE".into())
        }
        NBD_REPLY_TYPE_OFFSET_DATA => shape(length >= 9, "at least 9"),
        NBD_REPLY_TYPE_OFFSET_HOLE => {
            shape(length == 12, "12")?;
            rule(be32(&chunk.payload, 8) != 0, || "an OFFSET_HOLE of no bytes".into())
        }
        NBD_REPLY_TYPE_BLOCK_STATUS => {
            rule(chunk.echo.is_none(), || "BLOCK_STATUS (5) is not for extended headers".into())?;
            shape(length >= 12 && (length - 4).is_multiple_of(8), "4+8n")?;
            shape((length - 4) / 8 <= NBD_MAX_STATUS_DESCRIPTORS, "at most 2^20 descriptors")
        }
        NBD_REPLY_TYPE_BLOCK_STATUS_EXT => {
            rule(chunk.echo.is_some(), || "BLOCK_STATUS_EXT (6) is for extended headers only".into())?;
            shape(length >= 24 && (length - 8).is_multiple_of(16), "8+16n")?;
            let count = be32(&chunk.payload, 4) as usize;
            rule(count == (length - 8) / 16, || {
                format!("a status chunk of {length} bytes says that it has {count} descriptors")
            })
        }
        _ if chunk.is_error() => error_of(chunk).map(drop),
        _ => Err(format!("a chunk of the unknown type {kind}")),
    }
}

/// Error, text and offset of an error chunk.
pub(super) fn error_of(chunk: &ProbeChunk) -> Result<(u32, String, Option<u64>), Broken> {
    let payload = &chunk.payload;
    let is_located = chunk.kind == NBD_REPLY_TYPE_ERROR_OFFSET;
    let fixed = if is_located { 14 } else { 6 };
    rule(payload.len() >= fixed, || {
        format!("an error chunk of {} bytes; it has at least {fixed}", payload.len())
    })?;
    let error = be32(payload, 0);
    rule(error != 0, || "an error chunk with the error 0".into())?;
    legal_error(error)?;
    let text_length = usize::from(be16(payload, 4));
    rule(text_length <= NBD_MAX_STRING, || format!("an error text of {text_length} bytes"))?;
    rule(text_length == payload.len() - fixed, || {
        format!(
            "an error chunk of {} bytes says that its text has {text_length}: {fixed} and that are not the same",
            payload.len()
        )
    })?;
    let text = std::str::from_utf8(&payload[6..6 + text_length])
        .map_err(|_| "an error text is not UTF-8".to_owned())?;
    rule(!text.contains('\0'), || "an error text has a NUL".into())?;
    Ok((error, text.to_owned(), is_located.then(|| be64(payload, 6 + text_length))))
}

/// All chunks of a reply, in the order they came: the error, and a READ's data put together.
pub(super) fn assemble(request: &ProbeRequest, chunks: Vec<ProbeChunk>) -> Result<ProbeReply, Broken> {
    let mut reply = ProbeReply::default();
    for chunk in chunks.iter().filter(|chunk| chunk.is_error()) {
        let (error, _, offset) = error_of(chunk)?;
        if reply.error == 0 {
            reply.error = error;
        }
        let end = request.offset.saturating_add(request.length);
        rule(offset.is_none_or(|at| at >= request.offset && at < end.max(request.offset + 1)), || {
            format!("the error offset {:#x} is outside of {request}", offset.unwrap_or(0))
        })?;
    }
    if request.command == NBD_CMD_READ {
        reply.data = content(request, &chunks, reply.error)?;
    } else {
        let stray = chunks.iter().find(|chunk| chunk.is_content());
        rule(stray.is_none(), || format!("content in the reply to {request}"))?;
    }
    if request.command != NBD_CMD_BLOCK_STATUS {
        let is_status = |chunk: &&ProbeChunk| {
            matches!(chunk.kind, NBD_REPLY_TYPE_BLOCK_STATUS | NBD_REPLY_TYPE_BLOCK_STATUS_EXT)
        };
        rule(!chunks.iter().any(|chunk| is_status(&chunk)), || {
            format!("a status in the reply to {request}")
        })?;
    }
    reply.chunks = chunks;
    Ok(reply)
}

/// Content is inside of the request, comes once and before an error in it, and is complete on success.
fn content(request: &ProbeRequest, chunks: &[ProbeChunk], error: u32) -> Result<Vec<u8>, Broken> {
    let mut data = vec![0; request.length as usize];
    let mut covered: BTreeMap<u64, u64> = BTreeMap::new();
    let mut errors: Vec<u64> = Vec::new();
    let mut total = 0;
    for chunk in chunks {
        if chunk.is_error() {
            errors.extend(error_of(chunk)?.2);
        }
        if !chunk.is_content() {
            continue;
        }
        let start = be64(&chunk.payload, 0);
        let is_hole = chunk.kind == NBD_REPLY_TYPE_OFFSET_HOLE;
        let length =
            if is_hole { u64::from(be32(&chunk.payload, 8)) } else { chunk.payload.len() as u64 - 8 };
        let end = start.saturating_add(length);
        rule(start >= request.offset && end <= request.offset + request.length, || {
            format!("content {start:#x}..{end:#x} is outside of {request}")
        })?;
        let overlaps = covered.range(..end).next_back().is_some_and(|(_, &to)| to > start);
        rule(!overlaps, || format!("content {start:#x}..{end:#x} comes twice"))?;
        rule(!errors.iter().any(|at| (start..end).contains(at)), || {
            format!("content {start:#x}..{end:#x} comes after an error in it")
        })?;
        covered.insert(start, end);
        total += length;
        if !is_hole {
            let at = (start - request.offset) as usize;
            data[at..at + length as usize].copy_from_slice(&chunk.payload[8..]);
        }
    }
    rule(error != 0 || total == request.length, || {
        format!("{request} succeeds with {total:#x} bytes of data")
    })?;
    rule(request.flags & NBD_CMD_FLAG_DF == 0 || covered.len() <= 1, || {
        format!("{} content chunks in spite of the flag DF", covered.len())
    })?;
    Ok(data)
}

/// The extents of each context in a reply to BLOCK_STATUS, as length and flags.
pub(super) type Statuses = BTreeMap<u32, Vec<(u64, u64)>>;

/// Takes the status chunks apart, and checks them against what was asked.
pub(super) fn statuses(
    asked: &ProbeRequest,
    chunks: &[ProbeChunk],
    size: u64,
    minimum: u64,
) -> Result<Statuses, Broken> {
    let mut contexts = Statuses::new();
    for chunk in chunks {
        let payload = &chunk.payload;
        let extents: Vec<(u64, u64)> = match chunk.kind {
            NBD_REPLY_TYPE_BLOCK_STATUS => (4..payload.len())
                .step_by(8)
                .map(|at| (u64::from(be32(payload, at)), u64::from(be32(payload, at + 4))))
                .collect(),
            NBD_REPLY_TYPE_BLOCK_STATUS_EXT => {
                (8..payload.len()).step_by(16).map(|at| (be64(payload, at), be64(payload, at + 8))).collect()
            }
            _ => continue,
        };
        extents_obey(asked, &extents, size, minimum)?;
        let id = be32(payload, 0);
        rule(contexts.insert(id, extents).is_none(), || format!("two status chunks for the context {id}"))?;
    }
    Ok(contexts)
}

fn extents_obey(asked: &ProbeRequest, extents: &[(u64, u64)], size: u64, minimum: u64) -> Result<(), Broken> {
    let mut at = asked.offset;
    for (index, &(length, _)) in extents.iter().enumerate() {
        rule(length != 0, || format!("extent {index} has no bytes"))?;
        rule(index == 0 || at < asked.offset + asked.length, || {
            format!("extent {index} begins at {at:#x}, behind the end of {asked}")
        })?;
        at = at.saturating_add(length);
        rule(at <= size, || format!("extent {index} ends at {at:#x}; the export has {size:#x} bytes"))?;
        rule(length.is_multiple_of(minimum) || at == size, || {
            format!("extent {index} has {length:#x} bytes, no multiple of the minimum block size {minimum}")
        })?;
    }
    if asked.flags & NBD_CMD_FLAG_REQ_ONE != 0 {
        rule(extents.len() == 1, || format!("{} extents in spite of the flag REQ_ONE", extents.len()))?;
        rule(extents[0].0 <= asked.length, || {
            format!("REQ_ONE: an extent of {:#x} bytes is longer than {asked}", extents[0].0)
        })?;
    }
    Ok(())
}
