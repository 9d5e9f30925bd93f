//! A node, as bytes.
//!
//! ```text
//!   0  header of a structure (`structure`)
//!  32  level: 0 for a leaf
//!  36  reserved
//!  64  the kind of each of the 256 entries, 2 bits: 0 zeroes, 1 base, 2 a name
//! 128  names, 32 bytes each
//!      ----- up to here it is hashed -----
//!      hints, 12 bytes a name: pack (none: zero), slot
//! ```

use super::error::ManifestError;
use crate::store::pack::{ChunkHash, ChunkHint, ChunkKind, ChunkSpace};
use crate::store::structure::{StructureFields, StructureFlaw, begin, check, seal};

pub(super) const MAGIC: [u8; 8] = *b"rnbsNODE";
/// Entries of a node.
pub(super) const FAN_OUT: usize = 256;
const KINDS_AT: usize = 64;
const KIND_BYTES: usize = FAN_OUT / 4;
const HINT_BYTES: usize = 12;

/// A chunk by its name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NamedChunk {
    pub(crate) hash: ChunkHash,
    pub(crate) hint: Option<ChunkHint>,
}

/// Equal names mean equal contents, wherever they are.
impl PartialEq for NamedChunk {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for NamedChunk {}

/// What a chunk of the disk has, or all chunks below a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ManifestEntry {
    Zero,
    /// What the base has there.
    Base,
    Named(NamedChunk),
}

impl ManifestEntry {
    fn kind(&self) -> u8 {
        match self {
            Self::Zero => 0,
            Self::Base => 1,
            Self::Named(_) => 2,
        }
    }
}

/// A node in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ManifestNode {
    pub(super) level: u32,
    pub(super) entries: Box<[ManifestEntry; FAN_OUT]>,
}

impl ManifestNode {
    /// A node that stands for one entry of its parent.
    pub(super) fn uniform(level: u32, entry: ManifestEntry) -> Self {
        Self { level, entries: Box::new([entry; FAN_OUT]) }
    }

    /// The entry of its parent, if no node is needed for it.
    pub(super) fn as_uniform(&self) -> Option<ManifestEntry> {
        let first = self.entries[0];
        let is_plain = matches!(first, ManifestEntry::Zero | ManifestEntry::Base);
        (is_plain && self.entries.iter().all(|entry| *entry == first)).then_some(first)
    }

    fn named(&self) -> impl Iterator<Item = &NamedChunk> {
        self.entries.iter().filter_map(|entry| match entry {
            ManifestEntry::Named(chunk) => Some(chunk),
            ManifestEntry::Zero | ManifestEntry::Base => None,
        })
    }

    /// Its bytes, and how many of them are hashed.
    pub(super) fn encode(&self) -> (Vec<u8>, usize) {
        let mut bytes = begin(MAGIC);
        bytes.extend(self.level.to_le_bytes());
        bytes.resize(KINDS_AT, 0);
        bytes.extend(self.entries.chunks_exact(4).map(|four| {
            four.iter().enumerate().fold(0, |byte, (at, entry)| byte | entry.kind() << (2 * at))
        }));
        self.named().for_each(|chunk| bytes.extend(chunk.hash.0));
        seal(&mut bytes);
        let hashed = bytes.len();
        for chunk in self.named() {
            let hint = chunk.hint.unwrap_or(ChunkHint { pack: 0, slot: 0 });
            bytes.extend(hint.pack.to_le_bytes());
            bytes.extend(hint.slot.to_le_bytes());
        }
        (bytes, hashed)
    }

    /// Reads the node with this name.
    pub(super) fn decode<E>(
        bytes: &[u8],
        space: &ChunkSpace,
        hash: ChunkHash,
        level: u32,
    ) -> Result<Self, ManifestError<E>> {
        let damaged = |what| ManifestError::Damaged { hash, what };
        let kinds = bytes.get(KINDS_AT..KINDS_AT + KIND_BYTES).ok_or(damaged("it is cut"))?;
        let kinds: Vec<u8> = kinds.iter().flat_map(|byte| [0, 2, 4, 6].map(|at| byte >> at & 3)).collect();
        let names = kinds.iter().filter(|kind| **kind == 2).count();
        let hashed = KINDS_AT + KIND_BYTES + names * ChunkHash::BYTES;
        let (hashed, hints) = bytes.split_at_checked(hashed).ok_or(damaged("it is cut"))?;
        if space.hash(ChunkKind::Node, hashed) != hash {
            return Err(ManifestError::Renamed { hash });
        }
        let mut fields = check(hashed, MAGIC).map_err(|flaw| match flaw {
            StructureFlaw::Other | StructureFlaw::Torn => damaged("it is no node"),
            StructureFlaw::Newer { version, features } => ManifestError::Newer { hash, version, features },
        })?;
        if fields.u32() != Some(level) {
            return Err(damaged("it is of another level"));
        }
        if hints.len() != names * HINT_BYTES {
            return Err(damaged("its hints do not fit its names"));
        }
        let (mut names, mut hints) =
            (StructureFields(&bytes[KINDS_AT + KIND_BYTES..]), StructureFields(hints));
        let mut node = Self::uniform(level, ManifestEntry::Zero);
        for (entry, kind) in node.entries.iter_mut().zip(kinds) {
            *entry = match kind {
                0 => ManifestEntry::Zero,
                1 => ManifestEntry::Base,
                2 => ManifestEntry::Named(named(&mut names, &mut hints).ok_or(damaged("it is cut"))?),
                _ => return Err(damaged("an entry is of no kind that there is")),
            };
        }
        // Such nodes would make unequal roots of equal contents.
        if node.as_uniform().is_some() {
            return Err(damaged("it need not be there"));
        }
        Ok(node)
    }
}

/// The hints of a node become others: those of packs that have another number, or none. Its name stays.
pub(crate) fn translate_hints(bytes: &mut [u8], hashed: usize, own: impl Fn(u64) -> Option<u64>) {
    let Some(hints) = bytes.get_mut(hashed..) else { return };
    for hint in hints.chunks_exact_mut(HINT_BYTES) {
        let (pack, slot) = hint.split_at_mut(8);
        let number = u64::from_le_bytes(pack.try_into().expect("eight bytes"));
        match own(number).filter(|_| number != 0) {
            Some(number) => pack.copy_from_slice(&number.to_le_bytes()),
            None => {
                pack.fill(0);
                slot.fill(0);
            }
        }
    }
}

fn named(names: &mut StructureFields<'_>, hints: &mut StructureFields<'_>) -> Option<NamedChunk> {
    let hash = ChunkHash(names.array()?);
    let hint = ChunkHint { pack: hints.u64()?, slot: hints.u32()? };
    Some(NamedChunk { hash, hint: (hint.pack != 0).then_some(hint) })
}
