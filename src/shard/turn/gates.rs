//! The gates of the exports of a shard, and when to look at which; the lines before their devices.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use slab::Slab;

use crate::backend::{Backing, ExportId};
use crate::ring::{OpKey, Operation, Owner, Ring};
use crate::shard::admission::gate::{ExportLimits, Gate, NumberedGate, SharedGate};
use crate::shard::admission::rate::RATES;
use crate::shard::admission::share::{DeviceLine, Weighing};

/// No timer is longer, so that none is left over for long.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Throttle {
    gates: Slab<NotedGate>,
    of_exports: HashMap<ExportId, usize>,
    weighing: Rc<Weighing>,
    lines: Slab<NotedLine>,
    of_devices: HashMap<DeviceKey, usize>,
    /// How much a device is given.
    depth: usize,
    /// There is a rate or a weight, or something still waits for one; it may stay set when the last export
    /// with one has left. Looked at before all else, so that a shard without them asks one question a phase.
    in_force: bool,
    /// Gates before which connections wait, by the moment at which the first may go on.
    due: BTreeSet<(u64, usize)>,
    /// The timer in flight that ends first, and when.
    timer: Option<(OpKey, u64)>,
    /// Rates have changed; the control plane says so.
    changed: Arc<AtomicBool>,
}

struct NotedGate {
    gate: SharedGate,
    export: ExportId,
    connections: usize,
    /// The number of its device's line.
    queue: usize,
    /// Where it stands in `due`.
    due: Option<u64>,
}

/// The line before a device.
pub(crate) type SharedLine = Rc<RefCell<DeviceLine>>;

struct NotedLine {
    queue: SharedLine,
    device: DeviceKey,
    gates: usize,
}

/// What tells devices apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum DeviceKey {
    Shared(Backing),
    Of(ExportId),
}

impl Throttle {
    pub(crate) fn new(changed: Arc<AtomicBool>, depth: usize) -> Self {
        Self {
            gates: Slab::new(),
            of_exports: HashMap::new(),
            weighing: Rc::default(),
            lines: Slab::new(),
            of_devices: HashMap::new(),
            depth,
            in_force: false,
            due: BTreeSet::new(),
            timer: None,
            changed,
        }
    }

    /// The gate for one more connection of an export, and its number; what the device works on.
    pub(crate) fn enter(
        &mut self,
        export: ExportId,
        backing: Backing,
        limits: &Arc<ExportLimits>,
    ) -> (NumberedGate, Rc<Cell<usize>>) {
        let known = self.of_exports.get(&export).copied();
        let number =
            known.filter(|number| self.gates[*number].gate.borrow().is_of(limits)).unwrap_or_else(|| {
                let queue = self.enter_line(export, backing);
                let shared = Rc::clone(&self.lines[queue].queue);
                let gate = Gate::new(Arc::clone(limits), shared);
                self.in_force |= gate.is_limited() || self.weighing.is_due();
                let gate = Rc::new(RefCell::new(gate));
                let number = self.gates.insert(NotedGate { gate, export, connections: 0, queue, due: None });
                self.of_exports.insert(export, number);
                number
            });
        let noted = &mut self.gates[number];
        noted.connections += 1;
        let load = self.lines[noted.queue].queue.borrow().load();
        (NumberedGate { gate: Rc::clone(&noted.gate), number }, load)
    }

    /// The number of the line before a device, for one more export.
    fn enter_line(&mut self, export: ExportId, backing: Backing) -> usize {
        let device =
            if backing == Backing::Alone { DeviceKey::Of(export) } else { DeviceKey::Shared(backing) };
        let number = *self.of_devices.entry(device).or_insert_with(|| {
            let entry = self.lines.vacant_entry();
            let number = entry.key();
            let queue = Rc::new(RefCell::new(DeviceLine::new(&self.weighing, number, self.depth)));
            entry.insert(NotedLine { queue, device, gates: 0 });
            number
        });
        self.lines[number].gates += 1;
        number
    }

