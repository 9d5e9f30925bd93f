//! A raw file copied into the data of a layer. Holes stay holes, and zeroes are left out.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::file_changes::write_all_at;

/// A block of a map.
pub const MAP_BLOCK: u64 = 4096;
/// Bytes that are read at once.
const PIECE: usize = 1 << 20;
/// Runs that are kept apart; then near ones are joined, so that memory has a bound.
const MOST_RUNS: usize = 1 << 16;

/// Blocks of a disk, side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSpan {
    pub start: u64,
    pub blocks: u64,
}

impl BlockSpan {
    const fn end(self) -> u64 {
        self.start + self.blocks
    }
}

/// Which blocks hold data, in order. Of very many runs near ones are joined: a block between them that was
/// never written reads as zeroes from the file too.
#[derive(Debug, Default)]
pub struct CopiedBlocks {
    runs: Vec<BlockSpan>,
    /// Runs with at most so many blocks between them are one.
    gap: u64,
}

impl CopiedBlocks {
    #[must_use]
    pub fn runs(&self) -> &[BlockSpan] {
        &self.runs
    }

    /// Blocks behind all those that were added before.
    fn add(&mut self, span: BlockSpan) {
        match self.runs.last_mut() {
            Some(last) if span.start - last.end() <= self.gap => last.blocks = span.end() - last.start,
            _ => self.runs.push(span),
        }
        while self.runs.len() > MOST_RUNS {
            self.gap = (self.gap * 2).max(8);
            let runs = std::mem::take(&mut self.runs);
            runs.into_iter().for_each(|run| self.add(run));
        }
    }
}

/// Copies the first `size` bytes of a file. `progress` is told how far it is, and ends the copy by its error.
///
/// # Errors
/// The file system's, or what `progress` says.
pub fn copy_sparse<E: From<io::Error>>(
    source: &File,
    size: u64,
    data: &File,
    mut progress: impl FnMut(u64) -> Result<(), E>,
) -> Result<CopiedBlocks, E> {
    let mut copied = CopiedBlocks::default();
    read_sparse(source, size, |at, piece| -> Result<(), E> {
        progress(at)?;
        Ok(write_data(piece, at, data, &mut copied)?)
    })?;
    progress(size)?;
    Ok(copied)
}

/// Reads what is no hole of the first `size` bytes of a file, a MiB at most at a time, each from the
/// beginning of a block on.
///
/// # Errors
/// The file system's, or what `take` says.
pub fn read_sparse<E: From<io::Error>>(
    source: &File,
    size: u64,
    mut take: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while let Some((start, end)) = next_data(source, at, size)? {
        // Holes end where the file system says, and blocks are whole.
        at = start / MAP_BLOCK * MAP_BLOCK;
        while at < end {
            let length = PIECE.min(usize::try_from(size - at).unwrap_or(PIECE));
            source.read_exact_at(&mut piece[..length], at)?;
            take(at, &piece[..length])?;
            at += length as u64;
        }
    }
    Ok(())
}

/// Writes what is not zero of a piece that begins with a block.
pub(super) fn write_data(piece: &[u8], at: u64, data: &File, copied: &mut CopiedBlocks) -> io::Result<()> {
    for run in runs_of_data(piece) {
        let (first, end) = (run.start as u64 / MAP_BLOCK, (run.end as u64).div_ceil(MAP_BLOCK));
        write_all_at(data, &piece[run.clone()], at + run.start as u64)?;
        copied.add(BlockSpan { start: at / MAP_BLOCK + first, blocks: end - first });
    }
    Ok(())
}

/// Where a piece, which begins with a block, is not zero: whole blocks but at its end.
pub fn runs_of_data(piece: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut blocks = piece.chunks(MAP_BLOCK as usize).map(is_zero).enumerate().peekable();
    std::iter::from_fn(move || {
        let (first, _) = blocks.find(|(_, zero)| !zero)?;
        let mut end = first + 1;
        while blocks.next_if(|(_, zero)| !zero).is_some() {
            end += 1;
        }
        Some(first * MAP_BLOCK as usize..(end * MAP_BLOCK as usize).min(piece.len()))
    })
}

pub(super) fn is_zero(block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// The next part from `at` on that is no hole; a file system without holes has one part.
pub(super) fn next_data(file: &File, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))),
        Err(error) => return Err(error.into()),
    };
    let end = match seek(file, SeekFrom::Hole(start)) {
        Ok(end) => end,
        Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => size,
        Err(error) => return Err(error.into()),
    };
    // A file that changes meanwhile may say anything.
    let end = end.min(size);
    Ok((start.max(at) < end).then_some((start.max(at), end)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    fn copy(bytes: &[u8], holes_at_end: u64) -> (Vec<u8>, Vec<BlockSpan>, u64) {
        let (source, data) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        for (block, at) in bytes.chunks(4096).zip((0..).step_by(4096)) {
            if block[0] != 2 {
                source.write_all_at(block, at).unwrap();
            }
        }
        let size = bytes.len() as u64 + holes_at_end;
        source.set_len(size).unwrap();
        data.set_len(size).unwrap();
        let mut last = 0;
        let progress = |at: u64| {
            assert!(at >= last);
            last = at;
            Ok::<_, io::Error>(())
        };
        let copied = copy_sparse(&source, size, &data, progress).unwrap();
        assert_eq!(last, size);
        let mut read = vec![0; size as usize];
        data.read_exact_at(&mut read, 0).unwrap();
        let mut expected = vec![0; size as usize];
        source.read_exact_at(&mut expected, 0).unwrap();
        assert!(read == expected, "the copy is another");
        (read, copied.runs().to_vec(), data.metadata().unwrap().blocks() * 512)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        /// Blocks of data, of zeroes and holes, in any order, with any length at the end.
        #[test]
        fn what_is_not_zero_is_copied_and_told(
            kinds in proptest::collection::vec(0..3u8, 1..600),
            short in 0..4096usize,
        ) {
            let mut bytes: Vec<u8> = Vec::new();
            for kind in &kinds {
                bytes.extend([[0; 4096], [1; 4096], [2; 4096]][usize::from(*kind)]);
            }
            bytes.truncate(bytes.len() - short);
            let (_, runs, _) = copy(&bytes, 0);
            let mut told = vec![false; kinds.len()];
            let mut end = None;
            for run in runs {
                prop_assert!(run.blocks > 0 && end.is_none_or(|end| run.start > end), "runs are apart and in order");
                end = Some(run.end());
                told[run.start as usize..run.end() as usize].fill(true);
            }
            let expected: Vec<bool> = kinds.iter().map(|kind| *kind == 1).collect();
            prop_assert_eq!(told, expected);
        }
    }

    #[test]
    fn zeroes_and_holes_take_no_space() {
        let (_, runs, space) = copy(&vec![0; 8 << 20], 64 << 20);
        assert_eq!((runs.len(), space), (0, 0));
    }

    #[test]
    fn runs_are_bounded() {
        let mut copied = CopiedBlocks::default();
        for number in 0..MOST_RUNS as u64 * 4 {
            copied.add(BlockSpan { start: number * 3, blocks: 1 });
        }
        assert!(copied.runs().len() <= MOST_RUNS);
        let covered: u64 = copied.runs().iter().map(|run| run.blocks).sum();
        assert!(covered >= MOST_RUNS as u64 * 4);
        assert_eq!(copied.runs().last().unwrap().end(), (MOST_RUNS as u64 * 4 - 1) * 3 + 1);
    }
}
