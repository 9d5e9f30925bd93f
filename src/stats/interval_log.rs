//! The HdrHistogram V2 interval log, version 1.3: histograms over time as text, which the tools of that
//! family read.
//!
//! ```text
//! #[Histogram log format version 1.3]
//! #command: ringnbd serve ...
//! #[StartTime: 1700000000.000 (seconds since epoch)]
//! #[BaseTime: 1700000000.000 (seconds since epoch)]
//! "StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"
//! Tag=disk/read/total,0.000,1.000,5.234,HISTFAAAA...
//! ```
//!
//! A line is an interval of one tag: its start in seconds since the base time, its length in seconds, its
//! greatest value in milliseconds, and the histogram, whose values are nanoseconds. A server's tags are
//! `EXPORT/COMMAND/PHASE`, the export's name percent-encoded (so that it has neither slash nor comma nor
//! space, and the default export gives `/read/total`).
//!
//! By hand, although the `hdrhistogram` crate has such a log, which `ringnbd bench` uses: its writer borrows
//! its output for its whole life, but a server empties its log and begins a new one to rotate it; its reader
//! knows neither a log with several heads nor one whose last line is being written. In a test the crate's
//! reader reads what is written here.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use hdrhistogram::{Counter, Histogram};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::Phase;
use crate::block::CommandKind;

/// What a log begins with, before its version.
const HEAD: &str = "#[Histogram log format version";

/// What the greatest value of an interval is divided by: it is shown in milliseconds by convention.
const MAX_DIVISOR: f64 = 1e6;

/// Starts before this are not seconds since 1970 but since something later.
pub const LONG_AGO: f64 = 1e8;

/// All but the unreserved characters of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The tag of a phase of a command of an export.
pub fn tag(export: &str, operation: CommandKind, phase: Phase) -> String {
    format!("{}/{}/{}", utf8_percent_encode(export, ESCAPED), operation.name(), phase.name())
}

/// The export, command and phase of a server's tag; `None` for other tags.
pub fn split_tag(tag: &str) -> Option<(String, &str, Phase)> {
    let (rest, phase) = tag.rsplit_once('/')?;
    let (export, command) = rest.rsplit_once('/')?;
    let phase = Phase::ALL.into_iter().find(|known| known.name() == phase)?;
    let export = percent_decode_str(export).decode_utf8_lossy().into_owned();
    Some((export, command, phase))
}

/// Whether these are the first bytes of a log.
pub(crate) fn is_log(bytes: &[u8]) -> bool {
    bytes.starts_with(HEAD.as_bytes())
}

/// Writes a log.
pub struct IntervalLogWriter<W> {
    out: W,
    serializer: V2DeflateSerializer,
    bytes: Vec<u8>,
    line: String,
}

impl<W: Write> IntervalLogWriter<W> {
    /// Writes the head: comments, and the moment that intervals count from.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn begin(mut out: W, comments: &[String], base: SystemTime) -> io::Result<Self> {
        writeln!(out, "{HEAD} 1.3]")?;
        for comment in comments {
            writeln!(out, "#{comment}")?;
        }
        let base = base.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        writeln!(out, "#[StartTime: {base:.3} (seconds since epoch)]")?;
        writeln!(out, "#[BaseTime: {base:.3} (seconds since epoch)]")?;
        writeln!(
            out,
            r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#
        )?;
        out.flush()?;
        Ok(Self { out, serializer: V2DeflateSerializer::new(), bytes: Vec::new(), line: String::new() })
    }

    /// Writes an interval; the tag has no comma, space or line end.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn interval<T: Counter>(
        &mut self,
        tag: &str,
        start: Duration,
        length: Duration,
        histogram: &Histogram<T>,
    ) -> io::Result<()> {
        self.bytes.clear();
        self.line.clear();
        self.serializer
            .serialize(histogram, &mut self.bytes)
            .map_err(|error| io::Error::other(error.to_string()))?;
        STANDARD.encode_string(&self.bytes, &mut self.line);
        let max = histogram.max() as f64 / MAX_DIVISOR;
        let (start, length) = (start.as_secs_f64(), length.as_secs_f64());
        writeln!(self.out, "Tag={tag},{start:.3},{length:.3},{max:.3},{}", self.line)
    }

    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }
}

