//! Where the time of a mean request goes: its phases side by side, which together are the whole.

use super::chart::{Picture, RIGHT, WIDTH, long_time, short_time};
use super::source::Row;
use crate::stats::Phase;

/// Phases before the total, with their colours.
const PARTS: [(Phase, usize); 3] = [(Phase::Queue, 3), (Phase::Backend, 2), (Phase::Send, 1)];
const BAR: f64 = 16.0;
const LINE: f64 = 40.0;

/// Draws the rows that know their phases; nothing when there is none.
pub(super) fn draw(title: &str, rows: &[(String, &Row)]) -> Option<Picture> {
    let known: Vec<_> = rows.iter().filter_map(|(name, row)| Some((name, means(row)?))).collect();
    let longest = known.iter().map(|(_, means)| means.iter().sum()).fold(0.0, f64::max);
    if known.is_empty() || longest <= 0.0 {
        return None;
    }
    let mut picture = Picture::new(title, 40.0 + LINE * known.len() as f64);
    let mut x = WIDTH - RIGHT;
    for (phase, color) in PARTS.into_iter().rev() {
        x -= 7.0 * phase.name().len() as f64;
        picture.text(x, 13.0, "quiet small", "start", phase.name());
        picture.rectangle((x - 14.0, 4.0), (9.0, 9.0), &format!("f{color}"), "");
        x -= 28.0;
    }
    let width = WIDTH - RIGHT;
    for (index, (name, means)) in known.iter().enumerate() {
        let top = 42.0 + LINE * index as f64;
        picture.text(0.0, top - 5.0, "small", "start", name);
        let values: Vec<_> = PARTS
            .iter()
            .zip(means)
            .map(|((phase, _), mean)| format!("{} {}", phase.name(), long_time(*mean)))
            .collect();
        let text = format!("{} · mean {}", values.join(" · "), long_time(means.iter().sum()));
        picture.text(width, top - 5.0, "quiet small", "end", &text);
        let mut at = 0.0;
        for ((phase, color), mean) in PARTS.iter().zip(means) {
            let part = width * mean / longest;
            let tip = format!("{} {}", phase.name(), short_time(mean.round()));
            picture.rectangle((at, top), (part, BAR), &format!("f{color}"), &tip);
            at += part;
        }
    }
    Some(picture)
}

/// Mean nanoseconds of each phase.
fn means(row: &Row) -> Option<[f64; 3]> {
    let phases = row.phases.as_ref()?;
    Some([phases[0].mean(), phases[1].mean(), phases[2].mean()])
}
