//! The parts of pictures: text, lines, areas, and axes of time and of latency. Colours are classes; `theme`
//! gives them, light and dark.

use std::fmt::Write as _;

use super::theme::HEATS;
use crate::cli::text::human_time;

/// Width of a picture on a page, and in a file of its own.
pub(super) const WIDE: f64 = 680.0;
/// Width of a picture on a page on a phone.
pub(super) const NARROW: f64 = 350.0;
/// Space for the labels of the vertical axis.
pub(super) const LEFT: f64 = 58.0;
/// Space behind the end of the horizontal axis.
pub(super) const RIGHT: f64 = 14.0;

/// Text as HTML and XML have it. By hand, because html-escape and the like leave control characters, which
/// XML does not allow at all.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A latency with three digits, with the sign for micro that terminals may lack.
pub(super) fn long_time(nanoseconds: f64) -> String {
    human_time(nanoseconds as u64).replace(" us", " µs")
}

/// A latency on an axis: `5 µs`, `10 ms`.
pub(super) fn short_time(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        ..1e3 => (nanoseconds, "ns"),
        ..1e6 => (nanoseconds / 1e3, "µs"),
        ..1e9 => (nanoseconds / 1e6, "ms"),
        _ => (nanoseconds / 1e9, "s"),
    };
    // Two decimals, as far as they are needed.
    let text = format!("{value:.2}");
    format!("{} {unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A cell of a heat map.
struct Cell {
    at: (f64, f64),
    size: (f64, f64),
    heat: usize,
    tip: String,
}

/// A picture in the making.
pub(super) struct Picture {
    pub(super) width: f64,
    pub(super) height: f64,
    /// Below the cells.
    ground: String,
    cells: Vec<Cell>,
    /// Above the cells.
    body: String,
    /// What it shows, for those who do not see it.
    title: String,
}

impl Picture {
    pub(super) fn new(title: &str, width: f64, height: f64) -> Self {
        let (ground, body) = (String::new(), String::new());
        let mut picture = Self { width, height, ground, cells: Vec::new(), body, title: title.to_owned() };
        picture.text(0.0, 13.0, "title", "start", title);
        picture
    }

    /// Whether it is for a phone.
    pub(super) fn is_narrow(&self) -> bool {
        self.width < WIDE
    }

    /// Where a horizontal axis ends.
    pub(super) fn right(&self) -> f64 {
        self.width - RIGHT
    }

    pub(super) fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        let text = escape(text);
        let _ = write!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" class="{class}" text-anchor="{anchor}">{text}</text>"#
        );
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = write!(self.body, r#"<path class="{class}" d="M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}"/>"#);
    }

    /// A filled rectangle; `tip` is shown when it is pointed at.
    pub(super) fn rectangle(&mut self, at: (f64, f64), size: (f64, f64), class: &str, tip: &str) {
        let ((x, y), (width, height)) = (at, size);
        let tip = if tip.is_empty() { String::new() } else { format!("<title>{}</title>", escape(tip)) };
        let _ = write!(
            self.body,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" class="{class}">{tip}</rect>"#
        );
    }

    /// A cell of a heat map; what was drawn so far is below it, what is drawn later above.
    pub(super) fn cell(&mut self, at: (f64, f64), size: (f64, f64), heat: usize, tip: String) {
        if self.cells.is_empty() {
            self.ground = std::mem::take(&mut self.body);
        }
        self.cells.push(Cell { at, size, heat, tip });
    }

    pub(super) fn curve(&mut self, points: &[(f64, f64)], class: &str) {
        if points.is_empty() {
            return;
        }
        let _ = write!(self.body, r#"<path class="{class}" d=""#);
        for (index, (x, y)) in points.iter().enumerate() {
            let _ = write!(self.body, "{}{x:.1} {y:.1}", if index == 0 { "M" } else { "L" });
        }
        self.body.push_str(r#""/>"#);
    }

    /// As part of a page. `tips`: cells tell what they are when they are pointed at.
    pub(super) fn embedded(&self, tips: bool) -> String {
        let Self { width, height, ground, cells, body, title } = self;
        let (title, class) = (escape(title), if self.is_narrow() { "narrow" } else { "wide" });
        let shown = if !tips {
            self.group(0.0, 0.0)
        } else {
            let mut shown = Self::new("", 0.0, 0.0);
            shown.body.clone_from(ground);
            for Cell { at, size, heat, tip } in cells {
                shown.rectangle(*at, *size, &format!("h{heat}"), tip);
            }
            shown.body + body
        };
        format!(
            r#"<svg class="{class}" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">{shown}</svg>"#
        )
    }

    /// As a part of another picture, at a height; the cells of one colour are one shape, which takes a
    /// fraction of the bytes.
    pub(super) fn group(&self, x: f64, y: f64) -> String {
        let Self { ground, cells, body, .. } = self;
        let mut shapes = vec![String::new(); HEATS];
        for Cell { at: (x, y), size: (width, height), heat, .. } in cells {
            let _ = write!(shapes[*heat], "M{x:.1} {y:.1}h{width:.1}v{height:.1}h-{width:.1}z");
        }
        let mut below = ground.clone();
        for (heat, shape) in shapes.iter().enumerate().filter(|(_, shape)| !shape.is_empty()) {
            let _ = write!(below, r#"<path class="h{heat}" d="{shape}"/>"#);
        }
        format!(r#"<g transform="translate({x} {y})">{below}{body}</g>"#)
    }
}

/// A vertical axis of latency, logarithmic.
pub(super) struct LatencyAxis {
    low: f64,
    high: f64,
    top: f64,
    bottom: f64,
}

impl LatencyAxis {
    /// From `least` to `greatest` nanoseconds between two heights.
    pub(super) fn new(least: f64, greatest: f64, top: f64, bottom: f64) -> Self {
        let least = least.max(1.0);
        // At least a decade, so that noise does not look like mountains.
        let (low, high) = (least.log10(), greatest.max(least).log10());
        let missing = (1.0 - (high - low)).max(0.0) / 2.0;
        Self { low: low - missing - 0.04, high: high + missing + 0.04, top, bottom }
    }

    pub(super) fn y(&self, nanoseconds: f64) -> f64 {
        let part = (nanoseconds.max(1.0).log10() - self.low) / (self.high - self.low);
        self.bottom - part.clamp(0.0, 1.0) * (self.bottom - self.top)
    }

    /// Lines and labels.
    pub(super) fn draw(&self, picture: &mut Picture) {
        picture.text(LEFT - 8.0, self.top - 10.0, "quiet small", "end", "latency");
        let steps: &[f64] = match self.high - self.low {
            ..1.7 => &[1.0, 2.0, 5.0],
            ..3.3 => &[1.0, 3.0],
            _ => &[1.0],
        };
        for power in self.low.floor() as i32..=self.high.ceil() as i32 {
            for step in steps {
                let value = step * 10_f64.powi(power);
                if (self.low..=self.high).contains(&value.log10()) {
                    let y = self.y(value);
                    picture.line((LEFT, y), (picture.right(), y), "grid");
                    picture.text(LEFT - 8.0, y + 4.0, "quiet small", "end", &short_time(value));
                }
            }
        }
    }
}

/// A horizontal axis of time.
pub(super) struct TimeAxis {
    pub(super) seconds: f64,
    pub(super) right: f64,
}

impl TimeAxis {
    pub(super) fn x(&self, seconds: f64) -> f64 {
        LEFT + (self.right - LEFT) * seconds / self.seconds.max(1e-9)
    }

    /// Labels below a height.
    pub(super) fn draw(&self, picture: &mut Picture, bottom: f64) {
        const ROOM: f64 = 56.0;
        let steps =
            [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0];
        let most = (self.right - LEFT) / ROOM;
        let step = steps.into_iter().find(|step| self.seconds / step <= most).unwrap_or(86_400.0);
        for index in 0..=(self.seconds / step + 1e-6) as u32 {
            let seconds = f64::from(index) * step;
            picture.text(self.x(seconds), bottom + 16.0, "quiet small", "middle", &clock(seconds, step));
        }
    }
}

fn clock(seconds: f64, step: f64) -> String {
    let whole = seconds as u64;
    match step {
        ..60.0 if whole < 60 => format!("{whole} s"),
        ..3600.0 => format!("{}:{:02}", whole / 60, whole % 60),
        _ => format!("{} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_on_an_axis() {
        for (value, text) in
            [(5.0, "5 ns"), (1e3, "1 µs"), (2.5e3, "2.5 µs"), (3e8, "300 ms"), (1e10, "10 s")]
        {
            assert_eq!(short_time(value), text);
        }
    }

    #[test]
    fn texts_are_escaped() {
        for width in [WIDE, NARROW] {
            let mut picture = Picture::new("<a> & \"b\"", width, 10.0);
            picture.cell((0.0, 0.0), (1.0, 1.0), 0, "</svg><script>".to_owned());
            for svg in [picture.embedded(true), picture.embedded(false), picture.group(0.0, 0.0)] {
                assert!(!svg.contains("<script>") && !svg.contains("<a>"), "{svg}");
            }
        }
    }

    #[test]
    fn axes_keep_everything_inside() {
        let axis = LatencyAxis::new(1e3, 1e3, 10.0, 110.0);
        assert!((axis.y(1e3) - 60.0).abs() < 1.0, "a single value is in the middle: {}", axis.y(1e3));
        assert_eq!((axis.y(0.0), axis.y(1e12)), (110.0, 10.0));
        assert_eq!(clock(90.0, 30.0), "1:30");
        assert_eq!(clock(7200.0, 3600.0), "2 h");
    }
}
