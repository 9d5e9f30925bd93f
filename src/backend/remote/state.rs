//! What requests, connections and the supervisor of a remote device share on its shard. All of it is plain
//! values; whoever changes them learns whom to wake.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::connection::RemoteLink;
use super::reconnect::{Reconnect, RemoteEntry};
use super::unanswered::{ConnectionNumber, RemoteEnding, RemoteRequest, StrayReply, Unanswered};
use super::unflushed::{ToldLosses, Unflushed};
use super::wire::{extent, is_volatile_change};
use crate::block::{BlockError, CommandKind, Extent};
use crate::exec::Waiter;
use crate::ring::{Lease, SharedLease};

/// Requests of one device that may be unanswered; further ones wait.
const MOST_UNANSWERED: usize = 4096;

/// The memory of a request.
pub(super) enum RemoteMemory {
    Nothing,
    /// A READ fills the lease from this byte on.
    Target(Lease, u32),
    /// A WRITE sends the lease from this byte on.
    Source(SharedLease, u32),
}

/// What a request holds until it is answered.
pub(super) struct HeldRequest {
    /// Where its range begins, in bytes from the start of the export.
    offset: u64,
    pub(super) memory: RemoteMemory,
    /// What came of a BLOCK_STATUS, and the most extents that are kept.
    extents: Vec<Extent>,
    most_extents: usize,
    outcome: Option<Result<(), BlockError>>,
    waiter: Option<Waiter>,
    is_withdrawn: bool,
}

impl HeldRequest {
    /// Bytes of a READ. The parser has seen to it that they are inside its range.
    pub(super) fn put(&mut self, offset: u64, data: &[u8]) {
        if let RemoteMemory::Target(lease, start) = &mut self.memory {
            let at = *start as usize + (offset - self.offset) as usize;
            lease.bytes_mut(at..at + data.len()).copy_from_slice(data);
        }
    }

    /// Zeroes of a READ.
    pub(super) fn put_zeroes(&mut self, offset: u64, length: u64) {
        if let RemoteMemory::Target(lease, start) = &mut self.memory {
            let at = *start as usize + (offset - self.offset) as usize;
            lease.bytes_mut(at..at + length as usize).fill(0);
        }
    }

    /// An extent of a BLOCK_STATUS.
    pub(super) fn put_extent(&mut self, length: u64, flags: u64) {
        if self.extents.len() < self.most_extents {
            self.extents.push(extent(length, flags));
        }
    }
}

/// What came of a request that has ended: its memory, and its extents or why it failed.
pub(super) type RemoteEnded = (RemoteMemory, Result<Vec<Extent>, BlockError>);

/// The state of a remote device on its shard.
pub(super) struct RemoteState {
    pub(super) reconnect: Reconnect,
    pub(super) unanswered: Unanswered,
    pub(super) unflushed: Unflushed,
    held: HashMap<u64, HeldRequest>,
    /// What each client has been told of losses.
    told: HashMap<u32, ToldLosses>,
    pub(super) links: Vec<Rc<RemoteLink>>,
    /// Those of them that have nothing to send.
    pub(super) idle: VecDeque<Rc<RemoteLink>>,
    /// Numbers of connections so far.
    connections: u64,
    pub(super) supervisor: Option<Waiter>,
    /// Something has happened that the supervisor has not seen.
    pub(super) is_poked: bool,
    /// The device is gone.
    pub(super) is_closed: bool,
}

impl RemoteState {
    pub(super) fn new(delay: Duration, now: Duration) -> Self {
        Self {
            reconnect: Reconnect::new(delay, now),
            unanswered: Unanswered::new(MOST_UNANSWERED),
            unflushed: Unflushed::default(),
            held: HashMap::new(),
            told: HashMap::new(),
            links: Vec::new(),
            idle: VecDeque::new(),
            connections: 0,
            supervisor: None,
            is_poked: false,
            is_closed: false,
        }
    }

    /// A client comes, under a number that an earlier one may have had.
    pub(super) fn greet(&mut self, client: u32) {
        self.told.insert(client, self.unflushed.client());
    }

    /// What a client has been told of losses. One that was not [greeted](Self::greet) was told of all.
    pub(super) fn told(&mut self, client: u32) -> (&mut Unflushed, &mut ToldLosses) {
        let now = self.unflushed.client();
        (&mut self.unflushed, self.told.entry(client).or_insert(now))
    }