    fn leave_line(&mut self, number: usize) {
        let noted = &mut self.lines[number];
        noted.gates -= 1;
        if noted.gates == 0 {
            let NotedLine { device, .. } = self.lines.remove(number);
            self.of_devices.remove(&device);
            self.weighing.forget(number);
        }
    }

    /// What all lines of devices have in common.
    pub(crate) fn weighing(&self) -> &Weighing {
        &self.weighing
    }

    /// The next line in which something waits, which is on the list no more.
    pub(crate) fn next_line(&self) -> Option<SharedLine> {
        self.weighing.next_listed().map(|number| Rc::clone(&self.lines[number].queue))
    }

    /// Whether something that waits for its turn may begin in the next turn of the shard.
    #[inline]
    pub(crate) fn may_deal(&self) -> bool {
        self.is_in_force()
            && self.weighing.is_due()
            && self.weighing.is_any(|number| self.lines[number].queue.borrow().may_go_on())
    }

    /// A connection is gone.
    pub(crate) fn leave(&mut self, number: usize, now: u64) {
        let noted = &mut self.gates[number];
        noted.connections -= 1;
        if noted.connections > 0 {
            return self.note(number, now);
        }
        let NotedGate { export, due, queue, .. } = self.gates.remove(number);
        self.leave_line(queue);
        if let Some(due) = due {
            self.due.remove(&(due, number));
        }
        if self.of_exports.get(&export) == Some(&number) {
            self.of_exports.remove(&export);
        }
    }

    /// Something happened before a gate.
    pub(crate) fn note(&mut self, number: usize, now: u64) {
        let noted = &mut self.gates[number];
        let due = noted.gate.borrow_mut().due(now);
        if due == noted.due {
            return;
        }
        if let Some(before) = std::mem::replace(&mut noted.due, due) {
            self.due.remove(&(before, number));
        }
        self.due.extend(due.map(|due| (due, number)));
    }

    /// A timer of the shard has ended.
    pub(crate) fn timer_ended(&mut self, timer: OpKey) {
        if self.timer.is_some_and(|(own, _)| own == timer) {
            self.timer = None;
        }
    }

    /// Whether there is anything to do for a rate or a weight, now or later.
    #[inline]
    pub(crate) fn is_in_force(&self) -> bool {
        RATES && self.in_force
    }

    /// Looks whether it still is, when rates or weights have changed.
    pub(crate) fn look_whether_in_force(&mut self) {
        let is_limited = self.gates.iter().any(|(_, noted)| noted.gate.borrow().is_limited());
        self.in_force = is_limited || !self.due.is_empty() || self.weighing.is_due();
    }

    /// Sees to it that there is a turn when the next connection may go on.
    pub(crate) fn arm(&mut self, ring: &Ring) {
        let Some((due, _)) = self.due.first() else { return };
        let now = ring.now();
        let sleep = Duration::from_nanos(*due).saturating_sub(now).min(LONGEST_SLEEP);
        let end = (now + sleep).as_nanos() as u64;
        if self.timer.is_none_or(|(_, ends)| end < ends) {
            self.timer = Some((ring.push(Operation::sleep(sleep), Owner::Shard), end));
        }
    }

    /// Has all gates take over the rates and weights that are in force, if those have changed.
    pub(crate) fn renew(&mut self, now: u64) -> bool {
        // An exchange costs more than a look, each turn.
        if !self.changed.load(Ordering::Relaxed) || !self.changed.swap(false, Ordering::AcqRel) {
            return false;
        }
        let numbers: Vec<_> = self.gates.iter().map(|(number, _)| number).collect();
        for number in numbers {
            self.gates[number].gate.borrow_mut().renew();
            self.note(number, now);
        }
        self.look_whether_in_force();
        true
    }

    /// A gate before which a connection may go on now.
    pub(crate) fn first_due(&self, now: u64) -> Option<NumberedGate> {
        let &(due, number) = self.due.first()?;
        (due <= now).then(|| NumberedGate { gate: Rc::clone(&self.gates[number].gate), number })
    }
}
