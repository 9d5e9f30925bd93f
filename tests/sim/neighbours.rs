//! Scripted worlds without faults: what one client floods, or leaves behind, must not hold up another. Bounds are times of the world, so
//! that they hold on any machine.

use std::sync::Arc;
use std::time::Duration;

use ringnbd::internal::backend::Export;
use ringnbd::internal::config::{Limits, Pinning};
use ringnbd::internal::ring::sim::{Entered, Faults, FileId, Random, SocketId, World};
use ringnbd::internal::shard::{ExportLimits, NewConnection, SteppedShard};

use super::plan::{Disk, Plan, negotiated};
use super::run::Report;
use super::wire::{self, CACHE, FLUSH, FUA, Form, READ, TRIM, WRITE, WRITE_ZEROES};

/// Enough for luck to play no part.
const WORLDS: u64 = 20;
/// What one operation takes on average.
pub(crate) const LATENCY: Duration = Duration::from_micros(50);
/// The size of the first export, which is a file like the second.
const LARGE: u64 = 4 << 20;
const SMALL: u64 = 64 << 10;

/// What the shard gives a device where requests go by weight: less than what the sockets of a world bring.
pub(crate) const DEVICE_DEPTH: usize = 8;

/// One shard with two exports in the page cache.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) shard: SteppedShard,
    exports: Arc<[Arc<Export>]>,
    pub(crate) files: Vec<FileId>,
    plan: Plan,
    pub(crate) random: Random,
    pub(crate) answered: u64,
    /// By export.
    pub(crate) rates: Vec<Arc<ExportLimits>>,
    _entered: Entered,
}

