//! The server's side of the handshake ("Newstyle negotiation", "Fixed newstyle negotiation") without I/O.
//!
//! Bytes go in through [`Handshake::feed`], which tells in an [`Event`] what the driver must do next. Each
//! state waits for exactly one thing, so the machine can be stopped and fed again at every byte:
//!
//! ```text
//!  ClientFlags ─► Header ─► Data ─► Asking ─► (answer written) ─► Header … ─► Done
//!                   │ refused by its header alone ─► Skip ─► Header
//!                   └────────────── any violation ─► Closed
//! ```
//!
//! STARTTLS, where [`TlsMode`] has it, stops the machine in a state that takes no byte: what stands behind
//! the option was sent in plain text, perhaps by somebody between, and must be read neither as options nor as
//! TLS ("Security considerations"). The driver makes the connection a secure one, says so with
//! [`Handshake::secured`], and feeds what it decrypts. Nothing that was negotiated before counts then.

mod options;
mod outcome;
mod parse;
mod reply;
mod state;
#[cfg(test)]
mod tests;

use alloc::borrow::ToOwned;
use alloc::vec::Vec;

pub use outcome::{CloseReason, Event, HandshakeLimits, Negotiated, TlsMode};

use zerocopy::byteorder::big_endian::{U16, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::headers::{Greeting, OptionHeader};
use crate::session::ExportInfo;
use crate::wire::*;
use options::{Haggling, Tls};
use state::{HandshakeState, PendingOption};

/// The server's side of one handshake.
#[derive(Debug)]
pub struct Handshake {
    limits: HandshakeLimits,
    haggling: Haggling,
    state: HandshakeState,
    /// What the state waits for, as far as it has come: at most [`HandshakeLimits::option_length`] bytes.
    data: Vec<u8>,
    options: u32,
    bytes: u64,
}

impl Handshake {
    /// A handshake at its start: the greeting is already in the output.
    ///
    /// It has no TLS: [`Handshake::with_tls`].
    pub fn new(limits: HandshakeLimits) -> Self {
        Self::with_tls(limits, TlsMode::Off)
    }

    /// A handshake at its start, of a server that has TLS.
    pub fn with_tls(limits: HandshakeLimits, mode: TlsMode) -> Self {
        let greeting = Greeting {
            magic: U64::new(NBD_MAGIC),
            opts_magic: U64::new(NBD_OPTS_MAGIC),
            flags: U16::new(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES),
        };
        Self {
            limits,
            haggling: Haggling::new(limits.option_length, mode, greeting.as_bytes().to_vec()),
            state: HandshakeState::ClientFlags,
            data: Vec::new(),
            options: 0,
            bytes: 0,
        }
    }

    /// Sets whether every option but ABORT is refused ("Termination of the session during option haggling").
    pub fn set_shutting_down(&mut self, shutting_down: bool) {
        self.haggling.shutting_down = shutting_down;
    }

    /// Tells that the connection is a secure one now, which answers [`Event::StartTls`].
    ///
    /// What was negotiated in plain text is forgotten; the client's flags and what it used up of the limits
    /// are not.
    ///
    /// # Panics
    /// When [`Event::StartTls`] was not told.
    pub fn secured(&mut self) {
        assert!(
            matches!(self.state, HandshakeState::StartingTls) && self.haggling.output.is_empty(),
            "a secure connection in {:?}",
            self.state
        );
        self.haggling.secured();
        self.state = HandshakeState::Header;
    }

    /// Whether the connection is a secure one: what is fed was encrypted, what comes out has to be.
    pub fn is_secure(&self) -> bool {
        self.haggling.tls == Tls::Secure
    }

    /// Takes bytes off the front of `input` up to the next event. `None`: all was taken, feed more.
    ///
    /// An event comes again until its driver has done what it says.
    ///
    /// # Errors
    /// [`CloseReason`]: the handshake is over, close the connection. All output was handed out before.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Event>, CloseReason> {
        loop {
            if matches!(self.state, HandshakeState::StartingTls) && !input.is_empty() {
                // A client waits for the answer to STARTTLS before it sends anything else.
                self.haggling.output.clear();
                self.close(CloseReason::PlaintextBehindStartTls);
            }
            if let Some(event) = self.pending()? {
                return Ok(Some(event));
            }
            if !self.advance(input) {
                return Ok(None);
            }
        }
    }

    /// The bytes to send.
    pub fn output(&self) -> &[u8] {
        &self.haggling.output
    }

    /// The bytes to send, which leave the machine.
    pub fn take_output(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.haggling.output)
    }

    /// Whether the client has sent anything yet.
    pub fn has_begun(&self) -> bool {
        self.bytes > 0
    }

    /// Bytes that are kept of the option that is being received, or that [`Event::Lookup`] asks about.
    pub fn option_bytes(&self) -> usize {
        match &self.state {
            HandshakeState::Data { length, .. } => *length as usize,
            HandshakeState::Asking(PendingOption::Meta { data, .. }) => data.len(),
            _ => self.data.len(),
        }
    }

    /// Answers [`Event::Lookup`]: the export and the number under which [`Negotiated`] will name it.
    ///
    /// # Panics
    /// When nothing was asked.
    pub fn found(&mut self, export: Option<(usize, &ExportInfo)>) {
        self.state = match core::mem::replace(&mut self.state, HandshakeState::Header) {
            HandshakeState::Asking(question) if question != PendingOption::List => {
                self.haggling.found(question, export)
            }
            state => panic!("an answer to a lookup in {state:?}"),
        };
    }

    /// Whether the export that [`Event::Lookup`] asks for is the one that is served if it is there. The
    /// client only asks about it otherwise.
    pub fn is_choosing(&self) -> bool {
        match &self.state {
            HandshakeState::Asking(PendingOption::ExportName(_)) => true,
            HandshakeState::Asking(PendingOption::Info { option, .. }) => *option == NBD_OPT_GO,
            _ => false,
        }
    }

    /// The name of the option that [`Event::Lookup`] or [`Event::List`] asks for, for people; empty when
    /// nothing was asked.
    pub fn option_name(&self) -> &'static str {
        match &self.state {
            HandshakeState::Asking(question) => question.option_name(),
            _ => "",
        }
    }

    /// Answers [`Event::List`] with the exports to show.
    ///
    /// # Panics
    /// When nothing was asked.
    pub fn listed<'a>(&mut self, exports: impl IntoIterator<Item = &'a ExportInfo>) {
        assert!(
            matches!(self.state, HandshakeState::Asking(PendingOption::List)),
            "an answer to a list in {:?}",
            self.state
        );
        for export in exports {
            reply::server(&mut self.haggling.output, export);
        }
        reply::acknowledge(&mut self.haggling.output, NBD_OPT_LIST);
        self.state = HandshakeState::Header;
    }

    /// What the driver has to do before any further byte is looked at.
    fn pending(&self) -> Result<Option<Event>, CloseReason> {
        if !self.haggling.output.is_empty() {
            return Ok(Some(Event::Output));
        }
        match &self.state {
            HandshakeState::Asking(PendingOption::List) => Ok(Some(Event::List)),
            HandshakeState::Asking(question) => Ok(Some(Event::Lookup(question.export().to_owned()))),
            HandshakeState::StartingTls => Ok(Some(Event::StartTls)),
            HandshakeState::Finished(negotiated) => Ok(Some(Event::Done(negotiated.clone()))),
            HandshakeState::Closed(reason) => Err(reason.clone()),
            HandshakeState::ClientFlags
            | HandshakeState::Header
            | HandshakeState::Data { .. }
            | HandshakeState::Skip { .. } => Ok(None),
        }
    }

    /// Takes what the state waits for and, once it is complete, acts on it. False when `rest` is used up.
    fn advance(&mut self, rest: &mut &[u8]) -> bool {
        let missing = self.missing();
        if missing > 0 {
            if rest.is_empty() {
                return false;
            }
            if self.bytes == self.limits.bytes {
                self.close(CloseReason::TooManyBytes(self.limits.bytes));
                return true;
            }
            let taken = missing.min(rest.len() as u64).min(self.limits.bytes - self.bytes);
            self.take(rest, taken as usize);
            if taken < missing {
                return true;
            }
        }
        match self.state {
            HandshakeState::ClientFlags => self.client_flags(),
            HandshakeState::Header => self.header(),
            HandshakeState::Data { option, .. } => {
                let data = core::mem::take(&mut self.data);
                self.state = self.haggling.data(option, data);
            }
            HandshakeState::Skip { refused, .. } => {
                if let Some((option, refusal)) = refused {
                    reply::refuse(&mut self.haggling.output, option, refusal);
                }
                self.state = HandshakeState::Header;
            }
            HandshakeState::Asking(_)
            | HandshakeState::StartingTls
            | HandshakeState::Finished(_)
            | HandshakeState::Closed(_) => unreachable!("these are pending"),
        }
        true
    }

    /// Bytes that the state still waits for.
    fn missing(&self) -> u64 {
        let held = self.data.len() as u64;
        match self.state {
            HandshakeState::ClientFlags => 4 - held,
            HandshakeState::Header => size_of::<OptionHeader>() as u64 - held,
            HandshakeState::Data { length, .. } => u64::from(length) - held,
            HandshakeState::Skip { remaining, .. } => remaining,
            HandshakeState::Asking(_)
            | HandshakeState::StartingTls
            | HandshakeState::Finished(_)
            | HandshakeState::Closed(_) => 0,
        }
    }

    /// Consumes `count` bytes: keeps them, without reserving memory for bytes that have not come, or skips
    /// them.
    fn take(&mut self, rest: &mut &[u8], count: usize) {
        let (taken, behind) = rest.split_at(count);
        *rest = behind;
        self.bytes += count as u64;
        match &mut self.state {
            HandshakeState::Skip { remaining, .. } => *remaining -= count as u64,
            _ => self.data.extend_from_slice(taken),
        }
    }

    fn client_flags(&mut self) {
        let flags = u32::from_be_bytes(self.data[..4].try_into().expect("four bytes were gathered"));
        self.data.clear();
        self.state = self.haggling.client_flags(flags);
    }

    fn header(&mut self) {
        let header = OptionHeader::read_from_bytes(&self.data).expect("sixteen bytes were gathered");
        self.data.clear();
        self.options += 1;
        if header.magic.get() != NBD_OPTS_MAGIC {
            self.close(CloseReason::BadMagic(header.magic.get()));
        } else if self.options > self.limits.options {
            self.close(CloseReason::TooManyOptions(self.limits.options));
        } else {
            self.state = self.haggling.screen(header.option.get(), header.length.get());
        }
    }

    fn close(&mut self, reason: CloseReason) {
        self.state = HandshakeState::Closed(reason);
    }
}
