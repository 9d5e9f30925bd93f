//! The socket of a connection: connecting, bytes with deadlines, and the handshake over it.

use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::error::ClientError;
use super::secure::{Credentials, SecureFailure, SecureStream, StartingTls, credentials};
use super::uri::{NbdUri, ServerAddress};
use crate::nbd::client::handshake::{ClientHandshake, Event, FurtherContexts, Goal, HandshakeOutcome};
use crate::nbd::session::ReplyMode;

/// Bytes that are encrypted before any of them is sent.
const SEALED_AT_ONCE: usize = 256 << 10;

/// How long a client waits.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To connect to one address.
    pub connect: Duration,
    /// For the whole handshake.
    pub handshake: Duration,
    /// For the next byte of a reply, and for room to send a request.
    pub silence: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(30),
            silence: Duration::from_secs(60),
        }
    }
}

/// A connected socket. Every wait on it ends.
#[derive(Debug)]
pub(super) struct Link {
    socket: Socket,
    address: ServerAddress,
    timeouts: Timeouts,
    /// The end of the handshake, while it lasts.
    deadline: Option<Instant>,
    /// What the connection is to be encrypted with.
    credentials: Option<Credentials>,
    /// It is encrypted.
    secure: Option<Box<SecureStream>>,
    /// The server is asked to end it when the export has become larger.
    ends_on_growth: bool,
    /// What the handshake asks for besides what its goal needs.
    further: FurtherContexts,
}

