//! Rows of a heat map: latencies in a few wide classes on a logarithmic axis.

use hdrhistogram::{Counter, Histogram};

/// Rows of a decade.
const ROWS_PER_DECADE: usize = 6;
/// Where the first row begins, in nanoseconds.
const FIRST_NS: f64 = 1e3;
/// Rows: from 1 µs to 10 s; what lies outside counts in the first or the last.
pub const HEAT_ROWS: usize = 7 * ROWS_PER_DECADE;

/// Where a row begins, in nanoseconds.
pub fn heat_row_start_ns(row: usize) -> f64 {
    FIRST_NS * 10_f64.powf(row as f64 / ROWS_PER_DECADE as f64)
}

/// Which row a latency belongs to.
fn heat_row(nanoseconds: u64) -> usize {
    // The small surplus keeps the start of a row in that row, whatever the logarithm's last digit says.
    let decades = (nanoseconds.max(1) as f64 / FIRST_NS).log10();
    let row = (decades * ROWS_PER_DECADE as f64 + 1e-9).floor();
    row.clamp(0.0, (HEAT_ROWS - 1) as f64) as usize
}

/// Adds a histogram of nanoseconds to a column of the map.
pub fn add_heat<T: Counter>(column: &mut [u64; HEAT_ROWS], histogram: &Histogram<T>) {
    for bucket in histogram.iter_recorded() {
        column[heat_row(bucket.value_iterated_to())] += bucket.count_at_value().as_u64();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_begin_where_they_say() {
        for row in 0..HEAT_ROWS {
            assert_eq!(heat_row(heat_row_start_ns(row).ceil() as u64), row);
        }
        assert_eq!(heat_row(0), 0);
        assert_eq!(heat_row(u64::MAX), HEAT_ROWS - 1);
        assert_eq!(heat_row(5_000_000), 22, "5 ms: 3.7 decades above 1 µs");
    }
}
