//! Reads, writes, syncs and allocations of simulated files: when they take effect, and how they fail.

use super::work::{Event, SimWork, Transfer};
use super::world::WorldState;
use crate::block::ByteRange;
use crate::ring::operation::AllocateMode;

impl WorldState {
    /// `EINTR` or `EAGAIN`: nothing happened, try again.
    pub(super) fn small_fault(&mut self) -> Option<i32> {
        if self.random.chance(self.faults.interrupted) {
            return Some(libc::EINTR);
        }
        self.random.chance(self.faults.again).then_some(libc::EAGAIN)
    }

    /// An error after which a request fails.
    pub(super) fn large_fault(&mut self, takes_room: bool) -> Option<i32> {
        if self.random.chance(self.faults.io_error) {
            return Some(libc::EIO);
        }
        if takes_room && self.random.chance(self.faults.no_space) {
            return Some(libc::ENOSPC);
        }
        self.random.chance(self.faults.canceled).then_some(libc::ECANCELED)
    }

    /// How many bytes a transfer moves, and what it is told in the end.
    fn fate(&mut self, transfer: &Transfer) -> (usize, Result<u32, i32>) {
        let file = &self.files[transfer.file];
        let unit = if transfer.direct { file.alignment.map_or(1, |unit| unit as usize) } else { 1 };
        let rest = (file.size() as u64).saturating_sub(transfer.offset) as usize;
        let asked = transfer.memory.length;
        let range_is_aligned = asked.is_multiple_of(unit) && transfer.offset.is_multiple_of(unit as u64);
        if !range_is_aligned || !transfer.memory.is_aligned(unit) {
            return (0, Err(libc::EINVAL));
        }
        if let Some(errno) = self.small_fault() {
            return (0, Err(errno));
        }
        let length = if transfer.write { asked } else { asked.min(rest) };
        let start = transfer.offset as usize;
        if !transfer.write && length > 0 && !self.files[transfer.file].is_readable(start, start + length) {
            return (0, Err(libc::EIO));
        }
        if let Some(errno) = self.large_fault(transfer.write) {
            return (self.random.below(length as u64 + 1) as usize / unit * unit, Err(errno));
        }
        let moved = if length < unit { length } else { self.shortened(length / unit) * unit };
        (moved, Ok(moved as u32))
    }

    /// Plans a transfer: one or two moments at which it moves, and its end.
    pub(super) fn start_transfer(&mut self, serial: u64, transfer: &Transfer) {
        let (moved, result) = self.fate(transfer);
        let mut moment = self.unlocked(transfer.file, self.now);
        if transfer.write && !transfer.direct && self.files[transfer.file].alignment.is_some() {
            moment += self.latency() / 4;
            self.at(moment, serial, Event::Begin);
        }
        if moved > 0 {
            let unit =
                if transfer.direct { self.files[transfer.file].alignment.unwrap_or(1) as usize } else { 1 };
            let middle = self.random.below(moved as u64 + 1) as usize / unit * unit;
            for (start, end) in [(0, middle), (middle, moved)] {
                moment += self.latency() / 3;
                if start < end {
                    self.at(moment, serial, Event::Part { start, end });
                }
            }
        }
        moment += self.latency() / 3;
        self.at(moment, serial, Event::Complete(result));
    }

    fn transfer(&mut self, serial: u64) -> Transfer {
        let Some(SimWork::Transfer(transfer)) = self.work(serial) else {
            unreachable!("the kind of an operation does not change")
        };
        transfer.began = true;
        transfer.clone()
    }

    pub(super) fn begin_page_write(&mut self, serial: u64) {
        let transfer = self.transfer(serial);
        let start = transfer.offset as usize;
        self.files[transfer.file].begin_page_write(serial, start, start + transfer.memory.length);
    }

    /// Part of a transfer moves: the memory is what it is now.
    pub(super) fn transfer_part(&mut self, serial: u64, start: usize, end: usize) {
        let Transfer { file, direct, write, offset, memory, .. } = self.transfer(serial);
        let at = offset as usize + start;
        self.files[file].cache(at, at + end - start);
        if write {
            self.files[file].write(serial, at, memory.get(start, end - start), direct);
        } else {
            memory.put(start, self.files[file].bytes(at, at + end - start));
        }
    }

