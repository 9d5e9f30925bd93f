//! A file whose power can be cut.

use std::collections::BTreeMap;

use crate::random::Random;
use crate::store::map::FileWrite;

pub(super) const SECTOR: usize = 512;

/// What is durable, and writes that no sync has covered.
#[derive(Clone, Default)]
pub(super) struct CutFile {
    durable: Sectors,
    unsynced: Vec<FileWrite>,
}

/// Sectors by number. The file is sparse: those that are not there are zero.
type Sectors = BTreeMap<usize, [u8; SECTOR]>;

fn sectors(write: &FileWrite) -> impl Iterator<Item = (usize, [u8; SECTOR])> + '_ {
    let (sectors, rest) = write.bytes.as_chunks();
    assert!(rest.is_empty() && (write.offset as usize).is_multiple_of(SECTOR), "whole sectors are written");
    (write.offset as usize / SECTOR..).zip(sectors.iter().copied())
}

impl CutFile {
    pub(super) fn write(&mut self, write: &FileWrite) {
        self.unsynced.push(write.clone());
    }

    /// Makes every write durable.
    pub(super) fn sync(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            self.durable.extend(sectors(&write));
        }
    }

    /// Makes one write durable, if it is not yet, and leaves the others: what a write with `RWF_DSYNC` does
    /// at least.
    pub(super) fn sync_only(&mut self, write: &FileWrite) {
        if let Some(place) = self.unsynced.iter().rposition(|unsynced| unsynced == write) {
            let write = self.unsynced.remove(place);
            self.durable.extend(sectors(&write));
        }
    }

    /// What a reader of the running file sees.
    pub(super) fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let (first, end) = (offset / SECTOR, (offset + length).div_ceil(SECTOR));
        let durable = self.durable.range(first..end).map(|(sector, bytes)| (*sector, *bytes));
        let unsynced = self.unsynced.iter().flat_map(sectors);
        let mut bytes = vec![0; (end - first) * SECTOR];
        for (sector, new) in durable.chain(unsynced).filter(|(sector, _)| (first..end).contains(sector)) {
            bytes[(sector - first) * SECTOR..][..SECTOR].copy_from_slice(&new);
        }
        bytes[offset % SECTOR..][..length].to_vec()
    }

    /// The file after a cut: each sector of an unsynced write is there or not. Some cuts keep or lose all of
    /// a write, because that is what bugs of order need.
    pub(super) fn cut(&self, random: &mut Random) -> Self {
        let mut durable = self.durable.clone();
        let odds = random.pick(&[0.0, 0.2, 0.5, 0.8, 1.0]);
        let by_write = random.chance(0.5);
        for write in &self.unsynced {
            let is_kept = random.chance(odds);
            durable.extend(sectors(write).filter(|_| if by_write { is_kept } else { random.chance(odds) }));
        }
        Self { durable, unsynced: Vec::new() }
    }

    /// Sectors that have anything but zeroes.
    pub(super) fn used_sectors(&self) -> Vec<usize> {
        let used = self.durable.iter().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0));
        used.map(|(sector, _)| *sector).collect()
    }

    /// Flips a bit of what is durable.
    pub(super) fn flip(&mut self, bit: usize) {
        let byte = bit / 8;
        self.durable.entry(byte / SECTOR).or_insert([0; SECTOR])[byte % SECTOR] ^= 1 << (bit % 8);
    }
}