    pub(super) fn next_connection(&mut self) -> ConnectionNumber {
        self.connections += 1;
        ConnectionNumber(self.connections)
    }

    /// Takes a request in, which is to be sent. Nothing while there are too many.
    pub(super) fn enter(
        &mut self,
        request: RemoteRequest,
        memory: &mut Option<RemoteMemory>,
        most_extents: usize,
    ) -> Option<Result<u64, BlockError>> {
        if self.reconnect.entry() == RemoteEntry::Refuse {
            return Some(Err(BlockError::Io));
        }
        let cookie = self.unanswered.ask(request)?;
        let held = HeldRequest {
            offset: request.range.offset(),
            memory: memory.take().expect("a request enters once"),
            extents: Vec::new(),
            most_extents,
            outcome: None,
            waiter: None,
            is_withdrawn: false,
        };
        self.held.insert(cookie, held);
        Some(Ok(cookie))
    }

    pub(super) fn held(&mut self, cookie: u64) -> Option<&mut HeldRequest> {
        self.held.get_mut(&cookie)
    }

    /// What came of a request; until it has ended, `waiter` is kept.
    pub(super) fn ended(&mut self, cookie: u64, waiter: impl FnOnce() -> Waiter) -> Option<RemoteEnded> {
        let held = self.held.get_mut(&cookie).expect("a request is held until its end was seen");
        let Some(outcome) = held.outcome else {
            held.waiter = Some(waiter());
            return None;
        };
        let held = self.held.remove(&cookie).expect("it was there");
        Some((held.memory, outcome.map(|()| held.extents)))
    }

    /// Nobody waits for a request any more. What is under way keeps its memory until it is answered.
    pub(super) fn withdraw(&mut self, cookie: u64) {
        self.unanswered.withdraw(cookie);
        match self.held.get_mut(&cookie) {
            Some(held) if self.unanswered.has(cookie) => (held.is_withdrawn, held.waiter) = (true, None),
            _ => drop(self.held.remove(&cookie)),
        }
    }

    /// The remote has answered a request; whom to wake.
    pub(super) fn answered(
        &mut self,
        cookie: u64,
        connection: ConnectionNumber,
        result: Result<(), BlockError>,
    ) -> Result<Option<Waiter>, StrayReply> {
        let ending = self.unanswered.answered(cookie, connection)?;
        self.reconnect.answered();
        let (RemoteEnding::Awaited(request) | RemoteEnding::Withdrawn(request)) = ending;
        if result.is_ok() && is_volatile_change(&request) {
            self.unflushed.acknowledge();
        }
        // Its own code for what it does not know: the request was right when it left.
        let result = result.map_err(|error| match (error, request.command) {
            (BlockError::NotSupported, CommandKind::WriteZeroes) if request.flags.fast_zero => error,
            (BlockError::NotSupported, _) => BlockError::Io,
            (error, _) => error,
        });
        match ending {
            RemoteEnding::Awaited(_) => Ok(self.end(cookie, result)),
            RemoteEnding::Withdrawn(_) => {
                self.held.remove(&cookie);
                Ok(None)
            }
        }
    }

    /// All connections are gone; what was under way is to be sent again. Gives how many requests that are.
    pub(super) fn lost(&mut self, now: Duration) -> (Vec<Rc<RemoteLink>>, usize) {
        self.idle.clear();
        let links = std::mem::take(&mut self.links);
        let sent_again = links.iter().map(|link| self.unanswered.lost(link.number)).sum();
        // What was withdrawn is not sent again.
        self.held.retain(|_, held| !held.is_withdrawn);
        self.reconnect.lost(now);
        (links, sent_again)
    }

    /// Fails what waits for a connection; whom to wake.
    pub(super) fn fail_waiting(&mut self) -> Vec<Waiter> {
        let mut failed = Vec::new();
        self.unanswered.fail_unsent(|cookie| failed.push(cookie));
        failed.into_iter().filter_map(|cookie| self.end(cookie, Err(BlockError::Io))).collect()
    }

    fn end(&mut self, cookie: u64, result: Result<(), BlockError>) -> Option<Waiter> {
        let held = self.held.get_mut(&cookie)?;
        held.outcome = Some(result);
        held.waiter.take()
    }
}
