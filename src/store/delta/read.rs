//! Reads a delta. Any bytes may come.

use std::io::{self, Read};

use super::head::{BLOCK, DeltaError, DeltaHead};
use super::write::{DATA, END, MOST_DATA, RECORD, RECORD_MAGIC, ZEROES};
use crate::store::crc::crc32c;

/// A delta that is being read, record by record.
#[derive(Debug)]
pub(crate) struct DeltaReader<R> {
    input: R,
    head: DeltaHead,
    crc: u32,
    records: u64,
    /// Where the next record may begin.
    at: u64,
    /// The data of the last record.
    data: Vec<u8>,
}

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DeltaPart<'a> {
    Data { offset: u64, bytes: &'a [u8] },
    Zeroes { offset: u64, length: u64 },
}

impl<R: Read> DeltaReader<R> {
    pub(crate) fn begin(mut input: R) -> Result<Self, DeltaError> {
        let mut bytes = [0; DeltaHead::BYTES];
        fill(&mut input, &mut bytes)?;
        let head = DeltaHead::decode(&bytes)?;
        Ok(Self { input, head, crc: crc32c(&[&bytes]), records: 0, at: 0, data: Vec::new() })
    }

    pub(crate) const fn head(&self) -> &DeltaHead {
        &self.head
    }

    /// The next part of the disk; `None` when the stream is complete.
    pub(crate) fn next(&mut self) -> Result<Option<DeltaPart<'_>>, DeltaError> {
        let mut bytes = [0; RECORD];
        fill(&mut self.input, &mut bytes)?;
        let crc = crc32c(&[&self.crc.to_le_bytes(), &bytes[..28]]);
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if bytes[..4] != *RECORD_MAGIC || u32_at(28) != crc {
            return Err(DeltaError::Damaged("a record has another checksum"));
        }
        self.crc = crc;
        let (kind, offset, length) = (u32_at(4), u64_at(8), u64_at(16));
        if kind == END {
            return self.end(offset, length).map(|()| None);
        }
        self.records += 1;
        self.check(offset, length)?;
        match kind {
            ZEROES => Ok(Some(DeltaPart::Zeroes { offset, length })),
            DATA if length <= MOST_DATA => {
                self.data.resize(length as usize, 0);
                fill(&mut self.input, &mut self.data)?;
                if crc32c(&[&self.data]) != u32_at(24) {
                    return Err(DeltaError::Damaged("data has another checksum"));
                }
                Ok(Some(DeltaPart::Data { offset, bytes: &self.data }))
            }
            _ => Err(DeltaError::Damaged("a record is of no kind that there is")),
        }
    }

    /// Whether a record is of the disk, of whole blocks, and behind those before it.
    fn check(&mut self, offset: u64, length: u64) -> Result<(), DeltaError> {
        let end = offset.checked_add(length).filter(|end| *end <= self.head.to_size);
        let end = end.ok_or(DeltaError::Damaged("a record goes beyond the disk"))?;
        let is_whole = length > 0
            && offset.is_multiple_of(BLOCK)
            && (end.is_multiple_of(BLOCK) || end == self.head.to_size);
        if !is_whole || offset < self.at {
            return Err(DeltaError::Damaged("a record is not where it must be"));
        }
        self.at = end;
        Ok(())
    }

    fn end(&mut self, size: u64, records: u64) -> Result<(), DeltaError> {
        if (size, records) != (self.head.to_size, self.records) {
            return Err(DeltaError::Damaged("it has another end"));
        }
        match self.input.read_exact(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(DeltaError::Io(error)),
            Ok(()) => Err(DeltaError::Damaged("something follows its end")),
        }
    }
}

fn fill(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), DeltaError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => DeltaError::CutOff,
        _ => DeltaError::Io(error),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::super::DeltaWriter;
    use super::*;

    fn head() -> DeltaHead {
        DeltaHead {
            store: Uuid::from_u128(1),
            image: Uuid::from_u128(2),
            from: Some(Uuid::from_u128(3)),
            to: Uuid::from_u128(4),
            from_size: 4096,
            to_size: 40_960 + 512,
            created_s: 5,
            name: "monday".to_owned(),
        }
    }

    fn small() -> Vec<u8> {
        let mut writer = DeltaWriter::begin(Vec::new(), &head()).unwrap();
        writer.data(4096, &[7; 4096]).unwrap();
        writer.zeroes(16_384, 8192).unwrap();
        writer.data(40_960, &[9; 512]).unwrap();
        writer.end().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<(u64, u64, u8)>, DeltaError> {
        let mut reader = DeltaReader::begin(bytes)?;
        let mut found = Vec::new();
        while let Some(part) = reader.next()? {
            found.push(match part {
                DeltaPart::Data { offset, bytes } => (offset, bytes.len() as u64, bytes[0]),
                DeltaPart::Zeroes { offset, length } => (offset, length, 0),
            });
        }
        Ok(found)
    }

    #[test]
    fn each_byte_counts() {
        let bytes = small();
        assert_eq!(DeltaReader::begin(&*bytes).unwrap().head(), &head());
        assert_eq!(read(&bytes).unwrap(), [(4096, 4096, 7), (16_384, 8192, 0), (40_960, 512, 9)]);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                assert!(read(&bytes).is_err(), "byte {at}");
            }
            assert!(read(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(read(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn records_are_of_the_disk_and_in_order() {
        for records in [
            &[(4096, 4096), (0, 4096)][..],
            &[(0, 8192), (4096, 4096)],
            &[(512, 4096)],
            &[(0, 512)],
            &[(0, 0)],
            &[(40_960, 4096)],
            &[(u64::MAX - 4095, 4096)],
            &[(0, u64::MAX)],
        ] {
            let mut writer = DeltaWriter::begin(Vec::new(), &head()).unwrap();
            records.iter().for_each(|(offset, length)| writer.zeroes(*offset, *length).unwrap());
            assert!(matches!(read(&writer.end().unwrap()), Err(DeltaError::Damaged(_))), "{records:?}");
        }
    }

    proptest! {
        /// With right checksums too, whatever a header says is an error or a delta.
        #[test]
        fn any_bytes_are_an_error_or_a_delta(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            at in 8..380usize,
            value in any::<[u8; 8]>(),
        ) {
            let _result = read(&bytes);
            let mut bytes = small();
            let end = (at + 8).min(380);
            bytes[at..end].copy_from_slice(&value[..end - at]);
            let crc = crc32c(&[&bytes[..380]]);
            bytes[380..384].copy_from_slice(&crc.to_le_bytes());
            let _result = read(&bytes);
        }
    }
}
