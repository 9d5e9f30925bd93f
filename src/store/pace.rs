//! How fast work in the background goes that has a rate.

use std::time::Duration;

/// How long to wait when so many bytes were read in a time, so that no more are than a
/// rate allows.
#[must_use]
pub fn owed(bytes: u64, bytes_a_second: Option<u64>, elapsed: Duration) -> Duration {
    let Some(rate) = bytes_a_second.filter(|rate| *rate > 0) else { return Duration::ZERO };
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
    let due = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
    due.saturating_sub(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_on_the_whole() {
        let second = Duration::from_secs(1);
        assert_eq!(owed(300, Some(100), second), 2 * second);
        assert_eq!(owed(50, Some(100), second), Duration::ZERO);
        assert_eq!(owed(u64::MAX, None, Duration::ZERO), Duration::ZERO);
        assert_eq!(owed(u64::MAX, Some(0), Duration::ZERO), Duration::ZERO);
        assert!(owed(u64::MAX, Some(1), Duration::ZERO) > second);
    }
}
