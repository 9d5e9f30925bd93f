//! A raw NBD client: a socket on which every read and write has a deadline, and requests encoded byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::PATIENCE;
use super::peer::Peer;
use super::server::Server;
use super::wire::*;

/// What the transmission phase speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Simple,
    Structured,
    Extended,
}

pub(crate) const MODES: [Mode; 3] = [Mode::Simple, Mode::Structured, Mode::Extended];
pub(crate) const CHUNKED: [Mode; 2] = [Mode::Structured, Mode::Extended];

/// Those of `modes` that the server under test has: all, if it is ours.
#[track_caller]
pub(crate) fn spoken<const N: usize>(modes: [Mode; N]) -> Vec<Mode> {
    let spoken: Vec<Mode> = modes.into_iter().filter(|&mode| Peer::from_env().speaks(mode)).collect();
    assert!(!spoken.is_empty(), "PEER CANNOT: speak any of {modes:?}");
    spoken
}

/// A request before it is encoded. `length` is what the header claims; `payload` is what follows it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) kind: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) payload: Vec<u8>,
}

impl Request {
    pub(crate) fn new(kind: u16, offset: u64, length: u64) -> Self {
        Self {
            flags: 0,
            kind,
            cookie: offset.wrapping_add(0x0bad_cafe_0000_0000),
            offset,
            length,
            payload: Vec::new(),
        }
    }
    pub(crate) fn read(offset: u64, length: u64) -> Self {
        Self::new(NBD_CMD_READ, offset, length)
    }
    pub(crate) fn write(offset: u64, payload: Vec<u8>) -> Self {
        Self { payload: payload.clone(), ..Self::new(NBD_CMD_WRITE, offset, payload.len() as u64) }
    }
    pub(crate) fn flush() -> Self {
        Self::new(NBD_CMD_FLUSH, 0, 0)
    }
    pub(crate) fn trim(offset: u64, length: u64) -> Self {
        Self::new(NBD_CMD_TRIM, offset, length)
    }
    pub(crate) fn zeroes(offset: u64, length: u64) -> Self {
        Self::new(NBD_CMD_WRITE_ZEROES, offset, length)
    }
    pub(crate) fn cache(offset: u64, length: u64) -> Self {
        Self::new(NBD_CMD_CACHE, offset, length)
    }
    pub(crate) fn status(offset: u64, length: u64) -> Self {
        Self::new(NBD_CMD_BLOCK_STATUS, offset, length)
    }
    pub(crate) fn disconnect() -> Self {
        Self::new(NBD_CMD_DISC, 0, 0)
    }
    pub(crate) fn flags(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }
    pub(crate) fn cookie(mut self, cookie: u64) -> Self {
        self.cookie = cookie;
        self
    }

    /// The bytes of this request; in extended mode a WRITE carries PAYLOAD_LEN, as it must.
    pub(crate) fn encode(&self, mode: Mode) -> Vec<u8> {
        let carries = mode == Mode::Extended && self.kind == NBD_CMD_WRITE;
        let flags = self.flags | if carries { NBD_CMD_FLAG_PAYLOAD_LEN } else { 0 };
        self.encode_with_flags(mode, flags)
    }

    /// The bytes of this request with exactly these flags.
    pub(crate) fn encode_with_flags(&self, mode: Mode, flags: u16) -> Vec<u8> {
        let magic = if mode == Mode::Extended { NBD_EXTENDED_REQUEST_MAGIC } else { NBD_REQUEST_MAGIC };
        let mut bytes = Vec::with_capacity(32 + self.payload.len());
        bytes.extend(magic.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.offset.to_be_bytes());
        if mode == Mode::Extended {
            bytes.extend(self.length.to_be_bytes());
        } else {
            let length = u32::try_from(self.length).expect("a compact request holds 32 bits of length");
            bytes.extend(length.to_be_bytes());
        }
        bytes.extend(&self.payload);
        bytes
    }
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A connection to a server.
pub(crate) struct Connection {
    stream: Stream,
    pub(crate) mode: Mode,
    /// What GO or EXPORT_NAME told.
    pub(crate) export: super::handshake::Export,
    /// Chunks of replies that are not finished yet, by cookie.
    pub(crate) unfinished: Vec<super::reply::Chunk>,
}

impl Connection {
    /// Connects to the server's unix socket, or its TCP port where it has no other; nothing is read or sent yet.
    #[track_caller]
    pub(crate) fn open(server: &Server) -> Self {
        let tcp = std::env::var("RINGNBD_TEST_TRANSPORT").as_deref() == Ok("tcp");
        if server.socket().exists() && !tcp {
            Self::over_unix(UnixStream::connect(server.plain_socket()).expect("connect to the unix socket"))
        } else {
            Self::open_tcp(server)
        }
    }

    #[track_caller]
    pub(crate) fn open_tcp(server: &Server) -> Self {
        Self::over_tcp(TcpStream::connect(server.tcp_address()).expect("connect to the TCP port"))
    }

    pub(crate) fn over_unix(stream: UnixStream) -> Self {
        Self::over(Stream::Unix(stream))
    }

    pub(crate) fn over_tcp(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("set TCP_NODELAY");
        Self::over(Stream::Tcp(stream))
    }

