//! What the control plane tells a shard.

use super::{Negotiated, Removal};
use crate::backend::ExportId;
use crate::stats::Interval;

/// One message.
pub(super) enum Message {
    /// Own this connection from now on.
    Connect(Box<Negotiated>),
    /// Hand over what was recorded.
    Collect(Collect),
    /// Give an export up.
    Remove(Box<Remove>),
}

/// An export that nobody connects to any more.
pub(super) struct Remove {
    pub(super) id: ExportId,
    /// What becomes of its connections.
    pub(super) how: Removal,
    pub(super) done: Done,
}

/// Called on the shard's thread when it has nothing of an export any more: no connection, no device, no count. It must not wait.
pub(super) type Done = Box<dyn FnOnce() + Send>;

/// A question for what a shard recorded since the last one.
pub(super) struct Collect {
    /// An interval to go on with; its memory is used again.
    pub(super) spare: Option<Box<Interval>>,
    /// List the connections too.
    pub(super) connections: bool,
    /// Takes the answer, on the shard's thread: it must not wait.
    pub(super) answer: Box<dyn FnOnce(Box<Interval>) + Send>,
}
