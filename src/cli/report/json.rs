//! The report for programs; its keys are part of the interface.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::source::{ReportSource, Row};
use crate::stats::{Percentiles, Phase};

#[derive(Debug, Serialize)]
pub(super) struct ReportJson<'a> {
    sources: Vec<SourceJson<'a>>,
}

#[derive(Debug, Serialize)]
struct SourceJson<'a> {
    label: &'a str,
    /// What made it: file, command, machine, version.
    facts: BTreeMap<&'a str, Vec<&'a str>>,
    begin_unix_seconds: Option<f64>,
    duration_seconds: f64,
    rows: Vec<RowJson<'a>>,
}

#[derive(Debug, Serialize)]
struct RowJson<'a> {
    export: &'a str,
    command: &'a str,
    requests: u64,
    requests_per_second: f64,
    latency: Option<Percentiles>,
    phases: BTreeMap<&'static str, Option<Percentiles>>,
    spectrum: Vec<PointJson>,
    time: Vec<TimeJson>,
}

/// A point of the percentile spectrum.
#[derive(Debug, Serialize)]
struct PointJson {
    percentile: f64,
    latency_ns: u64,
}

#[derive(Debug, Serialize)]
struct TimeJson {
    start_seconds: f64,
    length_seconds: f64,
    latency: Percentiles,
}

impl<'a> ReportJson<'a> {
    pub(super) fn new(sources: &'a [ReportSource]) -> Self {
        Self { sources: sources.iter().map(SourceJson::new).collect() }
    }
}

impl<'a> SourceJson<'a> {
    fn new(source: &'a ReportSource) -> Self {
        let mut facts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        source.facts.iter().for_each(|(name, text)| facts.entry(*name).or_default().push(text.as_str()));
        Self {
            label: &source.label,
            facts,
            begin_unix_seconds: (source.begin_unix_seconds > 0.0).then_some(source.begin_unix_seconds),
            duration_seconds: source.seconds,
            rows: source.rows.iter().map(|row| RowJson::new(row, source.seconds)).collect(),
        }
    }
}

impl<'a> RowJson<'a> {
    fn new(row: &'a Row, seconds: f64) -> Self {
        let phases = row.phases.iter().flat_map(|phases| Phase::ALL.iter().zip(phases.iter()));
        Self {
            export: &row.export,
            command: &row.command,
            requests: row.total.len(),
            requests_per_second: if seconds > 0.0 { row.total.len() as f64 / seconds } else { 0.0 },
            latency: Percentiles::of(&row.total),
            phases: phases.map(|(phase, histogram)| (phase.name(), Percentiles::of(histogram))).collect(),
            spectrum: spectrum(&row.total),
            time: row
                .columns
                .iter()
                .map(|of| TimeJson {
                    start_seconds: of.start_seconds,
                    length_seconds: of.length_seconds,
                    latency: of.latency,
                })
                .collect(),
        }
    }
}

/// Four points for each power of ten, as far as there are requests for it.
fn spectrum(histogram: &Histogram<u64>) -> Vec<PointJson> {
    let end = (histogram.len() as f64).log10().clamp(1.0, 7.0);
    let powers = (0..=(end * 4.0) as u32).map(|step| f64::from(step) / 4.0);
    let quantiles = powers.map(|power| 1.0 - 10_f64.powf(-power));
    let point = |quantile: f64| PointJson {
        percentile: (quantile * 1e9).round() / 1e7,
        latency_ns: histogram.value_at_quantile(quantile).min(histogram.max()),
    };
    quantiles.map(point).collect()
}
