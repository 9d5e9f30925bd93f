//! Which columns a table has, by the room for them, and what stands in its cells.

use super::figures::ShardFigures;
use super::model::{ClientRates, ExportSpeed};
use super::words::{age, short_bytes, time_or_dash};
use crate::cli::info::export_name;
use crate::cli::text::human_rate;
use crate::nbd::printable::printable;

/// Cells between columns.
const GAP: u16 = 2;
/// What names have at least, before a further column is shown.
const NAME_WIDTH: u16 = 16;
/// A name is cut here before it is made printable: it may be 4 KiB long.
const NAME_CHARACTERS: usize = 400;

/// A table with places and texts.
pub(super) struct Drawn {
    pub(super) titles: Vec<DrawnCell>,
    pub(super) rows: Vec<Vec<DrawnCell>>,
}

/// A text and its place in a row.
pub(super) struct DrawnCell {
    pub(super) x: u16,
    pub(super) width: u16,
    pub(super) is_right: bool,
    pub(super) text: String,
    /// It is not as it should be.
    pub(super) is_alarming: bool,
}

/// A column of numbers. The lower `rank`, the longer it is shown when there is less room.
struct NumberColumn<T> {
    title: &'static str,
    width: u16,
    rank: u8,
    text: fn(&T) -> String,
    is_alarming: fn(&T) -> bool,
}

/// A column of names; they share what numbers leave.
struct NameColumn<T> {
    title: &'static str,
    text: fn(&T) -> String,
    is_alarming: fn(&T) -> bool,
}

const fn number<T>(title: &'static str, width: u16, rank: u8, text: fn(&T) -> String) -> NumberColumn<T> {
    NumberColumn { title, width, rank, text, is_alarming: |_| false }
}

const fn name<T>(title: &'static str, text: fn(&T) -> String) -> NameColumn<T> {
    NameColumn { title, text, is_alarming: |_| false }
}

/// A long name costs no more than one that fits.
fn name_of(name: &str) -> String {
    let cut: String = name.chars().take(NAME_CHARACTERS).collect();
    export_name(&cut)
}

pub(super) fn exports<'a>(width: u16, rows: impl Iterator<Item = &'a ExportSpeed>) -> Drawn {
    let errors = NumberColumn {
        is_alarming: |row: &&ExportSpeed| row.errors > 0.0,
        ..number("ERRORS", 7, 5, |row: &&ExportSpeed| row.of.errors.to_string())
    };
    let numbers = vec![
        number("READ/s", 7, 1, |row: &&ExportSpeed| human_rate(row.reads)),
        number("WRITE/s", 7, 1, |row: &&ExportSpeed| human_rate(row.writes)),
        number("OTHER/s", 7, 9, |row: &&ExportSpeed| human_rate(row.others)),
        number("READ B/s", 9, 3, |row: &&ExportSpeed| short_bytes(row.read_bytes)),
        number("WRITE B/s", 9, 3, |row: &&ExportSpeed| short_bytes(row.written_bytes)),
        number("P50", 7, 4, |row: &&ExportSpeed| time_or_dash(row.of.p50_ns)),
        number("P99", 7, 2, |row: &&ExportSpeed| time_or_dash(row.of.p99_ns)),
        number("FLIGHT", 6, 6, |row: &&ExportSpeed| row.of.in_flight.to_string()),
        number("CLIENTS", 7, 7, |row: &&ExportSpeed| row.of.connections.to_string()),
        errors,
        number("SIZE", 8, 8, |row: &&ExportSpeed| short_bytes(row.of.size_bytes as f64)),
        number("ACCESS", 6, 10, |row: &&ExportSpeed| if row.of.read_only { "ro" } else { "rw" }.to_owned()),
    ];
    let names = [name("EXPORT", |row: &&ExportSpeed| name_of(&row.of.export))];
    lay_out(width, &names, numbers, rows)
}

pub(super) fn clients<'a>(width: u16, rows: impl Iterator<Item = &'a ClientRates>) -> Drawn {
    let numbers = vec![
        number("REQ/s", 7, 1, |row: &&ClientRates| human_rate(row.requests)),
        number("BYTES/s", 9, 2, |row: &&ClientRates| short_bytes(row.bytes)),
        number("FLIGHT", 6, 3, |row: &&ClientRates| row.of.in_flight.to_string()),
        number("AGE", 6, 4, |row: &&ClientRates| age(row.of.age_seconds)),
        number("SHARD", 5, 5, |row: &&ClientRates| row.of.shard.to_string()),
        number("REQUESTS", 10, 6, |row: &&ClientRates| row.of.requests.to_string()),
        number("BYTES", 9, 7, |row: &&ClientRates| short_bytes(row.of.bytes as f64)),
    ];
    let names = [
        name("PEER", |row: &&ClientRates| {
            printable(&row.of.peer.chars().take(NAME_CHARACTERS).collect::<String>())
        }),
        name("EXPORT", |row: &&ClientRates| name_of(&row.of.export)),
    ];
    lay_out(width, &names, numbers, rows)
}

