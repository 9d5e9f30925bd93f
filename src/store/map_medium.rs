//! The map of a layer and its file, outside of any ring: while a server starts, and for the commands on a
//! store that nobody serves.

use std::borrow::Borrow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::file_changes::{set_length, sync_all, sync_data, write_all_at};
use super::map::{
    BlockState, CheckpointStep, CutBlock, FileWrite, Geometry, LayerIdentity, LayerMap, LayerMapError,
    LeftLog, LeftLogError, MapFront, NodeAddress, PendingLog, ShrinkStep,
};
use super::maps::LayerDescription;
use super::open_store::now_s;
use super::pending::{FoundLog, find_log};
use super::step_sizes::{StepSizes, step_sizes};

/// Leaves that stay in memory of a map that is gone through once.
pub(super) const FEW_LEAVES: usize = 16;

/// Why a map cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum MapFileError {
    #[error("its map cannot be used: {0}")]
    Map(#[from] LayerMapError),
    #[error("its map cannot be read or written: {0}")]
    Io(#[from] io::Error),
    #[error("its map cannot be changed: {0}")]
    NotNow(String),
    #[error(
        "what was answered before its server was killed cannot be read from {}: {error}; remove that file to go on with what was \
         flushed", .path.display()
    )]
    Left { path: PathBuf, error: LeftLogError },
}

const NOT_LOOKED_FOR: &str = "what a server that was killed has answered and not flushed cannot be looked for: if there is any, it is lost";

/// A map with the files of its layer.
pub(super) struct OpenMap<F> {
    pub(super) map: LayerMap,
    pub(super) files: F,
}

/// The files of a layer: its data and its map.
pub(crate) trait LayerMedium {
    /// Makes all that they hold durable.
    fn sync(&self) -> io::Result<()>;

    /// Reads of the map's file as much as there is.
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes to the map's file.
    fn write(&self, writes: &[FileWrite]) -> io::Result<()>;

    /// Makes what was written to the map's file durable.
    fn sync_map(&self) -> io::Result<()>;

    /// The log that a process has left which died.
    fn left_log(&self, identity: &LayerIdentity) -> Option<FoundLog>;
}

/// The files of a head, whose size may change.
pub(crate) trait HeadMedium: LayerMedium {
    /// Writes zeroes to the data.
    fn zero_data(&self, offset: u64, length: u64) -> io::Result<()>;
}

/// The real ones.
#[derive(Clone, Copy)]
pub(super) struct LayerPair<'a> {
    pub(super) data: &'a File,
    pub(super) map: &'a File,
}

impl LayerMedium for LayerPair<'_> {
    fn sync(&self) -> io::Result<()> {
        sync_all(self.data)?;
        sync_all(self.map)
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        read_at(self.map, bytes, offset)
    }

    fn write(&self, writes: &[FileWrite]) -> io::Result<()> {
        write_all(self.map, writes)
    }

    fn sync_map(&self) -> io::Result<()> {
        sync_data(self.map)
    }

    fn left_log(&self, identity: &LayerIdentity) -> Option<FoundLog> {
        find_log(self.map, identity).unwrap_or_else(|error| {
            tracing::warn!(%error, "{NOT_LOOKED_FOR}");
            None
        })
    }
}

impl HeadMedium for LayerPair<'_> {
    fn zero_data(&self, offset: u64, length: u64) -> io::Result<()> {
        write_all_at(self.data, &vec![0; length as usize], offset)
    }
}

impl<F: HeadMedium> HeadMedium for &F {
    fn zero_data(&self, offset: u64, length: u64) -> io::Result<()> {
        (**self).zero_data(offset, length)
    }
}

impl<F: LayerMedium> LayerMedium for &F {
    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read(bytes, offset)
    }

    fn write(&self, writes: &[FileWrite]) -> io::Result<()> {
        (**self).write(writes)
    }

    fn sync_map(&self) -> io::Result<()> {
        (**self).sync_map()
    }

    fn left_log(&self, identity: &LayerIdentity) -> Option<FoundLog> {
        (**self).left_log(identity)
    }
}

/// A map of which nothing is synced: one that is only looked at, or that no catalogue names yet. Whoever
/// makes it syncs it in the end.
pub(super) struct UnsyncedMap<F>(pub(super) F);

