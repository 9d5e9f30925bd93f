//! What stands behind a [`Ring`](super::Ring): the kernel, or in a build with the feature `sim` also a
//! simulation.
//!
//! Without the feature there is one variant, and the compiler sees through this file.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::buffer::BufferPool;
use super::key::{OpKey, Owner};
use super::mapped::SharedMapping;
use super::op::OpTable;
use super::operation::{FileIndex, Operation};
use super::uring::{Event, RingError, RingOptions, Uring, Wait};

// There is one engine a ring: its size does not matter, but an indirection on every call would.
#[allow(clippy::large_enum_variant)]
pub(super) enum Engine {
    /// The kernel's io_uring, and when the clock of all rings began.
    Kernel(Uring, Instant),
    /// A world in one thread; see [`super::sim`].
    #[cfg(feature = "sim")]
    Simulated(super::sim::SimEngine),
}

/// When the first ring of the process was set up: rings have one clock, since shards keep rates together.
static EPOCH: OnceLock<Instant> = OnceLock::new();

/// Calls the same method of either engine.
macro_rules! either {
    ($engine:expr, $inner:ident => $call:expr) => {
        match $engine {
            Engine::Kernel($inner, _) => $call,
            #[cfg(feature = "sim")]
            Engine::Simulated($inner) => $call,
        }
    };
}

impl Engine {
    /// The kernel's, unless the calling thread has entered a simulated world.
    pub(super) fn new(options: &RingOptions) -> Result<(Self, BufferPool), RingError> {
        #[cfg(feature = "sim")]
        if let Some(world) = super::sim::World::current() {
            let (engine, pool) = super::sim::SimEngine::new(world, options)?;
            return Ok((Self::Simulated(engine), pool));
        }
        let (engine, pool) = Uring::new(options)?;
        Ok((Self::Kernel(engine, *EPOCH.get_or_init(Instant::now)), pool))
    }

    pub(super) fn table(&mut self) -> &mut OpTable {
        either!(self, engine => &mut engine.table)
    }

    pub(super) fn is_simulated(&self) -> bool {
        !matches!(self, Self::Kernel(..))
    }

    pub(super) fn now(&self) -> Duration {
        match self {
            Self::Kernel(_, since) => since.elapsed(),
            #[cfg(feature = "sim")]
            Self::Simulated(engine) => engine.now(),
        }
    }

    pub(super) fn push(&mut self, operation: Operation, owner: Owner) -> OpKey {
        either!(self, engine => engine.push(operation, owner))
    }

    pub(super) fn submit_and_reap(&mut self, wait: Wait, limit: usize, events: &mut Vec<Event>) {
        either!(self, engine => engine.submit_and_reap(wait, limit, events));
    }

    pub(super) fn has_work(&mut self) -> bool {
        either!(self, engine => engine.has_work())
    }

    pub(super) fn available_receive_buffers(&self) -> u16 {
        either!(self, engine => engine.available_receive_buffers())
    }

    pub(super) fn register_file(&mut self, file: BorrowedFd<'_>) -> io::Result<FileIndex> {
        either!(self, engine => engine.register_file(file))
    }

    pub(super) fn release_file(&mut self, file: FileIndex) {
        either!(self, engine => engine.release_file(file));
    }

    pub(super) fn map_file(&self, file: BorrowedFd<'_>, length: u64) -> io::Result<SharedMapping> {
        match self {
            Self::Kernel(..) => SharedMapping::new(file, length),
            #[cfg(feature = "sim")]
            Self::Simulated(engine) => engine.map_file(file, length),
        }
    }

    pub(super) fn size_of(&self, file: BorrowedFd<'_>) -> io::Result<u64> {
        match self {
            Self::Kernel(..) => Ok(rustix::fs::fstat(file)?.st_size as u64),
            #[cfg(feature = "sim")]
            Self::Simulated(engine) => Ok(engine.world().size_of(file)),
        }
    }

    pub(super) fn installs(&self) -> bool {
        match self {
            Self::Kernel(engine, _) => engine.installs,
            // Simulated sockets have no descriptors to keep.
            #[cfg(feature = "sim")]
            Self::Simulated(_) => true,
        }
    }

    pub(super) fn major_faults(&self) -> u64 {
        match self {
            Self::Kernel(..) => crate::sys::major_faults(),
            #[cfg(feature = "sim")]
            Self::Simulated(engine) => engine.major_faults(),
        }
    }

    pub(super) fn registered_files(&self, total: u32) -> u32 {
        either!(self, engine => engine.registered_files(total))
    }
}