impl Scene {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self::with_sizes(seed, faults, [LARGE, SMALL])
    }

    pub(crate) fn with_sizes(seed: u64, faults: Faults, sizes: [u64; 2]) -> Self {
        Self::of_disks(seed, faults, sizes, None)
    }

    /// With an `alignment` its files are read past the page cache.
    pub(crate) fn of_disks(seed: u64, faults: Faults, sizes: [u64; 2], alignment: Option<u32>) -> Self {
        let mut random = Random::new(seed);
        let faults = Faults { latency_ns: LATENCY.as_nanos() as u64, slow: 0.0, ..faults };
        let world = World::new(random.number(), faults);
        let entered = world.enter();
        let disk = |size| Disk {
            size,
            grain: 512,
            alignment,
            sector: None,
            read_only: false,
            application: None,
            is_opaque: false,
            image: None,
        };
        let limits = Limits {
            connections: 64,
            memory_per_shard: (37 << 20) + Limits::DEVICE_MEMORY,
            longest_request: 32 << 20,
            workers_per_export: 2,
            device_depth: DEVICE_DEPTH,
            pinned: Pinning::Off,
            ..Limits::DEFAULT
        };
        let plan = Plan {
            evictions: 0.0,
            removals: 0.0,
            cuts: 0.0,
            snapshots: 0.0,
            unrecorded: 0.0,
            growths: 0.0,
            newcomers: false,
            encrypted: 0.0,
            shards: 1,
            disks: sizes.map(disk).into(),
            limits: Arc::new(limits),
            clients: 2,
            sessions: 2,
            socket_bytes: 1 << 20,
            longest: 256 << 10,
            steady: false,
            cautious: false,
            power_cut_at: None,
            shutdown_at: None,
            restarts: Vec::new(),
            weights: None,
        };
        let mut files = Vec::new();
        let export = |disk: &Disk| {
            let tokens = world.file(vec![7; disk.size as usize], disk.alignment, 1);
            files.push(tokens.id);
            Arc::new(Export::simulated(tokens, disk.size, false, None))
        };
        let exports: Arc<[Arc<Export>]> = plan.disks.iter().map(export).collect();
        let shard = SteppedShard::start(plan.shard(0), 0).expect("a shard starts");
        let rates = sizes.map(|_| Arc::default()).into();
        Self { world, shard, exports, files, plan, random, answered: 0, rates, _entered: entered }
    }

    pub(crate) fn connect(&mut self, export: usize) -> SocketId {
        let (socket, token) = self.world.socket(self.plan.socket_bytes, false);
        let mut setting = self.plan.setting(&mut self.random);
        (setting.form, setting.context, setting.export, setting.enforced) =
            (Form::Simple, None, export, None);
        setting.size = self.plan.disks[export].size;
        let limits = Arc::clone(&self.rates[export]);
        let new = NewConnection { limits, ..negotiated(token, &setting, &self.exports) };
        assert!(self.shard.connect(new).is_ok());
        socket
    }

    /// Something happens.
    pub(crate) fn step(&mut self) -> Result<(), String> {
        if self.shard.may_run() {
            self.shard.turn();
            let end = self.world.now() + Duration::from_micros(1);
            self.world.wait_until(self.world.next_event().map_or(end, |next| next.min(end)));
            return Ok(());
        }
        if self.world.step() { Ok(()) } else { Err("nothing will ever happen again".into()) }
    }

    pub(crate) fn send(&self, socket: SocketId, command: u16, offset: u64, length: u64) {
        self.send_flagged(socket, 0, command, offset, length);
    }

    pub(crate) fn send_flagged(&self, socket: SocketId, flags: u16, command: u16, offset: u64, length: u64) {
        let mut bytes = wire::request(Form::Simple, flags, command, 1, offset, length);
        if command == WRITE {
            bytes.resize(bytes.len() + length as usize, 1);
        }
        assert_eq!(self.world.client_send(socket, &bytes), bytes.len(), "the socket has room");
    }

    /// Waits for so many replies without data, or for one with `data` bytes.
    pub(crate) fn replies(
        &mut self,
        socket: SocketId,
        count: usize,
        data: usize,
    ) -> Result<Duration, String> {
        let (since, mut missing) = (self.world.now(), 16 * count + data);
        loop {
            let bytes = self.world.client_receive(socket, missing);
            let is_header = missing == 16 * count + data && bytes.len() >= 8;
            if is_header && bytes[4..8] != [0; 4] {
                return Err(format!("an error: {:02x?}", &bytes[..8]));
            }
            missing -= bytes.len();
            if missing == 0 {
                self.answered += count as u64;
                return Ok(self.world.now() - since);
            }
            self.step()?;
        }
    }

    /// So many bytes from the server.
    pub(crate) fn receive(&mut self, socket: SocketId, count: usize) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            bytes.extend(self.world.client_receive(socket, count - bytes.len()));
            if bytes.len() < count {
                if self.world.client_is_at_end(socket) {
                    return Err("the connection has ended".into());
                }
                self.step()?;
            }
        }
        Ok(bytes)
    }

    /// A request of a client that waits for its answer, and how long that took.
    pub(crate) fn ask(
        &mut self,
        socket: SocketId,
        command: u16,
        offset: u64,
        length: u64,
    ) -> Result<Duration, String> {
        self.send(socket, command, offset, length);
        self.replies(socket, 1, if command == READ { length as usize } else { 0 })
    }

    pub(crate) fn wait(&mut self, time: Duration) -> Result<(), String> {
        let end = self.world.now() + time;
        let happens = |scene: &Self| scene.world.next_event().is_some_and(|next| next < end);
        while self.world.now() < end && (self.shard.may_run() || happens(self)) {
            self.step()?;
        }
        if !self.shard.may_run() {
            self.world.wait_until(end);
        }
        Ok(())
    }

    /// No shard has slept, and all was in time.
    pub(crate) fn end(self, what: &str, times: &[Duration], bound: Duration) -> Result<Report, String> {
        if let Some(late) = times.iter().find(|time| **time > bound) {
            return Err(format!("{what}: {late:?}, more than {bound:?}"));
        }
        match self.world.sleeps() {
            0 => Ok(Report {
                trace: self.world.trace(),
                answered: self.answered,
                virtual_time: self.world.now(),
                outcomes: self.world.outcomes(),
                power_cut: false,
                restarts: 0,
                snapshots: 0,
                growths: 0,
                weighings: 0,
            }),
            sleeps => Err(format!("the shard slept in the kernel {sleeps} times")),
        }
    }
}

/// A thousand prefetches of one export, and another one that writes and syncs.
pub(crate) fn cache_flood(seed: u64) -> Result<Report, String> {
    let mut scene = Scene::new(seed, Faults::none());
    let (flood, good) = (scene.connect(0), scene.connect(1));
    scene.ask(good, WRITE, 0, 4096)?;
    (0..1000).for_each(|_| scene.send(flood, CACHE, 0, LARGE));
    let mut times = Vec::new();
    for _ in 0..10 {
        times.push(scene.ask(good, WRITE, 4096, 4096)?);
        times.push(scene.ask(good, FLUSH, 0, 0)?);
    }
    scene.replies(flood, 1000, 0)?;
    scene.end("a request beside a flood of CACHE", &times, 12 * LATENCY)
}

