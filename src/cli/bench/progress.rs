//! The progress line on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::text::{human_rate, human_time};
use crate::client::load::results::empty_histogram;
use crate::client::load::{LoadInterval, LoadKind, LoadOptions};

/// One line on stderr, redrawn every second and cut to the width of the terminal. Nothing is shown without a
/// terminal.
pub(super) struct ProgressLine {
    bar: ProgressBar,
    /// How long the run is, and how many operations it has, as far as that is limited.
    duration: Option<Duration>,
    operations: Option<u64>,
    done: u64,
    all: hdrhistogram::Histogram<u64>,
}

/// Parts of the whole that the bar tells apart.
const PARTS: u64 = 1000;
/// What the last interval must have at least to tell anything of a rate.
const SHORTEST: Duration = Duration::from_millis(500);

impl ProgressLine {
    /// Only when stderr is a terminal.
    pub(super) fn on_terminal(options: &LoadOptions) -> Option<Self> {
        let progress = Self::new(options, ProgressDrawTarget::stderr());
        (!progress.bar.is_hidden()).then_some(progress)
    }

    fn new(options: &LoadOptions, target: ProgressDrawTarget) -> Self {
        let style =
            ProgressStyle::with_template("{prefix} {bar:12} {wide_msg}").expect("the template is constant");
        let bar = ProgressBar::with_draw_target(Some(PARTS), target).with_style(style);
        let (duration, operations) = (options.duration, options.operations);
        Self { bar, duration, operations, done: 0, all: empty_histogram() }
    }

    pub(super) fn interval(&mut self, interval: &LoadInterval<'_>) {
        self.all.reset();
        for (kind, latency) in LoadKind::ALL.into_iter().zip(interval.latency) {
            if kind != LoadKind::Flush {
                self.all.add(latency).expect("equal bounds");
            }
        }
        let elapsed = interval.start + interval.length;
        if !interval.is_warm_up {
            self.done += self.all.len();
        }
        // What is left at the end is no second, and its rate is no rate.
        if interval.length < SHORTEST {
            return;
        }
        self.bar.set_prefix(if interval.is_warm_up { "warm-up" } else { "running" });
        let mut message = format!("{} s", elapsed.as_secs());
        if !interval.is_warm_up {
            let part = part_done(elapsed, self.duration, self.done, self.operations);
            self.bar.set_position((part * PARTS as f64) as u64);
            if let Some(left) = left(elapsed, part) {
                message = format!("{} s left", left.as_secs_f64().ceil());
            }
            if let Some(operations) = self.operations {
                message +=
                    &format!(", {} of {}", human_rate(self.done as f64), human_rate(operations as f64));
            }
        }
        let per_second = self.all.len() as f64 / interval.length.as_secs_f64();
        let at = |quantile| human_time(self.all.value_at_quantile(quantile));
        let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
        self.bar.set_message(format!(
            "{message}  {} IOPS  p50 {p50}  p99 {p99}  p99.9 {p999}",
            human_rate(per_second)
        ));
        self.bar.tick();
    }

    pub(super) fn reading_back(&mut self) {
        self.bar.set_prefix("reading back what was written");
        self.bar.set_message("");
        self.bar.tick();
    }

    /// Leaves the line empty.
    pub(super) fn end(self) {
        self.bar.finish_and_clear();
    }
}

/// How much of a run is over, from 0 to 1: of its time or of its operations, whichever ends it.
fn part_done(elapsed: Duration, duration: Option<Duration>, done: u64, operations: Option<u64>) -> f64 {
    let of_time = duration.map_or(0.0, |whole| elapsed.as_secs_f64() / whole.as_secs_f64().max(1e-9));
    let of_operations = operations.map_or(0.0, |whole| done as f64 / whole.max(1) as f64);
    of_time.max(of_operations).min(1.0)
}

/// How long it goes on if it goes on like that; `None` while nothing is done.
fn left(elapsed: Duration, part: f64) -> Option<Duration> {
    (part > 0.0).then(|| elapsed.mul_f64((1.0 - part) / part))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;
    use crate::client::load::{Pattern, Replies};

    /// A terminal that keeps what is written to it.
    #[derive(Debug, Clone)]
    struct Terminal {
        width: u16,
        text: Arc<Mutex<String>>,
    }

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            self.width
        }
        fn move_cursor_up(&self, _lines: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _lines: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _columns: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _columns: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, line: &str) -> io::Result<()> {
            self.write_str(&format!("{line}\n"))
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.text.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.write_str("\n")
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(width: u16, intervals: &[(u64, u64)]) -> Vec<String> {
        let options = LoadOptions {
            uri: "nbd://localhost/disk".parse().unwrap(),
            pattern: Pattern { is_random: true, read_percent: 100, trims: false, flush_after: None },
            block_size: 4096,
            depth: 1,
            connections: 1,
            rate: None,
            duration: Some(Duration::from_secs(60)),
            warm_up: Duration::ZERO,
            operations: Some(1_000_000),
            offset: 0,
            size: None,
            seed: 1,
            verify: false,
            replies: Replies::Best,
            timeouts: crate::client::Timeouts::default(),
            tls_renewal: None,
        };
        let terminal = Terminal { width, text: Arc::default() };
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let mut progress = ProgressLine::new(&options, target);
        let (mut latency, none, mut start) = (empty_histogram(), empty_histogram(), Duration::ZERO);
        for (milliseconds, operations) in intervals {
            latency.reset();
            latency.record_n(123_456, *operations).unwrap();
            let length = Duration::from_millis(*milliseconds);
            let latency = [&latency, &none, &none, &none];
            progress.interval(&LoadInterval { start, length, is_warm_up: false, latency });
            start += length;
        }
        let text = terminal.text.lock().unwrap().clone();
        text.lines().map(str::to_owned).filter(|line| line.contains("running")).collect()
    }

    #[test]
    fn the_line_is_never_wider_than_the_terminal() {
        for width in [40, 60, 80, 200] {
            let lines = lines(width, &[(1000, 12_345)]);
            assert!(!lines.is_empty(), "{width}");
            assert!(
                lines.iter().all(|line| line.chars().count() <= usize::from(width)),
                "{width}: {lines:#?}"
            );
        }
    }

    #[test]
    fn it_tells_what_is_done_and_left_and_nothing_of_a_last_moment() {
        let shown = lines(200, &[(1000, 10_000), (1000, 10_000)]);
        let last = shown.last().unwrap();
        assert!(last.contains("58 s left, 20.0k of 1.00M  10.0k IOPS"), "{last}");
        // Three operations in the last 10 ms are not 300 a second.
        let more = lines(200, &[(1000, 10_000), (1000, 10_000), (10, 3)]);
        assert_eq!(more.last(), shown.last());
    }

    #[test]
    fn what_ends_first_tells_how_much_is_done() {
        let second = Duration::from_secs(1);
        assert_eq!(part_done(second, Some(4 * second), 0, None), 0.25);
        assert_eq!(part_done(second, Some(4 * second), 500, Some(1_000)), 0.5);
        assert_eq!(part_done(second, None, 0, None), 0.0);
        assert_eq!(part_done(5 * second, Some(4 * second), 0, None), 1.0);
        assert_eq!((left(second, 0.25), left(second, 0.0)), (Some(3 * second), None));
    }
}
