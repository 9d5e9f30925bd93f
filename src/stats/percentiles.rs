//! A histogram in a few numbers.

use hdrhistogram::{Counter, Histogram};
use serde::Serialize;

/// The points that are shown of a histogram, in nanoseconds. The keys are part of the interface of the admin
/// server and of reports.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub min_ns: u64,
    pub mean_ns: f64,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p99_9_ns: u64,
    pub p99_99_ns: u64,
    pub max_ns: u64,
}

impl Percentiles {
    /// Of a histogram of nanoseconds; `None` of an empty one.
    pub fn of<T: Counter>(histogram: &Histogram<T>) -> Option<Self> {
        // The upper end of a bucket may lie above the greatest value; that of the first one stands for
        // nothing at all.
        let shown = |value| if histogram.lowest_equivalent(value) == 0 { 0 } else { value };
        let at = |quantile| shown(histogram.value_at_quantile(quantile).min(histogram.max()));
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            min_ns: histogram.min(),
            mean_ns: histogram.mean(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p99_9_ns: at(0.999),
            p99_99_ns: at(0.9999),
            max_ns: shown(histogram.max()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_no_time_is_shown_as_none() {
        let mut histogram = Histogram::<u64>::new_with_bounds(64, 1_000_000, 3).unwrap();
        histogram.record_n(0, 99).unwrap();
        histogram.record(10_000).unwrap();
        let of = Percentiles::of(&histogram).unwrap();
        assert_eq!((of.min_ns, of.p50_ns, of.p99_ns), (0, 0, 0));
        assert!(of.max_ns.abs_diff(10_000) < 64, "{of:?}");
    }
}
