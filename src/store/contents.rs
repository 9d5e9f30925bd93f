//! Reads the contents of an ingested layer from packs.

use std::sync::Arc;

use super::contents_error::ContentsError;
use super::manifest::{Descent, ManifestEntry, ManifestRoot, NamedChunk};
use super::pack_shelf::PackShelf;

/// Goes down to a chunk of the disk.
pub(crate) fn way_to(shelf: &PackShelf, root: &ManifestRoot, chunk: u64) -> Result<Descent, ContentsError> {
    let mut way = Descent::new(root, chunk)?;
    while let Some(node) = way.wanted() {
        way.take(&shelf.read(&node)?)?;
    }
    Ok(way)
}

/// Copies bytes of a chunk of the disk, from a byte of the disk on.
pub(crate) fn copy_chunk(
    root: &ManifestRoot,
    chunk: &NamedChunk,
    contents: &[u8],
    at: u64,
    to: &mut [u8],
) -> Result<(), ContentsError> {
    let start = (at % u64::from(root.space.chunk_bytes)) as usize;
    let part = contents.get(start..start + to.len()).ok_or(ContentsError::Elsewhere(chunk.hash))?;
    to.copy_from_slice(part);
    Ok(())
}

/// The contents of an ingested layer.
#[derive(Debug)]
pub(super) struct ContentsReader {
    shelf: Arc<PackShelf>,
    root: ManifestRoot,
    /// The way to the chunk that was asked for last.
    last: Option<Descent>,
}

impl ContentsReader {
    pub(super) fn new(shelf: Arc<PackShelf>, root: ManifestRoot) -> Self {
        Self { shelf, root, last: None }
    }

    fn chunk_bytes(&self) -> u64 {
        self.root.space.chunk_bytes.into()
    }

    /// Bytes of the disk.
    pub(super) const fn size(&self) -> u64 {
        self.root.size
    }

    /// What the disk has at a byte, and the end of a part, up to `end`, of which that holds: one chunk, or
    /// several that read as zeroes or as the base.
    pub(super) fn part(&mut self, at: u64, end: u64) -> Result<(u64, ManifestEntry), ContentsError> {
        let chunk = at / self.chunk_bytes();
        let way = match self.last.take().filter(|way| way.is_for(chunk)) {
            Some(way) => way,
            None => way_to(&self.shelf, &self.root, chunk)?,
        };
        let (until, entry) = way.run(chunk);
        self.last = Some(way);
        Ok((until.saturating_mul(self.chunk_bytes()).min(end), entry))
    }

    /// Bytes of one chunk of the disk, from a byte of the disk on.
    pub(super) fn read(&self, chunk: &NamedChunk, at: u64, to: &mut [u8]) -> Result<(), ContentsError> {
        copy_chunk(&self.root, chunk, &self.shelf.read(chunk)?, at, to)
    }
}
