//! How files become a [`ReportSource`]: interval logs and fio's output, or a part of them.

use std::collections::HashMap;
use std::ops::Range;
use std::time::UNIX_EPOCH;

use hdrhistogram::Histogram;

use super::fio;
use super::source::{Column, ReportSource, Row, add, empty};
use crate::stats::interval_log::{IntervalLog, LONG_AGO, LogError, LoggedInterval, split_tag};
use crate::stats::provenance::{COMMAND, MACHINE};
use crate::stats::{HEAT_ROWS, Percentiles, Phase, add_heat};

/// Columns of a heat map, at most; longer runs have wider columns.
const COLUMNS: f64 = 150.0;

pub(super) struct Text {
    pub(super) name: String,
    /// What it is called in the report.
    pub(super) label: String,
    pub(super) text: String,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("{0}, {1}")]
    Log(String, LogError),
    #[error("{0} is not the output of fio --output-format=json+: {1}")]
    Fio(String, String),
    #[error(
        "{0} is fio's output, which does not say when each request was: leave out --from and --to, or that file"
    )]
    NoTime(String),
}

/// The part of the files that is wanted.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    /// Nanoseconds of a value, for logs that do not say.
    pub(super) unit: u64,
    /// Names of exports; all when empty.
    pub(super) exports: Vec<String>,
    pub(super) from: Option<Moment>,
    pub(super) to: Option<Moment>,
}

/// A moment of a log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Moment {
    /// Seconds since its beginning.
    After(f64),
    /// Seconds since 1970.
    At(f64),
}

impl Moment {
    /// Reads `90s` or `5m`, from the beginning of the log on, or `2026-03-01T12:00:00Z`.
    ///
    /// # Errors
    /// It is neither.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Ok(time) = humantime::parse_rfc3339_weak(text) {
            return Ok(Self::At(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()));
        }
        let duration = humantime::parse_duration(text);
        let duration = duration.map_err(|_| {
            "write a time after the beginning, as 90s or 5m, or one as 2026-03-01T12:00:00Z".to_owned()
        })?;
        Ok(Self::After(duration.as_secs_f64()))
    }

    /// In the seconds that the log counts in.
    fn of(self, begin: f64) -> f64 {
        match self {
            Self::After(seconds) => begin + seconds,
            Self::At(seconds) => seconds,
        }
    }
}

impl Reading {
    /// Whether an export is wanted.
    fn wants(&self, export: &str) -> bool {
        self.exports.is_empty() || self.exports.iter().any(|name| name == export)
    }

    /// True if an interval of a log that begins at `begin` is wanted; one that crosses an end counts where
    /// its middle is.
    fn covers(&self, begin: f64, start: f64, length: f64) -> bool {
        let middle = start + length / 2.0;
        self.from.is_none_or(|from| middle >= from.of(begin))
            && self.to.is_none_or(|to| middle < to.of(begin))
    }
}

impl ReportSource {
    /// Reads files and adds them up.
    pub(super) fn read(texts: &[Text], reading: &Reading) -> Result<Self, ReadError> {
        let labels: Vec<_> = texts.iter().map(|text| text.label.as_str()).collect();
        let mut source = Self { label: labels.join(" + "), ..Self::default() };
        let mut logs = Vec::new();
        for text in texts {
            let name = || text.name.clone();
            source.facts.push(("file", name()));
            if fio::is_fio(&text.text) {
                if reading.from.or(reading.to).is_some() {
                    return Err(ReadError::NoTime(name()));
                }
                fio::add(&mut source, &text.text).map_err(|reason| ReadError::Fio(name(), reason))?;
            } else {
                let log = IntervalLog::parse(&text.text).map_err(|error| ReadError::Log(name(), error))?;
                source.take_comments(&log, &text.name);
                logs.push((text, log));
            }
        }
        source.add_logs(&logs, reading)?;
        source.rows.retain(|row| !row.total.is_empty() && reading.wants(&row.export));
        source.rows.sort_by(Row::compare);
        Ok(source)
    }

    fn take_comments(&mut self, log: &IntervalLog<'_>, name: &str) {
        let from = self.facts.len();
        for comment in log.comments.iter().map(|comment| comment.trim()) {
            let known = [("command", COMMAND), ("machine", MACHINE), ("version", "version: ")];
            let fact = known.iter().find_map(|(name, prefix)| Some((*name, comment.strip_prefix(prefix)?)));
            // A log that was appended to has a head for each part.
            if let Some((name, fact)) = fact.map(|(name, fact)| (name, fact.to_owned()))
                && !self.facts[from..].contains(&(name, fact.clone()))
            {
                self.facts.push((name, fact));
            }
        }
        if log.is_cut {
            self.notes.push(format!("{name} ends in the middle of a line, which was left out"));
        }
    }

