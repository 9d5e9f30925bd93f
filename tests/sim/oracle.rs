//! What reads may return and what a power cut may leave, from nothing but what clients sent and were told.
//!
//! Every write has a value of its own, from which its bytes follow. An export is a row of units, and every request begins and ends at
//! a unit's edge, so all bytes of a unit have one history: the writes that touched it. Moments are numbers that grow with everything
//! that a client does.

use ringnbd::internal::ring::sim::mixed;

/// Later than everything.
const NEVER: u64 = u64::MAX;

/// The value of what was found after a power cut.
const FOUND: u64 = u64::MAX;

/// Names a write of one export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriteId(u32);

#[derive(Debug, Clone)]
struct Write {
    /// 0 for zeroes.
    value: u64,
    /// Before this it cannot have had an effect; after `ended` it has none any more.
    sent: u64,
    ended: u64,
    /// Answered with success: whatever came before is gone.
    replaces: bool,
    /// It must survive a power cut.
    durable: bool,
    /// It was never sent completely: it must not have any effect.
    void: bool,
}

/// One write in the history of one unit.
#[derive(Debug, Clone, Copy)]
struct Touch {
    write: u32,
    /// A read that had ended by then saw it here.
    seen: u64,
}

/// The oracle of one export.
#[derive(Debug, Clone)]
pub(crate) struct Oracle {
    grain: usize,
    writes: Vec<Write>,
    units: Vec<Unit>,
    /// What the last power cut has left; nothing before there was one.
    found: Vec<u8>,
    /// FLUSH covers no write that was sent before.
    covered_from: u64,
}

/// The history of a unit: what it held at first, and who touched it since.
#[derive(Debug, Clone)]
struct Unit {
    first: Touch,
    later: Vec<Touch>,
}

impl Unit {
    fn touches(&self) -> impl Iterator<Item = &Touch> {
        std::iter::once(&self.first).chain(&self.later)
    }
}

/// The bytes of a value at an offset; both are multiples of 8.
pub(crate) fn fill(value: u64, offset: u64, bytes: &mut [u8]) {
    if value == 0 {
        return bytes.fill(0);
    }
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&word_of(value, offset / 8 + index as u64));
    }
}

/// Whether they are the bytes of a value at an offset.
fn holds(value: u64, offset: u64, bytes: &[u8]) -> bool {
    let mut words = bytes.chunks_exact(8).zip(offset / 8..);
    words.all(|(word, place)| if value == 0 { word == [0; 8] } else { word == word_of(value, place) })
}

/// The eight bytes of a value, which is not 0, at a multiple of eight.
fn word_of(value: u64, place: u64) -> [u8; 8] {
    mixed(value ^ place.wrapping_mul(0x2545_f491_4f6c_dd1d)).to_le_bytes()
}

impl Oracle {
    /// An export of `units` units that holds `values` (0 for zeroes), one for each.
    pub(crate) fn new(grain: usize, values: &[u64]) -> Self {
        let units = Vec::with_capacity(values.len());
        let mut oracle = Self { grain, writes: Vec::new(), units, found: Vec::new(), covered_from: 0 };
        for value in values {
            let known = oracle.writes.iter().position(|write| write.value == *value);
            let write = known.unwrap_or_else(|| {
                let value = *value;
                oracle.writes.push(Write {
                    value,
                    sent: 0,
                    ended: 0,
                    replaces: true,
                    durable: true,
                    void: false,
                });
                oracle.writes.len() - 1
            });
            let first = Touch { write: write as u32, seen: NEVER };
            oracle.units.push(Unit { first, later: Vec::new() });
        }
        oracle
    }

    /// The disk has become larger: what is new holds zeroes.
    pub(crate) fn grow(&mut self, size: u64) {
        let units = size as usize / self.grain;
        if units <= self.units.len() {
            return;
        }
        let write = self.writes.len() as u32;
        let (value, replaces, durable) = (0, true, true);
        self.writes.push(Write { value, sent: 0, ended: 0, replaces, durable, void: false });
        let first = Touch { write, seen: NEVER };
        self.units.resize(units, Unit { first, later: Vec::new() });
    }

