//! The client's half of the handshake: bytes in, bytes out, and in the end a [`HandshakeOutcome`].
//!
//! Sources: "Newstyle negotiation", "Fixed newstyle negotiation", "Option types". The order is: greeting;
//! STARTTLS where it is wanted; EXTENDED_HEADERS, else STRUCTURED_REPLY; then what the [`Goal`] needs. A
//! server that does not know INFO or GO is asked by EXPORT_NAME. A refusal ends in ABORT ("soft disconnect");
//! a broken protocol is an error at once, and the caller closes the connection.

mod option_reply;
mod outcome;
mod query;
mod script;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

pub use outcome::{
    ContextId, Dialect, ExportDetails, FurtherContexts, Goal, HandshakeError, HandshakeOutcome, ListedExport,
    Transmission,
};

use core::mem::take;

use zerocopy::{FromBytes, IntoBytes};

use crate::client::request::ClientRequest;
use crate::headers::{Greeting, OptionHeader};
use crate::session::ReplyMode;
use crate::wire::*;
use option_reply::{HEADER, Header, OptionReply};
use query::Stage;
use script::{Script, ScriptStep};

/// What a whole handshake may receive, each reply counted with [`REPLY_COST`] beside its length: it bounds
/// time and memory.
const MAX_RECEIVED: u64 = 64 << 20;
/// What one reply counts beyond its data, in bytes: about the memory that keeping it takes.
const REPLY_COST: u64 = 256;
/// Zeroes after the reply to EXPORT_NAME, unless both sides agreed to omit them.
const EXPORT_NAME_ZEROES: usize = 124;
/// Size and transmission flags: the reply to EXPORT_NAME.
const EXPORT_NAME_REPLY: usize = 10;

/// What the driver must do before it feeds on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Send [`ClientHandshake::take_output`].
    Output,
    /// The server agreed to STARTTLS: all that follows is encrypted, both ways. What is left of the input is
    /// TLS; feed what comes out of it.
    StartTls,
    /// The handshake is over; what is left of the input belongs to the transmission phase.
    Done(HandshakeOutcome),
}

/// The client's half of a handshake. It does no I/O: see [`ClientHandshake::feed`].
#[derive(Debug)]
pub struct ClientHandshake {
    script: Script,
    waiting: Awaited,
    /// What was received of that which is waited for, and its full length.
    frame: Vec<u8>,
    frame_length: usize,
    output: Vec<u8>,
    received: u64,
    no_zeroes: bool,
    /// [`Event::StartTls`] is still to be told.
    starts_tls: bool,
}

#[derive(Debug)]
enum Awaited {
    Greeting,
    Header(Stage),
    Data(Stage, Header),
    ExportName,
    /// Nothing: the result is taken once all output was handed out.
    Ended(Option<Result<HandshakeOutcome, HandshakeError>>),
}

impl ClientHandshake {
    /// A handshake with that goal, before the first byte.
    ///
    /// # Errors
    /// [`HandshakeError::Name`] when a name breaks the limits on strings.
    pub fn new(goal: Goal) -> Result<Self, HandshakeError> {
        Self::with_replies(goal, ReplyMode::Extended)
    }

    /// As [`ClientHandshake::new`], asking for no better form of replies than `best`; the server may agree to
    /// less.
    ///
    /// # Errors
    /// [`HandshakeError::Name`] when a name breaks the limits on strings.
    pub fn with_replies(goal: Goal, best: ReplyMode) -> Result<Self, HandshakeError> {
        Ok(Self {
            script: Script::new(goal, best)?,
            waiting: Awaited::Greeting,
            frame: Vec::new(),
            frame_length: size_of::<Greeting>(),
            output: Vec::new(),
            received: 0,
            no_zeroes: false,
            starts_tls: false,
        })
    }

    /// Asks for TLS before anything else, and for nothing from a server that does not agree.
    #[must_use]
    pub fn secured(mut self) -> Self {
        self.script.secure();
        self
    }

    /// Asks the server to end the session when the export has become larger, for a client that connects again
    /// then. Most servers know nothing of it; one that agrees sets
    /// [`NBD_FLAG_X_ENDS_ON_GROWTH`].
    #[must_use]
    pub fn ending_on_growth(mut self) -> Self {
        self.script.end_on_growth();
        self
    }

    /// Has [`Goal::Go`] select further meta contexts where the server has them.
    #[must_use]
    pub fn selecting(mut self, further: FurtherContexts) -> Self {
        self.script.select(further);
        self
    }

