//! What requests, connections and the supervisor of a remote device share on its shard. All of it is plain
//! values; whoever changes them learns whom to wake.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::connection::RemoteLink;
use super::contexts::StatusOf;
use super::reconnect::{Reconnect, RemoteEntry};
use super::refill::Refill;
use super::store::RemoteSocket;
use super::unanswered::{ConnectionNumber, RemoteEnding, RemoteRequest, StrayReply, Unanswered};
use super::unflushed::{ToldLosses, Unflushed};
use super::wire::is_volatile_change;
use crate::block::{BlockError, CommandKind, NumberedExtent};
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

/// What a BLOCK_STATUS asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AskedStatus {
    pub(super) of: StatusOf,
    /// So many extents are kept.
    pub(super) most: usize,
}

/// What a request holds until it is answered.
pub(super) struct HeldRequest {
    /// Where its range begins, in bytes from the start of the export.
    offset: u64,
    pub(super) memory: RemoteMemory,
    /// What came of a BLOCK_STATUS.
    extents: Vec<NumberedExtent>,
    pub(super) status: AskedStatus,
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
        if self.extents.len() < self.status.most {
            self.extents.push(NumberedExtent { length, number: flags });
        }
    }
}

/// What came of a request that has ended: its memory, and its extents or why it failed.
pub(super) type RemoteEnded = (RemoteMemory, Result<Vec<NumberedExtent>, BlockError>);

