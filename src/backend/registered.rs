//! Places among the ring's registered files.

use std::os::fd::AsFd;

use crate::ring::{FileIndex, Ring};

/// Places among the ring's files, which are given back.
pub(super) struct Registered {
    ring: Ring,
    files: Vec<FileIndex>,
}

impl Registered {
    pub(super) fn new(ring: &Ring) -> Self {
        Self { ring: ring.clone(), files: Vec::new() }
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    pub(super) fn add(&mut self, file: &std::fs::File) -> std::io::Result<FileIndex> {
        let index = self.ring.register_file(file.as_fd())?;
        self.files.push(index);
        Ok(index)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.files.iter().for_each(|&file| self.ring.release_file(file));
    }
}