impl<F: Borrow<File>> LayerMedium for UnsyncedMap<F> {
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        read_at(self.0.borrow(), bytes, offset)
    }

    fn write(&self, writes: &[FileWrite]) -> io::Result<()> {
        write_all(self.0.borrow(), writes)
    }

    fn sync_map(&self) -> io::Result<()> {
        Ok(())
    }

    fn left_log(&self, _identity: &LayerIdentity) -> Option<FoundLog> {
        None
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
        load_each_node(&mut map, files)?;
    }
    Ok(map)
}

/// Reads the map of a head: first it makes durable what a process has answered that was killed.
pub(crate) fn open_head_map(files: &impl LayerMedium) -> Result<LayerMap, MapFileError> {
    let mut open = OpenMap { map: open_map_of(files)?, files };
    open.adopt()?;
    Ok(open.map)
}

/// Makes a head one that can be sealed: first it takes over what a process has answered that was killed.
#[cfg_attr(not(feature = "sim"), expect(dead_code, reason = "the simulation opens maps by it"))]
pub(crate) fn seal_head_map(files: &impl LayerMedium) -> Result<(), MapFileError> {
    OpenMap { map: open_head_map(files)?, files }.checkpoint()
}

/// Gives the disk of a head the larger size that the catalogue has, durably.
#[cfg_attr(not(feature = "sim"), expect(dead_code, reason = "the simulation opens maps by it"))]
pub(crate) fn grow_head_map(
    map: LayerMap,
    files: &impl HeadMedium,
    size: u64,
) -> Result<LayerMap, MapFileError> {
    let mut open = OpenMap { map, files };
    open.resize(size)?;
    open.checkpoint()?;
    Ok(open.map)
}

/// Every node that is live comes into memory once, which verifies it; few of them stay there.
pub(super) fn load_each_node(map: &mut LayerMap, files: &impl LayerMedium) -> Result<(), MapFileError> {
    let mut after = None;
    while let Some(node) = map.next_live(after) {
        load_node(map, files, node)?;
        map.evict_clean(FEW_LEAVES);
        after = Some(node);
    }
    Ok(())
}

pub(super) fn load_node(
    map: &mut LayerMap,
    files: &impl LayerMedium,
    node: NodeAddress,
) -> Result<(), MapFileError> {
    let Some((offset, length)) = map.address(node) else { return Ok(()) };
    let mut bytes = vec![0; length];
    let length = files.read(&mut bytes, offset)?;
    Ok(map.loaded(node, &bytes[..length])?)
}

/// Makes durable what a map has in no record yet: for a layer that nobody has open any more.
pub(crate) fn commit_map(map: LayerMap, data: &File, file: &File) -> Result<(), MapFileError> {
    let mut open = OpenMap { map, files: LayerPair { data, map: file } };
    let committed = open.commit();
    open.map.finish_log();
    committed
}

/// Writes a new map, in which every block is ABSENT. The caller syncs it.
pub(crate) fn create_map(file: &File, identity: &LayerIdentity) -> Result<(), MapFileError> {
    create_map_with(file, identity, head_geometry())
}

/// The sizes of the map of a layer that is going to be written.
pub(super) fn head_geometry() -> Geometry {
    let StepSizes { ring_bytes, ring_room_bytes, .. } = step_sizes();
    Geometry { ring_bytes, ring_room_bytes, ..Geometry::default() }
}

pub(super) fn create_map_with(
    file: &File,
    identity: &LayerIdentity,
    geometry: Geometry,
) -> Result<(), MapFileError> {
    let new = LayerMap::create(identity, geometry)?;
    write_all(file, &new.writes)?;
    set_length(file, new.file_length)?;
    Ok(())
}

/// Reads as much as there is.
pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
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

pub(super) fn write_all(file: &File, writes: &[FileWrite]) -> io::Result<()> {
    writes.iter().try_for_each(|write| write_all_at(file, &write.bytes, write.offset))
}

impl<F: LayerMedium> OpenMap<F> {
    fn load(&mut self, node: NodeAddress) -> Result<(), MapFileError> {
        load_node(&mut self.map, &self.files, node)
    }

    /// Blocks have a state from now on.
    pub(super) fn set(&mut self, start: u64, length: u64, state: BlockState) -> Result<(), MapFileError> {
        while let Some(node) = self.map.missing(start, length) {
            self.load(node)?;
        }
        self.map.change(start, length, state);
        Ok(())
    }

