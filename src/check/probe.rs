//! A connection on which every wait ends, and whose bytes are kept for the report.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::dial::ServerProcess;
use super::rules::ProbeChunk;
use super::transcript::{Sender, Transcript};
use crate::nbd::session::ReplyMode;

/// Why a statement is not met, or cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// The server breaks it.
    NotMet(String),
    /// It does not concern this server or export.
    NotApplicable(String),
    /// No connection to the server.
    Unreachable(String),
}

impl From<String> for Finding {
    fn from(broken: String) -> Self {
        Self::NotMet(broken)
    }
}

/// What a part of a statement gives.
pub(super) type ProbeResult<T> = Result<T, Finding>;

/// The server does not do as it must.
pub(super) fn not_met<T>(what: impl Into<String>) -> ProbeResult<T> {
    Err(Finding::NotMet(what.into()))
}

/// The statement is about something that is not here.
pub(super) fn not_applicable<T>(why: impl Into<String>) -> ProbeResult<T> {
    Err(Finding::NotApplicable(why.into()))
}

/// What the server told of the export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ProbedExport {
    pub(super) size: u64,
    pub(super) flags: u16,
    /// Minimum, preferred, maximum payload; `None` when it told nothing.
    pub(super) block_sizes: Option<[u32; 3]>,
    /// Contexts that are selected: id and name.
    pub(super) contexts: Vec<(u32, String)>,
}

impl ProbedExport {
    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// What offsets and lengths are a multiple of.
    pub(super) fn minimum(&self) -> u64 {
        self.block_sizes.map_or(1, |sizes| u64::from(sizes[0]).max(1))
    }

    /// The longest payload.
    pub(super) fn maximum(&self) -> u64 {
        self.block_sizes.map_or(32 << 20, |sizes| u64::from(sizes[2]))
    }
}

/// A connection to the server that is examined.
pub(super) struct Probe {
    pub(super) mode: ReplyMode,
    pub(super) export: ProbedExport,
    /// A failing READ may have a simple reply in any mode: that is the matter of one statement alone.
    pub(super) is_lenient: bool,
    /// Chunks of replies that are not complete.
    pub(super) unfinished: Vec<ProbeChunk>,
    socket: Socket,
    number: u32,
    transcript: Rc<RefCell<Transcript>>,
    deadline: Instant,
    patience: Duration,
    /// Goes after the socket.
    server: Option<ServerProcess>,
}

impl Probe {
    pub(super) fn new(
        (socket, server): (Socket, Option<ServerProcess>),
        transcript: Rc<RefCell<Transcript>>,
        deadline: Instant,
        patience: Duration,
    ) -> Self {
        let number = transcript.borrow_mut().connect();
        Self {
            mode: ReplyMode::Simple,
            export: ProbedExport::default(),
            is_lenient: false,
            unfinished: Vec::new(),
            socket,
            number,
            transcript,
            deadline,
            patience,
            server,
        }
    }

    /// Sends all of it.
    pub(super) fn send(&mut self, bytes: &[u8]) -> ProbeResult<()> {
        match self.try_send(bytes)? {
            true => Ok(()),
            false => not_met(format!("the server closed before it took {} bytes", bytes.len())),
        }
    }

