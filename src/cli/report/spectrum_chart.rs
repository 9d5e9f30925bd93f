//! Latency by percentile on a logarithmic axis: each step to the right is ten times rarer.

use hdrhistogram::Histogram;

use super::chart::{LEFT, LatencyAxis, Picture};
use super::theme::{COLORS, DASHES};

/// The labels of the horizontal axis, each a power of ten rarer.
const PERCENTILES: [&str; 8] = ["0", "90", "99", "99.9", "99.99", "99.999", "99.9999", "99.99999"];
/// What a label takes.
const LABEL: f64 = 50.0;
const PLOT: f64 = 250.0;
const LEGEND_LINE: f64 = 17.0;
/// Points of a curve.
const POINTS: usize = 160;

/// A curve: what it is called, how it looks, its values.
pub(super) struct Curve<'a> {
    pub(super) name: String,
    pub(super) color: usize,
    /// Tells curves of one colour apart.
    pub(super) dash: usize,
    pub(super) histogram: &'a Histogram<u64>,
}

impl Curve<'_> {
    fn class(&self) -> String {
        format!("curve s{} d{}", self.color % COLORS, self.dashes())
    }

    /// Which kind of line it is: a higher one has more gaps.
    fn dashes(&self) -> usize {
        self.dash % DASHES
    }
}

/// A histogram's values with how many are at most that: a histogram searches from its start for each
/// quantile.
struct Values(Vec<(u64, u64)>);

impl Values {
    fn of(histogram: &Histogram<u64>) -> Self {
        let mut sum = 0;
        let mut step = |value: u64, count: u64| {
            sum += count;
            (sum, value.min(histogram.max()))
        };
        Self(histogram.iter_recorded().map(|of| step(of.value_iterated_to(), of.count_at_value())).collect())
    }

    fn at(&self, quantile: f64) -> u64 {
        let all = self.0.last().map_or(0, |(sum, _)| *sum);
        let rank = ((quantile * all as f64).ceil() as u64).clamp(1, all.max(1));
        let place = self.0.partition_point(|(sum, _)| *sum < rank);
        self.0.get(place).map_or(0, |(_, value)| *value)
    }
}

/// Draws the curves; there is at least one, and none is empty.
pub(super) fn draw(title: &str, curves: &[Curve<'_>], width: f64) -> Picture {
    let top = 36.0 + LEGEND_LINE * curves.len() as f64;
    let bottom = top + PLOT;
    let mut picture = Picture::new(title, width, bottom + 38.0);
    for (index, curve) in curves.iter().enumerate() {
        let y = 32.0 + LEGEND_LINE * index as f64;
        picture.line((LEFT, y - 4.0), (LEFT + 26.0, y - 4.0), &curve.class());
        picture.text(LEFT + 34.0, y, "small", "start", &curve.name);
    }
    let rarest = |histogram: &Histogram<u64>| (histogram.len() as f64).log10().clamp(1.0, 7.0);
    let end = curves.iter().map(|curve| rarest(curve.histogram)).fold(1.0, f64::max);
    let right = picture.right();
    let x = |power: f64| LEFT + (right - LEFT) * power / end;
    let least = curves.iter().map(|curve| curve.histogram.min()).min().unwrap_or(1);
    let greatest = curves.iter().map(|curve| curve.histogram.max()).max().unwrap_or(1);
    let axis = LatencyAxis::new(least as f64, greatest as f64, top, bottom);
    axis.draw(&mut picture);
    // Where there is no room for all labels, for every other one.
    let step = (LABEL * end / (right - LEFT)).ceil() as usize;
    for (power, label) in PERCENTILES.iter().enumerate().filter(|(power, _)| *power as f64 <= end) {
        let at = x(power as f64);
        picture.line((at, top), (at, bottom), "grid");
        if power % step == 0 {
            picture.text(at, bottom + 16.0, "quiet small", "middle", label);
        }
    }
    let caption = "percent of the requests are at least as fast";
    picture.text(x(end / 2.0), bottom + 32.0, "quiet small", "middle", caption);
    // A line without gaps would hide an equal one.
    let mut upwards: Vec<_> = curves.iter().collect();
    upwards.sort_by_key(|curve| curve.dashes());
    for curve in upwards {
        let last = rarest(curve.histogram);
        let values = Values::of(curve.histogram);
        let points: Vec<_> = (0..=POINTS)
            .map(|point| last * point as f64 / POINTS as f64)
            .map(|power| (x(power), axis.y(values.at(1.0 - 10_f64.powf(-power)) as f64)))
            .collect();
        picture.curve(&points, &curve.class());
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_that_the_histogram_names() {
        let mut histogram = crate::cli::report::source::empty();
        (1..=1_000_u64).for_each(|value| histogram.record(value * value * 100).unwrap());
        let values = Values::of(&histogram);
        for quantile in [0.0, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0] {
            assert_eq!(
                values.at(quantile),
                histogram.value_at_quantile(quantile).min(histogram.max()),
                "{quantile}"
            );
        }
    }
}
