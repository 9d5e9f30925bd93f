//! Random requests, valid and not, and what their replies must add up to.

use super::client::Context;
use super::oracle::{WriteId, fill};
use super::wire::{self, Form};

/// What a client knows of its session.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// Its socket is as one of TCP.
    pub(crate) over_tcp: bool,
    pub(crate) is_secure: bool,
    pub(crate) form: Form,
    pub(crate) export: usize,
    /// Of the export.
    pub(crate) generation: u32,
    pub(crate) shard: usize,
    pub(crate) size: u64,
    /// Bytes that requests are multiples of.
    pub(crate) grain: u64,
    pub(crate) read_only: bool,
    /// The server refuses what is not aligned to so many bytes.
    pub(crate) enforced: Option<u64>,
    /// Short requests in the same few pages, so that aligned and unaligned ones meet.
    pub(crate) crowded: bool,
    /// Bytes of the longest request.
    pub(crate) longest: u64,
    /// Nothing but the longest READs and WRITEs.
    pub(crate) steady: bool,
    /// It flushes more than others.
    pub(crate) cautious: bool,
    /// base:allocation was selected, with this id.
    pub(crate) context: Option<u32>,
}

/// What must come back if nothing fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Success,
    Error(u32),
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) command: u16,
    pub(crate) flags: u16,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) expect: Expect,
    /// When it was sent, in ticks.
    pub(crate) sent: u64,
    pub(crate) write: Option<WriteId>,
    /// Its last byte in the stream.
    pub(crate) stream_end: u64,
    pub(crate) error: Option<u32>,
    /// Ranges that its replies covered.
    covered: Vec<(u64, u64)>,
    statuses: usize,
}

impl Setting {
    /// A request as it is remembered, and its bytes.
    pub(crate) fn random_request(&self, cookie: u64, context: &mut Context<'_>) -> (Asked, Vec<u8>) {
        use wire::*;
        let kinds = [READ, READ, READ, READ, WRITE, WRITE, WRITE, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES];
        let mut command = context.random.pick(&kinds);
        if self.cautious && context.random.chance(0.2) {
            command = FLUSH;
        }
        if context.random.chance(0.08) {
            command = context.random.pick(&[BLOCK_STATUS, BLOCK_STATUS, 8, 77]);
        }
        if self.steady {
            command = context.random.pick(&[READ, WRITE, WRITE]);
        }
        let (mut offset, mut length) = self.random_range(context);
        let mut flags = self.random_flags(command, context);
        let mut expect = match command {
            8.. => Expect::Error(EINVAL),
            BLOCK_STATUS if self.context.is_none() => Expect::Error(EINVAL),
            WRITE | TRIM | WRITE_ZEROES if self.read_only => Expect::Error(EPERM),
            _ => Expect::Success,
        };
        let ranged = command != FLUSH;
        if ranged && expect == Expect::Success {
            let unaligned = self.enforced.is_some_and(|unit| (offset | length) % unit != 0);
            if unaligned {
                expect = Expect::Error(EINVAL);
            }
            match context.random.below(40) {
                0 => {
                    flags |= 1 << 9;
                    expect = Expect::Error(EINVAL);
                }
                1 if length > 0 => {
                    let beyond = context.random.pick(&[1, self.grain, self.size, u64::MAX - length]);
                    offset = (self.size - length).saturating_add(beyond);
                    let writes = matches!(command, WRITE | WRITE_ZEROES);
                    expect = Expect::Error(if writes { ENOSPC } else { EINVAL });
                }
                _ => {}
            }
        }
        if command == FLUSH {
            (offset, length) = (0, 0);
        }
        let payload = command == WRITE;
        if payload && self.form == Form::Extended {
            flags |= PAYLOAD_LEN;
        }
        let filter = (command == BLOCK_STATUS && self.form == Form::Extended && context.random.chance(0.4))
            .then(|| self.random_filter(length, &mut expect, context));
        if filter.is_some() {
            flags |= PAYLOAD_LEN;
        }
        let sent = context.tick();
        let announced = filter.as_ref().map_or(length, |filter| filter.len() as u64);
        let mut bytes = wire::request(self.form, flags, command, cookie, offset, announced);
        bytes.extend(filter.into_iter().flatten());
        let changes = matches!(command, WRITE | TRIM | WRITE_ZEROES) && expect == Expect::Success;
        let value = if payload { sent << 8 | 0x55 } else { 0 };
        let write = changes.then(|| context.oracle.begin(sent, value, offset, length));
        if payload {
            let start = bytes.len();
            bytes.resize(start + length as usize, 0);
            fill(value, offset & !7, &mut bytes[start..]);
        }
        let (covered, statuses, error) = (Vec::new(), 0, None);
        let stream_end = 0;
        let asked = Asked {
            command,
            flags,
            offset,
            length,
            expect,
            sent,
            write,
            stream_end,
            error,
            covered,
            statuses,
        };
        (asked, bytes)
    }

