//! Replies in the stream of a connection under load: the lean brother of [`crate::nbd::chunks`].
//!
//! It keeps nothing per request and copies nothing but a header that a receive cut in two. What a reply may say is checked against
//! the request that its cookie names, so that a broken server ends the run rather than skews it; that each byte of a READ is
//! there exactly once is checked by the sum of the lengths only.

use super::reply_head::{Body, Head, LONGEST_HEAD, Parsed, parse_head};
use crate::nbd::chunks::ReplyError;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

/// What a reply may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// A READ; else a WRITE.
    pub(super) is_read: bool,
    /// Bytes from the start of the export.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) length: u64,
}

/// What the stream brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Bytes of a READ; a chunk may come as several pieces.
    Data { cookie: u64, offset: u64, bytes: &'a [u8] },
    /// Zeroes of a READ.
    Hole { cookie: u64, offset: u64, length: u64 },
    /// The request failed with that error value; the end of its reply still follows.
    Failed { cookie: u64, error: u32 },
    /// The reply is complete.
    Done { cookie: u64 },
}

/// Where a connection's stream stands.
#[derive(Debug)]
pub(super) struct Framer {
    mode: ReplyMode,
    state: State,
    /// The beginning of a header whose rest has not come.
    stash: [u8; LONGEST_HEAD],
    stashed: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Head,
    Data {
        cookie: u64,
        offset: u64,
        left: u64,
        is_last: bool,
    },
    /// The text of an error chunk.
    Skip {
        cookie: u64,
        left: u64,
        is_last: bool,
    },
    Done(u64),
}

impl Framer {
    pub(super) fn new(mode: ReplyMode) -> Self {
        Self { mode, state: State::Head, stash: [0; LONGEST_HEAD], stashed: 0 }
    }

    /// Takes bytes off the front of `input` up to the next piece. `None`: all was taken, feed more. `asked` gives the request in
    /// flight that has a cookie.
    ///
    /// # Errors
    /// [`ReplyError`]: the server broke the protocol.
    #[inline]
    pub(super) fn feed<'a>(
        &mut self,
        input: &mut &'a [u8],
        asked: impl Fn(u64) -> Option<Asked>,
    ) -> Result<Option<Piece<'a>>, ReplyError> {
        loop {
            match self.state {
                State::Head => {
                    let Some(head) = self.head(input)? else { return Ok(None) };
                    let request = asked(head.cookie).ok_or(ReplyError::Cookie(head.cookie))?;
                    if let Some(piece) = self.begin(head, request)? {
                        return Ok(Some(piece));
                    }
                }
                State::Data { cookie, offset, left, is_last } => {
                    let taken = left.min(input.len() as u64);
                    if taken == 0 {
                        return Ok(None);
                    }
                    let (bytes, rest) = input.split_at(taken as usize);
                    *input = rest;
                    self.state = if taken == left {
                        after(cookie, is_last)
                    } else {
                        State::Data { cookie, offset: offset + taken, left: left - taken, is_last }
                    };
                    return Ok(Some(Piece::Data { cookie, offset, bytes }));
                }
                State::Skip { cookie, left, is_last } => {
                    let taken = left.min(input.len() as u64);
                    *input = &input[taken as usize..];
                    if taken < left {
                        self.state = State::Skip { cookie, left: left - taken, is_last };
                        return Ok(None);
                    }
                    self.state = after(cookie, is_last);
                }
                State::Done(cookie) => {
                    self.state = State::Head;
                    return Ok(Some(Piece::Done { cookie }));
                }
            }
        }
    }

    /// The next header, once it is complete.
    #[inline]
    fn head(&mut self, input: &mut &[u8]) -> Result<Option<Head>, ReplyError> {
        if self.stashed == 0
            && let Parsed::Head(head, length) = parse_head(self.mode, input)?
        {
            *input = &input[length..];
            return Ok(Some(head));
        }
        self.stashed_head(input)
    }

    /// The same for a header that comes in parts.
    #[cold]
    fn stashed_head(&mut self, input: &mut &[u8]) -> Result<Option<Head>, ReplyError> {
        loop {
            match parse_head(self.mode, &self.stash[..self.stashed])? {
                Parsed::Head(head, _) => {
                    self.stashed = 0;
                    return Ok(Some(head));
                }
                Parsed::Need(length) => {
                    let taken = (length - self.stashed).min(input.len());
                    if taken == 0 {
                        return Ok(None);
                    }
                    self.stash[self.stashed..][..taken].copy_from_slice(&input[..taken]);
                    self.stashed += taken;
                    *input = &input[taken..];
                }
            }
        }
    }

    /// What a header means for the request it answers.
    #[inline]
    fn begin(&mut self, head: Head, request: Asked) -> Result<Option<Piece<'static>>, ReplyError> {
        let Head { cookie, echoed, is_last, body } = head;
        if let Some(got) = echoed.filter(|offset| *offset != request.offset) {
            return Err(ReplyError::Offset { got, asked: request.offset });
        }
        let command = if request.is_read { NBD_CMD_READ } else { NBD_CMD_WRITE };
        self.state = after(cookie, is_last);
        match body {
            // "MUST NOT use a simple reply for `NBD_CMD_READ`" once structured replies are in force.
            Body::Simple(_) if request.is_read && self.mode == ReplyMode::Structured => {
                Err(ReplyError::Simple(command))
            }
            Body::Simple(0) if request.is_read => {
                let Asked { offset, length: left, .. } = request;
                self.state = State::Data { cookie, offset, left, is_last };
                Ok(None)
            }
            Body::Simple(0) | Body::Nothing => Ok(None),
            Body::Simple(error) => Ok(Some(Piece::Failed { cookie, error })),
            Body::Data { at: offset, length: left } if request.is_read => {
                check_range(request, offset, left)?;
                self.state = State::Data { cookie, offset, left, is_last };
                Ok(None)
            }
            Body::Hole { at: offset, length } if request.is_read => {
                check_range(request, offset, length)?;
                Ok(Some(Piece::Hole { cookie, offset, length }))
            }
            Body::Error { error: 0, .. } => {
                Err(ReplyError::Malformed { kind: NBD_REPLY_TYPE_ERROR, what: "has no error value" })
            }
            Body::Error { error, left } => {
                self.state = State::Skip { cookie, left, is_last };
                Ok(Some(Piece::Failed { cookie, error }))
            }
            Body::Data { .. } => Err(ReplyError::Kind { kind: NBD_REPLY_TYPE_OFFSET_DATA, command }),
            Body::Hole { .. } => Err(ReplyError::Kind { kind: NBD_REPLY_TYPE_OFFSET_HOLE, command }),
            Body::Unknown(kind) => Err(ReplyError::Kind { kind, command }),
        }
    }
}