    fn add_logs(&mut self, logs: &[(&Text, IntervalLog<'_>)], reading: &Reading) -> Result<(), ReadError> {
        let mut all: Vec<(f64, &Text, u64, &LoggedInterval<'_>)> = Vec::new();
        for (text, log) in logs {
            let says = log.comments.iter().any(|comment| comment.contains("nanoseconds"));
            let unit = if says { 1 } else { reading.unit };
            all.extend(log.intervals.iter().map(|interval| (interval.start_seconds, *text, unit, interval)));
        }
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let begin = all.first().map_or(0.0, |(start, ..)| *start);
        all.retain(|(start, _, _, of)| reading.covers(begin, *start, of.length_seconds));
        let (Some(first), Some(end)) = (
            all.first(),
            all.iter().map(|(start, _, _, of)| start + of.length_seconds).max_by(f64::total_cmp),
        ) else {
            return Ok(());
        };
        self.begin_unix_seconds = if first.0 < LONG_AGO { 0.0 } else { first.0 };
        self.seconds = end - first.0;
        let mut time = TimeLine {
            begin: first.0,
            width: (self.seconds / COLUMNS).ceil().max(1.0),
            open: HashMap::new(),
        };
        let mut indices = HashMap::new();
        for (start, text, unit, interval) in &all {
            let histogram = interval.histogram().map_err(|error| ReadError::Log(text.name.clone(), error))?;
            let (export, command, phase) = match split_tag(interval.tag) {
                Some((export, command, phase)) => (export, command, phase),
                None if interval.tag.is_empty() => (String::new(), "all", Phase::Total),
                None => (String::new(), interval.tag, Phase::Total),
            };
            let index = *indices.entry((export.clone(), command)).or_insert_with(|| {
                self.rows.push(Row::new(&export, command));
                self.rows.len() - 1
            });
            let row = &mut self.rows[index];
            if phase == Phase::Total {
                add(&mut row.total, &histogram, *unit);
                time.add(index, row, (*start, start + interval.length_seconds), &histogram, *unit);
            } else {
                let phases = row.phases.get_or_insert_with(|| Box::new(Phase::PARTS.map(|_| empty())));
                add(&mut phases[phase as usize], &histogram, *unit);
            }
        }
        for (index, row) in self.rows.iter_mut().enumerate() {
            time.close(index, row);
        }
        Ok(())
    }
}

/// Makes columns of intervals that come in the order of time.
struct TimeLine {
    begin: f64,
    width: f64,
    /// The present column of each row.
    open: HashMap<usize, OpenColumn>,
}

struct OpenColumn {
    /// The place of its first interval, and the end of the last one: one that was late takes several places.
    places: Range<usize>,
    histogram: Histogram<u64>,
}

/// The places, each `width` seconds, of an interval in seconds: those of which it has the greater part.
/// Intervals seldom begin and end when they should, so neither their beginnings nor their ends say which
/// places they are for.
fn places(span: &Range<f64>, width: f64) -> Range<usize> {
    let half = (span.end - span.start).min(width) / 2.0;
    let number = |moment: f64| (moment / width).max(0.0) as usize;
    let first = number(span.start + half);
    first..number(span.end - half).max(first) + 1
}

impl TimeLine {
    fn add(&mut self, index: usize, row: &mut Row, span: (f64, f64), histogram: &Histogram<u64>, unit: u64) {
        let places = places(&(span.0 - self.begin..span.1 - self.begin), self.width);
        if let Some(open) = self.open.get_mut(&index)
            && open.places.start < places.start
        {
            // No column covers the next one.
            open.places.end = open.places.end.min(places.start);
            self.close(index, row);
        }
        let fresh = || OpenColumn { places: places.clone(), histogram: empty() };
        let open = self.open.entry(index).or_insert_with(fresh);
        open.places.end = open.places.end.max(places.end);
        add(&mut open.histogram, histogram, unit);
    }

    fn close(&mut self, index: usize, row: &mut Row) {
        let Some(OpenColumn { places, histogram }) = self.open.remove(&index) else { return };
        let Some(latency) = Percentiles::of(&histogram) else { return };
        let mut heat = [0; HEAT_ROWS];
        add_heat(&mut heat, &histogram);
        row.columns.push(Column {
            start_seconds: places.start as f64 * self.width,
            length_seconds: places.len() as f64 * self.width,
            latency,
            heat,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::block::CommandKind;
    use crate::stats::interval_log::{IntervalLogWriter, tag};

    /// A second at 1 ms and one at 3 ms, a hundred requests each.
    pub(in crate::cli::report) fn log(begin: u64) -> Text {
        let mut bytes = Vec::new();
        let base = UNIX_EPOCH + Duration::from_secs(begin);
        let comments = ["command: x --y".to_owned(), "unit: nanoseconds".to_owned()];
        let mut writer = IntervalLogWriter::begin(&mut bytes, &comments, base).unwrap();
        for (second, value) in [(0, 1_000_000), (1, 3_000_000)] {
            for phase in Phase::ALL {
                let mut histogram = empty();
                let value = if phase == Phase::Backend { value / 2 } else { value };
                histogram.record_n(value, 100).unwrap();
                let tag = tag("d", CommandKind::Read, phase);
                writer
                    .interval(&tag, Duration::from_secs(second), Duration::from_secs(1), &histogram)
                    .unwrap();
            }
        }
        let text = String::from_utf8(bytes).unwrap();
        Text { name: "x.hlog".to_owned(), label: "x".to_owned(), text }
    }

    fn reading(unit: u64) -> Reading {
        Reading { unit, ..Reading::default() }
    }

    #[test]
    fn a_part_of_the_time_and_some_exports() {
        let part = |from: Option<&str>, to: Option<&str>| {
            let moment = |text: Option<&str>| text.map(|text| Moment::parse(text).unwrap());
            let reading = Reading { unit: 1, from: moment(from), to: moment(to), ..Reading::default() };
            let source = ReportSource::read(&[log(1_700_000_000)], &reading).unwrap();
            (source.rows.first().map_or(0, |row| row.total.max() / 1_000_000), source.seconds)
        };
        assert_eq!(part(None, Some("1s")), (1, 1.0));
        assert_eq!(part(Some("1s"), None), (3, 1.0));
        assert_eq!(part(Some("2023-11-14T22:13:21Z"), Some("1h")), (3, 1.0));
        assert_eq!(part(Some("5s"), None), (0, 0.0));
        assert!(Moment::parse("soon").is_err());
        let reading = |name: &str| Reading { unit: 1, exports: vec![name.to_owned()], ..Reading::default() };
        assert_eq!(ReportSource::read(&[log(1)], &reading("d")).unwrap().rows.len(), 1);
        assert_eq!(ReportSource::read(&[log(1)], &reading("e")).unwrap().rows.len(), 0);
    }

    #[test]
    fn a_log_becomes_rows_with_phases_and_columns() {
        let source = ReportSource::read(&[log(1_700_000_000)], &reading(1_000)).unwrap();
        assert_eq!((source.seconds, source.begin_unix_seconds), (2.0, 1_700_000_000.0));
        assert!(source.facts.contains(&("command", "x --y".to_owned())), "{:?}", source.facts);
        let [row] = &source.rows[..] else { panic!("{:?}", source.rows) };
        assert_eq!((row.name().as_str(), row.total.len()), ("d read", 200));
        let near = |value: u64, wanted: u64| value.abs_diff(wanted) <= wanted / 500;
        assert!(near(row.total.value_at_quantile(0.5), 1_000_000));
        assert!(near(row.total.max(), 3_000_000), "the log says its unit: {}", row.total.max());
        let backend = &row.phases.as_ref().unwrap()[Phase::Backend as usize];
        assert!(near(backend.max(), 1_500_000));
        let starts: Vec<_> = row.columns.iter().map(|of| (of.start_seconds, of.latency.count)).collect();
        assert_eq!(starts, [(0.0, 100), (1.0, 100)]);
        assert!(near(row.columns[1].latency.p50_ns, 3_000_000));
    }

    #[test]
    fn intervals_that_come_late_leave_no_gap() {
        // Of two servers that got too little of their processors.
        let late = [
            ([(0.0, 1.918), (1.878, 2.958), (3.158, 4.173), (3.832, 4.603)], [0..2, 2..3, 3..4, 4..5]),
            ([(0.0, 2.013), (1.922, 3.317), (3.128, 4.321), (4.306, 4.672)], [0..2, 2..3, 3..4, 4..5]),
            // On time, nearly on time, and two places without any.
            ([(0.0, 1.0), (1.0, 2.3), (2.4, 3.0), (5.0, 6.0)], [0..1, 1..2, 2..3, 5..6]),
        ];
        for (spans, expected) in late {
            assert_eq!(spans.map(|(start, end)| places(&(start..end), 1.0)), expected);
        }
        // Ten short ones in a place.
        let tens = (0..20).map(|second| places(&(f64::from(second)..f64::from(second + 1)), 10.0));
        assert!(tens.eq((0..20).map(|second| second / 10..second / 10 + 1)));
    }

    #[test]
    fn files_add_up_in_the_order_of_time() {
        // The later one first.
        let source = ReportSource::read(&[log(1_700_000_010), log(1_700_000_000)], &reading(1)).unwrap();
        assert_eq!((source.seconds, source.rows[0].total.len()), (12.0, 400));
        let starts: Vec<_> = source.rows[0].columns.iter().map(|of| of.start_seconds).collect();
        assert_eq!(starts, [0.0, 1.0, 10.0, 11.0]);
    }

    #[test]
    fn logs_of_others_have_their_unit() {
        let mut text = log(1_700_000_000);
        text.text = text.text.replace("#unit: nanoseconds\n", "").replace("Tag=d/read/total,", "");
        let source = ReportSource::read(&[text], &reading(1_000)).unwrap();
        let all = source.rows.iter().find(|row| row.command == "all").unwrap();
        assert!(all.total.max().abs_diff(3_000_000_000) < 6_000_000, "{}", all.total.max());
    }

    #[test]
    fn a_file_that_is_none_is_refused_with_its_name() {
        let text = Text { name: "a.png".to_owned(), label: String::new(), text: "hello\n".to_owned() };
        assert!(
            ReportSource::read(&[text], &reading(1)).unwrap_err().to_string().starts_with("a.png, line 1:")
        );
    }
}
