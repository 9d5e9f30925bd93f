//! The file of a pack past the page cache: what is verified is what the medium has.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use super::PAGE;
use super::file::{PackFile, forget_cached};

/// A file that is only read.
#[derive(Debug)]
pub(crate) struct UncachedFile {
    file: File,
    /// It was opened with `O_DIRECT`. Otherwise the cache is asked to forget what is read.
    is_direct: bool,
}

impl UncachedFile {
    /// A file that was opened with `O_DIRECT`, or another one where that is not possible.
    pub(crate) fn new(direct: Option<File>, other: impl FnOnce() -> io::Result<File>) -> io::Result<Self> {
        if let Some(file) = direct {
            let direct = Self { file, is_direct: true };
            // Some file systems open such a file, and do not read it.
            match direct.read(&mut [0; 1], 0) {
                Err(error) if error.kind() == ErrorKind::InvalidInput => {}
                _ => return Ok(direct),
            }
        }
        Ok(Self { file: other()?, is_direct: false })
    }
}

impl PackFile for UncachedFile {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    /// Whole pages are read, into memory that begins with one: `O_DIRECT` wants both.
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let start = offset / PAGE * PAGE;
        let skipped = (offset - start) as usize;
        let wanted = skipped + bytes.len();
        let length = wanted.next_multiple_of(PAGE as usize);
        let mut room = vec![0; length + PAGE as usize];
        let first = room.as_ptr().align_offset(PAGE as usize).min(PAGE as usize);
        let room = &mut room[first..first + length];
        if !self.is_direct {
            forget_cached(&self.file, start, length as u64);
        }
        let mut done = 0;
        while done < wanted {
            match self.file.read_at(&mut room[done..], start + done as u64) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(moved) => done += moved,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // Such a read ends within a page at the end of the file only, and cannot go on there.
            if self.is_direct && done < wanted && !done.is_multiple_of(PAGE as usize) {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        bytes.copy_from_slice(&room[skipped..wanted]);
        Ok(())
    }

    fn write(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn set_length(&self, _length: u64) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Oracle: the bytes that were written.
        #[test]
        fn any_part_is_read_with_and_without_the_cache(
            length in 0..20_000usize,
            offset in 0..20_000u64,
            wanted in 0..20_000usize,
        ) {
            let mut named = tempfile::NamedTempFile::new().unwrap();
            let written: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
            named.write_all(&written).unwrap();
            let plain = || File::open(named.path());
            let direct = File::options().read(true).custom_flags(libc::O_DIRECT).open(named.path()).ok();
            for direct in [direct, None] {
                let file = UncachedFile::new(direct, plain).unwrap();
                let mut found = vec![0; wanted];
                let result = file.read(&mut found, offset);
                match written.get(offset as usize..).and_then(|rest| rest.get(..wanted)) {
                    Some(expected) => {
                        prop_assert!(result.is_ok());
                        prop_assert_eq!(found, expected);
                    }
                    None => prop_assert!(result.is_err()),
                }
            }
        }
    }
}
