//! The shard's private parts for benchmarks (feature `bench`): each takes a round of requests the way a shard's turn does.

use std::collections::VecDeque;
use std::rc::Rc;

use super::outbound::{Outbound, Payload, Release, Reply, ReplyChunk};
use super::request_table::{Entry, RequestId, RequestTable};
use crate::block::ByteRange;
use crate::nbd::reply::{LONGEST_HEADER, ReplyTo};
use crate::ring::{BufferPool, FileMapping, SendBatch};
use crate::stats::{Operation, Timing};

const TIMING: Timing =
    Timing { operation: Operation::Read, arrived: 1, submitted: 2, completed: 3, offset: 4096, length: 4096 };

/// The request table with a number of requests that stays the same.
pub struct TableRounds {
    table: RequestTable,
    in_flight: VecDeque<RequestId>,
}

impl TableRounds {
    /// So many requests are in the table all the time.
    pub fn new(in_flight: usize) -> Self {
        let mut table = RequestTable::new(in_flight, 0);
        let entry = |_| Entry { connection: 1, held: 4096, timing: TIMING };
        let in_flight = (0..in_flight).map(|index| table.insert(entry(index))).collect();
        Self { table, in_flight }
    }

    /// So many requests leave, the oldest first, and as many come and are submitted.
    pub fn round(&mut self, requests: u32) -> u64 {
        let mut held = 0;
        for now in 0..requests {
            let id = self.in_flight.pop_front().expect("some are in flight");
            held += u64::from(self.table.remove(id).held);
            let id = self.table.insert(Entry { connection: now, held: 4096, timing: TIMING });
            self.table.submitted(id, u64::from(now));
            self.in_flight.push_back(id);
        }
        held
    }
}

/// What is sent behind the header of each reply.
#[derive(Debug, Clone)]
pub enum Content {
    /// Nothing: a write was answered.
    Nothing,
    /// So many bytes of a lease: a read was answered.
    Leased(u32),
    /// So many bytes from the front of a mapped file: a read was answered from the page cache.
    Mapped(Rc<FileMapping>, u32),
    /// So many zeroes without memory: a read of `null:` was answered.
    Zeroes(u32),
}

/// One connection's outbound queue and its batches.
pub struct OutboundRounds {
    outbound: Outbound,
    batch: Box<SendBatch>,
    releases: Vec<Release>,
    pool: BufferPool,
}

impl OutboundRounds {
    /// A queue whose sends have room for `pieces` pieces.
    pub fn new(pieces: usize) -> Self {
        let batch = Box::new(SendBatch::with_capacity(pieces, pieces * LONGEST_HEADER / 2));
        let pool = BufferPool::new(48 << 20).expect("48 MiB of memory");
        Self { outbound: Outbound::default(), batch, releases: Vec::new(), pool }
    }

    /// So many replies are queued, and leave in as few sends as they need; gives the bytes sent.
    pub fn round(&mut self, replies: u32, to: &ReplyTo, content: &Content) -> usize {
        for _ in 0..replies {
            let (header, payload) = match *content {
                Content::Nothing => (to.success(), Payload::Nothing),
                Content::Zeroes(length) => (to.data(to.offset, length, true), Payload::Zeroes(length)),
                Content::Mapped(ref mapping, length) => {
                    let range = ByteRange::new(0, length.into()).expect("it fits");
                    (to.data(to.offset, length, true), Payload::Mapped(mapping.range(range)))
                }
                Content::Leased(length) => {
                    let lease = self.pool.lend(length as usize, 0).expect("few are lent");
                    (to.data(to.offset, length, true), Payload::Leased { lease, start: 0, length })
                }
            };
            let release = Release { held: 4096, timing: Some(TIMING) };
            self.outbound.push(Reply::One(ReplyChunk { header, payload }), release);
        }
        let mut sent = 0;
        while self.outbound.wants_to_send() {
            self.outbound.fill(&mut self.batch, std::mem::take(&mut self.releases));
            sent += self.batch.length();
            self.batch.clear();
            self.releases = self.outbound.sent();
            self.releases.clear();
        }
        sent
    }
}
