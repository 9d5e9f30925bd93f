//! Disks that are images: a head, perhaps a sealed layer below it, perhaps a base.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringnbd::internal::backend::{Export, ShorterChain, SimulatedBlock, SimulatedImage, SimulatedLayer};
use ringnbd::internal::ring::sim::{Faults, FileId, Random, World, mixed};
use ringnbd::internal::store::Geometry;

use super::media::Medium;
use super::pinned::{crowd, small_memory};
use super::plan::{Disk, Interruption, Plan, Restart};
use super::run::weighing::WeightPlan;
use super::run::{self, Report};

/// Bytes by which a disk can grow.
const MOST_GROWTH: u64 = 1 << 16;

/// How an image lies in its world.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    geometry: Geometry,
    /// Bytes of the base.
    base: Option<u64>,
    /// There is a sealed layer below the head.
    is_sealed: bool,
    /// Where no layer has a block its data is not zeroes.
    is_dirty: bool,
    /// Units that it grows by at most, one of these each time.
    growths: [u64; 3],
}

impl Shape {
    /// For a disk of a size: small nodes, and a journal that laps every few records.
    pub(crate) fn random(size: u64, grain: u64, random: &mut Random) -> Self {
        let block_bytes: u32 = random.pick(&[512, 4096, 4096]);
        let page_blocks: u32 = random.pick(&[32, 64, 256]);
        let record_block_bytes = random.pick(&[512, 512, 4096]);
        let ring_bytes = u64::from(record_block_bytes) * random.pick(&[4, 7, 16, 64]);
        let ring_room_bytes = ring_bytes * random.pick(&[1, 2, 8]);
        let (fan_out, inner_levels): (u32, u32) = random.pick(&[(4, 2), (8, 2), (16, 1)]);
        let below = u64::from(page_blocks) * u64::from(fan_out.pow(inner_levels)) * u64::from(block_bytes);
        let roots = (size + MOST_GROWTH).div_ceil(below) as u32;
        let geometry = Geometry {
            block_bytes,
            page_blocks,
            slot_bytes: random.pick(&[512, 1024]),
            record_block_bytes,
            ring_bytes,
            ring_room_bytes,
            fan_out,
            inner_levels,
            roots,
        };
        let base = match random.below(4) {
            0 => None,
            // The oracle knows whole units only.
            1 => Some((random.below(size / grain) + 1) * grain),
            2 => Some(size + random.below(10_000)),
            _ => Some(size),
        };
        Self {
            geometry,
            base,
            is_sealed: random.chance(0.4),
            is_dirty: random.chance(0.5),
            growths: [2, 16, 200],
        }
    }

    /// What the data of a layer has at first: whole blocks, also where the end of the disk cuts the last one. A disk that was larger once
    /// has left something behind its end.
    fn first_data(&self, size: u64, random: &mut Random) -> Vec<u8> {
        let length = size.next_multiple_of(u64::from(self.geometry.block_bytes)) as usize;
        if self.is_dirty { rubbish(length, random) } else { vec![0; length] }
    }
}

/// Runs a seed in a world whose exports are images for the most part.
pub(crate) fn worlds(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed ^ 0x1a6e);
    let faults = if random.chance(0.4) { Faults::none() } else { Faults::any(&mut random) };
    let world = World::new(random.number(), faults.clone());
    let mut plan = Plan::random(&mut random);
    for disk in &mut plan.disks {
        if random.chance(0.8) {
            make_image(disk, &mut random);
        }
    }
    plan.cuts = 0.0;
    plan.cautious = random.chance(0.4);
    plan.restarts = (0..random.below(4)).map(|_| Restart::random(&mut random)).collect();
    plan.snapshots = random.pick(&[0.0, 0.001, 0.01, 0.05]);
    plan.unrecorded = random.pick(&[0.0, 0.0, 0.3]);
    // A number of its own: worlds that found something before stay what they were.
    plan.growths = Random::new(mixed(seed ^ 0x6707)).pick(&[0.0, 0.0, 0.001, 0.01]);
    Arc::make_mut(&mut plan.limits).seal_timeout = random_timeout(&mut random);
    avoid_gaps(&mut plan, &faults);
    run::run_plan(random, world, faults, WeightPlan::added_to(WeightPlan::some(seed), plan))
}

fn random_timeout(random: &mut Random) -> Duration {
    Duration::from_micros(random.pick(&[100, 10_000, 2_000_000]))
}