/// The disk of one export hangs with many syncs under way, and another export writes and syncs.
pub(crate) fn hung_disk(seed: u64) -> Result<Report, String> {
    const WRITES: u64 = 100;
    let mut scene = Scene::new(seed, Faults::none());
    let (victim, good) = (scene.connect(0), scene.connect(1));
    scene.ask(good, WRITE, 0, 4096)?;
    scene.world.hang(scene.files[0], Duration::from_secs(5));
    for write in 0..WRITES {
        scene.send_flagged(victim, FUA, WRITE, write * 512, 512);
    }
    scene.wait(10 * LATENCY)?;
    let mut times = Vec::new();
    for _ in 0..10 {
        times.push(scene.ask(good, WRITE, 4096, 4096)?);
        times.push(scene.ask(good, FLUSH, 0, 0)?);
    }
    scene.replies(victim, WRITES as usize, 0)?;
    scene.end("a request beside a disk that hangs", &times, 12 * LATENCY)
}

/// TRIMs of all of an export, and reads inside of it.
pub(crate) fn reads_beside_trim(seed: u64) -> Result<Report, String> {
    let mut scene = Scene::new(seed, Faults::none());
    let (flood, reader, other) = (scene.connect(0), scene.connect(0), scene.connect(1));
    (0..4).for_each(|_| scene.send(flood, TRIM, 0, LARGE));
    scene.wait(4 * LATENCY)?;
    let mut times = Vec::new();
    for index in 0..20 {
        times.push(scene.ask(reader, READ, index * 4096, 4096)?);
        times.push(scene.ask(other, FLUSH, 0, 0)?);
    }
    scene.replies(flood, 4, 0)?;
    scene.end("a request beside TRIMs", &times, 16 * LATENCY)
}

/// A client asks for zeroes that must be written as data, and breaks its connection or is killed.
pub(crate) fn abandoned_zeroing(seed: u64) -> Result<Report, String> {
    let mut scene = Scene::new(seed, Faults { no_punch: true, no_zero_range: true, ..Faults::none() });
    let client = scene.connect(0);
    scene.send(client, WRITE_ZEROES, 0, LARGE);
    scene.wait(8 * LATENCY)?;
    match seed.is_multiple_of(2) {
        true => scene.world.client_reset(client),
        false => scene.world.client_close(client),
    }
    let since = scene.world.now();
    while !scene.world.is_released(client) {
        scene.step()?;
    }
    let time = scene.world.now() - since;
    scene.end("a zeroing went on without its client", &[time], 12 * LATENCY)
}

/// A client that has as many TRIMs under way as it may is killed, or breaks its connection: nothing is received from it that would tell.
pub(crate) fn abandoned_crowd(seed: u64) -> Result<Report, String> {
    let mut scene = Scene::new(seed, Faults::none());
    let client = scene.connect(0);
    let requests = scene.plan.limits.requests_per_connection as u64 + 8;
    (0..requests).for_each(|_| scene.send(client, TRIM, 0, LARGE));
    scene.wait(20 * LATENCY)?;
    match seed.is_multiple_of(2) {
        true => scene.world.client_reset(client),
        false => scene.world.client_close(client),
    }
    let since = scene.world.now();
    while !scene.world.is_released(client) {
        scene.step()?;
    }
    let time = scene.world.now() - since;
    scene.end("TRIMs went on without their client", &[time], Duration::from_secs(2))
}

/// A client asks for zeroes that must be written as data, ends its stream, and waits for the answer.
pub(crate) fn patient_zeroing(seed: u64) -> Result<Report, String> {
    let mut scene = Scene::new(seed, Faults { no_punch: true, no_zero_range: true, ..Faults::none() });
    let client = scene.connect(0);
    scene.send(client, WRITE_ZEROES, 0, LARGE);
    if seed.is_multiple_of(2) {
        scene.wait(4 * LATENCY)?;
    }
    scene.world.client_half_close(client);
    let time = scene.replies(client, 1, 0)?;
    while !scene.world.is_released(client) {
        scene.step()?;
    }
    scene.end("a zeroing for a client that waits", &[time], 100 * LATENCY)
}

