//! The stream of requests: framing and validation, whole and in pieces, which must come to the same.
//!
//! Input: a byte for the session, a byte for the pieces, then the client's bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringnbd_proto::vocabulary::BlockSizes;
use ringnbd_proto::meta_context::MetaContext;
use ringnbd_proto::server::inbound::{Inbound, Piece};
use ringnbd_proto::server::request::{Command, Rejected, Request, header_length, parse_filter};
use ringnbd_proto::server::requests::{Event, RequestParser};
use ringnbd_proto::session::{ReplyMode, SelectedContext, Session};

fn session(kind: u8) -> Session {
    let reply_mode = [ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended][usize::from(kind % 3)];
    let context = SelectedContext { id: 1, context: MetaContext::BaseAllocation };
    let minimum = if kind & 0x08 == 0 { 1 } else { 512 };
    Session {
        reply_mode,
        // Every flag, but not the two that depend on the reply mode and not always READ_ONLY.
        transmission_flags: 0x0f7d
            | if kind & 0x10 != 0 { 2 } else { 0 }
            | (u16::from(reply_mode != ReplyMode::Simple) << 7),
        size: 1 << 20,
        block_sizes: BlockSizes { minimum, ..BlockSizes::default() },
        enforce_alignment: kind & 0x20 != 0,
        contexts: if kind & 0x40 != 0 { vec![context] } else { vec![] },
    }
}

/// What was understood, one text for each request; that of a refused one once its payload has passed.
fn run(data: &[u8], piece: usize, session: &Session) -> Vec<String> {
    let length = header_length(session.reply_mode);
    let mut inbound = Inbound::new(length);
    let mut seen = Vec::new();
    let mut payload: Vec<u8> = Vec::new();
    let (mut filtered, mut refused) = (None, None);
    for mut bytes in data.chunks(piece) {
        while let Some(taken) = inbound.feed(&mut bytes) {
            match taken {
                Piece::Skipped => seen.extend(refused.take()),
                Piece::Payload { bytes, last } => {
                    assert!(!bytes.is_empty());
                    payload.extend_from_slice(bytes);
                    if let (true, Some(offset)) = (last, filtered.take_if(|_| last)) {
                        seen.push(format!("{:?}", parse_filter(&payload, offset, session)));
                    }
                    if last {
                        payload.clear();
                    }
                }
                Piece::Header(header) => match Request::parse(&header[..length], session, false) {
                    Ok(request) => {
                        seen.push(format!("{request:?}"));
                        check(&request, header, session);
                        filtered = match request.command {
                            Command::BlockStatus { filter: Some(_), .. } => Some(request.offset),
                            _ => None,
                        };
                        inbound.expect_payload(request.payload_length().into());
                    }
                    Err(Rejected::Refusal(refusal)) => {
                        assert_eq!(refusal.cookie.0.to_be_bytes(), header[8..16]);
                        inbound.expect_discard(refusal.discard);
                        refused = Some(format!("{refusal:?}"));
                        if refusal.discard == 0 {
                            seen.extend(refused.take());
                        }
                    }
                    Err(Rejected::Violation(violation)) => {
                        seen.push(format!("{violation:?}"));
                        return seen;
                    }
                },
            }
        }
        assert!(bytes.is_empty());
    }
    seen
}

/// The same by the machine that puts framing and validation together.
fn by_parser(data: &[u8], piece: usize, session: &Session) -> Vec<String> {
    let mut parser = RequestParser::new(session.clone());
    let (mut seen, mut payload, mut filtered) = (Vec::new(), Vec::new(), None);
    for mut bytes in data.chunks(piece) {
        loop {
            match parser.feed(&mut bytes) {
                Ok(None) => break,
                Ok(Some(Event::Request(request))) => {
                    seen.push(format!("{request:?}"));
                    filtered = match request.command {
                        Command::BlockStatus { filter: Some(_), .. } => Some(request.offset),
                        _ => None,
                    };
                }
                Ok(Some(Event::Payload { bytes, last })) => {
                    payload.extend_from_slice(bytes);
                    if let (true, Some(offset)) = (last, filtered.take_if(|_| last)) {
                        seen.push(format!("{:?}", parse_filter(&payload, offset, session)));
                    }
                    if last {
                        payload.clear();
                    }
                }
                Ok(Some(Event::Refused(refusal))) => seen.push(format!("{refusal:?}")),
                Err(violation) => {
                    assert_eq!(parser.feed(&mut bytes), Err(violation), "it stays");
                    seen.push(format!("{violation:?}"));
                    return seen;
                }
            }
        }
        assert!(bytes.is_empty());
    }
    seen
}

/// A request that passed may be carried out without looking again.
fn check(request: &Request, header: &[u8], session: &Session) {
    assert_eq!(request.cookie.0.to_be_bytes(), header[8..16]);
    assert!(request.payload_length() <= BlockSizes::MAXIMUM_PAYLOAD);
    if !matches!(request.command, Command::Flush | Command::Disconnect) {
        assert!(
            request.range.is_within(session.size)
                || matches!(request.command, Command::BlockStatus { filter: Some(_), .. })
        );
    }
    if matches!(request.command, Command::Write | Command::Trim | Command::WriteZeroes) {
        assert_eq!(session.transmission_flags & 2, 0, "nothing is changed on a read-only export");
    }
}

fuzz_target!(|data: &[u8]| {
    let [kind, piece, data @ ..] = data else { return };
    let session = session(*kind);
    let whole = run(data, data.len().max(1), &session);
    let piece = usize::from(*piece) + 1;
    assert_eq!(run(data, piece, &session), whole);
    assert_eq!(by_parser(data, piece, &session), whole);
});
