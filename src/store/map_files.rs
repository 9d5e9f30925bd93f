//! The map of a layer and its file, outside of any ring: while a server starts, and for the commands on a
//! store that nobody serves.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::copy::{BlockSpan, MAP_BLOCK};
use super::map::{
    BlockState, CheckpointStep, FileWrite, Geometry, LayerIdentity, LayerMap, LayerMapError, Lookup,
    MapFront, NodeAddress, ShrinkStep,
};
use super::maps::{LayerDescription, LayerMaps};
use super::open_store::now_s;

/// Why a map cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum MapFileError {
    #[error("its map cannot be used: {0}")]
    Map(#[from] LayerMapError),
    #[error("its map cannot be read or written: {0}")]
    Io(#[from] io::Error),
    #[error("its map cannot be changed: {0}")]
    NotNow(String),
}

/// Maps as files.
#[derive(Debug, Clone, Copy)]
pub struct MapFiles;

/// A map with its file.
struct OpenMap<'a> {
    map: LayerMap,
    file: &'a File,
    data: &'a File,
}

/// The files of a layer, as far as its map needs them to be opened.
pub(crate) trait LayerMedium {
    /// Makes all that they hold durable.
    fn sync(&self) -> io::Result<()>;

    /// Reads of the map's file as much as there is.
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// The real ones: data and map.
struct LayerPair<'a> {
    data: &'a File,
    map: &'a File,
}

impl LayerMedium for LayerPair<'_> {
    fn sync(&self) -> io::Result<()> {
        self.data.sync_all()?;
        self.map.sync_all()
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        read_at(self.map, bytes, offset)
    }
}

/// Reads the map of a layer.
pub(crate) fn open_map(data: &File, map: &File) -> Result<LayerMap, MapFileError> {
    open_map_of(&LayerPair { data, map })
}

/// Reads the map of a layer, and syncs what it says: after the death of a process there are records in the
/// page cache that no medium has.
pub(crate) fn open_map_of(files: &impl LayerMedium) -> Result<LayerMap, MapFileError> {
    if !canary!(RecoveryWithoutSync) {
        files.sync()?;
    }
    let mut front = vec![0; MapFront::BYTES];
    let length = files.read(&mut front, 0)?;
    let front = MapFront::read(&front[..length])?;
    let (offset, length) = front.ring();
    let mut ring = vec![0; length];
    let length = files.read(&mut ring, offset)?;
    let mut map = front.open(&ring[..length])?;
    if map.is_fallback() {
        // Every node that is live comes into memory, which verifies it.
        let mut after = None;
        while let Some(node) = map.next_live(after) {
            load_node(&mut map, files, node)?;
            after = Some(node);
        }
    }
    Ok(map)
}

fn load_node(map: &mut LayerMap, files: &impl LayerMedium, node: NodeAddress) -> Result<(), MapFileError> {
    let Some((offset, length)) = map.address(node) else { return Ok(()) };
    let mut bytes = vec![0; length];
    let length = files.read(&mut bytes, offset)?;
    Ok(map.loaded(node, &bytes[..length])?)
}

/// Makes durable what a map has in no record yet: for a layer that nobody has open any more.
pub(crate) fn commit_map(map: LayerMap, data: &File, file: &File) -> Result<(), MapFileError> {
    OpenMap { map, file, data }.commit()
}

/// Writes a new map, in which every block is ABSENT. The caller syncs it.
pub(crate) fn create_map(file: &File, identity: &LayerIdentity) -> Result<(), MapFileError> {
    let new = LayerMap::create(identity, Geometry::default())?;
    write_all(file, &new.writes)?;
    file.set_len(new.file_length)?;
    Ok(())
}

/// The map of a layer that nobody writes meanwhile, to be looked at.
#[derive(Debug)]
pub(crate) struct MapReader {
    map: LayerMap,
    file: File,
}

/// It is only looked at, so nothing has to be durable.
struct ToLookAt<'a>(&'a File);

impl LayerMedium for ToLookAt<'_> {
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        read_at(self.0, bytes, offset)
    }
}

