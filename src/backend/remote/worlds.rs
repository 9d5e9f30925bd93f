//! Worlds of a remote device and its server, with a network between that delays, reorders and cuts.
//!
//! The device is its state alone, driven in any order by a seed, as its tasks drive it. The server has a
//! memory that a crash may lose, and notices nothing of the device but requests. The oracle is its disk.

mod parts;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::rc::Rc;
use std::time::Duration;

use super::connection::RemoteLink;
use super::contexts::LinkContexts;
use super::facts::RemoteFacts;
use super::reconnect::Due;
use super::state::{AskedStatus, RemoteMemory, RemoteState};
use super::store::RemoteSocket;
use super::unanswered::{ConnectionNumber, RemoteRequest};
use crate::block::{BlockSizes, ByteRange, CommandKind, IoFlags};
use crate::nbd::session::ReplyMode;
use crate::ring::FileIndex;
use parts::{AskedOfServer, NetworkWay, Owed, Planted};

const BLOCKS: u64 = 8;
const CLIENTS: u32 = 2;
/// Connections that the device has when nothing is wrong.
const WANTED: usize = 3;
const STEPS: usize = 600;

struct WholeWorld {
    planted: Planted,
    random: u64,
    now: Duration,
    state: RemoteState,
    /// By the number that stands in for a context's id.
    ways: BTreeMap<u32, NetworkWay>,
    next_way: u32,
    asked: BTreeMap<u64, AskedOfServer>,
    /// Connections whose handshake is over and that the device has not got yet: all at once, or some more.
    coming: Vec<(bool, Vec<u32>)>,
    life: u64,
    /// The server can prove that it has not crashed.
    tells_instance: bool,
    memory: [u64; BLOCKS as usize],
    durable: [u64; BLOCKS as usize],
    /// The last version that was answered, and that no crash has taken.
    answered: [u64; BLOCKS as usize],
    versions: u64,
    /// Of each client.
    owed: [Vec<Owed>; CLIENTS as usize],
    /// For each client, whether a FLUSH may fail.
    may_fail: [bool; CLIENTS as usize],
    /// Requests that were answered.
    done: u64,
}

impl WholeWorld {
    fn new(seed: u64, planted: Planted) -> Self {
        let mut state = RemoteState::new(Duration::from_secs(1 << 30), Duration::ZERO);
        (0..CLIENTS).for_each(|client| state.greet(client));
        Self {
            planted,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: Duration::ZERO,
            state,
            ways: BTreeMap::new(),
            next_way: 0,
            asked: BTreeMap::new(),
            coming: Vec::new(),
            life: 0,
            tells_instance: seed.is_multiple_of(2),
            memory: [0; BLOCKS as usize],
            durable: [0; BLOCKS as usize],
            answered: [0; BLOCKS as usize],
            versions: 0,
            owed: Default::default(),
            may_fail: [false; CLIENTS as usize],
            done: 0,
        }
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % end
    }

    fn run(mut self) -> Result<u64, String> {
        for _ in 0..STEPS {
            match self.below(200) {
                0 => self.crash(),
                1..=3 => self.cut(),
                4..=60 => self.ask(),
                _ => self.go_on()?,
            }
        }
        // Nothing goes wrong any more: all requests end.
        for _ in 0..STEPS * 40 {
            if self.asked.is_empty() {
                return Ok(self.done);
            }
            self.go_on()?;
        }
        Err(format!("requests are lost: {:?}", self.asked))
    }

    fn go_on(&mut self) -> Result<(), String> {
        match self.below(10) {
            0 => self.pass_time(),
            1 => self.arrive(),
            2 => self.notice(),
            3..=4 => self.send(),
            5..=6 => self.serve(),
            _ => return self.deliver(),
        }
        Ok(())
    }

    fn crash(&mut self) {
        self.life += 1;
        for block in 0..BLOCKS as usize {
            // What was not flushed is lost, or has reached the disk by itself.
            if self.below(2) == 0 {
                self.memory[block] = self.durable[block];
            }
            self.durable[block] = self.memory[block];
            self.answered[block] = self.answered[block].min(self.memory[block]);
        }
        for way in self.ways.values_mut() {
            way.is_cut = true;
            way.requests.clear();
        }
    }

    fn any_way(&mut self) -> Option<u32> {
        let all: Vec<_> = self.ways.keys().copied().collect();
        (!all.is_empty()).then(|| all[self.below(all.len())])
    }

    fn cut(&mut self) {
        let Some(way) = self.any_way() else { return };
        self.ways.get_mut(&way).unwrap().is_cut = true;
    }

