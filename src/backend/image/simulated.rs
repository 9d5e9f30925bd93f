//! Images in a simulated world: how they lie there, and how a server opens them.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use super::growing::{GrowOutcome, GrowTask};
use super::layer_files::{BaseFile, LayerFiles, NextHead, OpenBase};
use super::open::facts;
use super::shortening::ShorterChain;
use super::store::ImageStore;
use crate::backend::file_store::FileStore;
use crate::block::DeviceFacts;
use crate::ring::sim::{FileId, SimSharedWords, World};
use crate::store::catalog::{BaseId, LayerId};
use crate::store::map::{
    BlockState, CheckpointStep, FileWrite, Geometry, LayerIdentity, LayerMap, LayerMapError, LogLayout,
    LogMemory, LogOwner, MapFront, NoCommit, PendingLog,
};
use crate::store::map_medium::{
    HeadMedium, LayerMedium, MapFileError, grow_head_map, open_head_map, open_map_of, seal_head_map,
};
use crate::store::pending::FoundLog;
use crate::store::serving::{ChainBase, ChainShape};
use crate::store::unfinished::may_have_answered;

/// The files of an image in a world.
#[derive(Debug, Clone)]
pub struct SimulatedImage {
    /// Bytes of the disk, by the catalogue.
    pub size: u64,
    /// The head first; at least one.
    pub layers: Vec<SimulatedLayer>,
    /// What is below them, and the bytes of it that are seen.
    pub base: Option<(FileId, u64)>,
    /// Nobody may write.
    pub read_only: bool,
}

/// The files of a layer in a world.
#[derive(Debug, Clone, Copy)]
pub struct SimulatedLayer {
    /// Its blocks, where they lie on the disk.
    pub data: FileId,
    /// Which of them it has.
    pub map: FileId,
}

/// What a layer has of a block at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimulatedBlock {
    /// Nothing.
    Below,
    /// Bytes.
    Data,
    /// It hides what is below.
    Zero,
}

/// A layer's files, as opening its map sees them.
struct InWorld<'a>(&'a World, SimulatedLayer);

impl LayerMedium for InWorld<'_> {
    fn sync(&self) -> io::Result<()> {
        let Self(world, layer) = self;
        [layer.data, layer.map].into_iter().for_each(|file| world.sync(file));
        Ok(())
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.0.read(self.1.map, bytes, offset))
    }

    fn write(&self, writes: &[FileWrite]) -> io::Result<()> {
        writes.iter().for_each(|write| self.0.write(self.1.map, write.offset, &write.bytes));
        Ok(())
    }

    fn sync_map(&self) -> io::Result<()> {
        self.0.sync(self.1.map);
        Ok(())
    }

    fn left_log(&self, identity: &LayerIdentity) -> Option<FoundLog> {
        let memory = self.0.shared_words(self.1.map);
        let words = memory.all();
        let (owner, memory) =
            (log_owner(identity), Box::new(SharedLog { words: memory, steps: Cell::new(0) }));
        let found = FoundLog { words, layout: LOG, owner, memory, path: "a log".into() };
        (!found.words.is_empty()).then_some(found)
    }
}

impl HeadMedium for InWorld<'_> {
    fn zero_data(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.write(self.1.data, offset, &vec![0; length as usize]);
        Ok(())
    }
}

impl InWorld<'_> {
    fn note_changes(&self, map: &mut LayerMap) {
        let memory = self.0.shared_words(self.1.map);
        assert!(memory.all().is_empty(), "what was left was taken over");
        let memory = Box::new(SharedLog { words: memory, steps: Cell::new(0) });
        let log = PendingLog::create(memory, LOG, &log_owner(map.identity()), map.journal_stamp());
        map.attach_log(log.expect("there is room for the first words"));
    }
}

/// A log that fills up soon.
const LOG: LogLayout = LogLayout { words: 60, first: 20, step: 10 };
/// Steps that have room at once.
const MOST_STEPS: usize = 3;

/// A log in memory that outlives a process.
#[derive(Debug)]
struct SharedLog {
    words: SimSharedWords,
    /// Those that have room.
    steps: Cell<usize>,
}

