//! Faults in front of a device: requests that come late, fail, or fail half-way. For tests of guests, clients and of this server.

use std::cell::Cell;
use std::time::Duration;

use crate::block::{BlockError, ByteRange, CommandKind};
use crate::config::FaultOptions;
use crate::config::fault_options::Stall;
use crate::ring::Ring;

/// One `fault:` of an export, on one shard.
#[derive(Debug)]
pub(super) struct Fault {
    options: FaultOptions,
    dice: Cell<u64>,
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
        let dice = Cell::new(options.seed.wrapping_add((shard as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
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
        if self.roll() >= error.probability {
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

    /// A number from 0 to below 1 (SplitMix64, public domain).
    fn roll(&self) -> f64 {
        let state = self.dice.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.dice.set(state);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}
