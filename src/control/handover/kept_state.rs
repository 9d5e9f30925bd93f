//! What a server that ends leaves to the next one: the messages of a hand-over, in memory that is kept.
//!
//! ```text
//! "ringnbdS", version (2 bytes), 6 zeroes
//! EXPORT with its files…, LISTENER…, OFFERED, EXPORT of an image…, RELEASED, CONNECTION…, ALL SENT
//! ```
//!
//! In front of each message is the checksum of what follows (4 bytes). Behind it, for each of its
//! descriptors, is what tells it from the others (8 bytes): the kernel's cookie of a socket, or the place of
//! a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::message::{BadMessage, HEADER, HandoverMessage, OLDEST};
use super::secure_state::wipe;
use crate::store::crc::crc32c;

const MAGIC: &[u8; 8] = b"ringnbdS";
/// The latest version of it. A connection of TLS 1.2 needs no other one: an earlier program closes it alone,
/// because it knows no such keys.
const NEWEST: u16 = 2;
/// Bytes before the first message.
const FRONT: usize = 16;
const CHECKSUM: usize = 4;
const REFERENCE: usize = 8;

/// Why a state cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error("its state cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("its state has {0}")]
    Bad(#[from] BadMessage),
    #[error("its state is of version {0}, and this program reads {OLDEST} to {NEWEST}")]
    Version(u16),
    #[error("its state is damaged: {0}")]
    Damaged(&'static str),
}

/// Writes a state from its beginning.
pub(super) struct KeptStateWriter<'a> {
    to: &'a File,
    at: u64,
}

impl<'a> KeptStateWriter<'a> {
    pub(super) fn begin(to: &'a File) -> io::Result<Self> {
        to.set_len(0)?;
        let mut front = [0; FRONT];
        front[..8].copy_from_slice(MAGIC);
        front[8..10].copy_from_slice(&NEWEST.to_le_bytes());
        to.write_all_at(&front, 0)?;
        Ok(Self { to, at: FRONT as u64 })
    }

    /// Adds a message, and what tells its descriptors.
    pub(super) fn put(&mut self, message: &HandoverMessage, references: &[u64]) -> io::Result<()> {
        let mut bytes = message.encode(references.len());
        let references: Vec<u8> = references.iter().flat_map(|reference| reference.to_le_bytes()).collect();
        let checksum = crc32c(&[&bytes, &references]).to_le_bytes();
        let written = [&checksum[..], &bytes, &references].into_iter().try_for_each(|part| {
            self.to.write_all_at(part, self.at)?;
            self.at += part.len() as u64;
            Ok(())
        });
        wipe(&mut bytes);
        written
    }
}

/// Reads a state, which may be anything.
pub(super) struct KeptStateReader<'a> {
    from: &'a File,
    at: u64,
    end: u64,
}

impl<'a> KeptStateReader<'a> {
    /// None if it is empty, because it was taken already.
    pub(super) fn begin(from: &'a File) -> Result<Option<Self>, StateError> {
        let end = from.metadata()?.len();
        if end == 0 {
            return Ok(None);
        }
        let mut reader = Self { from, at: 0, end };
        let front = reader.take(FRONT)?;
        if front[..8] != MAGIC[..] || front[10..] != [0; 6] {
            return Err(StateError::Damaged("it does not begin as one"));
        }
        match u16::from_le_bytes([front[8], front[9]]) {
            OLDEST..=NEWEST => Ok(Some(reader)),
            version => Err(StateError::Version(version)),
        }
    }

    /// The next message that is understood, of at most so many bytes, and what tells its descriptors.
    pub(super) fn next(&mut self, limit: usize) -> Result<(HandoverMessage, Vec<u64>), StateError> {
        loop {
            let (message, references) = self.next_any(limit)?;
            // What a later program says beside is passed over: a state has an end.
            if message != HandoverMessage::Extra {
                return Ok((message, references));
            }
        }
    }