    /// Takes bytes off the front of `input` up to the next event. `None`: all was taken, feed more.
    ///
    /// # Errors
    /// Each is the end of the handshake. Before an error that reports a refusal, ABORT went out.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Event>, HandshakeError> {
        loop {
            if take(&mut self.starts_tls) {
                return Ok(Some(Event::StartTls));
            }
            if !self.output.is_empty() {
                return Ok(Some(Event::Output));
            }
            if let Awaited::Ended(result) = &mut self.waiting {
                let result = result.take().unwrap_or(Err(HandshakeError::Closed("already")));
                return result.map(Event::Done).map(Some);
            }
            let missing = self.frame_length - self.frame.len();
            let taken = missing.min(input.len());
            self.frame.extend_from_slice(&input[..taken]);
            *input = &input[taken..];
            if taken < missing {
                return Ok(None);
            }
            let frame = take(&mut self.frame);
            if let Err(error) = self.framed(&frame) {
                self.waiting = Awaited::Ended(None);
                self.output.clear();
                return Err(error);
            }
        }
    }

    /// The bytes to send.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// The bytes to send, which leave the machine.
    pub fn take_output(&mut self) -> Vec<u8> {
        take(&mut self.output)
    }

    /// At least this many further bytes come before the next event, and no more than these before the client
    /// sends something or the handshake ends: a client that receives just so many is left with none.
    pub fn needed(&self) -> usize {
        match self.waiting {
            Awaited::Ended(_) => 0,
            _ => self.frame_length - self.frame.len(),
        }
    }

    /// The server closed the connection while bytes were needed: what that means at this point.
    pub fn closed(&mut self) -> HandshakeError {
        match core::mem::replace(&mut self.waiting, Awaited::Ended(None)) {
            Awaited::Greeting => HandshakeError::Closed("before it greeted; it may refuse this client"),
            // "If the server is unwilling to allow the export, it MUST terminate the session."
            Awaited::ExportName => HandshakeError::UnknownExport {
                name: self.script.export().into(),
                message: "it closed the connection when asked for it".into(),
            },
            _ => HandshakeError::Closed("during the handshake"),
        }
    }

    /// A frame is complete.
    fn framed(&mut self, frame: &[u8]) -> Result<(), HandshakeError> {
        match core::mem::replace(&mut self.waiting, Awaited::Ended(None)) {
            Awaited::Greeting => {
                let next = self.greeted(frame)?;
                self.proceed(next)
            }
            Awaited::Header(stage) => {
                let bytes = frame.first_chunk::<HEADER>().expect("the frame has the header's size");
                let header = Header::parse(bytes, stage.option())?;
                self.received += REPLY_COST + header.length as u64;
                if self.received > MAX_RECEIVED {
                    return Err(HandshakeError::TooMuch(MAX_RECEIVED));
                }
                self.wait(Awaited::Data(stage, header), header.length);
                Ok(())
            }
            Awaited::Data(stage, header) => match OptionReply::parse(header, frame)? {
                OptionReply::Ack => {
                    let next = self.script.finished(stage, Ok(()))?;
                    self.proceed(next)
                }
                OptionReply::Error { reply, message } => {
                    let next = self.script.finished(stage, Err((reply, message)))?;
                    self.proceed(next)
                }
                reply => {
                    self.script.collect(reply);
                    self.wait(Awaited::Header(stage), HEADER);
                    Ok(())
                }
            },
            Awaited::ExportName => {
                let size = u64::from_be_bytes(*frame.first_chunk().expect("ten bytes"));
                let next = self.script.named(size, u16::from_be_bytes([frame[8], frame[9]]));
                self.proceed(next)
            }
            Awaited::Ended(_) => unreachable!("no frame is waited for at the end"),
        }
    }

    /// "Newstyle negotiation": the two magics and the handshake flags; the client's flags are the answer.
    fn greeted(&mut self, frame: &[u8]) -> Result<ScriptStep, HandshakeError> {
        let greeting = Greeting::read_from_bytes(frame).expect("the frame has the greeting's size");
        if greeting.magic.get() != NBD_MAGIC {
            return Err(HandshakeError::NotNbd(greeting.magic.to_bytes()));
        }
        match greeting.opts_magic.get() {
            NBD_OPTS_MAGIC => {}
            NBD_CLIENT_MAGIC => return Err(HandshakeError::Oldstyle),
            other => return Err(HandshakeError::UnknownStyle(other)),
        }
        // "The client SHOULD ignore any handshake flags it does not recognize."
        let fixed_newstyle = greeting.flags.get() & NBD_FLAG_FIXED_NEWSTYLE != 0;
        self.no_zeroes = greeting.flags.get() & NBD_FLAG_NO_ZEROES != 0;
        let mut flags = 0;
        if fixed_newstyle {
            flags |= NBD_FLAG_C_FIXED_NEWSTYLE;
        }
        if self.no_zeroes {
            flags |= NBD_FLAG_C_NO_ZEROES;
        }
        self.output.extend(flags.to_be_bytes());
        self.script.start(fixed_newstyle)
    }

    fn proceed(&mut self, next: ScriptStep) -> Result<(), HandshakeError> {
        match next {
            ScriptStep::Option(stage, data) => {
                push_option(&mut self.output, stage.option(), &data);
                self.wait(Awaited::Header(stage), HEADER);
            }
            ScriptStep::StartTls => {
                self.starts_tls = true;
                let next = self.script.settle_replies();
                return self.proceed(next);
            }
            ScriptStep::ExportName => {
                push_option(&mut self.output, NBD_OPT_EXPORT_NAME, self.script.export().as_bytes());
                let zeroes = if self.no_zeroes { 0 } else { EXPORT_NAME_ZEROES };
                self.wait(Awaited::ExportName, EXPORT_NAME_REPLY + zeroes);
            }
            ScriptStep::Disconnect => {
                let disconnect =
                    ClientRequest { command: NBD_CMD_DISC, flags: 0, cookie: 0, offset: 0, length: 0 };
                disconnect.encode(self.script.reply_mode(), &mut self.output);
                self.waiting = Awaited::Ended(Some(self.script.result()));
            }
            ScriptStep::Abort => {
                // Its ACK is not waited for: old servers send none, and "the client dropping the connection"
                // comes next anyway.
                push_option(&mut self.output, NBD_OPT_ABORT, &[]);
                self.waiting = Awaited::Ended(Some(self.script.result()));
            }
            ScriptStep::Enter => self.waiting = Awaited::Ended(Some(self.script.result())),
        }
        Ok(())
    }

    fn wait(&mut self, waiting: Awaited, length: usize) {
        self.waiting = waiting;
        self.frame_length = length;
    }
}

fn push_option(output: &mut Vec<u8>, option: u32, data: &[u8]) {
    let header = OptionHeader {
        magic: NBD_OPTS_MAGIC.into(),
        option: option.into(),
        length: (data.len() as u32).into(),
    };
    output.extend(header.as_bytes());
    output.extend(data);
}
