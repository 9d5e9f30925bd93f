//! Simulated files that sends read from, and the pieces of a send.

use super::World;
use super::world::{Memory, State};

/// How often a page that was there is still there.
const STAYS: f64 = 0.8;

/// A simulated file behind a [`FileMapping`](crate::ring::FileMapping).
pub(in crate::ring) struct MappedFile {
    world: World,
    file: usize,
    address: usize,
}

/// A file and the addresses that stand for it.
pub(super) struct Mapped {
    length: usize,
    file: usize,
}

/// Bytes of a send: of memory, or of a file as they are when they are sent.
pub(super) enum Piece {
    Memory(Memory),
    File { file: usize, offset: usize, length: usize },
}

impl MappedFile {
    pub(super) fn new(world: World, file: usize, address: usize, length: usize) -> Self {
        world.state().mapped.insert(address, Mapped { length, file });
        Self { world, file, address }
    }

    pub(in crate::ring) fn is_cached(&self) -> bool {
        self.world.state().random.chance(STAYS)
    }

    pub(in crate::ring) fn size(&self) -> u64 {
        self.world.state().files[self.file].size() as u64
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        self.world.state().mapped.remove(&self.address);
    }
}

impl std::fmt::Debug for MappedFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "MappedFile({})", self.file)
    }
}

impl Piece {
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Memory(memory) => memory.length,
            Self::File { length, .. } => *length,
        }
    }
}

impl State {
    /// What a piece of a send at this address is.
    pub(super) fn piece(&self, address: *mut u8, length: usize) -> Piece {
        match self.mapped.range(..=address.addr()).next_back() {
            Some((start, mapped)) if address.addr() - start < mapped.length => {
                Piece::File { file: mapped.file, offset: address.addr() - start, length }
            }
            _ => Piece::Memory(Memory::new(address, length)),
        }
    }
}
