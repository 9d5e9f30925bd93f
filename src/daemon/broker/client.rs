//! The server's end: calls that wait for their answers beside each other, on the control plane's thread.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::AT_ONCE;
use super::message::{BrokerReply, BrokerRequest, MESSAGE_BYTES, OpenMode};
use super::packet;

/// How long a call waits, as a file system may hang. The broker goes on waiting, and the call's place is
/// taken until it has answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no file; each a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BrokerError {
    /// It may not, or cannot, be opened.
    #[error("{0}")]
    Refused(String),
    /// There is no such file.
    #[error("there is no such file")]
    Missing,
    /// There is no broker any more.
    #[error("the process that opens files for the server has ended: restart the server")]
    Gone,
    /// A file system hangs.
    #[error("opening took longer than {} s: look at the file system", PATIENCE.as_secs())]
    TooSlow,
}

type OpenResult = Result<OwnedFd, BrokerError>;

/// The broker of a server that runs. It ends when this is dropped.
pub(crate) struct Broker {
    calls: Rc<BrokerCalls>,
    reader: JoinHandle<()>,
}

struct BrokerCalls {
    /// A socket of packets. The runtime need not know that they come in order, and have an end.
    socket: UnixDatagram,
    /// Calls at the same time; further ones wait here.
    room: Arc<Semaphore>,
    waiting: RefCell<HashMap<u64, PendingCall>>,
    last_id: Cell<u64>,
    gone: Cell<bool>,
}

/// A call whose answer is not there.
struct PendingCall {
    answer: oneshot::Sender<OpenResult>,
    /// Freed when the broker has answered, even if the call was given up before.
    _place: OwnedSemaphorePermit,
}

impl Broker {
    /// Takes the socket of a broker that is ready, inside the runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let calls = Rc::new(BrokerCalls {
            socket: UnixDatagram::from_std(socket.into())?,
            room: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: RefCell::default(),
            last_id: Cell::new(0),
            gone: Cell::new(false),
        });
        let reader = tokio::task::spawn_local(Rc::clone(&calls).read());
        Ok(Self { calls, reader })
    }

    /// Opens a file that lies below a directory that exports may come from.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub(crate) async fn open(&self, path: &Path, access: OpenMode) -> OpenResult {
        let path = path.to_owned();
        self.calls.call(|id| BrokerRequest::Open { id, access, path }).await
    }

    /// Opens the configuration to read it.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub(crate) async fn configuration(&self) -> OpenResult {
        self.calls.call(|id| BrokerRequest::Configuration { id }).await
    }

    /// Opens a file to read it that was named at the start.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub(crate) async fn read(&self, path: &Path) -> OpenResult {
        let path = path.to_owned();
        self.calls.call(|id| BrokerRequest::Read { id, path }).await
    }
}

impl Broker {
    /// The server has what it took over, and keeps it. It blocks nobody.
    pub(crate) fn settled(&self) {
        // A broker that is gone gives nothing back.
        let _gone = packet::send(self.calls.socket.as_fd(), &BrokerRequest::Settled.encode(), None);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl BrokerCalls {
    async fn call(&self, request: impl FnOnce(u64) -> BrokerRequest) -> OpenResult {
        timeout(PATIENCE, self.ask(request)).await.unwrap_or(Err(BrokerError::TooSlow))
    }

    async fn ask(&self, request: impl FnOnce(u64) -> BrokerRequest) -> OpenResult {
        let place = Arc::clone(&self.room).acquire_owned().await.map_err(|_| BrokerError::Gone)?;
        if self.gone.get() {
            return Err(BrokerError::Gone);
        }
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        let bytes = request(id).encode();
        if bytes.len() > MESSAGE_BYTES {
            return Err(BrokerError::Refused("the path is too long".to_owned()));
        }
        let (answer, answered) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, PendingCall { answer, _place: place });
        let send = || Ok(packet::send(self.socket.as_fd(), &bytes, None)?);
        if self.socket.async_io(Interest::WRITABLE, send).await.is_err() {
            self.waiting.borrow_mut().remove(&id);
            return Err(BrokerError::Gone);
        }
        answered.await.unwrap_or(Err(BrokerError::Gone))
    }

    /// Gives each answer to the call that waits for it, until the broker is gone.
    async fn read(self: Rc<Self>) {
        let receive = || Ok(packet::receive(self.socket.as_fd(), RecvFlags::DONTWAIT)?);
        let why = loop {
            match self.socket.async_io(Interest::READABLE, receive).await {
                Err(error) => break error.to_string(),
                Ok((bytes, _)) if bytes.is_empty() => break "it ended".to_owned(),
                Ok((bytes, files)) => {
                    if self.take(&bytes, files).is_none() {
                        break "it said something that cannot be understood".to_owned();
                    }
                }
            }
        };
        tracing::error!(
            reason = why,
            "the process that opens files for the server is gone: what is served goes on; restart the server when you can"
        );
        self.gone.set(true);
        self.waiting.borrow_mut().clear();
        self.room.close();
    }

    /// `None` for what no broker of ours says.
    fn take(&self, bytes: &[u8], files: Vec<OwnedFd>) -> Option<()> {
        let (id, answer) = match (BrokerReply::decode(bytes)?, <[OwnedFd; 1]>::try_from(files)) {
            (BrokerReply::Opened { id }, Ok([file])) => (id, Ok(file)),
            (BrokerReply::Missing { id }, Err(none)) if none.is_empty() => (id, Err(BrokerError::Missing)),
            (BrokerReply::Refused { id, why }, Err(none)) if none.is_empty() => {
                (id, Err(BrokerError::Refused(why)))
            }
            _ => return None,
        };
        let waiting = self.waiting.borrow_mut().remove(&id)?;
        // A call that was given up needs no file.
        drop(waiting.answer.send(answer));
        Some(())
    }
}