/// A log that was read; its histograms are unpacked one by one, because all of them may not fit into memory.
#[derive(Debug, Default)]
pub struct IntervalLog<'a> {
    /// Without their `#`, in order.
    pub comments: Vec<String>,
    /// What the starts of the next intervals count from, in seconds since 1970; 0 if they are absolute or it
    /// is not known.
    base_unix_seconds: f64,
    /// When the log began, or was last appended to, in seconds since 1970; 0 if not known.
    start_unix_seconds: f64,
    /// In the order of the file.
    pub intervals: Vec<LoggedInterval<'a>>,
    /// The last line was not finished, as that of a log that is being written.
    pub is_cut: bool,
}

/// One interval of one tag.
#[derive(Debug, Clone, Copy)]
pub struct LoggedInterval<'a> {
    /// `""` without.
    pub tag: &'a str,
    /// In seconds since 1970, or since something else where the log does not tell.
    pub start_seconds: f64,
    /// How long it was.
    pub length_seconds: f64,
    line: usize,
    encoded: &'a str,
}

impl LoggedInterval<'_> {
    /// Its values.
    ///
    /// # Errors
    /// They are not those of a histogram.
    pub fn histogram(&self) -> Result<Histogram<u64>, LogError> {
        let fail = |reason: String| LogError { line: self.line, reason };
        let bytes = STANDARD.decode(self.encoded);
        let bytes = bytes.map_err(|error| fail(format!("the histogram is not Base64: {error}")))?;
        let histogram = Deserializer::new().deserialize(&mut &bytes[..]);
        histogram.map_err(|error| fail(format!("the histogram cannot be read: {error}")))
    }
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct LogError {
    /// From 1.
    pub line: usize,
    /// A part of a sentence.
    pub reason: String,
}

impl<'a> IntervalLog<'a> {
    /// Reads the text of a log.
    ///
    /// # Errors
    /// The first line that is none of a log's. A last line without its end is left out instead.
    pub fn parse(text: &'a str) -> Result<Self, LogError> {
        let mut log = Self::default();
        let end = text.rfind('\n').map_or(0, |end| end + 1);
        let mut number = 0;
        for line in text[..end].lines() {
            number += 1;
            log.line(line, number).map_err(|reason| LogError { line: number, reason })?;
        }
        let (unfinished, intervals) = (&text[end..], log.intervals.len());
        let is_whole = log.line(unfinished, number + 1).is_ok()
            && log.intervals.get(intervals).is_none_or(|interval| interval.histogram().is_ok());
        if !is_whole {
            log.intervals.truncate(intervals);
            log.is_cut = true;
        }
        Ok(log)
    }

