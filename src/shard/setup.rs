//! What a shard is started with, and what it and its handle share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use crate::config::Limits;
use crate::ring::RingError;
use crate::shard::mailbox::Message;
use crate::stats::Interval;
use crate::sys::Doorbell;

/// What a shard is started with.
pub struct ShardConfig {
    /// Its number, from 0.
    pub index: usize,
    /// The CPU to pin it to.
    pub cpu: Option<usize>,
    /// The limits of the server.
    pub limits: Arc<Limits>,
    /// Files and block devices of all exports: how many may be open, how many may block.
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
pub enum ShardStartError {
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

/// Why a shard ended unasked.
#[derive(Debug, thiserror::Error)]
#[error("a shard failed: this is a bug in ringnbd, its message stands above")]
pub struct ShardError;

/// The order to end, as it is given to a shard, and that to do so at once.
pub(super) const END: u8 = 1;
pub(super) const END_NOW: u8 = 2;

/// The shard's end of it.
pub(super) struct ShardEnd {
    pub(super) messages: Receiver<Message>,
    pub(super) doorbell: Arc<Doorbell>,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) end: Arc<AtomicU8>,
    pub(super) rates_changed: Arc<AtomicBool>,
}
