//! The log that the kernel's dm-log-writes keeps of a device, and disks made of it: what a power cut at a point of it may leave.
//!
//! The format is told in the kernel's `Documentation/admin-guide/device-mapper/log-writes.rst` and the head of
//! `drivers/md/dm-log-writes.c`. A write stands in the log when a flush covered it, or, if it went through the cache (FUA), when it was
//! done. So at any point all that stands before it is on the disk, and the plain writes up to the next flush are those that may be.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::content::{Dice, SECTOR};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1 << 0;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// An entry.
pub(crate) struct Entry {
    /// Where it was written, in bytes.
    offset: u64,
    length: u64,
    flags: u64,
    data: Vec<u8>,
}

impl Entry {
    /// The label of a mark.
    pub(crate) fn mark(&self) -> Option<&str> {
        (self.flags & MARK != 0).then(|| std::str::from_utf8(&self.data).expect("a label is text"))
    }

    /// Whether all before it is on the disk because of it.
    pub(crate) fn is_flush(&self) -> bool {
        self.flags & FLUSH != 0
    }

    /// Whether it may be lost when the power is cut before the next flush.
    fn is_plain(&self) -> bool {
        self.flags & (FLUSH | FUA | MARK) == 0
    }

    /// Does it again, for the sectors that `keeps` names.
    fn apply(&self, disk: &mut [u8], mut keeps: impl FnMut() -> bool) {
        let range = self.offset as usize..(self.offset + self.length) as usize;
        for (index, sector) in disk[range].chunks_mut(SECTOR).enumerate() {
            if !keeps() {
                continue;
            }
            match self.flags & DISCARD != 0 {
                true => sector.fill(0),
                false => sector.copy_from_slice(&self.data[index * SECTOR..][..SECTOR]),
            }
        }
    }
}

/// Reads the log on a device.
pub(crate) fn read(path: &Path) -> Vec<Entry> {
    let file = File::open(path).expect("open the log");
    let bytes = |at: u64, length: usize| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, at).expect("read the log");
        bytes
    };
    let word = |bytes: &[u8], index: usize| {
        u64::from_le_bytes(bytes[8 * index..8 * index + 8].try_into().expect("eight bytes"))
    };
    let head = bytes(0, SECTOR);
    assert_eq!((word(&head, 0), word(&head, 1)), (MAGIC, 1), "a log of version 1");
    assert_eq!(word(&head, 3) as u32, SECTOR as u32, "sectors of 512 bytes");
    let (mut at, mut entries) = (SECTOR as u64, Vec::new());
    for _ in 0..word(&head, 2) {
        let head = bytes(at, SECTOR);
        let [sector, sectors, flags, data_length] = [0, 1, 2, 3].map(|index| word(&head, index));
        at += SECTOR as u64;
        let length = sectors * SECTOR as u64;
        let data = match flags {
            flags if flags & MARK != 0 => head[32..32 + data_length as usize].to_vec(),
            flags if flags & DISCARD != 0 => Vec::new(),
            _ => bytes(at, length as usize),
        };
        at += data.len() as u64 * u64::from(flags & MARK == 0);
        entries.push(Entry { offset: sector * SECTOR as u64, length, flags, data });
    }
    entries
}

/// What becomes of the writes that no flush covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Kept,
    /// Some sectors of some, by seed.
    Some(u64),
}

/// The disk after a cut behind entry number `at`, given the disk `durable` that all entries up to there left.
pub(crate) fn cut(entries: &[Entry], at: usize, durable: &[u8], fate: Fate) -> Vec<u8> {
    let mut disk = durable.to_vec();
    let mut dice = Dice::new(if let Fate::Some(seed) = fate { seed } else { 0 });
    for entry in entries[at + 1..].iter().take_while(|entry| entry.is_plain() || entry.mark().is_some()) {
        if entry.is_plain() && fate != Fate::Lost {
            let whole = dice.one_in(3);
            entry.apply(&mut disk, || fate == Fate::Kept || whole || dice.one_in(2));
        }
    }
    disk
}

/// Does an entry again.
pub(crate) fn redo(entry: &Entry, disk: &mut [u8]) {
    if entry.mark().is_none() {
        entry.apply(disk, || true);
    }
}
