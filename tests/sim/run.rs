//! One run: a world from a seed, its shards, exports and clients, until everything has ended or the power fails; perhaps several
//! servers one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ringnbd::internal::backend::{Export, ExportId};
use ringnbd::internal::config::Shutdown;
use ringnbd::internal::ring::sim::{Entered, Faults, Random, SocketId, World};
use ringnbd::internal::shard::{Holdings, Removal, SteppedShard};

use super::client::{Client, Context};
use super::media::{self, Medium};
use super::oracle::{Oracle, WriteId};
use super::plan::{self, Interruption, Plan, Restart};
use super::request::Setting;
use super::secure;
use weighing::WeightPlan;

/// What a run that went well tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// Of everything that happened.
    pub(crate) trace: u64,
    pub(crate) answered: u64,
    pub(crate) virtual_time: Duration,
    /// How operations ended, by name.
    pub(crate) outcomes: BTreeMap<&'static str, u64>,
    pub(crate) power_cut: bool,
    /// Servers after the first one.
    pub(crate) restarts: usize,
    /// Snapshots of groups of images that were taken.
    pub(crate) snapshots: u64,
    /// How often an image became larger under its clients.
    pub(crate) growths: u64,
    /// How often a weight changed.
    pub(crate) weighings: u64,
}

/// A connection whose client has left while the shard may still work for it.
struct Closing {
    socket: SocketId,
    export: usize,
    writes: Vec<WriteId>,
}

struct Simulation {
    world: World,
    random: Random,
    faults: Faults,
    plan: Plan,
    shards: Vec<SteppedShard>,
    /// A shard whose thread does not run, and for how many steps more.
    off_cpu: Option<(usize, u64)>,
    /// By export.
    media: Vec<Box<dyn Medium>>,
    oracles: Vec<Oracle>,
    clients: Vec<Client>,
    /// When each client does something next.
    wakes: Vec<u64>,
    closing: Vec<Closing>,
    sessions_left: usize,
    tick: u64,
    shutting_down: bool,
    at_start: Vec<Holdings>,
    answered: u64,
    restarts: usize,
    exports: Arc<[Arc<Export>]>,
    /// By export.
    lives: Vec<Life>,
    snapshots: snapshot::Snapshots,
    growths: growing::Growths,
    weighing: weighing::Weighing,
    _entered: Entered,
}

/// Where an export is between coming and going.
#[derive(Default)]
struct Life {
    /// How often it was removed and came back.
    generation: u32,
    /// Shards that have something of it, while it is being removed.
    held_by: Option<Arc<AtomicUsize>>,
    /// Connections of this generation, and of those before, were ended.
    ended: Option<u32>,
}

/// What a client of an export works with, out of parts of the simulation.
macro_rules! context {
    ($self:ident, $export:expr, $generation:expr) => {
        Context {
            world: &$self.world,
            oracle: &mut $self.oracles[$export],
            faults: &$self.faults,
            cuts: $self.plan.cuts > 0.0 && $self.plan.disks[$export].read_only,
            fails: $self.plan.disks[$export]
                .application
                .is_some_and(|manner| manner.drops + manner.panics > 0.0),
            is_image: $self.plan.disks[$export].image.is_some(),
            random: &mut $self.random,
            tick: &mut $self.tick,
            refuses: $self.shutting_down && $self.plan.limits.shutdown == Shutdown::Errors,
            shutting_down: $self.shutting_down,
            removed: $self.lives[$export].ended >= Some($generation),
            now: $self.world.now().as_nanos() as u64,
        }
    };
}

// It uses the macro.
#[path = "growing.rs"]
mod growing;
#[path = "restart.rs"]
mod restart;
#[path = "snapshot.rs"]
mod snapshot;
#[path = "weighing.rs"]
pub(crate) mod weighing;

/// More steps than any run that ends.
const MOST_STEPS: u64 = 5_000_000;

