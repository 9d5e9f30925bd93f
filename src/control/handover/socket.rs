//! Messages and descriptors over a unix socket, each within its time.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::message::{BadMessage, HEADER, HandoverMessage};
use super::secure_state::wipe;

/// Descriptors that one message may bring.
const MOST_FILES: usize = 8;
/// A header, what follows it, and the descriptors.
type RawMessage = ([u8; HEADER], Vec<u8>, Vec<OwnedFd>);

/// Messages in a row that may be passed over.
const MOST_EXTRAS: usize = 1000;
/// Bytes that are received at once.
const STEP: usize = 256 << 10;

/// Why a hand-over does not go on.
#[derive(Debug, thiserror::Error)]
pub(in crate::control) enum HandoverError {
    #[error("the other process has ended")]
    Gone,
    #[error("the other process says nothing for too long")]
    Late,
    #[error("the other process has not started {0} seconds after it got the stores, whose clients wait")]
    Slow(u64),
    #[error("the connection to the other process failed: {0}")]
    Io(io::Error),
    #[error("the other process sent {0}")]
    Bad(#[from] BadMessage),
    #[error("the other process sent {0} where something else was to come")]
    OutOfOrder(&'static str),
    #[error("the other process gave up: {0}")]
    GivenUp(String),
    #[error("the other process speaks versions {0} to {1} of a hand-over, and this one {2} to {3}")]
    Version(u16, u16, u16, u16),
    #[error("a shard does not answer")]
    Shard,
    #[error("{0}")]
    Other(String),
}

impl HandoverError {
    fn of(error: Errno) -> Self {
        match error {
            Errno::AGAIN => Self::Late,
            Errno::PIPE | Errno::CONNRESET => Self::Gone,
            error => Self::Io(error.into()),
        }
    }
}

/// The connection between the two processes; it blocks, but not for long.
#[derive(Debug)]
pub(super) struct HandoverSocket(UnixStream);

impl HandoverSocket {
    /// `patience`: how long the other side may be silent, or not read.
    pub(super) fn new(stream: UnixStream, patience: Duration) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        let socket = Self(stream);
        socket.set_patience(patience)?;
        Ok(socket)
    }

    pub(super) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(patience))?;
        self.0.set_write_timeout(Some(patience))
    }

    /// Another handle of it, to end it from elsewhere.
    pub(super) fn twin(&self) -> io::Result<UnixStream> {
        self.0.try_clone()
    }

    /// Sends a message and its descriptors, of which the other process gets copies.
    pub(super) fn send(&self, message: &HandoverMessage, files: &[OwnedFd]) -> Result<(), HandoverError> {
        let mut bytes = message.encode(files.len());
        let sent = self.send_all(&bytes, files);
        wipe(&mut bytes);
        sent
    }

    fn send_all(&self, bytes: &[u8], files: &[OwnedFd]) -> Result<(), HandoverError> {
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let mut sent = self.send_some(bytes, &files)?;
        while sent < bytes.len() {
            sent += self.send_some(&bytes[sent..], &[])?;
        }
        Ok(())
    }

    fn send_some(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<usize, HandoverError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        loop {
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !files.is_empty() {
                let fits = ancillary.push(SendAncillaryMessage::ScmRights(files));
                assert!(fits, "a message has a few descriptors");
            }
            match sendmsg(&self.0, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                sent => return sent.map_err(HandoverError::of),
            }
        }
    }

    /// The next message that is understood, of at most so many bytes, and its descriptors. What a later
    /// program says beside that is passed over.
    pub(super) fn receive(&self, limit: usize) -> Result<(HandoverMessage, Vec<OwnedFd>), HandoverError> {
        for _ in 0..MOST_EXTRAS {
            let (header, mut bytes, files) = self.receive_any(limit)?;
            let decoded = HandoverMessage::decode(header, &bytes);
            wipe(&mut bytes);
            match decoded? {
                HandoverMessage::Extra => {}
                HandoverMessage::GivenUp(why) => return Err(HandoverError::GivenUp(why)),
                message => return Ok((message, files)),
            }
        }
        Err(BadMessage("too much that is not known").into())
    }

    fn receive_any(&self, limit: usize) -> Result<RawMessage, HandoverError> {
        let (mut bytes, mut files) = (Vec::new(), Vec::new());
        self.fill(HEADER, &mut bytes, &mut files)?;
        let header: [u8; HEADER] = bytes[..].try_into().expect("it has this length");
        let (length, announced) = HandoverMessage::announced(header, limit)?;
        bytes.clear();
        self.fill(length, &mut bytes, &mut files)?;
        if files.len() != usize::from(announced) {
            return Err(BadMessage("its descriptors are missing, or are too many").into());
        }
        Ok((header, bytes, files))
    }

    /// The same when nothing comes along with it.
    pub(super) fn receive_plain(&self, limit: usize) -> Result<HandoverMessage, HandoverError> {
        match self.receive(limit)? {
            (message, files) if files.is_empty() => Ok(message),
            (message, _) => Err(HandoverError::OutOfOrder(message.kind())),
        }
    }

    /// Receives until there are so many bytes. Memory is taken as they come.
    fn fill(
        &self,
        length: usize,
        bytes: &mut Vec<u8>,
        files: &mut Vec<OwnedFd>,
    ) -> Result<(), HandoverError> {
        while bytes.len() < length {
            let start = bytes.len();
            let end = length.min(start + STEP);
            if end > bytes.capacity() {
                let mut larger = Vec::with_capacity(length.min(2 * end));
                larger.extend_from_slice(bytes);
                wipe(bytes);
                *bytes = larger;
            }
            bytes.resize(end, 0);
            let received = self.receive_some(&mut bytes[start..], files)?;
            bytes.truncate(start + received);
            if received == 0 {
                return Err(HandoverError::Gone);
            }
        }
        Ok(())
    }

    fn receive_some(&self, bytes: &mut [u8], files: &mut Vec<OwnedFd>) -> Result<usize, HandoverError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        loop {
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(bytes)];
            let received = match recvmsg(&self.0, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => continue,
                received => received.map_err(HandoverError::of)?,
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    files.extend(rights);
                }
            }
            if files.len() > MOST_FILES {
                return Err(BadMessage("it has too many descriptors").into());
            }
            return Ok(received.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn pair() -> (HandoverSocket, UnixStream) {
        let (one, other) = UnixStream::pair().unwrap();
        (HandoverSocket::new(one, Duration::from_secs(20)).unwrap(), other)
    }

    #[test]
    fn each_message_has_its_own_descriptors() {
        let (sender, other) = pair();
        let receiver = HandoverSocket::new(other, Duration::from_secs(20)).unwrap();
        let file = |text: &str| {
            let (mut write, read) = UnixStream::pair().unwrap();
            write.write_all(text.as_bytes()).unwrap();
            OwnedFd::from(read)
        };
        let purpose = super::super::message::ListenerPurpose::Clients;
        let listener = HandoverMessage::Listener { purpose, is_inherited: true };
        let long = HandoverMessage::GivenUp("x".repeat(60_000));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sender.send(&HandoverMessage::Ready, &[]).unwrap();
                sender.send(&listener, &[file("a")]).unwrap();
                sender.send(&HandoverMessage::Commit, &[]).unwrap();
                sender.send(&listener, &[file("b"), file("c")]).unwrap();
                sender.send(&long, &[]).unwrap();
            });
            let next = || receiver.receive(1 << 20).unwrap();
            assert_eq!(next().1.len(), 0);
            let read = |files: Vec<OwnedFd>| {
                let texts = files.into_iter().map(|file| {
                    let mut text = [0];
                    UnixStream::from(file).read_exact(&mut text).unwrap();
                    char::from(text[0])
                });
                texts.collect::<String>()
            };
            assert_eq!(read(next().1), "a");
            assert_eq!(next().0, HandoverMessage::Commit);
            assert_eq!(read(next().1), "bc");
            assert!(
                matches!(receiver.receive(1 << 20), Err(HandoverError::GivenUp(why)) if why.len() == 60_000)
            );
        });
    }

    #[test]
    fn what_a_later_program_says_more_is_passed_over_and_has_an_end() {
        let (socket, mut other) = pair();
        let extra = |kind: u8| [&[3, 0, 0, 0, kind, 0][..], &[9; 3]].concat();
        other.write_all(&extra(128)).unwrap();
        other.write_all(&extra(255)).unwrap();
        other.write_all(&HandoverMessage::Ready.encode(0)).unwrap();
        assert_eq!(socket.receive_plain(99).unwrap(), HandoverMessage::Ready);
        other.write_all(&extra(127)).unwrap();
        assert!(matches!(socket.receive(99), Err(HandoverError::Bad(_))), "it has to be understood");
        let (socket, mut other) = pair();
        std::thread::scope(|scope| {
            scope.spawn(move || (0..MOST_EXTRAS).for_each(|_| other.write_all(&extra(200)).unwrap()));
            assert!(matches!(socket.receive(99), Err(HandoverError::Bad(_))));
        });
    }

    #[test]
    fn an_end_garbage_and_silence_are_errors() {
        let (socket, mut other) = pair();
        other.write_all(&HandoverMessage::Ready.encode(1)).unwrap();
        assert!(matches!(socket.receive(99), Err(HandoverError::Bad(_))), "no descriptor came");
        let (socket, mut other) = pair();
        other.write_all(&[255; 6]).unwrap();
        assert!(matches!(socket.receive(99), Err(HandoverError::Bad(_))), "4 GiB");
        let (socket, mut other) = pair();
        other.write_all(&[9, 0, 0]).unwrap();
        drop(other);
        assert!(matches!(socket.receive(99), Err(HandoverError::Gone)));
        let (socket, _other) = pair();
        socket.set_patience(Duration::from_millis(1)).unwrap();
        assert!(matches!(socket.receive(99), Err(HandoverError::Late)));
    }
}