    /// The payload of a BLOCK_STATUS that names the contexts it wants, or sometimes others.
    fn random_filter(&self, length: u64, expect: &mut Expect, context: &mut Context<'_>) -> Vec<u8> {
        let mut filter = length.to_be_bytes().to_vec();
        let id = self.context.unwrap_or(7);
        let ids = match context.random.below(6) {
            0 => vec![id, id],
            1 => vec![id + 1],
            2 => vec![],
            _ => vec![id],
        };
        if ids != [id] {
            *expect = Expect::Error(wire::EINVAL);
        }
        ids.iter().for_each(|id| filter.extend_from_slice(&id.to_be_bytes()));
        filter
    }

    fn random_flags(&self, command: u16, context: &mut Context<'_>) -> u16 {
        use wire::*;
        let mut flags = 0;
        let mut maybe = |flag: u16, probability: f64| {
            if context.random.chance(probability) {
                flags |= flag;
            }
        };
        maybe(FUA, 0.15);
        match command {
            READ if self.form != Form::Simple => maybe(DF, 0.2),
            WRITE_ZEROES => {
                maybe(NO_HOLE, 0.4);
                // A read-only export does not offer it.
                maybe(FAST_ZERO, if self.read_only { 0.0 } else { 0.2 });
            }
            BLOCK_STATUS => maybe(REQ_ONE, 0.3),
            _ => {}
        }
        flags
    }

    /// A range within the export, mostly short, often in the same few places so that requests meet.
    fn random_range(&self, context: &mut Context<'_>) -> (u64, u64) {
        let random = &mut *context.random;
        let mut unit = if random.chance(0.5) { self.grain } else { 4096 };
        if let Some(enforced) = self.enforced
            && random.chance(0.9)
        {
            unit = unit.max(enforced);
        }
        if self.steady {
            return (0, self.longest);
        }
        if self.crowded {
            return (random.below((16 << 10) / unit) * unit, unit);
        }
        let units = self.size / unit;
        let longest = random.pick(&[1, 4, 16, 64, 1024]).min(units).min(self.longest / unit).max(1);
        let length = random.between(1, longest);
        let start = match random.below(8) {
            0 => units - length,
            1..4 => random.below((units - length + 1).min(16)),
            _ => random.below(units - length + 1),
        };
        (start * unit, length * unit)
    }
}

impl Asked {
    /// Data of a READ has come.
    pub(crate) fn add_data(
        &mut self,
        offset: u64,
        bytes: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        self.cover(offset, bytes.len() as u64)?;
        let now = context.tick();
        context.oracle.check_read(self.sent, now, offset, bytes)
    }

    fn cover(&mut self, offset: u64, length: u64) -> Result<(), String> {
        let end = offset.checked_add(length).ok_or("a chunk that wraps")?;
        if offset < self.offset || end > self.offset + self.length || length == 0 {
            return Err(format!("a chunk of {length} bytes at {offset} is not within {self:?}"));
        }
        if self.covered.iter().any(|(start, stop)| offset < *stop && *start < end) {
            return Err(format!("chunks overlap at {offset} in {self:?}"));
        }
        if self.flags & wire::DF != 0 && !self.covered.is_empty() {
            return Err(format!("two content chunks although fragments were forbidden: {self:?}"));
        }
        self.covered.push((offset, end));
        Ok(())
    }

