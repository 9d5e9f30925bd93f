//! A heat map of latency over time. Its marks are the median and the 99th percentile.

use super::chart::{LatencyAxis, Picture, TimeAxis, WIDE, long_time, short_time};
use super::source::{Column, Row};
use super::theme::HEATS;
use crate::cli::text::human_rate;
use crate::stats::{HEAT_ROWS, Percentiles, heat_row_start_ns};

const PLOT: f64 = 190.0;

/// Draws a row that has columns; `seconds` is the length of its source.
pub(super) fn draw(title: &str, row: &Row, seconds: f64, width: f64) -> Picture {
    // On a phone the legend has a line of its own.
    let top = if width < WIDE { 60.0 } else { 42.0 };
    let bottom = top + PLOT;
    let mut picture = Picture::new(title, width, bottom + 24.0);
    let is_used = |index: &usize| row.columns.iter().any(|column| column.heat[*index] > 0);
    let first = (0..HEAT_ROWS).find(is_used).unwrap_or(0);
    let last = (0..HEAT_ROWS).rev().find(is_used).unwrap_or(0);
    let axis = LatencyAxis::new(heat_row_start_ns(first), heat_row_start_ns(last + 1), top, bottom);
    let time = TimeAxis { seconds, right: picture.right() };
    axis.draw(&mut picture);
    time.draw(&mut picture, bottom);
    let rates = row.columns.iter().flat_map(|column| column.heat.map(|count| rate(column, count)));
    let most = rates.fold(1.0, f64::max);
    for column in &row.columns {
        cells(&mut picture, column, &axis, &time, most);
    }
    marks(&mut picture, row, &axis, &time, "mark", |of| of.p50_ns);
    marks(&mut picture, row, &axis, &time, "mark d2", |of| of.p99_ns);
    legend(&mut picture, most);
    picture
}

/// Requests per second: a column may be wider than others.
fn rate(column: &Column, count: u64) -> f64 {
    count as f64 / column.length_seconds.max(1e-9)
}

fn cells(picture: &mut Picture, column: &Column, axis: &LatencyAxis, time: &TimeAxis, most: f64) {
    let (left, right) = (time.x(column.start_seconds), time.x(column.start_seconds + column.length_seconds));
    let right = right.min(time.right);
    for (index, count) in column.heat.iter().enumerate().filter(|(_, count)| **count > 0) {
        let part = (1.0 + rate(column, *count)).ln() / (1.0 + most).ln();
        let heat = ((part * HEATS as f64) as usize).min(HEATS - 1);
        let (from, to) = (heat_row_start_ns(index), heat_row_start_ns(index + 1));
        let (top, low) = (axis.y(to), axis.y(from));
        let tip = format!("{} requests of {} to {}", count, short_time(from.round()), short_time(to.round()));
        let size = ((right - left).max(0.5) + 0.2, low - top + 0.2);
        picture.cell((left, top), size, heat, tip);
    }
}

/// A line through the middle of the columns, broken where there is none.
fn marks(
    picture: &mut Picture,
    row: &Row,
    axis: &LatencyAxis,
    time: &TimeAxis,
    class: &str,
    value: fn(&Percentiles) -> u64,
) {
    let mut run: Vec<(f64, f64)> = Vec::new();
    let mut end = f64::NEG_INFINITY;
    for column in &row.columns {
        if column.start_seconds > end + column.length_seconds / 2.0 {
            picture.curve(&std::mem::take(&mut run), class);
        }
        let middle = column.start_seconds + column.length_seconds / 2.0;
        run.push((time.x(middle).min(time.right), axis.y(value(&column.latency) as f64)));
        end = column.start_seconds + column.length_seconds;
    }
    picture.curve(&run, class);
}

fn legend(picture: &mut Picture, most: f64) {
    const LETTER: f64 = 6.2;
    const STEP: f64 = 9.0;
    let count = format!("{} requests/s", human_rate(most));
    let lines = [("p50", "mark"), ("p99", "mark d2")];
    let width = 56.0 * lines.len() as f64 + 12.0 + STEP * HEATS as f64 + 5.0 + LETTER * count.len() as f64;
    let (mut x, y) = if picture.is_narrow() { (0.0, 30.0) } else { (picture.right() - width, 13.0) };
    for (name, class) in lines {
        picture.line((x, y - 4.0), (x + 20.0, y - 4.0), class);
        picture.text(x + 25.0, y, "quiet small", "start", name);
        x += 56.0;
    }
    picture.text(x, y, "quiet small", "start", "1");
    x += 12.0;
    for heat in 0..HEATS {
        picture.rectangle((x, y - 9.0), (STEP, 9.0), &format!("h{heat}"), "");
        x += STEP;
    }
    picture.text(x + 5.0, y, "quiet small", "start", &count);
}

/// How a column is described to those who do not see it.
pub(super) fn describe(row: &Row) -> String {
    let worst = row.columns.iter().max_by_key(|column| column.latency.max_ns);
    worst.map_or_else(String::new, |column| {
        format!(
            "the slowest request took {}, at {:.0} s",
            long_time(column.latency.max_ns as f64),
            column.start_seconds
        )
    })
}
