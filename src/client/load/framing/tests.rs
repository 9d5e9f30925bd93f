//! Streams of the server's encoder, whole and damaged, in any pieces; the oracle is the parser that checks everything.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::block::BlockError;
use crate::nbd::client::replies::{Event, ReplyParser};
use crate::nbd::client::request::ClientRequest;
use crate::nbd::error::to_wire;
use crate::nbd::server::reply::ReplyTo;
use crate::nbd::server::request::Cookie;

const LENGTH: u64 = 1024;

/// What became of a request: its content, its error, and whether it is over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Told {
    content: BTreeMap<u64, u8>,
    error: Option<u32>,
    done: u32,
}

/// How a server may answer.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Whole,
    /// The second half first, the first half as a hole, then the end.
    Pieces,
    Fails,
    FailsHalfWay,
}

fn answers() -> impl Strategy<Value = Answer> {
    prop::sample::select(vec![Answer::Whole, Answer::Pieces, Answer::Fails, Answer::FailsHalfWay])
}

fn modes() -> impl Strategy<Value = ReplyMode> {
    prop::sample::select(vec![ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended])
}

fn request(cookie: u64, is_read: bool) -> ClientRequest {
    let command = if is_read { NBD_CMD_READ } else { NBD_CMD_WRITE };
    ClientRequest { command, flags: 0, cookie, offset: cookie * LENGTH, length: LENGTH }
}

fn push_data(stream: &mut Vec<u8>, told: &mut Told, offset: u64, length: u64) {
    for at in offset..offset + length {
        let byte = (at % 251) as u8;
        stream.push(byte);
        told.content.insert(at, byte);
    }
}

/// The bytes of one reply by the server's encoder, and what they say.
fn reply(mode: ReplyMode, request: &ClientRequest, answer: Answer) -> (Vec<u8>, Told) {
    let chunked = request.command == NBD_CMD_READ;
    let to = ReplyTo { mode, cookie: Cookie(request.cookie), offset: request.offset, chunked };
    let (offset, half) = (request.offset, LENGTH / 2);
    let mut told = Told { done: 1, ..Told::default() };
    let mut stream = Vec::new();
    let fail = |stream: &mut Vec<u8>, at| {
        let (header, text) = to.error(BlockError::NoSpace, "no room left", at);
        stream.extend_from_slice(header.as_bytes());
        stream.extend(text);
        Some(to_wire(BlockError::NoSpace))
    };
    match answer {
        Answer::Fails => told.error = fail(&mut stream, None),
        _ if !chunked => stream.extend_from_slice(to.success().as_bytes()),
        Answer::FailsHalfWay if mode != ReplyMode::Simple => {
            stream.extend_from_slice(to.data(offset, half as u32, false).as_bytes());
            push_data(&mut stream, &mut told, offset, half);
            told.error = fail(&mut stream, Some(offset + half));
        }
        Answer::Pieces if mode != ReplyMode::Simple => {
            stream.extend_from_slice(to.data(offset + half, half as u32, false).as_bytes());
            push_data(&mut stream, &mut told, offset + half, half);
            stream.extend_from_slice(to.hole(offset, half as u32, false).as_bytes());
            told.content.extend((offset..offset + half).map(|at| (at, 0)));
            stream.extend_from_slice(to.success().as_bytes());
        }
        _ => {
            stream.extend_from_slice(to.data(offset, LENGTH as u32, true).as_bytes());
            push_data(&mut stream, &mut told, offset, LENGTH);
        }
    }
    (stream, told)
}

fn by_framer(mode: ReplyMode, requests: &[ClientRequest], pieces: &[&[u8]]) -> Result<Vec<Told>, ReplyError> {
    let mut told = vec![Told::default(); requests.len()];
    let asked = |cookie: u64| {
        let request = requests.get(cookie as usize)?;
        let is_read = request.command == NBD_CMD_READ;
        Some(Asked { is_read, offset: request.offset, length: request.length })
    };
    let mut framer = Framer::new(mode);
    for mut input in pieces.iter().copied() {
        while let Some(piece) = framer.feed(&mut input, asked)? {
            match piece {
                Piece::Data { cookie, offset, bytes } => {
                    told[cookie as usize].content.extend((offset..).zip(bytes.iter().copied()));
                }
                Piece::Hole { cookie, offset, length } => {
                    told[cookie as usize].content.extend((offset..offset + length).map(|at| (at, 0)));
                }
                Piece::Failed { cookie, error } => {
                    told[cookie as usize].error.get_or_insert(error);
                }
                Piece::Done { cookie } => told[cookie as usize].done += 1,
            }
        }
        assert!(input.is_empty(), "all was taken");
    }
    Ok(told)
}