    /// One chunk of a structured or extended reply.
    pub(crate) fn chunk(
        &mut self,
        form: Form,
        kind: u16,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        let too_short = || format!("a chunk of type {kind} with {} bytes", payload.len());
        let is_read = self.command == wire::READ;
        match kind {
            wire::NONE if payload.is_empty() => Ok(()),
            wire::OFFSET_DATA if is_read => {
                let (offset, data) = payload.split_first_chunk::<8>().ok_or_else(too_short)?;
                self.add_data(u64::from_be_bytes(*offset), data, context)
            }
            wire::OFFSET_HOLE if is_read && payload.len() == 12 => {
                let (offset, length) = (wire::u64_at(payload, 0), u64::from(wire::u32_at(payload, 8)));
                self.add_data(offset, &vec![0; length.min(self.length + 1) as usize], context)
            }
            wire::ERROR | wire::ERROR_OFFSET => {
                let text = if payload.len() < 6 { 0 } else { usize::from(wire::u16_at(payload, 4)) };
                let rest = if kind == wire::ERROR { 0 } else { 8 };
                if payload.len() < 6 || payload.len() != 6 + text + rest {
                    return Err(too_short());
                }
                self.error = Some(wire::u32_at(payload, 0));
                if self.error == Some(0) || self.error_within_content(payload, rest > 0) {
                    return Err(format!("an error chunk at a wrong place: {payload:02x?} {self:?}"));
                }
                Ok(())
            }
            wire::STATUS if form == Form::Structured => self.status(payload, 4, context),
            wire::STATUS_EXT if form == Form::Extended => self.status(payload, 8, context),
            _ => Err(too_short()),
        }
    }

    /// Content before an error is good, so the error's offset is not inside of it.
    fn error_within_content(&self, payload: &[u8], has_offset: bool) -> bool {
        if !has_offset {
            return false;
        }
        let at = wire::u64_at(payload, payload.len() - 8);
        let outside = at < self.offset || at >= self.offset + self.length;
        outside || self.covered.iter().any(|(start, end)| (*start..*end).contains(&at))
    }

    fn status(&mut self, payload: &[u8], width: usize, context: &mut Context<'_>) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("{why}: status {payload:02x?}"));
        let head = if width == 8 { 8 } else { 4 };
        self.statuses += 1;
        if payload.len() < head + 2 * width || !(payload.len() - head).is_multiple_of(2 * width) {
            return wrong("an impossible length");
        }
        let extents = payload[head..].chunks(2 * width);
        if width == 8 && wire::u32_at(payload, 4) as usize != extents.len() {
            return wrong("a wrong count");
        }
        if self.flags & wire::REQ_ONE != 0 && extents.len() != 1 {
            return wrong("more than one extent");
        }
        let number = |bytes: &[u8]| match width {
            8 => wire::u64_at(bytes, 0),
            _ => u64::from(wire::u32_at(bytes, 0)),
        };
        let (mut offset, mut before) = (self.offset, None);
        for extent in extents {
            let (length, flags) = (number(extent), number(&extent[width..]));
            if length == 0 || offset + length > self.offset + self.length || before == Some(flags) {
                return wrong("empty, too long, or not merged");
            }
            if flags & 2 != 0 {
                context.oracle.check_zeroes(self.sent, offset, length)?;
            }
            offset += length;
            before = Some(flags);
        }
        Ok(())
    }

    /// A successful reply has brought everything that was asked for.
    pub(crate) fn check_whole(&self) -> Result<(), String> {
        let covered: u64 = self.covered.iter().map(|(start, end)| end - start).sum();
        match self.command {
            wire::READ if covered != self.length => Err(format!("success with {covered} bytes")),
            wire::BLOCK_STATUS if self.statuses != 1 => Err(format!("{} status chunks", self.statuses)),
            _ => Ok(()),
        }
    }
}
