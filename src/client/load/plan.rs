//! Chooses the next operation, its place and its time. Pure: the time is an argument.

use crate::random::Random;

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoadKind {
    Read,
    Write,
    Trim,
    /// `NBD_CMD_FLUSH`; comes between the others, and counts as none of them.
    Flush,
}

impl LoadKind {
    pub const COUNT: usize = 4;
    /// All, in the order of their index.
    pub const ALL: [Self; Self::COUNT] = [Self::Read, Self::Write, Self::Trim, Self::Flush];

    /// As logs and reports call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Trim => "trim",
            Self::Flush => "flush",
        }
    }
}

/// What the operations are and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// Random places in the area; else one stream through it, repeated, which all connections share.
    pub is_random: bool,
    /// How many of 100 operations are reads.
    pub read_percent: u8,
    /// The others are TRIMs rather than WRITEs.
    pub trims: bool,
    /// A FLUSH after so many WRITEs of all connections.
    pub flush_after: Option<u32>,
}

impl Pattern {
    pub fn has(&self, kind: LoadKind) -> bool {
        match kind {
            LoadKind::Read => self.read_percent > 0,
            LoadKind::Write => self.read_percent < 100 && !self.trims,
            LoadKind::Trim => self.read_percent < 100 && self.trims,
            LoadKind::Flush => self.flush_after.is_some(),
        }
    }
}

/// The working area, in whole blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Of its first byte, from the start of the export.
    pub offset: u64,
    /// Bytes of one operation.
    pub block_size: u32,
    /// Blocks, at least 1.
    pub blocks: u64,
}

impl Area {
    /// Where a block begins, in bytes from the start of the export.
    pub const fn offset_of(&self, block: u64) -> u64 {
        self.offset + block * self.block_size as u64
    }
}

/// An operation to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) kind: LoadKind,
    /// Of the area.
    pub(super) block: u64,
    /// When it should start; `None`: now, whenever that is.
    pub(super) intended: Option<u64>,
}

/// What the plan says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlanStep {
    Start(Planned),
    /// Nothing before that time.
    At(u64),
    /// All blocks that came up are in use by operations in flight: ask again when one is finished.
    InUse,
    Over,
}

/// The sequence of operations. All times are nanoseconds of one clock.
#[derive(Debug)]
pub(super) struct Plan {
    pattern: Pattern,
    area: Area,
    random: Random,
    cursor: u64,
    pacer: Option<Pacer>,
    /// No operation starts then or later.
    end: u64,
    /// Operations that may still start.
    left: u64,
    /// Drawn, but its block was in use.
    drawn: Option<LoadKind>,
    /// WRITEs since the last FLUSH.
    unflushed: u32,
}

/// How often a random block that is in use is replaced before the plan waits.
const DRAWS: u32 = 16;

impl Plan {
    pub(super) fn new(pattern: Pattern, area: Area, seed: u64) -> Self {
        let random = Random::new(seed);
        Self {
            pattern,
            area,
            random,
            cursor: 0,
            pacer: None,
            end: u64::MAX,
            left: u64::MAX,
            drawn: None,
            unflushed: 0,
        }
    }

    /// From now on `operations` more may start, all of them before `end`.
    pub(super) fn limit(&mut self, operations: u64, end: u64) {
        self.left = operations;
        self.end = end;
    }

    /// From now on, operations start at times that the pacer gives.
    pub(super) fn pace(&mut self, pacer: Option<Pacer>) {
        self.pacer = pacer;
    }

    /// No operation starts then or later.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether no operation will start any more.
    pub(super) fn is_over(&self, now: u64) -> bool {
        self.left == 0 || now >= self.end
    }

    /// The next operation. `take` says for each candidate block whether it can be used now; an accepted block
    /// is started.
    #[inline]
    pub(super) fn next(&mut self, now: u64, mut take: impl FnMut(LoadKind, u64) -> bool) -> PlanStep {
        if self.is_over(now) {
            return PlanStep::Over;
        }
        if self.pattern.flush_after.is_some_and(|writes| self.unflushed >= writes) {
            self.unflushed = 0;
            return PlanStep::Start(Planned { kind: LoadKind::Flush, block: 0, intended: None });
        }
        let intended = self.pacer.as_ref().map(Pacer::next_start);
        match intended {
            Some(start) if start >= self.end => return PlanStep::Over,
            Some(start) if start > now => return PlanStep::At(start),
            _ => {}
        }
        let Some((kind, block)) = self.draw(&mut take) else { return PlanStep::InUse };
        self.left -= 1;
        self.unflushed += u32::from(kind == LoadKind::Write && self.pattern.flush_after.is_some());
        if let Some(pacer) = &mut self.pacer {
            pacer.started += 1;
        }
        PlanStep::Start(Planned { kind, block, intended })
    }