/// Two images, on two shards perhaps, of which snapshots are taken together all the time, and power cuts.
pub(crate) fn snapshots(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults { latency_ns: 2_000, slow: 0.1, ..Faults::none() };
    let world = World::new(random.number(), faults.clone());
    let mut plan = crowd(4, small_memory());
    plan.disks.extend(crowd(1, small_memory()).disks);
    (plan.shards, plan.snapshots, plan.cautious) = (random.between(1, 2) as usize, 0.02, true);
    plan.unrecorded = random.pick(&[0.0, 0.0, 0.3]);
    for disk in &mut plan.disks {
        disk.size = 64 << 10;
        make_image(disk, &mut random);
    }
    plan.restarts = (0..3).map(|_| cut(Interruption::PowerCut, &mut random)).collect();
    run::run_plan(random, world, faults, plan)
}

/// An image whose last block is cut by the end of the disk. It grows all the time under clients that write,
/// zero and trim, and servers end.
pub(crate) fn growing(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults { latency_ns: 2_000, slow: 0.1, ..Faults::none() };
    let world = World::new(random.number(), faults.clone());
    let mut plan = crowd(6, small_memory());
    (plan.growths, plan.snapshots) = (0.01, random.pick(&[0.0, 0.005]));
    plan.disks[0].size = (8 << 10) + plan.disks[0].grain * random.between(1, 7);
    make_image(&mut plan.disks[0], &mut random);
    let shape = plan.disks[0].image.as_mut().expect("it is an image");
    (shape.base, shape.geometry.block_bytes) = (Some(32 << 10), 4096);
    let kinds = [Interruption::ProcessDeath, Interruption::PowerCut];
    plan.restarts = kinds.into_iter().map(|kind| cut(kind, &mut random)).collect();
    run::run_plan(random, world, faults, plan)
}

/// The same while a client that knows the larger disk comes with each growth. Disks are a few blocks at first, and operations slow now and
/// then: a WRITE_ZEROES up to the old end is under way when somebody else writes behind it. Nothing old lies there.
pub(crate) fn growing_beside_zeroes(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults { latency_ns: 20_000, slow: 0.1, ..Faults::none() };
    let world = World::new(random.number(), faults.clone());
    let mut plan = crowd(6, small_memory());
    (plan.growths, plan.newcomers, plan.sessions) = (0.01, true, 12);
    plan.disks[0].size = (4 << 10) + plan.disks[0].grain * random.between(1, 7);
    make_image(&mut plan.disks[0], &mut random);
    let shape = plan.disks[0].image.as_mut().expect("it is an image");
    (shape.geometry.block_bytes, shape.is_dirty, shape.growths) = (4096, false, [1, 2, 3]);
    run::run_plan(random, world, faults, plan)
}

/// A few blocks that are zeroed and written while others read them, into sockets in which replies wait, and a disk that has no room now
/// and then: a block that is zero may have bytes of a write that is not over, or has failed, which no read must show. Or zeroes leave the
/// data as it was: what becomes DATA again must have bytes of its own.
pub(crate) fn zeroed(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let (no_space, no_punch) = random.pick(&[(0.3, false), (0.0, true)]);
    let faults = Faults { latency_ns: 5_000, slow: 0.2, no_space, no_punch, ..Faults::none() };
    let world = World::new(random.number(), faults.clone());
    let mut plan = crowd(8, small_memory());
    (plan.socket_bytes, plan.longest, plan.sessions) = (4096, 8 << 10, 24);
    // Replies leave from the page cache, or are read into memory first.
    plan.disks[0].alignment = random.pick(&[None, Some(512)]);
    plan.disks[0].size = 16 << 10;
    make_image(&mut plan.disks[0], &mut random);
    let shape = plan.disks[0].image.as_mut().expect("it is an image");
    // Requests cover their blocks.
    (shape.base, shape.geometry.block_bytes) = (None, 512);
    run::run_plan(random, world, faults, plan)
}

/// Two images that are written all the time, and snapshots of both together. Nothing interrupts that, so what
/// is wrong with a snapshot is its point in time.
pub(crate) fn groups(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults { latency_ns: 2_000, slow: 0.1, ..Faults::none() };
    let world = World::new(random.number(), faults.clone());
    let mut plan = crowd(8, small_memory());
    plan.disks.extend(crowd(1, small_memory()).disks);
    (plan.shards, plan.snapshots, plan.longest) = (2, 0.02, 16 << 10);
    for disk in &mut plan.disks {
        disk.size = 64 << 10;
        make_image(disk, &mut random);
    }
    run::run_plan(random, world, faults, plan)
}

