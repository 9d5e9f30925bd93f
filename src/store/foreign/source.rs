//! Where bytes of packs come from.

use std::fmt;
use std::ops::Range;

use uuid::Uuid;

/// A pack, as a tier has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourcePack {
    pub(crate) tier: Uuid,
    /// The store that wrote it, and its number there.
    pub(crate) store: Uuid,
    pub(crate) number: u64,
    /// How often it had come there before.
    pub(crate) upload: u32,
}

impl SourcePack {
    /// Where it lies in its tier.
    pub(crate) fn key(&self) -> String {
        let store = self.store.simple();
        match self.upload {
            0 => format!("packs/{store}/{}.pack", self.number),
            upload => format!("packs/{store}/{}.{upload}.pack", self.number),
        }
    }
}

/// Why bytes do not come.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum SourceError {
    /// Trying again does not help.
    #[error("the tier has no {0}: push the snapshot again from where it was made")]
    Missing(String),
    /// Or it was too slow.
    #[error("the tier cannot be reached: {0}")]
    Unreachable(String),
    /// It is there, and has more to do than it can.
    #[error("the tier asks for less: {0}")]
    Refused(String),
}

/// Gives ranges of packs. A call may wait, within bounds of its own; many come at once.
pub(crate) trait RangeSource: fmt::Debug + Send + Sync {
    /// Asks once whether it is there, and makes ready what a confined process cannot.
    fn look(&self) -> Result<(), SourceError> {
        Ok(())
    }

    /// A small object, by its key.
    fn read_object(&self, key: &str) -> Result<Vec<u8>, SourceError>;

    /// Writes a small object of this store's own, whatever was there.
    fn write_object(&self, key: &str, bytes: &[u8]) -> Result<(), SourceError>;

    /// The bytes of a range. Whatever they are: they are verified.
    fn read_range(&self, pack: &SourcePack, range: Range<u64>) -> Result<Vec<u8>, SourceError>;
}
