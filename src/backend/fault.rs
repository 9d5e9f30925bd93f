//! Faults in front of a device: requests that come late, fail, or fail half-way. For tests of guests, clients
//! and of this server.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use crate::block::{BlockError, ByteRange, CommandKind};
use crate::config::FaultOptions;
use crate::config::fault_options::Stall;
use crate::random::{Random, STEP};
use crate::ring::Ring;

/// One `fault:` of an export, on one shard.
#[derive(Debug)]
pub(super) struct Fault {
    options: FaultOptions,
    dice: RefCell<Random>,
    /// Requests that it hit.
    hits: Cell<u64>,
    /// When the stall ends, on the ring's clock, once it has begun.
    stalled_until: Cell<Duration>,
}

/// What a fault does to a request after its delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Pass,
    /// It fails at once.
    Fail(BlockError),
    /// It fails after so many of its bytes were moved.
    FailAfter(u64, BlockError),
}

impl Fault {
    /// The same options roll different dice on each shard, and the same in every run.
    pub(super) fn new(options: FaultOptions, shard: usize) -> Self {
        let dice = Random::new(options.seed.wrapping_add((shard as u64).wrapping_mul(STEP)));
        let dice = RefCell::new(dice);
        Self { options, dice, hits: Cell::new(0), stalled_until: Cell::new(Duration::ZERO) }
    }

    /// Delays a request and decides about it. `range` is `None` for FLUSH.
    pub(super) async fn meet(&self, command: CommandKind, range: Option<ByteRange>, ring: &Ring) -> Verdict {
        let hit = match (self.options.range, range) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(faulty), Some(range)) => faulty.overlaps(range),
        };
        if !hit {
            return Verdict::Pass;
        }
        self.hits.set(self.hits.get() + 1);
        assert!(self.options.panic != Some(self.hits.get()), "fault: a panic was asked for");
        if let Some(stall) = self.options.stall {
            self.stall(stall, ring).await;
        }
        if let Some(delay) = self.options.delays.get(command) {
            ring.sleep(delay).await;
        }
        let Some(error) = self.options.errors.get(command) else { return Verdict::Pass };
        if self.dice.borrow_mut().fraction() >= error.probability {
            return Verdict::Pass;
        }
        let kind = BlockError::from_errno(error.errno);
        let moves = matches!(command, CommandKind::Read | CommandKind::Write);
        match (self.options.after, range) {
            // A request that ends before that point is not touched.
            (Some(after), Some(range)) if moves && range.length() <= after => Verdict::Pass,
            (Some(after), Some(_)) if moves => Verdict::FailAfter(after, kind),
            _ => Verdict::Fail(kind),
        }
    }

    /// Begins the stall when it is time, and waits for its end while it lasts.
    async fn stall(&self, stall: Stall, ring: &Ring) {
        let now = ring.now();
        if self.hits.get() == stall.at {
            self.stalled_until.set(now.saturating_add(stall.duration));
        }
        if let Some(rest) = self.stalled_until.get().checked_sub(now).filter(|rest| !rest.is_zero()) {
            ring.sleep(rest).await;
        }
    }
}