    fn ask(&mut self) {
        let client = self.below(CLIENTS as usize) as u32;
        let block = u64::from(client) * BLOCKS / u64::from(CLIENTS) + self.below(4) as u64;
        let command = [CommandKind::Write, CommandKind::Write, CommandKind::Read, CommandKind::Flush];
        let command = command[self.below(4)];
        let is_busy = |asked: &AskedOfServer| match command {
            CommandKind::Flush => asked.client == client && asked.command == command,
            _ => asked.block == block && asked.command != CommandKind::Flush,
        };
        if self.asked.len() > 20 || self.asked.values().any(is_busy) {
            return;
        }
        self.versions += 1;
        let version = match command {
            CommandKind::Read => self.answered[block as usize],
            _ => self.versions,
        };
        let (mark, covers) = (self.state.unflushed.mark(), self.done);
        let range = ByteRange::new(block * 512, 512).unwrap();
        let request = RemoteRequest { command, range, flags: IoFlags::default() };
        let cookie = self
            .state
            .enter(request, &mut Some(RemoteMemory::Nothing), AskedStatus::default())
            .unwrap()
            .unwrap();
        self.asked.insert(cookie, AskedOfServer { client, command, block, version, covers, mark });
    }

    /// A link gives a request to the network.
    fn send(&mut self) {
        if self.state.links.is_empty() {
            return;
        }
        let at = self.below(self.state.links.len());
        let (number, way) = (self.state.links[at].number, self.state.links[at].contexts.allocation.unwrap());
        let Some((cookie, _)) = self.state.unanswered.send(number) else { return };
        let way = self.ways.get_mut(&way).unwrap();
        if !way.is_cut {
            way.requests.push(cookie);
        }
    }

    /// The server does any of the requests that have come on a connection.
    fn serve(&mut self) {
        let Some(number) = self.any_way() else { return };
        let requests = self.ways[&number].requests.len();
        if requests == 0 || self.ways[&number].is_cut {
            return;
        }
        let at = self.below(requests);
        let cookie = self.ways.get_mut(&number).unwrap().requests.remove(at);
        // Nobody waits for what was sent again and done elsewhere.
        let Some(asked) = self.asked.get(&cookie).copied() else { return };
        let block = asked.block as usize;
        match asked.command {
            CommandKind::Write => self.memory[block] = asked.version,
            CommandKind::Flush => self.durable = self.memory,
            _ => {}
        }
        let way = self.ways.get_mut(&number).unwrap();
        assert_eq!(way.life, self.life, "a dead server does nothing");
        way.replies.push_back((cookie, self.memory[block]));
    }

    /// A reply comes, also over a connection that was cut behind it.
    fn deliver(&mut self) -> Result<(), String> {
        if self.state.links.is_empty() {
            return Ok(());
        }
        let at = self.below(self.state.links.len());
        let (number, way) = (self.state.links[at].number, self.state.links[at].contexts.allocation.unwrap());
        let Some((cookie, seen)) = self.ways.get_mut(&way).unwrap().replies.pop_front() else {
            return Ok(());
        };
        self.state.answered(cookie, number, Ok(())).map_err(|stray| stray.to_string())?;
        let ended = self.state.ended(cookie, || unreachable!("it has ended"));
        let (_, result) = ended.expect("it has ended");
        result.map_err(|error| error.to_string())?;
        let asked = self.asked.remove(&cookie).ok_or("it was answered twice")?;
        self.done += 1;
        self.judge(asked, seen)
    }

    fn judge(&mut self, asked: AskedOfServer, seen: u64) -> Result<(), String> {
        let (client, block) = (asked.client as usize, asked.block as usize);
        match asked.command {
            CommandKind::Write => {
                // If it was done before a crash, that may have taken it, and this is its late reply.
                self.answered[block] = asked.version.min(self.memory[block]);
                let AskedOfServer { block, version, .. } = asked;
                self.owed[client].push(Owed { at: self.done - 1, block, version });
                Ok(())
            }
            CommandKind::Flush => {
                let (unflushed, told) = self.state.told(asked.client);
                if unflushed.flushed(asked.mark, told).is_ok() {
                    return self.judge_flush(client, asked.covers);
                }
                self.owed[client].clear();
                match std::mem::take(&mut self.may_fail[client]) {
                    true => Ok(()),
                    false => Err("a FLUSH failed, and nothing can be lost".into()),
                }
            }
            // Of a READ from before a crash nothing is known.
            _ if seen < asked.version.min(self.answered[block]) => Err(format!("old data in block {block}")),
            _ => Ok(()),
        }
    }

    /// What was answered before this FLUSH was asked is on the disk.
    fn judge_flush(&mut self, client: usize, covers: u64) -> Result<(), String> {
        let durable = self.durable;
        let is_there = |owed: &Owed| durable[owed.block as usize] >= owed.version;
        if let Some(lost) = self.owed[client].iter().find(|owed| owed.at < covers && !is_there(owed)) {
            return Err(format!(
                "a FLUSH succeeded, and version {} of block {} is lost",
                lost.version, lost.block
            ));
        }
        self.owed[client].retain(|owed| !is_there(owed));
        Ok(())
    }

    /// As the supervisor does it.
    fn pass_time(&mut self) {
        let passed = self.below(3000);
        self.now += Duration::from_millis(passed as u64);
        while let Some(due) = self.state.reconnect.due(self.now) {
            assert_eq!(due, Due::Connect, "requests wait for long");
            let ways = (0..WANTED).map(|_| self.handshake()).collect();
            self.coming.push((true, ways));
        }
        let connections = self.state.connections();
        if let Some(missing) = self.state.refill.due(connections, self.now) {
            let ways = (0..missing).map(|_| self.handshake()).collect();
            self.coming.push((false, ways));
        }
        for socket in self.state.take_proven() {
            self.state.joined(socket.instance);
            self.begin(socket.contexts.allocation.unwrap());
        }
    }

