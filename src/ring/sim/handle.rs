//! The handle of a world: what its driver does to it, and what it can ask.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use super::faults::Faults;
use super::files::SimFile;
use super::parts::SimSocket;
use super::shared_words::SimSharedWords;
use super::work::Object;
use super::world::WorldState;
use crate::block::{ByteRange, Extent};
use crate::random::Random;

/// A handle of a world; clones name the same one.
#[derive(Clone)]
pub struct World {
    state: Rc<RefCell<WorldState>>,
}

/// A simulated file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId(pub(super) usize);

impl FileId {
    /// No other file of its world has it.
    pub const fn number(self) -> usize {
        self.0
    }
}

/// A simulated connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketId(pub(super) usize);

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

    pub(super) fn state(&self) -> RefMut<'_, WorldState> {
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
        let id = {
            let mut state = self.state();
            state.files.push(SimFile::new(content, alignment, allocation_unit));
            FileId(state.files.len() - 1)
        };
        self.open(id)
    }

    /// Opens a file once more: as a server does that was started again.
    pub fn open(&self, id: FileId) -> FileTokens {
        let mut state = self.state();
        let file = id.0;
        let mut token = |direct| {
            let description = state.files[file].open(direct);
            File::from(state.token(Object::File { file, description }))
        };
        let (buffered, durable) = (token(false), token(false));
        let alignment = state.files[file].alignment;
        let direct = alignment.map(|alignment| {
            let description = state.files[file].open(true);
            (File::from(state.token(Object::File { file, description })), alignment)
        });
        FileTokens { id, buffered, durable, direct }
    }

    /// Words that belong to a file, and are none at first.
    pub(crate) fn shared_words(&self, file: FileId) -> SimSharedWords {
        self.state().shared_words.entry(file.0).or_default().clone()
    }

    /// From now on other things fail than before. Gives what did.
    pub fn set_faults(&self, faults: Faults) -> Faults {
        std::mem::replace(&mut self.state().faults, faults)
    }

    /// Rings that were set up so far.
    pub fn rings(&self) -> usize {
        self.state().rings.len()
    }

    /// Makes a connection; either direction holds so many bytes. The descriptor is the server's end.
    pub fn socket(&self, capacity: usize, over_tcp: bool) -> (SocketId, OwnedFd) {
        let mut state = self.state();
        let socket = state.sockets.len();
        state.sockets.push(SimSocket::new(capacity, over_tcp));
        (SocketId(socket), state.token(Object::Socket(socket)))
    }

    /// What a file holds now.
    pub fn content(&self, file: FileId) -> Vec<u8> {
        let state = self.state();
        let file = &state.files[file.0];
        file.bytes(0, file.whole_size()).to_vec()
    }

    /// Whether a file holds exactly this now.
    pub fn holds(&self, file: FileId, expected: &[u8]) -> bool {
        let state = self.state();
        let file = &state.files[file.0];
        file.bytes(0, file.whole_size()) == expected
    }

    /// Copies what a file holds now behind an offset. Says how many bytes that are: fewer than asked for at
    /// its end.
    pub(crate) fn read(&self, file: FileId, bytes: &mut [u8], offset: u64) -> usize {
        let state = self.state();
        let file = &state.files[file.0];
        let start = file.whole_size().min(offset as usize);
        let length = bytes.len().min(file.whole_size() - start);
        bytes[..length].copy_from_slice(file.bytes(start, start + length));
        length
    }

    /// The allocation of a file, by the descriptor that names it.
    pub(in crate::ring) fn extents(
        &self,
        file: BorrowedFd<'_>,
        range: ByteRange,
        limit: usize,
    ) -> Vec<Extent> {
        let state = self.state();
        let Some(Object::File { file, .. }) = state.tokens.get(&file.as_raw_fd()) else {
            panic!("only a simulated file has extents here")
        };
        state.files[*file].extents(range, limit)
    }

    /// Bytes of a file, by a descriptor that names it.
    pub(in crate::ring) fn size_of(&self, file: BorrowedFd<'_>) -> u64 {
        let state = self.state();
        let Some(Object::File { file, .. }) = state.tokens.get(&file.as_raw_fd()) else {
            panic!("only a simulated file has a size here")
        };
        state.files[*file].size() as u64
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