/// Runs a seed to its end.
pub(crate) fn run(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = if random.chance(0.15) { Faults::none() } else { Faults::any(&mut random) };
    let world = World::new(random.number(), faults.clone());
    let plan = Plan { restarts: Restart::some(seed), ..Plan::random(&mut random) };
    let plan = WeightPlan::added_to(WeightPlan::some(seed), plan);
    run_plan(random, world, faults, plan)
}

/// Runs what was planned; the rest is up to the dice.
pub(crate) fn run_plan(random: Random, world: World, faults: Faults, plan: Plan) -> Result<Report, String> {
    let mut simulation = Simulation::new(random, world, faults, plan);
    for restart in simulation.plan.restarts.clone() {
        simulation.drive(Some(restart.after), None)?;
        simulation.restart(&restart)?;
    }
    let power_cut = simulation.drive(simulation.plan.power_cut_at, simulation.plan.shutdown_at)?;
    if !power_cut {
        simulation.wind_up()?;
    }
    simulation.check_sleep()?;
    simulation.survive()?;
    let mut trace = simulation.world.trace();
    trace = ringnbd::internal::ring::sim::mixed(trace ^ simulation.tick);
    Ok(Report {
        trace,
        answered: simulation.answered,
        virtual_time: simulation.world.now(),
        outcomes: simulation.world.outcomes(),
        power_cut,
        restarts: simulation.restarts,
        snapshots: simulation.snapshots.taken,
        growths: simulation.growths.done,
        weighings: simulation.weighing.changes,
    })
}

impl Simulation {
    fn new(mut random: Random, world: World, faults: Faults, plan: Plan) -> Self {
        let entered = world.enter();
        let (mut media, mut oracles) = (Vec::new(), Vec::new());
        for disk in &plan.disks {
            let (content, values) = disk.content(&mut random);
            media.push(media::lay_out(disk, content, &world, &mut random));
            oracles.push(Oracle::new(disk.grain as usize, &values));
        }
        let (sessions_left, weighing) = (plan.sessions, weighing::Weighing::new(&plan));
        let mut simulation = Self {
            world,
            random,
            faults,
            plan,
            shards: Vec::new(),
            off_cpu: None,
            media,
            oracles,
            clients: Vec::new(),
            wakes: Vec::new(),
            closing: Vec::new(),
            sessions_left,
            tick: 1,
            shutting_down: false,
            at_start: Vec::new(),
            answered: 0,
            restarts: 0,
            exports: Vec::new().into(),
            lives: Vec::new(),
            snapshots: snapshot::Snapshots::default(),
            growths: growing::Growths::default(),
            weighing,
            _entered: entered,
        };
        simulation.start_server();
        simulation
    }

    /// Lets clients and shards work until all clients are gone, or (then true) the end comes after some steps.
    fn drive(&mut self, end_at: Option<u64>, shutdown_at: Option<u64>) -> Result<bool, String> {
        self.settle()?;
        self.at_start = self.shards.iter().map(SteppedShard::holdings).collect();
        for step in 0..MOST_STEPS {
            if end_at == Some(step) {
                return Ok(true);
            }
            if shutdown_at == Some(step) {
                self.shutting_down = true;
                self.shards.iter().for_each(SteppedShard::shutdown);
            }
            self.come_back();
            self.remove();
            self.begin_snapshot();
            self.replace_layers();
            self.begin_growth();
            self.weigh();
            self.go_on_with_snapshots()?;
            self.go_on_with_growths()?;
            while self.clients.len() < self.plan.clients && self.sessions_left > 0 && !self.shutting_down {
                if !self.connect() {
                    break;
                }
            }
            if self.clients.is_empty() && (self.sessions_left == 0 || self.shutting_down) {
                return Ok(false);
            }
            self.step()?;
            self.disturb()?;
        }
        let waiting: Vec<_> = self.clients.iter().map(|client| client.describe()).collect();
        let holdings: Vec<_> = self.shards.iter().map(SteppedShard::holdings).collect();
        Err(format!("the run does not end at {:?}: {waiting:?} {holdings:?}", self.world.now()))
    }

