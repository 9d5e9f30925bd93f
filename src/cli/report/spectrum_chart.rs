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
        format!("curve s{} d{}", self.color % COLORS, self.dash % DASHES)
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
    for curve in curves {
        let last = rarest(curve.histogram);
        let points: Vec<_> = (0..=POINTS)
            .map(|point| last * point as f64 / POINTS as f64)
            .map(|power| {
                let value = curve.histogram.value_at_quantile(1.0 - 10_f64.powf(-power));
                (x(power), axis.y(value.min(curve.histogram.max()) as f64))
            })
            .collect();
        picture.curve(&points, &curve.class());
    }
    picture
}
