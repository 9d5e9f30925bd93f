//! How a connection comes to its end: which cause is told, what is still sent, and how the client learns of
//! it.

use std::net::Shutdown;
use std::time::Duration;

use crate::ring::{OpKey, Operation};
use crate::shard::frontend::nbd::closing::{Closing, Reason, Traffic};
use crate::shard::frontend::nbd::connection::Connection;
use crate::shard::frontend::nbd::hang_up::{HangUp, REST, Watch};
use crate::shard::frontend::nbd::hold::SocketOwner;
use crate::shard::frontend::nbd::linger::{Linger, RECENT};

impl Connection {
    /// Notes why it ends, unless a cause is known.
    pub(crate) fn because(&mut self, reason: Reason) -> &mut Self {
        self.reason.get_or_insert(reason);
        self
    }

    /// Tells of its end, `now` by the shard's clock. Its beginning was told by the control plane, with the
    /// same number.
    pub(crate) fn tell_end(&self, now: u64) {
        let Traffic { requests, read_bytes, written_bytes } = self.traffic;
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
    pub(crate) fn end(&mut self, closing: Closing) {
        if self.closing != Closing::Abort {
            self.closing = closing;
        }
        self.let_go();
        self.leave_gate();
        if self.closing == Closing::Abort {
            self.forget_records();
            self.peer.abandon.abandon();
            self.forgotten.extend(self.outbound.abandon());
            let unsealed = self.forget_tail();
            self.forgotten.extend(unsealed);
            self.unparsed = None;
            self.waiting = None;
            if self.receive.is_none() {
                self.forget_payload();
            }
        }
    }

    /// Ends without answering what did not begin: a client that reconnects sends it again, and to one that is
    /// told of an error it is one. `now` is by the shard's clock.
    pub(crate) fn stop(&mut self, now: u64) {
        if self.closing != Closing::No {
            return;
        }
        self.want_lingering(now);
        self.because(Reason::Stopping).closing = Closing::Graceful;
        self.unparsed = None;
        self.waiting = None;
        self.leave_gate();
        self.forgotten.extend(self.outbound.forget_held_back());
        self.forget_late_payload();
    }

    /// As [`Connection::stop`], for a client that connects again as soon as it sees the end of the stream:
    /// what it sends until then is thrown away, over a unix socket too, so that it sees no other error.
    pub(crate) fn stop_and_tell(&mut self, now: u64) {
        if self.closing == Closing::No {
            self.because(Reason::Grown).stop(now);
            self.linger = Linger::Wanted { briefly: false };
        }
    }

    /// Ends with the next request, which is refused, or now if it is idle. `now` is by the shard's clock.
    pub(crate) fn turn_away(&mut self, now: u64) {
        self.refuses.get_or_insert(Reason::Unwelcome);
        // A request that waits for memory or a rate was not refused, and must not be carried out.
        if self.has_nothing_under_way() || self.waiting.is_some() || self.throttled.is_some() {
            self.because(Reason::Unwelcome).stop(now);
        }
    }

    /// Whether it is to end, and there is nothing to wait for.
    pub(crate) fn may_be_turned_away(&self) -> bool {
        self.refuses == Some(Reason::Unwelcome) && self.has_nothing_under_way()
    }

    /// Whether no request has begun that is not answered; the front of one may be there.
    fn has_nothing_under_way(&self) -> bool {
        self.ledger.in_flight() == 0 && self.outbound.is_empty()
    }

    /// Gives back the memory of a payload that will not be written: a READ that is to be read again may wait
    /// for it.
    pub(crate) fn forget_late_payload(&mut self) {
        if self.receive.is_none() && !canary!(LatePayloadKept) {
            self.forget_payload();
        }
    }

    /// Whether enough was refused: a client that has heard it once may leave. Of a removed export requests
    /// may still be under way, and more may be behind them, so that their client hears what became of each;
    /// but not without end.
    #[cold]
    pub(crate) fn has_told(&mut self) -> bool {
        /// Requests, and parts of payloads.
        const LAST_LOOKS: u16 = 4096;
        if self.is_removed() {
            self.last_looks += 1;
            return self.last_looks >= LAST_LOOKS;
        }
        self.has_refused && !self.outbound.holds_back()
    }

    /// Its export was removed, and it ends when nothing of it is under way.
    pub(crate) fn is_removed(&self) -> bool {
        self.refuses == Some(Reason::Removed)
    }

    /// Between requests, with nothing in flight.
    pub(crate) fn is_idle(&self) -> bool {
        let nothing_waits = self.waiting.is_none() && self.throttled.is_none();
        let nothing_came = self.inbound.is_at_boundary() && nothing_waits && self.unparsed.is_none();
        nothing_came && !self.is_within_record() && self.ledger.in_flight() == 0 && self.outbound.is_empty()
    }
}

/// A client that sends no more; see [`hang_up`](super::hang_up).
impl Connection {
    /// A receive found the end of the stream.
    pub(crate) fn stream_ended(&mut self) {
        self.hang_up.stream_ended = true;
        match self.inbound.is_at_boundary() && !self.is_within_record() {
            true => self.because(Reason::Closed).end(Closing::Graceful),
            false => self.because(Reason::ClosedWithin).end(Closing::Abort),
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
            && self.closing == Closing::Graceful
            && self.ledger.working() > 0
    }

    /// What is to be submitted to see whether it is gone, while requests of it are carried out or held back
    /// and nothing is received that would tell.
    pub(crate) fn glance(&self) -> Option<Operation> {
        let has_requests = self.ledger.working() > 0 || self.throttled.is_some();
        let is_blind = self.receive.is_none() && self.closing == Closing::No && has_requests;
        (is_blind && !canary!(HangUpUnseen)).then(|| Operation::AwaitHangUp { socket: self.socket })
    }

    /// A poll of the watch has ended, with the events that it saw, or a rest.
    pub(crate) fn watched(&mut self, result: Result<u32, i32>) {
        const GONE: u32 = (libc::POLLHUP | libc::POLLERR) as u32;
        self.receive = None;
        self.hold.cancelling = false;
        if self.closing == Closing::No {
            if result.is_ok_and(|events| events & GONE != 0) {
                self.because(Reason::Broken(libc::EPIPE)).end(Closing::Abort);
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
        let is_useless = match self.closing {
            Closing::No => false,
            Closing::Graceful if self.discards() => false,
            Closing::Graceful => {
                !matches!(watch, Watch::UnderWay | Watch::Resting) || self.ledger.working() == 0
            }
            // What is in flight on the socket ends with it.
            Closing::Abort => watch == Watch::Resting,
        };
        self.receive.filter(|_| is_useless)
    }

    /// Whether nothing is left to wait for before the connection can go.
    pub(crate) fn is_over(&self) -> bool {
        self.has_done_all() && !self.lingers()
    }

    /// Whether it ends, and nothing of it is in flight. A connection that was offered to another process
    /// comes here again when it is settled.
    pub(crate) fn has_done_all(&self) -> bool {
        self.closing != Closing::No
            && self.hold.owner != SocketOwner::Offered
            && self.ledger.working() == 0
            && self.operations == 0
            && self.outbound.is_empty()
    }
}

/// The end by the server's will; see [`linger`](super::linger).
impl Connection {
    /// The server ends the connection, `now` by the shard's clock, in nanoseconds.
    pub(crate) fn want_lingering(&mut self, now: u64) {
        let is_under_way = !self.is_idle() || self.receive.is_none();
        let is_recent = self.requests > 0 && now < self.outbound.started + RECENT.as_nanos() as u64;
        if is_under_way || is_recent {
            self.linger.want(!is_under_way);
        }
    }

    /// The first step, when everything is answered: what tells the client that no more will come, and how
    /// long it has to close its end. `patience` is for a client that was busy.
    pub(crate) fn begin_lingering(&mut self, patience: Duration) -> Option<(Operation, Duration)> {
        let Linger::Wanted { briefly } = self.linger else { return None };
        let is_due = self.closing == Closing::Graceful && self.has_done_all();
        is_due.then(|| {
            self.linger = Linger::Discarding;
            self.shut = Some(Shutdown::Write);
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
        self.linger == Linger::Discarding && self.closing == Closing::Graceful
    }

    /// What tells the client of the end, before the socket is closed: once, and the same for every cause.
    ///
    /// Closing it is not enough. Kernels before 6.13 let go of a file of a ring only when all operations have
    /// ended that began before it was taken out, such as the receive of another client, which may be idle for
    /// days. What was sent before arrives all the same.
    ///
    /// Of TCP one direction is shut down, because that takes nothing back; a socket that another process has
    /// is left as it is.
    #[inline]
    pub(crate) fn parting_shutdown(&mut self) -> Option<Operation> {
        let how = match self.closing {
            Closing::No => return None,
            // What is in flight on it ends with that.
            Closing::Abort => Shutdown::Both,
            Closing::Graceful if !self.is_over() || canary!(EndUntold) => return None,
            Closing::Graceful if self.over_tcp => Shutdown::Write,
            Closing::Graceful => Shutdown::Both,
        };
        let is_done = self.shut == Some(Shutdown::Both) || self.shut == Some(how);
        if is_done || self.hold.owner != SocketOwner::Shard {
            return None;
        }
        self.shut = Some(how);
        Some(Operation::Shutdown { socket: self.socket, how })
    }

    /// Whether the socket must stay open for the client's sake.
    pub(crate) fn lingers(&self) -> bool {
        matches!(self.linger, Linger::Wanted { .. } | Linger::Discarding) && self.closing == Closing::Graceful
    }
}
