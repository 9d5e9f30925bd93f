//! The NBD protocol as values: bytes in, types out. No socket, no clock, no memory but its own.
//!
//! Both sides of the protocol are here, for whatever moves the bytes: blocking sockets, an async runtime,
//! io_uring, a test that has both ends in one process, a fuzzer. The crate is `no_std` and needs `alloc`. Its
//! source is [`doc/proto.md`](https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md) of the NBD
//! project with its `extension-ext-header` branch; a heading of that document stands in quotes where a rule
//! comes from it.
//!
//! # Four machines, one way to drive them
//!
//! | | handshake | transmission |
//! |---|---|---|
//! | server | [`server::handshake::Handshake`] | [`server::requests::RequestParser`] |
//! | client | [`client::handshake::ClientHandshake`] | [`client::replies::ReplyParser`] |
//!
//! Each is fed with what was received, in pieces of any size, and tells one event at a time:
//!
//! ```text
//! fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Error>
//! ```
//!
//! * It takes bytes off the front of `input`, up to the next event. What it leaves is fed again, or belongs
//!   to the next phase.
//! * `Ok(None)` means that all was taken: receive more.
//! * `Err` ends the connection: the other side broke the protocol, or the handshake failed. Nothing is fed
//!   after it.
//! * A handshake has something to say itself. `Event::Output` asks to send what `take_output` gives before
//!   anything more is fed, so that answers do not pile up here for a peer that does not read them.
//!
//! # A server
//!
//! The handshake asks its driver for exports, by number and [`ExportInfo`](session::ExportInfo), and ends
//! with a [`Session`](session::Session). Requests are checked against that session, in the order of the
//! document, before a device sees them. Replies are built by [`server::reply::ReplyTo`] in the form that was
//! negotiated; data itself never passes through this crate.
//!
//! ```
//! use ringnbd_proto::server::handshake::{CloseReason, Event, Handshake, Negotiated};
//! use ringnbd_proto::session::ExportInfo;
//!
//! /// Drives a handshake as far as `input` goes; gives the bytes to send, and the session once it stands.
//! fn negotiate(
//!     handshake: &mut Handshake,
//!     input: &mut &[u8],
//!     exports: &[ExportInfo],
//! ) -> Result<(Vec<u8>, Option<Negotiated>), CloseReason> {
//!     let mut output = Vec::new();
//!     loop {
//!         match handshake.feed(input)? {
//!             None => return Ok((output, None)),
//!             Some(Event::Output) => output.extend(handshake.take_output()),
//!             Some(Event::Lookup(name)) => {
//!                 handshake.found(exports.iter().enumerate().find(|(_, export)| export.name == name));
//!             }
//!             Some(Event::List) => handshake.listed(exports),
//!             Some(Event::StartTls) => unreachable!("`Handshake::new` makes a server without TLS"),
//!             Some(Event::Done(negotiated)) => return Ok((output, Some(negotiated))),
//!         }
//!     }
//! }
//! ```
//!
//! In the transmission phase a server feeds a `RequestParser`. A [`Request`](server::request::Request) that
//! comes out may be carried out without a further look; a refused one is told once its payload has passed,
//! and is answered with its error:
//!
//! ```
//! use ringnbd_proto::server::reply::ReplyTo;
//! use ringnbd_proto::server::request::{Command, Violation};
//! use ringnbd_proto::server::requests::{Event, RequestParser};
//!
//! /// Answers what `input` holds: every READ with 0xaa, all else with success, and nothing after a request to disconnect.
//! fn serve(parser: &mut RequestParser, input: &mut &[u8]) -> Result<Vec<u8>, Violation> {
//!     let mode = parser.session().reply_mode;
//!     let mut output = Vec::new();
//!     while let Some(event) = parser.feed(input)? {
//!         match event {
//!             Event::Request(request) => match request.command {
//!                 Command::Disconnect => break,
//!                 Command::Read { .. } => {
//!                     let length = request.range.length() as u32;
//!                     let header = ReplyTo::request(&request, mode).data(request.range.offset(), length, true);
//!                     output.extend(header.as_bytes());
//!                     output.resize(output.len() + length as usize, 0xaa);
//!                 }
//!                 _ => output.extend(ReplyTo::request(&request, mode).success().as_bytes()),
//!             },
//!             Event::Payload { .. } => {}
//!             Event::Refused(refusal) => {
//!                 let to = ReplyTo::refusal(&refusal, mode);
//!                 let (header, text) = to.error(refusal.error, refusal.reason, None);
//!                 output.extend(header.as_bytes());
//!                 output.extend(text);
//!             }
//!         }
//!     }
//!     Ok(output)
//! }
//! ```
//!
//! A server that wants payloads received straight to where they belong uses the two halves of that machine by
//! themselves: [`server::inbound::Inbound`] and [`Request::parse`](server::request::Request::parse).
//!
//! # A client
//!
//! A [`Goal`](client::handshake::Goal) says what the handshake is for: to learn of one export or of all, or
//! to enter the transmission phase. It asks for extended headers, takes structured or simple replies from a
//! server that has no better, and falls back to EXPORT_NAME where GO is unknown. Then a
//! [`ClientRequest`](client::request::ClientRequest) is encoded, announced to the `ReplyParser`, and its
//! reply checked: that each byte of a READ comes once, that lengths fit, that nothing is outside the request.
//!
//! ```
//! use ringnbd_proto::client::replies::{Event, ReplyError, ReplyParser};
//! use ringnbd_proto::client::request::ClientRequest;
//! use ringnbd_proto::session::ReplyMode;
//! use ringnbd_proto::wire::NBD_CMD_READ;
//!
//! # fn main() -> Result<(), ReplyError> {
//! let mode = ReplyMode::Simple;
//! let request = ClientRequest { command: NBD_CMD_READ, flags: 0, cookie: 1, offset: 4096, length: 4 };
//! let (mut parser, mut output) = (ReplyParser::new(mode, vec![]), Vec::new());
//! request.encode(mode, &mut output);
//! parser.expect(request);
//!
//! // The reply, as it may arrive: magic, no error, the cookie, the data.
//! let mut input = &b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x01data"[..];
//! assert_eq!(parser.feed(&mut input)?, Some(Event::Data { cookie: 1, offset: 4096, data: b"data" }));
//! assert_eq!(parser.feed(&mut input)?, Some(Event::Done { cookie: 1, result: Ok(()) }));
//! assert_eq!(parser.feed(&mut input)?, None);
//! # Ok(())
//! # }
//! ```
//!
//! # What a peer can do
//!
//! Anything; it costs little. What a machine keeps is bounded before it is received, and nothing a peer sends
//! makes one panic:
//!
//! | of | at most |
//! |---|---|
//! | a name, a query, a message | 4,096 bytes ([`NBD_MAX_STRING`](wire::NBD_MAX_STRING)) |
//! | a client: an option, all options, all bytes before it chose an export | [`HandshakeLimits`](server::handshake::HandshakeLimits) |
//! | a client: a payload | [`BlockSizes::maximum`](vocabulary::BlockSizes::maximum), as it was advertised; it is not kept here |
//! | a client: the ids in the filter of a BLOCK_STATUS | 1,024 |
//! | a server: one option reply | 16 KiB |
//! | a server: a whole handshake, each reply counted with 256 bytes more | 64 MiB |
//! | a server: extents in a chunk | 2^20 ([`NBD_MAX_STATUS_DESCRIPTORS`](wire::NBD_MAX_STATUS_DESCRIPTORS)), told one by one |
//! | a server: an error chunk | 8 KiB ([`LONGEST_ERROR`](client::replies::head::LONGEST_ERROR)) |
//! | a server: separate pieces of one READ, errors with an offset in one reply | 65,536 and 1,024 |
//!
//! A rule that is broken has the reaction that the document asks for, and the type says which: an error reply
//! ([`Refusal`](server::request::Refusal)), or the end of the connection
//! ([`Violation`](server::request::Violation), [`CloseReason`](server::handshake::CloseReason),
//! [`HandshakeError`](client::handshake::HandshakeError), [`ReplyError`](client::replies::ReplyError)). Texts
//! for people quote what a peer sent only [`printable`].
//!
//! # Extended headers
//!
//! The extension that gives requests and replies 64-bit lengths, and every reply the form of chunks. Both
//! sides have it: [`ReplyMode::Extended`](session::ReplyMode::Extended) says that it was agreed. A TRIM, a
//! WRITE_ZEROES or a BLOCK_STATUS may then span a whole export in one request, and BLOCK_STATUS may name the
//! contexts that it wants in a payload ([`parse_filter`](server::request::parse_filter)).
//!
//! # What is not here
//!
//! TLS itself: both handshakes tell when STARTTLS was agreed on, and go on with what their driver decrypts. A
//! client asks for it with [`secured`](client::handshake::ClientHandshake::secured). The oldstyle handshake:
//! it is recognised, and an error. RESIZE, which the document calls experimental.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod client;
pub mod error;
mod headers;
pub mod meta_context;
pub mod names;
pub mod printable;
pub mod server;
pub mod session;
pub mod vocabulary;
pub mod wire;

/// The example of the README is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("README.md")]
struct Readme;