/// Clients keep all memory for long leases in use, 8 MiB at a time, and one needs all of it at once.
pub(crate) fn long_request_beside_steady_ones(seed: u64) -> Result<Report, String> {
    const LONG: u64 = 32 << 20;
    const LENGTH: u64 = 8 << 20;
    const REPLY: usize = 16 + LENGTH as usize;
    // Four times what the long one needs, and what had begun before it came.
    const MOST_BEFORE: u64 = 4 * LONG / LENGTH + 8;
    let mut scene = Scene::with_sizes(seed, Faults::none(), [LONG, SMALL]);
    let steady: Vec<SocketId> = (0..4).map(|_| scene.connect(0)).collect();
    let long = scene.connect(0);
    steady.iter().for_each(|socket| (0..2).for_each(|_| scene.send(*socket, READ, 0, LENGTH)));
    scene.wait(4 * LATENCY)?;
    scene.send(long, READ, 0, LONG);
    let (mut fetched, mut missing) = ([0; 4], 16 + LONG as usize);
    while missing > 0 {
        for (socket, fetched) in steady.iter().zip(&mut fetched) {
            let bytes = scene.world.client_receive(*socket, REPLY - *fetched % REPLY).len();
            *fetched += bytes;
            if bytes > 0 && *fetched % REPLY == 0 {
                scene.send(*socket, READ, 0, LENGTH);
                scene.answered += 1;
            }
        }
        missing -= scene.world.client_receive(long, missing).len();
        if scene.answered > MOST_BEFORE {
            return Err(format!("{} shorter requests were answered before a long one", scene.answered));
        }
        scene.step()?;
    }
    scene.end("nothing", &[], LATENCY)
}

/// A client reads what is in the page cache. Then all of it is evicted, before or after the client asks for all of it once more in one go.
/// Nobody else pays for that: a shard waits for few pages in one turn, and then goes another way.
pub(crate) fn burst_after_eviction(seed: u64) -> Result<Report, String> {
    const READS: u64 = 500;
    const PAGE: u64 = 4096;
    let mut scene = Scene::new(seed, Faults::none());
    let (reader, other) = (scene.connect(0), scene.connect(1));
    let burst =
        |scene: &mut Scene| (0..READS).for_each(|read| scene.send(reader, READ, 2 * read * PAGE, PAGE));
    let drain = |scene: &mut Scene| scene.replies(reader, READS as usize, (READS * PAGE) as usize);
    // Twice: what was seen is trusted the second time.
    for _ in 0..2 {
        burst(&mut scene);
        drain(&mut scene)?;
        scene.ask(other, READ, 0, 512)?;
    }
    scene.wait(Duration::from_millis(20))?;
    let is_waiting = seed.is_multiple_of(2);
    if is_waiting {
        burst(&mut scene);
        scene.wait(4 * LATENCY)?;
    }
    scene.world.evict_all(scene.files[0]);
    if !is_waiting {
        burst(&mut scene);
    }
    let time = scene.ask(other, READ, 0, 512)?;
    drain(&mut scene)?;
    // What waits was queued by turns that had found nothing missing, so they may take more on trust than the first one.
    let most = if is_waiting { 16 } else { 8 };
    match scene.world.most_faults_in_a_turn() {
        faults if faults <= most => {
            scene.end("a read beside a burst for evicted pages", &[time], 16 * LATENCY)
        }
        faults => Err(format!("the shard waited for {faults} pages in one turn")),
    }
}

pub(crate) fn in_all_worlds(run: fn(u64) -> Result<Report, String>) {
    in_worlds(WORLDS, run);
}

fn in_worlds(worlds: u64, run: fn(u64) -> Result<Report, String>) {
    for seed in 1..=worlds {
        let result = run(seed);
        assert!(result.is_ok(), "world {seed}: {}", result.unwrap_err());
    }
}

#[test]
fn a_flood_of_prefetches_delays_nobody_else() {
    in_all_worlds(cache_flood);
}

#[test]
fn a_disk_that_hangs_delays_nobody_else() {
    in_all_worlds(hung_disk);
}

#[test]
fn a_long_trim_delays_nobody_for_long_and_puts_no_shard_to_sleep() {
    in_all_worlds(reads_beside_trim);
}

#[test]
fn nothing_goes_on_for_a_client_that_left_all_it_may_have() {
    in_all_worlds(abandoned_crowd);
}

#[test]
fn a_long_request_gets_its_turn() {
    // They move much data.
    in_worlds(3, long_request_beside_steady_ones);
}

#[test]
fn a_client_that_sends_no_more_still_gets_its_answer() {
    in_all_worlds(patient_zeroing);
}

#[test]
fn a_burst_for_evicted_pages_holds_up_nobody_else() {
    in_all_worlds(burst_after_eviction);
}

#[test]
fn a_zeroing_stops_when_its_client_is_gone() {
    in_all_worlds(abandoned_zeroing);
}