fn make_image(disk: &mut Disk, random: &mut Random) {
    disk.sector = None;
    disk.image = Some(Shape::random(disk.size, disk.grain, random));
}

/// What the page cache shows after data could not be written back is not what the medium has, and an image
/// that is opened after the death of a process does not know (README.md).
fn avoid_gaps(plan: &mut Plan, faults: &Faults) {
    if faults.lost_write_back > 0.0 {
        plan.restarts.iter_mut().for_each(|restart| restart.interruption = Interruption::PowerCut);
    }
}

/// One image over a base with few blocks that many write at once, and power cuts.
pub(crate) fn crowds(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults { latency_ns: 2_000, slow: 0.1, ..Faults::none() };
    let world = World::new(random.number(), faults.clone());
    let mut plan = crowd(4, small_memory());
    (plan.disks[0].size, plan.cautious) = (64 << 10, true);
    make_image(&mut plan.disks[0], &mut random);
    let shape = plan.disks[0].image.as_mut().expect("it is an image");
    (shape.base, shape.geometry.block_bytes) = (Some(64 << 10), 4096);
    plan.restarts = (0..3).map(|_| cut(Interruption::PowerCut, &mut random)).collect();
    run::run_plan(random, world, faults, plan)
}

/// Two images of which snapshots are taken together all the time, and servers that are killed.
pub(crate) fn killed_snapshots(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults { latency_ns: 2_000, slow: 0.1, ..Faults::none() };
    let world = World::new(random.number(), faults.clone());
    let mut plan = crowd(4, small_memory());
    plan.disks.extend(crowd(1, small_memory()).disks);
    (plan.shards, plan.snapshots) = (random.between(1, 2) as usize, 0.02);
    for disk in &mut plan.disks {
        disk.size = 64 << 10;
        make_image(disk, &mut random);
    }
    let kinds = [Interruption::ProcessDeath, Interruption::ProcessDeath, Interruption::PowerCut];
    plan.restarts = kinds.into_iter().map(|kind| cut(kind, &mut random)).collect();
    run::run_plan(random, world, faults, plan)
}

/// Servers that are killed under load, and a power cut after each.
pub(crate) fn killed_servers(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults { latency_ns: 1_000, slow: 0.2, ..Faults::none() };
    let world = World::new(random.number(), faults.clone());
    let mut plan = crowd(3, small_memory());
    make_image(&mut plan.disks[0], &mut random);
    let kinds = [Interruption::ProcessDeath, Interruption::PowerCut];
    plan.restarts = kinds.into_iter().cycle().take(4).map(|kind| cut(kind, &mut random)).collect();
    plan.restarts.iter_mut().skip(1).step_by(2).for_each(|restart| restart.after /= 10);
    run::run_plan(random, world, faults, plan)
}

fn cut(interruption: Interruption, random: &mut Random) -> Restart {
    let most = random.pick(&[500, 2_000]);
    Restart { after: random.below(most), interruption, is_read: random.chance(0.3), sessions: 6 }
}

fn pass(world: fn(u64) -> Result<Report, String>, seeds: std::ops::RangeInclusive<u64>) {
    for seed in seeds {
        let result = world(seed);
        assert!(result.is_ok(), "world {seed}: {}", result.unwrap_err());
    }
}

#[test]
fn d1_what_was_flushed_survives_power_cuts_and_what_was_answered_kills() {
    pass(killed_servers, 1..=40);
}

/// Many first writes of parts of few blocks over a base, cut off anywhere.
#[test]
fn d2_no_block_over_a_base_reads_as_zeroes_that_nobody_wrote() {
    pass(crowds, 1..=40);
}

/// Clients that write a block with FUA beside others that write its neighbours without.
#[test]
fn d3_a_fua_publishes_no_neighbour() {
    pass(crowds, 41..=80);
}

#[test]
fn c1_snapshots_of_a_group_are_one_point_in_time() {
    pass(groups, 1..=40);
}

#[test]
fn c2_a_snapshot_is_there_as_a_whole_or_not() {
    pass(snapshots, 1..=40);
    pass(killed_snapshots, 1..=40);
}

#[test]
fn an_image_grows_under_its_clients_and_keeps_what_they_wrote() {
    pass(growing, 1..=super::number("SEEDS").unwrap_or(100));
}

#[test]
fn what_is_zeroed_up_to_the_old_end_spares_what_is_written_behind_it() {
    pass(growing_beside_zeroes, 1..=super::number("SEEDS").unwrap_or(40));
}

