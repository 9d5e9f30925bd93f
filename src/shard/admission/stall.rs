//! Evicts clients that hold memory and move nothing while others starve.
//!
//! Buffer memory, receive buffers and room for replies belong to all connections of a shard. A client that
//! does not fetch its replies, or does not send the payload that it announced, keeps its share as long as it
//! likes: that may be a paused virtual machine. But when another connection has waited for
//! [`Limits::stall_timeout`](crate::config::Limits::stall_timeout) and got nothing, every client that is that
//! far behind the least rate is disconnected.
//!
//! **Progress is bytes.** The least rate is what gives back, within [`DRAIN_SECONDS`], all memory that waits
//! for the client: for the payload that it sends, and for the replies that it fetches, each judged by itself.
//! So 32 MiB at 2 MiB/s are honest, however long that takes, and a byte now and then is not. Receives are cut
//! into steps ([`RECEIVE_STEP`]) so that each is seen as progress.
//!
//! The shard looks once a second, and only while some connection waits. Those that are not received from
//! meanwhile are looked at as well: see [`hang_up`](crate::shard::frontend::nbd::hang_up).

use crate::ring::UNIT;

/// While others starve, what a client keeps must come free within so many seconds at the rate at which it
/// moves bytes.
const DRAIN_SECONDS: u64 = 64;
/// The longest receive into a lease. At the least rate of a long payload, and at 64 KiB/s of any other, one
/// ends before a stall timeout of ten seconds is over.
pub(crate) const RECEIVE_STEP: u32 = 512 << 10;

/// What a client keeps and has to move in one direction: the rest of a payload, or its replies.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Bytes moved since the last look.
    moved: u64,
    /// Bytes that it should have moved by now beyond those that it did, at the least rate for `owed`.
    behind: u64,
    /// Bytes that it had to move between the last two looks.
    owed: u64,
}

impl Pace {
    /// Bytes were received from the client, or sent to it.
    pub(crate) fn moved(&mut self, bytes: u64) {
        self.moved += if canary!(ProgressCountsReplies) { 0 } else { bytes };
    }

    /// A look: `held` bytes of memory are up to the client in this direction, or (`None`) nothing is.
    ///
    /// When it came to hold more, it is behind by the same number of bytes, which is less time: one that has
    /// just got what it waited for begins anew. When it holds less, it is behind by the same time.
    fn look(&mut self, held: Option<u64>) {
        let moved = std::mem::take(&mut self.moved);
        let Some(held) = held else {
            *self = Self::default();
            return;
        };
        let owed = (held + UNIT as u64).div_ceil(DRAIN_SECONDS);
        let behind = if owed < self.owed { self.behind * owed / self.owed } else { self.behind };
        *self = Self { moved: 0, behind: (behind + owed).saturating_sub(moved), owed };
    }

    /// Whether it is behind by as much as it owes in `looks` looks.
    fn is_late(&self, looks: u32) -> bool {
        self.owed > 0 && self.behind >= self.owed * u64::from(looks)
    }
}

/// What the looks know of a connection.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Of the payload that it sends.
    pub(crate) inbound: Pace,
    /// Of the replies that it fetches.
    pub(crate) outbound: Pace,
    /// Since the last look a request was admitted.
    pub(crate) admitted: bool,
    /// Looks in a row at which it waited for others, and had got nothing.
    starved: u32,
}

impl Progress {
    /// A look at a connection that `waits` for others or not, and on whose client so many bytes depend in
    /// each direction. Looks in a row at which it starved.
    pub(crate) fn look(&mut self, waits: bool, [inbound, outbound]: [Option<u64>; 2]) -> u32 {
        self.inbound.look(inbound);
        self.outbound.look(outbound);
        let admitted = std::mem::take(&mut self.admitted);
        let starves = waits && !admitted && inbound.is_none() && outbound.is_none();
        self.starved = if starves { self.starved + 1 } else { 0 };
        self.starved
    }

