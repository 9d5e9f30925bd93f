//! How a connection ends.

use std::fmt::{self, Display, Formatter};

use crate::shard::frontend::nbd::connection::Connection;
use crate::stats::{Operation, Timing};

/// What the connection is doing about its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Not ending.
    No,
    /// No more requests; what is in flight is answered first.
    Graceful,
    /// At once; nothing more can or may be sent.
    Abort,
}

/// Why a connection ends: the first cause that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// DISC.
    Disconnected,
    /// The end of the stream, between two requests.
    Closed,
    /// The end of the stream, somewhere else.
    ClosedWithin,
    /// The kernel's errno, or that of a send that moved nothing.
    Broken(i32),
    /// Of a reply a part has left, and the rest is gone: the errno of bringing it in.
    Torn(i32),
    /// What came is no NBD.
    Violation,
    /// It kept others waiting.
    Evicted,
    /// Its export was removed.
    Removed,
    /// The server ends.
    Stopping,
    /// The server ends, and this did not in time.
    CutOff,
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disconnected => "the client disconnected",
            Self::Closed => "the client closed it",
            Self::ClosedWithin => "the client closed it within a request",
            Self::Broken(libc::ECONNRESET | libc::EPIPE) => "reset by the client",
            Self::Broken(errno) => return write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
            Self::Torn(errno) => {
                let cause = std::io::Error::from_raw_os_error(*errno);
                return write!(f, "the rest of a reply is gone: was its file cut? ({cause})");
            }
            Self::Violation => "protocol violation",
            Self::Evicted => "evicted: it kept others waiting",
            Self::Removed => "the export was removed",
            Self::Stopping => "the server stops",
            Self::CutOff => "cut off: it did not finish before the shutdown timeout",
        })
    }
}

/// What a connection did, for the log line of its end.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    /// Requests whose reply is out.
    requests: u64,
    read_bytes: u64,
    written_bytes: u64,
}

impl Totals {
    /// A reply is out.
    pub(crate) fn count(&mut self, timing: &Timing) {
        self.requests += 1;
        match timing.operation {
            Operation::Read => self.read_bytes += timing.length,
            Operation::Write => self.written_bytes += timing.length,
            _ => {}
        }
    }
}

impl Connection {
    /// Notes why it ends, unless a cause is known.
    pub(crate) fn because(&mut self, reason: Reason) -> &mut Self {
        self.reason.get_or_insert(reason);
        self
    }

    /// Tells of its end, `now` by the shard's clock. Its beginning was told by the control plane, with the same number.
    pub(crate) fn tell_end(&self, now: u64) {
        let Totals { requests, read_bytes, written_bytes } = self.totals;
        let reason = self.reason.unwrap_or(Reason::Closed);
        let seconds = now.saturating_sub(self.since) as f64 / 1e9;
        tracing::info!(
            connection = self.number,
            peer = %self.name,
            %reason,
            requests,
            read_bytes,
            written_bytes,
            seconds,
            "connection closed"
        );
    }

    /// Begins to end; an abort overrules a graceful end.
    pub(crate) fn end(&mut self, ending: Ending) {
        if self.ending != Ending::Abort {
            self.ending = ending;
        }
        self.outbound.let_go();
        if self.ending == Ending::Abort {
            self.peer.abandon.abandon();
            self.forgotten.extend(self.outbound.abandon());
            self.unparsed = None;
            self.waiting = None;
            if self.receive.is_none() {
                self.forget_payload();
            }
        }
    }

    /// Ends without answering what did not begin: a client that reconnects sends it again, and to one that is told of an error it is one.
    /// `now` is by the shard's clock.
    pub(crate) fn stop(&mut self, now: u64) {
        if self.ending != Ending::No {
            return;
        }
        self.want_lingering(now);
        self.because(Reason::Stopping).ending = Ending::Graceful;
        self.unparsed = None;
        self.waiting = None;
        self.forgotten.extend(self.outbound.forget_held_back());
    }

    /// Between requests, with nothing in flight.
    pub(crate) fn is_idle(&self) -> bool {
        let nothing_came = self.inbound.is_at_boundary() && self.waiting.is_none() && self.unparsed.is_none();
        nothing_came && self.account.in_flight() == 0 && self.outbound.is_empty()
    }
}
