//! The file of a pack that is being written: small parts are gathered, and written in large pieces that begin
//! at multiples of their size.
//!
//! The page cache keeps what was written in folios that are no larger than the write they came from, and
//! begin at multiples of their size. A read looks one up for each folio that it touches, so a file that was
//! written in pieces of 64 KiB from byte 4,096 on costs more to read, and more to write, than one that was
//! written like this.
//!
//! While nobody else needs the processors a second thread writes ([`AsideWriter`]).

use std::io;
use std::sync::Arc;

use super::aside::{AsideTime, AsideWriter, FilePiece};
use super::file::PackFile;
use crate::store::step_sizes::step_sizes;

/// Bytes that go to the medium while the next ones are gathered: otherwise the medium has nothing to do
/// until the pack is complete, and the writer nothing until it is durable.
const WRITEBACK_PIECE: u64 = 8 << 20;

/// A file, and what it is to have behind the last piece that was written.
#[derive(Debug)]
pub(super) struct GatheredFile<F> {
    file: F,
    /// From `start` on. Fewer than a piece, but within a call.
    gathered: Vec<u8>,
    /// All in front of it was written, or was handed to the other thread.
    start: u64,
    /// What is in front of it was told to go to the medium.
    on_its_way: u64,
    piece_bytes: usize,
    aside: Option<AsideWriter>,
}

impl<F: PackFile> GatheredFile<F> {
    /// A file that is empty.
    pub(super) fn new(file: F) -> Self {
        let piece_bytes = step_sizes().piece_bytes;
        Self { file, gathered: Vec::new(), start: 0, on_its_way: 0, piece_bytes, aside: None }
    }

    const fn end(&self) -> u64 {
        self.start + self.gathered.len() as u64
    }

    #[cfg(test)]
    pub(super) const fn gathered_bytes(&self) -> usize {
        self.gathered.capacity()
    }

    /// Appends bytes at an offset that is not in front of the end. Between them are zeroes. When it fails all
    /// is as it was, but for bytes of the file behind the end.
    pub(super) fn append(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(aside) = &mut self.aside {
            aside.check()?;
        }
        let before = self.gathered.len();
        let whole = before + (offset - self.end()) as usize + bytes.len();
        self.gathered.reserve_exact(whole.max(self.piece_bytes) - before);
        self.gathered.resize(whole - bytes.len(), 0);
        self.gathered.extend_from_slice(bytes);
        let written = self.write_pieces();
        if written.is_err() {
            self.gathered.truncate(before);
        }
        written
    }

    /// Writes what is gathered of whole pieces.
    fn write_pieces(&mut self) -> io::Result<()> {
        let whole = self.gathered.len() / self.piece_bytes * self.piece_bytes;
        if whole == 0 {
            return Ok(());
        }
        let offset = self.start;
        let end = offset + whole as u64;
        let is_enough = end - self.on_its_way >= WRITEBACK_PIECE;
        let begun = is_enough.then_some(self.on_its_way..end);
        match &mut self.aside {
            None => {
                self.file.write(&self.gathered[..whole], offset)?;
                if let Some(range) = begun.clone() {
                    self.file.begin_writeback(range);
                }
                self.gathered.drain(..whole);
            }
            Some(aside) => {
                let mut rest = aside.spare();
                rest.extend_from_slice(&self.gathered[whole..]);
                self.gathered.truncate(whole);
                let bytes = std::mem::replace(&mut self.gathered, rest);
                aside.write(FilePiece { bytes, offset, begun: begun.clone() });
            }
        }
        self.start = end;
        self.on_its_way = begun.map_or(self.on_its_way, |range| range.end);
        Ok(())
    }

    /// Reads what was appended.
    pub(super) fn read(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.settle()?;
        let written = self.start.saturating_sub(offset).min(bytes.len() as u64) as usize;
        let (of_file, of_memory) = bytes.split_at_mut(written);
        if written > 0 {
            self.file.read(of_file, offset)?;
        }
        let first = (offset + written as u64).saturating_sub(self.start) as usize;
        let found = self.gathered.get(first..first + of_memory.len());
        of_memory.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    /// Another thread writes from now on, if there is one, and notes the time that it takes; or none does.
    pub(super) fn write_aside(&mut self, time: Option<&Arc<AsideTime>>) {
        match time {
            None => self.end_aside(),
            Some(_) if self.aside.is_some() => {}
            Some(time) => {
                self.aside = self.file.aside().and_then(|file| AsideWriter::start(file, Arc::clone(time)));
            }
        }
    }

    fn end_aside(&mut self) {
        // A failure must not be forgotten.
        if self.settle().is_ok() {
            self.aside = None;
        }
    }

    /// Waits until no other thread writes.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        match &mut self.aside {
            Some(aside) => {
                aside.wait();
                aside.check()
            }
            None => Ok(()),
        }
    }

    /// Gives the file back, which has all that was appended and nothing behind it. Nothing is durable yet.
    pub(super) fn finish(mut self) -> io::Result<F> {
        self.settle()?;
        if !self.gathered.is_empty() {
            self.file.write(&self.gathered, self.start)?;
        }
        // A write that failed may have left a part of itself.
        self.file.set_length(self.end())?;
        Ok(self.file)
    }
}
