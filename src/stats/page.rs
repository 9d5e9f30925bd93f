//! The text of metrics as Prometheus reads it: families, samples, histograms.

use std::fmt::{Display, Write};

use hdrhistogram::Histogram;

/// Which of the two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// What Prometheus has read ever since.
    Prometheus,
    /// The standard made of it.
    OpenMetrics,
}

impl Format {
    /// The best one that an `Accept` header asks for.
    pub(crate) fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The media type of the format.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The upper ends of the buckets, in nanoseconds and as they are written, in seconds.
pub(super) const BUCKETS: [(u64, &str); 20] = [
    (5_000, "5e-06"),
    (10_000, "1e-05"),
    (25_000, "2.5e-05"),
    (50_000, "5e-05"),
    (100_000, "0.0001"),
    (250_000, "0.00025"),
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1.0"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5.0"),
    (10_000_000_000, "10.0"),
];

/// The text so far.
pub(super) struct Page {
    pub(super) text: String,
    pub(super) format: Format,
}

impl Page {
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // OpenMetrics names a family of counters without the suffix of its samples.
        let family = match self.format {
            Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
            Format::Prometheus => name,
        };
        let _ = writeln!(self.text, "# HELP {family} {help}\n# TYPE {family} {kind}");
    }

    /// A family of which each value of one label has one sample.
    pub(super) fn values<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (&'a str, u64)>,
    ) {
        self.family(name, kind, help);
        for (text, value) in values {
            self.sample(name, &[(label, text)], value);
        }
    }

    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{label}=\"");
            escape(&mut self.text, text);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    pub(super) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram<u64>) {
        let mut counts = [0; BUCKETS.len() + 1];
        let mut sum = 0.0;
        for step in histogram.iter_recorded() {
            let (value, count) = (step.value_iterated_to(), step.count_at_value());
            counts[BUCKETS.partition_point(|(end, _)| *end < value)] += count;
            // Histograms keep no sum; the middle of a bucket is within a thousandth of what was recorded.
            sum += histogram.median_equivalent(value) as f64 * count as f64;
        }
        let ends = BUCKETS.iter().map(|(_, end)| *end).chain(["+Inf"]);
        let bucket = format!("{name}_bucket");
        let mut cumulative = 0;
        for (end, count) in ends.zip(counts) {
            cumulative += count;
            let labels: Vec<_> = labels.iter().copied().chain([("le", end)]).collect();
            self.sample(&bucket, &labels, cumulative);
        }
        self.sample(&format!("{name}_sum"), labels, sum / 1e9);
        self.sample(&format!("{name}_count"), labels, cumulative);
    }
}

/// A label's value: an export's name may be anything.
fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}