pub(super) fn shards<'a>(width: u16, rows: impl Iterator<Item = (usize, &'a ShardFigures)>) -> Drawn {
    let numbers = vec![
        number("CLIENTS", 7, 2, |row: &(usize, &ShardFigures)| row.1.connections.to_string()),
        number("FLIGHT", 6, 1, |row: &(usize, &ShardFigures)| row.1.in_flight.to_string()),
        number("UNSENT", 6, 5, |row: &(usize, &ShardFigures)| row.1.unsent.to_string()),
        NumberColumn {
            is_alarming: |row: &(usize, &ShardFigures)| {
                row.1.buffer_memory_used_bytes >= row.1.buffer_memory_bytes
            },
            ..number("MEMORY", 6, 3, memory_of)
        },
        number("OF", 8, 4, |row: &(usize, &ShardFigures)| short_bytes(row.1.buffer_memory_bytes as f64)),
    ];
    let names = [NameColumn {
        is_alarming: |row: &(usize, &ShardFigures)| row.1.failed || !row.1.responsive,
        ..name("SHARD", shard_name)
    }];
    lay_out(width, &names, numbers, rows)
}

fn memory_of(row: &(usize, &ShardFigures)) -> String {
    let used = u128::from(row.1.buffer_memory_used_bytes) * 100;
    format!("{}%", used / u128::from(row.1.buffer_memory_bytes.max(1)))
}

fn shard_name(row: &(usize, &ShardFigures)) -> String {
    let state = match (row.1.failed, row.1.responsive) {
        (true, _) => ": failed",
        (false, false) => ": does not answer",
        (false, true) => "",
    };
    format!("{}{state}", row.0)
}

/// Chooses columns, and puts each text in its place.
fn lay_out<T>(
    width: u16,
    names: &[NameColumn<T>],
    numbers: Vec<NumberColumn<T>>,
    rows: impl Iterator<Item = T>,
) -> Drawn {
    let minimum = NAME_WIDTH * names.len() as u16;
    let mut left = width.saturating_sub(minimum);
    let mut ranks: Vec<(u8, usize)> =
        numbers.iter().enumerate().map(|(index, column)| (column.rank, index)).collect();
    ranks.sort_unstable();
    let mut is_shown = vec![false; numbers.len()];
    for (_, index) in ranks {
        let needed = numbers[index].width + GAP;
        if needed > left {
            // What is less important is not shown either: columns come and go in one order.
            break;
        }
        left -= needed;
        is_shown[index] = true;
    }
    let numbers: Vec<NumberColumn<T>> = numbers
        .into_iter()
        .zip(is_shown)
        .filter(|(_, is_shown)| *is_shown)
        .map(|(column, _)| column)
        .collect();
    let taken: u16 = numbers.iter().map(|column| column.width + GAP).sum();
    let share = (width.saturating_sub(taken) / names.len() as u16).max(1);
    let name_cells = |text: &dyn Fn(&NameColumn<T>) -> (String, bool)| {
        let places = names.iter().enumerate();
        places
            .map(|(index, column)| {
                let is_last = index + 1 == names.len();
                let width = if is_last { share } else { share.saturating_sub(GAP).max(1) };
                let (text, is_alarming) = text(column);
                DrawnCell { x: index as u16 * share, width, is_right: false, text, is_alarming }
            })
            .collect::<Vec<_>>()
    };
    let number_cells = |text: &dyn Fn(&NumberColumn<T>) -> (String, bool)| {
        let mut x = share * names.len() as u16;
        let mut cells = Vec::with_capacity(numbers.len());
        for column in &numbers {
            let (text, is_alarming) = text(column);
            cells.push(DrawnCell { x: x + GAP, width: column.width, is_right: true, text, is_alarming });
            x += column.width + GAP;
        }
        cells
    };
    let mut titles = name_cells(&|column| (column.title.to_owned(), false));
    titles.extend(number_cells(&|column| (column.title.to_owned(), false)));
    let cells = |row: T| {
        let mut cells = name_cells(&|column| ((column.text)(&row), (column.is_alarming)(&row)));
        cells.extend(number_cells(&|column| ((column.text)(&row), (column.is_alarming)(&row))));
        cells
    };
    Drawn { titles, rows: rows.map(cells).collect() }
}
