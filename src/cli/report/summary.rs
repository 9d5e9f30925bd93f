//! The report on a terminal, and the cells of the page's tables.

use hdrhistogram::Histogram;

use super::source::{ReportSource, Row};
use crate::cli::text::{human_rate, human_time, table};
use crate::stats::Phase;

/// The columns that are compared, by name and quantile; the mean and the greatest value stand beside them.
const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// The heads of the columns of numbers.
pub(super) fn heads() -> Vec<&'static str> {
    let quantiles = QUANTILES.iter().map(|(name, _)| *name);
    ["requests", "per s", "mean"].into_iter().chain(quantiles).chain(["max"]).collect()
}

/// The latencies of a row in nanoseconds, from the mean to the greatest.
pub(super) fn latencies(histogram: &Histogram<u64>) -> Vec<f64> {
    let at = |quantile: f64| histogram.value_at_quantile(quantile).min(histogram.max()) as f64;
    let quantiles = QUANTILES.iter().map(|(_, quantile)| at(*quantile));
    [histogram.mean()].into_iter().chain(quantiles).chain([histogram.max() as f64]).collect()
}

/// The row of the first source that a row is compared with: the same export and command, or the only one of
/// that command on both sides, because clients know no exports.
pub(super) fn baseline<'a>(sources: &'a [ReportSource], source: usize, row: &Row) -> Option<&'a Row> {
    if source == 0 {
        return None;
    }
    let first = &sources[0].rows;
    let same = first.iter().find(|base| base.export == row.export && base.command == row.command);
    let only = |rows: &'a [Row]| {
        let mut of_command = rows.iter().filter(|base| base.command == row.command);
        of_command.next().filter(|_| of_command.next().is_none())
    };
    same.or_else(|| only(&sources[source].rows).and(only(first)))
}

/// How often a value goes into another: `x1.25`.
pub(super) fn ratio(value: f64, base: f64) -> String {
    let ratio = if base > 0.0 { value / base } else { return "-".to_owned() };
    let digits = if ratio < 9.995 {
        2
    } else if ratio < 99.95 {
        1
    } else {
        0
    };
    format!("x{ratio:.digits$}")
}

/// Requests and rate.
pub(super) fn counts(row: &Row, source: &ReportSource) -> [String; 2] {
    let rate = if source.seconds > 0.0 { row.total.len() as f64 / source.seconds } else { 0.0 };
    [row.total.len().to_string(), human_rate(rate)]
}

/// The rows of all sources: those of one export and command together, in the order of the sources.
pub(super) fn groups(sources: &[ReportSource]) -> Vec<Vec<(usize, &Row)>> {
    let rows =
        sources.iter().enumerate().flat_map(|(source, of)| of.rows.iter().map(move |row| (source, row)));
    let mut rows: Vec<_> = rows.collect();
    // Stable: sources keep their order.
    rows.sort_by(|(_, a), (_, b)| a.compare(b));
    rows.chunk_by(|(_, a), (_, b)| a.compare(b).is_eq()).map(<[_]>::to_vec).collect()
}

pub(super) fn as_text(sources: &[ReportSource]) -> String {
    let mut text = String::new();
    for source in sources {
        text += &format!("{}: {:.1} s", source.label, source.seconds);
        for (name, fact) in source.facts.iter().filter(|(name, _)| *name == "command") {
            text += &format!(", {name} {fact}");
        }
        text.push('\n');
    }
    text.push('\n');
    let mut rows = vec![["", ""].into_iter().chain(heads()).map(str::to_owned).collect::<Vec<_>>()];
    for group in groups(sources) {
        for (index, row) in group {
            let source = &sources[index];
            let latencies = latencies(&row.total);
            let mut cells = vec![source.label.clone(), row.name()];
            cells.extend(counts(row, source));
            cells.extend(latencies.iter().map(|value| human_time(*value as u64)));
            rows.push(cells);
            if let Some(base) = baseline(sources, index, row) {
                let bases = self::latencies(&base.total);
                let mut cells = vec![String::new(), format!("  against {}", sources[0].label)];
                let per_second = |row: &Row, of: &ReportSource| row.total.len() as f64 / of.seconds.max(1e-9);
                cells.extend([String::new(), ratio(per_second(row, source), per_second(base, &sources[0]))]);
                cells.extend(latencies.iter().zip(bases).map(|(value, base)| ratio(*value, base)));
                rows.push(cells);
            }
        }
    }
    text += &aligned(&rows);
    let phases = phase_rows(sources);
    if phases.len() > 1 {
        text.push('\n');
        text += &aligned(&phases);
    }
    text
}

fn aligned(rows: &[Vec<String>]) -> String {
    let right: Vec<_> = (0..rows[0].len()).map(|column| column > 1).collect();
    table(rows, &right)
}

/// The phases of all rows that know theirs, below a row of heads.
pub(super) fn phase_rows(sources: &[ReportSource]) -> Vec<Vec<String>> {
    let heads = heads().into_iter().skip(2);
    let mut rows = vec![["", "phase"].into_iter().chain(heads).map(str::to_owned).collect::<Vec<_>>()];
    for group in groups(sources) {
        for (source, row) in group {
            let source = &sources[source];
            let Some(phases) = &row.phases else { continue };
            for (phase, histogram) in Phase::ALL.iter().zip(phases.iter()) {
                let mut cells = vec![format!("{}  {}", source.label, row.name()), phase.name().to_owned()];
                cells.extend(latencies(histogram).iter().map(|value| human_time(*value as u64)));
                rows.push(cells);
            }
        }
    }
    rows
}
