//! A new layer that is made of others, in small steps.
//!
//! Blocks are shared with the old files where the file system can do that, and copied by the kernel
//! elsewhere. A block of the old files that is a hole stays one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;

use super::catalog::LayerId;
use super::chain_reader::{BlockSource, ChainReader};
use super::copy::{MAP_BLOCK, next_data, runs_of_data};
use super::error::StoreError;
use super::file_changes::{copy_range_in_kernel, sync_data, write_all_at};
use super::manifest::NamedChunk;
use super::map::BlockState;
use super::map_medium::MapFileError;
use super::map_writer::MapWriter;

/// Bytes of one step.
const STEP: u64 = 4 << 20;
/// Bytes that are made durable at once, so that little is left for the end, when others wait.
const SYNC_STEP: u64 = 32 << 20;
/// Bytes that are in memory where the kernel does not copy by itself.
const PIECE: u64 = 256 << 10;

/// How far a copy is, in bytes of the disk that were looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyProgress {
    pub done: u64,
    pub total: u64,
}

impl CopyProgress {
    #[must_use]
    pub const fn is_done(self) -> bool {
        self.done >= self.total
    }
}

/// A layer that is being made of others. It can be given up after any step.
pub(super) struct LayerCopy {
    pub(super) layer: LayerId,
    pub(super) size: u64,
    /// Bytes of what is below the new layer that are seen through it: zeroes need no state beyond them.
    pub(super) seen: u64,
    from: ChainReader,
    data: File,
    map: MapWriter,
    /// The next block.
    at: u64,
    /// The kernel copies by itself.
    in_kernel: bool,
    /// Bytes that were copied since some were made durable.
    unsynced: u64,
}

impl LayerCopy {
    pub(super) fn new(
        layer: LayerId,
        (size, seen): (u64, u64),
        from: ChainReader,
        data: File,
        map: MapWriter,
    ) -> Self {
        Self { layer, size, seen, from, data, map, at: 0, in_kernel: true, unsynced: 0 }
    }

    pub(super) fn progress(&self) -> CopyProgress {
        CopyProgress { done: self.at.saturating_mul(MAP_BLOCK).min(self.size), total: self.size }
    }

    /// Copies a little more: a few MiB at most. It fails if a file cannot be read or written, or a map is
    /// damaged.
    pub(super) fn step(&mut self) -> Result<CopyProgress, StoreError> {
        let (blocks, begun) = (self.size.div_ceil(MAP_BLOCK), self.at);
        while self.at < blocks {
            let (end, source) = self.from.source(self.at, blocks)?;
            self.at = match source {
                BlockSource::Nothing => end,
                BlockSource::Zeroes => self.hide(end)?,
                BlockSource::Chunk(chunk) => self.copy_chunk(&chunk, end)?,
                BlockSource::Layer(_) | BlockSource::Bottom => self.copy(source, end)?,
            };
            // Chunks are small: a step has several.
            if !matches!(source, BlockSource::Chunk(_)) || (self.at - begun) * MAP_BLOCK >= STEP {
                break;
            }
        }
        Ok(self.progress())
    }

    /// Blocks up to `end` read as zeroes.
    fn hide(&mut self, end: u64) -> Result<u64, StoreError> {
        let to = end.min(self.seen.div_ceil(MAP_BLOCK));
        if self.at < to {
            self.set(self.at, to, BlockState::Zero)?;
        }
        Ok(end)
    }

    /// Copies the first blocks of those up to `end`, and says where it has stopped.
    fn copy(&mut self, source: BlockSource, end: u64) -> Result<u64, StoreError> {
        let (file, visible, name) = self.from.file(source).expect("it has bytes");
        let failed = StoreError::at("copy", Path::new(&name));
        let (first, last) = (self.at * MAP_BLOCK, (end * MAP_BLOCK).min(visible));
        let next = match is_long_enough(file, last).and_then(|()| next_data(file, first, last)) {
            Ok(next) => next,
            Err(error) => return Err(failed(error)),
        };
        let Some((start, stop)) = next else { return self.hide(end) };
        let start = start / MAP_BLOCK;
        if start > self.at {
            return self.hide(start);
        }
        let stop = stop.next_multiple_of(MAP_BLOCK).min(first + STEP).min(last);
        let mut copied = copy_range(file, &self.data, first, stop, &mut self.in_kernel);
        copied = copied.and_then(|()| sync_some(&self.data, &mut self.unsynced, stop - first));
        copied.map_err(failed)?;
        let stop = stop.div_ceil(MAP_BLOCK);
        self.set(self.at, stop, BlockState::Data)?;
        Ok(stop)
    }

    /// Copies what is not zero of the blocks up to `end`, which are within one chunk.
    fn copy_chunk(&mut self, chunk: &NamedChunk, end: u64) -> Result<u64, StoreError> {
        let start = self.at;
        let bytes = self.from.read_chunk(chunk, (start, end))?;
        for run in runs_of_data(&bytes) {
            let blocks = start + run.start as u64 / MAP_BLOCK..start + run.end as u64 / MAP_BLOCK;
            self.at = self.hide(blocks.start)?;
            let length = run.len() as u64;
            write_all_at(&self.data, &bytes[run], blocks.start * MAP_BLOCK)
                .and_then(|()| sync_some(&self.data, &mut self.unsynced, length))
                .map_err(StoreError::at("write", Path::new(&format!("the data of layer {}", self.layer))))?;
            self.set(blocks.start, blocks.end, BlockState::Data)?;
            self.at = blocks.end;
        }
        self.hide(end)
    }

    fn set(&mut self, start: u64, end: u64, state: BlockState) -> Result<(), StoreError> {
        self.map.set(start, end, state).map_err(made(self.layer))
    }

    /// Writes what is left of the map. The caller makes it durable.
    pub(super) fn finish(self) -> Result<(), StoreError> {
        assert!(self.progress().is_done(), "all of it was copied");
        self.map.finish().map_err(made(self.layer))
    }
}

pub(super) fn made(layer: LayerId) -> impl FnOnce(MapFileError) -> StoreError {
    move |why| StoreError::Map { layer, what: "made", why: why.to_string() }
}

/// So many bytes were written: makes those durable from time to time.
fn sync_some(data: &File, unsynced: &mut u64, written: u64) -> io::Result<()> {
    *unsynced += written;
    if *unsynced < SYNC_STEP {
        return Ok(());
    }
    *unsynced = 0;
    sync_data(data)
}

/// What a file has lost at its end is no hole.
fn is_long_enough(file: &File, length: u64) -> io::Result<()> {
    let metadata = file.metadata()?;
    match metadata.is_file() && metadata.len() < length {
        true => Err(io::ErrorKind::UnexpectedEof.into()),
        false => Ok(()),
    }
}

/// Copies bytes of one file to the same place of another.
fn copy_range(from: &File, to: &File, start: u64, end: u64, in_kernel: &mut bool) -> io::Result<()> {
    let mut at = start;
    while at < end && *in_kernel {
        let (mut read, mut write) = (at, at);
        let length = usize::try_from(end - at).unwrap_or(usize::MAX);
        match copy_range_in_kernel((from, &mut read), (to, &mut write), length) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => at += moved as u64,
            Err(Errno::INTR) => {}
            // Between these two files it cannot.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::TXTBSY) => {
                *in_kernel = false;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut piece = vec![0; usize::try_from(PIECE.min(end - at)).unwrap_or_default()];
    while at < end {
        let length = piece.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        from.read_exact_at(&mut piece[..length], at)?;
        write_all_at(to, &piece[..length], at)?;
        at += length as u64;
    }
    Ok(())
}