impl Link {
    pub(super) fn open(uri: &NbdUri, timeouts: Timeouts) -> Result<Self, ClientError> {
        let address = &uri.address;
        let credentials =
            credentials(uri).map_err(|source| ClientError::Tls { address: address.clone(), source })?;
        let mut last = io::Error::other("the name has no address");
        for candidate in resolve(address)? {
            match connect(&candidate, timeouts) {
                Ok(socket) => {
                    let address = address.clone();
                    let (deadline, secure, ends_on_growth) = (None, None, false);
                    let further = FurtherContexts::default();
                    return Ok(Self {
                        socket,
                        address,
                        timeouts,
                        deadline,
                        credentials,
                        secure,
                        ends_on_growth,
                        further,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(ClientError::Connect { address: address.clone(), source: last })
    }

    /// One that is connected; `name` is what messages call the server.
    pub(super) fn over(socket: OwnedFd, name: &str, timeouts: Timeouts) -> Self {
        let (socket, address) = (Socket::from(socket), ServerAddress::Unix(name.into()));
        let (deadline, credentials, secure, ends_on_growth) = (None, None, None, false);
        let further = FurtherContexts::default();
        Self { socket, address, timeouts, deadline, credentials, secure, ends_on_growth, further }
    }

    /// Has the handshake ask the server to end the session when the export has become larger.
    pub(super) fn ending_on_growth(self, ends_on_growth: bool) -> Self {
        Self { ends_on_growth, ..self }
    }

    /// Has the handshake select further meta contexts.
    pub(super) fn selecting(self, further: FurtherContexts) -> Self {
        Self { further, ..self }
    }

    /// Runs the whole handshake, and receives no byte beyond it.
    pub(super) fn negotiate(self, goal: Goal) -> Result<(Self, HandshakeOutcome), ClientError> {
        self.negotiate_replies(goal, ReplyMode::Extended)
    }

    /// As [`Link::negotiate`], asking for no better form of replies than `best`.
    pub(super) fn negotiate_replies(
        mut self,
        goal: Goal,
        best: ReplyMode,
    ) -> Result<(Self, HandshakeOutcome), ClientError> {
        let address = self.address.clone();
        let failed = |source| ClientError::Handshake { address: address.clone(), source };
        self.deadline = Some(Instant::now() + self.timeouts.handshake);
        let mut handshake = ClientHandshake::with_replies(goal, best).map_err(failed)?;
        if self.credentials.is_some() {
            handshake = handshake.secured();
        }
        if self.ends_on_growth {
            handshake = handshake.ending_on_growth();
        }
        handshake = handshake.selecting(std::mem::take(&mut self.further));
        let mut input = Vec::new();
        loop {
            // No more than the frame needs is received: each feed takes all, and nothing is left at the end.
            let event = handshake.feed(&mut &input[..]).map_err(failed)?;
            input.clear();
            match event {
                Some(Event::Output) => match self.send(&handshake.take_output()) {
                    // Its last words say why it closed: they are still to be read.
                    Err(ClientError::Closed) => {}
                    other => other?,
                },
                Some(Event::StartTls) => self.start_tls()?,
                Some(Event::Done(outcome)) => {
                    self.deadline = None;
                    return Ok((self, outcome));
                }
                None => {
                    input.resize(handshake.needed(), 0);
                    let received = self.receive(&mut input)?;
                    input.truncate(received);
                    if received == 0 {
                        let early = self.secure.as_ref().and_then(|secure| secure.closed_early());
                        return Err(match early {
                            Some(source) => self.insecure(source),
                            None => failed(handshake.closed()),
                        });
                    }
                }
            }
        }
    }

    /// The handshake of TLS, between those of NBD.
    pub(super) fn start_tls(&mut self) -> Result<(), ClientError> {
        let Some(credentials) = &self.credentials else { unreachable!("nobody asked for it") };
        let mut starting = StartingTls::new(credentials).map_err(|source| self.insecure(source))?;
        let mut buffer = [0; 4096];
        let mut received = 0;
        loop {
            let mut input = &buffer[..received];
            loop {
                let result = starting.feed(&mut input);
                let output = starting.take_output();
                match self.send_plain(&output) {
                    // What it said before says why.
                    Err(ClientError::Closed) => {}
                    sent => sent?,
                }
                match result.map_err(|source| self.insecure(source))? {
                    Some(stream) => {
                        self.secure = Some(stream);
                        return Ok(());
                    }
                    None if input.is_empty() && output.is_empty() => break,
                    None => {}
                }
            }
            received = self.receive_plain(&mut buffer)?;
            if received == 0 {
                return Err(self.insecure(starting.closed()));
            }
        }
    }

    fn insecure(&self, source: SecureFailure) -> ClientError {
        ClientError::Tls { address: self.address.clone(), source }
    }

    /// Whoever has the socket besides waits on it as long as it likes.
    pub(super) fn forget_timeouts(&self) -> Result<(), ClientError> {
        self.socket.set_read_timeout(None)?;
        self.socket.set_write_timeout(None)?;
        Ok(())
    }

    /// Gives the socket away, without timeouts, and what is needed to go on with it.
    pub(super) fn into_socket(self) -> Result<(OwnedFd, Option<Box<SecureStream>>), ClientError> {
        self.forget_timeouts()?;
        Ok((self.socket.into(), self.secure))
    }

    /// The last words, of a connection that is not given away.
    pub(super) fn part(&mut self) {
        if let Some(secure) = &mut self.secure {
            let goodbye = secure.goodbye();
            // The connection ends in any case.
            let _gone = self.send_plain(&goodbye);
        }
    }

    /// Receives at least one byte; 0 when the server closed.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, ClientError> {
        let Some(mut secure) = self.secure.take() else { return self.receive_plain(buffer) };
        let received = loop {
            match secure.take(buffer) {
                Ok(Some(bytes)) => break Ok(bytes),
                Ok(None) => match self.receive_plain(secure.room()) {
                    Ok(0) => break Ok(0),
                    Ok(bytes) => secure.filled(bytes),
                    Err(error) => break Err(error),
                },
                Err(source) => break Err(self.insecure(source)),
            }
        };
        self.secure = Some(secure);
        received
    }

    /// Sends everything.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let Some(mut secure) = self.secure.take() else { return self.send_plain(bytes) };
        let mut sent = Ok(());
        for piece in bytes.chunks(SEALED_AT_ONCE) {
            let sealed = secure.seal(piece);
            sent = self.send_plain(&sealed);
            secure.sent(sealed);
            if sent.is_err() {
                break;
            }
        }
        self.secure = Some(secure);
        sent
    }

    fn receive_plain(&mut self, buffer: &mut [u8]) -> Result<usize, ClientError> {
        loop {
            let wait = self.wait()?;
            self.socket.set_read_timeout(Some(wait))?;
            match self.socket.read(buffer) {
                Err(error) if is_reset(&error) => return Ok(0),
                Err(error) => self.failed(error)?,
                Ok(bytes) => return Ok(bytes),
            }
        }
    }

    fn send_plain(&mut self, mut bytes: &[u8]) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            let wait = self.wait()?;
            self.socket.set_write_timeout(Some(wait))?;
            match self.socket.write(bytes) {
                Err(error) if is_reset(&error) => return Err(ClientError::Closed),
                Err(error) => self.failed(error)?,
                Ok(sent) => bytes = &bytes[sent..],
            }
        }
        Ok(())
    }

    /// How long the next call may take.
    fn wait(&self) -> Result<Duration, ClientError> {
        let left =
            self.deadline.map_or(self.timeouts.silence, |end| end.saturating_duration_since(Instant::now()));
        // A socket timeout of zero would mean none.
        if left.is_zero() { Err(self.timed_out()) } else { Ok(left) }
    }

    fn failed(&self, error: io::Error) -> Result<(), ClientError> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(self.timed_out()),
            _ => Err(error.into()),
        }
    }

    fn timed_out(&self) -> ClientError {
        ClientError::Timeout(self.deadline.map_or(self.timeouts.silence, |_| self.timeouts.handshake))
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

fn resolve(address: &ServerAddress) -> Result<Vec<SockAddr>, ClientError> {
    let unix = |path: &[u8]| {
        let address_of = SockAddr::unix(std::ffi::OsStr::from_bytes(path));
        address_of.map_err(|source| ClientError::Connect { address: address.clone(), source })
    };
    match address {
        ServerAddress::Unix(path) => Ok(vec![unix(path.as_os_str().as_bytes())?]),
        ServerAddress::Abstract(name) => Ok(vec![unix(&[b"\0", &name[..]].concat())?]),
        ServerAddress::Tcp { host, port } => match (host.as_str(), *port).to_socket_addrs() {
            Ok(addresses) => Ok(addresses.map(SockAddr::from).collect()),
            Err(source) => Err(ClientError::Resolve { host: host.clone(), source }),
        },
    }
}

fn connect(address: &SockAddr, timeouts: Timeouts) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::STREAM, None)?;
    socket.connect_timeout(address, timeouts.connect)?;
    if address.domain() != Domain::UNIX {
        // "the client and server SHOULD disable Nagle's algorithm"
        socket.set_tcp_nodelay(true)?;
    }
    Ok(socket)
}
