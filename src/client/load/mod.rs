//! A load generator for NBD servers: one thread, one ring, many connections.
//!
//! [`plan`] (pure) decides what it does next. `framing` (pure) parses the replies. `pattern` and `tracker`
//! (pure) say what content must be there. `run` is the loop that moves bytes and reads the clock.
//!
//! *Closed loop*: as many requests as the depth allows are always in flight; latency counts from the moment
//! at which the request is handed to the kernel. *Open loop* (a rate is given): requests have intended start
//! times, and latency counts from those, so that a stall of the server shows in full in the percentiles of
//! all the requests that it delayed, sent or not ("coordinated omission").

mod complete;
mod connection;
pub(in crate::client) mod framing;
mod measure;
pub(crate) mod pattern;
pub(crate) mod plan;
#[cfg(not(feature = "tls"))]
#[path = "no_records.rs"]
mod records;
#[cfg(feature = "tls")]
mod records;
pub(crate) mod results;
mod run;
mod set_up;
mod slots;
mod start;
mod tracker;
pub(crate) mod verify;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{ClientError, Timeouts};
use crate::block::BlockError;
use crate::client::uri::NbdUri;
use crate::nbd::client::replies::ReplyError;
use crate::nbd::session::ReplyMode;
use crate::ring::RingError;
use crate::sys::Doorbell;

pub use plan::{LoadKind, Pattern};
pub use results::Results;
pub use set_up::Load;

/// What load to generate.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    pub uri: NbdUri,
    /// Operations and their places.
    pub pattern: Pattern,
    /// Bytes of one operation.
    pub block_size: u32,
    /// Requests in flight on one connection.
    pub depth: usize,
    pub connections: usize,
    /// Open loop: operations in a second over all connections.
    pub rate: Option<u64>,
    /// How long operations start, after the warm-up; `None`: until `operations` have.
    pub duration: Option<Duration>,
    /// How long the load runs before anything counts.
    pub warm_up: Duration,
    /// How many operations start, after the warm-up.
    pub operations: Option<u64>,
    /// Where the working area begins, in bytes from the start of the export.
    pub offset: u64,
    /// Bytes of the working area; `None`: to the end of the export.
    pub size: Option<u64>,
    /// Of the places, the mix and the content.
    pub seed: u64,
    /// Write content that tells where and when it was written, check what is read, and read everything back
    /// at the end.
    pub verify: bool,
    /// The form of replies to ask for.
    pub replies: Replies,
    pub timeouts: Timeouts,
    /// With TLS: a key of ours is renewed after so many records; `None`: when it has to be.
    pub tls_renewal: Option<u64>,
}

/// Which form of replies to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replies {
    /// Structured where the server has them, else simple.
    Best,
    /// This one or none.
    Exactly(ReplyMode),
}

/// Why there was no run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The server could not be reached or did not agree.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The export does not allow what was asked.
    #[error("{0}")]
    Unfit(String),
    #[error("cannot set up {0}: {1}")]
    System(&'static str, std::io::Error),
}

/// Why a run ended before its time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadFailure {
    #[error("the server closed connection {connection} with {in_flight} requests in flight")]
    Closed {
        /// Its number, from 0.
        connection: usize,
        /// Requests without a reply.
        in_flight: usize,
    },
    #[error("connection {connection} failed with {in_flight} requests in flight: {}", std::io::Error::from_raw_os_error(*.errno))]
    Socket {
        /// Its number, from 0.
        connection: usize,
        /// Requests without a reply.
        in_flight: usize,
        errno: i32,
    },
    #[error("connection {connection}: {error}")]
    Protocol {
        /// Its number, from 0.
        connection: usize,
        error: ReplyError,
    },
    #[error("connection {connection}: {sentence}")]
    Tls {
        /// Its number, from 0.
        connection: usize,
        /// What is wrong with a record.
        sentence: String,
    },
    /// Replies did not come.
    #[error("the server did not answer {in_flight} requests within {}", humantime::format_duration(*.waited))]
    Silent {
        /// Requests without a reply.
        in_flight: usize,
        /// After the last request was sent.
        waited: Duration,
    },
    /// The content was wrong; the verification says how.
    #[error("verification failed: {0}")]
    Content(String),
    /// A block could not be read back.
    #[error("the block at {offset} could not be read back: {error}")]
    ReadBack {
        /// Bytes from the start of the export.
        offset: u64,
        error: BlockError,
    },
}

/// A way to end a run from another thread.
#[derive(Debug)]
pub struct Stop {
    is_requested: AtomicBool,
    doorbell: Doorbell,
}

impl Stop {
    /// Nothing is requested yet.
    ///
    /// # Errors
    /// `EMFILE` and the like.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { is_requested: AtomicBool::new(false), doorbell: Doorbell::new()? })
    }

    /// Asks the run to start no more operations and to end when those in flight are answered.
    pub fn request(&self) {
        self.is_requested.store(true, Ordering::Release);
        self.doorbell.ring();
    }

    fn is_requested(&self) -> bool {
        self.is_requested.load(Ordering::Acquire)
    }
}

/// One second of a run, or what remains at its end.
#[derive(Debug)]
pub struct LoadInterval<'a> {
    /// From the end of the warm-up; zero during it.
    pub start: Duration,
    /// How long it took.
    pub length: Duration,
    /// It belongs to the warm-up, and does not count.
    pub is_warm_up: bool,
    /// Latencies, by the index of [`LoadKind`], in nanoseconds.
    pub latency: [&'a Histogram<u64>; LoadKind::COUNT],
}

/// Is told of a run's progress.
pub trait Observer {
    /// About once a second, and at the end of the warm-up and of the run.
    fn interval(&mut self, interval: &LoadInterval<'_>);
    /// All operations are over and written blocks are now read back.
    fn reading_back(&mut self) {}
}