    /// Some of what was written could not be written back.
    pub(super) fn lose(&mut self, file: usize, range: Option<ByteRange>) {
        let completed = &self.completed;
        self.files[file].drop_dirty(range, &mut self.random, |writer| completed.contains_key(&writer));
    }

    /// A sync writes back, and then looks whether that, or anything before, has failed.
    pub(super) fn sync_file(&mut self, serial: u64) {
        let SimWork::Sync { file, description, range, order, written_back } = self.operations[&serial].work
        else {
            unreachable!("the kind of an operation does not change")
        };
        if written_back {
            let failed = self.files[file].tell(description);
            return self.complete(serial, if failed { Err(libc::EIO) } else { Ok(0) });
        }
        let canceled = self.random.chance(self.faults.canceled).then_some(libc::ECANCELED);
        if let Some(errno) = self.small_fault().or(canceled) {
            return self.complete(serial, Err(errno));
        }
        match self.random.chance(self.faults.lost_write_back) {
            true => self.lose(file, range),
            false => self.write_back(file, range, order),
        }
        let Some(SimWork::Sync { written_back, .. }) = self.work(serial) else {
            unreachable!("the kind of an operation does not change")
        };
        *written_back = true;
        self.try_later(serial);
    }

    /// What completed before `order` becomes durable, and by luck some of the rest.
    pub(super) fn write_back(&mut self, file: usize, range: Option<ByteRange>, order: u64) {
        let (completed, random) = (&self.completed, &mut self.random);
        let luck = random.pick(&[0.0, 0.5, 1.0]);
        self.files[file].harden(range, |writer| {
            completed.get(&writer).is_some_and(|end| *end < order) || random.chance(luck)
        });
    }

    /// Whether the disk has no such allocation.
    pub(super) fn lacks(&self, mode: AllocateMode) -> bool {
        match mode {
            AllocateMode::PunchHole => self.faults.no_punch,
            AllocateMode::ZeroRange => self.faults.no_zero_range,
            AllocateMode::Grow => false,
        }
    }

    /// Has an allocation done to a range; false when the range is not aligned.
    pub(super) fn allocate(
        &mut self,
        serial: u64,
        file: usize,
        range: ByteRange,
        mode: AllocateMode,
    ) -> bool {
        match mode {
            AllocateMode::Grow => {
                self.files[file].grow(serial, range.end() as usize);
                true
            }
            _ => self.files[file].zero(serial, range, mode == AllocateMode::ZeroRange),
        }
    }

    /// An allocation takes effect and completes.
    pub(super) fn change_file(&mut self, serial: u64) {
        let SimWork::Allocate { file, range, mode } = self.operations[&serial].work else {
            unreachable!("only allocations come here")
        };
        let takes_room = mode != AllocateMode::PunchHole;
        if let Some(errno) = self.small_fault().or_else(|| self.large_fault(takes_room)) {
            return self.complete(serial, Err(errno));
        }
        if self.lacks(mode) {
            return self.complete(serial, Err(libc::EOPNOTSUPP));
        }
        let done = self.allocate(serial, file, range, mode);
        self.complete(serial, if done { Ok(0) } else { Err(libc::EINVAL) });
    }

    /// What the end of an operation means for its file.
    pub(super) fn finish_file_work(
        &mut self,
        serial: u64,
        order: u64,
        work: &SimWork,
        result: Result<u32, i32>,
    ) {
        let file = match work {
            SimWork::Transfer(transfer) if transfer.write => {
                let range = ByteRange::new(transfer.offset, u64::from(result.unwrap_or(0)));
                self.files[transfer.file].end_page_write(serial, range.expect("within the file"));
                transfer.file
            }
            SimWork::Allocate { file, .. } => *file,
            SimWork::Names(_) => {
                self.completed.insert(serial, order);
                return;
            }
            _ => return,
        };
        self.completed.insert(serial, order);
        if matches!(work, SimWork::Transfer(transfer) if transfer.durable) && result.is_ok() {
            self.files[file].harden(None, |writer| writer == serial);
            self.files[file].harden_size(|writer| self.completed.contains_key(&writer));
        }
        // The kernel writes back by itself, too.
        if self.random.chance(self.faults.lost_write_back / 50.0) {
            self.lose(file, None);
        }
    }
}