    /// Sends what the server takes: false when it closed.
    pub(super) fn try_send(&mut self, bytes: &[u8]) -> ProbeResult<bool> {
        self.transcript.borrow_mut().record(self.number, Sender::Client, bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            let wait = self.wait("room to send")?;
            self.socket.set_write_timeout(Some(wait)).map_err(|error| unreachable(&error))?;
            match self.socket.write(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) if is_close(&error) => return Ok(false),
                Err(error) => {
                    self.failed(&error, &format!("room for {} bytes of {}", rest.len(), bytes.len()))?;
                }
            }
        }
        Ok(true)
    }

    /// Sends it in pieces of `piece` bytes.
    pub(super) fn send_in_pieces(&mut self, bytes: &[u8], piece: usize) -> ProbeResult<()> {
        bytes.chunks(piece.max(1)).try_for_each(|part| {
            std::thread::yield_now();
            self.send(part)
        })
    }

    /// Receives exactly `length` bytes of `what`.
    pub(super) fn receive(&mut self, length: usize, what: &str) -> ProbeResult<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut got = 0;
        while got < length {
            match self.read_some(&mut bytes[got..], what)? {
                0 => {
                    self.note(&bytes[..got]);
                    return not_met(format!(
                        "the server closed; {what} was to come, {got} of {length} bytes did"
                    ));
                }
                some => got += some,
            }
        }
        self.note(&bytes);
        Ok(bytes)
    }

    /// The server has to close without another byte; a reset counts.
    pub(super) fn expect_close(&mut self, after: &str) -> ProbeResult<()> {
        let mut bytes = [0; 64];
        match self.read_some(&mut bytes, &format!("the end of the connection after {after}"))? {
            0 => Ok(()),
            got => {
                self.note(&bytes[..got]);
                not_met(format!("the server must close after {after}; it sent {got} bytes or more"))
            }
        }
    }

    /// Waits for a byte, which stays, or the end: true when it is the end.
    pub(super) fn closes_before_a_byte(&mut self, what: &str) -> ProbeResult<bool> {
        loop {
            let wait = self.wait(what)?;
            self.socket.set_read_timeout(Some(wait)).map_err(|error| unreachable(&error))?;
            match self.socket.peek(&mut [MaybeUninit::uninit()]) {
                Ok(bytes) => return Ok(bytes == 0),
                Err(error) if is_close(&error) => return Ok(true),
                Err(error) => self.failed(&error, what)?,
            }
        }
    }

    /// All that is waited for from now on has its whole time again.
    pub(super) fn renew(&mut self) {
        self.deadline = Instant::now() + self.patience;
    }

    /// The socket once more, for a thread that sends while this one receives. What it sends is noted by
    /// [`Probe::note_sent`].
    pub(super) fn sending_half(&self) -> io::Result<Socket> {
        self.socket.set_write_timeout(Some(self.patience))?;
        self.socket.try_clone()
    }

    /// Another thread sends this.
    pub(super) fn note_sent(&self, bytes: &[u8]) {
        self.transcript.borrow_mut().record(self.number, Sender::Client, bytes);
    }

    /// Ends the connection: whoever waits for it waits no more.
    pub(super) fn hang_up(&self) {
        let _it_may_be_gone = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Kills the process behind the connection, if there is one of its own.
    pub(super) fn kill_server(&mut self) {
        if let Some(server) = &mut self.server {
            server.kill();
        }
    }

    /// Takes all that comes until the server closes; gives how much that was.
    pub(super) fn drain(&mut self, after: &str) -> ProbeResult<usize> {
        let mut bytes = vec![0; 65536];
        let mut total = 0;
        loop {
            match self.read_some(&mut bytes, &format!("the end of the connection after {after}"))? {
                0 => return Ok(total),
                got => {
                    self.note(&bytes[..got]);
                    total += got;
                }
            }
        }
    }

    /// The server learns that nothing else comes.
    pub(super) fn end_sending(&self) {
        let _it_may_have_closed = self.socket.shutdown(std::net::Shutdown::Write);
    }

    /// Leaves, and waits until the server has noticed. How it leaves is another statement's matter.
    pub(super) fn leave(&mut self) {
        let left = self.socket.shutdown(std::net::Shutdown::Write);
        if left.is_ok() {
            let _noticed = self.drain("the client has left");
        }
    }

    fn read_some(&mut self, buffer: &mut [u8], what: &str) -> ProbeResult<usize> {
        loop {
            let wait = self.wait(what)?;
            self.socket.set_read_timeout(Some(wait)).map_err(|error| unreachable(&error))?;
            match self.socket.read(buffer) {
                Ok(bytes) => return Ok(bytes),
                Err(error) if is_close(&error) => return Ok(0),
                Err(error) => self.failed(&error, what)?,
            }
        }
    }

    fn note(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.transcript.borrow_mut().record(self.number, Sender::Server, bytes);
        }
    }

    /// How long the next call may wait. The time of a statement is over for all its connections.
    fn wait(&self, what: &str) -> ProbeResult<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        // A socket's timeout of zero would mean none.
        if left < Duration::from_millis(1) { self.hangs(what) } else { Ok(left) }
    }

    fn failed(&self, error: &io::Error, what: &str) -> ProbeResult<()> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.hangs(what),
            _ => Err(unreachable(error)),
        }
    }

    fn hangs<T>(&self, what: &str) -> ProbeResult<T> {
        not_met(format!("the server hangs: within {:?} there was not {what}", self.patience))
    }
}

fn is_close(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

fn unreachable(error: &io::Error) -> Finding {
    Finding::Unreachable(format!("the connection fails: {error}"))
}
