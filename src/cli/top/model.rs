//! What is shown, as a value: made from two shots of the server and from keys. It knows no terminal and no
//! clock.

use std::collections::{HashMap, VecDeque};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::figures::{ClientFigures, ExportFigures, SecondFigures, Shot};
use crate::cli::natural::natural;
use crate::nbd::printable::printable;

/// Seconds that are kept for the lines over time.
const SECONDS: usize = 600;
/// The longest filter, in characters.
const LONGEST_FILTER: usize = 256;

/// Which table is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum TopPage {
    #[default]
    Exports,
    Clients,
    Shards,
}

impl TopPage {
    pub(super) const ALL: [Self; 3] = [Self::Exports, Self::Clients, Self::Shards];

    fn next(self) -> Self {
        match self {
            Self::Exports => Self::Clients,
            Self::Clients => Self::Shards,
            Self::Shards => Self::Exports,
        }
    }
}

/// What rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum TopOrder {
    #[default]
    Requests,
    Bytes,
    Latency,
    InFlight,
    Errors,
    Name,
}

impl TopOrder {
    pub(super) const ALL: [Self; 6] =
        [Self::Requests, Self::Bytes, Self::Latency, Self::InFlight, Self::Errors, Self::Name];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::Latency => "p99",
            Self::InFlight => "in flight",
            Self::Errors => "errors",
            Self::Name => "name",
        }
    }

    fn moved(self, by: usize) -> Self {
        let at = Self::ALL.iter().position(|order| *order == self).unwrap_or(0);
        Self::ALL[(at + by) % Self::ALL.len()]
    }
}

/// An export, and what it does a second.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ExportSpeed {
    pub(super) of: ExportFigures,
    pub(super) reads: f64,
    pub(super) writes: f64,
    pub(super) others: f64,
    pub(super) read_bytes: f64,
    pub(super) written_bytes: f64,
    pub(super) errors: f64,
}

impl ExportSpeed {
    pub(super) fn requests(&self) -> f64 {
        self.reads + self.writes + self.others
    }
}

/// A connection, and what it does a second.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ClientRates {
    pub(super) of: ClientFigures,
    pub(super) requests: f64,
    pub(super) bytes: f64,
}

/// What a key asks for beyond the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopAction {
    Nothing,
    Quit,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct TopModel {
    pub(super) shot: Shot,
    pub(super) exports: Vec<ExportSpeed>,
    pub(super) clients: Vec<ClientRates>,
    /// Of the whole server, oldest first.
    pub(super) seconds: VecDeque<SecondFigures>,
    pub(super) page: TopPage,
    pub(super) order: TopOrder,
    pub(super) is_reversed: bool,
    pub(super) filter: String,
    /// Keys go to the filter.
    pub(super) is_typing: bool,
    pub(super) is_paused: bool,
    pub(super) has_help: bool,
    /// Why there is nothing newer.
    pub(super) trouble: Option<String>,
    /// At least one shot has come.
    pub(super) has_figures: bool,
    /// Rows of the page in their order, as indexes.
    pub(super) shown: Vec<usize>,
    /// A row of `shown`.
    pub(super) selected: usize,
    /// Rows that the terminal has room for.
    pub(super) room: usize,
}

/// By how much a counter grew a second; nothing when it began again.
fn rate(now: u64, before: u64, seconds: f64) -> f64 {
    match now.checked_sub(before) {
        Some(more) if seconds > 0.0 => more as f64 / seconds,
        _ => 0.0,
    }
}

impl TopModel {
    /// A new shot. The rates are those between it and the one before.
    pub(super) fn take(&mut self, shot: Shot) {
        self.trouble = None;
        if self.is_paused && self.has_figures {
            return;
        }
        let seconds = shot.taken.saturating_sub(self.shot.taken).as_secs_f64();
        let seconds = if self.has_figures { seconds } else { 0.0 };
        self.exports = export_rates(&shot.figures.exports, &self.shot.figures.exports, seconds);
        self.clients = client_rates(&shot.clients, &self.shot.clients, seconds);
        let newest = self.seconds.back().map_or(0, |second| second.end_unix_ms);
        if shot.figures.seconds.first().is_some_and(|first| first.end_unix_ms <= newest) {
            // They are told from the start again.
            self.seconds.clear();
        }
        self.seconds.extend(shot.figures.seconds.iter().cloned());
        let surplus = self.seconds.len().saturating_sub(SECONDS);
        self.seconds.drain(..surplus);
        self.shot = shot;
        self.has_figures = true;
        self.arrange();
    }