/// Seed 63010371 of `worlds` found it: a write that ended late brought back what another had written before the zeroes.
#[test]
fn a_block_that_was_zeroed_shows_nothing_of_other_writes() {
    pass(zeroed, 1..=40);
}

/// What the catalogue says of an image. It survives everything.
pub(crate) struct Row {
    pub(crate) image: SimulatedImage,
    /// Its snapshots, by number, each as an image of its own.
    pub(crate) snapshots: Vec<(u64, SimulatedImage)>,
    /// A head that may have taken over, and the snapshot that is being taken unless it has failed.
    pub(crate) tentative: Option<(SimulatedLayer, Option<u64>)>,
}

impl Row {
    /// The head is sealed, and what stands on it goes on with another one.
    pub(crate) fn seal(&mut self, number: u64, next: SimulatedLayer) {
        self.snapshots.push((number, SimulatedImage { read_only: true, ..self.image.clone() }));
        self.take_over(next);
    }

    /// The same without a snapshot.
    pub(crate) fn take_over(&mut self, next: SimulatedLayer) {
        self.image.layers.insert(0, next);
        self.tentative = None;
    }
}

/// Files of a head that is to take over, and the row that is to name it.
pub(crate) struct NextLayer {
    pub(crate) layer: SimulatedLayer,
    pub(crate) row: Rc<RefCell<Row>>,
}

/// Layers that an image has at most, the head among them.
const MOST_LAYERS: usize = 5;

/// An image in a world.
pub(crate) struct Image {
    row: Rc<RefCell<Row>>,
    /// The largest that its maps have room for.
    most_bytes: u64,
    grain: u64,
    alignment: Option<u32>,
    shape: Shape,
    random: Random,
    /// How often its layers were replaced.
    copies: u64,
    /// Files that nobody may ever write, and what they hold.
    untouched: Vec<(FileId, Vec<u8>)>,
}

/// What a layer has at first.
struct Layer {
    /// Bytes of the disk.
    size: usize,
    data: Vec<u8>,
    blocks: Vec<SimulatedBlock>,
}

impl Layer {
    fn has(&mut self, block: usize, bytes: &[u8]) {
        let on_disk = bytes.len().min(self.size.saturating_sub(block * bytes.len()));
        self.data[block * bytes.len()..][..on_disk].copy_from_slice(&bytes[..on_disk]);
        self.blocks[block] = SimulatedBlock::Data;
    }
}

impl Image {
    /// Spreads what the disk holds over its layers and its base.
    pub(crate) fn lay_out(
        disk: &Disk,
        shape: Shape,
        content: Vec<u8>,
        world: &World,
        random: &mut Random,
    ) -> Self {
        let block = shape.geometry.block_bytes as usize;
        let mut whole = content;
        whole.resize(whole.len().next_multiple_of(block), 0);
        let blocks = whole.len() / block;
        let mut layers = Vec::new();
        for _ in 0..1 + usize::from(shape.is_sealed) {
            let data = shape.first_data(disk.size, random);
            layers.push(Layer {
                size: disk.size as usize,
                data,
                blocks: vec![SimulatedBlock::Below; blocks],
            });
        }
        let mut base = shape.base.map(|size| rubbish(size as usize, random));
        for (index, bytes) in whole.chunks(block).enumerate() {
            let (start, last) = (index * block, layers.len() - 1);
            let held = base.as_ref().map_or(0, |base| base.len().saturating_sub(start).min(block));
            let is_below = bytes[held..].iter().all(|byte| *byte == 0);
            if is_below && (held == 0 || random.chance(0.6)) {
                let held = held.min(disk.size as usize - start);
                if let Some(base) = base.as_mut().filter(|_| held > 0) {
                    base[start..start + held].copy_from_slice(&bytes[..held]);
                }
            } else if bytes.iter().all(|byte| *byte == 0) && random.chance(0.8) {
                layers[last].blocks[index] = SimulatedBlock::Zero;
            } else {
                let layer = if random.chance(0.3) { 0 } else { last };
                layers[layer].has(index, bytes);
                if layer < last {
                    let hidden =
                        random.pick(&[SimulatedBlock::Data, SimulatedBlock::Zero, SimulatedBlock::Below]);
                    layers[last].blocks[index] = hidden;
                }
            }
        }
        let random = Random::new(mixed(disk.size ^ blocks as u64));
        Self::make(disk, shape, layers, base, world, random)
    }