    /// Exports that every shard has given up come back.
    fn come_back(&mut self) {
        for life in &mut self.lives {
            if life.held_by.as_ref().is_some_and(|shards| shards.load(Ordering::Relaxed) == 0) {
                *life = Life { generation: life.generation + 1, held_by: None, ended: life.ended };
            }
        }
    }

    /// Perhaps an export is removed.
    fn remove(&mut self) {
        if self.shutting_down || !self.random.chance(self.plan.removals) {
            return;
        }
        let export = self.random.below(self.lives.len() as u64) as usize;
        let life = &mut self.lives[export];
        if life.held_by.is_some() {
            return;
        }
        let how = self.random.pick(&[Removal::AtOnce, Removal::WhenUnused]);
        if how == Removal::AtOnce {
            life.ended = Some(life.generation);
        }
        let held_by = Arc::new(AtomicUsize::new(self.shards.len()));
        for shard in &self.shards {
            let held_by = Arc::clone(&held_by);
            let id = ExportId { index: export as u32, generation: life.generation };
            let done = move || {
                held_by.fetch_sub(1, Ordering::Relaxed);
            };
            assert!(shard.remove(id, how, done), "the mailbox has room");
        }
        life.held_by = Some(held_by);
    }

    /// Memory gets short, or somebody cuts a file, behind the server's back.
    fn disturb(&mut self) -> Result<(), String> {
        if self.random.chance(self.plan.evictions) {
            let disk = self.random.below(self.media.len() as u64) as usize;
            match &*self.media[disk].files(&self.world) {
                [] => {}
                [(_, only)] => self.world.evict(*only),
                files => self.world.evict(files[self.random.below(files.len() as u64) as usize].1),
            }
        }
        if self.random.chance(self.plan.cuts) {
            let disk = self.random.below(self.media.len() as u64) as usize;
            if self.plan.disks[disk].read_only {
                let unit = self.plan.disks[disk].sector.unwrap_or(1) as usize;
                let size = self.random.below(self.plan.disks[disk].size) as usize / unit * unit;
                let size = self.random.chance(0.5).then_some(size);
                if let [(_, only)] = &*self.media[disk].files(&self.world) {
                    self.world.cut(*only, size);
                }
            }
        }
        match self.world.slept_in_vain() {
            true => Err("a shard waits again and again for pages that are gone".into()),
            false => Ok(()),
        }
    }

    /// One thing happens: a shard's turn, a client's step, or an event of the world.
    fn step(&mut self) -> Result<(), String> {
        if self.takes_turn() {
            return Ok(());
        }
        if self.random_device().is_some_and(|device| self.media[device].step()) {
            return Ok(());
        }
        let event = self.world.next_event().map(|at| at.as_nanos() as u64);
        let client = (0..self.clients.len()).min_by_key(|at| self.wakes[*at]);
        match (event, client) {
            (event, Some(client)) if event.is_none_or(|event| event >= self.wakes[client]) => {
                let moment = Duration::from_nanos(self.wakes[client]);
                if moment > self.world.now() {
                    self.world.wait_until(moment);
                }
                self.step_client(client)
            }
            (Some(_), _) => {
                self.world.step();
                self.note_released();
                Ok(())
            }
            (None, _)
                if self.step_devices() || self.go_on_with_snapshots()? || self.go_on_with_growths()? =>
            {
                Ok(())
            }
            (None, _) => Err("nothing will ever happen again".into()),
        }
    }

    /// Perhaps a device of the application ends a request.
    fn random_device(&mut self) -> Option<usize> {
        if !self.media.iter().any(|medium| medium.runs_by_itself()) || self.random.chance(0.7) {
            return None;
        }
        Some(self.random.below(self.media.len() as u64) as usize)
    }

    /// Has a device of the application end a request, if there is one that has any.
    fn step_devices(&self) -> bool {
        self.media.iter().any(|medium| medium.step())
    }

