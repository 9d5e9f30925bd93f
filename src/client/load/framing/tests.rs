//! Streams of the server's encoder, whole and damaged, in any pieces; the oracle reads the bytes where the
//! spec draws them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::block::BlockError;
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
        Some(RequestInFlight { is_read, offset: request.offset, length: request.length })
    };
    let mut framer = Framer::new(mode);
    for mut input in pieces.iter().copied() {
        while let Some(piece) = framer.feed(&mut input, asked)? {
            match piece {
                ReplyPiece::Data { cookie, offset, bytes } => {
                    told[cookie as usize].content.extend((offset..).zip(bytes.iter().copied()));
                }
                ReplyPiece::Hole { cookie, offset, length } => {
                    told[cookie as usize].content.extend((offset..offset + length).map(|at| (at, 0)));
                }
                ReplyPiece::Failed { cookie, error } => {
                    told[cookie as usize].error.get_or_insert(error);
                }
                ReplyPiece::Done { cookie } => told[cookie as usize].done += 1,
            }
        }
        assert!(input.is_empty(), "all was taken");
    }
    Ok(told)
}

/// A number of the stream, if it has come.
fn number(stream: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let field = stream.get(at..at + bytes)?;
    Some(field.iter().fold(0, |number, byte| number * 256 + u64::from(*byte)))
}

/// The oracle: what a stream tells, by the pictures of "Simple reply message" and the two that follow it,
/// without the code under test. Numbers are written out.
struct Oracle<'a> {
    mode: ReplyMode,
    requests: &'a [ClientRequest],
    told: Vec<Told>,
    /// Not yet read.
    stream: &'a [u8],
}

impl Oracle<'_> {
    /// Everything, or what is wrong.
    fn read(mut self) -> Result<Vec<Told>, &'static str> {
        while self.reply()?.is_some() {}
        Ok(self.told)
    }

    /// One simple reply or chunk; `None` where the stream ends within it.
    fn reply(&mut self) -> Result<Option<()>, &'static str> {
        let Some(magic) = number(self.stream, 0, 4) else { return Ok(None) };
        match (self.mode, magic) {
            (ReplyMode::Simple | ReplyMode::Structured, 0x6744_6698) => self.simple(),
            (ReplyMode::Structured, 0x668e_33ef) => self.chunk(20, 16, 4, None),
            (ReplyMode::Extended, 0x6e8a_278c) => self.chunk(32, 24, 8, Some(16)),
            _ => Err("magic"),
        }
    }

    /// Magic, 32 bits of error, 64 bits of cookie; then the data of a READ that succeeded.
    fn simple(&mut self) -> Result<Option<()>, &'static str> {
        let Some(cookie) = number(self.stream, 8, 8) else { return Ok(None) };
        let error = number(self.stream, 4, 4).expect("it stands before the cookie");
        self.stream = &self.stream[16..];
        let request = *self.requests.get(cookie as usize).ok_or("cookie")?;
        let is_read = request.command == 0;
        if is_read && self.mode == ReplyMode::Structured {
            return Err("a simple reply to READ");
        }
        if error != 0 {
            self.told[cookie as usize].error.get_or_insert(error as u32);
        } else if is_read && self.data(cookie, request.offset, request.length).is_none() {
            return Ok(None);
        }
        self.told[cookie as usize].done += 1;
        Ok(Some(()))
    }

    /// Magic, 16 bits of flags, 16 of type, 64 of cookie, with extended headers 64 of the request's offset,
    /// the length; the payload.
    fn chunk(
        &mut self,
        header: usize,
        length_at: usize,
        length_bytes: usize,
        echo_at: Option<usize>,
    ) -> Result<Option<()>, &'static str> {
        let Some(length) = number(self.stream, length_at, length_bytes) else { return Ok(None) };
        let field = |at, bytes| number(self.stream, at, bytes).expect("it stands before the length");
        let (is_last, kind, cookie) = (field(4, 2) % 2 == 1, field(6, 2), field(8, 8));
        let echo = echo_at.map(|at| field(at, 8));
        let fields = match kind {
            0 if length == 0 && is_last => 0,
            1 if length > 8 => 8,
            2 if length == 12 => 12,
            5 if echo.is_none() && (12..=4 + (8 << 20)).contains(&length) && length % 8 == 4 => 4,
            6 if echo.is_some() && (24..=8 + (16 << 20)).contains(&length) && length % 16 == 8 => 8,
            3 | 4 | 7..=0x7fff => 0,
            5 if echo.is_some() => 0,
            6 if echo.is_none() => 0,
            0x8002 if (14..=8192).contains(&length) => 6,
            0x8000.. if kind != 0x8002 && (6..=8192).contains(&length) => 6,
            _ => return Err("length"),
        };
        if self.stream.len() < header + fields {
            return Ok(None);
        }
        let (front, rest) = self.stream[header..].split_at(fields);
        self.stream = rest;
        let request = *self.requests.get(cookie as usize).ok_or("cookie")?;
        if echo.is_some_and(|echo| echo != request.offset) {
            return Err("the echoed offset");
        }
        let is_read = request.command == 0;
        let inside = |offset: u64, length: u64| {
            let (from, to) = (u128::from(offset), u128::from(offset) + u128::from(length));
            let start = u128::from(request.offset);
            length > 0 && from >= start && to <= start + u128::from(request.length)
        };
        let at = number(front, 0, 8).unwrap_or_default();
        match kind {
            0 => {}
            1 if is_read && inside(at, length - 8) => {
                if self.data(cookie, at, length - 8).is_none() {
                    return Ok(None);
                }
            }
            2 if is_read => {
                let zeroes = number(front, 8, 4).expect("twelve bytes");
                if !inside(at, zeroes) {
                    return Err("a hole outside");
                }
                self.told[cookie as usize].content.extend((at..at + zeroes).map(|at| (at, 0)));
            }
            0x8000.. => {
                let error = number(front, 0, 4).expect("six bytes");
                if error == 0 {
                    return Err("an error without a value");
                }
                self.told[cookie as usize].error.get_or_insert(error as u32);
                let text = length as usize - 6;
                if self.stream.len() < text {
                    return Ok(None);
                }
                self.stream = &self.stream[text..];
            }
            _ => return Err("type or range"),
        }
        self.told[cookie as usize].done += u32::from(is_last);
        Ok(Some(()))
    }

    /// As much of the data as there is; `None` where that is not all.
    fn data(&mut self, cookie: u64, offset: u64, length: u64) -> Option<()> {
        let here = self.stream.len().min(length as usize);
        let (bytes, rest) = self.stream.split_at(here);
        self.stream = rest;
        self.told[cookie as usize].content.extend((offset..).zip(bytes.iter().copied()));
        (here as u64 == length).then_some(())
    }
}