    /// WRITE or TRIM, as the pattern says.
    fn other(&self) -> LoadKind {
        if self.pattern.trims { LoadKind::Trim } else { LoadKind::Write }
    }

    fn draw(&mut self, take: &mut impl FnMut(LoadKind, u64) -> bool) -> Option<(LoadKind, u64)> {
        // A kind that had to wait comes next; otherwise the mix would drift towards kinds that wait less.
        let kind = self.drawn.take().unwrap_or_else(|| match self.pattern.read_percent {
            100 => LoadKind::Read,
            0 => self.other(),
            percent if self.random.below(100) < u64::from(percent) => LoadKind::Read,
            _ => self.other(),
        });
        if !self.pattern.is_random {
            let block = self.cursor;
            if take(kind, block) {
                self.cursor = (block + 1) % self.area.blocks;
                return Some((kind, block));
            }
        } else {
            for _ in 0..DRAWS {
                let block = self.random.below(self.area.blocks);
                if take(kind, block) {
                    return Some((kind, block));
                }
            }
        }
        self.drawn = Some(kind);
        None
    }

    /// Operations whose time had come by `now` (or by the end of the plan) and that did not start.
    pub(super) fn overdue(&self, now: u64) -> u64 {
        let until = now.min(self.end);
        self.pacer
            .as_ref()
            .map_or(0, |pacer| pacer.due_before(until).saturating_sub(pacer.started))
            .min(self.left)
    }
}

/// Evenly spaced intended start times, whatever the server does: the open loop.
#[derive(Debug, Clone)]
pub(super) struct Pacer {
    begin: u64,
    per_second: u64,
    started: u64,
}

const SECOND: u128 = 1_000_000_000;

impl Pacer {
    /// `per_second` operations, at least 1, the first at `begin`.
    pub(super) fn new(begin: u64, per_second: u64) -> Self {
        Self { begin, per_second, started: 0 }
    }

    /// Never rounded twice, so that the rate is exact in the long run.
    fn next_start(&self) -> u64 {
        self.begin + (u128::from(self.started) * SECOND / u128::from(self.per_second)) as u64
    }

