//! Bytes to requests, and replies to bytes.

use std::hint::black_box;

use ringnbd::internal::block::{BlockError, BlockSizes, Extent};
use ringnbd::internal::nbd::client::request::ClientRequest;
use ringnbd::internal::nbd::server::inbound::{Inbound, Piece};
use ringnbd::internal::nbd::server::reply::{ReplyTo, allocation_run, status_length};
use ringnbd::internal::nbd::server::request::{Cookie, Request, header_length};
use ringnbd::internal::nbd::session::{ReplyMode, Session};
use ringnbd::internal::nbd::wire::{NBD_CMD_READ, NBD_CMD_WRITE, NBD_FLAG_HAS_FLAGS, NBD_FLAG_SEND_DF};

use super::{ROUND, Workload};

const BLOCK: u64 = 4096;
/// Of the export.
pub(super) const SIZE: u64 = 64 << 20;

pub(super) fn session(reply_mode: ReplyMode) -> Session {
    Session {
        reply_mode,
        transmission_flags: NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_DF,
        size: SIZE,
        block_sizes: BlockSizes { minimum: 1, preferred: 4096, maximum: BlockSizes::MAXIMUM_PAYLOAD },
        enforce_alignment: false,
        contexts: Vec::new(),
    }
}

pub(super) fn reply_to(mode: ReplyMode) -> ReplyTo {
    ReplyTo { mode, cookie: Cookie(0x0102_0304_0506_0708), offset: 1 << 20, chunked: true }
}

/// The stream of a round: requests of so many bytes, with their payload where they have one.
pub(super) fn stream(command: u16, mode: ReplyMode, block: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in 0..u64::from(ROUND) {
        // Spread over the export like random requests, and the same each time.
        let offset = (index * 40_503 % (SIZE / block)) * block;
        ClientRequest { command, flags: 0, cookie: index, offset, length: block }.encode(mode, &mut bytes);
        if command == NBD_CMD_WRITE {
            bytes.resize(bytes.len() + block as usize, index as u8);
        }
    }
    bytes
}

fn parse(name: &'static str, command: u16, mode: ReplyMode) -> Workload {
    let session = session(mode);
    let length = header_length(mode);
    let payload = if command == NBD_CMD_WRITE { BLOCK as usize } else { 0 };
    let stream = stream(command, mode, BLOCK);
    Workload::new(name, move || {
        for bytes in stream.chunks_exact(length + payload) {
            black_box(Request::parse(black_box(&bytes[..length]), &session, false).expect("it is valid"));
        }
    })
}

/// A stream in pieces of so many bytes becomes headers and payloads.
fn inbound(name: &'static str, command: u16, mode: ReplyMode, piece: usize) -> Workload {
    let stream = stream(command, mode, BLOCK);
    let mut inbound = Inbound::new(header_length(mode));
    Workload::new(name, move || {
        for mut bytes in stream.chunks(piece) {
            while let Some(taken) = inbound.feed(black_box(&mut bytes)) {
                match taken {
                    Piece::Header(header) => {
                        black_box(header);
                        if command == NBD_CMD_WRITE {
                            inbound.expect_payload(BLOCK);
                        }
                    }
                    Piece::Payload { bytes, .. } => {
                        black_box(bytes);
                    }
                    Piece::Skipped => {}
                }
            }
        }
        assert!(inbound.is_at_boundary());
    })
}

fn replies(name: &'static str, mut reply: impl FnMut() + 'static) -> Workload {
    Workload::new(name, move || (0..ROUND).for_each(|_| reply()))
}

fn data(name: &'static str, mode: ReplyMode) -> Workload {
    let to = reply_to(mode);
    replies(name, move || {
        black_box(black_box(&to).data(1 << 20, BLOCK as u32, true));
    })
}

fn status(name: &'static str, mode: ReplyMode) -> Workload {
    let to = reply_to(mode);
    let extents: Vec<Extent> =
        (0..16).map(|index| Extent { length: 65_536, hole: index % 2 == 0, zero: index % 2 == 0 }).collect();
    let mut payload = vec![0; status_length(extents.len())];
    replies(name, move || {
        black_box(to.status(1, black_box(&extents).iter().map(allocation_run), true, &mut payload));
    })
}

pub(super) fn workloads() -> Vec<Workload> {
    use ReplyMode::{Extended, Simple, Structured};
    let to = reply_to(Structured);
    vec![
        parse("parse/read_simple", NBD_CMD_READ, Simple),
        parse("parse/read_structured", NBD_CMD_READ, Structured),
        parse("parse/read_extended", NBD_CMD_READ, Extended),
        parse("parse/write_structured", NBD_CMD_WRITE, Structured),
        parse("parse/write_extended", NBD_CMD_WRITE, Extended),
        inbound("inbound/reads", NBD_CMD_READ, Structured, 1 << 20),
        inbound("inbound/reads_extended", NBD_CMD_READ, Extended, 1 << 20),
        inbound("inbound/reads_in_pieces_of_19", NBD_CMD_READ, Structured, 19),
        inbound("inbound/writes", NBD_CMD_WRITE, Structured, 1 << 20),
        data("reply/data_simple", Simple),
        data("reply/data_structured", Structured),
        data("reply/data_extended", Extended),
        replies("reply/success_structured", move || {
            black_box(black_box(&to).success());
        }),
        replies("reply/hole", move || {
            black_box(black_box(&to).hole(1 << 20, 1 << 16, true));
        }),
        replies("reply/error", move || {
            black_box(black_box(&to).error(BlockError::Io, "input/output error", None));
        }),
        status("reply/status_of_16_extents", Structured),
        status("reply/status_of_16_extents_extended", Extended),
    ]
}
