//! What was read of a file, or of several that are added up: latencies by export and command, over time, and by phase.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;
use std::time::UNIX_EPOCH;

use hdrhistogram::Histogram;

use super::fio;
use crate::stats::interval_log::{IntervalLog, LONG_AGO, LogError, LoggedInterval, split_tag};
use crate::stats::provenance::{COMMAND, MACHINE};
use crate::stats::{HEAT_ROWS, Percentiles, Phase, add_heat};

/// Columns of a heat map, at most; longer runs have wider columns.
const COLUMNS: f64 = 150.0;
/// The longest latency, in nanoseconds: an hour.
const LONGEST_NS: u64 = 3_600_000_000_000;

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

/// What of the files is wanted.
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

    /// Whether an interval of a log that begins at `begin` is wanted: what lies across an end counts where its middle is.
    fn covers(&self, begin: f64, start: f64, length: f64) -> bool {
        let middle = start + length / 2.0;
        self.from.is_none_or(|from| middle >= from.of(begin))
            && self.to.is_none_or(|to| middle < to.of(begin))
    }
}

/// Everything of one file, or of several.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) label: String,
    /// What made it, as far as that is known: names and texts.
    pub(super) facts: Vec<(&'static str, String)>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
    /// Its beginning in seconds since 1970; 0 when that is not known.
    pub(super) begin_unix_seconds: f64,
    /// From its beginning to its end.
    pub(super) seconds: f64,
    /// By export and command.
    pub(super) rows: Vec<Row>,
}

/// One command of one export.
#[derive(Debug)]
pub(super) struct Row {
    /// `""` for the default export and where nothing is said of exports.
    pub(super) export: String,
    pub(super) command: String,
    /// Nanoseconds, from arrival to the end.
    pub(super) total: Histogram<u64>,
    /// Nanoseconds of the phases before the total; none where they are not known.
    pub(super) phases: Option<Box<[Histogram<u64>; 3]>>,
    /// In the order of time; none where nothing is said of time.
    pub(super) columns: Vec<Column>,
}

/// A piece of time.
#[derive(Debug, Clone)]
pub(super) struct Column {
    /// Since the beginning of the source.
    pub(super) start_seconds: f64,
    pub(super) length_seconds: f64,
    pub(super) latency: Percentiles,
    pub(super) heat: [u64; HEAT_ROWS],
}

/// An empty histogram of nanoseconds.
pub(super) fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are valid")
}

/// Adds a histogram of other bounds and another unit.
fn add(to: &mut Histogram<u64>, from: &Histogram<u64>, unit: u64) {
    for bucket in from.iter_recorded() {
        let value = bucket.value_iterated_to();
        // The end of the first bucket stands for what took no time that could be told.
        let value = if from.lowest_equivalent(value) == 0 { 0 } else { value };
        to.saturating_record_n(value.saturating_mul(unit), bucket.count_at_value());
    }
}

/// The order in which people count: numbers within names by their value.
fn natural(a: &str, b: &str) -> Ordering {
    let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (mut left, mut right) = (a, b);
    loop {
        let (of_left, of_right) = (digits(left), digits(right));
        if of_left > 0 && of_right > 0 {
            let (number, other) = (&left[..of_left], &right[..of_right]);
            let (value, against) = (number.trim_start_matches('0'), other.trim_start_matches('0'));
            let order = value.len().cmp(&against.len()).then_with(|| value.cmp(against));
            if order.is_ne() {
                return order;
            }
            (left, right) = (&left[of_left..], &right[of_right..]);
            continue;
        }
        match (left.chars().next(), right.chars().next()) {
            // The same numbers, perhaps with other zeroes before them.
            (None, None) => return a.cmp(b),
            (one, two) if one != two => return one.cmp(&two),
            (one, _) => {
                let length = one.map_or(0, char::len_utf8);
                (left, right) = (&left[length..], &right[length..]);
            }
        }
    }
}

impl Row {
    pub(super) fn new(export: &str, command: &str) -> Self {
        let (export, command) = (export.to_owned(), command.to_owned());
        Self { export, command, total: empty(), phases: None, columns: Vec::new() }
    }