fn by_oracle(mode: ReplyMode, requests: &[ClientRequest], stream: &[u8]) -> Result<Vec<Told>, &'static str> {
    Oracle { mode, requests, told: vec![Told::default(); requests.len()], stream }.read()
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
        prop_assert_eq!(by_oracle(mode, &requests, &stream), Ok(expected.clone()));
        for cuts in [cuts, tiny] {
            prop_assert_eq!(by_framer(mode, &requests, &cut(&stream, &cuts)), Ok(expected.clone()));
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(by_framer(mode, &requests, &bytes), Ok(expected.clone()));
    }

    /// Bits of the stream are wrong, mostly in its first header: the framer accepts what the oracle accepts,
    /// and understands the same.
    #[test]
    fn a_damaged_stream_is_refused_or_understood_as_the_oracle_does(
        mode in modes(),
        replies in prop::collection::vec((any::<bool>(), answers()), 1..3),
        damage in prop::collection::vec((prop_oneof![0usize..50, 0usize..2200], 0u8..8), 1..4),
        cuts in prop::collection::vec(0usize..60, 0..20),
    ) {
        let requests: Vec<_> =
            replies.iter().enumerate().map(|(cookie, (is_read, _))| request(cookie as u64, *is_read)).collect();
        let mut stream = Vec::new();
        for (request, (_, answer)) in requests.iter().zip(&replies) {
            stream.extend(reply(mode, request, *answer).0);
        }
        for (position, bit) in damage {
            let position = position % stream.len();
            stream[position] ^= 1 << bit;
        }
        let expected = by_oracle(mode, &requests, &stream);
        for pieces in [vec![&stream[..]], cut(&stream, &cuts), stream.chunks(1).collect()] {
            match (by_framer(mode, &requests, &pieces), &expected) {
                (Ok(told), Ok(expected)) => prop_assert_eq!(&told, expected),
                (Err(_), Err(_)) => {}
                (told, expected) => prop_assert!(false, "{told:?}, not {expected:?}"),
            }
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
