//! How a connection ends.

use std::fmt::{self, Display, Formatter};

use crate::stats::{Operation, Timing};

/// What the connection is doing about its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
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
    /// The records of TLS cannot be followed.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "there are none"))]
    Insecure,
    /// A key of TLS 1.2 has made what it may.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "there are none"))]
    WornKey,
    /// It kept others waiting.
    Evicted,
    /// Its export was removed.
    Removed,
    /// An operator cut it off.
    Ended,
    /// Its export could not be opened here.
    NoDevice,
    /// It has lasted as long as it may.
    TooOld,
    /// Its client would be refused now.
    Unwelcome,
    /// Its client asked to hear of a larger size, by this end.
    Grown,
    /// Another process serves it from now on.
    Moved,
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
            Self::Insecure => "wrong TLS",
            Self::WornKey => {
                "a key of TLS 1.2 has encrypted as much as it may, and the client connects again"
            }
            Self::Evicted => "evicted: it kept others waiting",
            Self::Removed => "the export was removed",
            Self::Ended => "cut off by an operator",
            Self::NoDevice => "the export could not be opened",
            Self::TooOld => "it has lasted as long as a session may",
            Self::Unwelcome => "its client may not use the export any more",
            Self::Grown => "the export has become larger, and the client connects again for that",
            Self::Moved => "another process serves it from now on",
            Self::Stopping => "the server stops",
            Self::CutOff => "cut off: it did not finish before the shutdown timeout",
        })
    }
}

/// What a connection did, for the log line of its end.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    /// Requests whose reply is out.
    pub(crate) requests: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
}

impl Traffic {
    /// A reply is out.
    pub(crate) fn count(&mut self, timing: &Timing) {
        self.requests += 1;
        if timing.is(Operation::Read) {
            self.read_bytes += timing.length;
        } else if timing.is(Operation::Write) {
            self.written_bytes += timing.length;
        }
    }
}
