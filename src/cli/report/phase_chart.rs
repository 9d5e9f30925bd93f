//! Where the time of a mean request goes: its phases side by side, which together are the whole.

use super::chart::{Picture, WIDE, long_time, short_time};
use super::source::Row;
use crate::stats::Phase;

/// Phases before the total, with their colours.
const PARTS: [(Phase, usize); 4] =
    [(Phase::Throttled, 4), (Phase::Queue, 3), (Phase::Backend, 2), (Phase::Send, 1)];
const BAR: f64 = 16.0;

/// Draws the rows that know their phases; nothing when there is none.
pub(super) fn draw(title: &str, rows: &[(String, &Row)], width: f64) -> Option<Picture> {
    let known: Vec<_> = rows.iter().filter_map(|(name, row)| Some((name, means(row)?))).collect();
    let longest = known.iter().map(|(_, means)| means.iter().sum()).fold(0.0, f64::max);
    if known.is_empty() || longest <= 0.0 {
        return None;
    }
    // On a phone the legend and the numbers have lines of their own.
    let (head, line) = if width < WIDE { (40.0, 58.0) } else { (22.0, 42.0) };
    let mut picture = Picture::new(title, width, head + line * known.len() as f64);
    legend(&mut picture);
    let right = picture.right();
    for (index, (name, means)) in known.iter().enumerate() {
        let bottom = head + line * (index + 1) as f64 - 6.0;
        let top = bottom - BAR;
        let values: Vec<_> = PARTS
            .iter()
            .zip(means)
            .map(|((phase, _), mean)| format!("{} {}", phase.name(), long_time(*mean)))
            .collect();
        let mean = long_time(means.iter().sum());
        if picture.is_narrow() {
            picture.text(0.0, top - 21.0, "small", "start", &format!("{name} · mean {mean}"));
            picture.text(0.0, top - 5.0, "quiet small", "start", &values.join(" · "));
        } else {
            picture.text(0.0, top - 5.0, "small", "start", name);
            let text = format!("{} · mean {mean}", values.join(" · "));
            picture.text(right, top - 5.0, "quiet small", "end", &text);
        }
        let mut at = 0.0;
        for ((phase, color), mean) in PARTS.iter().zip(means) {
            let part = right * mean / longest;
            let tip = format!("{} {}", phase.name(), short_time(mean.round()));
            picture.rectangle((at, top), (part, BAR), &format!("f{color}"), &tip);
            at += part;
        }
    }
    Some(picture)
}

fn legend(picture: &mut Picture) {
    const LETTER: f64 = 7.0;
    const GAP: f64 = 28.0;
    let width: f64 = PARTS.iter().map(|(phase, _)| LETTER * phase.name().len() as f64 + GAP).sum();
    let (mut x, y) = if picture.is_narrow() { (0.0, 30.0) } else { (picture.right() - width + 14.0, 13.0) };
    for (phase, color) in PARTS {
        picture.rectangle((x, y - 9.0), (9.0, 9.0), &format!("f{color}"), "");
        picture.text(x + 14.0, y, "quiet small", "start", phase.name());
        x += LETTER * phase.name().len() as f64 + GAP;
    }
}

/// Mean nanoseconds of each phase.
fn means(row: &Row) -> Option<[f64; 4]> {
    let phases = row.phases.as_ref()?;
    let requests = row.total.len().max(1) as f64;
    // Those that were not throttled have waited for nothing.
    let [throttled, queue, backend, send] = PARTS.map(|(phase, _)| &phases[phase as usize]);
    let throttled = throttled.mean() * throttled.len() as f64 / requests;
    Some([throttled, queue.mean(), backend.mean(), send.mean()])
}