    fn line(&mut self, line: &'a str, number: usize) -> Result<(), String> {
        let line = line.trim_end_matches('\r');
        if let Some(comment) = line.strip_prefix('#') {
            let time = |name: &str| comment.strip_prefix(name)?.split(' ').next()?.parse().ok();
            if let Some(seconds) = time("[BaseTime: ") {
                self.base_unix_seconds = seconds;
            } else if let Some(seconds) = time("[StartTime: ") {
                self.start_unix_seconds = seconds;
            } else {
                self.comments.push(comment.to_owned());
            }
            return Ok(());
        }
        if line.is_empty() || line.starts_with('"') {
            return Ok(());
        }
        let (tag, rest) = match line.strip_prefix("Tag=") {
            Some(tagged) => tagged.split_once(',').ok_or("nothing follows the tag")?,
            None => ("", line),
        };
        let fields: Vec<&str> = rest.splitn(4, ',').collect();
        let &[start, length, _max, encoded] = &fields[..] else {
            return Err("not a line of an HdrHistogram interval log".to_owned());
        };
        let seconds = |text: &str| match text.trim().parse::<f64>() {
            Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(seconds),
            _ => Err(format!("\"{text}\" is not a number of seconds")),
        };
        let (start, length_seconds) = (seconds(start)?, seconds(length)?);
        // Some tools give a start but no base, and mean the same.
        let is_relative = self.base_unix_seconds == 0.0 && start < LONG_AGO;
        let base = if is_relative { self.start_unix_seconds } else { self.base_unix_seconds };
        let start_seconds = base + start;
        let encoded = encoded.trim();
        self.intervals.push(LoggedInterval { tag, start_seconds, length_seconds, line: number, encoded });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(64, 1_000_000_000_000, 3).unwrap();
        (1..=1000).for_each(|value| histogram.record(value * 5_000).unwrap());
        histogram
    }

    fn written() -> String {
        let mut bytes = Vec::new();
        let base = UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        let comments = ["command: x".to_owned()];
        let mut writer = IntervalLogWriter::begin(&mut bytes, &comments, base).unwrap();
        let tag = tag("a, b/c", CommandKind::Read, Phase::Backend);
        for second in 0..2 {
            writer.interval(&tag, Duration::from_secs(second), Duration::from_secs(1), &sample()).unwrap();
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let text = written();
        let log = IntervalLog::parse(&text).unwrap();
        assert!(log.comments.contains(&"command: x".to_owned()), "{:?}", log.comments);
        assert_eq!(log.intervals.len(), 2);
        assert!(!log.is_cut);
        let last = &log.intervals[1];
        assert_eq!((last.start_seconds, last.length_seconds), (1_700_000_001.25, 1.0));
        assert_eq!(last.histogram().unwrap(), sample());
        assert_eq!(split_tag(last.tag), Some(("a, b/c".to_owned(), "read", Phase::Backend)));
        assert_eq!(split_tag("read"), None);
    }

    #[test]
    fn a_log_that_was_gone_on_with_has_a_base_for_each_part() {
        let text = written() + &written().replace("1700000000.250", "1700000100.000");
        let log = IntervalLog::parse(&text).unwrap();
        let starts: Vec<_> = log.intervals.iter().map(|of| of.start_seconds - 1.7e9).collect();
        assert_eq!(starts, [0.25, 1.25, 100.0, 101.0]);
    }

    #[test]
    fn the_crate_s_own_reader_reads_it_too() {
        use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
        let text = written();
        let entries: Vec<_> = IntervalLogIterator::new(text.as_bytes()).map(Result::unwrap).collect();
        let intervals = entries.iter().filter(|entry| matches!(entry, LogEntry::Interval(_)));
        assert_eq!(intervals.count(), 2);
    }

    #[test]
    fn a_log_that_is_being_written_is_read_up_to_its_last_line() {
        let text = written();
        let log = IntervalLog::parse(&text[..text.len() - 20]).unwrap();
        assert_eq!((log.intervals.len(), log.is_cut), (1, true));
    }

    #[test]
    fn what_is_no_log_is_refused_with_its_line() {
        for (text, line) in
            [("#x\nhello\n", 2), ("Tag=a\n", 1), ("-1,2,3,HISTFAAA\n", 1), ("{\n  \"a\": 1\n}\n", 1)]
        {
            assert_eq!(IntervalLog::parse(text).unwrap_err().line, line, "{text}");
        }
        for text in ["#x\n1,2,3,4\n", "#x\n1,2,3,aGVsbG8=\n"] {
            let log = IntervalLog::parse(text).unwrap();
            assert_eq!(log.intervals[0].histogram().unwrap_err().line, 2, "{text}");
        }
    }
}