    fn next_any(&mut self, limit: usize) -> Result<(HandoverMessage, Vec<u64>), StateError> {
        let checksum = self.take(CHECKSUM)?;
        let header: [u8; HEADER] = self.take(HEADER)?.try_into().expect("it has this length");
        let (length, files) = HandoverMessage::announced(header, limit)?;
        let mut fields = self.take(length)?;
        let references = self.take(REFERENCE * usize::from(files))?;
        let sum = crc32c(&[&header, &fields, &references]);
        let message = if checksum == sum.to_le_bytes() {
            HandoverMessage::decode(header, &fields).map_err(StateError::from)
        } else {
            Err(StateError::Damaged("a checksum does not fit"))
        };
        wipe(&mut fields);
        let references = references.chunks_exact(REFERENCE);
        let references =
            references.map(|bytes| u64::from_le_bytes(bytes.try_into().expect("it has this length")));
        Ok((message?, references.collect()))
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, StateError> {
        if length as u64 > self.end - self.at {
            return Err(StateError::Damaged("it is cut"));
        }
        let mut bytes = vec![0; length];
        self.from.read_exact_at(&mut bytes, self.at)?;
        self.at += length as u64;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::ListenerPurpose;
    use super::*;

    const LIMIT: usize = 1 << 16;

    fn messages() -> [(HandoverMessage, Vec<u64>); 4] {
        let listener = HandoverMessage::Listener { purpose: ListenerPurpose::Clients, is_inherited: false };
        [
            (listener, vec![u64::MAX - 1]),
            (HandoverMessage::Offered, vec![]),
            (HandoverMessage::Store { path: "/srv/store".to_owned() }, vec![1, 2]),
            (HandoverMessage::AllSent { connections: 3 }, vec![]),
        ]
    }

    fn written() -> File {
        let file = tempfile::tempfile().unwrap();
        let mut writer = KeptStateWriter::begin(&file).unwrap();
        messages().iter().for_each(|(message, references)| writer.put(message, references).unwrap());
        file
    }

    fn read(file: &File) -> Result<Vec<(HandoverMessage, Vec<u64>)>, StateError> {
        let mut reader = KeptStateReader::begin(file)?.expect("it is not empty");
        let mut read = Vec::new();
        while reader.at < reader.end {
            read.push(reader.next(LIMIT)?);
        }
        Ok(read)
    }

    #[test]
    fn a_state_is_read_as_it_was_written_and_empty_it_is_none() {
        let file = written();
        assert_eq!(read(&file).unwrap(), messages());
        file.set_len(0).unwrap();
        assert!(KeptStateReader::begin(&file).unwrap().is_none());
    }

    /// A process of another version reads it, so it never changes.
    #[test]
    fn a_state_has_the_bytes_that_it_had_once() {
        let file = tempfile::tempfile().unwrap();
        let (listener, references) = &messages()[0];
        KeptStateWriter::begin(&file).unwrap().put(listener, references).unwrap();
        let mut bytes = vec![0; 36];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 36);
        let fields = [2, 0, 0, 0, 3, 1, 0, 0, 0xfe, 255, 255, 255, 255, 255, 255, 255];
        assert_eq!(bytes[..16], *b"ringnbdS\x02\0\0\0\0\0\0\0");
        assert_eq!(bytes[20..], fields);
        assert_eq!(bytes[16..20], crc32c(&[&fields]).to_le_bytes());
    }

    #[test]
    fn each_bit_and_each_byte_counts() {
        let file = written();
        let length = file.metadata().unwrap().len();
        for place in 0..length {
            for bit in 0..8 {
                let mut byte = [0];
                file.read_exact_at(&mut byte, place).unwrap();
                file.write_all_at(&[byte[0] ^ 1 << bit], place).unwrap();
                assert!(read(&file).is_err(), "bit {bit} of byte {place} was not noticed");
                file.write_all_at(&byte, place).unwrap();
            }
        }
        for end in 1..length {
            file.set_len(end).unwrap();
            let cut = read(&file).map(|read| read.len());
            assert!(cut.as_ref().map_or(true, |read| *read < messages().len()), "cut at {end}: {cut:?}");
            file.set_len(length).unwrap();
            let whole = written();
            let mut bytes = vec![0; length as usize];
            whole.read_exact_at(&mut bytes, 0).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
        }
    }

    #[test]
    fn a_later_version_is_refused_and_what_it_says_more_is_passed_over() {
        let file = written();
        file.write_all_at(&(NEWEST + 1).to_le_bytes(), 8).unwrap();
        assert!(matches!(read(&file), Err(StateError::Version(version)) if version == NEWEST + 1));
        let file = tempfile::tempfile().unwrap();
        let mut writer = KeptStateWriter::begin(&file).unwrap();
        writer.put(&HandoverMessage::Extra, &[7]).unwrap();
        writer.put(&HandoverMessage::Offered, &[]).unwrap();
        assert_eq!(read(&file).unwrap(), [(HandoverMessage::Offered, vec![])]);
    }
}
