//! Places among the ring's registered files.

use std::os::fd::AsFd;

use crate::ring::{FileIndex, Ring};

/// Places among the ring's files, which are given back when nothing that was queued needs them.
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
        self.files.iter().for_each(|&file| self.ring.release_file_when_idle(file));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::backend::testing::context_with;
    use crate::ring::{Operation, Owner, RingOptions, Wait};

    /// Rule 21: what was queued reads the file that it was queued for, although its place is given back.
    #[test]
    fn a_place_is_given_to_nobody_while_something_that_was_queued_names_it() {
        let context = context_with(&RingOptions { files: 2, ..RingOptions::small() });
        let ring = &context.ring;
        let file = |byte: u8| {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&[byte; 4096], 0).unwrap();
            file
        };
        let mut first = Registered::new(ring);
        let index = first.add(&file(1)).unwrap();
        let lease = context.pool.lend(4096).unwrap();
        let read =
            Operation::Read { file: index, offset: 0, lease, start: 0, length: 4096, in_worker: false };
        ring.push(read, Owner::Request(7));
        drop(first);
        let mut second = Registered::new(ring);
        assert_ne!(second.add(&file(2)).unwrap(), index);
        assert!(second.add(&file(3)).is_err(), "there are two places");
        let mut events = Vec::new();
        while events.is_empty() {
            ring.submit_and_reap(Wait::Forever, 8, &mut events);
        }
        let finished = ring.collect(events.pop().unwrap());
        assert_eq!(finished.result, Ok(4096));
        let Operation::Read { lease, .. } = finished.operation else { panic!("it was a read") };
        assert!(lease.bytes(0..4096).iter().all(|byte| *byte == 1));
        assert_eq!(ring.registered_files(), 2);
        ring.submit_and_reap(Wait::No, 8, &mut events);
        assert_eq!(ring.registered_files(), 1);
    }
}
