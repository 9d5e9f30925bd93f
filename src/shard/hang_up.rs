//! A client that sends no more: does it still wait for replies, or was it killed?
//!
//! Both end its stream in the same way, and one that waits must get its replies. So while requests of it are carried out, the socket is
//! watched for the end of the other direction. A local client's end shows at once; that of one behind TCP when something is sent to
//! it, which keep-alive does after a while.

use super::connection::Connection;
use super::ending::{Ending, Reason};
use crate::ring::{OpKey, Operation};

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct HangUp {
    /// Its stream has ended, without a DISC before.
    stream_ended: bool,
    /// The socket is watched, by the operation that stands for its receive, or was.
    watched: bool,
}

impl Connection {
    /// A receive found the end of the stream.
    pub(super) fn stream_ended(&mut self) {
        self.hang_up.stream_ended = true;
        match self.inbound.is_at_boundary() {
            true => self.because(Reason::Closed).end(Ending::Graceful),
            false => self.because(Reason::ClosedWithin).end(Ending::Abort),
        }
    }

    /// The watch that should be started now, if any.
    pub(super) fn watch_client(&mut self) -> Option<Operation> {
        if !self.should_watch_client() {
            return None;
        }
        self.hang_up.watched = true;
        Some(Operation::AwaitHangUp { socket: self.socket })
    }

    /// Whether it should be found out.
    pub(super) fn should_watch_client(&self) -> bool {
        let HangUp { stream_ended, watched } = self.hang_up;
        let may = stream_ended && !watched && !self.cancelled && !canary!(HangUpUnseen);
        may && self.ending == Ending::Graceful && self.tasks > 0
    }

    /// The watch has ended.
    pub(super) fn hung_up(&mut self, result: Result<u32, i32>) {
        self.receive = None;
        if result.is_ok() {
            self.peer.abandon.abandon();
        }
    }

    /// The receive or watch in flight, when it is of no use any more.
    pub(super) fn useless_receive(&self) -> Option<OpKey> {
        let watches = self.hang_up.watched && self.tasks > 0;
        self.receive.filter(|_| self.ending == Ending::Graceful && !watches)
    }

    /// Whether nothing is left to wait for before the connection can go.
    pub(super) fn is_over(&self) -> bool {
        self.ending != Ending::No && self.tasks == 0 && self.operations == 0 && self.outbound.is_empty()
    }
}
