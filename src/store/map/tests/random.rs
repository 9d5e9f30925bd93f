//! Random lives of a layer, with a cut after every step: each time the layer opens, with the states of the
//! last durable record or of one that was under way. Some cuts are gone on from.

use super::file::{CutFile, SECTOR};
use super::model::{ALL, Model};
use super::shell::{self, GROWING, TINY};
use crate::random::Random;
use crate::store::map::planted::{MapBug, is_planted, plant};
use crate::store::map::{BlockState, CheckpointStep, FileWrite, LayerMap, Lookup, NoCommit, ShrinkStep};

const STEPS: u64 = 120;
const BLOCK: u64 = TINY.block_bytes as u64;

/// Where a checkpoint is.
#[derive(PartialEq)]
enum Stage {
    None,
    Nodes,
    /// The superblock was written and not synced.
    Superblock,
}

struct World {
    random: Random,
    file: CutFile,
    map: LayerMap,
    model: Model,
    stage: Stage,
    /// A record of this generation is durable.
    has_records: bool,
    step: u64,
}

type Found = Result<(), String>;

fn fail<T, E: std::fmt::Display>(what: &str) -> impl Fn(E) -> Result<T, String> {
    move |error| Err(format!("{what}: {error}"))
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let size = random.between(1, 500) * BLOCK;
        let file = shell::create(size, random.pick(&[TINY, GROWING]));
        let map = shell::open(&file).unwrap();
        let model = Model::new(vec![BlockState::Absent; (size / BLOCK) as usize]);
        Self { random, file, map, model, stage: Stage::None, has_records: false, step: 0 }
    }

    fn run(&mut self) -> Found {
        for step in 0..STEPS {
            self.step = step;
            match self.random.below(20) {
                0..7 => self.change()?,
                7..10 => self.begin_commit()?,
                10..13 => self.end_commit()?,
                13..16 => self.checkpoint()?,
                16 => self.map.evict_clean(self.random.below(4) as usize),
                17 => self.flush()?,
                18 => self.resize()?,
                _ => self.restart()?,
            }
            self.look()?;
        }
        Ok(())
    }

    /// Blocks that the disk has, and goes on to have.
    fn range(&mut self) -> (u64, u64) {
        let blocks = self.map.lasting_blocks();
        let start = self.random.below(blocks);
        let longest = self.random.pick(&[1, 3, 40, 300]).min(blocks - start);
        (start, self.random.between(1, longest))
    }

    fn change(&mut self) -> Found {
        for _ in 0..self.random.pick(&[1, 1, 1, 30]) {
            let (start, length) = self.range();
            let state = self.random.pick(&ALL[1..]);
            self.change_to(start, length, state)?;
        }
        Ok(())
    }

    fn change_to(&mut self, start: u64, length: u64, state: BlockState) -> Found {
        shell::load_missing(&mut self.map, &self.file, start, length).or_else(fail("a node"))?;
        self.map.change(start, length, state);
        if !self.map.new_slots(start, length).is_empty() {
            return Err("slots are asked for twice".into());
        }
        self.model.change(self.step, start as usize, length as usize, state);
        Ok(())
    }

    fn begin_commit(&mut self) -> Found {
        if !self.model.in_flight.is_empty()
            && (!is_planted(MapBug::RecordsOvertake) || self.model.in_flight.len() > 1)
        {
            return Ok(());
        }
        let is_part = self.random.chance(0.3);
        let (start, length) = if is_part { self.range() } else { (0, self.map.blocks()) };
        let begun = if is_part { self.map.begin_commit_in(start, length) } else { self.map.begin_commit() };
        match begun {
            Ok(Some(write)) => {
                self.model.taken(&write, start as usize, (start + length) as usize, BLOCK)?;
                self.write(&write)
            }
            Ok(None) => {
                let (start, end) = (start as usize, (start + length) as usize);
                let forgotten = (start..end).find(|block| self.model.pending[*block].is_some());
                forgotten
                    .map_or(Ok(()), |block| Err(format!("block {block} is pending, and not for the map")))
            }
            Err(NoCommit::RingFull) => self.finish_checkpoint(),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A write that no sync has covered.
    fn write(&mut self, write: &FileWrite) -> Found {
        self.file.write(write);
        self.cut()
    }

    fn end_commit(&mut self) -> Found {
        let Some(record) = self.model.in_flight.front() else { return Ok(()) };
        if self.model.in_flight.len() > 1 && self.random.chance(0.5) {
            let last = self.model.in_flight[1].write.clone();
            self.file.sync_only(&last);
            return self.cut();
        }
        if self.random.chance(0.5) {
            self.file.sync_only(&record.write)
        } else {
            self.file.sync()
        }
        self.cut()?;
        self.map.end_commit(true);
        self.model.ended();
        self.has_records = true;
        self.cut()
    }

    fn checkpoint(&mut self) -> Found {
        match self.stage {
            Stage::None => {
                self.map.begin_checkpoint(self.step);
                self.stage = Stage::Nodes;
            }
            Stage::Nodes if self.random.chance(0.05) => {
                self.map.abandon_checkpoint();
                self.stage = Stage::None;
            }
            Stage::Nodes => match self.map.checkpoint_step() {
                CheckpointStep::Load(node) => {
                    shell::load(&mut self.map, &self.file, node).or_else(fail("a node for a checkpoint"))?;
                }
                CheckpointStep::Write(writes) => {
                    for write in writes {
                        self.write(&write)?;
                    }
                }
                CheckpointStep::Grow { offset, length } => {
                    self.write(&FileWrite { offset, bytes: vec![0; length] })?;
                    if self.random.chance(0.1) {
                        self.map.stay_small();
                    }
                }
                CheckpointStep::Superblock(write) => {
                    self.file.sync();
                    self.cut()?;
                    self.stage = Stage::Superblock;
                    self.write(&write)?;
                }
            },
            Stage::Superblock => {
                self.file.sync();
                self.cut()?;
                self.map.end_checkpoint(true);
                self.stage = Stage::None;
            }
        }
        Ok(())
    }

    fn finish_checkpoint(&mut self) -> Found {
        loop {
            self.checkpoint()?;
            if self.stage == Stage::None {
                return Ok(());
            }
        }
    }

    /// Everything that was changed before becomes durable, whatever else is going on.
    fn flush(&mut self) -> Found {
        let mark = self.map.mark();
        for turn in 0.. {
            if self.map.is_committed(mark) {
                break;
            }
            if turn > 10_000 {
                return Err("a FLUSH does not end".into());
            }
            self.begin_commit()?;
            self.end_commit()?;
        }
        let forgotten =
            self.model.pending.iter().position(|since| since.is_some_and(|step| step < self.step));
        forgotten.map_or(Ok(()), |block| Err(format!("block {block} was changed before a FLUSH")))
    }

    fn resize(&mut self) -> Found {
        let blocks = self.random.between(1, 512);
        let size = blocks * BLOCK;
        let mut from = 0;
        loop {
            match self.map.shrink_step(size, from) {
                ShrinkStep::Load(node) => {
                    shell::load(&mut self.map, &self.file, node).or_else(fail("a node beyond the size"))?;
                }
                ShrinkStep::LookFrom(block) => from = block,
                ShrinkStep::Hide(run) => {
                    self.change_to(run.start, run.length, run.state)?;
                    from = run.end();
                }
                ShrinkStep::Done => break,
            }
        }
        while self.map.has_pending() {
            self.begin_commit()?;
            self.end_commit()?;
        }
        match self.map.begin_resize(size) {
            Ok(None) => Ok(()),
            Ok(Some(write)) => {
                self.model.taken(&write, 0, 0, BLOCK)?;
                self.write(&write)
            }
            Err(NoCommit::RingFull) => self.finish_checkpoint(),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The power is cut, or the process dies, and the layer is opened again.
    fn restart(&mut self) -> Found {
        if self.random.chance(0.5) {
            self.file.sync()
        } else {
            self.file = self.file.cut(&mut self.random)
        }
        let generation = self.map.generation;
        self.map = shell::open(&self.file).or_else(fail("after a restart"))?;
        // Records are not loaded here: what follows must work with what is left of them.
        let mut other = shell::open(&self.file).or_else(fail("after a restart"))?;
        let states = shell::states(&mut other, &self.file).or_else(fail("after a restart"))?;
        if !self.model.allows(&states) {
            return Err("other states after a restart".into());
        }
        if self.map.generation <= generation && self.has_records {
            return Err("a generation comes twice".into());
        }
        self.has_records = false;
        self.model.restarted(states);
        self.stage = Stage::None;
        Ok(())
    }

    /// What would be found if the power was cut now.
    fn cut(&mut self) -> Found {
        for _ in 0..2 {
            let mut file = self.file.cut(&mut self.random);
            let flipped = self.random.chance(0.3).then(|| self.flip(&mut file));
            let found = shell::open(&file).and_then(|mut map| shell::states(&mut map, &file));
            match (found, flipped) {
                (Err(_), Some(_)) => {}
                (Err(error), None) => return Err(format!("after a cut: {error}")),
                (Ok(states), None) if self.model.allows(&states) => {}
                (Ok(states), Some(byte)) if self.model.allows_with_flip(&states, byte) => {}
                (Ok(_), flipped) => return Err(format!("other states after a cut, flipped: {flipped:?}")),
            }
        }
        Ok(())
    }

    /// Flips a bit somewhere, often where it matters most, and says in which byte.
    fn flip(&mut self, file: &mut CutFile) -> usize {
        let (ring, length) = self.map.geometry.ring();
        let sector = match self.random.below(4) {
            0 => self.random.pick(&[0, 64]) + self.random.below(8) as usize,
            1 if self.model.before.is_some() => {
                self.model.before.as_ref().unwrap().0.offset as usize / SECTOR
            }
            1 | 2 => (ring as usize + self.random.below(length as u64) as usize) / SECTOR,
            _ => {
                let used = file.used_sectors();
                used[self.random.below(used.len() as u64) as usize]
            }
        };
        let bit = sector * SECTOR * 8 + self.random.below(SECTOR as u64 * 8) as usize;
        file.flip(bit);
        bit / 8
    }

    /// Requests see what they should.
    fn look(&mut self) -> Found {
        let (start, length) = self.range();
        let expected = &self.model.current[start as usize..(start + length) as usize];
        let is_uniform = expected.iter().all(|state| *state == expected[0]);
        match self.map.uniform(start, length) {
            None if self.map.missing(start, length).is_none() => {
                return Err("it is there, and not found".into());
            }
            Some(found) if found != is_uniform.then_some(expected[0]) => {
                return Err(format!("blocks {start}+{length} are {found:?}"));
            }
            _ => {}
        }
        if let Lookup::Run(run) = self.map.lookup(start, length) {
            let is_right = run.start == start && run.length > 0 && run.end() <= start + length;
            if !is_right || expected[..run.length as usize].iter().any(|state| *state != run.state) {
                return Err(format!("blocks {start}+{length} are {run:?}"));
            }
        }
        let has_pending = self.model.has_pending(start as usize, (start + length) as usize);
        if has_pending && !self.map.has_pending_in(start, length) {
            return Err(format!("blocks {start}+{length} have changes that are not durable"));
        }
        Ok(())
    }
}

fn life(seed: u64) -> Found {
    World::new(seed).run()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// D4, D6: what was being written at the cut, a record, a node or a superblock, is there or not; journals of
/// a few records lap all the time.
#[test]
fn d4_a_layer_survives_a_cut_after_every_step() {
    let seeds = match number("RINGNBD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RINGNBD_SEEDS").unwrap_or(100),
    };
    for seed in seeds {
        life(seed).unwrap_or_else(|error| panic!("RINGNBD_SEED={seed}: {error}"));
    }
}

#[test]
fn every_planted_bug_is_found() {
    for bug in [
        MapBug::PageFromRam,
        MapBug::SlotFallback,
        MapBug::RecordsOvertake,
        MapBug::SpaceGivenUpEarly,
        MapBug::LiveSlotOverwritten,
        MapBug::ChangeBesideRecordLost,
        MapBug::DurableEndForgotten,
        MapBug::GrowthInAnyLap,
        MapBug::RoomNotLookedAt,
    ] {
        plant(Some(bug));
        let found = (0..400).find_map(|seed| life(seed).err().map(|error| (seed, error)));
        plant(None);
        let (seed, error) = found.unwrap_or_else(|| panic!("{bug:?} is not found"));
        println!("{bug:?} is found with seed {seed}: {error}");
    }
}
