//! What the control plane tells a shard.

use super::Negotiated;

/// One message.
pub(super) enum Message {
    /// Own this connection from now on.
    Connect(Box<Negotiated>),
    /// Finish and end.
    Shutdown,
}