    /// Perhaps lets one of the shards that are ready take a turn. Shards may be slow, but not so slow that long timeouts pass.
    fn takes_turn(&mut self) -> bool {
        const SLOWEST_TURN: Duration = Duration::from_millis(20);
        let mut ready: Vec<usize> = (0..self.shards.len()).filter(|at| self.shards[*at].may_run()).collect();
        if ready.is_empty() {
            return false;
        }
        let now = self.world.now();
        let client = self.wakes.iter().min().map(|wake| Duration::from_nanos(*wake));
        let next = self.world.next_event().into_iter().chain(client).min();
        let is_near = next.is_some_and(|next| next < now + SLOWEST_TURN);
        if is_near {
            let off = self.off_its_cpu();
            ready.retain(|shard| Some(*shard) != off);
            if ready.is_empty() || self.random.chance(0.3) {
                return false;
            }
        }
        let shard = self.random.pick(&ready);
        self.turn(shard);
        // A turn takes time: a shard that polls for something does not stop the clock.
        let end = self.world.now() + Duration::from_nanos(self.random.between(100, 10_000));
        self.world.wait_until(self.world.next_event().map_or(end, |next| next.min(end)));
        true
    }

    /// The shard, if there is one, whose thread the kernel does not let run for some steps.
    fn off_its_cpu(&mut self) -> Option<usize> {
        let (shard, steps) = match self.off_cpu.take() {
            Some(off) => off,
            None if self.shards.len() > 1 && self.random.chance(0.01) => {
                (self.random.below(self.shards.len() as u64) as usize, self.random.between(1, 200))
            }
            None => return None,
        };
        self.off_cpu = (steps > 0).then(|| (shard, steps - 1));
        Some(shard)
    }

    fn turn(&mut self, shard: usize) {
        let goes_on = self.shards[shard].turn();
        assert!(goes_on || self.shutting_down, "a shard ended that nobody asked to");
        if !goes_on {
            self.shards.remove(shard);
        }
        self.note_released();
    }

    /// Writes of connections that are gone cannot happen any more.
    fn note_released(&mut self) {
        let (world, oracles, tick) = (&self.world, &mut self.oracles, &mut self.tick);
        self.closing.retain(|closing| {
            let released = world.is_released(closing.socket);
            if released {
                *tick += 1;
                closing.writes.iter().for_each(|write| oracles[closing.export].lost(*tick, *write));
            }
            !released
        });
    }

    /// One more client; false when the export of its choice is being removed.
    fn connect(&mut self) -> bool {
        let mut setting = self.plan.setting(&mut self.random);
        if self.lives[setting.export].held_by.is_some() {
            return false;
        }
        self.go_home(&mut setting);
        self.sessions_left -= 1;
        setting.generation = self.lives[setting.export].generation;
        let (socket, token) = self.world.socket(self.plan.socket_bytes, setting.over_tcp);
        let mut negotiated = plan::negotiated(token, &setting, &self.exports);
        negotiated.limits = Arc::clone(&self.weighing.limits[setting.export]);
        let shard = setting.shard;
        let mut context = context!(self, setting.export, setting.generation);
        let mut client = Client::new(socket, setting, &mut context);
        if client.setting.is_secure {
            let (end, secured) = secure::pair(context.random);
            (client.secure, negotiated.secure) = (Some(end), Some(Box::new(secured)));
        }
        let wake = client.next_step(&mut context);
        assert!(self.shards[shard].connect(negotiated).is_ok(), "the mailbox has room");
        self.clients.push(client);
        self.wakes.push(wake);
        true
    }

    /// All clients of an image are served by one shard.
    fn go_home(&self, setting: &mut Setting) {
        if self.plan.disks[setting.export].image.is_some() {
            setting.shard = setting.export % self.shards.len();
        }
    }

    fn step_client(&mut self, index: usize) -> Result<(), String> {
        let (export, generation) =
            (self.clients[index].setting.export, self.clients[index].setting.generation);
        let mut context = context!(self, export, generation);
        let client = &mut self.clients[index];
        client
            .step(&mut context)
            .map_err(|error| format!("client of export {export} ({:?}): {error}", client.setting))?;
        if client.is_gone() {
            let writes = client.unanswered_writes(&mut context);
            self.answered += client.answered;
            self.closing.push(Closing { socket: client.socket, export, writes });
            self.clients.swap_remove(index);
            self.wakes.swap_remove(index);
            self.note_released();
        } else {
            self.wakes[index] = client.next_step(&mut context);
        }
        Ok(())
    }