    fn over(stream: Stream) -> Self {
        let mut connection = Self {
            stream,
            mode: Mode::Simple,
            export: super::handshake::Export::default(),
            unfinished: Vec::new(),
        };
        connection.patience(PATIENCE);
        connection
    }

    /// How long a read or write may block before it is a failure.
    pub(crate) fn patience(&mut self, limit: Duration) {
        match &self.stream {
            Stream::Unix(s) => {
                s.set_read_timeout(Some(limit)).and_then(|()| s.set_write_timeout(Some(limit)))
            }
            Stream::Tcp(s) => s.set_read_timeout(Some(limit)).and_then(|()| s.set_write_timeout(Some(limit))),
        }
        .expect("set socket timeouts");
    }

    /// The same of reads only.
    pub(crate) fn patience_to_read(&mut self, limit: Duration) {
        match &self.stream {
            Stream::Unix(stream) => stream.set_read_timeout(Some(limit)),
            Stream::Tcp(stream) => stream.set_read_timeout(Some(limit)),
        }
        .expect("set a socket's timeout");
    }

    /// A second handle on the same socket, to write from one thread and read from another.
    pub(crate) fn twin(&self) -> Self {
        let stream = match &self.stream {
            Stream::Unix(stream) => Stream::Unix(stream.try_clone().expect("dup the socket")),
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone().expect("dup the socket")),
        };
        Self { stream, mode: self.mode, export: self.export.clone(), unfinished: Vec::new() }
    }

    /// Sends these bytes; a server that does not read them in time fails the test.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.try_send(bytes) {
            panic!("sending {} bytes: {error}{}", bytes.len(), hang_note(&error));
        }
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tcp(stream) => stream.write_all(bytes),
        }
    }

    /// Sends in pieces of `piece` bytes, giving the server the chance to see each on its own.
    #[track_caller]
    pub(crate) fn send_in_pieces(&mut self, bytes: &[u8], piece: usize) {
        for part in bytes.chunks(piece) {
            self.send(part);
            std::thread::yield_now();
        }
    }

    /// Reads exactly `length` bytes of `what`; panics on a hang or an early close.
    #[track_caller]
    pub(crate) fn receive(&mut self, length: usize, what: &str) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let mut got = 0;
        while got < length {
            match self.read_some(&mut bytes[got..]) {
                Ok(0) => panic!(
                    "the server closed; wanted {what}: {length} bytes, got {:02x?}",
                    head(&bytes[..got])
                ),
                Ok(n) => got += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!(
                    "reading {what} ({got} of {length} bytes so far: {:02x?}): {error}{}",
                    head(&bytes[..got]),
                    hang_note(&error)
                ),
            }
        }
        bytes
    }

    pub(crate) fn read_some(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match &mut self.stream {
            Stream::Unix(stream) => stream.read(bytes),
            Stream::Tcp(stream) => stream.read(bytes),
        }
    }

    /// Asserts that the server closes without another byte. A reset counts as a close.
    #[track_caller]
    pub(crate) fn expect_close(&mut self, why: &str) {
        let mut bytes = [0; 256];
        match self.read_some(&mut bytes) {
            Ok(0) => {}
            Ok(n) => panic!("{why}: the server should close, but sent {:02x?}", &bytes[..n]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{why}: the server should close: {error}{}", hang_note(&error)),
        }
    }

    /// Waits until there is something to read, without taking it: `true` when that is the end.
    #[track_caller]
    pub(crate) fn closes_before_a_byte(&mut self) -> bool {
        let socket = match &self.stream {
            Stream::Unix(stream) => socket2::SockRef::from(stream),
            Stream::Tcp(stream) => socket2::SockRef::from(stream),
        };
        match socket.peek(&mut [std::mem::MaybeUninit::uninit()]) {
            Ok(n) => n == 0,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
            Err(error) => panic!("waiting for a byte or the end: {error}{}", hang_note(&error)),
        }
    }

    /// Reads and forgets until the server closes; returns what came.
    #[track_caller]
    pub(crate) fn drain_to_close(&mut self, why: &str) -> Vec<u8> {
        let mut all = Vec::new();
        let mut bytes = vec![0; 65536];
        loop {
            match self.read_some(&mut bytes) {
                Ok(0) => return all,
                Ok(n) => all.extend(&bytes[..n]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return all,
                Err(error) => panic!("{why}: the server should close: {error}{}", hang_note(&error)),
            }
        }
    }

    /// Closing sends a reset instead of an orderly end (TCP only).
    pub(crate) fn reset_on_close(&self) {
        if let Stream::Tcp(stream) = &self.stream {
            socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("set SO_LINGER");
        }
    }

    /// Ends both directions, for all handles on the socket.
    pub(crate) fn hang_up(&self) {
        let _closed_by_the_server = match &self.stream {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// Half-closes: no more bytes will come from us.
    pub(crate) fn end_of_requests(&mut self) {
        match &self.stream {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
        }
        .expect("shut down the writing side");
    }
}

/// At most this much of a byte string is worth printing.
pub(crate) fn head(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(64)]
}

fn hang_note(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => " (HANG: nothing happened before the test's deadline)",
        _ => "",
    }
}
