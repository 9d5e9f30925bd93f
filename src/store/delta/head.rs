//! The header of a delta.

use uuid::Uuid;

use crate::store::crc::crc32c;

const MAGIC: &[u8; 8] = b"RNBDDLTA";
const VERSION: u32 = 1;
/// Bytes of a block of the disk.
pub(super) const BLOCK: u64 = 4096;
const LONGEST_NAME: usize = 128;

/// Why bytes are no delta, or one that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    #[error("it does not begin as a delta does: make one with `ringnbd image export --delta`")]
    NotADelta,
    #[error("it was written by a newer version of this program: use that one")]
    Newer,
    #[error("it is one part of several: export all of it")]
    Part,
    #[error("it is damaged: {0}; export it again")]
    Damaged(&'static str),
    #[error("it ends too early: export it again")]
    CutOff,
    #[error("it cannot be read: {0}")]
    Io(std::io::Error),
}

/// What a delta leads from and to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeltaHead {
    pub(crate) store: Uuid,
    pub(crate) image: Uuid,
    /// The snapshot that it begins with; none: it begins with nothing.
    pub(crate) from: Option<Uuid>,
    pub(crate) to: Uuid,
    pub(crate) from_size: u64,
    pub(crate) to_size: u64,
    pub(crate) created_s: u64,
    /// Of the snapshot that it makes, without its image.
    pub(crate) name: String,
}

impl DeltaHead {
    pub(crate) const BYTES: usize = 384;

    /// # Panics
    /// The name is longer than any.
    pub(super) fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(32, self.store.as_bytes());
        put(48, self.image.as_bytes());
        put(64, self.from.unwrap_or_default().as_bytes());
        put(80, self.to.as_bytes());
        put(112, &self.from_size.to_le_bytes());
        put(120, &self.to_size.to_le_bytes());
        put(136, &self.created_s.to_le_bytes());
        put(144, &(BLOCK as u32).to_le_bytes());
        assert!(self.name.len() <= LONGEST_NAME, "a name of a snapshot has a bound");
        put(148, &(self.name.len() as u32).to_le_bytes());
        put(152, self.name.as_bytes());
        let crc = crc32c(&[&bytes[..Self::BYTES - 4]]);
        bytes[Self::BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, DeltaError> {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let id_at = |at: usize| Uuid::from_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"));
        if bytes[..8] != *MAGIC {
            return Err(DeltaError::NotADelta);
        }
        if u32_at(Self::BYTES - 4) != crc32c(&[&bytes[..Self::BYTES - 4]]) {
            return Err(DeltaError::Damaged("its header has another checksum"));
        }
        if u32_at(8) > VERSION || u32_at(20) != 0 || u64::from(u32_at(144)) != BLOCK {
            return Err(DeltaError::Newer);
        }
        if u64_at(128) != 0 {
            return Err(DeltaError::Part);
        }
        let name = bytes[152..152 + LONGEST_NAME].get(..u32_at(148) as usize);
        let name = name.and_then(|name| str::from_utf8(name).ok());
        let from = id_at(64);
        Ok(Self {
            store: id_at(32),
            image: id_at(48),
            from: (!from.is_nil()).then_some(from),
            to: id_at(80),
            from_size: u64_at(112),
            to_size: u64_at(120),
            created_s: u64_at(136),
            name: name.ok_or(DeltaError::Damaged("it names no snapshot"))?.to_owned(),
        })
    }
}
