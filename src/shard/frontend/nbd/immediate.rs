//! Requests that are answered when they are parsed: no slot, no task, no operation of their own.

use crate::backend::{AtOnce, Glance};
use crate::block::{ByteRange, CommandKind};
use crate::nbd::server::reply::ReplyTo;
use crate::nbd::server::request::{Command, Request};
use crate::nbd::session::ReplyMode;
use crate::ring::{self, Completion, Payload};
use crate::shard::admission::queue::Need;
use crate::shard::frontend::nbd::closing::{Closing, Reason};
use crate::shard::frontend::nbd::connection::{Connection, Fed, Feeding};
use crate::shard::frontend::nbd::reply::Reply;
use crate::shard::request::table::RequestId;
use crate::shard::request::{Action, Work, sparse};
use crate::stats::{Operation, TimedCommand, Timing};

impl Connection {
    /// Answers a READ whose data can be had without waiting; false when it cannot.
    ///
    /// Data in the page cache only when the reply leaves soon, because what was looked up must still be true
    /// then. For a slow reader data waits in memory of ours instead.
    pub(crate) fn read_at_once<const LIMITED: bool>(
        &mut self,
        request: &Request,
        arrived: u64,
        feeding: &mut Feeding<'_>,
    ) -> bool {
        let Command::Read { dont_fragment } = request.command else { return false };
        let (range, mode) = (request.range, self.session.reply_mode);
        let device = &self.peer.device;
        let in_parts = mode != ReplyMode::Simple && !dont_fragment;
        // What is sent as it lies in a file cannot be sealed there.
        let is_sealed = self.secure.is_some();
        if is_sealed || range.is_empty() || (in_parts && sparse::is_worth_it(range, device)) {
            return false;
        }
        let trust = feeding.fault_watch.trust(feeding.now);
        let trust = trust.filter(|_| self.outbound.has_room_for_mapped(range.length(), feeding.now));
        let (waits, now) = (self.outbound.is_sending(), feeding.now);
        let glance = trust.map(|trust| Glance { waits, trust, now });
        let payload = match device.at_once(CommandKind::Read, range, request.flags, glance) {
            Some(AtOnce::Cached(mapped)) => {
                feeding.recorder.export(self.peer.export).page_cache_reads += 1;
                Payload::Mapped(mapped)
            }
            Some(AtOnce::Zeroes) => Payload::Zeroes(range.length() as u32),
            Some(AtOnce::Discarded) | None => return false,
        };
        let header = ReplyTo::request(request, mode).data(range.offset(), range.length() as u32, true);
        let id = self.answer_at_once::<LIMITED>(Operation::Read, request, arrived, feeding);
        self.outbound.push_one(header, payload, id, feeding.now, feeding.batches);
        true
    }

    /// Reads in the usual way what could not be sent from a mapped file any more; why it stopped if it had
    /// to. Each request asks this, and nearly none has anything to read again: so the look alone is built in.
    #[inline(always)]
    pub(crate) fn read_lost(&mut self, feeding: &mut Feeding<'_>) -> Option<Fed> {
        self.outbound.lost().and_then(|_| self.read_all_lost(feeding))
    }

    #[cold]
    fn read_all_lost(&mut self, feeding: &mut Feeding<'_>) -> Option<Fed> {
        while let Some(id) = self.outbound.lost() {
            if !feeding.admission.has_free_slot() {
                return Some(Fed::WaitsForShard(Need::Slot { room: 0 }));
            }
            let record = feeding.requests.record(id);
            let timing = record.timing.expect("it was a mapped read");
            let range = ByteRange::new(timing.offset, timing.length).expect("it was one before");
            let length = timing.length as usize;
            let lease = match feeding.admission.lend(feeding.key, &self.ledger, length) {
                Ok(lease) => lease,
                Err(need) => return Some(Fed::WaitsForShard(need)),
            };
            self.outbound.found();
            feeding.requests.record(id).grant.hold(lease.capacity());
            let timing = feeding.recorder.admitted_again(self.peer.export, timing);
            // In one chunk, as it would have been.
            let action = Action::Read { in_parts: false };
            let work = Work { action, range, flags: Default::default(), lease: Some(lease) };
            self.start(id, work, timing, feeding);
        }
        None
    }

    /// What had to come before the next send is done; the request that holds so much more memory now.
    pub(crate) fn may_send(&mut self, completion: Completion) -> Option<(RequestId, usize)> {
        self.outbound.go_on();
        match (completion.operation, completion.result) {
            (ring::Operation::Read { lease, length, .. }, result) => {
                // When it cannot be copied as a whole it stays where it is.
                if result == Ok(length) {
                    let held = lease.capacity();
                    let id = self.outbound.copied(lease.freeze())?;
                    return Some((id, held));
                }
            }
            (ring::Operation::Populate { .. }, Ok(_)) => self.outbound.populated(),
            (_, Ok(_) | Err(libc::EINTR | libc::EAGAIN)) => {}
            (_, Err(errno)) => {
                self.because(Reason::Torn(errno)).end(Closing::Abort);
            }
        }
        None
    }

    /// Answers a WRITE to a device that does nothing with it: its payload is skipped, and then the reply goes
    /// out. False when it does.
    pub(crate) fn write_at_once<const LIMITED: bool>(
        &mut self,
        request: &Request,
        arrived: u64,
        feeding: &mut Feeding<'_>,
    ) -> bool {
        let payload = u64::from(request.payload_length());
        if request.command != Command::Write || payload == 0 {
            return false;
        }
        let answer = self.peer.device.at_once(CommandKind::Write, request.range, request.flags, None);
        if !matches!(answer, Some(AtOnce::Discarded)) {
            return false;
        }
        let to = ReplyTo::request(request, self.session.reply_mode);
        let id = self.answer_at_once::<LIMITED>(Operation::Write, request, arrived, feeding);
        self.inbound.expect_discard(payload);
        self.outbound.hold_back(Reply::header(to.success()), id);
        true
    }

    /// Notes and counts a request that is answered without a slot.
    #[inline(always)]
    fn answer_at_once<const LIMITED: bool>(
        &mut self,
        operation: Operation,
        request: &Request,
        arrived: u64,
        feeding: &mut Feeding<'_>,
    ) -> RequestId {
        let (offset, length) = (request.range.offset(), request.range.length());
        feeding.recorder.export(self.peer.export).count_bytes(operation, length);
        let now = feeding.now;
        let command = TimedCommand::new(operation, self.take_held_ns::<LIMITED>());
        let timing = Timing { command, arrived, submitted: now, completed: now, offset, length };
        self.note(request.cookie, 0, Some(timing), feeding)
    }
}