    /// There is no new shot.
    pub(super) fn fail(&mut self, why: String) {
        self.trouble = Some(why);
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyEvent) -> TopAction {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        if is_control && key.code == KeyCode::Char('c') {
            return TopAction::Quit;
        }
        if self.is_typing {
            self.type_filter(key.code);
            return TopAction::Nothing;
        }
        match key.code {
            KeyCode::Char('q') => return TopAction::Quit,
            KeyCode::Esc if self.has_help => self.has_help = false,
            KeyCode::Esc if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Esc => return TopAction::Quit,
            KeyCode::Char('?' | 'h') => self.has_help = !self.has_help,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('s' | '>') => self.order = self.order.moved(1),
            KeyCode::Char('S' | '<') => self.order = self.order.moved(TopOrder::ALL.len() - 1),
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Tab => self.turn_to(self.page.next()),
            KeyCode::BackTab => self.turn_to(self.page.next().next()),
            KeyCode::Char('1') => self.turn_to(TopPage::Exports),
            KeyCode::Char('2') => self.turn_to(TopPage::Clients),
            KeyCode::Char('3') => self.turn_to(TopPage::Shards),
            KeyCode::Enter if self.page == TopPage::Exports => self.open_clients(),
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.selected += 1,
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(self.room.max(1)),
            KeyCode::PageDown => self.selected += self.room.max(1),
            KeyCode::Home | KeyCode::Char('g') => self.selected = 0,
            KeyCode::End | KeyCode::Char('G') => self.selected = usize::MAX,
            _ => {}
        }
        self.arrange();
        TopAction::Nothing
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(character) if self.filter.chars().count() < LONGEST_FILTER => {
                self.filter.push(character);
            }
            _ => {}
        }
        self.selected = 0;
        self.arrange();
    }

    fn turn_to(&mut self, page: TopPage) {
        if page != self.page {
            (self.page, self.selected) = (page, 0);
        }
    }

    /// The clients of the export that is selected.
    fn open_clients(&mut self) {
        let row = self.shown.get(self.selected).and_then(|index| self.exports.get(*index));
        if let Some(row) = row {
            self.filter = printable(&row.of.export).chars().take(LONGEST_FILTER).collect();
            self.turn_to(TopPage::Clients);
        }
    }

    /// Chooses and sorts the rows.
    fn arrange(&mut self) {
        let wanted = self.filter.to_lowercase();
        let has = |text: &str| wanted.is_empty() || printable(text).to_lowercase().contains(&wanted);
        let (exports, clients) = (&self.exports, &self.clients);
        let mut shown: Vec<usize> = match self.page {
            TopPage::Exports => (0..exports.len()).filter(|row| has(&exports[*row].of.export)).collect(),
            TopPage::Clients => (0..clients.len())
                .filter(|row| has(&clients[*row].of.export) || has(&clients[*row].of.peer))
                .collect(),
            TopPage::Shards => (0..self.shot.figures.shards.len()).collect(),
        };
        match self.page {
            TopPage::Exports => sort_by(
                &mut shown,
                self.order,
                |row| exports[row].weight(self.order),
                |row| &exports[row].of.export,
            ),
            TopPage::Clients => sort_by(
                &mut shown,
                self.order,
                |row| clients[row].weight(self.order),
                |row| &clients[row].of.peer,
            ),
            TopPage::Shards => {}
        }
        if self.is_reversed {
            shown.reverse();
        }
        self.shown = shown;
        self.selected = self.selected.min(self.shown.len().saturating_sub(1));
    }

    /// What the whole server does a second: requests, bytes that were read, bytes that were written, errors.
    pub(super) fn sums(&self) -> (f64, f64, f64, f64) {
        let sum = |of: fn(&ExportSpeed) -> f64| self.exports.iter().map(of).sum();
        (
            sum(ExportSpeed::requests),
            sum(|row| row.read_bytes),
            sum(|row| row.written_bytes),
            sum(|row| row.errors),
        )
    }
}

/// The most first; equal ones by name, so that they stay where they are.
fn sort_by<'a>(
    rows: &mut [usize],
    order: TopOrder,
    weight: impl Fn(usize) -> f64,
    name: impl Fn(usize) -> &'a str,
) {
    rows.sort_by(|&one, &other| match order {
        TopOrder::Name => natural(name(one), name(other)),
        _ => weight(other).total_cmp(&weight(one)).then_with(|| natural(name(one), name(other))),
    });
}

impl ExportSpeed {
    fn weight(&self, order: TopOrder) -> f64 {
        match order {
            TopOrder::Requests | TopOrder::Name => self.requests(),
            TopOrder::Bytes => self.read_bytes + self.written_bytes,
            TopOrder::Latency => self.of.p99_ns as f64,
            TopOrder::InFlight => self.of.in_flight as f64,
            TopOrder::Errors => self.of.errors as f64,
        }
    }
}

impl ClientRates {
    fn weight(&self, order: TopOrder) -> f64 {
        match order {
            TopOrder::Bytes => self.bytes,
            TopOrder::InFlight => self.of.in_flight as f64,
            _ => self.requests,
        }
    }
}

fn export_rates(now: &[ExportFigures], before: &[ExportFigures], seconds: f64) -> Vec<ExportSpeed> {
    let by_name: HashMap<&str, &ExportFigures> = before.iter().map(|of| (of.export.as_str(), of)).collect();
    let rates = |of: &ExportFigures| {
        let Some(old) = by_name.get(of.export.as_str()) else {
            return ExportSpeed { of: of.clone(), ..ExportSpeed::default() };
        };
        ExportSpeed {
            of: of.clone(),
            reads: rate(of.reads, old.reads, seconds),
            writes: rate(of.writes, old.writes, seconds),
            others: rate(of.others, old.others, seconds),
            read_bytes: rate(of.read_bytes, old.read_bytes, seconds),
            written_bytes: rate(of.written_bytes, old.written_bytes, seconds),
            errors: rate(of.errors, old.errors, seconds),
        }
    };
    now.iter().map(rates).collect()
}

fn client_rates(now: &[ClientFigures], before: &[ClientFigures], seconds: f64) -> Vec<ClientRates> {
    let by_id: HashMap<&str, &ClientFigures> = before.iter().map(|of| (of.id.as_str(), of)).collect();
    let rates = |of: &ClientFigures| match by_id.get(of.id.as_str()) {
        None => ClientRates { of: of.clone(), ..ClientRates::default() },
        Some(old) => ClientRates {
            of: of.clone(),
            requests: rate(of.requests, old.requests, seconds),
            bytes: rate(of.bytes, old.bytes, seconds),
        },
    };
    now.iter().map(rates).collect()
}