impl MapReader {
    /// Leaves of a map that are kept in memory, and how many may come before the rest is dropped.
    const LEAVES: (usize, usize) = (64, 256);

    pub(crate) fn open(file: File) -> Result<Self, MapFileError> {
        Ok(Self { map: open_map_of(&ToLookAt(&file))?, file })
    }

    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.map.size()
    }

    /// The state of the block at a place of the disk, and the end of a part, up to `end`, that has it.
    pub(crate) fn run(&mut self, at: u64, end: u64) -> Result<(BlockState, u64), MapFileError> {
        let block = u64::from(self.map.geometry().block_bytes);
        let start = at / block;
        loop {
            match self.map.lookup(start, end.div_ceil(block) - start) {
                Lookup::Run(run) => return Ok((run.state, (run.end() * block).min(end))),
                Lookup::Load(node) => {
                    if self.map.leaves_in_ram() > Self::LEAVES.1 {
                        self.map.evict_clean(Self::LEAVES.0);
                    }
                    load_node(&mut self.map, &ToLookAt(&self.file), node)?;
                }
            }
        }
    }
}

/// Writes the map of a new layer whose blocks become known one after the other.
pub(crate) struct MapWriter<'a>(OpenMap<'a>);

impl<'a> MapWriter<'a> {
    /// Changes that are kept in memory: leaves.
    const LEAVES: usize = 1024;

    pub(crate) fn create(file: &'a File, layer: &LayerDescription) -> Result<Self, MapFileError> {
        create_map(file, &identity(layer))?;
        // Its data is durable before the catalogue names the layer, and until then it is rubbish.
        Ok(Self(OpenMap { map: open_map(file, file)?, file, data: file }))
    }

    /// Blocks of a part of the disk get a state.
    pub(crate) fn set(&mut self, start: u64, blocks: u64, state: BlockState) -> Result<(), MapFileError> {
        // Memory has a bound, however long the part is.
        let page = u64::from(self.0.map.geometry().page_blocks);
        let mut at = start;
        while at < start + blocks {
            let end = (start + blocks).min((at / page + 1) * page);
            self.0.set(at, end - at, state)?;
            if self.0.map.leaves_in_ram() > Self::LEAVES {
                self.write()?;
                self.0.map.evict_clean(0);
            }
            at = end;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), MapFileError> {
        self.0.commit()?;
        self.0.checkpoint()
    }

    /// Writes what is left. The caller syncs it.
    pub(crate) fn finish(mut self) -> Result<(), MapFileError> {
        self.write()
    }
}

/// Reads as much as there is.
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(moved) => done += moved,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn write_all(file: &File, writes: &[FileWrite]) -> io::Result<()> {
    writes.iter().try_for_each(|write| file.write_all_at(&write.bytes, write.offset))
}

impl OpenMap<'_> {
    fn load(&mut self, node: NodeAddress) -> Result<(), MapFileError> {
        let files = LayerPair { data: self.data, map: self.file };
        load_node(&mut self.map, &files, node)
    }

    /// Blocks have a state from now on.
    fn set(&mut self, start: u64, length: u64, state: BlockState) -> Result<(), MapFileError> {
        while let Some(node) = self.map.missing(start, length) {
            self.load(node)?;
        }
        self.map.change(start, length, state);
        Ok(())
    }

    /// Writes what is pending into the journal, durably; the data first.
    fn commit(&mut self) -> Result<(), MapFileError> {
        while self.map.has_pending() {
            match self.map.begin_commit() {
                Ok(Some(record)) => self.write_record(&record)?,
                Ok(None) => break,
                Err(super::map::NoCommit::RingFull) => self.checkpoint()?,
                Err(error) => return Err(MapFileError::NotNow(error.to_string())),
            }
        }
        Ok(())
    }

    fn write_record(&mut self, record: &FileWrite) -> Result<(), MapFileError> {
        let written = self.data.sync_all().and_then(|()| write_all(self.file, std::slice::from_ref(record)));
        let written = written.and_then(|()| self.file.sync_data());
        self.map.end_commit(written.is_ok());
        Ok(written?)
    }