/// The oracle: the parser that keeps every request and checks everything.
fn by_parser(mode: ReplyMode, requests: &[ClientRequest], stream: &[u8]) -> Result<Vec<Told>, ReplyError> {
    let mut told = vec![Told::default(); requests.len()];
    let mut parser = ReplyParser::new(mode, Vec::new());
    requests.iter().for_each(|request| parser.expect(*request));
    let mut input = stream;
    while let Some(event) = parser.feed(&mut input)? {
        match event {
            Event::Data { cookie, offset, data } => {
                told[cookie as usize].content.extend((offset..).zip(data.iter().copied()));
            }
            Event::Hole { cookie, offset, length } => {
                told[cookie as usize].content.extend((offset..offset + length).map(|at| (at, 0)));
            }
            Event::Done { cookie, result } => {
                told[cookie as usize].done += 1;
                told[cookie as usize].error = result.err().map(to_wire);
            }
            Event::Failure { .. } | Event::Extent { .. } => {}
        }
    }
    Ok(told)
}

/// `stream` cut at those places.
fn cut<'a>(mut stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, rest) = stream.split_at((*cut).min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces.push(stream);
    pieces
}

proptest! {
    #[test]
    fn any_split_of_any_replies_tells_the_same(
        mode in modes(),
        replies in prop::collection::vec((any::<bool>(), answers()), 1..8),
        cuts in prop::collection::vec(0usize..700, 0..60),
        tiny in prop::collection::vec(0usize..9, 0..60),
    ) {
        let requests: Vec<_> =
            replies.iter().enumerate().map(|(cookie, (is_read, _))| request(cookie as u64, *is_read)).collect();
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for (request, (_, answer)) in requests.iter().zip(&replies) {
            let (bytes, told) = reply(mode, request, *answer);
            stream.extend(bytes);
            expected.push(told);
        }
        prop_assert_eq!(by_parser(mode, &requests, &stream), Ok(expected.clone()));
        for cuts in [cuts, tiny] {
            prop_assert_eq!(by_framer(mode, &requests, &cut(&stream, &cuts)), Ok(expected.clone()));
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(by_framer(mode, &requests, &bytes), Ok(expected.clone()));
    }

    /// One byte of the stream is wrong: whatever the framer accepts, the oracle accepts and understands equally, but for rules
    /// that need memory of the whole reply.
    #[test]
    fn a_damaged_stream_is_refused_or_understood_as_the_oracle_does(
        mode in modes(),
        is_read in any::<bool>(),
        answer in answers(),
        position in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let requests = [request(0, is_read)];
        let (mut stream, _) = reply(mode, &requests[0], answer);
        let position = position.index(stream.len());
        stream[position] ^= 1 << bit;
        match (by_framer(mode, &requests, &[&stream]), by_parser(mode, &requests, &stream)) {
            (Ok(told), Ok(expected)) => {
                prop_assert_eq!(told[0].done, expected[0].done);
                // The error value is told with the first error chunk, before the reply is over, and not translated.
                let has_failed = told[0].error.is_some() && (expected[0].done == 0 || expected[0].error.is_some());
                prop_assert!(told == expected || has_failed, "{told:?}, not {expected:?}");
            }
            (Err(_), Err(_)) => {}
            (Ok(told), Err(error)) => prop_assert!(
                matches!(error, ReplyError::Overlap { .. } | ReplyError::Incomplete { .. } | ReplyError::Malformed { .. }
                    | ReplyError::Length { .. } | ReplyError::Cookie(_) | ReplyError::Magic(_)),
                "{told:?}, not {error}"
            ),
            (Err(error), Ok(expected)) => prop_assert!(false, "{error}, not {expected:?}"),
        }
    }
}

#[test]
fn what_no_server_may_send_is_refused() {
    let requests = [request(0, true), request(1, false)];
    let structured = ReplyMode::Structured;
    let feed = |stream: &[u8]| by_framer(structured, &requests, &[stream]).unwrap_err();
    let chunk = |kind: u16, cookie: u64, payload: &[u8]| {
        let mut bytes = NBD_STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend([0, 1]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        bytes
    };
    let simple =
        |cookie: u64| [&NBD_SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &[0; 4], &cookie.to_be_bytes()].concat();
    assert_eq!(feed(b"garbage!"), ReplyError::Magic(0x6761_7262));
    assert_eq!(feed(&simple(7)), ReplyError::Cookie(7));
    assert_eq!(feed(&simple(0)), ReplyError::Simple(NBD_CMD_READ));
    assert_eq!(feed(&chunk(1, 1, &[0; 9])), ReplyError::Kind { kind: 1, command: NBD_CMD_WRITE });
    assert_eq!(feed(&chunk(5, 0, &[0; 12])), ReplyError::Kind { kind: 5, command: NBD_CMD_READ });
    assert_eq!(feed(&chunk(1, 0, &[0; 8])), ReplyError::Length { kind: 1, length: 8 });
    let outside = [&LENGTH.to_be_bytes()[..], &[1]].concat();
    assert_eq!(feed(&chunk(1, 0, &outside)), ReplyError::Outside { offset: LENGTH, length: 1 });
}