    fn handshake(&mut self) -> u32 {
        let number = self.next_way;
        self.next_way += 1;
        let way =
            NetworkWay { life: self.life, is_cut: false, requests: Vec::new(), replies: VecDeque::new() };
        self.ways.insert(number, way);
        number
    }

    /// The device gets connections, some time after their handshakes.
    fn arrive(&mut self) {
        if self.coming.is_empty() {
            return;
        }
        let at = self.below(self.coming.len());
        let (are_all, ways) = self.coming.remove(at);
        if are_all {
            let is_same = match self.planted {
                Planted::CrashesAreForgotten => {
                    self.state.unflushed.reconnected(true);
                    false
                }
                _ => self.state.reconnected(self.common_instance(&ways)),
            };
            // Only a number that has changed, or none, is a reason to fail.
            self.may_fail = self.may_fail.map(|may_fail| may_fail || !is_same);
            self.state.reconnect.connected(self.now);
            self.state.refill.connected(ways.len(), self.now);
            ways.into_iter().for_each(|way| self.begin(way));
        } else if !self.state.links.is_empty() {
            self.state.refill.attempt_succeeded(self.now);
            let room = WANTED.saturating_sub(self.state.connections());
            for way in ways.into_iter().take(room) {
                match self.planted {
                    Planted::NewcomersAreBelieved => self.begin(way),
                    _ => self.state.welcome(RemoteSocket { instance: self.instance(way), ..socket(way) }),
                }
            }
        }
    }

    /// What connections say of the server, if they all say the same.
    fn common_instance(&self, ways: &[u32]) -> Option<u32> {
        let first = self.instance(ways[0]);
        first.filter(|_| ways.iter().all(|way| self.instance(*way) == first))
    }

    /// What the server said in a handshake: its life, in every second world.
    fn instance(&self, way: u32) -> Option<u32> {
        let way = self.ways.get(&way).filter(|_| self.tells_instance);
        way.map(|way| if self.planted == Planted::OneInstance { 0 } else { way.life as u32 })
    }

    fn begin(&mut self, way: u32) {
        let number = self.state.next_connection();
        let link = RemoteLink::new(
            number,
            FileIndex::default(),
            ReplyMode::Extended,
            LinkContexts::allocation_only(way),
        );
        self.state.links.push(Rc::new(link));
    }

    /// The device notices that a connection is cut, perhaps before it has taken all that came.
    fn notice(&mut self) {
        // It takes its time: others may come in between.
        if self.below(3) > 0 {
            return;
        }
        let is_cut = |link: &Rc<RemoteLink>| self.ways[&link.contexts.allocation.unwrap()].is_cut;
        let Some(link) = self.state.links.iter().find(|link| is_cut(link)).cloned() else { return };
        // The server is done with it: nothing that was under way there is done later.
        self.ways.remove(&link.contexts.allocation.unwrap());
        match self.planted {
            Planted::RequestsAreLost => self.forget(link.number),
            _ => assert!(self.state.lost(link.number, self.now).is_some()),
        }
    }

    /// As [`RemoteState::lost`] should not do it.
    fn forget(&mut self, number: ConnectionNumber) {
        for cookie in self.state.unanswered.lost(number) {
            self.state.unanswered.withdraw(cookie);
        }
        self.state.lost(number, self.now);
    }
}

fn socket(way: u32) -> RemoteSocket {
    let sizes = BlockSizes::default();
    let facts = RemoteFacts { size: 4096, read_only: false, abilities: 0, block_sizes: sizes, name: None };
    // Nobody looks at what it is.
    let socket = File::open("/dev/null").unwrap().into();
    let contexts = LinkContexts::allocation_only(way);
    RemoteSocket { socket, facts, mode: ReplyMode::Extended, contexts, instance: None }
}

/// `RINGNBD_REMOTE_WORLDS=N` makes it a campaign.
fn worlds() -> u64 {
    std::env::var("RINGNBD_REMOTE_WORLDS").map_or(400, |worlds| worlds.parse().expect("a number"))
}

#[test]
fn nothing_is_lost_unsaid_in_any_world() {
    let mut done = 0;
    for seed in 1..=worlds() {
        done += WholeWorld::new(seed, Planted::Nothing)
            .run()
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    assert!(done > worlds() * 20, "worlds in which little happens: {done} requests");
}

#[test]
fn each_planted_bug_is_found() {
    for planted in [
        Planted::NewcomersAreBelieved,
        Planted::CrashesAreForgotten,
        Planted::RequestsAreLost,
        Planted::OneInstance,
    ] {
        let found = (1..=worlds()).find_map(|seed| WholeWorld::new(seed, planted).run().err());
        assert!(found.is_some(), "{planted:?} is not found");
    }
}