    /// Writes all that records say into nodes: after that opening replays nothing.
    fn checkpoint(&mut self) -> Result<(), MapFileError> {
        self.map.begin_checkpoint(now_s());
        let result = self.checkpoint_steps();
        self.map.end_checkpoint(result.is_ok());
        result
    }

    fn checkpoint_steps(&mut self) -> Result<(), MapFileError> {
        loop {
            match self.map.checkpoint_step() {
                CheckpointStep::Load(node) => self.load(node)?,
                CheckpointStep::Write(nodes) => write_all(self.file, &nodes)?,
                CheckpointStep::Superblock(superblock) => {
                    self.file.sync_data()?;
                    write_all(self.file, &[superblock])?;
                    return Ok(self.file.sync_data()?);
                }
            }
        }
    }

    /// Gives the disk this size, durably, if it has another.
    fn change_size(&mut self, size: u64) -> Result<(), MapFileError> {
        if self.map.size() == size {
            return Ok(());
        }
        // The rest of a last block would show again when the disk grows.
        let end = size.next_multiple_of(MAP_BLOCK).min(self.map.size());
        if end > size {
            self.data.write_all_at(&vec![0; (end - size) as usize], size)?;
        }
        self.resize(size)?;
        self.checkpoint()
    }

    fn resize(&mut self, size: u64) -> Result<(), MapFileError> {
        let mut from = 0;
        loop {
            match self.map.shrink_step(size, from) {
                ShrinkStep::Load(node) => self.load(node)?,
                ShrinkStep::Hide(run) => {
                    self.set(run.start, run.length, BlockState::Zero)?;
                    from = run.end();
                }
                ShrinkStep::LookFrom(block) => from = block,
                ShrinkStep::Done => break,
            }
        }
        self.commit()?;
        match self.map.begin_resize(size) {
            Ok(Some(record)) => self.write_record(&record),
            Ok(None) => Ok(()),
            Err(super::map::NoCommit::RingFull) => {
                self.checkpoint()?;
                self.resize(size)
            }
            Err(error) => Err(MapFileError::NotNow(error.to_string())),
        }
    }
}

impl LayerMaps for MapFiles {
    fn create(&self, map: &File, layer: &LayerDescription, data: &[BlockSpan]) -> Result<(), String> {
        let made = || -> Result<(), MapFileError> {
            if data.is_empty() {
                return create_map(map, &identity(layer));
            }
            let mut writer = MapWriter::create(map, layer)?;
            for span in data {
                writer.set(span.start, span.blocks, BlockState::Data)?;
            }
            writer.finish()
        };
        made().map_err(|error| error.to_string())
    }

    fn seal(&self, data: &File, map: &File, size: u64) -> Result<(), String> {
        let sealed = || -> Result<(), MapFileError> {
            let mut open = OpenMap { map: open_map(data, map)?, file: map, data };
            open.change_size(size)?;
            open.checkpoint()
        };
        sealed().map_err(|error| error.to_string())
    }

    fn resize(&self, data: &File, map: &File, size: u64) -> Result<(), String> {
        let resized = || -> Result<(), MapFileError> {
            let mut open = OpenMap { map: open_map(data, map)?, file: map, data };
            open.change_size(size)
        };
        resized().map_err(|error| error.to_string())
    }
}

/// Gives blocks of a head a state, durably, as a server does that writes them.
#[cfg(test)]
pub(super) fn change_states(data: &File, map: &File, start: u64, blocks: u64, state: BlockState) {
    let mut open = OpenMap { map: open_map(data, map).unwrap(), file: map, data };
    open.set(start, blocks, state).unwrap();
    open.commit().unwrap();
}

fn identity(layer: &LayerDescription) -> LayerIdentity {
    let LayerDescription { store, image, layer, parent, name, created_s, size } = layer;
    LayerIdentity {
        store: *store,
        image: *image,
        layer: *layer,
        parent: *parent,
        name: name.clone(),
        created_s: *created_s,
        size: *size,
        base: None,
    }
}
