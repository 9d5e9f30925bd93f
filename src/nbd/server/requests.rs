//! A client's requests off its stream: framing and validation as one machine.
//!
//! [`RequestParser`] is an [`Inbound`] whose headers go through [`Request::parse`]. A server that receives
//! payloads straight to where they belong, or keeps the session elsewhere, uses the two by themselves.

use super::inbound::{Inbound, Piece};
use super::request::{Refusal, Rejected, Request, Violation, header_length};
use crate::session::Session;

/// What the stream brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A request that keeps every rule. Its payload, if [`Request::payload_length`] is not 0, follows as
    /// [`Event::Payload`].
    Request(Request),
    /// Bytes of the payload of the request before.
    Payload {
        /// Never empty; a payload may come as several events.
        bytes: &'a [u8],
        /// Nothing more of this payload follows.
        last: bool,
    },
    /// A request to be answered with an error now: its payload has passed by.
    Refused(Refusal),
}

/// The requests of one connection.
#[derive(Debug)]
pub struct RequestParser {
    session: Session,
    inbound: Inbound,
    shutting_down: bool,
    /// Its payload is passing by.
    refused: Option<Refusal>,
    violation: Option<Violation>,
}

impl RequestParser {
    /// A parser for a connection whose handshake came to that session.
    pub fn new(session: Session) -> Self {
        let inbound = Inbound::new(header_length(session.reply_mode));
        Self { session, inbound, shutting_down: false, refused: None, violation: None }
    }

    /// What the handshake fixed.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Sets whether every request but DISC is refused ("Terminating the transmission phase").
    pub fn set_shutting_down(&mut self, shutting_down: bool) {
        self.shutting_down = shutting_down;
    }

    /// Whether the stream is between requests: an end here is a clean one.
    pub fn is_at_boundary(&self) -> bool {
        self.inbound.is_at_boundary()
    }

    /// Takes bytes off the front of `input` up to the next event. `None`: all was taken, feed more.
    ///
    /// What follows a request to disconnect has no meaning.
    ///
    /// # Errors
    /// [`Violation`]: the stream cannot be trusted, close the connection.
    pub fn feed<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Violation> {
        if let Some(violation) = self.violation {
            return Err(violation);
        }
        loop {
            let parsed = match self.inbound.feed(input) {
                None => return Ok(None),
                Some(Piece::Payload { bytes, last }) => return Ok(Some(Event::Payload { bytes, last })),
                Some(Piece::Skipped) => return Ok(self.refused.take().map(Event::Refused)),
                Some(Piece::Header(header)) => Request::parse(header, &self.session, self.shutting_down),
            };
            match parsed {
                Ok(request) => {
                    self.inbound.expect_payload(request.payload_length().into());
                    return Ok(Some(Event::Request(request)));
                }
                Err(Rejected::Refusal(refusal)) if refusal.discard == 0 => {
                    return Ok(Some(Event::Refused(refusal)));
                }
                Err(Rejected::Refusal(refusal)) => {
                    self.inbound.expect_discard(refusal.discard);
                    self.refused = Some(refusal);
                }
                Err(Rejected::Violation(violation)) => {
                    self.violation = Some(violation);
                    return Err(violation);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;
    use crate::session::ReplyMode;
    use crate::vocabulary::BlockSizes;

    /// 1 MiB, extended headers, no context.
    fn session() -> Session {
        Session {
            reply_mode: ReplyMode::Extended,
            transmission_flags: 1,
            size: 1 << 20,
            block_sizes: BlockSizes::default(),
            enforce_alignment: false,
            contexts: vec![],
        }
    }

    /// An extended header, byte by byte.
    fn header(flags: u16, command: u16, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
        let numbers = [cookie, offset, length].map(u64::to_be_bytes).concat();
        [&[0x21, 0xe4, 0x1c, 0x71][..], &flags.to_be_bytes(), &command.to_be_bytes(), &numbers].concat()
    }

    /// READ; WRITE of "abc"; WRITE beyond the end, whose payload must not be taken for a request; a command
    /// that does not exist.
    fn stream() -> Vec<u8> {
        let beyond = header(0x20, 1, 3, 1 << 20, 64);
        [
            header(0, 0, 1, 4096, 512),
            header(0x20, 1, 2, 0, 3),
            b"abc".to_vec(),
            beyond,
            header(0, 3, 99, 0, 0),
            header(0, 3, 99, 0, 0),
            header(0, 77, 4, 0, 0),
        ]
        .concat()
    }

    fn told(parser: &mut RequestParser, bytes: &[u8], step: usize) -> Result<Vec<String>, Violation> {
        let (mut told, mut payload) = (Vec::new(), Vec::new());
        for mut piece in bytes.chunks(step) {
            while let Some(event) = parser.feed(&mut piece)? {
                match event {
                    Event::Request(request) => {
                        told.push(format!("{}: {:?}", request.cookie.0, request.command))
                    }
                    Event::Refused(refusal) => {
                        told.push(format!(
                            "{}: {:?} after {}",
                            refusal.cookie.0, refusal.error, refusal.discard
                        ));
                    }
                    Event::Payload { bytes, last } => {
                        payload.extend_from_slice(bytes);
                        if last {
                            told.push(String::from_utf8(core::mem::take(&mut payload)).unwrap());
                        }
                    }
                }
            }
            assert!(piece.is_empty(), "None means that all was taken");
        }
        Ok(told)
    }

    #[test]
    fn any_split_gives_the_same_events() {
        let expected = [
            "1: Read { dont_fragment: false }",
            "2: Write",
            "abc",
            "3: NoSpace after 64",
            "4: Invalid after 0",
        ];
        let stream = stream();
        for step in 1..=stream.len() {
            let mut parser = RequestParser::new(session());
            assert_eq!(told(&mut parser, &stream, step).unwrap(), expected, "in pieces of {step}");
            assert!(parser.is_at_boundary());
        }
    }

    #[test]
    fn a_refusal_waits_for_the_end_of_its_payload() {
        let mut parser = RequestParser::new(session());
        let refused = [header(0x20, 1, 3, 1 << 20, 64), vec![0; 63]].concat();
        assert_eq!(told(&mut parser, &refused, 1000).unwrap(), [""; 0]);
        assert!(!parser.is_at_boundary());
        assert_eq!(told(&mut parser, &[0], 1).unwrap(), ["3: NoSpace after 64"]);
    }

    #[test]
    fn a_violation_stays() {
        let mut parser = RequestParser::new(session());
        let compact = [vec![0x25, 0x60, 0x95, 0x13], vec![0; 28]].concat();
        for bytes in [compact, header(0, 3, 1, 0, 0)] {
            assert_eq!(told(&mut parser, &bytes, 5), Err(Violation::Magic(0x2560_9513)));
        }
    }

    #[test]
    fn a_server_that_stops_refuses_all_but_the_end() {
        let mut parser = RequestParser::new(session());
        parser.set_shutting_down(true);
        let bytes = [header(0, 0, 1, 0, 512), header(0, 2, 2, 0, 0)].concat();
        assert_eq!(told(&mut parser, &bytes, 7).unwrap(), ["1: Shutdown after 0", "2: Disconnect"]);
    }
}
