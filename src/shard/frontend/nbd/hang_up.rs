//! A client that sends no more: does it still wait for replies, or was it killed?
//!
//! Both end its stream in the same way, and one that waits must get its replies. So while requests of it are
//! carried out, the socket is watched for the end of the other direction. A local client's end shows within
//! [`REST`]; that of one behind TCP when something is sent to it, which keep-alive does after a minute.
//!
//! A client that has as many requests under way as it may, or waits for memory, is not received from. Whether
//! it is gone is looked at once a second (`Connection::glance`): a poll, and its cancellation behind it.
//!
//! A poll of the ring ends for the end of one direction as well, whether asked for it or not, and would do so
//! again at once. So between two polls the watch rests.

use std::time::Duration;

/// What is known of it.
#[derive(Debug, Default)]
pub(crate) struct HangUp {
    /// Its stream has ended, without a DISC before.
    pub(crate) stream_ended: bool,
    pub(crate) watch: Watch,
}

/// The watch of the socket: an operation that stands for the connection's receive.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    /// It should be started.
    #[default]
    Due,
    UnderWay,
    /// The client still takes replies: a rest should be started.
    RestDue,
    Resting,
    Over,
}

/// Between two polls of a socket whose other end sends no more.
pub(crate) const REST: Duration = Duration::from_secs(1);
