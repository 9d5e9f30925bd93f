//! The life of one store.

mod leaning;
mod look;

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use leaning::Leaning;

use super::disk::{BLOCK, Contents, Disk, Disks, OF_BASE, WRITTEN};
use crate::random::Random;
use crate::store::base::look_at_base;
use crate::store::catalog::{ChainNode, LayerId, NodeName, StoreName};
use crate::store::collect::PackCollection;
use crate::store::collection_pins::HeldContents;
use crate::store::contents::ContentsReader;
use crate::store::copy::MAP_BLOCK;
use crate::store::error::StoreError;
use crate::store::file_changes::write_all_at;
use crate::store::ingest::LayerIngest;
use crate::store::ingest_counts::SPACE;
use crate::store::manifest::{ManifestEntry, ManifestRoot};
use crate::store::map::BlockState;
use crate::store::map_files::{MapFiles, try_change_states};
use crate::store::open_store::OpenStore;
use crate::store::tests::power::Power;

type Store = OpenStore<MapFiles>;

/// Blocks of a new disk: a few chunks.
const BLOCKS: usize = 16 * 4;
const BASE_BLOCKS: usize = 40;
const CHUNK_BLOCKS: u64 = 16;
const MOST_IMAGES: usize = 4;
const MOST_NODES: usize = 12;
/// The names of snapshots that keep changes only begin with it.
const MARK: char = 'm';

fn name(text: &str) -> StoreName {
    text.parse().unwrap()
}

