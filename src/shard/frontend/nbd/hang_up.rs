//! A client that sends no more: does it still wait for replies, or was it killed?
//!
//! Both end its stream in the same way, and one that waits must get its replies. So while requests of it are carried out, the socket is
//! watched for the end of the other direction. A local client's end shows within [`REST`]; that of one behind TCP when something is sent to
//! it, which keep-alive does after a minute.
//!
//! A client that has as many requests under way as it may, or waits for memory, is not received from. Whether it is gone is looked at once a
//! second ([`Connection::glance`]): a poll, and its cancellation behind it.
//!
//! A poll of the ring ends for the end of one direction as well, whether asked for it or not, and would do so again at once. So between
//! two polls the watch rests.

use std::time::Duration;

use crate::ring::{OpKey, Operation};
use crate::shard::frontend::nbd::connection::Connection;
use crate::shard::frontend::nbd::ending::{Ending, Reason};

/// What is known of it.
#[derive(Debug, Default)]
pub(crate) struct HangUp {
    /// Its stream has ended, without a DISC before.
    stream_ended: bool,
    watch: Watch,
}

/// The watch of the socket: an operation that stands for the connection's receive.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Watch {
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
const REST: Duration = Duration::from_secs(1);

impl Connection {
    /// A receive found the end of the stream.
    pub(crate) fn stream_ended(&mut self) {
        self.hang_up.stream_ended = true;
        match self.inbound.is_at_boundary() {
            true => self.because(Reason::Closed).end(Ending::Graceful),
            false => self.because(Reason::ClosedWithin).end(Ending::Abort),
        }
    }

    /// The watch that should be started now, if any.
    pub(crate) fn watch_client(&mut self) -> Option<Operation> {
        if !self.should_watch_client() {
            return None;
        }
        let (watch, operation) = match self.hang_up.watch {
            Watch::RestDue => (Watch::Resting, Operation::sleep(REST)),
            _ => (Watch::UnderWay, Operation::AwaitHangUp { socket: self.socket }),
        };
        self.hang_up.watch = watch;
        Some(operation)
    }

    /// Whether it should be found out.
    pub(crate) fn should_watch_client(&self) -> bool {
        let HangUp { stream_ended, watch } = self.hang_up;
        let is_due = stream_ended && matches!(watch, Watch::Due | Watch::RestDue);
        is_due
            && !self.cancelled
            && !canary!(HangUpUnseen)
            && self.ending == Ending::Graceful
            && self.account.working() > 0
    }

    /// What is to be submitted to see whether it is gone, while requests of it are carried out and nothing is received that would tell.
    pub(crate) fn glance(&self) -> Option<Operation> {
        let is_blind = self.receive.is_none() && self.ending == Ending::No && self.account.working() > 0;
        (is_blind && !canary!(HangUpUnseen)).then(|| Operation::AwaitHangUp { socket: self.socket })
    }

    /// A poll of the watch has ended, with the events that it saw, or a rest.
    pub(crate) fn watched(&mut self, result: Result<u32, i32>) {
        const GONE: u32 = (libc::POLLHUP | libc::POLLERR) as u32;
        self.receive = None;
        if self.ending == Ending::No {
            if result.is_ok_and(|events| events & GONE != 0) {
                self.because(Reason::Broken(libc::EPIPE)).end(Ending::Abort);
            }
            return;
        }
        self.hang_up.watch = match result {
            _ if self.hang_up.watch == Watch::Resting => Watch::Due,
            Ok(events) if events & GONE == 0 && !canary!(HalfCloseIsEnd) => Watch::RestDue,
            Ok(_) => {
                self.peer.abandon.abandon();
                Watch::Over
            }
            Err(_) => Watch::Over,
        };
    }

    /// The receive or watch in flight, when it is of no use any more.
    pub(crate) fn useless_receive(&self) -> Option<OpKey> {
        let watch = self.hang_up.watch;
        let is_useless = match self.ending {
            Ending::No => false,
            Ending::Graceful if self.discards() => false,
            Ending::Graceful => {
                !matches!(watch, Watch::UnderWay | Watch::Resting) || self.account.working() == 0
            }
            // What is in flight on the socket ends with it.
            Ending::Abort => watch == Watch::Resting,
        };
        self.receive.filter(|_| is_useless)
    }

    /// Whether nothing is left to wait for before the connection can go.
    pub(crate) fn is_over(&self) -> bool {
        self.has_done_all() && !self.lingers()
    }

    /// Whether it ends, and nothing of it is in flight.
    pub(crate) fn has_done_all(&self) -> bool {
        self.ending != Ending::No
            && self.account.working() == 0
            && self.operations == 0
            && self.outbound.is_empty()
    }
}
