//! The records of a handshake, gathered from what the other side sends; both sides do it.

use crate::tls::record::error::RecordError;
use crate::tls::record::header::{RECORD_HEADER_BYTES, RecordHeader};

/// Records of one handshake, and bytes: chains of certificates make it long.
const MOST_RECORDS: u32 = 64;
const MOST_BYTES: usize = 128 << 10;

/// See above.
#[derive(Debug, Default)]
pub(in crate::tls) struct HandshakeRecords {
    /// The one that is being received.
    record: Vec<u8>,
    records: u32,
    bytes: usize,
}

/// A step.
#[derive(Debug)]
pub(in crate::tls) enum RecordStep {
    /// The input is used up.
    Nothing,
    /// Some of a record.
    Part,
    /// A whole one, with its header.
    Record(Vec<u8>),
}

/// Why no more is taken.
#[derive(Debug)]
pub(in crate::tls) enum GatherError {
    Record(RecordError),
    TooMuch(&'static str),
}

impl HandshakeRecords {
    /// The first byte of the first record, when it is there and the record was not taken yet.
    pub(in crate::tls) fn very_first(&self) -> Option<u8> {
        if self.is_first() { self.record.first().copied() } else { None }
    }

    /// Whether no record was taken yet.
    pub(in crate::tls) const fn is_first(&self) -> bool {
        self.records == 0
    }

    /// Takes bytes off the front of `input`, at most to the end of one record.
    pub(in crate::tls) fn gather(&mut self, input: &mut &[u8]) -> Result<RecordStep, GatherError> {
        let header = RecordHeader::parse(&self.record).map_err(GatherError::Record)?;
        let wanted = RECORD_HEADER_BYTES + header.map_or(0, |header| header.length);
        // The type first, so that plain text is noticed at its first byte.
        let wanted = if self.record.is_empty() { 1 } else { wanted };
        if header.is_none() || self.record.len() < wanted {
            let taken = (wanted - self.record.len()).min(input.len());
            if taken == 0 {
                return Ok(RecordStep::Nothing);
            }
            let (bytes, rest) = input.split_at(taken);
            *input = rest;
            self.record.extend_from_slice(bytes);
            self.bytes += taken;
            return match self.bytes {
                0..=MOST_BYTES => Ok(RecordStep::Part),
                _ => Err(GatherError::TooMuch("131072 bytes")),
            };
        }
        self.records += 1;
        if self.records > MOST_RECORDS {
            return Err(GatherError::TooMuch("64 records"));
        }
        Ok(RecordStep::Record(std::mem::take(&mut self.record)))
    }
}
