//! The words and numbers that the sub-commands print, and the output itself.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;

use super::Outcome;
use crate::block::BlockSizes;
use crate::nbd::client::handshake::{Dialect, ExportDetails};
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

/// The transmission flags by name: the spec's without `NBD_FLAG_`, in lower case.
const FLAGS: [(u16, &str); 13] = [
    (NBD_FLAG_HAS_FLAGS, "has_flags"),
    (NBD_FLAG_READ_ONLY, "read_only"),
    (NBD_FLAG_SEND_FLUSH, "send_flush"),
    (NBD_FLAG_SEND_FUA, "send_fua"),
    (NBD_FLAG_ROTATIONAL, "rotational"),
    (NBD_FLAG_SEND_TRIM, "send_trim"),
    (NBD_FLAG_SEND_WRITE_ZEROES, "send_write_zeroes"),
    (NBD_FLAG_SEND_DF, "send_df"),
    (NBD_FLAG_CAN_MULTI_CONN, "can_multi_conn"),
    (NBD_FLAG_SEND_RESIZE, "send_resize"),
    (NBD_FLAG_SEND_CACHE, "send_cache"),
    (NBD_FLAG_SEND_FAST_ZERO, "send_fast_zero"),
    (NBD_FLAG_BLOCK_STATUS_PAYLOAD, "block_status_payload"),
];

/// The JSON of one export; its keys are part of the interface.
#[derive(Debug, Serialize)]
pub(super) struct ExportJson<'a> {
    pub(super) export: &'a str,
    pub(super) description: Option<&'a str>,
    pub(super) size: u64,
    pub(super) read_only: bool,
    pub(super) flags: Vec<&'static str>,
    pub(super) flags_value: u16,
    pub(super) block_sizes: Option<BlockSizesJson>,
    pub(super) meta_contexts: Option<&'a [String]>,
}

#[derive(Debug, Serialize)]
pub(super) struct BlockSizesJson {
    minimum: u32,
    preferred: u32,
    maximum: u32,
}

impl<'a> ExportJson<'a> {
    pub(super) fn new(details: &'a ExportDetails) -> Self {
        Self {
            export: &details.name,
            description: details.description.as_deref().filter(|text| !text.is_empty()),
            size: details.size,
            read_only: is_read_only(details),
            flags: flag_names(details.transmission_flags),
            flags_value: details.transmission_flags,
            block_sizes: details.block_sizes.map(|BlockSizes { minimum, preferred, maximum }| {
                BlockSizesJson { minimum, preferred, maximum }
            }),
            meta_contexts: details.contexts.as_deref(),
        }
    }
}

pub(super) fn is_read_only(details: &ExportDetails) -> bool {
    details.transmission_flags & NBD_FLAG_READ_ONLY != 0
}

/// The names of the flags that are set; unknown ones have none.
pub(super) fn flag_names(flags: u16) -> Vec<&'static str> {
    FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect()
}

/// `fixed_newstyle` or `newstyle`.
pub(super) const fn handshake_name(dialect: Dialect) -> &'static str {
    if dialect.fixed_newstyle { "fixed_newstyle" } else { "newstyle" }
}

/// `extended`, `structured` or `simple`.
pub(super) const fn reply_mode_name(mode: ReplyMode) -> &'static str {
    match mode {
        ReplyMode::Simple => "simple",
        ReplyMode::Structured => "structured",
        ReplyMode::Extended => "extended",
    }
}

/// About how much that is: `10 GiB`, `1.5 MiB`, `512 bytes`; `~` where it was rounded.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some(index) = (0..UNITS.len()).rev().find(|index| bytes >> (10 * (index + 1)) > 0) else {
        return format!("{bytes} bytes");
    };
    let unit = 1u128 << (10 * (index + 1));
    let tenths = (u128::from(bytes) * 10 + unit / 2) / unit;
    let about = if u128::from(bytes) * 10 % unit == 0 { "" } else { "~" };
    match tenths % 10 {
        0 => format!("{about}{} {}", tenths / 10, UNITS[index]),
        part => format!("{about}{}.{part} {}", tenths / 10, UNITS[index]),
    }
}

/// A time with three digits: `870 ns`, `12.3 us`, `1.23 s`.
pub(super) fn human_time(nanoseconds: u64) -> String {
    let (value, unit) = match nanoseconds {
        0..1_000 => return format!("{nanoseconds} ns"),
        1_000..1_000_000 => (nanoseconds as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanoseconds as f64 / 1e6, "ms"),
        _ => (nanoseconds as f64 / 1e9, "s"),
    };
    let digits = match value {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// `950`, `12.3k`, `1.23M`.
pub(super) fn human_rate(per_second: f64) -> String {
    match per_second {
        ..1e3 => format!("{per_second:.0}"),
        ..1e6 => format!("{:.1}k", per_second / 1e3),
        _ => format!("{:.2}M", per_second / 1e6),
    }
}

/// Exact, and what that is for people.
pub(super) fn exact_and_human(bytes: u64) -> String {
    if bytes < 1024 { format!("{bytes} bytes") } else { format!("{bytes} bytes ({})", human(bytes)) }
}

/// Aligns the cells of each column, two spaces apart (by hand: comfy-table and tabled bring ten times the
/// lines for borders and wrapping, which scripts do not want); `right` says which columns stand to the right.
pub(super) fn table(rows: &[Vec<String>], right: &[bool]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..right.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = match right[column] {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `value` as indented JSON and a line end.
pub(super) fn json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("plain data has a JSON form");
    text.push('\n');
    text
}

/// Writes the answer to standard output. A reader that closes early (`| head`) is no failure.
pub(super) fn print(text: &str) -> Outcome {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// The outcome of writing to standard output.
pub(super) fn written(result: io::Result<()>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Outcome::Done,
        Err(error) => Outcome::failed(format_args!("cannot write the answer: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1025, "~1 KiB"),
            (10 << 30, "10 GiB"),
            (u64::MAX, "~16 EiB"),
            (10_481_664, "~10 MiB"),
            (33_554_432, "32 MiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".into(), "100".into()], vec!["bcd".into(), "1".into()]];
        assert_eq!(table(&rows, &[false, true]), "a    100\nbcd    1\n");
    }

    #[test]
    fn flags_by_name() {
        assert_eq!(flag_names(0x8003), ["has_flags", "read_only"]);
        assert_eq!(flag_names(u16::MAX).len(), 13);
    }

    #[test]
    fn times_and_rates_for_people() {
        for (nanoseconds, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (12_345, "12.3 us"),
            (123_456, "123 us"),
            (1_500_000, "1.50 ms"),
            (2_000_000_000, "2.00 s"),
        ] {
            assert_eq!(human_time(nanoseconds), text);
        }
        for (rate, text) in [(0.0, "0"), (950.0, "950"), (12_345.0, "12.3k"), (1_234_567.0, "1.23M")] {
            assert_eq!(human_rate(rate), text);
        }
    }
}
