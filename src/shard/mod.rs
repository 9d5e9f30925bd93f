//! The data plane: one shard is one pinned thread with one ring, and owns its connections for life.
//!
//! The control plane reaches it through [`ShardHandle`] only: a bounded channel and a doorbell.
#![forbid(unsafe_code)]

mod admit;
mod at_once;
mod batches;
#[cfg(feature = "bench")]
pub(crate) mod bench;
mod busy_poll;
mod connection;
mod devices;
mod ending;
mod fault_watch;
mod hang_up;
mod intake;
mod linger;
mod mailbox;
mod outbound;
mod phases;
mod receive;
mod recorder;
mod reply;
mod request_table;
mod room;
mod seniority;
mod serve;
#[cfg(feature = "sim")]
mod simulated;
mod single;
mod slow_sends;
mod stall;
mod waiting;
mod worker;

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::backend::{Export, ExportId};
use crate::config::Limits;
use crate::identity::PeerIdentity;
use crate::nbd::session::Session;
use crate::ring::RingError;
use crate::stats::Interval;
use crate::sys::{self, Doorbell};
use mailbox::{Collect, Message, Remove};
use worker::Shard;

#[cfg(feature = "sim")]
pub use simulated::{Holdings, SteppedShard};

/// A connection after its handshake, on its way to the shard that owns it from then on.
pub struct Negotiated {
    /// Its number, by which the log lines of its beginning and its end belong together.
    pub number: u64,
    /// The socket.
    pub socket: OwnedFd,
    /// It is one of TCP, which takes back what has not arrived when it is closed in the wrong way.
    pub over_tcp: bool,
    /// Which export.
    pub id: ExportId,
    /// The export: the shard's first connection of it opens its device there.
    pub export: Arc<Export>,
    /// What was negotiated.
    pub session: Session,
    /// Bytes that the client sent behind the handshake.
    pub leftover: Vec<u8>,
    /// Who.
    pub peer: PeerIdentity,
    /// Dropped when the connection is gone.
    pub permit: Box<dyn Any + Send>,
    /// Dropped when the descriptor is closed: from then on the socket is known to the shard's ring only.
    pub socket_permit: Box<dyn Any + Send>,
}

/// What becomes of the connections of an export that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// They go on; the export is gone with the last of them.
    WhenUnused,
    /// They end: what has begun is answered, the rest is not.
    AtOnce,
}

/// What a shard is started with.
pub struct ShardConfig {
    /// Its number, from 0.
    pub index: usize,
    /// The CPU to pin it to.
    pub cpu: Option<usize>,
    /// The limits of the server.
    pub limits: Arc<Limits>,
    /// Exports of files: how many devices may be open, how many may block.
    pub files: usize,
    /// Spin so long before sleeping.
    pub busy_poll: Duration,
    /// Record latencies.
    pub record: bool,
    /// Hand over requests that take longer one by one; needs `record`.
    pub slow: Option<Duration>,
    /// Called on the shard's thread when it has ended, with what it recorded since it was last asked.
    pub on_exit: Box<dyn FnOnce(Result<Box<Interval>, ShardError>) + Send>,
}

/// Why a shard could not start: the cause, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The CPU is not there.
    #[error("cannot run on CPU {0}: {1}; choose others with --cpus")]
    Cpu(usize, std::io::Error),
    /// Anything else of the kernel's.
    #[error("cannot start a shard ({0}): {1}")]
    System(&'static str, std::io::Error),
}

/// Why a shard ended when nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[error("a shard failed: this is a bug in ringnbd, its message stands above")]
pub struct ShardError;

/// The order to end, as it is given to a shard, and that to do so at once.
const END: u8 = 1;
const END_NOW: u8 = 2;

/// The control plane's end of a shard.
#[derive(Debug)]
pub struct ShardHandle {
    mailbox: Sender<Message>,
    doorbell: Arc<Doorbell>,
    connections: Arc<AtomicUsize>,
    is_pinned: bool,
    /// The order to end. Not a message: it must not wait for room in the mailbox of a shard that is stuck.
    end: Arc<AtomicU8>,
}

/// The shard's end of it.
struct ShardEnd {
    messages: Receiver<Message>,
    doorbell: Arc<Doorbell>,
    connections: Arc<AtomicUsize>,
    end: Arc<AtomicU8>,
}

