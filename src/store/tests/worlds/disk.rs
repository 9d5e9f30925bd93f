//! What disks of a world have: a number for each block, which stands for its contents.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::store::copy::MAP_BLOCK;

pub(super) const BLOCK: usize = MAP_BLOCK as usize;
const SECTOR: usize = 512;
/// Contents that writes bring, by their numbers up to here; 0 is zeroes.
pub(super) const WRITTEN: usize = 9;
/// Those that bases have.
pub(super) const OF_BASE: Range<usize> = WRITTEN..12;

/// A number for each block.
pub(super) type Disk = Vec<usize>;
/// All images and snapshots.
pub(super) type Disks = BTreeMap<String, Disk>;

/// The contents by their numbers.
#[derive(Debug)]
pub(super) struct Contents(Vec<Vec<u8>>);

impl Contents {
    pub(super) fn new() -> Self {
        let all = (0..OF_BASE.end).map(|number| {
            let mut bytes = vec![number as u8; BLOCK];
            // Half of them cannot be compressed.
            if number % 2 == 1 {
                blake3::Hasher::new().update(&bytes).finalize_xof().fill(&mut bytes);
            }
            bytes
        });
        Self(all.collect())
    }

    pub(super) fn bytes(&self, number: usize) -> &[u8] {
        &self.0[number]
    }

    /// The disk that these bytes are, if they can be it: of blocks that were being written each sector is as
    /// it was or as it was to be.
    pub(super) fn found(
        &mut self,
        bytes: &[u8],
        disk: &Disk,
        doubtful: Option<(&Range<usize>, usize)>,
    ) -> Result<Disk, String> {
        if bytes.len() != disk.len() * BLOCK {
            return Err(format!("{} bytes instead of {} blocks", bytes.len(), disk.len()));
        }
        let mut found = disk.clone();
        for (block, bytes) in bytes.chunks(BLOCK).enumerate() {
            let was = disk[block];
            let becomes = doubtful.filter(|(range, _)| range.contains(&block)).map(|(_, number)| number);
            if self.0[was] == bytes {
                continue;
            }
            let Some(becomes) = becomes else {
                let other = self.0.iter().position(|other| other == bytes);
                return Err(format!("block {block} is {other:?} instead of {was}"));
            };
            found[block] = if self.0[becomes] == bytes { becomes } else { self.torn(bytes, was, becomes)? };
        }
        Ok(found)
    }

    fn torn(&mut self, bytes: &[u8], was: usize, becomes: usize) -> Result<usize, String> {
        for (sector, bytes) in bytes.chunks(SECTOR).enumerate() {
            let at = sector * SECTOR..(sector + 1) * SECTOR;
            if self.0[was][at.clone()] != *bytes && self.0[becomes][at] != *bytes {
                return Err(format!("sector {sector} of a block is neither as in {was} nor as in {becomes}"));
            }
        }
        self.0.push(bytes.to_vec());
        Ok(self.0.len() - 1)
    }
}
