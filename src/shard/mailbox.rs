//! What the control plane tells a shard.

use super::Negotiated;
use crate::stats::Interval;

/// One message.
pub(super) enum Message {
    /// Own this connection from now on.
    Connect(Box<Negotiated>),
    /// Hand over what was recorded.
    Collect(Collect),
}

/// A question for what a shard recorded since the last one.
pub(super) struct Collect {
    /// An interval to go on with; its memory is used again.
    pub(super) spare: Option<Box<Interval>>,
    /// List the connections too.
    pub(super) connections: bool,
    /// Takes the answer, on the shard's thread: it must not wait.
    pub(super) answer: Box<dyn FnOnce(Box<Interval>) + Send>,
}