    /// Whether it is behind in either direction by as much as it owes in `looks` looks.
    pub(crate) fn is_late(&self, looks: u32) -> bool {
        self.inbound.is_late(looks) || self.outbound.is_late(looks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOOKS: u32 = 10;
    const MIB: u64 = 1 << 20;

    /// Looks until a client is late that holds so much and moves `bytes` before each look.
    fn late_after(held: u64, bytes: u64, most: u32) -> Option<u32> {
        let mut pace = Pace::default();
        (1..=most).find(|_| {
            pace.moved(bytes);
            pace.look(Some(held));
            pace.is_late(LOOKS)
        })
    }

    #[test]
    fn slow_and_steady_stays_and_a_trickle_does_not() {
        assert_eq!(late_after(32 * MIB, 2 * MIB, 1000), None);
        assert_eq!(late_after(32 * MIB, 0, 1000), Some(LOOKS));
        assert_eq!(late_after(32 * MIB, 1, 1000), Some(LOOKS + 1), "a byte a second");
        assert_eq!(late_after(4096, 1, 1000), Some(LOOKS + 1));
        assert_eq!(late_after(0, 0, 1000), Some(LOOKS), "room for replies is worth something too");
        assert_eq!(late_after(32 * MIB, 256 << 10, 1000), Some(20), "half of the least rate");
    }

    #[test]
    fn whoever_gets_what_it_waited_for_begins_anew() {
        let mut pace = Pace::default();
        (0..9).for_each(|_| pace.look(Some(100_000)));
        // It gets its memory, and sends.
        for _ in 0..9 {
            pace.look(Some(32 * MIB));
            assert!(!pace.is_late(LOOKS));
        }
        pace.look(Some(32 * MIB));
        assert!(pace.is_late(LOOKS));
        // Nothing more is up to it.
        pace.look(None);
        assert!(!pace.is_late(LOOKS));
    }

    #[test]
    fn a_little_more_memory_is_no_new_beginning() {
        let mut pace = Pace::default();
        let late = (1..100).find(|look| {
            pace.look(Some(20 * MIB + look * 4096));
            pace.is_late(LOOKS)
        });
        assert_eq!(late, Some(u64::from(LOOKS) + 1));
    }

    proptest! {
        /// A steady client at the least rate and 64 KiB/s is never late, whatever the moments at which its
        /// steps end.
        #[test]
        fn nobody_who_keeps_the_least_rate_is_late(
            held in 0..64 * MIB, more in 0..MIB, phase in 0..u64::from(RECEIVE_STEP), looks in 1..500_u64
        ) {
            let step = u64::from(RECEIVE_STEP);
            let rate = (held / DRAIN_SECONDS + 65).max(64 << 10) + more;
            let mut pace = Pace::default();
            let mut seen = 0;
            for look in 1..=looks {
                // Only whole steps are seen.
                let ended = (rate * look + phase) / step * step;
                pace.moved(ended - seen);
                seen = ended;
                pace.look(Some(held));
                prop_assert!(!pace.is_late(LOOKS), "{pace:?} at look {look}");
            }
        }

        /// Half of the least rate is too slow, however it is spread.
        #[test]
        fn whoever_moves_half_of_it_is_late(held in MIB..64 * MIB, burst in 1..5_u64) {
            let half = held / DRAIN_SECONDS / 2;
            let mut pace = Pace::default();
            let late = (1..=40_u64).any(|look| {
                pace.moved(if look % burst == 0 { half * burst } else { 0 });
                pace.look(Some(held));
                pace.is_late(LOOKS)
            });
            prop_assert!(late, "{pace:?}");
        }

        /// What comes free as bytes move never makes a client late.
        #[test]
        fn memory_that_comes_back_makes_nobody_late(pieces in prop::collection::vec(1..4 * MIB, 1..64)) {
            let mut pace = Pace::default();
            let mut held: u64 = pieces.iter().sum();
            let mut unsent = 0;
            for piece in pieces {
                unsent += piece;
                // At the least rate; a lease comes back at once when all of it is sent.
                loop {
                    let moved = (held + UNIT as u64).div_ceil(DRAIN_SECONDS);
                    if moved > unsent {
                        break;
                    }
                    unsent -= moved;
                    pace.moved(moved);
                    pace.look(Some(held));
                    prop_assert!(!pace.is_late(LOOKS), "{pace:?}");
                }
                held -= piece;
            }
        }
    }
}
