//! The header of a pack, as bytes.
//!
//! ```text
//!    0  header of a structure (`structure`)
//!   32  uuid of the store
//!   48  number of the pack
//!   56  bytes of a chunk
//!   60  algorithm of the hashes
//!   64  domain
//!   80  reserved
//! 4096
//! ```

use uuid::Uuid;

use super::PAGE;
use super::error::PackError;
use super::key::{ChunkSpace, HashAlgorithm};
use crate::store::structure::{StructureFields, StructureFlaw, begin, check, seal};

pub(super) const MAGIC: [u8; 8] = *b"rnbpPACK";

/// Which pack it is, and what its chunks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackIdentity {
    pub(crate) store: Uuid,
    pub(crate) number: u64,
    pub(crate) space: ChunkSpace,
}

impl PackIdentity {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = begin(MAGIC);
        bytes.extend(self.store.as_bytes());
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.space.chunk_bytes.to_le_bytes());
        bytes.extend((self.space.algorithm as u32).to_le_bytes());
        bytes.extend(self.space.domain.as_bytes());
        bytes.resize(PAGE as usize, 0);
        seal(&mut bytes);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, PackError> {
        let fields = check(bytes, MAGIC).map_err(|flaw| match flaw {
            StructureFlaw::Other => PackError::NotAPack,
            StructureFlaw::Torn | StructureFlaw::Newer { .. } => PackError::of_flaw(flaw, "header"),
        })?;
        let identity = Self::of_fields(fields).ok_or(PackError::Damaged { what: "header" })?;
        if !identity.space.is_possible() {
            return Err(PackError::ChunkBytes(identity.space.chunk_bytes));
        }
        Ok(identity)
    }

    fn of_fields(mut fields: StructureFields<'_>) -> Option<Self> {
        let (store, number) = (Uuid::from_bytes(fields.array()?), fields.u64()?);
        let (chunk_bytes, algorithm) = (fields.u32()?, HashAlgorithm::of_number(fields.u32()?)?);
        let space = ChunkSpace { algorithm, chunk_bytes, domain: Uuid::from_bytes(fields.array()?) };
        Some(Self { store, number, space })
    }
}
