//! Requests that are answered when they are parsed: no slot, no task, no operation of their own.

use super::connection::{Connection, Feeding};
use super::outbound::{Release, Reply, ReplyChunk};
use super::serve::SPARSE_READ;
use crate::backend::AtOnce;
use crate::nbd::reply::ReplyTo;
use crate::nbd::request::{Command, Request};
use crate::nbd::session::ReplyMode;
use crate::ring::Payload;
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
        let may_be_sparse = mode != ReplyMode::Simple && !dont_fragment && range.length() >= SPARSE_READ;
        let may_have_holes = may_be_sparse && !device.is_known_data(range);
        if range.is_empty() || may_have_holes {
            return false;
        }
        let may_be_mapped = self.outbound.has_room_for_mapped(range.length(), feeding.now);
        let payload = match device.read_at_once(range, may_be_mapped, feeding.now) {
            Some(AtOnce::Cached(mapped)) => {
                feeding.stats.page_cache_reads += 1;
                Payload::Mapped(mapped)
            }
            Some(AtOnce::Zeroes) => Payload::Zeroes(range.length() as u32),
            None => return false,
        };
        let header = ReplyTo::request(request, mode).data(range.offset(), range.length() as u32, true);
        let release = self.admit_at_once(Operation::Read, request, arrived, feeding);
        self.outbound.push(Reply::One(ReplyChunk { header, payload }), release);
        true
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
        Release { held: 0, timing: Some(timing) }
    }
}