impl ShardHandle {
    /// Starts a shard; returns when its ring is up.
    ///
    /// # Errors
    /// [`StartError`]: a sentence with the cause and the remedy.
    pub fn start(config: ShardConfig) -> Result<Self, StartError> {
        let (mut handle, shard_end) = Self::new(&config.limits)?;
        let (started, outcome) = bounded(1);
        let name = format!("shard-{}", config.index);
        let run = move || {
            if let Some(cpu) = config.cpu
                && let Err(error) = sys::pin_to_cpu(cpu)
            {
                let _ = started.send(Err(StartError::Cpu(cpu, error)));
                return;
            }
            match Shard::new(&config, shard_end) {
                Err(error) => {
                    let _ = started.send(Err(error));
                }
                Ok(shard) => {
                    let _ = started.send(Ok(shard.is_pinned));
                    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker::run(shard)));
                    (config.on_exit)(ended.map_err(|_panic| ShardError));
                }
            }
        };
        std::thread::Builder::new()
            .name(name)
            .spawn(run)
            .map_err(|error| StartError::System("thread", error))?;
        let died = || StartError::System("thread", std::io::Error::other("it ended while starting"));
        handle.is_pinned = outcome.recv().map_err(|_closed| died())??;
        Ok(handle)
    }

    /// Both ends of the way between the control plane and a shard.
    fn new(limits: &Limits) -> Result<(Self, ShardEnd), StartError> {
        let doorbell = Doorbell::new().map_err(|error| StartError::System("doorbell", error))?;
        let doorbell = Arc::new(doorbell);
        let (mailbox, messages) = bounded(limits.mailbox);
        let connections = Arc::new(AtomicUsize::new(0));
        let end = Arc::new(AtomicU8::new(0));
        let shard_end = ShardEnd {
            messages,
            doorbell: Arc::clone(&doorbell),
            connections: Arc::clone(&connections),
            end: Arc::clone(&end),
        };
        Ok((Self { mailbox, doorbell, connections, is_pinned: false, end }, shard_end))
    }

    /// Hands a connection over.
    ///
    /// # Errors
    /// Gives it back when the mailbox is full or the shard is gone.
    pub fn connect(&self, negotiated: Negotiated) -> Result<(), Box<Negotiated>> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        match self.mailbox.try_send(Message::Connect(Box::new(negotiated))) {
            Ok(()) => {
                self.doorbell.ring();
                Ok(())
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                self.connections.fetch_sub(1, Ordering::Relaxed);
                match message {
                    Message::Connect(negotiated) => Err(negotiated),
                    _ => unreachable!("the message is the one that was sent"),
                }
            }
        }
    }

    /// Whether its buffer memory is locked, and registered with its ring.
    pub fn is_pinned(&self) -> bool {
        self.is_pinned
    }

    /// Connections that the shard has or is about to get.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Asks for what the shard recorded since the last time; `answer` is called on its thread and must not wait. With `spare`, an interval
    /// of an earlier answer, its memory is used again. False when the shard is gone or has no room for the question.
    pub fn collect(
        &self,
        spare: Option<Box<Interval>>,
        connections: bool,
        answer: impl FnOnce(Box<Interval>) + Send + 'static,
    ) -> bool {
        let question = Collect { spare, connections, answer: Box::new(answer) };
        let sent = self.mailbox.try_send(Message::Collect(question)).is_ok();
        self.doorbell.ring();
        sent
    }

    /// Has an export given up, which no connection is handed over for any more; `done` is called on the shard's thread when nothing of it is
    /// left there, and dropped when the shard ends before. False when the shard is gone or has no room for the message.
    pub fn remove(&self, id: ExportId, how: Removal, done: impl FnOnce() + Send + 'static) -> bool {
        let message = Message::Remove(Box::new(Remove { id, how, done: Box::new(done) }));
        let sent = self.mailbox.try_send(message).is_ok();
        self.doorbell.ring();
        sent
    }

    /// Asks the shard to finish what has begun, to begin nothing more, and to end. Never waits.
    pub fn shutdown(&self) {
        self.end.fetch_max(END, Ordering::Release);
        self.doorbell.ring();
    }

    /// Asks the shard to end now, whatever is unfinished. Never waits.
    pub fn cut_off(&self) {
        self.end.fetch_max(END_NOW, Ordering::Release);
        self.doorbell.ring();
    }
}

#[cfg(test)]
mod tests;
