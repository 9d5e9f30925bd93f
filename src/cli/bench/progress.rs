//! The progress line on a terminal.

use std::io::{IsTerminal, Write};

use crate::cli::describe::{human_rate, human_time};
use crate::client::load::Interval;
use crate::client::load::results::empty_histogram;

/// One line on stderr, written over every second.
pub(super) struct Progress {
    all: hdrhistogram::Histogram<u64>,
}

/// Back to the start of the line, which is emptied.
const CLEAR: &str = "\r\x1b[2K";

impl Progress {
    /// Only when stderr is a terminal.
    pub(super) fn on_terminal() -> Option<Self> {
        std::io::stderr().is_terminal().then(|| Self { all: empty_histogram() })
    }

    pub(super) fn interval(&mut self, interval: &Interval<'_>) {
        self.all.reset();
        for latency in interval.latency {
            self.all.add(latency).expect("equal bounds");
        }
        let end = (interval.start + interval.length).as_secs();
        let per_second = self.all.len() as f64 / interval.length.as_secs_f64();
        let name = if interval.is_warm_up { "warm-up" } else { "running" };
        let at = |quantile| human_time(self.all.value_at_quantile(quantile));
        let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
        let rate = human_rate(per_second);
        write(&format!("{name} {end:>3} s  {rate:>7} IOPS  p50 {p50}  p99 {p99}  p99.9 {p999}"));
    }

    pub(super) fn reading_back(&mut self) {
        write("reading back what was written");
    }

    /// Leaves the line empty.
    pub(super) fn end(self) {
        write("");
    }
}

fn write(line: &str) {
    // A terminal that is gone does not end the run.
    let _ = write!(std::io::stderr(), "{CLEAR}{line}");
}