    /// Intended starts before `time`.
    fn due_before(&self, time: u64) -> u64 {
        let elapsed = u128::from(time.saturating_sub(self.begin));
        u64::try_from((elapsed * u128::from(self.per_second)).div_ceil(SECOND)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AREA: Area = Area { offset: 4096, block_size: 512, blocks: 100 };
    const WRITES: Pattern = Pattern { is_random: false, read_percent: 0, trims: false, flush_after: None };
    const RANDOM_READS: Pattern = Pattern { is_random: true, read_percent: 100, ..WRITES };

    fn started(next: PlanStep) -> Planned {
        match next {
            PlanStep::Start(planned) => planned,
            other => panic!("{other:?}"),
        }
    }

    /// An injected clock: every intended start is reported exactly, however late it is asked for.
    #[test]
    fn intended_starts_do_not_depend_on_when_they_are_asked_for() {
        let mut plan = Plan::new(RANDOM_READS, AREA, 1);
        plan.pace(Some(Pacer::new(1_000, 3)));
        assert_eq!(plan.next(0, |_, _| true), PlanStep::At(1_000));
        let second = 1_000_000_000;
        // Nothing for ten seconds, as if the server stalled: all that was due then still has its own time.
        let mut now = 1_000;
        for index in 0..30u64 {
            if index == 1 {
                now = 10 * second + 1_000;
            }
            let planned = started(plan.next(now, |_, _| true));
            assert_eq!(planned.intended, Some(1_000 + index * second / 3), "start {index}");
        }
        assert_eq!(started(plan.next(now, |_, _| true)).intended, Some(now));
        assert_eq!(plan.next(now, |_, _| true), PlanStep::At(1_000 + 31 * second / 3));
    }

    #[test]
    fn the_rate_is_exact_in_the_long_run() {
        let mut plan = Plan::new(RANDOM_READS, AREA, 1);
        plan.pace(Some(Pacer::new(0, 123_457)));
        plan.limit(u64::MAX, 2_000_000_000);
        let mut count = 0;
        while let PlanStep::Start(_) = plan.next(1_999_999_999, |_, _| true) {
            count += 1;
        }
        assert_eq!(count, 2 * 123_457);
        assert_eq!(plan.next(2_000_000_000, |_, _| true), PlanStep::Over);
    }

    #[test]
    fn what_was_due_and_did_not_start_is_counted() {
        let mut plan = Plan::new(RANDOM_READS, AREA, 1);
        plan.pace(Some(Pacer::new(0, 1_000)));
        plan.limit(u64::MAX, 1_000_000_000);
        for _ in 0..10 {
            started(plan.next(500_000_000, |_, _| true));
        }
        assert_eq!(plan.overdue(500_000_000), 490, "0 ms to 499 ms, less ten");
        assert_eq!(plan.overdue(5_000_000_000), 990, "nothing is due after the end");
        plan.limit(3, 1_000_000_000);
        assert_eq!(plan.overdue(5_000_000_000), 3, "no more than may start");
    }

    #[test]
    fn a_stream_goes_round_and_a_limit_ends_it() {
        let mut plan = Plan::new(WRITES, AREA, 1);
        plan.limit(205, u64::MAX);
        for index in 0..205 {
            let planned = started(plan.next(0, |_, _| true));
            assert_eq!((planned.kind, planned.block), (LoadKind::Write, index % 100));
        }
        assert_eq!(plan.next(0, |_, _| true), PlanStep::Over);
        assert_eq!(AREA.offset_of(2), 5120);
    }

    #[test]
    fn the_mix_holds_even_where_writes_often_have_to_wait() {
        let mut plan = Plan::new(Pattern { is_random: true, read_percent: 70, ..WRITES }, AREA, 7);
        let (mut reads, mut writes, mut turn) = (0, 0, 0u32);
        while reads + writes < 10_000 {
            turn += 1;
            // Writes are only possible in one turn of four.
            match plan.next(0, |kind, _| kind == LoadKind::Read || turn.is_multiple_of(4)) {
                PlanStep::Start(Planned { kind: LoadKind::Read, .. }) => reads += 1,
                PlanStep::Start(Planned { kind: LoadKind::Write, .. }) => writes += 1,
                next => assert_eq!(next, PlanStep::InUse),
            }
        }
        assert!((6_800..7_200).contains(&reads), "{reads} reads, {writes} writes");
    }

    #[test]
    fn a_flush_follows_every_so_many_writes_and_takes_no_place_of_theirs() {
        let mut plan = Plan::new(Pattern { flush_after: Some(3), ..WRITES }, AREA, 1);
        plan.limit(7, u64::MAX);
        let mut kinds = Vec::new();
        while let PlanStep::Start(planned) = plan.next(0, |_, _| true) {
            kinds.push(planned.kind.name());
        }
        let wanted = ["write", "write", "write", "flush", "write", "write", "write", "flush", "write"];
        assert_eq!(kinds, wanted);
        let mut plan = Plan::new(Pattern { trims: true, ..WRITES }, AREA, 1);
        assert_eq!(started(plan.next(0, |_, _| true)).kind, LoadKind::Trim);
    }

    #[test]
    fn a_stream_waits_for_its_block_and_skips_none() {
        let mut plan = Plan::new(Pattern { read_percent: 100, ..WRITES }, AREA, 1);
        assert_eq!(started(plan.next(0, |_, _| true)).block, 0);
        assert_eq!(plan.next(0, |_, _| false), PlanStep::InUse);
        assert_eq!(started(plan.next(0, |_, _| true)).block, 1);
    }

    #[test]
    fn random_blocks_fill_the_area_and_depend_on_the_seed_only() {
        let blocks = |seed| -> Vec<u64> {
            let mut plan = Plan::new(RANDOM_READS, AREA, seed);
            (0..2_000).map(|_| started(plan.next(0, |_, _| true)).block).collect()
        };
        let all: std::collections::BTreeSet<u64> = blocks(3).into_iter().collect();
        assert_eq!(all, (0..100).collect());
        assert_eq!(blocks(3), blocks(3));
        assert_ne!(blocks(3), blocks(4));
    }
}
