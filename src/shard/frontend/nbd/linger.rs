//! The end of a connection by the server's will, over TCP.
//!
//! A socket of TCP that is closed while bytes in it are unread, or that gets more of them later, resets the
//! connection: replies that the client has not received yet are taken back, though the server has counted
//! them as sent. So it is closed in two steps: the client is told that no more will come, and what it still
//! sends is thrown away until it closes its end as well, or its time is over. A client for which nothing was
//! under way has [`RECENT`] for that; when its last reply is older, it is closed at once, so that nobody has
//! to wait for a client that sleeps; with TLS it may miss the goodbye then. A unix socket loses nothing when
//! it is closed. Of either kind, it is shut down before (`Connection::parting_shutdown`).

use std::time::Duration;

/// A client that goes on fetches its replies within this time.
pub(crate) const RECENT: Duration = Duration::from_secs(1);

/// How far it is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linger {
    /// The socket can be closed at any time.
    #[default]
    Never,
    /// It cannot, if the server wants to end it while requests or bytes of the client are under way.
    OverTcp,
    /// As soon as everything has been answered; for a short time only when nothing was under way.
    Wanted { briefly: bool },
    /// The client knows that no more will come, and what it sends is thrown away.
    Discarding,
    /// Its end is closed.
    Over,
}

impl Linger {
    /// It must not be closed at once.
    pub(crate) fn want(&mut self, briefly: bool) {
        if matches!(self, Self::OverTcp | Self::Wanted { briefly: true }) && !canary!(ClosedUnread) {
            *self = Self::Wanted { briefly };
        }
    }

    /// A receive has ended after the end of the connection was decided.
    pub(crate) fn received(&mut self, result: Result<u32, i32>) {
        match (result, &self) {
            (Ok(1..), Self::Discarding) => {}
            (Ok(1..), _) => self.want(false),
            (Err(libc::ENOBUFS | libc::EINTR | libc::EAGAIN | libc::ECANCELED), _) => {}
            (Ok(0) | Err(_), _) => *self = Self::Over,
        }
    }
}
