//! The rules every reply of a server obeys ("Structured reply types", "Error values"), applied to all that tests receive.

use std::collections::BTreeMap;

use super::handshake::Export;
use super::raw::Request;
use super::reply::{Chunk, Reply, describe};
use super::wire::*;

/// The error field holds 0 or one of eight values.
#[track_caller]
pub(crate) fn legal_error(error: u32) {
    assert!(error == 0 || LEGAL_ERRORS.contains(&error), "{error} is no NBD error value");
}

/// What a chunk must look like on its own.
#[track_caller]
pub(crate) fn chunk(chunk: &Chunk) {
    let length = chunk.payload.len();
    assert_eq!(chunk.flags & !NBD_REPLY_FLAG_DONE, 0, "only DONE is a known reply flag");
    match chunk.kind {
        NBD_REPLY_TYPE_NONE => {
            assert!(length == 0 && chunk.is_done(), "NONE has length 0 and DONE: {chunk:02x?}");
        }
        NBD_REPLY_TYPE_OFFSET_DATA => assert!(length >= 9, "OFFSET_DATA has at least 9 bytes: {chunk:02x?}"),
        NBD_REPLY_TYPE_OFFSET_HOLE => {
            assert_eq!(length, 12, "OFFSET_HOLE has 12 bytes: {chunk:02x?}");
            assert_ne!(be32(&chunk.payload, 8), 0, "a hole is not empty");
        }
        NBD_REPLY_TYPE_BLOCK_STATUS => {
            assert!(chunk.offset.is_none(), "BLOCK_STATUS is for structured replies");
            assert!(
                length >= 12 && (length - 4).is_multiple_of(8),
                "BLOCK_STATUS has 4+8n bytes, not {length}"
            );
            assert!((length - 4) / 8 <= 1 << 20, "more than 2^20 descriptors");
        }
        NBD_REPLY_TYPE_BLOCK_STATUS_EXT => {
            assert!(chunk.offset.is_some(), "BLOCK_STATUS_EXT is for extended headers");
            assert!(
                length >= 24 && (length - 8).is_multiple_of(16),
                "BLOCK_STATUS_EXT has 8+16n bytes, not {length}"
            );
            let count = be32(&chunk.payload, 4) as usize;
            assert_eq!(count, (length - 8) / 16, "the descriptor count matches the length");
            assert!(count <= 1 << 20, "more than 2^20 descriptors");
        }
        NBD_REPLY_TYPE_ERROR | NBD_REPLY_TYPE_ERROR_OFFSET => {
            error_chunk(chunk);
        }
        other => panic!("an unknown chunk type {other}: {:02x?}", super::raw::head(&chunk.payload)),
    }
}

/// Error, message, and offset of an error chunk.
#[track_caller]
pub(crate) fn error_chunk(chunk: &Chunk) -> (u32, String, Option<u64>) {
    let payload = &chunk.payload;
    let fixed = if chunk.kind == NBD_REPLY_TYPE_ERROR_OFFSET { 14 } else { 6 };
    assert!(payload.len() >= fixed, "an error chunk of {} bytes: {chunk:02x?}", payload.len());
    let error = be32(payload, 0);
    assert_ne!(error, 0, "an error chunk has an error");
    legal_error(error);
    let message = be16(payload, 4) as usize;
    assert!(message <= 4096, "an error message of {message} bytes");
    assert_eq!(message, payload.len() - fixed, "the message fills what the header leaves: {chunk:02x?}");
    let text = String::from_utf8(payload[6..6 + message].to_vec()).expect("an error message is UTF-8");
    assert!(!text.contains('\0'), "a string holds no NUL: {text:?}");
    let offset = (fixed == 14).then(|| be64(payload, 6 + message));
    (error, text, offset)
}

/// All chunks of one reply, in the order they came: puts a READ together and finds the error.
#[track_caller]
pub(crate) fn reply(request: &Request, chunks: Vec<Chunk>) -> Reply {
    let (last, rest) = chunks.split_last().expect("at least one chunk");
    assert!(
        last.is_done() && !rest.iter().any(Chunk::is_done),
        "DONE is on the last chunk only: {}",
        describe(request)
    );
    let mut reply = Reply::default();
    let mut errors: Vec<Option<u64>> = Vec::new();
    for chunk in chunks.iter().filter(|chunk| chunk.is_error()) {
        let (error, _, offset) = error_chunk(chunk);
        if let Some(offset) = offset {
            let inside = (request.offset..request.offset + request.length.max(1)).contains(&offset);
            assert!(inside, "ERROR_OFFSET {offset:#x} lies outside {}", describe(request));
            reply.error_offset = Some(offset);
        }
        reply.error = error;
        assert!(!errors.contains(&offset), "the same error twice: {}", describe(request));
        errors.push(offset);
    }
    if request.kind == NBD_CMD_READ {
        reply.data = content(request, &chunks, reply.error);
    } else {
        assert!(!chunks.iter().any(Chunk::is_content), "content in the reply to {}", describe(request));
    }
    reply.chunks = chunks;
    reply
}

