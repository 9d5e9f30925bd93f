//! A world instead of a kernel: the same operations over simulated files, sockets and time, all from one
//! seed.
//!
//! A thread [enters](World::enter) a world; every ring that it then sets up belongs to it. Operations are the
//! real ones, with the real table, leases and receive buffers below them. Nothing happens by itself: the
//! driver of the world lets shards take turns and [steps](World::step) the clock to the next event in
//! between, so a run is one thread and replays exactly.
//!
//! * A write takes effect at one or two moments between its submission and its completion, and its memory is
//!   read then: memory that is given back too early shows as wrong bytes. A read fills its memory in the same
//!   way.
//! * A sync makes durable what completed before it was submitted, and a random part of the rest.
//!   [`World::power_cut`] keeps that. Every other sector is lost, or kept as of any moment since, each for
//!   itself.
//! * Data that could not be written back is lost although it still reads as written, and each description of
//!   the file is told once.
//! * A write through the page cache beside a direct write to the same page can undo it, as on a real kernel.
//! * What blocks goes through a bounded number of worker threads of its ring, in order, and an allocation
//!   locks its file meanwhile. A read that is tried in the shard then puts the shard to sleep.
//! * A send from a mapped file that needs an evicted page lets time pass, as its thread would sleep; behind
//!   the end of a cut file it finds zeroes up to the end of the page, and `EFAULT` there and where the medium
//!   fails.
//! * What fails, and how often, is in [`Faults`].

mod engine;
mod faults;
mod files;
mod mapped;
mod sockets;
mod transfer;
mod workers;
mod world;

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

pub use crate::random::{Random, mixed};
pub(super) use engine::SimEngine;
pub use faults::Faults;

use crate::block::{ByteRange, Extent};
use files::{FileAccess, SimFile};
use sockets::SimSocket;
use world::{Object, WorldState};

/// A handle of a world; clones name the same one.
#[derive(Clone)]
pub struct World {
    state: Rc<RefCell<WorldState>>,
}

/// A simulated file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId(usize);

/// A simulated connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketId(usize);

/// Descriptors that name a simulated file; there is nothing behind them.
#[derive(Debug)]
pub struct FileTokens {
    pub id: FileId,
    /// Through the page cache.
    pub buffered: File,
    /// The same once more.
    pub durable: File,
    /// With O_DIRECT, and the alignment that it asks for in bytes.
    pub direct: Option<(File, u32)>,
}

thread_local! {
    static CURRENT: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Leaves the world on drop.
#[derive(Debug)]
pub struct Entered(());

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(Option::take);
    }
}

impl World {
    /// A world at time 0 in which everything follows from `seed`.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self { state: Rc::new(RefCell::new(WorldState::new(Random::new(seed), faults))) }
    }

    /// From now on rings of this thread belong to this world.
    pub fn enter(&self) -> Entered {
        CURRENT.set(Some(self.clone()));
        Entered(())
    }

    /// The world that this thread has entered.
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    fn state(&self) -> RefMut<'_, WorldState> {
        self.state.borrow_mut()
    }

    /// The clock.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.state().now)
    }

    /// When the next event is due if no shard and no client acts.
    pub fn next_event(&self) -> Option<Duration> {
        self.state().next_event().map(Duration::from_nanos)
    }

    /// Sets the clock to the next event and lets it happen; false when there is none.
    pub fn step(&self) -> bool {
        self.state().step()
    }

    /// Lets time pass up to `moment`, which must not lie beyond the next event.
    pub fn wait_until(&self, moment: Duration) {
        let mut state = self.state();
        let moment = moment.as_nanos() as u64;
        assert!(state.next_event().is_none_or(|next| next >= moment), "events are not skipped");
        state.now = state.now.max(moment);
    }

    /// Somebody rang a doorbell; whatever watches one looks at it.
    pub fn rang(&self) {
        self.state().look_at_doorbells();
    }

    /// Whether a ring, numbered in the order in which they were set up, has completions to reap.
    pub fn has_completions(&self, ring: usize) -> bool {
        !self.state().rings[ring].completions.is_empty()
    }

    /// Whether the thread of a ring's shard sleeps in the kernel.
    pub fn is_asleep(&self, ring: usize) -> bool {
        let state = self.state();
        state.rings[ring].asleep_until > state.now
    }

    /// How often the thread of a shard slept in the kernel although it had asked not to wait.
    pub fn sleeps(&self) -> u64 {
        self.state().sleeps
    }

    /// Makes a file. `alignment`: also a direct descriptor that asks for it; `allocation_unit`: what
    /// `fallocate` asks for.
    pub fn file(&self, content: Vec<u8>, alignment: Option<u32>, allocation_unit: u32) -> FileTokens {
        let mut state = self.state();
        let file = state.files.len();
        state.files.push(SimFile::new(content, alignment, allocation_unit));
        let mut token = |description| {
            let token = token();
            state.tokens.insert(token.as_raw_fd(), Object::File { file, description });
            File::from(token)
        };
        let (buffered, durable) = (token(FileAccess::Buffered), token(FileAccess::Durable));
        let direct = alignment.map(|alignment| (token(FileAccess::Direct), alignment));
        FileTokens { id: FileId(file), buffered, durable, direct }
    }

    /// Makes a connection; either direction holds so many bytes. The descriptor is the server's end.
    pub fn socket(&self, capacity: usize, over_tcp: bool) -> (SocketId, OwnedFd) {
        let mut state = self.state();
        let socket = state.sockets.len();
        state.sockets.push(SimSocket::new(capacity, over_tcp));
        let token = token();
        state.tokens.insert(token.as_raw_fd(), Object::Socket(socket));
        (SocketId(socket), token)
    }

    /// What a file holds now.
    pub fn content(&self, file: FileId) -> Vec<u8> {
        let state = self.state();
        let file = &state.files[file.0];
        file.bytes(0, file.whole_size()).to_vec()
    }

    /// The power fails: all operations are gone, and files hold what survived.
    pub fn power_cut(&self) {
        self.state().power_cut();
    }

    /// The allocation of a file, by the descriptor that names it.
    pub(super) fn extents(&self, file: BorrowedFd<'_>, range: ByteRange, limit: usize) -> Vec<Extent> {
        let state = self.state();
        let Some(Object::File { file, .. }) = state.tokens.get(&file.as_raw_fd()) else {
            panic!("only a simulated file has extents here")
        };
        state.files[*file].extents(range, limit)
    }

    /// A hash of everything that happened so far.
    pub fn trace(&self) -> u64 {
        self.state().trace
    }

    /// How often operations ended in which way: `short`, `EIO` and so on.
    pub fn outcomes(&self) -> BTreeMap<&'static str, u64> {
        self.state().outcomes.clone()
    }
}

/// A descriptor that is only a number.
fn token() -> OwnedFd {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("a descriptor can be had")
}
