//! Words of a file in memory, which outlive this process.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Mapping;

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// The first words of a file on a file system in memory, mapped so that a store is seen by whoever reads the
/// file later. Only those may be touched that the file has blocks for: any other ends the process.
#[derive(Debug)]
pub(crate) struct SharedWords {
    mapping: Mapping,
}

// SAFETY: the words are accessed as atomics, and in no other way.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps `words` words, whatever the length of the file is now.
    ///
    /// # Errors
    /// The kernel's, mostly `ENOMEM`.
    pub(crate) fn map(file: &File, words: usize) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let (length, access) = (words * WORD, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe { mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, file, 0)? };
        Ok(Self { mapping: Mapping { address: address.cast(), length } })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.mapping.length() / WORD, "beyond the words");
        // SAFETY: it is within the mapping, which lives as long as `self`, is whole pages, and is accessed as
        // atomics only. Every bit pattern is a word.
        unsafe { AtomicU64::from_ptr(self.mapping.address().cast::<u64>().add(index)) }
    }

    /// What was stored before is seen by everybody who sees this.
    pub(crate) fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "the interpreter maps no files")]
    fn what_is_stored_is_in_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        // More than the file has: it may grow later.
        let words = SharedWords::map(&file, 4096).unwrap();
        words.store(511, 9);
        file.set_len(8192).unwrap();
        words.store(512, 10);
        let mut bytes = [0; 16];
        file.read_exact_at(&mut bytes, 511 * 8).unwrap();
        assert_eq!(bytes, [9_u64.to_ne_bytes(), 10_u64.to_ne_bytes()].concat()[..]);
        assert!(std::panic::catch_unwind(|| words.store(4096, 1)).is_err());
    }
}
