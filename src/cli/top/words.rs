//! Numbers as short words.

use crate::cli::text::human_time;

/// `512 `, `4.0 Ki`, `1.21 Gi`: three digits, and what stands before the unit.
pub(super) fn short_bytes(bytes: f64) -> String {
    const UNITS: [&str; 6] = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let (mut value, mut unit) = (bytes.max(0.0), 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A latency; a dash where there is none.
pub(super) fn time_or_dash(nanoseconds: u64) -> String {
    if nanoseconds == 0 { "-".to_owned() } else { human_time(nanoseconds) }
}

/// `45s`, `12m`, `3h05`, `12d`.
pub(super) fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (bytes, text) in [
            (0.0, "0 "),
            (999.0, "999 "),
            (1000.0, "0.98 Ki"),
            (4096.0, "4.00 Ki"),
            (48.0 * 1_048_576.0, "48.0 Mi"),
            (123.4 * 1_073_741_824.0, "123 Gi"),
            (-1.0, "0 "),
        ] {
            assert_eq!(short_bytes(bytes), text);
        }
        assert_eq!(short_bytes(f64::MAX).chars().last(), Some('i'));
        assert_eq!((time_or_dash(0), time_or_dash(1500)), ("-".to_owned(), "1.50 us".to_owned()));
        for (seconds, text) in
            [(-1.0, "0s"), (59.9, "59s"), (61.0, "1m01"), (7260.0, "2h01"), (1e9, "11574d")]
        {
            assert_eq!(age(seconds), text);
        }
    }
}
