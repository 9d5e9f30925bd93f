//! A server whose export is one of another server, both on simulated rings with one clock, and the network between them.
//!
//! The near server's device, `backend::remote`, is the real one, and so is the far server's session. Connections are cut, and the far
//! machine crashes: what it had not synced may be gone. What a cut connection had under way at the far server ends before the near one
//! notices, because the protocol has no fence for it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ringnbd::internal::backend::Export;
use ringnbd::internal::config::{Limits, Pinning};
use ringnbd::internal::ring::sim::{Entered, Faults, FileId, Random, SocketId, World};
use ringnbd::internal::shard::{ShardConfig, SteppedShard};

use super::plan::negotiated;
use super::remote_client::{BLOCK, BLOCKS, Promises, RemoteClient};
use super::request::Setting;
use super::run::Report;
use super::wire::Form;

const CLIENTS: usize = 2;
/// Clients that come in all, each with blocks of its own.
const ALL_CLIENTS: u64 = 8;
const SIZE: u64 = ALL_CLIENTS * BLOCKS * BLOCK;
const STEPS: usize = 12_000;
/// Steps after which all requests must have ended when nothing goes wrong any more.
const LAST_STEPS: usize = 400_000;
/// How late a client may hear of something.
const SLACK: Duration = Duration::from_secs(10);

/// A connection between the servers.
struct Way {
    near: SocketId,
    far: SocketId,
    to_far: VecDeque<u8>,
    to_near: VecDeque<u8>,
    /// Nothing comes through any more; the far server has noticed.
    is_cut: bool,
    /// The far machine has crashed.
    is_orphan: bool,
    is_reset: bool,
}

/// What stands between the servers, as the near one reaches it.
struct Network {
    world: World,
    random: Random,
    is_down: bool,
    ways: Vec<Way>,
    /// The far ends of new connections.
    fresh: Vec<OwnedFd>,
    /// How often a connection was made while none stood.
    begun_again: u64,
    /// How soon the near server notices a cut.
    notices: f64,
}

thread_local! {
    static NETWORK: RefCell<Option<Network>> = const { RefCell::new(None) };
}

fn with_network<T>(call: impl FnOnce(&mut Network) -> T) -> T {
    NETWORK.with_borrow_mut(|network| call(network.as_mut().expect("there is a world")))
}

fn connect() -> Option<OwnedFd> {
    with_network(|network| {
        if network.is_down || network.random.chance(0.1) {
            return None;
        }
        let (near, near_end) = network.world.socket(64 << 10, true);
        let (far, far_end) = network.world.socket(64 << 10, true);
        network.begun_again += u64::from(network.ways.iter().all(|way| way.is_reset));
        let (to_far, to_near) = Default::default();
        network.ways.push(Way {
            near,
            far,
            to_far,
            to_near,
            is_cut: false,
            is_orphan: false,
            is_reset: false,
        });
        network.fresh.push(far_end);
        Some(near_end)
    })
}

impl Network {
    /// Bytes go on their way, or arrive, on any of the connections.
    fn carry(&mut self) {
        if self.ways.is_empty() {
            return;
        }
        let at = self.random.below(self.ways.len() as u64) as usize;
        let (way, most) = (&mut self.ways[at], self.random.pick(&[1, 40, 5000, 1 << 20]));
        match self.random.below(4) {
            // What a cut connection had sent is lost; what was sent before may arrive.
            0 => {
                let sent = self.world.client_receive(way.near, most);
                way.to_far.extend(if way.is_cut { Vec::new() } else { sent });
            }
            1 if !way.is_cut => {
                let bytes: Vec<u8> = way.to_far.iter().take(most).copied().collect();
                let taken = self.world.client_send(way.far, &bytes);
                way.to_far.drain(..taken);
            }
            2 if !way.is_cut => way.to_near.extend(self.world.client_receive(way.far, most)),
            3 if !way.is_reset => {
                let bytes: Vec<u8> = way.to_near.iter().take(most).copied().collect();
                let taken = self.world.client_send(way.near, &bytes);
                way.to_near.drain(..taken);
            }
            _ => {}
        }
    }

    fn cut(&mut self, at: usize) {
        let way = &mut self.ways[at];
        way.is_cut = true;
        self.world.client_reset(way.far);
    }

    /// The near server notices that a connection is cut, when the far one has ended all that came by it.
    fn notice(&mut self) {
        let (world, random) = (&self.world, &mut self.random);
        let mut unnoticed = self
            .ways
            .iter_mut()
            .filter(|way| way.is_cut && !way.is_reset)
            .filter(|way| way.is_orphan || world.is_released(way.far));
        if let Some(way) = unnoticed.next().filter(|_| random.chance(self.notices)) {
            way.is_reset = true;
            world.client_reset(way.near);
        }
        self.ways.retain(|way| !(way.is_reset && world.is_released(way.near)));
    }
}

