//! The gates of the exports of a shard, and when to look at which.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use slab::Slab;

use crate::backend::ExportId;
use crate::ring::{OpKey, Operation, Owner, Ring};
use crate::shard::admission::gate::{ExportLimits, Gate, NumberedGate, SharedGate};

/// No timer is longer, so that none is left over for long.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Throttle {
    gates: Slab<NotedGate>,
    of_exports: HashMap<ExportId, usize>,
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
    /// Where it stands in `due`.
    due: Option<u64>,
}

impl Throttle {
    pub(crate) fn new(changed: Arc<AtomicBool>) -> Self {
        let (gates, of_exports) = (Slab::new(), HashMap::new());
        Self { gates, of_exports, due: BTreeSet::new(), timer: None, changed }
    }

    /// The gate for one more connection of an export, and its number.
    pub(crate) fn enter(&mut self, export: ExportId, limits: &Arc<ExportLimits>) -> NumberedGate {
        let known = self.of_exports.get(&export).copied();
        let number =
            known.filter(|number| self.gates[*number].gate.borrow().is_of(limits)).unwrap_or_else(|| {
                let gate = Rc::new(RefCell::new(Gate::new(Arc::clone(limits))));
                let number = self.gates.insert(NotedGate { gate, export, connections: 0, due: None });
                self.of_exports.insert(export, number);
                number
            });
        let noted = &mut self.gates[number];
        noted.connections += 1;
        NumberedGate { gate: Rc::clone(&noted.gate), number }
    }

    /// A connection is gone.
    pub(crate) fn leave(&mut self, number: usize, now: u64) {
        let noted = &mut self.gates[number];
        noted.connections -= 1;
        if noted.connections > 0 {
            return self.note(number, now);
        }
        let NotedGate { export, due, .. } = self.gates.remove(number);
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

    /// Has all gates take over the rates that are in force, if those have changed.
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
        true
    }

    /// A gate before which a connection may go on now.
    pub(crate) fn first_due(&self, now: u64) -> Option<NumberedGate> {
        let &(due, number) = self.due.first()?;
        (due <= now).then(|| NumberedGate { gate: Rc::clone(&self.gates[number].gate), number })
    }
}
