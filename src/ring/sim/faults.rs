//! What goes wrong in a world, and how often.

use crate::random::Random;

/// Rates are probabilities from 0 to 1 of one operation; times are nanoseconds of the world's clock.
#[derive(Debug, Clone)]
pub struct Faults {
    /// An operation takes up to twice as long.
    pub latency_ns: u64,
    /// It takes fifty times as long.
    pub slow: f64,
    /// It moves less than asked: reads, writes, receives, and each step of a send.
    pub short: f64,
    /// `EINTR`.
    pub interrupted: f64,
    /// `EAGAIN`.
    pub again: f64,
    /// `EIO`; part of a write may have happened.
    pub io_error: f64,
    /// A sync cannot write everything back. In one of fifty writes the kernel notices by itself.
    pub lost_write_back: f64,
    /// `ENOSPC` of a write or an allocation; part of a write may have happened.
    pub no_space: f64,
    /// `ECANCELED` although nobody asked.
    pub canceled: f64,
    /// `ENOBUFS` although there is a receive buffer.
    pub no_buffers: f64,
    /// A send fails although the peer is there.
    pub cut_send: f64,
    /// Bytes that a send copies in one go: where a page of them cannot be had, none of them leaves. Linux
    /// fills a packet, 16 KiB or more; with 1 a send ends anywhere before the page.
    pub send_unit: usize,
    /// `fallocate` cannot punch holes.
    pub no_punch: bool,
    /// `fallocate` cannot zero ranges.
    pub no_zero_range: bool,
    /// Operations that one submission can take; more go to the kernel early.
    pub submission_entries: usize,
}

impl Faults {
    /// A world in which nothing fails, but everything takes its time.
    pub fn none() -> Self {
        Self {
            latency_ns: 50_000,
            slow: 0.02,
            short: 0.0,
            interrupted: 0.0,
            again: 0.0,
            io_error: 0.0,
            lost_write_back: 0.0,
            no_space: 0.0,
            canceled: 0.0,
            no_buffers: 0.0,
            cut_send: 0.0,
            send_unit: 1,
            no_punch: false,
            no_zero_range: false,
            submission_entries: 4096,
        }
    }

    /// Random rates. Each kind of fault occurs in some worlds only, so that it cannot hide another kind in
    /// all of them.
    pub fn any(random: &mut Random) -> Self {
        let mut rate =
            |most: f64| if random.chance(0.5) { 0.0 } else { most * random.below(100) as f64 / 100.0 };
        let (short, interrupted, again, slow) = (rate(0.6), rate(0.15), rate(0.15), rate(0.1));
        let (no_buffers, canceled, cut_send) = (rate(0.1), rate(0.01), rate(0.005));
        let (io_error, no_space) = (rate(0.05), rate(0.05));
        Self {
            latency_ns: random.pick(&[100, 5_000, 50_000, 1_000_000]),
            slow,
            short,
            interrupted,
            again,
            io_error,
            lost_write_back: io_error,
            no_space,
            canceled,
            no_buffers,
            cut_send,
            send_unit: 1,
            no_punch: random.chance(0.2),
            no_zero_range: random.chance(0.2),
            submission_entries: random.pick(&[1, 2, 5, 32, 4096]),
        }
    }

    /// How long an operation takes, or waits for its next step.
    pub(super) fn latency(&self, random: &mut Random) -> u64 {
        let time = 1 + random.below(2 * self.latency_ns);
        if random.chance(self.slow) { time * 50 } else { time }
    }
}
