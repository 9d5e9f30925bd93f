//! What a world is made of beside its files: sockets, mappings, and the rings of its shards.

use std::collections::{BTreeSet, VecDeque};

use super::work::Completed;
use crate::ring::receive::ReceiveRing;

/// What the client's end of a connection looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientEnd {
    Here,
    /// It sends no more, and still reads.
    HalfClosed,
    Closed,
    /// What was on its way is lost.
    Reset,
}

pub(super) struct SimSocket {
    pub(super) capacity: usize,
    pub(super) to_server: VecDeque<u8>,
    pub(super) to_client: VecDeque<u8>,
    pub(super) client: ClientEnd,
    /// The server has shut down both directions, or at least that of its sends.
    pub(super) server_shut: bool,
    pub(super) sends_no_more: bool,
    /// It is as TCP: closing it while bytes are unread takes back what has not arrived.
    pub(super) over_tcp: bool,
    /// So many bytes were taken back from a client whose connection was not cut off.
    pub(super) taken_back: usize,
    /// A shard has registered it, or let go of it again.
    pub(super) taken: bool,
    pub(super) released: bool,
    /// Operations that wait for the other end.
    pub(super) waiting: Vec<u64>,
}

impl SimSocket {
    pub(super) fn new(capacity: usize, over_tcp: bool) -> Self {
        Self {
            capacity,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            client: ClientEnd::Here,
            server_shut: false,
            sends_no_more: false,
            over_tcp,
            taken_back: 0,
            taken: false,
            released: false,
            waiting: Vec::new(),
        }
    }
}

/// A file and the addresses that stand for it.
pub(super) struct Mapped {
    pub(super) length: usize,
    pub(super) file: usize,
}

/// What a shard's thread has waited for.
#[derive(Default)]
pub(super) struct MajorFaults {
    pub(super) count: u64,
    /// The ring's turns, which end when it has reaped.
    pub(super) turn: u64,
    /// Those of the turn in which there were some last, and the most that there were in one.
    pub(super) in_turn: (u64, u64),
    pub(super) most_in_turn: u64,
    /// The first faults of the turns in which there were some, far enough apart that the shard has looked in
    /// between: turn, moment, number.
    pub(super) episodes: Vec<(u64, u64, u64)>,
}

pub(super) struct RingState {
    pub(super) receive: ReceiveRing,
    pub(super) completions: VecDeque<Completed>,
    /// Threads, what they work on, and what waits for one in order.
    pub(super) workers: usize,
    pub(super) working: BTreeSet<u64>,
    pub(super) waiting: VecDeque<u64>,
    /// The thread of the shard sleeps in the kernel until then.
    pub(super) asleep_until: u64,
    pub(super) faults: MajorFaults,
}

impl RingState {
    pub(super) fn new(receive: ReceiveRing, workers: usize) -> Self {
        let workers = workers.max(1);
        let (completions, working, waiting, faults) = Default::default();
        Self { receive, completions, workers, working, waiting, asleep_until: 0, faults }
    }

    /// Nothing is in flight any more.
    pub(super) fn clear(&mut self) {
        self.completions.clear();
        self.working.clear();
        self.waiting.clear();
    }
}
