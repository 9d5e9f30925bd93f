//! What to do next: which operation, where, and when. Pure: the time is an argument.

use super::random::Random;

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `NBD_CMD_READ`.
    Read,
    /// `NBD_CMD_WRITE`.
    Write,
}

impl Kind {
    /// Both, in the order of their index.
    pub const ALL: [Self; 2] = [Self::Read, Self::Write];

    /// `read` or `write`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// What the operations are and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// Anywhere in the area; else one stream through it, again and again, shared by all connections.
    pub is_random: bool,
    /// How many of 100 operations are reads.
    pub read_percent: u8,
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
    pub(super) kind: Kind,
    /// Of the area.
    pub(super) block: u64,
    /// When it should start; `None`: now, whenever that is.
    pub(super) intended: Option<u64>,
}

/// What the plan says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Start it.
    Start(Planned),
    /// Nothing before that time.
    At(u64),
    /// All blocks that came up are in use by operations in flight: ask again when one is finished.
    InUse,
    /// No more.
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
    drawn: Option<Kind>,
}

/// How often a random block that is in use is replaced before the plan waits.
const DRAWS: u32 = 16;

impl Plan {
    pub(super) fn new(pattern: Pattern, area: Area, seed: u64) -> Self {
        let random = Random::new(seed);
        Self { pattern, area, random, cursor: 0, pacer: None, end: u64::MAX, left: u64::MAX, drawn: None }
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

    /// The next operation. `take` is asked for each block that comes up whether it can be used now; one that it grants is started.
    #[inline]
    pub(super) fn next(&mut self, now: u64, mut take: impl FnMut(Kind, u64) -> bool) -> Next {
        if self.is_over(now) {
            return Next::Over;
        }
        let intended = self.pacer.as_ref().map(Pacer::next_start);
        match intended {
            Some(start) if start >= self.end => return Next::Over,
            Some(start) if start > now => return Next::At(start),
            _ => {}
        }
        let Some((kind, block)) = self.draw(&mut take) else { return Next::InUse };
        self.left -= 1;
        if let Some(pacer) = &mut self.pacer {
            pacer.started += 1;
        }
        Next::Start(Planned { kind, block, intended })
    }

    fn draw(&mut self, take: &mut impl FnMut(Kind, u64) -> bool) -> Option<(Kind, u64)> {
        // A kind that had to wait comes next, or the mix would drift towards what waits less.
        let kind = self.drawn.take().unwrap_or_else(|| match self.pattern.read_percent {
            100 => Kind::Read,
            0 => Kind::Write,
            percent if self.random.below(100) < u64::from(percent) => Kind::Read,
            _ => Kind::Write,
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
        (elapsed * u128::from(self.per_second)).div_ceil(SECOND) as u64
    }
}