fn log_owner(identity: &LayerIdentity) -> LogOwner {
    let (store, layer) = (identity.store, identity.layer);
    LogOwner { boot: Uuid::from_u128(4), store, layer, file: (5, 6) }
}

impl LogMemory for SharedLog {
    fn store(&self, word: usize, value: u64) {
        self.words.store(word, value);
    }

    fn reserve(&self, words: Range<usize>) -> bool {
        if words.start > 0 && self.steps.get() == MOST_STEPS {
            return false;
        }
        self.steps.set(self.steps.get() + usize::from(words.start > 0));
        self.words.grow(words.end);
        true
    }

    fn give_back(&self, words: Range<usize>) {
        words.for_each(|word| self.words.store(word, u64::MAX));
        self.steps.set(self.steps.get() - 1);
    }

    fn remove(&self) {
        self.words.clear();
    }
}

impl ImageStore {
    /// Opens an image as a server does that starts.
    pub(in crate::backend) fn simulated(
        world: &World,
        image: &SimulatedImage,
    ) -> Result<(Self, DeviceFacts), MapFileError> {
        let mut layers = Vec::new();
        for (index, layer) in image.layers.iter().enumerate() {
            let (files, read_only) = (InWorld(world, *layer), image.read_only || index > 0);
            let mut map = if index == 0 { open_head_map(&files)? } else { open_map_of(&files)? };
            if !read_only {
                // The catalogue decides it, and an interruption may have kept the map from following.
                if map.size() < image.size {
                    map = grow_head_map(map, &files, image.size)?;
                }
                files.note_changes(&mut map);
            }
            let visible = map.size();
            let (data, _) = FileStore::simulated(world.open(layer.data), visible, read_only, None);
            let map_file = Some(Arc::new(world.open(layer.map).buffered));
            let id = Some(layer_id(*layer, 0));
            layers.push((
                LayerFiles { id, data: Arc::new(data), map: map_file, visible, commits: Arc::default() },
                map,
            ));
        }
        let base = image.base.map(|(file, size)| {
            let bytes = world.content(file).len() as u64;
            let (file, _) = FileStore::simulated(world.open(file), bytes, true, None);
            OpenBase::File(BaseFile { file: Arc::new(file), size })
        });
        let size = layers[0].1.size();
        Ok((Self::new(layers, base, None), facts(size, image.read_only, false)))
    }
}

impl NextHead {
    /// The head that is to take over from one of an image, whose files were just made.
    ///
    /// # Panics
    /// Its map cannot be used.
    pub fn simulated(world: &World, layer: SimulatedLayer) -> Self {
        let medium = InWorld(world, layer);
        let mut map = open_map_of(&medium).unwrap_or_else(|error| panic!("a new map: {error}"));
        medium.note_changes(&mut map);
        let visible = map.size();
        let (data, _) = FileStore::simulated(world.open(layer.data), visible, false, None);
        let map_file = Some(Arc::new(world.open(layer.map).buffered));
        let id = Some(layer_id(layer, 0));
        let files = LayerFiles { id, data: Arc::new(data), map: map_file, visible, commits: Arc::default() };
        Self { files: Arc::new(files), map }
    }
}

impl GrowTask {
    /// Has an image of a world go on with a larger size, which the data of its head has.
    pub fn simulated(
        head: SimulatedLayer,
        size: u64,
        told: impl FnOnce(GrowOutcome) + Send + 'static,
    ) -> Self {
        Self::new(layer_id(head, 0), size, told)
    }
}

/// A layer by the number of its copy.
fn layer_id(layer: SimulatedLayer, copy: u64) -> LayerId {
    LayerId(Uuid::from_u64_pair(layer.data.number() as u64, copy))
}

/// A map of which nothing is made durable by opening it.
fn looked_at(file: &[u8]) -> Result<LayerMap, LayerMapError> {
    let front = MapFront::read(&file[..MapFront::BYTES])?;
    let (offset, length) = front.ring();
    front.open(&file[offset as usize..][..length])
}