    /// Takes over what a process has left that was killed, durably.
    fn adopt(&mut self) -> Result<(), MapFileError> {
        let Some(found) = self.files.left_log(self.map.identity()) else { return Ok(()) };
        let FoundLog { words, layout, owner, memory, path } = found;
        let left = LeftLog::read(&words, &layout, &owner, self.map.journal_stamp());
        let changes = match left.map_err(|error| MapFileError::Left { path: path.clone(), error })? {
            LeftLog::Changes(changes) => changes,
            LeftLog::Empty => {
                memory.remove();
                return Ok(());
            }
            LeftLog::Foreign(why) => {
                tracing::warn!(path = %path.display(), why, "a log of changes is not this layer's: it is removed");
                memory.remove();
                return Ok(());
            }
        };
        for run in &changes.runs {
            // Those behind the end of a disk that has shrunk are in records.
            let end = run.end().min(self.map.blocks());
            if run.start < end {
                self.set(run.start, end - run.start, run.state)?;
            }
        }
        // It follows the journal, so that whoever is interrupted here does not end it.
        let log = PendingLog::resume(memory, layout, changes.ends, self.map.journal_stamp());
        self.map.attach_log(log.ok_or_else(|| io::Error::from(io::ErrorKind::StorageFull))?);
        self.commit()?;
        self.map.finish_log();
        tracing::info!(
            changes = changes.runs.len(),
            "changes were made durable that a server had answered which was killed"
        );
        Ok(())
    }

    /// Writes what is pending into the journal, durably; the data first.
    pub(super) fn commit(&mut self) -> Result<(), MapFileError> {
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
        let written = self.files.sync().and_then(|()| self.files.write(std::slice::from_ref(record)));
        let written = written.and_then(|()| self.files.sync_map());
        self.map.end_commit(written.is_ok());
        Ok(written?)
    }

    /// Writes all that records say into nodes: after that opening replays nothing.
    pub(super) fn checkpoint(&mut self) -> Result<(), MapFileError> {
        self.map.begin_checkpoint(now_s());
        let result = self.checkpoint_steps();
        self.map.end_checkpoint(result.is_ok());
        result
    }

    pub(super) fn checkpoint_steps(&mut self) -> Result<(), MapFileError> {
        loop {
            match self.map.checkpoint_step() {
                CheckpointStep::Load(node) => self.load(node)?,
                CheckpointStep::Write(nodes) => self.files.write(&nodes)?,
                CheckpointStep::Grow { offset, length } => {
                    if self.files.write(&[FileWrite { offset, bytes: vec![0; length] }]).is_err() {
                        self.map.stay_small();
                    }
                }
                CheckpointStep::Superblock(superblock) => {
                    self.files.sync_map()?;
                    self.files.write(&[superblock])?;
                    return Ok(self.files.sync_map()?);
                }
            }
        }
    }
}

impl<F: HeadMedium> OpenMap<F> {
    fn resize(&mut self, size: u64) -> Result<(), MapFileError> {
        if size > self.map.size() {
            self.zero_behind_end()?;
        }
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

    /// What the data has behind the end of the disk is going to be seen, and may be old.
    fn zero_behind_end(&mut self) -> Result<(), MapFileError> {
        let Some(CutBlock { block, end, rest }) = self.map.cut_block() else { return Ok(()) };
        while let Some(node) = self.map.missing(block, 1) {
            self.load(node)?;
        }
        let is_data = self.map.uniform(block, 1) == Some(Some(BlockState::Data));
        if is_data && !canary!(RestShownByGrowth) {
            self.files.zero_data(end, rest)?;
        }
        Ok(())
    }
}

impl OpenMap<LayerPair<'_>> {
    /// Gives the disk this size, durably, if it has another.
    pub(super) fn change_size(&mut self, size: u64) -> Result<(), MapFileError> {
        if self.map.size() == size {
            return Ok(());
        }
        self.resize(size)?;
        self.checkpoint()
    }
}

pub(super) fn identity(layer: &LayerDescription) -> LayerIdentity {
    let LayerDescription { store, image, layer, parent, name, created_s, size, place } = layer;
    LayerIdentity {
        store: *store,
        image: *image,
        layer: *layer,
        parent: *parent,
        name: name.clone(),
        created_s: *created_s,
        size: *size,
        base: place.encode(),
    }
}
