//! Contents of images and snapshots that leave a store.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use uuid::Uuid;

use super::catalog::{NameError, NodeName};
use super::copy::{MAP_BLOCK, is_zero};
use super::delta::{DeltaHead, DeltaWriter};
use super::error::StoreError;
use super::map_medium::MapFileError;
use super::maps::LayerMaps;
use super::open_store::{OpenStore, now_s};
pub use super::whole::NodePart;
use super::whole::WholeNode;

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;
/// Bytes between two calls that tell how far it is.
const STEP: u64 = 64 << 20;

/// Where the bytes of a disk go.
#[derive(Debug)]
pub enum RawOutput<'a, W> {
    /// A new file: what is zero stays a hole.
    Sparse(&'a File),
    /// One byte after the other.
    Stream(W),
}

/// How far it is; an error ends the work.
pub type OnProgress<'a> = &'a mut dyn FnMut(u64) -> Result<(), StoreError>;

/// Bytes of a disk: whole blocks but at its end.
enum NodeBytes<'a> {
    Data { offset: u64, bytes: &'a [u8] },
    Zeroes { offset: u64, length: u64 },
}

impl<W: Write> RawOutput<'_, W> {
    fn put(&mut self, bytes: NodeBytes<'_>) -> io::Result<()> {
        match (self, bytes) {
            (Self::Sparse(file), NodeBytes::Data { offset, bytes }) => file.write_all_at(bytes, offset),
            (Self::Sparse(_), NodeBytes::Zeroes { .. }) => Ok(()),
            (Self::Stream(out), NodeBytes::Data { bytes, .. }) => out.write_all(bytes),
            (Self::Stream(out), NodeBytes::Zeroes { length, .. }) => {
                io::copy(&mut io::Read::take(io::repeat(0), length), out).map(drop)
            }
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Sparse(file) => file.sync_all(),
            Self::Stream(out) => out.flush(),
        }
    }
}

impl<M: LayerMaps> OpenStore<M> {
    /// Bytes of an image or a snapshot.
    ///
    /// # Errors
    /// It is missing.
    pub fn size_of(&self, node: &NodeName) -> Result<u64, StoreError> {
        Ok(self.point(node)?.size)
    }