impl ShorterChain {
    /// What is below the head of an image, as other layers of the same contents: its own files, opened once
    /// more. Each time is a copy with a number of its own, from 1 on.
    ///
    /// # Panics
    /// A map of them cannot be used.
    pub fn simulated(world: &World, image: &SimulatedImage, copy: u64) -> Self {
        let size = image.size;
        let head = layer_id(image.layers[0], 0);
        let (mut layers, mut new) = (vec![(head, size)], Vec::new());
        for layer in &image.layers[1..] {
            let map = looked_at(&world.content(layer.map));
            let map = map.unwrap_or_else(|error| panic!("the map of a sealed layer: {error}"));
            let (id, visible) = (layer_id(*layer, copy), map.size());
            let (data, _) = FileStore::simulated(world.open(layer.data), visible, true, None);
            let map_file = Some(Arc::new(world.open(layer.map).buffered));
            new.push((
                Arc::new(LayerFiles {
                    id: Some(id),
                    data: Arc::new(data),
                    map: map_file,
                    visible,
                    commits: Arc::default(),
                }),
                map,
            ));
            layers.push((id, visible));
        }
        let base = image.base.map(|(_, visible)| ChainBase { id: BaseId(Uuid::nil()), visible });
        Self {
            shape: ChainShape { size, head: Some(head), layers, contents: None, base },
            new,
            contents: None,
        }
    }
}

impl SimulatedImage {
    /// What whoever opens a store does with an image whose next head may have taken over: whether that goes
    /// on. The head has become one that is sealed then.
    ///
    /// # Panics
    /// Its map cannot be used.
    #[must_use]
    pub fn is_taken_over(&self, world: &World, is_same_boot: bool) -> bool {
        let (made, now) = (Uuid::from_u128(1), Uuid::from_u128(if is_same_boot { 1 } else { 2 }));
        let goes_on = may_have_answered(made, Some(now));
        if goes_on {
            let sealed = seal_head_map(&InWorld(world, self.layers[0]));
            sealed.unwrap_or_else(|error| panic!("the map of a head: {error}"));
        }
        goes_on
    }

    /// The map's file of a layer that has these blocks.
    ///
    /// # Panics
    /// The geometry is not possible, or too small for the size.
    pub fn map_file(size: u64, geometry: Geometry, blocks: &[SimulatedBlock]) -> Vec<u8> {
        new_map(size, geometry, blocks).expect("the geometry is possible, and large enough")
    }
}

fn new_map(size: u64, geometry: Geometry, blocks: &[SimulatedBlock]) -> Result<Vec<u8>, LayerMapError> {
    let (store, image, layer) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
    let name = "simulated".to_owned();
    let identity = LayerIdentity { store, image, layer, parent: None, name, created_s: 0, size, base: None };
    let new = LayerMap::create(&identity, geometry)?;
    let mut file = vec![0; new.file_length as usize];
    new.writes.iter().for_each(|write| put(&mut file, write));
    let mut map = looked_at(&file)?;
    for (block, has) in (0..).zip(blocks) {
        match has {
            SimulatedBlock::Below => {}
            SimulatedBlock::Data => map.change(block, 1, BlockState::Data),
            SimulatedBlock::Zero => map.change(block, 1, BlockState::Zero),
        }
    }
    while map.has_pending() {
        match map.begin_commit() {
            Ok(Some(record)) => {
                put(&mut file, &record);
                map.end_commit(true);
            }
            Ok(None) => break,
            Err(NoCommit::RingFull) => checkpoint(&mut map, &mut file)?,
            Err(NoCommit::Failed | NoCommit::ReadOnly) => unreachable!("nothing fails here"),
        }
    }
    checkpoint(&mut map, &mut file)?;
    Ok(file)
}

fn checkpoint(map: &mut LayerMap, file: &mut [u8]) -> Result<(), LayerMapError> {
    map.begin_checkpoint(0);
    loop {
        match map.checkpoint_step() {
            CheckpointStep::Load(node) => {
                let (offset, length) = map.address(node).expect("it is to be loaded");
                map.loaded(node, &file[offset as usize..][..length])?;
            }
            CheckpointStep::Write(nodes) => nodes.iter().for_each(|node| put(file, node)),
            CheckpointStep::Grow { offset, length } => file[offset as usize..][..length].fill(0),
            CheckpointStep::Superblock(superblock) => {
                put(file, &superblock);
                map.end_checkpoint(true);
                return Ok(());
            }
        }
    }
}

fn put(file: &mut [u8], write: &FileWrite) {
    file[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
}
