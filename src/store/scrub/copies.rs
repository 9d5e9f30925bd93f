//! Looks for chunks of disks in files that may have them: at each multiple of a chunk's size.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};

use crate::store::copy::next_data;
use crate::store::error::StoreError;

/// A file that may have copies of chunks.
pub(super) struct CopySource {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) length: u64,
}

impl CopySource {
    /// A file or a device.
    pub(super) fn of_path(path: &Path) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(StoreError::named("open", path))?;
        let length = seek(&file, SeekFrom::End(0)).map_err(StoreError::named("read", path))?;
        Ok(Self { path: path.to_owned(), file, length })
    }
}

/// The files that a user has named.
pub(super) fn copies(paths: &[PathBuf]) -> Result<Vec<CopySource>, StoreError> {
    paths.iter().map(|path| CopySource::of_path(path)).collect()
}

/// Hands each chunk of a file on that is no hole, as it would be stored: one at the end of the file is
/// filled up with zeroes. `take` says whether more is wanted.
pub(super) fn each_chunk<E: From<io::Error>>(
    file: &File,
    length: u64,
    chunk_bytes: u32,
    mut take: impl FnMut(&[u8]) -> Result<bool, E>,
) -> Result<(), E> {
    let bytes = u64::from(chunk_bytes);
    let mut chunk = vec![0; chunk_bytes as usize];
    let mut at = 0;
    while let Some((start, end)) = next_data(file, at, length)? {
        at = (start / bytes * bytes).max(at);
        while at < end {
            let filled = read_up_to(file, &mut chunk, at)?;
            chunk[filled..].fill(0);
            if !take(&chunk)? {
                return Ok(());
            }
            at += bytes;
        }
    }
    Ok(())
}

/// Reads as much as there is.
fn read_up_to(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], at + done as u64) {
            Ok(0) => break,
            Ok(moved) => done += moved,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole_and_holes_are_left_out() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 100], 5000).unwrap();
        file.write_all_at(&[2; 10], (1 << 20) + 4096).unwrap();
        let length = file.metadata().unwrap().len();
        let mut found = Vec::new();
        let take = |chunk: &[u8]| {
            found.push(chunk.to_vec());
            Ok::<_, io::Error>(true)
        };
        each_chunk(&file, length, 4096, take).unwrap();
        let full: Vec<_> = found.iter().filter(|chunk| chunk.iter().any(|byte| *byte != 0)).collect();
        assert_eq!(full.len(), 2);
        assert_eq!((full[0][904], full[0][1003], full[1][0], full[1][10]), (1, 1, 2, 0));
        assert!(found.iter().all(|chunk| chunk.len() == 4096) && found.len() < 100);
        let mut asked = 0;
        let once = |_: &[u8]| {
            asked += 1;
            Ok::<_, io::Error>(false)
        };
        each_chunk(&file, length, 4096, once).unwrap();
        assert_eq!(asked, 1);
    }
}