fn after(cookie: u64, is_last: bool) -> State {
    if is_last { State::Done(cookie) } else { State::Head }
}

fn check_range(request: Asked, offset: u64, length: u64) -> Result<(), ReplyError> {
    let end = offset.checked_add(length);
    let is_inside = length > 0
        && offset >= request.offset
        && end.is_some_and(|end| end - request.offset <= request.length);
    if is_inside { Ok(()) } else { Err(ReplyError::Outside { offset, length }) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::block::BlockError;
    use crate::nbd::chunks::{Event, ReplyParser};
    use crate::nbd::client_request::ClientRequest;
    use crate::nbd::error::to_wire;
    use crate::nbd::reply::ReplyTo;
    use crate::nbd::request::Cookie;

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

    fn by_framer(
        mode: ReplyMode,
        requests: &[ClientRequest],
        pieces: &[&[u8]],
    ) -> Result<Vec<Told>, ReplyError> {
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
    fn by_parser(
        mode: ReplyMode,
        requests: &[ClientRequest],
        stream: &[u8],
    ) -> Result<Vec<Told>, ReplyError> {
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
        let simple = |cookie: u64| {
            [&NBD_SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &[0; 4], &cookie.to_be_bytes()].concat()
        };
        assert_eq!(feed(b"garbage!"), ReplyError::Magic(0x6761_7262));
        assert_eq!(feed(&simple(7)), ReplyError::Cookie(7));
        assert_eq!(feed(&simple(0)), ReplyError::Simple(NBD_CMD_READ));
        assert_eq!(feed(&chunk(1, 1, &[0; 9])), ReplyError::Kind { kind: 1, command: NBD_CMD_WRITE });
        assert_eq!(feed(&chunk(5, 0, &[0; 12])), ReplyError::Kind { kind: 5, command: NBD_CMD_READ });
        assert_eq!(feed(&chunk(1, 0, &[0; 8])), ReplyError::Length { kind: 1, length: 8 });
        let outside = [&LENGTH.to_be_bytes()[..], &[1]].concat();
        assert_eq!(feed(&chunk(1, 0, &outside)), ReplyError::Outside { offset: LENGTH, length: 1 });
    }
}