    /// A client begins to send a write. `value` is its own, or 0 for zeroes.
    pub(crate) fn begin(&mut self, now: u64, value: u64, offset: u64, length: u64) -> WriteId {
        let write = self.writes.len() as u32;
        self.writes.push(Write {
            value,
            sent: now,
            ended: NEVER,
            replaces: false,
            durable: false,
            void: false,
        });
        for unit in self.covered(offset, length) {
            self.units[unit].later.push(Touch { write, seen: NEVER });
        }
        WriteId(write)
    }

    /// It was answered. `success`: it took place; `durable`: and was to be durable by then.
    pub(crate) fn end(&mut self, now: u64, write: WriteId, success: bool, durable: bool) {
        let write = &mut self.writes[write.0 as usize];
        write.ended = now;
        write.replaces = success;
        write.durable = success && durable;
    }

    /// Its connection is gone, and nothing of it is in flight any more.
    pub(crate) fn lost(&mut self, now: u64, write: WriteId) {
        let write = &mut self.writes[write.0 as usize];
        if write.ended == NEVER {
            write.ended = now;
        }
    }

    /// It was not sent to its end, and never will be.
    pub(crate) fn void(&mut self, write: WriteId) {
        self.writes[write.0 as usize].void = true;
    }

    /// A FLUSH that was sent at `sent` was answered with success.
    pub(crate) fn flushed(&mut self, sent: u64) {
        for write in &mut self.writes {
            if write.replaces && write.ended < sent && write.sent >= self.covered_from {
                write.durable = true;
            }
        }
    }

    fn covered(&self, offset: u64, length: u64) -> std::ops::Range<usize> {
        let grain = self.grain as u64;
        assert!(offset.is_multiple_of(grain) && length.is_multiple_of(grain), "requests keep to units");
        (offset / grain) as usize..((offset + length) / grain) as usize
    }

    /// Fills in the bytes of a value at an offset.
    fn fill(&self, value: u64, offset: u64, bytes: &mut [u8]) {
        match value {
            FOUND => bytes.copy_from_slice(&self.found[offset as usize..][..bytes.len()]),
            _ => fill(value, offset, bytes),
        }
    }

    /// Whether they are the bytes of a value at an offset.
    fn holds(&self, value: u64, offset: u64, bytes: &[u8]) -> bool {
        match value {
            FOUND => self.found[offset as usize..][..bytes.len()] == *bytes,
            _ => holds(value, offset, bytes),
        }
    }

    /// Whatever ended before `bar` was replaced.
    fn candidates(&self, unit: usize, bar: u64) -> impl Iterator<Item = &Touch> {
        self.units[unit].touches().filter(move |touch| {
            let write = &self.writes[touch.write as usize];
            write.ended >= bar && !write.void
        })
    }

    /// When the last write was sent that had certainly taken effect at `moment`.
    fn bar_for_reads(&self, unit: usize, moment: u64) -> u64 {
        let settled = |touch: &&Touch| {
            let write = &self.writes[touch.write as usize];
            (write.replaces && write.ended < moment) || touch.seen < moment
        };
        let sent = |touch: &Touch| self.writes[touch.write as usize].sent;
        self.units[unit].touches().filter(settled).map(sent).max().unwrap_or(0)
    }

    /// Bytes were read at `offset` by a request sent at `sent` whose reply is here at `now`.
    pub(crate) fn check_read(
        &mut self,
        sent: u64,
        now: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), String> {
        let grain = self.grain as u64;
        // A failed read may end within a unit; what is behind the last edge is not checked.
        let whole = bytes.len() as u64 / grain * grain;
        for unit in self.covered(offset, whole) {
            let at = (unit as u64 * grain - offset) as usize;
            let bar = self.bar_for_reads(unit, sent);
            let matching = self.check_unit(unit, bar, &bytes[at..at + self.grain])?;
            if let Some(write) = matching {
                let Unit { first, later } = &mut self.units[unit];
                let mut touches = std::iter::once(first).chain(later);
                let touch = touches.find(|touch| touch.write == write).expect("it matched");
                touch.seen = touch.seen.min(now);
            }
        }
        Ok(())
    }