    fn make(
        disk: &Disk,
        shape: Shape,
        layers: Vec<Layer>,
        base: Option<Vec<u8>>,
        world: &World,
        random: Random,
    ) -> Self {
        let mut untouched = Vec::new();
        let mut file = |bytes: Vec<u8>, alignment: Option<u32>, is_written: bool| {
            let id = world.file(bytes.clone(), alignment, 1).id;
            if !is_written {
                untouched.push((id, bytes));
            }
            id
        };
        let layers = layers.into_iter().enumerate().map(|(index, layer)| {
            let is_written = index == 0 && !disk.read_only;
            let map = SimulatedImage::map_file(disk.size, shape.geometry, &layer.blocks);
            let (data, map) = (file(layer.data, disk.alignment, is_written), file(map, None, is_written));
            world.grows(map);
            SimulatedLayer { data, map }
        });
        let layers = layers.collect();
        let base = base.map(|bytes| {
            // What an image does not have when it begins is not seen when it has grown.
            let visible = disk.size.min(bytes.len() as u64);
            (file(bytes, None, false), visible)
        });
        let image = SimulatedImage { size: disk.size, layers, base, read_only: disk.read_only };
        let row = Rc::new(RefCell::new(Row { image, snapshots: Vec::new(), tentative: None }));
        Self {
            row,
            most_bytes: disk.size + MOST_GROWTH,
            grain: disk.grain,
            alignment: disk.alignment,
            shape,
            random,
            copies: 0,
            untouched,
        }
    }
}

fn rubbish(length: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| random.number().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

impl Medium for Image {
    fn open(&mut self, world: &World) -> Arc<Export> {
        for (file, bytes) in &self.untouched {
            assert!(world.holds(*file, bytes), "a file was written that nobody may write");
        }
        Arc::new(Export::simulated_image(world, &self.row.borrow().image))
    }

    fn files(&self, _world: &World) -> Vec<(String, FileId)> {
        let SimulatedImage { layers, base, .. } = &self.row.borrow().image;
        let layers = layers.iter().flat_map(|layer| [layer.data, layer.map]);
        let files = layers.chain(base.map(|(file, _)| file));
        files.enumerate().map(|(index, file)| (index.to_string(), file)).collect()
    }

    fn next_head(&mut self, world: &World) -> Option<NextLayer> {
        let image = &self.row.borrow().image;
        let is_unfinished = self.row.borrow().tentative.is_some();
        if image.read_only || image.layers.len() >= MOST_LAYERS || is_unfinished {
            return None;
        }
        let size = image.size;
        let data = self.shape.first_data(size, &mut self.random);
        let map = SimulatedImage::map_file(size, self.shape.geometry, &[]);
        let [data, map] = [world.file(data, self.alignment, 1).id, world.file(map, None, 1).id];
        world.grows(map);
        let layer = SimulatedLayer { data, map };
        Some(NextLayer { layer, row: Rc::clone(&self.row) })
    }

    fn other_layers(&mut self, world: &World) -> Option<ShorterChain> {
        let image = &self.row.borrow().image;
        if image.layers.len() < 2 {
            return None;
        }
        self.copies += 1;
        Some(ShorterChain::simulated(world, image, self.copies))
    }

    fn grow(&mut self, world: &World) -> Option<(SimulatedLayer, u64)> {
        let mut row = self.row.borrow_mut();
        let room = self.most_bytes.saturating_sub(row.image.size) / self.grain;
        if row.image.read_only || row.tentative.is_some() || room == 0 {
            return None;
        }
        let most = self.random.pick(&self.shape.growths).min(room);
        let (head, size) = (row.image.layers[0], row.image.size + self.grain * self.random.between(1, most));
        world.lengthen(head.data, size.next_multiple_of(u64::from(self.shape.geometry.block_bytes)));
        row.image.size = size;
        Some((head, size))
    }

    fn size(&self) -> Option<u64> {
        Some(self.row.borrow().image.size)
    }

    /// Whoever opens the store next finishes a snapshot that was being taken.
    fn interrupted(&mut self, world: &World, interruption: Interruption) {
        let mut row = self.row.borrow_mut();
        let Some((next, number)) = row.tentative.take() else { return };
        if row.image.is_taken_over(world, interruption == Interruption::ProcessDeath) {
            match number {
                Some(number) => row.seal(number, next),
                None => row.take_over(next),
            }
        }
    }

    /// It takes a server to know which of its blocks count.
    fn content(&self, _world: &World) -> Option<Vec<u8>> {
        None
    }
}
