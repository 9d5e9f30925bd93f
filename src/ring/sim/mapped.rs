//! Simulated files that sends read from, and the faults of shards that wait for a page.

use super::files::PAGE;
use super::handle::{FileId, World};
use super::parts::Mapped;
use super::work::{OperationMemory, SendPiece};
use super::world::WorldState;
use crate::block::ByteRange;
use crate::ring::mapped::SimulatedFile;

/// A simulated file behind a [`FileMapping`](crate::ring::FileMapping).
pub(super) struct MappedFile {
    file: usize,
    address: usize,
}

/// A shard has looked at its faults after so many nanoseconds.
const EPISODE: u64 = 100_000;

impl MappedFile {
    pub(super) fn new(world: &World, file: usize, address: usize, length: usize) -> Self {
        world.state().mapped.insert(address, Mapped { length, file });
        Self { file, address }
    }

    /// Runs `act` on the world of the calling thread. The file is shared between shards, which a handle of
    /// the world cannot be.
    fn with<T>(&self, act: impl FnOnce(&mut WorldState) -> T) -> Option<T> {
        World::current().map(|world| act(&mut world.state()))
    }
}

impl SimulatedFile for MappedFile {
    fn is_cached(&self, page: u64) -> bool {
        self.with(|state| state.files[self.file].is_cached(page as usize)).unwrap_or(false)
    }

    fn size(&self) -> u64 {
        self.with(|state| state.files[self.file].size() as u64).unwrap_or(0)
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        self.with(|state| state.mapped.remove(&self.address));
    }
}

impl std::fmt::Debug for MappedFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "MappedFile({})", self.file)
    }
}

impl WorldState {
    /// What a piece of a send at this address is.
    pub(super) fn piece(&self, address: *mut u8, length: usize) -> SendPiece {
        match self.mapped.range(..=address.addr()).next_back() {
            Some((start, mapped)) if address.addr() - start < mapped.length => {
                SendPiece::File { file: mapped.file, offset: address.addr() - start, length }
            }
            _ => SendPiece::Memory(OperationMemory::new(address, length)),
        }
    }

    pub(super) fn major_faults(&self, ring: usize) -> u64 {
        self.rings[ring].faults.count
    }

    /// What a send finds at a place of a mapped file: its bytes, zeroes behind the end up to the end of the
    /// page, `EFAULT` behind that and where the medium fails. A page that is not there is waited for by the
    /// ring's thread.
    pub(super) fn mapped_bytes(
        &mut self,
        ring: usize,
        file: usize,
        start: usize,
        end: usize,
    ) -> (Vec<u8>, bool) {
        let mut bytes = Vec::with_capacity(end - start);
        let mut at = start;
        while at < end {
            let page = at / PAGE;
            let size = self.files[file].size();
            if page * PAGE >= size {
                return (bytes, false);
            }
            if !self.files[file].is_cached(page) && !self.wait_for_page(ring, file, page) {
                return (bytes, false);
            }
            let stop = end.min((page + 1) * PAGE);
            bytes.extend_from_slice(self.files[file].bytes(at, stop.min(size).max(at)));
            bytes.resize(stop - start, 0);
            at = stop;
        }
        (bytes, true)
    }

    fn wait_for_page(&mut self, ring: usize, file: usize, page: usize) -> bool {
        let (order, now) = (self.next_order(), self.now);
        self.now += self.latency();
        let faults = &mut self.rings[ring].faults;
        faults.count += 1;
        let turn = faults.turn;
        let before = if faults.in_turn.0 == turn { faults.in_turn.1 } else { 0 };
        faults.in_turn = (turn, before + 1);
        faults.most_in_turn = faults.most_in_turn.max(before + 1);
        if faults.episodes.last().is_none_or(|(last, moment, _)| turn != *last && now >= moment + EPISODE) {
            faults.episodes.push((turn, now, order));
        }
        // The first makes the shard look, or at the latest the second; from then on it asks about each page.
        if let [.., (_, _, known), _, _] = faults.episodes[..]
            && self.files[file].evicted(page) < known
        {
            self.slept_in_vain = true;
        }
        let start = page * PAGE;
        if self.random.chance(self.faults.io_error) || !self.files[file].is_readable(start, start + PAGE) {
            return false;
        }
        self.files[file].cache(start, start + PAGE);
        true
    }

    /// A thread of the kernel's brings pages in.
    pub(super) fn populate(&mut self, serial: u64, file: usize, range: ByteRange) {
        if let Some(errno) = self.small_fault() {
            return self.complete(serial, Err(errno));
        }
        let end = self.files[file].size().next_multiple_of(PAGE) as u64;
        let pages = range.offset() as usize / PAGE..range.end().div_ceil(PAGE as u64) as usize;
        let all_there = pages.clone().all(|page| self.files[file].is_cached(page));
        let is_readable = self.files[file].is_readable(pages.start * PAGE, pages.end * PAGE);
        if range.end() > end || !is_readable || (!all_there && self.random.chance(self.faults.io_error)) {
            return self.complete(serial, Err(libc::EFAULT));
        }
        self.files[file].cache(pages.start * PAGE, pages.end * PAGE);
        self.complete(serial, Ok(0));
    }
}

/// What happens to the page cache and to files behind a shard's back.
impl World {
    /// Memory is short: some of a file's pages go.
    pub fn evict(&self, file: FileId) {
        let mut state = self.state();
        let order = state.next_order();
        let part = state.random.pick(&[0.1, 0.5, 1.0]);
        let WorldState { files, random, .. } = &mut *state;
        files[file.0].evict(order, |_| random.chance(part));
    }

    /// Memory is very short: all pages of a file go.
    pub fn evict_all(&self, file: FileId) {
        let mut state = self.state();
        let order = state.next_order();
        state.files[file.0].evict(order, |_| true);
    }

    /// The medium fails below a page of a file: it can be read for as long as it is in the page cache.
    pub fn fail_medium(&self, file: FileId, page: usize) {
        self.state().files[file.0].fail(page);
    }

    /// The most pages that a shard has waited for in one turn.
    pub fn most_faults_in_a_turn(&self) -> u64 {
        self.state().rings.iter().map(|ring| ring.faults.most_in_turn).max().unwrap_or(0)
    }

    /// Cuts a file to a size, or (`None`) restores what was cut off.
    pub fn cut(&self, file: FileId, size: Option<usize>) {
        self.state().files[file.0].cut(size);
    }

    /// True if a shard has waited for a page although it could know that the page cache had lost some.
    pub fn slept_in_vain(&self) -> bool {
        self.state().slept_in_vain
    }
}