    /// A reply said that a range reads as zeroes.
    pub(crate) fn check_zeroes(&mut self, sent: u64, offset: u64, length: u64) -> Result<(), String> {
        let grain = self.grain as u64;
        let (first, last) = (offset.next_multiple_of(grain), (offset + length) / grain * grain);
        if first >= last {
            return Ok(());
        }
        for unit in self.covered(first, last - first) {
            let bar = self.bar_for_reads(unit, sent);
            let start = unit as u64 * grain;
            let mut values = self.candidates(unit, bar).map(|touch| self.writes[touch.write as usize].value);
            if !values.any(|value| self.holds(value, start, &vec![0; self.grain])) {
                return Err(format!("said to be zero at {start}: {}", self.explain(unit, bar)));
            }
        }
        Ok(())
    }

    /// What the file holds after a power cut.
    pub(crate) fn check_survival(&self, content: &[u8]) -> Result<(), String> {
        for unit in 0..self.units.len() {
            let durable = |touch: &&Touch| self.writes[touch.write as usize].durable;
            let sent = |touch: &Touch| self.writes[touch.write as usize].sent;
            let bar = self.units[unit].touches().filter(durable).map(sent).max().unwrap_or(0);
            self.check_unit(unit, bar, &content[unit * self.grain..(unit + 1) * self.grain])
                .map_err(|error| format!("after the power cut: {error}"))?;
        }
        Ok(())
    }

    /// What a snapshot holds that began at `began`, if this is the oracle as it was when it had ended: all
    /// that was certain then, and perhaps more. When the newest write in it was sent.
    pub(crate) fn check_snapshot(&self, began: u64, content: &[u8]) -> Result<u64, String> {
        let mut newest = 0;
        for unit in 0..self.units.len() {
            let bar = self.bar_for_reads(unit, began);
            let matching =
                self.check_unit(unit, bar, &content[unit * self.grain..(unit + 1) * self.grain])?;
            newest = matching.map_or(newest, |write| self.writes[write as usize].sent.max(newest));
        }
        Ok(newest)
    }

    /// Whether a unit may hold these bytes; the one write that they are certainly of, if there is one.
    fn check_unit(&self, unit: usize, bar: u64, bytes: &[u8]) -> Result<Option<u32>, String> {
        let offset = (unit * self.grain) as u64;
        for touch in self.candidates(unit, bar) {
            let value = self.writes[touch.write as usize].value;
            if self.holds(value, offset, bytes) {
                return Ok((value != 0 && value != FOUND).then_some(touch.write));
            }
        }
        // Two writes under way at once, or one half done: any mixture.
        let (mut explained, mut expected) = (vec![false; self.grain], vec![0; self.grain]);
        for touch in self.candidates(unit, bar) {
            self.fill(self.writes[touch.write as usize].value, offset, &mut expected);
            explained.iter_mut().enumerate().for_each(|(at, known)| *known |= expected[at] == bytes[at]);
        }
        if explained.iter().all(|known| *known) {
            return Ok(None);
        }
        Err(format!("wrong bytes at {offset} ({:02x?}...): {}", &bytes[..8], self.explain(unit, bar)))
    }

    fn explain(&self, unit: usize, bar: u64) -> String {
        let history: Vec<_> =
            self.units[unit].touches().map(|touch| &self.writes[touch.write as usize]).collect();
        let last = &history[history.len().saturating_sub(6)..];
        format!("whatever ended before {bar} is replaced; its last writes: {last:?}")
    }

    /// The power has failed, and this is left: from now on it stays, whatever was written before. Nothing may be under way.
    pub(crate) fn begin_again(&mut self, content: &[u8]) {
        self.found = content[..self.units.len() * self.grain].to_vec();
        let (value, replaces, durable) = (FOUND, true, true);
        self.writes = vec![Write { value, sent: 0, ended: 0, replaces, durable, void: false }];
        self.units.fill_with(|| Unit { first: Touch { write: 0, seen: NEVER }, later: Vec::new() });
        self.covered_from = 0;
    }

    /// What was written before could not be written back, in part, and the server that knew is gone: no FLUSH covers it.
    pub(crate) fn forgive(&mut self, now: u64) {
        self.covered_from = now;
    }

    /// Checks the whole export when nothing is in flight.
    pub(crate) fn check_content(&mut self, now: u64, content: &[u8]) -> Result<(), String> {
        let size = self.units.len() * self.grain;
        self.check_read(now, now, 0, &content[..size]).map_err(|error| format!("at the end: {error}"))
    }
}
