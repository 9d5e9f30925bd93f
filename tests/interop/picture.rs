//! Disk contents made from a seed: the tests' oracle.

use ringnbd::internal::random::Random;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::image;

/// What a disk should hold, byte for byte, and where it has holes.
pub(crate) struct Picture {
    /// Number it was made from; printed, so that a failing test can be run again with `RINGNBD_SEED`.
    pub(crate) seed: u64,
    /// The contents.
    pub(crate) bytes: Vec<u8>,
    /// Where it has data; all else is holes, which read as zeros.
    pub(crate) data: Vec<Range<usize>>,
}

/// Granularity of data and holes: larger than any file system block.
const GRAIN: usize = 64 << 10;

impl Picture {
    /// A picture of `size` bytes, half data and half holes, in runs of 64 KiB to 1 MiB. Ends amid a 64 KiB grain
    /// but on a sector when `size` does.
    pub(crate) fn sparse(size: usize) -> Picture {
        let seed = seed();
        let mut random = Random::new(seed);
        let (mut bytes, mut data, mut at, mut is_data) = (vec![0; size], Vec::new(), 0, true);
        while at < size {
            let end = size.min(at + GRAIN * (1 + random.below(16) as usize));
            if is_data {
                bytes[at..end].copy_from_slice(&image::pattern(seed >> 40, at as u64, end - at));
                data.push(at..end);
            }
            (at, is_data) = (end, !is_data);
        }
        Picture { seed, bytes, data }
    }

    /// A picture without holes.
    pub(crate) fn full(size: usize) -> Picture {
        let seed = seed();
        let whole = 0..size;
        Picture { seed, bytes: image::pattern(seed >> 40, 0, size), data: vec![whole] }
    }

    /// Bytes of data.
    pub(crate) fn allocated(&self) -> u64 {
        self.data.iter().map(|range| range.len() as u64).sum()
    }

    /// The holes between the data.
    pub(crate) fn holes(&self) -> Vec<Range<usize>> {
        let starts = self.data.iter().map(|range| range.start).chain([self.bytes.len()]);
        let ends = [0].into_iter().chain(self.data.iter().map(|range| range.end));
        ends.zip(starts).map(|(end, start)| end..start).filter(|hole| !hole.is_empty()).collect()
    }

    /// Writes it to `path` as a sparse file.
    pub(crate) fn save(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.bytes.len() as u64).unwrap();
        for range in &self.data {
            file.write_all_at(&self.bytes[range.clone()], range.start as u64).unwrap();
        }
        // Delayed allocation would make st_blocks lie for some seconds.
        file.sync_all().unwrap();
    }

    /// Panics, naming the first difference, when `found` is something else.
    #[track_caller]
    pub(crate) fn assert_is(&self, found: &[u8], what: &str) {
        assert_same(&self.bytes, found, what);
    }
}

/// Panics, naming the first difference, when two disks are not the same.
#[track_caller]
pub(crate) fn assert_same(expected: &[u8], found: &[u8], what: &str) {
    assert_eq!(expected.len(), found.len(), "{what}: size");
    if let Some(at) = expected.iter().zip(found).position(|(a, b)| a != b) {
        let count = expected.iter().zip(found).filter(|(a, b)| a != b).count();
        let end = expected.len().min(at + 16);
        panic!(
            "{what}: {count} bytes differ, the first at {at:#x}: expected {:02x?}, found {:02x?}",
            &expected[at..end],
            &found[at..end]
        );
    }
}

/// A fresh seed, or the one in `RINGNBD_SEED`; printed, so that it stands beside the failure.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("RINGNBD_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        Random::new(now ^ u64::from(std::process::id()) << 32).number()
    });
    println!("RINGNBD_SEED={seed}");
    seed
}