    /// By export, `vm2` before `vm10`, and then by command.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        natural(&self.export, &other.export).then_with(|| self.command.cmp(&other.command))
    }

    /// For people: the export, where it has a name, and the command.
    pub(super) fn name(&self) -> String {
        match self.export.as_str() {
            "" => self.command.clone(),
            export => format!("{export} {}", self.command),
        }
    }
}

impl Source {
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
            // A log that was gone on with has a head for each part.
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
                let phases = row.phases.get_or_insert_with(|| Box::new([empty(), empty(), empty()]));
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

/// The places, each `width` seconds, of an interval in seconds: those of which it has the greater part. Intervals seldom begin and end when
/// they should, so neither their beginnings nor their ends say which places they are for.
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
    fn names_are_in_the_order_in_which_people_count() {
        let mut names = [
            "vm10",
            "vm2",
            "",
            "vm2b",
            "vm02",
            "vm",
            "b",
            "vm2-10",
            "vm2-9",
            "é1",
            "vm99999999999999999999999",
        ];
        names.sort_by(|a, b| natural(a, b));
        let wanted = [
            "",
            "b",
            "vm",
            "vm02",
            "vm2",
            "vm2-9",
            "vm2-10",
            "vm2b",
            "vm10",
            "vm99999999999999999999999",
            "é1",
        ];
        assert_eq!(names, wanted);
    }

    #[test]
    fn a_part_of_the_time_and_some_exports() {
        let part = |from: Option<&str>, to: Option<&str>| {
            let moment = |text: Option<&str>| text.map(|text| Moment::parse(text).unwrap());
            let reading = Reading { unit: 1, from: moment(from), to: moment(to), ..Reading::default() };
            let source = Source::read(&[log(1_700_000_000)], &reading).unwrap();
            (source.rows.first().map_or(0, |row| row.total.max() / 1_000_000), source.seconds)
        };
        assert_eq!(part(None, Some("1s")), (1, 1.0));
        assert_eq!(part(Some("1s"), None), (3, 1.0));
        assert_eq!(part(Some("2023-11-14T22:13:21Z"), Some("1h")), (3, 1.0));
        assert_eq!(part(Some("5s"), None), (0, 0.0));
        assert!(Moment::parse("soon").is_err());
        let reading = |name: &str| Reading { unit: 1, exports: vec![name.to_owned()], ..Reading::default() };
        assert_eq!(Source::read(&[log(1)], &reading("d")).unwrap().rows.len(), 1);
        assert_eq!(Source::read(&[log(1)], &reading("e")).unwrap().rows.len(), 0);
    }

    #[test]
    fn a_log_becomes_rows_with_phases_and_columns() {
        let source = Source::read(&[log(1_700_000_000)], &reading(1_000)).unwrap();
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
        let source = Source::read(&[log(1_700_000_010), log(1_700_000_000)], &reading(1)).unwrap();
        assert_eq!((source.seconds, source.rows[0].total.len()), (12.0, 400));
        let starts: Vec<_> = source.rows[0].columns.iter().map(|of| of.start_seconds).collect();
        assert_eq!(starts, [0.0, 1.0, 10.0, 11.0]);
    }

    #[test]
    fn logs_of_others_have_their_unit() {
        let mut text = log(1_700_000_000);
        text.text = text.text.replace("#unit: nanoseconds\n", "").replace("Tag=d/read/total,", "");
        let source = Source::read(&[text], &reading(1_000)).unwrap();
        let all = source.rows.iter().find(|row| row.command == "all").unwrap();
        assert!(all.total.max().abs_diff(3_000_000_000) < 6_000_000, "{}", all.total.max());
    }

    #[test]
    fn a_file_that_is_none_is_refused_with_its_name() {
        let text = Text { name: "a.png".to_owned(), label: String::new(), text: "hello\n".to_owned() };
        assert!(Source::read(&[text], &reading(1)).unwrap_err().to_string().starts_with("a.png, line 1:"));
    }
}