/// Content chunks lie inside the request, do not overlap each other or an earlier error, and cover all on success.
#[track_caller]
fn content(request: &Request, chunks: &[Chunk], error: u32) -> Vec<u8> {
    let mut data = vec![0; request.length as usize];
    let mut covered: Vec<(u64, u64)> = Vec::new();
    let mut error_offsets: Vec<u64> = Vec::new();
    for chunk in chunks {
        if chunk.is_error() {
            error_offsets.extend(error_chunk(chunk).2);
            continue;
        }
        if !chunk.is_content() {
            assert_eq!(chunk.kind, NBD_REPLY_TYPE_NONE, "chunk type {} in the reply to a READ", chunk.kind);
            continue;
        }
        let start = be64(&chunk.payload, 0);
        let hole = chunk.kind == NBD_REPLY_TYPE_OFFSET_HOLE;
        let length = if hole { u64::from(be32(&chunk.payload, 8)) } else { chunk.payload.len() as u64 - 8 };
        let end = start.checked_add(length).expect("a chunk does not wrap");
        let inside = start >= request.offset && end <= request.offset + request.length;
        assert!(inside, "content {start:#x}..{end:#x} outside {}", describe(request));
        let overlap = covered.iter().any(|&(from, to)| start < to && from < end);
        assert!(!overlap, "content {start:#x}..{end:#x} overlaps an earlier chunk");
        // T23: content for an offset comes before the error that covers it.
        let late = error_offsets.iter().any(|offset| (start..end).contains(offset));
        assert!(!late, "content {start:#x}..{end:#x} follows an error inside it");
        covered.push((start, end));
        if !hole {
            let at = (start - request.offset) as usize;
            data[at..at + length as usize].copy_from_slice(&chunk.payload[8..]);
        }
    }
    let total: u64 = covered.iter().map(|(from, to)| to - from).sum();
    assert!(error != 0 || total == request.length, "only {total} bytes of {}", describe(request));
    if request.flags & NBD_CMD_FLAG_DF != 0 {
        assert!(covered.len() <= 1, "{} content chunks in spite of DF", covered.len());
    }
    data
}

/// The extents of each context in a successful reply to BLOCK_STATUS, checked against "NBD_REPLY_TYPE_BLOCK_STATUS".
#[track_caller]
pub(crate) fn statuses(
    request: &Request,
    chunks: &[Chunk],
    export: &Export,
) -> BTreeMap<u32, Vec<(u64, u64)>> {
    let mut contexts = BTreeMap::new();
    for chunk in chunks {
        let extents: Vec<(u64, u64)> = match chunk.kind {
            NBD_REPLY_TYPE_NONE => continue,
            NBD_REPLY_TYPE_BLOCK_STATUS => chunk.payload[4..]
                .chunks(8)
                .map(|entry| (u64::from(be32(entry, 0)), u64::from(be32(entry, 4))))
                .collect(),
            NBD_REPLY_TYPE_BLOCK_STATUS_EXT => {
                chunk.payload[8..].chunks(16).map(|entry| (be64(entry, 0), be64(entry, 8))).collect()
            }
            other => panic!("chunk type {other} in the reply to BLOCK_STATUS"),
        };
        extents_obey(request, &extents, export);
        let id = be32(&chunk.payload, 0);
        assert!(contexts.insert(id, extents).is_none(), "two status chunks for context {id}");
    }
    contexts
}

#[track_caller]
fn extents_obey(request: &Request, extents: &[(u64, u64)], export: &Export) {
    let (&(last, _), rest) = extents.split_last().expect("at least one extent");
    assert!(extents.iter().all(|&(length, _)| length != 0), "an empty extent in {extents:x?}");
    let before: u64 = rest.iter().map(|&(length, _)| length).sum();
    assert!(
        rest.is_empty() || before < request.length,
        "extents go on after the request's end: {extents:x?}"
    );
    let end = request.offset + before + last;
    assert!(end <= export.size, "extents reach {end:#x}, beyond the export's {:#x}", export.size);
    let minimum = u64::from(export.block_size.map_or(1, |sizes| sizes[0]));
    let mut at = request.offset;
    for &(length, flags) in extents {
        at += length;
        let whole = length.is_multiple_of(minimum) || at == export.size;
        assert!(whole, "an extent of {length:#x} bytes with blocks of {minimum}: {extents:x?}");
        assert_eq!(flags >> 32, 0, "status flags of base:allocation are 32 bits: {extents:x?}");
    }
    let merged = extents.windows(2).all(|pair| pair[0].1 != pair[1].1);
    assert!(merged, "adjacent extents with equal status: {extents:x?}");
    if request.flags & NBD_CMD_FLAG_REQ_ONE != 0 {
        assert_eq!(extents.len(), 1, "REQ_ONE gives one extent");
        assert!(
            last <= request.length,
            "REQ_ONE gives no more than asked: {last:#x} > {:#x}",
            request.length
        );
    }
}
