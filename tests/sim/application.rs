//! Exports that are devices of an application: requests end late, in any order, some are dropped, and now and then its code panics.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringnbd::device::{
    ApplicationDevice, BlockingDevice, CommandKind, DeviceFacts, DeviceQueue, DeviceRequest, Extent,
    FastDevice, Immediate, IoFlags, Preview,
};
use ringnbd::internal::ring::sim::{Faults, Random, World};

use super::plan::{Plan, Restart};
use super::run::weighing::WeightPlan;
use super::run::{self, Report};

/// How an export of an application behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) blocking: bool,
    /// How often it loses a request, and how often it panics at one.
    pub(crate) drops: f64,
    pub(crate) panics: f64,
    /// How often a request ends when it is handed over.
    pub(crate) hurries: f64,
}

/// Runs a seed in a world whose exports are an application's for the most part.
pub(crate) fn worlds(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed ^ 0xa99);
    let faults = if random.chance(0.3) { Faults::none() } else { Faults::any(&mut random) };
    let world = World::new(random.number(), faults.clone());
    let mut plan = Plan::random(&mut random);
    for disk in &mut plan.disks {
        if random.chance(0.8) {
            (disk.alignment, disk.sector) = (None, None);
            disk.application = Some(Manner {
                blocking: random.chance(0.3),
                drops: random.pick(&[0.0, 0.0, 0.05]),
                panics: random.pick(&[0.0, 0.0, 0.002]),
                hurries: random.pick(&[0.0, 0.1, 0.9]),
            });
        }
    }
    plan.restarts = Restart::some(seed ^ 0xa99);
    run::run_plan(random, world, faults, WeightPlan::added_to(WeightPlan::some(seed), plan))
}

/// What the application knows of one export, on all shards.
pub(crate) struct Disk {
    size: u64,
    read_only: bool,
    manner: Manner,
    state: Mutex<State>,
}

struct State {
    content: Vec<u8>,
    /// Requests that have not ended.
    kept: Vec<DeviceRequest>,
    random: Random,
}

impl Disk {
    pub(crate) fn new(
        content: Vec<u8>,
        size: u64,
        read_only: bool,
        manner: Manner,
        random: Random,
    ) -> Arc<Self> {
        let state = Mutex::new(State { content, kept: Vec::new(), random });
        Arc::new(Self { size, read_only, manner, state })
    }

    /// The same for another server. Requests that it has are lost.
    pub(crate) fn again(&self, random: Random) -> Arc<Self> {
        Self::new(self.content(), self.size, self.read_only, self.manner, random)
    }

    pub(crate) fn device(self: &Arc<Self>) -> ApplicationDevice {
        let disk = Shared(Arc::clone(self));
        if self.manner.blocking { ApplicationDevice::blocking(disk) } else { ApplicationDevice::fast(disk) }
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        self.state().content.clone()
    }

    /// Ends one of its requests; false when it has none.
    pub(crate) fn step(&self) -> bool {
        let mut state = self.state();
        if state.kept.is_empty() {
            return false;
        }
        let kept = state.kept.len() as u64;
        let which = state.random.below(kept) as usize;
        let request = state.kept.swap_remove(which);
        let lost = state.random.chance(self.manner.drops);
        match lost {
            true => drop(request),
            false => state.carry_out(request),
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Perhaps throws, past the panic hook: nobody wants to read of it.
    fn may_panic(&self) {
        let panics = self.state().random.chance(self.manner.panics);
        if panics {
            std::panic::resume_unwind(Box::new("a device of the application panics"));
        }
    }
}

impl State {
    fn range(&mut self, offset: u64, length: u64) -> &mut [u8] {
        &mut self.content[offset as usize..][..length as usize]
    }

    fn carry_out(&mut self, mut request: DeviceRequest) {
        let (offset, length) = (request.offset(), request.length());
        match request.command() {
            CommandKind::Read => request.buffer().copy_from_slice(self.range(offset, length)),
            CommandKind::Write => self.range(offset, length).copy_from_slice(request.data()),
            CommandKind::Trim | CommandKind::WriteZeroes => self.range(offset, length).fill(0),
            CommandKind::BlockStatus => {
                let extents = extents(self.range(offset, length));
                return request.complete_with_extents(extents);
            }
            CommandKind::Flush | CommandKind::Cache => {}
        }
        request.complete();
    }
}

/// As an application may tell it: not merged, with empty ones in between, and beyond the end.
fn extents(bytes: &[u8]) -> Vec<Extent> {
    let run = |bytes: &[u8]| {
        let zero = bytes.iter().all(|byte| *byte == 0);
        Extent { length: bytes.len() as u64, hole: zero, zero }
    };
    let runs = bytes.chunks(64).flat_map(|bytes| [run(bytes), Extent { length: 0, hole: true, zero: true }]);
    runs.chain([Extent { length: u64::MAX, hole: false, zero: false }]).collect()
}

struct Shared(Arc<Disk>);

impl Shared {
    fn facts(&self) -> DeviceFacts {
        DeviceFacts { read_only: self.0.read_only, fast_zero: true, ..DeviceFacts::new(self.0.size) }
    }
}

impl FastDevice for Shared {
    fn facts(&self) -> DeviceFacts {
        self.facts()
    }

    fn open(&self, _shard: usize) -> io::Result<Box<dyn DeviceQueue>> {
        Ok(Box::new(Shared(Arc::clone(&self.0))))
    }
}

impl DeviceQueue for Shared {
    fn immediate(&mut self, request: &Preview) -> Option<Immediate> {
        self.0.may_panic();
        let mut state = self.0.state();
        let bytes = state.range(request.offset, request.length);
        let is_zero = request.command == CommandKind::Read && bytes.iter().all(|byte| *byte == 0);
        is_zero.then_some(Immediate::Zeroes)
    }

    fn submit(&mut self, request: DeviceRequest) {
        self.0.may_panic();
        let mut state = self.0.state();
        match state.random.chance(self.0.manner.hurries) {
            true => state.carry_out(request),
            false => state.kept.push(request),
        }
    }

    fn commit(&mut self) {
        self.0.may_panic();
        let hurries = self.0.manner.hurries;
        if self.0.state().random.chance(hurries) {
            self.0.step();
        }
    }
}

impl BlockingDevice for Shared {
    fn size(&self) -> u64 {
        self.0.size
    }

    fn facts(&self) -> DeviceFacts {
        self.facts()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.may_panic();
        buffer.copy_from_slice(self.0.state().range(offset, buffer.len() as u64));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.may_panic();
        let mut state = self.0.state();
        state.range(offset, data.len() as u64).copy_from_slice(data);
        if state.random.chance(self.0.manner.drops) { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    }

    fn flush(&self) -> io::Result<()> {
        self.0.may_panic();
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64, _flags: IoFlags) -> io::Result<()> {
        self.0.state().range(offset, length).fill(0);
        Ok(())
    }

    fn status(&self, offset: u64, length: u64, _limit: usize) -> io::Result<Vec<Extent>> {
        Ok(extents(self.0.state().range(offset, length)))
    }
}
