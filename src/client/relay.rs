//! A connection over TLS for who cannot encrypt: the kernel gets one end of a pair of sockets, and two
//! threads move the bytes between the other end and the server.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use super::secure::SecureStream;
use crate::exec::lock;

/// Bytes that are moved at once.
const PIECE: usize = 64 << 10;

/// When a connection ends whose client says that nothing else comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RelayEnd {
    /// At once.
    OfRequests,
    /// When the server ends it: replies may be under way.
    OfReplies,
}

/// Both sides of a connection. A socket of any kind of server can be read and written as one of TCP.
struct Relay {
    plain: UnixStream,
    server: TcpStream,
    secure: Mutex<Box<SecureStream>>,
    ending: RelayEnd,
}

/// The end of a pair of sockets whose other end is relayed to the server, until either side ends.
///
/// The relay ends with the process.
///
/// # Errors
/// There is no further socket or thread.
pub(super) fn relayed(server: OwnedFd, secure: Box<SecureStream>) -> io::Result<OwnedFd> {
    let (given, plain) = UnixStream::pair()?;
    between(plain, server, secure, RelayEnd::OfRequests)?;
    Ok(given.into())
}

/// Relays between the two, which end with each other.
///
/// # Errors
/// There is no further thread.
pub(super) fn between(
    plain: UnixStream,
    server: OwnedFd,
    secure: Box<SecureStream>,
    ending: RelayEnd,
) -> io::Result<()> {
    let relay = Arc::new(Relay { plain, server: server.into(), secure: Mutex::new(secure), ending });
    let requests = Arc::clone(&relay);
    let mut buffers = [vec![0; PIECE], vec![0; PIECE], vec![0; PIECE]];
    let [asked, received, opened] = buffers.each_mut().map(std::mem::take);
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("nbd-seal").spawn(move || requests.until_its_end(|relay| relay.pass_requests(asked)))?;
    let replies = Arc::clone(&relay);
    let begun =
        thread("nbd-open").spawn(move || replies.until_its_end(|relay| relay.pass_replies(received, opened)));
    // The first one ends with its sockets.
    begun.inspect_err(|_| relay.end())?;
    Ok(())
}

impl Relay {
    /// `pass` gives whether the other direction goes on.
    fn until_its_end(&self, pass: impl FnOnce(&Self) -> io::Result<bool>) {
        // Memory that this thread needs is not to be had by writing to the disk above it. Only root may ask.
        let _it_may_be_refused = rustix::process::configure_io_flusher_behavior(true);
        match pass(self) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "an encrypted connection ended"),
        }
        self.end();
    }

    /// Both directions end, on both sides: the other thread notices.
    fn end(&self) {
        // What is gone already is as good.
        let _ = self.plain.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }

    fn pass_requests(&self, buffer: Vec<u8>) -> io::Result<bool> {
        let passed = self.seal_requests(buffer);
        if self.ending == RelayEnd::OfRequests {
            return passed.map(|()| false);
        }
        // Each side learns that nothing else comes, or is taken; what the server has said is still passed on.
        let _ = self.server.shutdown(Shutdown::Write);
        let _ = self.plain.shutdown(Shutdown::Read);
        Ok(true)
    }

    fn seal_requests(&self, mut buffer: Vec<u8>) -> io::Result<()> {
        loop {
            let length = match (&self.plain).read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if length == 0 {
                let goodbye = lock(&self.secure).goodbye();
                return (&self.server).write_all(&goodbye);
            }
            // A key update that the server asks for is sealed here too, in its turn.
            let sealed = lock(&self.secure).seal(&buffer[..length]);
            (&self.server).write_all(&sealed)?;
            lock(&self.secure).sent(sealed);
        }
    }

    fn pass_replies(&self, mut received: Vec<u8>, mut opened: Vec<u8>) -> io::Result<bool> {
        loop {
            loop {
                let taken = lock(&self.secure).take(&mut opened).map_err(io::Error::other)?;
                match taken {
                    Some(0) => return Ok(false),
                    Some(length) => (&self.plain).write_all(&opened[..length])?,
                    None => break,
                }
            }
            // No lock is held while the server is waited for.
            let room = lock(&self.secure).room().len().min(PIECE);
            let length = match (&self.server).read(&mut received[..room]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut secure = lock(&self.secure);
            secure.room()[..length].copy_from_slice(&received[..length]);
            secure.filled(length);
        }
    }
}