/// The far server, one life of it.
struct FarServer {
    shard: SteppedShard,
    ring: usize,
    export: Arc<Export>,
}

struct RemoteWorld {
    world: World,
    random: Random,
    near: SteppedShard,
    near_export: Arc<Export>,
    far: Option<FarServer>,
    file: FileId,
    promises: Promises,
    clients: Vec<RemoteClient>,
    came: u64,
    /// How long the device waits for a connection.
    delay: Duration,
    /// How soon the far server comes back.
    returns: f64,
    /// How often the clock leaps while connections stand.
    leaps: f64,
    /// How often something is asked, in 2,000 steps.
    asks: u64,
    /// When clients that have left were answered last.
    succeeded_at: Duration,
    answered: u64,
    crashes: usize,
    _entered: Entered,
}

/// Runs a seed to its end.
pub(crate) fn worlds(seed: u64) -> Result<Report, String> {
    run(seed, false)
}

/// The same, but the far server comes back before the near one has noticed that all connections are cut.
pub(crate) fn newcomers(seed: u64) -> Result<Report, String> {
    run(seed, true)
}

fn run(seed: u64, is_early: bool) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults { latency_ns: random.pick(&[100, 5_000, 50_000]), ..Faults::none() };
    let world = World::new(random.number(), faults);
    let network = Network {
        world: world.clone(),
        random: Random::new(random.number()),
        is_down: false,
        ways: Vec::new(),
        fresh: Vec::new(),
        begun_again: 0,
        notices: random.pick(&[0.3, 0.02]),
    };
    NETWORK.set(Some(network));
    let mut new = RemoteWorld::new(random, world, is_early);
    if is_early {
        (new.returns, new.leaps, new.asks) = (0.5, 0.05, 40);
        with_network(|network| network.notices = 0.02);
    }
    let result = new.run();
    NETWORK.set(None);
    result
}

fn shard(index: usize) -> ShardConfig {
    let limits = Limits {
        connections: 64,
        requests_per_connection: 1024,
        requests_per_shard: 1024,
        memory_per_shard: (42 << 20) + Limits::DEVICE_MEMORY,
        longest_request: 32 << 20,
        receive_buffer: 65_536,
        pinned: Pinning::Off,
        ..Limits::DEFAULT
    };
    ShardConfig {
        index,
        cpu: None,
        limits: Arc::new(limits),
        files: 64,
        busy_poll: Duration::ZERO,
        record: true,
        slow: None,
        on_exit: Box::new(|_| {}),
    }
}

fn setting() -> Setting {
    Setting {
        form: Form::Extended,
        export: 0,
        generation: 0,
        shard: 0,
        size: SIZE,
        grain: 64,
        read_only: false,
        enforced: None,
        crowded: false,
        longest: BLOCK,
        cautious: false,
        steady: false,
        over_tcp: true,
        is_secure: false,
        context: None,
    }
}

impl RemoteWorld {
    fn new(mut random: Random, world: World, is_early: bool) -> Self {
        let entered = world.enter();
        let file = world.file(vec![0; SIZE as usize], None, 1).id;
        let delay = random.pick(&[Duration::from_secs(1 << 30), Duration::from_secs(30)]);
        let returns = random.pick(&[0.5, 0.03, 0.003]);
        let leaps = random.pick(&[0.002, 0.02]);
        let connections = if is_early { 3 } else { random.pick(&[1, 2, 3]) };
        let near_export = Arc::new(Export::simulated_remote(connect, SIZE, delay, connections));
        let near = SteppedShard::start(shard(0), 0).expect("a shard starts");
        let promises = Promises::new(file, SIZE / BLOCK);
        let (clients, far) = (Vec::new(), None);
        let (came, answered, crashes) = (0, 0, 0);
        let mut new = Self {
            world,
            random,
            near,
            near_export,
            far,
            file,
            promises,
            clients,
            came,
            delay,
            returns,
            leaps,
            asks: 300,
            succeeded_at: Duration::ZERO,
            answered,
            crashes,
            _entered: entered,
        };
        new.start_far();
        (0..CLIENTS).for_each(|_| new.come());
        new
    }

    fn start_far(&mut self) {
        let ring = self.world.rings();
        let export = Arc::new(Export::simulated(self.world.open(self.file), SIZE, false, None));
        let shard = SteppedShard::start(shard(1), ring).expect("a shard starts");
        self.far = Some(FarServer { shard, ring, export });
        with_network(|network| network.is_down = false);
    }

    fn come(&mut self) {
        let (socket, end) = self.world.socket(64 << 10, true);
        let new = negotiated(end, &setting(), &[Arc::clone(&self.near_export)]);
        assert!(self.near.connect(new).is_ok(), "the mailbox has room");
        self.clients.push(RemoteClient::new(socket, self.came));
        self.came += 1;
    }