fn node(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// What is done next.
#[derive(Debug, Clone)]
enum Act {
    Create {
        image: String,
        has_base: bool,
    },
    Write {
        image: String,
        blocks: Range<usize>,
        number: usize,
    },
    Snapshot(Vec<String>),
    Checkpoint(String),
    /// Snapshots that keep changes only.
    Mark(Vec<String>),
    GiveUp(String),
    Clone {
        of: String,
        image: String,
    },
    Remove(String),
    RollBack(String),
    Resize {
        image: String,
        blocks: usize,
    },
    Merge(String),
    Flatten(String),
    BeginIngest(LayerId),
    IngestStep,
    AbandonIngest,
    BeginCollection,
    CollectionStep,
    AbandonCollection,
    Collect,
    Hold(String),
    LetGo,
    Look,
}

/// What may be there of the act that is under way, beside what was there before.
#[derive(Debug, Clone, Default)]
enum Doubt {
    #[default]
    Nothing,
    /// All of this.
    Disks(Disks),
    /// Any of this.
    Blocks { image: String, blocks: Range<usize>, number: usize },
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Closed,
    Killed,
    PowerCut,
}

/// Contents that are read, whatever becomes of their image.
struct Reading {
    _held: HeldContents,
    root: ManifestRoot,
    disk: Disk,
}

pub(super) struct World {
    readings: Vec<Reading>,
    /// Snapshots that may have given their contents up.
    given_up: BTreeSet<String>,
    ingest: Option<LayerIngest>,
    collection: Option<PackCollection>,
    store: Option<Store>,
    power: Power,
    house: tempfile::TempDir,
    lives: usize,
    random: Random,
    contents: Contents,
    disks: Disks,
    doubt: Doubt,
    serial: usize,
    leaning: Leaning,
    /// What it means to do next, the last first.
    intent: Vec<Act>,
    /// How often the disk is full, in percent of acts.
    fullness: u64,
    story: Vec<String>,
    is_verbose: bool,
}

impl World {
    pub(super) fn begin(house: tempfile::TempDir, seed: u64, is_verbose: bool) -> Self {
        let (mut random, contents) = (Random::new(seed), Contents::new());
        let base: Vec<u8> = base_disk().iter().flat_map(|number| contents.bytes(*number).to_vec()).collect();
        fs::write(house.path().join("base"), base).unwrap();
        let path = house.path().join("0");
        let store = OpenStore::init(&path, MapFiles).unwrap();
        let power = Power::on(&path, Random::new(random.number()));
        let fullness = random.pick(&[0, 0, 0, 10]);
        let leaning = Leaning::random(&mut random);
        let (readings, given_up, disks, doubt, intent, story) = Default::default();
        Self {
            readings,
            given_up,
            ingest: None,
            collection: None,
            store: Some(store),
            power,
            house,
            lives: 0,
            random,
            contents,
            disks,
            doubt,
            serial: 0,
            leaning,
            intent,
            fullness,
            story,
            is_verbose,
        }
    }

    /// Tells what was done.
    pub(super) fn tell(&self) {
        self.story.iter().for_each(|line| eprintln!("  {line}"));
    }

    /// All that was done, in words that do not tell where the store is.
    pub(super) fn story(&self) -> Vec<String> {
        let house = self.house.path().to_string_lossy();
        self.story.iter().map(|line| line.replace(&*house, "")).collect()
    }

    fn note(&mut self, line: String) {
        if self.is_verbose {
            eprintln!("{line}");
        }
        self.story.push(line);
    }

    fn path(&self) -> PathBuf {
        self.house.path().join(self.lives.to_string())
    }

    fn store(&mut self) -> &mut Store {
        self.store.as_mut().expect("the store is open")
    }

    /// All lives of the store; how many changes of files that were.
    pub(super) fn live(&mut self) -> u64 {
        let mut steps = 0;
        let (fewest, most) = self.leaning.lives();
        for _ in 0..self.random.between(fewest, most) {
            if self.random.chance(0.7) {
                let after = self.random.pick(&self.leaning.ends());
                let after = self.random.below(after);
                self.power.end_after(after);
            }
            for _ in 0..self.random.between(4, 80) {
                if self.power.is_off() {
                    break;
                }
                let act = self.choose();
                self.act(&act);
            }
            let ending = match self.power.is_off() {
                true => self.random.pick(&[Ending::Killed, Ending::PowerCut, Ending::PowerCut]),
                false => self.random.pick(&[Ending::Closed, Ending::Killed, Ending::PowerCut]),
            };
            steps += self.power.steps();
            self.end(ending);
        }
        self.power.goes_on();
        self.note("the last look".to_owned());
        self.ingest_all();
        self.collect().unwrap();
        self.look();
        self.power.check(&self.path());
        steps
    }

    fn images(&self) -> Vec<String> {
        self.disks.keys().filter(|of| !of.contains('@')).cloned().collect()
    }

    fn snapshots(&self) -> Vec<String> {
        self.disks.keys().filter(|of| of.contains('@')).cloned().collect()
    }

    fn pick(&mut self, all: &[String]) -> Option<String> {
        let at = self.random.below(all.len().max(1) as u64) as usize;
        all.get(at).cloned()
    }

    fn choose(&mut self) -> Act {
        loop {
            if let Some(act) = self.propose() {
                return act;
            }
        }
    }

    fn propose(&mut self) -> Option<Act> {
        let (images, snapshots) = (self.images(), self.snapshots());
        let has_room = self.disks.len() < MOST_NODES;
        let has_packs = self.store().view().ok()?.packs().next().is_some();
        self.serial += 1;
        let serial = self.serial;
        if !images.is_empty() && self.leans_now() {
            return self.propose_as_it_leans((&images, &snapshots), has_packs);
        }
        Some(match self.random.below(100) {
            0..6 if images.len() < MOST_IMAGES => {
                Act::Create { image: format!("i{serial}"), has_base: self.random.chance(0.3) }
            }
            6..30 => self.propose_write(&images)?,
            30..36 if has_room => {
                let image = self.pick(&images)?;
                let other = self.pick(&images)?;
                let both = if other == image { vec![image] } else { vec![image, other] };
                let is_mark = self.random.chance(0.4);
                let letter = if is_mark { MARK } else { 's' };
                let both = both.into_iter().map(|image| format!("{image}@{letter}{serial}")).collect();
                if is_mark { Act::Mark(both) } else { Act::Snapshot(both) }
            }
            36..42 if has_room => Act::Checkpoint(format!("{}@s{serial}", self.pick(&images)?)),
            42..46 if images.len() < MOST_IMAGES && has_room => {
                Act::Clone { of: self.pick(&snapshots)?, image: format!("c{serial}") }
            }
            46..50 => Act::Remove(self.pick(&snapshots)?),
            50..53 => Act::Remove(self.pick(&images)?),
            53..54 if self.random.chance(0.3) => Act::GiveUp(self.pick(&snapshots)?),
            53..54 => Act::RollBack(self.pick(&snapshots)?),
            54..56 => Act::Resize {
                image: self.pick(&images)?,
                blocks: self.random.between(1, BLOCKS as u64 + 10) as usize,
            },
            56..58 if self.random.chance(0.1) => Act::Flatten(self.pick(&images)?),
            56..58 => Act::Merge(self.pick(&images)?),
            58..76 => match self.ingest {
                None => Act::BeginIngest(self.due_layer()?),
                Some(_) if self.random.chance(0.05) => Act::AbandonIngest,
                Some(_) => Act::IngestStep,
            },
            76..92 => match self.collection {
                None if has_packs => Act::BeginCollection,
                None => return None,
                Some(_) if self.random.chance(0.03) => Act::AbandonCollection,
                Some(_) => Act::CollectionStep,
            },
            92..94 if self.collection.is_none() => Act::Collect,
            94..96 => Act::Hold(self.pick(&snapshots)?),
            96..97 if !self.readings.is_empty() => Act::LetGo,
            97..100 => Act::Look,
            _ => return None,
        })
    }

    /// A layer that may come into packs by itself.
    fn due_layer(&mut self) -> Option<LayerId> {
        let due = self.store().due_layers(0).ok()?.first;
        (!due.is_empty()).then(|| self.random.pick(&due))
    }

    fn propose_write(&mut self, images: &[String]) -> Option<Act> {
        let image = self.pick(images)?;
        let size = self.disks[&image].len();
        let numbers = if self.random.chance(0.7) { 4 } else { WRITTEN as u64 };
        let number = self.random.below(numbers) as usize;
        let chunk = CHUNK_BLOCKS as usize;
        let blocks = match self.random.below(2) {
            // Whole chunks are often those that other images have.
            0 if size >= chunk => {
                let at = self.random.below((size / chunk) as u64) as usize * chunk;
                at..at + chunk
            }
            _ => {
                let start = self.random.below(size as u64) as usize;
                start..size.min(start + self.random.between(1, 20) as usize)
            }
        };
        Some(Act::Write { image, blocks, number })
    }

    /// Does something, and knows afterwards what is there, unless the power is off.
    fn act(&mut self, act: &Act) {
        let is_full = self.random.below(100) < self.fullness;
        let before = self.power.steps();
        self.note(format!("{act:?}{}", if is_full { ", on a full disk" } else { "" }));
        self.power.set_full(is_full);
        let done = self.perform(act);
        self.power.set_full(false);
        let doubt = std::mem::take(&mut self.doubt);
        match done {
            Ok(()) => match doubt {
                Doubt::Nothing => {}
                Doubt::Disks(disks) => self.disks = disks,
                Doubt::Blocks { image, blocks, number } => {
                    self.disks.get_mut(&image).expect("it is there")[blocks].fill(number);
                }
            },
            Err(error) if self.power.is_off() => {
                self.note(format!("  the end after {} changes: {error}", self.power.steps() - before));
                self.doubt = doubt;
            }
            Err(error) if is_full => {
                self.note(format!("  {error}"));
                self.doubt = doubt;
                if self.store().settle().is_ok() || !self.power.is_off() {
                    self.look();
                }
            }
            Err(error) => assert!(error.is_refusal(), "{act:?}: {error}"),
        }
    }

    fn perform(&mut self, act: &Act) -> Result<(), StoreError> {
        let mut after = self.disks.clone();
        match act {
            Act::Create { image, has_base } => {
                let mut disk = vec![0; BLOCKS];
                if *has_base {
                    disk[..BASE_BLOCKS].copy_from_slice(&base_disk());
                }
                after.insert(image.clone(), disk);
                self.doubt = Doubt::Disks(after);
                match has_base {
                    false => self.store().create_empty(&name(image), BLOCKS as u64 * MAP_BLOCK),
                    true => {
                        let base = look_at_base(&self.house.path().join("base")).unwrap();
                        self.store().create_on_base(&name(image), Some(BLOCKS as u64 * MAP_BLOCK), base)
                    }
                }
            }
            Act::Write { image, blocks, number } => self.write(image, blocks, *number),
            Act::Snapshot(nodes) => {
                for of in nodes {
                    after.insert(of.clone(), self.disks[of.split('@').next().unwrap()].clone());
                }
                self.doubt = Doubt::Disks(after);
                self.store().snapshot(nodes.iter().map(|of| node(of)).collect())
            }
            Act::Mark(nodes) => {
                for of in nodes {
                    after.insert(of.clone(), self.disks[of.split('@').next().unwrap()].clone());
                }
                self.doubt = Doubt::Disks(after);
                self.store().keep_changes_only(nodes.iter().map(|of| node(of)).collect())
            }
            Act::GiveUp(of) => {
                self.given_up.insert(of.clone());
                self.store().keep_changes_only(vec![node(of)])
            }
            Act::Checkpoint(of) => {
                after.insert(of.clone(), self.disks[of.split('@').next().unwrap()].clone());
                self.doubt = Doubt::Disks(after.clone());
                self.store().snapshot(vec![node(of)])?;
                (self.disks, self.doubt) = (after, Doubt::Nothing);
                self.store().ingest(&node(of), &mut |_| Ok(())).map(drop)
            }
            Act::Clone { of, image } => {
                after.insert(image.clone(), self.disks[of].clone());
                self.doubt = Doubt::Disks(after);
                self.store().clone_images(node(of), &[name(image)])
            }
            Act::Remove(of) => {
                after.retain(|other, _| other != of && !other.starts_with(&format!("{of}@")));
                self.doubt = Doubt::Disks(after);
                self.store().remove(&node(of), true).map(drop)
            }
            Act::RollBack(of) => {
                after.insert(of.split('@').next().unwrap().to_owned(), self.disks[of].clone());
                self.doubt = Doubt::Disks(after);
                self.store().roll_back(node(of)).map(drop)
            }
            Act::Resize { image, blocks } => {
                after.get_mut(image).unwrap().resize(*blocks, 0);
                self.doubt = Doubt::Disks(after);
                self.store().resize(&name(image), *blocks as u64 * MAP_BLOCK, true)
            }
            Act::Merge(image) => self.merge(image),
            Act::Flatten(image) => self.store().flatten(&name(image), &mut |_| Ok(())).map(drop),
            other => self.perform_slow(other),
        }
    }

    /// What changes no disk.
    fn perform_slow(&mut self, act: &Act) -> Result<(), StoreError> {
        match act {
            Act::BeginIngest(of) => {
                self.ingest = self.store().begin_layer_ingest(*of)?;
                Ok(())
            }
            Act::IngestStep => self.ingest_step(),
            Act::AbandonIngest => {
                let ingest = self.ingest.take().expect("it has begun");
                self.store().abandon_ingest(ingest);
                // It may have left the catalogue in doubt.
                self.store().settle()
            }
            Act::BeginCollection => {
                self.collection = self.store().begin_collection()?;
                Ok(())
            }
            Act::CollectionStep => self.collection_step(),
            Act::AbandonCollection => {
                let collection = self.collection.take().expect("it has begun");
                self.store().abandon_collection(collection);
                self.store().settle()
            }
            Act::Collect => self.collect(),
            Act::Hold(of) => self.hold(of),
            Act::LetGo => {
                self.readings.remove(0);
                Ok(())
            }
            _ => {
                self.look();
                Ok(())
            }
        }
    }

    /// Gives blocks of an image contents, durably, as a server does.
    fn write(&mut self, image: &str, blocks: &Range<usize>, number: usize) -> Result<(), StoreError> {
        self.doubt = Doubt::Blocks { image: image.to_owned(), blocks: blocks.clone(), number };
        let bytes = self.contents.bytes(number).repeat(blocks.len());
        let store = self.store();
        store.give_head(&name(image))?;
        let layer = store.image(&name(image))?.head.expect("it was given one");
        let (data, map) = store.directory.open_layer(layer)?;
        let start = blocks.start as u64;
        let state = if number == 0 { BlockState::Zero } else { BlockState::Data };
        if state == BlockState::Data {
            write_all_at(&data, &bytes, start * MAP_BLOCK)
                .map_err(StoreError::at("write", Path::new("data")))?;
        }
        let changed = try_change_states(&data, &map, start, blocks.len() as u64, state);
        changed.map_err(|error| StoreError::Map { layer, what: "changed", why: error.to_string() })
    }

    fn merge(&mut self, image: &str) -> Result<(), StoreError> {
        let store = self.store();
        let Some(pair) = store.cheapest_merge(&name(image))? else { return Ok(()) };
        let mut copy = store.begin_merge(pair)?;
        loop {
            match copy.step() {
                Ok(progress) if progress.is_done() => return store.finish_copy(copy).map(drop),
                Ok(_) => {}
                Err(error) => {
                    store.abandon_copy(copy);
                    return Err(error);
                }
            }
        }
    }

    fn ingest_step(&mut self) -> Result<(), StoreError> {
        let mut ingest = self.ingest.take().expect("it has begun");
        match self.store().ingest_step(&mut ingest) {
            Ok(done) if done.is_done() => self.store().finish_ingest(ingest).map(drop),
            Ok(_) => {
                self.ingest = Some(ingest);
                Ok(())
            }
            Err(error) => {
                self.store().abandon_ingest(ingest);
                Err(error)
            }
        }
    }

    /// Whatever is sealed comes into packs when nothing is in its way, whatever has ended earlier tries.
    fn ingest_all(&mut self) {
        while let Some(due) = self.store().due_layers(0).unwrap().first.first().copied() {
            let ingest = self.store().begin_layer_ingest(due).unwrap();
            self.ingest = Some(ingest.unwrap_or_else(|| panic!("{due} is due, and nothing below it")));
            while self.ingest.is_some() {
                self.ingest_step().unwrap();
            }
        }
    }

    fn collection_step(&mut self) -> Result<(), StoreError> {
        let mut collection = self.collection.take().expect("it has begun");
        match self.store().collection_step(&mut collection) {
            Ok(_) => {
                self.collection = Some(collection).filter(|collection| !collection.is_done());
                Ok(())
            }
            Err(error) => {
                self.store().abandon_collection(collection);
                Err(error)
            }
        }
    }

    /// A2: one pass leaves little garbage.
    fn collect(&mut self) -> Result<(), StoreError> {
        if let Some(collection) = self.collection.take() {
            self.store().abandon_collection(collection);
        }
        let is_alone = self.ingest.is_none() && self.readings.is_empty();
        let found = self.store().collect_packs(&mut |_| Ok(()))?;
        if is_alone {
            assert!(found.bytes_garbage * 20 <= found.bytes_needed + found.bytes_garbage, "{found:?}");
        }
        assert_eq!(found.packs_unreadable, 0, "{found:?}");
        Ok(())
    }

    /// Begins to read contents that are in packs.
    fn hold(&mut self, of: &str) -> Result<(), StoreError> {
        let disk = self.disks[of].clone();
        let node = node(of);
        let store = self.store.as_ref().expect("the store is open");
        let row = store.snapshot_row(&node.image, &node.snapshot.expect("a snapshot"))?;
        if row.is_changes_only() {
            return Ok(());
        }
        let below = row.below;
        let view = store.view()?;
        let ChainNode::Layer(layer) = below.node else { return Ok(()) };
        let Some(root) = view.contents(layer).map(|row| row.root) else { return Ok(()) };
        if root.size == disk.len() as u64 * MAP_BLOCK && self.readings.len() < 3 {
            let held = store.collection_pins().hold_contents(&root);
            self.readings.push(Reading { _held: held, root, disk });
        }
        Ok(())
    }

    /// What is read on is what it was.
    fn look_at_readings(&self) {
        let store = self.store.as_ref().expect("the store is open");
        for reading in &self.readings {
            let place = store.pack_place().unwrap();
            let mut reader = ContentsReader::new(place.shelf(SPACE), reading.root);
            for block in 0..reading.disk.len() {
                let (at, mut bytes) = ((block * BLOCK) as u64, vec![0; BLOCK]);
                let (_, entry) = reader.part(at, at + MAP_BLOCK).unwrap_or_else(|error| panic!("{error}"));
                match entry {
                    ManifestEntry::Zero => {}
                    ManifestEntry::Named(chunk) => reader.read(&chunk, at, &mut bytes).unwrap(),
                    ManifestEntry::Base => continue,
                }
                assert!(bytes == self.contents.bytes(reading.disk[block]), "block {block} of what is held");
            }
        }
    }

    /// A life ends, and the next one begins.
    fn end(&mut self, ending: Ending) {
        let mut ending = ending;
        loop {
            self.note(format!("end: {ending:?}"));
            if ending != Ending::Closed {
                self.power.end_after(0);
            }
            (self.ingest, self.collection) = (None, None);
            self.readings.clear();
            self.store = None;
            if self.random.chance(0.1) {
                self.power.check(&self.path());
            }
            match ending {
                Ending::Closed | Ending::Killed => self.power.goes_on(),
                Ending::PowerCut => self.cut(),
            }
            if self.random.chance(0.3) {
                let after = self.random.below(40);
                self.power.end_after(after);
            }
            match OpenStore::open_to_change(&self.path(), MapFiles) {
                Ok(store) => self.store = Some(store),
                Err(error) => assert!(self.power.is_off(), "the store does not open: {error}"),
            }
            if !self.power.is_off() {
                break;
            }
            ending = self.random.pick(&[Ending::Killed, Ending::PowerCut]);
        }
        if ending == Ending::Killed
            && let Doubt::Blocks { image, .. } = &self.doubt
        {
            // Whoever opens a head syncs what a killed process has left of it; a look makes nothing durable.
            self.power.goes_on();
            let image = node(image);
            self.store().files(&image).unwrap();
        }
        self.look();
        let store = self.store();
        let listed = store.view().unwrap().packs().count();
        let packs = self.path().join("packs");
        let files = if packs.exists() { fs::read_dir(packs).unwrap().count() } else { 0 };
        assert_eq!(files, listed, "what has no row is in lost/");
    }

    fn cut(&mut self) {
        let old = self.path();
        self.lives += 1;
        let new = self.path();
        // A6: without its index a store has the same.
        let lost = self.random.chance(0.1).then_some("index.redb");
        self.power.cut(&new, &mut self.random, lost);
        fs::remove_dir_all(old).unwrap();
    }
}

fn base_disk() -> Disk {
    (0..BASE_BLOCKS).map(|block| OF_BASE.start + block / 16 % OF_BASE.len()).collect()
}
