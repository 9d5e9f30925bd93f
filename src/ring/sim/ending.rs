//! How everything that runs in a world ends at once: the power fails, or the process is killed. What is left
//! is there for the next server in the same world.

use std::collections::BTreeSet;

use super::handle::{FileId, World};
use super::parts::RingState;
use super::work::{Event, SimWork, Transfer};
use super::world::WorldState;
use crate::block::ByteRange;

/// Bytes of which part of an allocation is a multiple.
const PART: u64 = 4096;

impl World {
    /// The power fails: all operations are gone, and files hold what survived.
    pub fn power_cut(&self) {
        self.state().power_cut();
    }

    /// The process is killed: all operations are gone, and the page cache stays. What it had handed to the
    /// kernel takes effect as a whole, in part, or not at all. It still has its memory: its shards must be
    /// dropped afterwards.
    pub fn process_death(&self) {
        self.state().process_death();
    }

    /// The machine of one server fails: operations of its ring are gone, and these files hold what survived.
    /// Its shard must be dropped afterwards. The other rings go on, which do nothing with those files.
    pub fn machine_fails(&self, ring: usize, files: &[FileId]) {
        let mut state = self.state();
        let state = &mut *state;
        state.forget_ring(ring);
        for file in files {
            state.locked.remove(&file.0);
            state.files[file.0].power_cut(&mut state.random);
        }
    }

    /// Makes all of a file durable, at once: for a server that starts, and syncs what the one before it has
    /// left. It must not have [lost data](World::has_lost_data).
    pub fn sync(&self, file: FileId) {
        self.state().files[file.0].harden(None, |_| true);
    }

    /// Writes to a file at once, through the page cache: as a server does that starts.
    pub(crate) fn write(&self, file: FileId, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        let order = state.next_order();
        state.completed.insert(order, order);
        state.files[file.0].write(order, offset as usize, bytes, false);
    }

    /// Gives a file at least a size, durably: what is new is a hole.
    pub fn lengthen(&self, file: FileId, size: u64) {
        let mut state = self.state();
        let order = state.next_order();
        let file = &mut state.files[file.0];
        file.grow(order, size as usize);
        file.harden_size(|writer| writer == order);
    }

    /// From now on writes behind the end of a file make it longer, as they do on Linux.
    pub fn grows(&self, file: FileId) {
        self.state().files[file.0].grows = true;
    }

    /// Whether data of a file was lost because it could not be written back, since the last power cut. A
    /// server that is started again is not told.
    pub fn has_lost_data(&self, file: FileId) -> bool {
        self.state().files[file.0].has_lost_data()
    }
}

impl WorldState {
    /// A ring goes, and with it the memory of its operations.
    pub(super) fn forget_ring(&mut self, ring: usize) {
        self.operations.retain(|_, operation| operation.ring != ring);
        self.rings[ring].clear();
    }

    fn power_cut(&mut self) {
        self.forget_all();
        for file in &mut self.files {
            file.power_cut(&mut self.random);
        }
        self.directories.power_cut(&mut self.random);
        // Not emptied: whoever still has some writes to nothing.
        self.shared_words.clear();
    }

    /// Nobody has anything in flight.
    fn forget_all(&mut self) {
        self.events.clear();
        self.operations.clear();
        self.locked.clear();
        self.rings.iter_mut().for_each(RingState::clear);
    }

    fn process_death(&mut self) {
        let luck = self.random.pick(&[0.0, 0.5, 0.9, 1.0]);
        let mut ended = BTreeSet::new();
        for (_, (serial, event)) in std::mem::take(&mut self.events) {
            if ended.contains(&serial) || !self.operations.contains_key(&serial) {
                continue;
            }
            match self.random.chance(luck) {
                true => self.last_effect(serial, &event),
                false => {
                    ended.insert(serial);
                    if self.random.chance(0.5) {
                        self.part_of_effect(serial, &event);
                    }
                }
            }
        }
        // Whatever they did is done: a later sync covers it.
        let order = self.next_order();
        for serial in self.operations.keys().copied().collect::<Vec<_>>() {
            if let SimWork::Transfer(Transfer { file, write: true, .. }) = self.operations[&serial].work {
                let nothing = ByteRange::new(0, 0).expect("an empty range");
                self.files[file].end_page_write(serial, nothing);
            }
            self.completed.insert(serial, order);
        }
        self.forget_all();
    }

    /// Something that was about to happen happens, though nobody will hear of it.
    fn last_effect(&mut self, serial: u64, event: &Event) {
        match (event, &self.operations[&serial].work) {
            (Event::Begin, _) => self.begin_page_write(serial),
            (Event::Part { start, end }, SimWork::Transfer(transfer)) if transfer.write => {
                self.transfer_part(serial, *start, *end);
            }
            (Event::Complete(Ok(_)), SimWork::Transfer(Transfer { file, durable: true, .. })) => {
                self.files[*file].harden(None, |writer| writer == serial);
            }
            (Event::Try, SimWork::Sync { file, range, order, written_back: false, .. }) => {
                let (file, range, order) = (*file, *range, *order);
                self.write_back(file, range, order);
            }
            (Event::Try, SimWork::Allocate { file, range, mode }) => {
                let (file, range, mode) = (*file, *range, *mode);
                if !self.lacks(mode) {
                    self.allocate(serial, file, range, mode);
                }
            }
            (Event::Try, SimWork::Names(work)) => {
                let work = work.clone();
                // Whether it could be done makes no difference to anybody.
                let _outcome = self.change_names(serial, &work);
            }
            _ => {}
        }
    }

    /// The first part of something that was about to happen.
    fn part_of_effect(&mut self, serial: u64, event: &Event) {
        match (event, &self.operations[&serial].work) {
            (Event::Part { start, end }, SimWork::Transfer(transfer)) if transfer.write => {
                let alignment = self.files[transfer.file].alignment.filter(|_| transfer.direct);
                let unit = alignment.map_or(1, |unit| unit as usize);
                let length = self.random.below((end - start) as u64) as usize / unit * unit;
                if length > 0 {
                    self.transfer_part(serial, *start, start + length);
                }
            }
            (Event::Try, SimWork::Allocate { file, range, mode }) => {
                let (file, range, mode) = (*file, *range, *mode);
                let length = self.random.below(range.length() + 1) / PART * PART;
                let part = ByteRange::new(range.offset(), length).filter(|part| !part.is_empty());
                if let Some(part) = part.filter(|_| !self.lacks(mode)) {
                    self.allocate(serial, file, part, mode);
                }
            }
            _ => {}
        }
    }
}
