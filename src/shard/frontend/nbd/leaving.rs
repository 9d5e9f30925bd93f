//! A connection that another process may serve from now on.
//!
//! First it is *held*: its receive is cancelled, which ends with bytes or with none, so that no byte is lost;
//! no request begins, those that have begun are answered, and replies leave. Then what there is of it is its
//! socket, its session, and *input that was not acted on*: the header of a request whose payload comes in or
//! that waits for memory or for a rate, as it stood on the wire, and the bytes behind it. Whoever gets these
//! takes them for what came with the handshake, and goes on as if the connection was new.
//!
//! Nothing of it changes here until it is settled, so it can go on at any time.

use std::os::fd::OwnedFd;

use crate::ring::{Operation, Ring};
use crate::shard::frontend::nbd::closing::{Closing, Reason};
use crate::shard::frontend::nbd::connection::Connection;
use crate::shard::frontend::nbd::hold::SocketOwner;
use crate::shard::frontend::nbd::linger::Linger;
use crate::shard::takes_tls::TakesTls;

impl Connection {
    /// Whether another process could serve it at all.
    pub(crate) fn can_leave(&self, takes: TakesTls) -> bool {
        self.closing == Closing::No && self.refuses.is_none() && takes.takes(self.tls())
    }

    /// Whether it can be held now. A payload that is skipped is waited for: it may be long, and nobody has
    /// its bytes.
    pub(crate) fn may_be_held(&self, takes: TakesTls) -> bool {
        self.can_leave(takes) && !self.hold.is_held && !self.outbound.holds_back()
    }

    /// Begins to hold it.
    pub(crate) fn hold(&mut self, ring: &Ring, key: u32) {
        self.hold.is_held = true;
        if let Some(target) = self.receive {
            self.hold.cancelling = true;
            self.push(ring, key, Operation::Cancel { target });
        }
        if let Some(kept) = &self.hold.kept {
            self.hold.descriptor = kept.try_clone().ok();
        } else if self.hold.descriptor.is_none() {
            self.hold.is_asked = true;
            self.push(ring, key, Operation::Install { socket: self.socket });
        }
    }

    /// Its socket has another descriptor, or cannot have one.
    pub(crate) fn installed(&mut self, descriptor: Result<OwnedFd, i32>) {
        let asked = std::mem::take(&mut self.hold.is_asked);
        match descriptor {
            Ok(descriptor) => self.hold.descriptor = Some(descriptor).filter(|_| asked && self.hold.is_held),
            Err(errno) => {
                tracing::debug!(connection = self.number, errno, "its socket gets no descriptor once more")
            }
        }
    }

    /// Whether it is held, and nothing of it is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        let incoming = usize::from(self.receiving.is_some());
        let sends = !self.outbound.is_empty() || self.outbound.is_sending() || self.outbound.holds_back();
        let is_still = self.receive.is_none() && self.operations == 0 && !sends;
        self.hold.is_held
            && self.closing == Closing::No
            && is_still
            && self.ledger.in_flight() == incoming
            && self.forgotten.is_empty()
    }

    /// What came of it and was not acted on, when it is [quiet](Self::is_quiet).
    pub(crate) fn unfinished_input(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mode = self.session.reply_mode;
        if let Some(receiving) = &self.receiving {
            receiving.request.encode(mode, &mut bytes);
            let lease = receiving.lease.as_ref().expect("nothing is received into it");
            bytes.extend_from_slice(lease.bytes(0..receiving.filled as usize));
        } else if let Some(throttled) = &self.throttled {
            throttled.request.encode(mode, &mut bytes);
        } else if let Some((request, _since)) = &self.waiting {
            request.encode(mode, &mut bytes);
        } else {
            bytes.extend_from_slice(self.inbound.header_so_far());
        }
        bytes.extend_from_slice(self.unparsed.as_ref().map_or(&[], |unparsed| unparsed.rest()));
        bytes
    }

    /// It stays, and goes on as before, or to its end.
    pub(crate) fn stay(&mut self) {
        (self.hold.is_held, self.hold.descriptor) = (false, None);
        self.hold.owner = SocketOwner::Shard;
    }

    /// It is gone: another process has it, or may have it, so nothing is said on its socket. `now` is by the
    /// shard's clock.
    pub(crate) fn has_moved(&mut self, now: u64) {
        self.stay();
        self.hold.owner = SocketOwner::Other;
        self.seal_no_more();
        self.linger = Linger::Never;
        self.because(Reason::Moved).stop(now);
    }
}
