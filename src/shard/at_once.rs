//! Requests that are answered when they are parsed: no slot, no task, no operation of their own.

use super::connection::{Admitted, Connection, Fed, Feeding};
use super::ending::{Ending, Reason};
use super::outbound::{Release, Reply, ReplyChunk};
use super::waiting::Need;
use crate::backend::AtOnce;
use crate::block::ByteRange;
use crate::nbd::reply::ReplyTo;
use crate::nbd::request::{Command, Request};
use crate::ring::{self, Completion, Payload};
use crate::stats::{Operation, Timing};

impl Connection {
    /// Answers a READ whose data can be had without waiting; false when it cannot.
    ///
    /// Data in the page cache only when the reply leaves soon, because what was looked up must still be true then. For a slow reader
    /// data waits in memory of ours instead.
    pub(super) fn read_at_once(
        &mut self,
        request: &Request,
        arrived: u64,
        feeding: &mut Feeding<'_>,
    ) -> bool {
        let Command::Read { dont_fragment } = request.command else { return false };
        let (range, mode) = (request.range, self.peer.session.reply_mode);
        let device = &self.peer.device;
        if range.is_empty() || self.peer.may_leave_out_holes(range, dont_fragment) {
            return false;
        }
        let trust = feeding.fault_watch.trust(feeding.now);
        let trust = trust.filter(|_| self.outbound.has_room_for_mapped(range.length(), feeding.now));
        let payload = match device.read_at_once(range, trust, feeding.now) {
            Some(AtOnce::Cached(mapped)) => {
                feeding.stats.page_cache_reads += 1;
                Payload::Mapped(mapped)
            }
            Some(AtOnce::Zeroes) => Payload::Zeroes(range.length() as u32),
            None => return false,
        };
        let header = ReplyTo::request(request, mode).data(range.offset(), range.length() as u32, true);
        let mut release = self.admit_at_once(Operation::Read, request, arrived, feeding);
        let chunk = ReplyChunk { header, payload };
        if matches!(chunk.payload, Payload::Mapped(_)) {
            release.mapped = Some(request.cookie);
            self.outbound.push_mapped(chunk, release, feeding.now);
        } else {
            self.outbound.push(Reply::One(chunk), release);
        }
        true
    }

    /// Reads in the usual way what could not be sent from a mapped file any more; why it stopped if it had to.
    pub(super) fn read_lost(&mut self, feeding: &mut Feeding<'_>) -> Option<Fed> {
        while let Some(release) = self.outbound.lost() {
            if feeding.free_slots == 0 {
                return Some(Fed::WaitsForShard(Need::Slot { room: 0 }));
            }
            let (timing, cookie) = release.timing.zip(release.mapped).expect("it was a mapped read");
            let range = ByteRange::new(timing.offset, timing.length).expect("it was one before");
            let length = timing.length as usize;
            let lease = match self.lend(length, feeding) {
                Ok(lease) => lease,
                Err(need) => return Some(Fed::WaitsForShard(need)),
            };
            self.outbound.found();
            let held = lease.capacity() as u32;
            self.held += held as usize;
            // In one chunk, as it would have been.
            let command = Command::Read { dont_fragment: true };
            let (offset, flags) = (range.offset(), Default::default());
            let request = Request { cookie, command, range, offset, flags };
            let again = Some(Timing { submitted: 0, completed: 0, ..timing });
            let arrived = timing.arrived;
            self.admit(Admitted { request, lease: Some(lease), held, arrived, again }, feeding);
        }
        None
    }

    /// What had to come before the next send is done.
    pub(super) fn may_send(&mut self, completion: Completion) {
        self.outbound.go_on();
        match (completion.operation, completion.result) {
            (ring::Operation::Read { lease, length, .. }, result) => {
                // When it cannot be copied as a whole it stays where it is.
                if result == Ok(length) {
                    self.held += self.outbound.copied(lease.freeze());
                }
            }
            (ring::Operation::Populate { .. }, Ok(_)) => self.outbound.populated(),
            (_, Ok(_) | Err(libc::EINTR | libc::EAGAIN)) => {}
            (_, Err(errno)) => {
                self.because(Reason::Torn(errno)).end(Ending::Abort);
            }
        }
    }

    /// Answers a WRITE to a device that does nothing with it: its payload is skipped, and then the reply goes out. False when it does.
    pub(super) fn write_at_once(
        &mut self,
        request: &Request,
        arrived: u64,
        feeding: &mut Feeding<'_>,
    ) -> bool {
        let payload = u64::from(request.payload_length());
        if request.command != Command::Write || payload == 0 || !self.peer.device.drops_writes() {
            return false;
        }
        let to = ReplyTo::request(request, self.peer.session.reply_mode);
        let release = self.admit_at_once(Operation::Write, request, arrived, feeding);
        self.inbound.expect_discard(payload);
        self.outbound.hold_back(Reply::header(to.success()), release);
        true
    }

    /// Counts a request that is answered without a slot; what its reply releases.
    fn admit_at_once(
        &mut self,
        operation: Operation,
        request: &Request,
        arrived: u64,
        feeding: &mut Feeding<'_>,
    ) -> Release {
        let (offset, length) = (request.range.offset(), request.range.length());
        self.in_flight += 1;
        feeding.stats.count_bytes(operation, length);
        let now = feeding.now;
        let timing = Timing { operation, arrived, submitted: now, completed: now, offset, length };
        Release { held: 0, timing: Some(timing), mapped: None }
    }
}