    fn run(mut self) -> Result<Report, String> {
        for _ in 0..STEPS {
            match self.random.below(2000) {
                0 => self.crash()?,
                1..=2 => self.cut(),
                4 if self.came < ALL_CLIENTS => self.leave(),
                dice if dice > 4 && dice <= self.asks => self.ask(),
                _ => self.step()?,
            }
        }
        for _ in 0..LAST_STEPS {
            if self.clients.iter().all(RemoteClient::is_idle) {
                return self.end();
            }
            if self.far.is_none() {
                self.start_far();
            }
            self.step()?;
        }
        let waiting: Vec<_> = self.clients.iter().map(RemoteClient::describe).collect();
        Err(format!("requests are lost: {waiting:?}"))
    }

    fn end(mut self) -> Result<Report, String> {
        self.crash()?;
        let answered = self.answered + self.clients.iter().map(|client| client.answered).sum::<u64>();
        Ok(Report {
            trace: self.world.trace(),
            answered,
            virtual_time: self.world.now(),
            outcomes: self.world.outcomes(),
            power_cut: false,
            restarts: self.crashes,
            snapshots: 0,
            growths: 0,
            weighings: 0,
        })
    }

    /// The far machine crashes. It comes back some time later.
    fn crash(&mut self) -> Result<(), String> {
        let Some(far) = self.far.take() else { return Ok(()) };
        self.world.machine_fails(far.ring, &[self.file]);
        drop(far);
        self.crashes += 1;
        with_network(|network| {
            network.is_down = true;
            network.fresh.clear();
            (0..network.ways.len()).for_each(|at| network.cut(at));
            network.ways.iter_mut().for_each(|way| way.is_orphan = true);
        });
        self.promises.check(&self.world, true)
    }

    fn cut(&mut self) {
        with_network(|network| {
            if !network.ways.is_empty() {
                let at = network.random.below(network.ways.len() as u64) as usize;
                network.cut(at);
            }
        });
    }

    /// A client leaves amid its requests, and another one comes.
    fn leave(&mut self) {
        let at = self.random.below(self.clients.len() as u64) as usize;
        let client = self.clients.swap_remove(at);
        self.world.client_reset(client.socket);
        self.answered += client.answered;
        self.succeeded_at = self.succeeded_at.max(client.succeeded_at);
        self.come();
    }

    fn ask(&mut self) {
        let at = self.random.below(self.clients.len() as u64) as usize;
        self.clients[at].ask(&mut self.random, &mut self.promises);
    }

    /// One thing happens that is nobody's fault.
    fn step(&mut self) -> Result<(), String> {
        for end in with_network(|network| std::mem::take(&mut network.fresh)) {
            let far = self.far.as_ref().expect("it was reached");
            let new = negotiated(end, &setting(), &[Arc::clone(&far.export)]);
            assert!(far.shard.connect(new).is_ok(), "the mailbox has room");
        }
        match self.random.below(10) {
            0..=3 => self.turn(),
            4..=6 => with_network(Network::carry),
            7 => with_network(Network::notice),
            8 => return self.hear(),
            _ => self.pass_time(),
        }
        Ok(())
    }

    fn turn(&mut self) {
        let far = self.far.as_mut().map(|far| &mut far.shard).filter(|shard| shard.may_run());
        let near = Some(&mut self.near).filter(|shard| shard.may_run());
        let mut ready: Vec<_> = near.into_iter().chain(far).collect();
        if ready.is_empty() {
            return;
        }
        let at = self.random.below(ready.len() as u64) as usize;
        assert!(ready[at].turn(), "nobody asked it to end");
    }

    fn hear(&mut self) -> Result<(), String> {
        let at = self.random.below(self.clients.len() as u64) as usize;
        let client = &mut self.clients[at];
        client.exchange(&self.world, &mut self.promises)?;
        let begun_again = with_network(|network| network.begun_again);
        // While nothing can be reached FLUSHes fail for that.
        if client.failed_flushes > begun_again && self.delay > Duration::from_secs(99) {
            return Err(format!("{} FLUSHes failed after {begun_again} connects", client.failed_flushes));
        }
        if let Some(failed) = client.failed_at.take() {
            let others = self.clients.iter().map(|client| client.succeeded_at);
            let last = others.fold(self.succeeded_at, Duration::max);
            if failed.saturating_sub(last) + SLACK < self.delay {
                return Err(format!("a request failed at {failed:?}, and one succeeded at {last:?}"));
            }
        }
        Ok(())
    }

    /// The clock goes on, seldom by much. Now and then the far server comes back.
    fn pass_time(&mut self) {
        let next = self.world.next_event();
        let is_near = next.is_some_and(|next| next < self.world.now() + Duration::from_millis(5));
        let nobody_is_there = self.far.is_none() || with_network(|network| network.ways.is_empty());
        if is_near || self.random.chance(if nobody_is_there { 0.2 } else { self.leaps }) {
            self.world.step();
        }
        if self.far.is_none() && self.random.chance(self.returns) {
            self.start_far();
        }
    }
}
