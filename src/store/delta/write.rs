//! Writes a delta.

use std::io::{self, Write};

use super::head::DeltaHead;
use crate::store::crc::crc32c;

pub(super) const RECORD: usize = 32;
pub(super) const RECORD_MAGIC: &[u8; 4] = b"RNDR";
pub(super) const DATA: u32 = 1;
pub(super) const ZEROES: u32 = 2;
pub(super) const END: u32 = 3;
/// Bytes of data of a record.
pub(super) const MOST_DATA: u64 = 1 << 20;

/// A delta that is being written, record by record.
#[derive(Debug)]
pub(crate) struct DeltaWriter<W> {
    out: W,
    crc: u32,
    records: u64,
    size: u64,
}

impl<W: Write> DeltaWriter<W> {
    pub(crate) fn begin(mut out: W, head: &DeltaHead) -> io::Result<Self> {
        let bytes = head.encode();
        out.write_all(&bytes)?;
        Ok(Self { out, crc: crc32c(&[&bytes]), records: 0, size: head.to_size })
    }

    /// Bytes of the disk: at most 1 MiB of them, whole blocks.
    pub(crate) fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(bytes.len() as u64 <= MOST_DATA, "more data than a record has");
        self.records += 1;
        self.record(DATA, offset, bytes.len() as u64, crc32c(&[bytes]))?;
        self.out.write_all(bytes)
    }

    pub(crate) fn zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.records += 1;
        self.record(ZEROES, offset, length, 0)
    }

    /// Without it, it is no delta.
    pub(crate) fn end(mut self) -> io::Result<W> {
        self.record(END, self.size, self.records, 0)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn record(&mut self, kind: u32, offset: u64, length: u64, data_crc: u32) -> io::Result<()> {
        let mut bytes = [0; RECORD];
        bytes[..4].copy_from_slice(RECORD_MAGIC);
        bytes[4..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        bytes[24..28].copy_from_slice(&data_crc.to_le_bytes());
        self.crc = crc32c(&[&self.crc.to_le_bytes(), &bytes[..28]]);
        bytes[28..].copy_from_slice(&self.crc.to_le_bytes());
        self.out.write_all(&bytes)
    }
}