    /// Runs until nothing more happens by itself.
    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..MOST_STEPS {
            // Devices of the application before the clock, which would run to the end of every patience.
            let goes_on = self.takes_turn()
                || self.step_devices()
                || self.go_on_with_snapshots()?
                || self.go_on_with_growths()?;
            if !goes_on && !self.world.step() {
                return Ok(());
            }
            self.note_released();
        }
        Err("the shards do not come to rest".into())
    }

    /// All clients are gone: nothing may be left of them, and the shards end when they are asked to.
    fn wind_up(&mut self) -> Result<(), String> {
        self.settle()?;
        if !self.shutting_down {
            self.come_back();
            let held = self.lives.iter().position(|life| life.held_by.is_some());
            if let Some(export) = held.filter(|_| self.plan.removals > 0.0) {
                return Err(format!("export {export} is never given up"));
            }
            for (shard, before) in self.shards.iter().zip(&self.at_start) {
                let after = shard.holdings();
                if after != *before {
                    return Err(format!("something leaked: {before:?} at the start, {after:?} at the end"));
                }
            }
            self.check_images()?;
            self.shutting_down = true;
            self.shards.iter().for_each(SteppedShard::shutdown);
            self.settle()?;
        }
        if !self.shards.is_empty() {
            return Err("a shard does not end".into());
        }
        // Whoever was still in the mailbox when a shard ended was never taken.
        if self.closing.iter().any(|closing| self.world.is_taken(closing.socket)) {
            return Err(format!("a socket is never released; asked to end at {:?}", self.plan.shutdown_at));
        }
        // The next server finishes what this one has left.
        self.media.iter_mut().for_each(|medium| medium.interrupted(&self.world, Interruption::ProcessDeath));
        let may_open_images = !self.has_lost_data_of_images();
        for export in 0..self.oracles.len() {
            if self.plan.disks[export].image.is_none() || may_open_images {
                self.tick += 1;
                let content = self.content(export)?;
                self.oracles[export].check_content(self.tick, &content)?;
            }
        }
        Ok(())
    }

    /// The next server would make states durable of blocks whose data no medium has: the kernel would tell it so, and an image would not
    /// open.
    fn has_lost_data_of_images(&self) -> bool {
        let images = (0..self.media.len()).filter(|export| self.plan.disks[*export].image.is_some());
        let mut files = images.flat_map(|export| self.media[export].files(&self.world));
        files.any(|(_, file)| self.world.has_lost_data(file))
    }

    /// While their server runs, images hold all that was answered.
    fn check_images(&mut self) -> Result<(), String> {
        for export in 0..self.oracles.len() {
            if self.plan.disks[export].image.is_some() {
                let content = self.read_through(export)?;
                self.tick += 1;
                self.oracles[export].check_content(self.tick, &content)?;
            }
        }
        self.settle()
    }

    /// Whatever the exports did, no shard has slept.
    fn check_sleep(&self) -> Result<(), String> {
        match self.world.sleeps() {
            0 => Ok(()),
            sleeps => Err(format!("a shard slept in the kernel {sleeps} times")),
        }
    }

    /// The power fails, and what must have survived is looked for.
    fn survive(&mut self) -> Result<(), String> {
        self.world.power_cut();
        self.media.iter_mut().for_each(|medium| medium.interrupted(&self.world, Interruption::PowerCut));
        self.end_snapshots();
        self.end_growths();
        if self.media.iter().any(|medium| medium.content(&self.world).is_none()) {
            self.drop_server();
        }
        for export in 0..self.media.len() {
            let content = self.content(export)?;
            self.oracles[export].check_survival(&content)?;
        }
        self.check_snapshots()
    }
}
