//! Draws the model into a buffer of cells. It knows no terminal.
//!
//! Colours are those of the terminal, for words and lines only, never as a background: they are readable on
//! light and on dark. All else is the terminal's own foreground, bold, dim or reversed.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;
use ratatui::widgets::{Sparkline, Widget};

use super::columns::{Drawn, clients, exports, shards};
use super::model::{TopModel, TopPage};
use super::words::{short_bytes, time_or_dash};
use crate::cli::text::human_rate;
use crate::nbd::printable::printable;

/// The height from which lines over time are drawn.
const ROOM_FOR_LINES: u16 = 14;
/// Rows of such a line.
const LINE_ROWS: u16 = 2;

/// How things look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) has_colours: bool,
}

impl Look {
    fn coloured(self, colour: Color) -> Style {
        if self.has_colours { Style::new().fg(colour) } else { Style::new() }
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws all of it. Gives how many rows the table has room for.
pub(super) fn draw(model: &TopModel, look: Look, area: Rect, buffer: &mut Buffer) -> usize {
    if area.height < 3 || area.width < 8 {
        return 0;
    }
    let mut y = area.y;
    let end = area.y + area.height;
    title(model, area, y, buffer);
    y += 1;
    sums(model, look, area, y, buffer);
    y += 1;
    if area.height >= ROOM_FOR_LINES {
        lines(model, look, Rect { y, height: LINE_ROWS + 1, ..area }, buffer);
        y += LINE_ROWS + 1;
    }
    if y + 1 < end {
        tabs(model, area, y, buffer);
        y += 1;
    }
    footer(model, area, end - 1, buffer);
    let table_area = Rect { y, height: (end - 1).saturating_sub(y), ..area };
    if model.has_help {
        help(table_area, buffer);
        return usize::from(table_area.height);
    }
    table(model, look, table_area, buffer)
}

/// Writes a text, cut at the edge with a sign that there is more. Gives where it ends.
fn put(buffer: &mut Buffer, (x, y): (u16, u16), room: u16, text: &str, style: Style) -> u16 {
    if room == 0 {
        return x;
    }
    let (end, _) = buffer.set_stringn(x, y, text, usize::from(room), style);
    let is_longer = text.len() > usize::from(room) * 16 || Span::raw(text).width() > usize::from(room);
    if is_longer {
        buffer.set_stringn(x + room - 1, y, "\u{2026}", 1, style);
        return x + room;
    }
    end
}

fn title(model: &TopModel, area: Rect, y: u16, buffer: &mut Buffer) {
    let figures = &model.shot.figures;
    let name = format!("ringnbd {}", printable(&figures.version.chars().take(40).collect::<String>()));
    let x = put(buffer, (area.x, y), area.width, &name, BOLD);
    let count = |number: usize, one: &str| format!("{number} {one}{}", if number == 1 { "" } else { "s" });
    let counts = format!(
        "  {}  {}  {}",
        count(figures.exports.len(), "export"),
        count(model.shot.client_count as usize, "client"),
        count(figures.shards.len(), "shard")
    );
    let x = put(buffer, (x, y), (area.x + area.width).saturating_sub(x), &counts, Style::new());
    let state = match (model.is_paused, figures.stopping) {
        (true, _) => " PAUSED ",
        (false, true) => " STOPPING ",
        _ => return,
    };
    let width = state.len() as u16;
    if area.x + area.width > x + width {
        put(buffer, (area.x + area.width - width, y), width, state, REVERSED);
    }
}

fn sums(model: &TopModel, look: Look, area: Rect, y: u16, buffer: &mut Buffer) {
    if let Some(why) = &model.trouble {
        let what = if model.has_figures { "No answer; these are old figures" } else { "No answer" };
        let text = format!("{what} (trying again): {}", printable(why));
        put(buffer, (area.x, y), area.width, &text, look.coloured(Color::Red).add_modifier(Modifier::BOLD));
        return;
    }
    if !model.has_figures {
        put(buffer, (area.x, y), area.width, "Asking the server...", DIM);
        return;
    }
    let (requests, read, written, errors) = model.sums();
    let shards = model.shot.figures.shards.iter();
    let in_flight = shards.fold(0u64, |sum, shard| sum.saturating_add(shard.in_flight));
    let last = model.seconds.back().cloned().unwrap_or_default();
    let parts = [
        format!("{} requests/s", human_rate(requests)),
        format!("p50 {}  p99 {}", time_or_dash(last.p50_ns), time_or_dash(last.p99_ns)),
        format!("read {}B/s", short_bytes(read)),
        format!("written {}B/s", short_bytes(written)),
        format!("{in_flight} in flight"),
    ];
    let mut x = area.x;
    let end = area.x + area.width;
    for part in parts {
        let needed = Span::raw(&part).width() as u16 + 2;
        if x + needed > end {
            break;
        }
        put(buffer, (x, y), end - x, &part, BOLD);
        x += needed;
    }
    if errors > 0.0 && x + 12 < end {
        let style = look.coloured(Color::Red).add_modifier(Modifier::BOLD);
        put(buffer, (x, y), end - x, &format!("errors {}/s", human_rate(errors.ceil())), style);
    }
}

/// What goes over time, as many panels as there is room for.
fn lines(model: &TopModel, look: Look, area: Rect, buffer: &mut Buffer) {
    let panels = match area.width {
        0..60 => 1,
        60..110 => 2,
        _ => 3,
    };
    let per_second = |count: u64, length_ms: u64| count.saturating_mul(1000) / length_ms.max(1);
    let width = area.width / panels;
    for panel in 0..panels {
        let room = Rect { x: area.x + panel * width, width: width - u16::from(panel + 1 < panels), ..area };
        let newest = model.seconds.iter().rev().take(usize::from(room.width));
        let (name, colour, data): (_, _, Vec<u64>) = match panel {
            0 => (
                "requests/s",
                Color::Cyan,
                newest
                    .map(|of| {
                        per_second(of.reads.saturating_add(of.writes).saturating_add(of.others), of.length_ms)
                    })
                    .collect(),
            ),
            1 => ("p99", Color::Magenta, newest.map(|of| of.p99_ns).collect()),
            _ => (
                "bytes/s",
                Color::Green,
                newest
                    .map(|of| per_second(of.read_bytes.saturating_add(of.written_bytes), of.length_ms))
                    .collect(),
            ),
        };
        let most = data.iter().copied().max().unwrap_or(0);
        let top = match panel {
            0 => human_rate(most as f64),
            1 => time_or_dash(most),
            _ => format!("{}B", short_bytes(most as f64)),
        };
        let label = format!("{name}  max {top}  {} s", data.len());
        put(buffer, (room.x, room.y), room.width, &label, DIM);
        // The newest stands at the right edge.
        let data: Vec<u64> = data.into_iter().rev().collect();
        let missing = room.width - data.len() as u16;
        let line = Rect { x: room.x + missing, y: room.y + 1, width: data.len() as u16, height: LINE_ROWS };
        Sparkline::default().data(&data).max(most.max(1)).style(look.coloured(colour)).render(line, buffer);
    }
}

fn tabs(model: &TopModel, area: Rect, y: u16, buffer: &mut Buffer) {
    let end = area.x + area.width;
    let mut x = area.x;
    for page in TopPage::ALL {
        let name = match page {
            TopPage::Exports => " 1 Exports ",
            TopPage::Clients => " 2 Clients ",
            TopPage::Shards => " 3 Shards ",
        };
        let style = if page == model.page { REVERSED.add_modifier(Modifier::BOLD) } else { Style::new() };
        x = put(buffer, (x, y), end.saturating_sub(x), name, style);
    }
    if model.page != TopPage::Shards {
        let arrow = if model.is_reversed { '\u{25b2}' } else { '\u{25bc}' };
        let text = format!("  {arrow} {}", model.order.name());
        x = put(buffer, (x, y), end.saturating_sub(x), &text, DIM);
    }
    if model.is_typing || !model.filter.is_empty() {
        let cursor = if model.is_typing { "_" } else { "" };
        let text = format!("  /{}{cursor}", printable(&model.filter));
        x = put(buffer, (x, y), end.saturating_sub(x), &text, BOLD);
    }
    let count = format!("{} of {} ", (model.selected + 1).min(model.shown.len()), model.shown.len());
    let width = count.len() as u16;
    if x + width < end {
        put(buffer, (end - width, y), width, &count, DIM);
    }
}

fn footer(model: &TopModel, area: Rect, y: u16, buffer: &mut Buffer) {
    let text = match (model.is_typing, area.width) {
        (true, _) => "type a part of a name; Enter keeps it, Esc takes it away",
        (false, 0..90) => "q quit  Tab page  s sort  / filter  p pause  ? help",
        _ => "q quit  Tab page  s sort  r reverse  / filter  p pause  Enter clients of it  ? help",
    };
    put(buffer, (area.x, y), area.width, text, DIM);
}

const HELP: [&str; 9] = [
    "Tab, 1 2 3        exports, clients, shards",
    "s S               sort by the next column, the one before",
    "r                 turn the order round",
    "/                 show only names that contain something; Esc shows all",
    "p, Space          stand still, go on",
    "arrows j k PgUp PgDn Home End    choose a row",
    "Enter             the clients of the export",
    "? Esc             this page goes",
    "q                 quit",
];

fn help(area: Rect, buffer: &mut Buffer) {
    for (y, text) in (area.y..area.y + area.height).zip(HELP) {
        put(buffer, (area.x, y), area.width, text, Style::new());
    }
}

/// The table of the page, around the row that is selected. Gives how many rows there is room for.
fn table(model: &TopModel, look: Look, area: Rect, buffer: &mut Buffer) -> usize {
    if area.height == 0 {
        return 0;
    }
    let room = usize::from(area.height - 1);
    let first = (model.selected + 1).saturating_sub(room);
    let visible = || model.shown.iter().enumerate().skip(first).take(room);
    let drawn = match model.page {
        TopPage::Exports => exports(area.width, visible().map(|(_, row)| &model.exports[*row])),
        TopPage::Clients => clients(area.width, visible().map(|(_, row)| &model.clients[*row])),
        TopPage::Shards => {
            shards(area.width, visible().map(|(_, row)| (*row, &model.shot.figures.shards[*row])))
        }
    };
    let Drawn { titles, rows } = drawn;
    let row_style = |at: usize| if at == model.selected && room > 0 { REVERSED } else { Style::new() };
    let underlined = Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
    buffer.set_style(Rect { height: 1, ..area }, underlined);
    for cell in &titles {
        cell.put_into(buffer, area, area.y, underlined);
    }
    for ((y, (at, _)), cells) in (area.y + 1..).zip(visible()).zip(&rows) {
        let style = row_style(at);
        buffer.set_style(Rect { y, height: 1, ..area }, style);
        for cell in cells {
            let is_alarming = cell.is_alarming && look.has_colours && at != model.selected;
            let style = if is_alarming { style.fg(Color::Red).add_modifier(Modifier::BOLD) } else { style };
            cell.put_into(buffer, area, y, style);
        }
    }
    if rows.is_empty() && model.has_figures && area.height > 1 {
        put(buffer, (area.x, area.y + 1), area.width, "nothing to show", DIM);
    }
    room
}

impl super::columns::DrawnCell {
    fn put_into(&self, buffer: &mut Buffer, area: Rect, y: u16, style: Style) {
        let width = self.width.min(area.width.saturating_sub(self.x));
        let text_width = (Span::raw(&*self.text).width() as u16).min(width);
        let skipped = if self.is_right { width - text_width } else { 0 };
        put(buffer, (area.x + self.x + skipped, y), width - skipped, &self.text, style);
    }
}