    /// Whether a path is one of the store's, or of a base that images stand on: nothing else may come there.
    ///
    /// # Errors
    /// The catalogue cannot be read.
    pub fn needs_path(&self, path: &Path) -> Result<bool, StoreError> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (Ok(parent), Ok(own), Some(name)) =
            (parent.canonicalize(), self.path().canonicalize(), path.file_name())
        else {
            // There is no such place: whoever writes there is told.
            return Ok(false);
        };
        let path = parent.join(name);
        Ok(path.starts_with(own) || self.view()?.bases().any(|base| Path::new(&base.path) == path))
    }

    /// Tells where each part of an image or a snapshot is, in order.
    ///
    /// # Errors
    /// A sentence; that of `tell`.
    pub fn map(
        &self,
        node: &NodeName,
        tell: &mut dyn FnMut(NodePart) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut whole = self.whole(node)?;
        let mut last: Option<NodePart> = None;
        let mut at = 0;
        while at < whole.size() {
            let part = whole.part(at, whole.size()).map_err(unreadable(node))?;
            at = part.end;
            match &mut last {
                Some(last) if (last.depth, last.has_data) == (part.depth, part.has_data) => {
                    last.end = part.end
                }
                _ => last.replace(part).map_or(Ok(()), &mut *tell)?,
            }
        }
        last.map_or(Ok(()), tell)
    }

    /// Tells what differs between two images or snapshots, in order.
    ///
    /// # Errors
    /// A sentence, above all that it cannot be known; that of `tell`.
    pub fn differences(
        &self,
        a: &NodeName,
        b: &NodeName,
        tell: &mut dyn FnMut(Range<u64>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        // The maps of heads have the sizes that the catalogue says.
        for node in [a, b].into_iter().filter(|node| node.snapshot.is_none()) {
            self.files(node)?;
        }
        let mut walk = self.changes_between(a, b)?.walk().map_err(unreadable(a))?;
        let mut at = 0;
        while let Some(part) = walk.next(at).map_err(unreadable(a))? {
            at = part.end;
            tell(part)?;
        }
        Ok(())
    }

    /// Writes the contents of an image or a snapshot. `path` is where they go, for people.
    ///
    /// # Errors
    /// A sentence; that of `progress`.
    pub fn export_raw<W: Write>(
        &self,
        node: &NodeName,
        (path, out): (&Path, &mut RawOutput<'_, W>),
        progress: OnProgress<'_>,
    ) -> Result<(), StoreError> {
        let mut whole = self.whole(node)?;
        if let RawOutput::Sparse(file) = out {
            file.set_len(whole.size()).map_err(StoreError::named("write", path))?;
        }
        let all = 0..whole.size();
        contents(&mut whole, node, all, &mut |bytes, at| {
            out.put(bytes).map_err(StoreError::named("write", path))?;
            progress(at)
        })?;
        out.finish().map_err(StoreError::named("write", path))
    }

    /// Writes what makes a snapshot of an older one, or of nothing.
    ///
    /// # Errors
    /// A sentence, above all that what has changed cannot be known; that of `progress`.
    pub fn export_delta(
        &self,
        from: Option<&NodeName>,
        to: &NodeName,
        (path, out): (&Path, &mut dyn Write),
        progress: OnProgress<'_>,
    ) -> Result<(), StoreError> {
        let (mut whole, head) = (self.whole(to)?, self.delta_head(from, to)?);
        let mut walk = match from {
            None => None,
            Some(from) => Some(self.changes_between(from, to)?.walk().map_err(unreadable(to))?),
        };
        let at_path = |result: io::Result<()>| result.map_err(StoreError::named("write", path));
        let mut writer = DeltaWriter::begin(out, &head).map_err(StoreError::named("write", path))?;
        let (mut at, size) = (0, whole.size());
        while at < size {
            let part = match &mut walk {
                None => 0..size,
                Some(walk) => match walk.next(at).map_err(unreadable(to))? {
                    Some(part) => part,
                    None => break,
                },
            };
            // Whole blocks, of which some may be in the part before.
            let part =
                (part.start / MAP_BLOCK * MAP_BLOCK).max(at)..part.end.next_multiple_of(MAP_BLOCK).min(size);
            at = part.end.max(at);
            contents(&mut whole, to, part, &mut |bytes, at| {
                match bytes {
                    NodeBytes::Data { offset, bytes } => at_path(writer.data(offset, bytes))?,
                    NodeBytes::Zeroes { .. } if from.is_none() => {}
                    NodeBytes::Zeroes { offset, length } => at_path(writer.zeroes(offset, length))?,
                }
                progress(at)
            })?;
        }
        progress(size)?;
        writer.end().map(drop).map_err(StoreError::named("write", path))
    }

    fn delta_head(&self, from: Option<&NodeName>, to: &NodeName) -> Result<DeltaHead, StoreError> {
        let row = |node: &NodeName| {
            let name = node.snapshot.as_ref().ok_or_else(|| NameError::NotASnapshot(node.to_string()))?;
            self.snapshot_row(&node.image, name)
        };
        let (older, newer) = (from.map(row).transpose()?, row(to)?);
        Ok(DeltaHead {
            store: self.header().store,
            image: newer.image.0,
            from: older.map(|row| row.id.0),
            to: newer.id.0,
            from_size: older.map_or(0, |row| row.size),
            to_size: newer.size,
            created_s: now_s(),
            name: newer.name.to_string(),
        })
    }

    /// The uuid of a snapshot.
    ///
    /// # Errors
    /// It is missing, or no snapshot.
    pub fn snapshot_uuid(&self, node: &NodeName) -> Result<Uuid, StoreError> {
        self.delta_head(None, node).map(|head| head.to)
    }
}

fn unreadable(node: &NodeName) -> impl Fn(MapFileError) -> StoreError {
    move |error| StoreError::Unreadable { node: node.to_string(), why: error.to_string() }
}

/// Reads a range, and gives it away part by part, with how far that is.
fn contents(
    whole: &mut WholeNode,
    node: &NodeName,
    range: Range<u64>,
    put: &mut dyn FnMut(NodeBytes<'_>, u64) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let unreadable = unreadable(node);
    let mut piece = vec![0; PIECE as usize];
    let mut at = range.start;
    while at < range.end {
        let part = whole.part(at, range.end.min(at + STEP)).map_err(&unreadable)?;
        // The last block of it may be one of data too.
        let end = if part.end == range.end { part.end } else { part.end / MAP_BLOCK * MAP_BLOCK };
        if !part.has_data && end > at {
            put(NodeBytes::Zeroes { offset: at, length: end - at }, end)?;
            at = end;
            continue;
        }
        let length = range.end.min(part.end.next_multiple_of(MAP_BLOCK)).min(at + PIECE) - at;
        let piece = &mut piece[..length as usize];
        whole.fill(at, piece).map_err(&unreadable)?;
        for (is_zero, run) in runs(piece) {
            let (offset, end) = (at + run.start as u64, at + run.end as u64);
            let bytes = match is_zero {
                true => NodeBytes::Zeroes { offset, length: end - offset },
                false => NodeBytes::Data { offset, bytes: &piece[run] },
            };
            put(bytes, end)?;
        }
        at += length;
    }
    Ok(())
}

/// Blocks side by side that are all zero, or all not.
fn runs(piece: &[u8]) -> Vec<(bool, Range<usize>)> {
    let mut runs: Vec<(bool, Range<usize>)> = Vec::new();
    let mut at = 0;
    for block in piece.chunks(MAP_BLOCK as usize) {
        let (is_zero, end) = (is_zero(block), at + block.len());
        match runs.last_mut() {
            Some((last, run)) if *last == is_zero => run.end = end,
            _ => runs.push((is_zero, at..end)),
        }
        at = end;
    }
    runs
}