/// The state of a remote device on its shard.
pub(super) struct RemoteState {
    pub(super) reconnect: Reconnect,
    pub(super) refill: Refill,
    pub(super) unanswered: Unanswered,
    pub(super) unflushed: Unflushed,
    /// What the remote calls this opening of its export, if all connections that were used since the last
    /// loss have told the same.
    instance: Option<u32>,
    held: HashMap<u64, HeldRequest>,
    /// What each client has been told of losses.
    told: HashMap<u32, ToldLosses>,
    pub(super) links: Vec<Rc<RemoteLink>>,
    /// Those of them that have nothing to send.
    pub(super) idle: VecDeque<Rc<RemoteLink>>,
    /// Connections that came while others stood, and how many requests had been sent then.
    newcomers: Vec<(RemoteSocket, u64)>,
    /// Those that proved to lead to the same server: the supervisor is to begin them.
    proven: Vec<RemoteSocket>,
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
            refill: Refill::default(),
            unanswered: Unanswered::new(MOST_UNANSWERED),
            unflushed: Unflushed::default(),
            instance: None,
            held: HashMap::new(),
            told: HashMap::new(),
            links: Vec::new(),
            idle: VecDeque::new(),
            newcomers: Vec::new(),
            proven: Vec::new(),
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
        status: AskedStatus,
    ) -> Option<Result<u64, BlockError>> {
        if self.reconnect.entry() == RemoteEntry::Refuse {
            return Some(Err(BlockError::Io));
        }
        let cookie = self.unanswered.ask(request)?;
        let held = HeldRequest {
            offset: request.range.offset(),
            memory: memory.take().expect("a request enters once"),
            extents: Vec::new(),
            status,
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
        let unanswered = &self.unanswered;
        let is_proof = |sends| unanswered.is_sent_after(cookie, sends);
        let proven: Vec<_> = self.newcomers.extract_if(.., |(_, sends)| is_proof(*sends)).collect();
        let ending = self.unanswered.answered(cookie, connection)?;
        self.proven.extend(proven.into_iter().map(|(socket, _)| socket));
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

    /// Connections have come where none stood. True if the remote has proved to be what it was: then nothing
    /// is lost.
    pub(super) fn reconnected(&mut self, instance: Option<u32>) -> bool {
        let is_same = instance.is_some() && instance == self.instance;
        self.instance = instance;
        self.unflushed.reconnected(is_same);
        is_same
    }

    /// One more connection is used beside the others. If it told another number, changes may be acknowledged
    /// by either, so neither proves anything later.
    pub(super) fn joined(&mut self, instance: Option<u32>) {
        if self.instance != instance {
            self.instance = None;
        }
    }

    /// A connection has come while others stand. It is not used until one of these answers a request that was
    /// sent after it came.
    ///
    /// Until then it may lead to a server that was started after a crash of the one that they lead to, which
    /// nobody has noticed yet. A FLUSH there would succeed, and cover nothing of what the crash has cost.
    pub(super) fn welcome(&mut self, newcomer: RemoteSocket) {
        if canary!(NewcomerBelieved) {
            return self.proven.push(newcomer);
        }
        self.newcomers.push((newcomer, self.unanswered.sends()));
    }

    /// Connections that are to be begun now.
    pub(super) fn take_proven(&mut self) -> Vec<RemoteSocket> {
        std::mem::take(&mut self.proven)
    }

    pub(super) fn has_proven(&self) -> bool {
        !self.proven.is_empty()
    }

    /// How many connections there are, those included that are not used yet.
    pub(super) fn connections(&self) -> usize {
        self.links.len() + self.newcomers.len() + self.proven.len()
    }

    /// A connection is gone: what was under way on it is to be sent again. Gives how many requests that are;
    /// nothing if that is known.
    pub(super) fn lost(&mut self, connection: ConnectionNumber, now: Duration) -> Option<usize> {
        let at = self.links.iter().position(|link| link.number == connection)?;
        self.links.remove(at);
        self.idle.retain(|link| link.number != connection);
        let sent_again = self.unanswered.lost(connection);
        for cookie in &sent_again {
            self.held.get_mut(cookie).expect("it is unanswered").extents.clear();
        }
        // What was withdrawn is not sent again.
        let unanswered = &self.unanswered;
        self.held.retain(|cookie, held| !held.is_withdrawn || unanswered.has(*cookie));
        if self.links.is_empty() {
            // Nothing can prove any more where these lead.
            (self.newcomers, self.proven) = (Vec::new(), Vec::new());
            self.refill.stop();
            self.reconnect.lost(now);
        } else {
            self.refill.lost(now);
        }
        Some(sent_again.len())
    }

    /// A request was to be sent on a connection that has not what it asks for; whom to wake.
    pub(super) fn give_up(&mut self, cookie: u64, connection: ConnectionNumber) -> Option<Waiter> {
        self.unanswered.answered(cookie, connection).expect("it is under way there");
        self.end(cookie, Err(BlockError::Io))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::remote::contexts::LinkContexts;
    use crate::block::{ByteRange, IoFlags};
    use crate::ring::FileIndex;

    /// The first half of an answer came on a connection that is lost; the whole comes on another one.
    #[test]
    fn half_an_answer_is_forgotten_when_it_is_asked_again() {
        let mut state = RemoteState::new(Duration::from_secs(9), Duration::ZERO);
        let link = |number| {
            let mode = crate::nbd::session::ReplyMode::Extended;
            Rc::new(RemoteLink::new(
                ConnectionNumber(number),
                FileIndex::default(),
                mode,
                LinkContexts::allocation_only(1),
            ))
        };
        state.links = vec![link(1), link(2)];
        let range = ByteRange::new(0, 8192).unwrap();
        let request = RemoteRequest { command: CommandKind::BlockStatus, range, flags: IoFlags::default() };
        let status = AskedStatus { of: StatusOf::Allocation, most: 9 };
        let cookie = state.enter(request, &mut Some(RemoteMemory::Nothing), status).unwrap().unwrap();
        state.unanswered.send(ConnectionNumber(1)).unwrap();
        state.held(cookie).unwrap().put_extent(4096, 3);
        assert_eq!(state.lost(ConnectionNumber(1), Duration::ZERO), Some(1));
        assert_eq!(state.lost(ConnectionNumber(1), Duration::ZERO), None, "it is known");
        assert_eq!(state.links.len(), 1, "the other one stands");
        state.unanswered.send(ConnectionNumber(2)).unwrap();
        state.held(cookie).unwrap().put_extent(8192, 0);
        assert!(state.answered(cookie, ConnectionNumber(2), Ok(())).unwrap().is_none());
        let (_, told) = state.ended(cookie, || unreachable!("it has ended")).unwrap();
        assert_eq!(told.unwrap(), [NumberedExtent { length: 8192, number: 0 }]);
    }

    /// Changes that were answered are lost unless the remote proves to be the one that answered them.
    #[test]
    fn only_one_number_all_the_time_proves_that_nothing_is_lost() {
        for (before, joined, after, is_same) in [
            (Some(7), None, Some(7), true),
            (Some(7), Some(Some(7)), Some(7), true),
            (Some(7), None, Some(8), false),
            (Some(7), None, None, false),
            (None, None, None, false),
            (None, None, Some(7), false),
            (Some(7), Some(Some(8)), Some(7), false),
            (Some(7), Some(Some(8)), Some(8), false),
            (Some(7), Some(None), Some(7), false),
        ] {
            let mut state = RemoteState::new(Duration::from_secs(9), Duration::ZERO);
            state.greet(1);
            assert!(!state.reconnected(before), "the first time nothing is known");
            joined.into_iter().for_each(|joined| state.joined(joined));
            state.unflushed.acknowledge();
            let mark = state.unflushed.mark();
            assert_eq!(state.reconnected(after), is_same, "{before:?} {joined:?} {after:?}");
            let (unflushed, told) = state.told(1);
            assert_eq!(unflushed.flushed(mark, told).is_ok(), is_same, "{before:?} {joined:?} {after:?}");
        }
    }

    #[test]
    fn a_context_that_a_connection_lacks_fails_what_asks_for_it() {
        let mut state = RemoteState::new(Duration::from_secs(9), Duration::ZERO);
        let range = ByteRange::new(0, 8192).unwrap();
        let request = RemoteRequest { command: CommandKind::BlockStatus, range, flags: IoFlags::default() };
        let status = AskedStatus { of: StatusOf::Passed(0), most: 9 };
        let cookie = state.enter(request, &mut Some(RemoteMemory::Nothing), status).unwrap().unwrap();
        let connection = ConnectionNumber(1);
        state.unanswered.send(connection).unwrap();
        assert!(state.give_up(cookie, connection).is_none(), "nobody waits yet");
        let (_, told) = state.ended(cookie, || unreachable!("it has ended")).unwrap();
        assert_eq!(told, Err(BlockError::Io));
        assert_eq!(state.unanswered.len(), 0);
    }
}
