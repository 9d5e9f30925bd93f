//! The end of a connection by the server's will, over TCP.
//!
//! A socket of TCP that is closed while bytes in it are unread, or that gets more of them later, resets the connection: replies that the
//! client has not received yet are taken back, though the server has counted them as sent. So it is closed in two steps: the client is told
//! that no more will come, and what it still sends is thrown away until it closes its end as well, or its time is over.
//! A client for which nothing was under way has [`RECENT`] for that; when its last reply is older, it is closed at once, so that nobody
//! has to wait for a client that sleeps. A unix socket loses nothing when it is closed.

use std::net::Shutdown;
use std::time::Duration;

use crate::ring::{OpKey, Operation};
use crate::shard::frontend::nbd::connection::Connection;
use crate::shard::frontend::nbd::ending::Ending;

/// A reply is fetched within this time by whoever asks for more.
const RECENT: Duration = Duration::from_secs(1);

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
    fn want(&mut self, briefly: bool) {
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

impl Connection {
    /// The server ends the connection, `now` by the shard's clock, in nanoseconds.
    pub(crate) fn want_lingering(&mut self, now: u64) {
        let is_under_way = !self.is_idle() || self.receive.is_none();
        let is_recent = self.requests > 0 && now < self.outbound.started + RECENT.as_nanos() as u64;
        if is_under_way || is_recent {
            self.linger.want(!is_under_way);
        }
    }

    /// The first step, when everything is answered: what tells the client that no more will come, and how long it has to close its end.
    /// `patience` is for a client that was busy.
    pub(crate) fn begin_lingering(&mut self, patience: Duration) -> Option<(Operation, Duration)> {
        let Linger::Wanted { briefly } = self.linger else { return None };
        let is_due = self.ending == Ending::Graceful && self.has_done_all();
        is_due.then(|| {
            self.linger = Linger::Discarding;
            let operation = Operation::Shutdown { socket: self.socket, how: Shutdown::Write };
            (operation, if briefly { RECENT } else { patience })
        })
    }

    /// A timer has ended; false when it is none of these.
    pub(crate) fn lingered(&mut self, timer: OpKey) -> bool {
        if self.linger_timer != Some(timer) {
            return false;
        }
        self.linger_timer = None;
        if self.discards() {
            self.linger = Linger::Over;
        }
        true
    }

    /// The timer, when it is of no use any more: told once.
    pub(crate) fn useless_timer(&mut self) -> Option<OpKey> {
        let timer = self.linger_timer.filter(|_| !self.discards())?;
        (!std::mem::replace(&mut self.timer_cancelled, true)).then_some(timer)
    }

    /// Whether what comes is thrown away.
    pub(crate) fn discards(&self) -> bool {
        self.linger == Linger::Discarding && self.ending == Ending::Graceful
    }

    /// Whether the socket must stay open for the client's sake.
    pub(crate) fn lingers(&self) -> bool {
        matches!(self.linger, Linger::Wanted { .. } | Linger::Discarding) && self.ending == Ending::Graceful
    }
}
