//! The map of a layer and its file, outside of any ring: while a server starts, and for the commands on a
//! store that nobody serves.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::copy::{BlockSpan, MAP_BLOCK};
use super::map::{
    BlockState, CheckpointStep, FileWrite, Geometry, LayerIdentity, LayerMap, LayerMapError, LeftLog,
    LeftLogError, MapFront, NodeAddress, PendingLog, ShrinkStep,
};
use super::maps::{LayerDescription, LayerMaps};
use super::open_store::now_s;
use super::pending::{FoundLog, find_log};

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

/// Maps as files.
#[derive(Debug, Clone, Copy)]
pub struct MapFiles;

/// A map with the files of its layer.
pub(super) struct OpenMap<'a, F> {
    pub(super) map: LayerMap,
    pub(super) files: &'a F,
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

/// The real ones.
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

    fn write(&self, writes: &[FileWrite]) -> io::Result<()> {
        write_all(self.map, writes)
    }

    fn sync_map(&self) -> io::Result<()> {
        self.map.sync_data()
    }

    fn left_log(&self, identity: &LayerIdentity) -> Option<FoundLog> {
        find_log(self.map, identity).unwrap_or_else(|error| {
            tracing::warn!(%error, "{NOT_LOOKED_FOR}");
            None
        })
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

/// Reads the map of a head: first it makes durable what a process has answered that was killed.
pub(crate) fn open_head_map(files: &impl LayerMedium) -> Result<LayerMap, MapFileError> {
    let mut open = OpenMap { map: open_map_of(files)?, files };
    open.adopt()?;
    Ok(open.map)
}

fn load_node(map: &mut LayerMap, files: &impl LayerMedium, node: NodeAddress) -> Result<(), MapFileError> {
    let Some((offset, length)) = map.address(node) else { return Ok(()) };
    let mut bytes = vec![0; length];
    let length = files.read(&mut bytes, offset)?;
    Ok(map.loaded(node, &bytes[..length])?)
}

/// Makes durable what a map has in no record yet: for a layer that nobody has open any more.
pub(crate) fn commit_map(map: LayerMap, data: &File, file: &File) -> Result<(), MapFileError> {
    let mut open = OpenMap { map, files: &LayerPair { data, map: file } };
    let committed = open.commit();
    open.map.finish_log();
    committed
}

/// Writes a new map, in which every block is ABSENT. The caller syncs it.
pub(crate) fn create_map(file: &File, identity: &LayerIdentity) -> Result<(), MapFileError> {
    let new = LayerMap::create(identity, Geometry::default())?;
    write_all(file, &new.writes)?;
    file.set_len(new.file_length)?;
    Ok(())
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

impl<F: LayerMedium> OpenMap<'_, F> {
    fn load(&mut self, node: NodeAddress) -> Result<(), MapFileError> {
        load_node(&mut self.map, self.files, node)
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
                CheckpointStep::Write(nodes) => self.files.write(&nodes)?,
                CheckpointStep::Superblock(superblock) => {
                    self.files.sync_map()?;
                    self.files.write(&[superblock])?;
                    return Ok(self.files.sync_map()?);
                }
            }
        }
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

impl OpenMap<'_, LayerPair<'_>> {
    /// Gives the disk this size, durably, if it has another.
    fn change_size(&mut self, size: u64) -> Result<(), MapFileError> {
        if self.map.size() == size {
            return Ok(());
        }
        // The rest of a last block would show again when the disk grows.
        let end = size.next_multiple_of(MAP_BLOCK).min(self.map.size());
        if end > size {
            self.files.data.write_all_at(&vec![0; (end - size) as usize], size)?;
        }
        self.resize(size)?;
        self.checkpoint()
    }
}

impl LayerMaps for MapFiles {
    fn create(&self, map: &File, layer: &LayerDescription, data: &[BlockSpan]) -> Result<(), String> {
        let made = || -> Result<(), MapFileError> {
            create_map(map, &identity(layer))?;
            if data.is_empty() {
                return Ok(());
            }
            // Its data is durable before the catalogue names the layer, and until then it is rubbish.
            let files = LayerPair { data: map, map };
            let mut open = OpenMap { map: open_map(map, map)?, files: &files };
            for span in data {
                open.set(span.start, span.blocks, BlockState::Data)?;
            }
            open.commit()?;
            open.checkpoint()
        };
        made().map_err(|error| error.to_string())
    }

    fn seal(&self, data: &File, map: &File, size: u64) -> Result<(), String> {
        let sealed = || -> Result<(), MapFileError> {
            let files = LayerPair { data, map };
            let mut open = OpenMap { map: open_head_map(&files)?, files: &files };
            open.change_size(size)?;
            open.checkpoint()
        };
        sealed().map_err(|error| error.to_string())
    }

    fn resize(&self, data: &File, map: &File, size: u64) -> Result<(), String> {
        let resized = || -> Result<(), MapFileError> {
            let files = LayerPair { data, map };
            OpenMap { map: open_head_map(&files)?, files: &files }.change_size(size)
        };
        resized().map_err(|error| error.to_string())
    }
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::map::Lookup;
    use super::super::pending::attach_new_log;
    use super::*;

    const SIZE: u64 = 1 << 30;

    struct Layer {
        directory: tempfile::TempDir,
        data: File,
        map: File,
        identity: LayerIdentity,
    }

    impl Layer {
        fn new() -> Self {
            let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
            let file = |name: &str| {
                let path = directory.path().join(name);
                File::options().create_new(true).read(true).write(true).open(path).unwrap()
            };
            let (data, map) = (file("data"), file("map"));
            let [store, image, layer] = [1, 2, 3].map(Uuid::from_u128);
            let name = "vm".to_owned();
            let identity = LayerIdentity {
                store,
                image,
                layer,
                parent: None,
                name,
                created_s: 0,
                size: SIZE,
                base: None,
            };
            create_map(&map, &identity).unwrap();
            Self { directory, data, map, identity }
        }

        /// A server that was killed: blocks have changed that no record has. `None` where there is no memory
        /// that outlives a process.
        fn is_killed(&self, blocks: &[(u64, BlockState)]) -> Option<()> {
            let files = LayerPair { data: &self.data, map: &self.map };
            let mut open = OpenMap { map: open_head_map(&files).unwrap(), files: &files };
            attach_new_log(&mut open.map, &self.map).ok()?;
            blocks.iter().for_each(|(block, state)| open.set(*block, 1, *state).unwrap());
            Some(())
        }

        fn log(&self) -> Option<PathBuf> {
            find_log(&self.map, &self.identity).unwrap().map(|found| found.path)
        }

        fn states(&self, blocks: &[u64]) -> Vec<BlockState> {
            let mut map = open_map(&self.data, &self.map).unwrap();
            let files = LayerPair { data: &self.data, map: &self.map };
            let state = |block: &u64| loop {
                match map.lookup(*block, 1) {
                    Lookup::Run(run) => return run.state,
                    Lookup::Load(node) => load_node(&mut map, &files, node).unwrap(),
                }
            };
            blocks.iter().map(state).collect()
        }
    }

    #[test]
    fn commands_take_over_what_a_killed_server_has_left() {
        use BlockState::{Absent, Data, Zero};
        let layer = Layer::new();
        for (round, command) in ["seal", "resize"].into_iter().enumerate() {
            let first = round as u64 * 20_000;
            let blocks = [(first, Data), (first + 9000, Data), (first + 9000, Zero), (first + 1, Data)];
            if layer.is_killed(&blocks).is_none() {
                return;
            }
            let places = [0, 1, 2, 9000].map(|block| first + block);
            assert_eq!(layer.states(&places), [Absent; 4], "no record has them");
            let done = match command {
                "seal" => MapFiles.seal(&layer.data, &layer.map, SIZE),
                _ => MapFiles.resize(&layer.data, &layer.map, SIZE),
            };
            done.unwrap();
            assert_eq!(layer.states(&places), [Data, Data, Absent, Zero], "{command}");
            assert_eq!(layer.log(), None);
        }
    }

    #[test]
    fn a_damaged_log_is_a_sentence_and_one_of_another_file_is_none() {
        let layer = Layer::new();
        let Some(()) = layer.is_killed(&[(5, BlockState::Data)]) else { return };
        let path = layer.log().unwrap();
        let log = File::options().write(true).open(&path).unwrap();
        log.write_all_at(&u64::MAX.to_ne_bytes(), 16 * 8).unwrap();
        let sentence = MapFiles.seal(&layer.data, &layer.map, SIZE).unwrap_err();
        assert!(sentence.contains(&path.display().to_string()) && sentence.contains("remove"), "{sentence}");
        // Others may write it: it is not looked at.
        log.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        MapFiles.seal(&layer.data, &layer.map, SIZE).unwrap();
        std::fs::remove_file(&path).unwrap();
        // A copy of a layer has the uuids of the first one.
        layer.is_killed(&[(6, BlockState::Data)]).unwrap();
        let copy = layer.directory.path().join("copy");
        std::fs::copy(layer.directory.path().join("map"), &copy).unwrap();
        let map = File::options().read(true).write(true).open(copy).unwrap();
        assert!(find_log(&map, &layer.identity).unwrap().is_none());
        // An older state of it, in its place.
        create_map(&layer.map, &layer.identity).unwrap();
        layer.is_killed(&[(6, BlockState::Data)]).unwrap();
        MapFiles.seal(&layer.data, &layer.map, SIZE).unwrap();
        layer.is_killed(&[(7, BlockState::Data)]).unwrap();
        create_map(&layer.map, &layer.identity).unwrap();
        MapFiles.seal(&layer.data, &layer.map, SIZE).unwrap();
        assert_eq!(layer.states(&[6, 7]), [BlockState::Absent; 2]);
        assert_eq!(layer.log(), None);
    }
}
