//! A part of the export that one connection has for itself, for a while: what its blocks hold, and what is
//! asked of them next. Pure.
//!
//! No request begins while one is under way that changes one of its blocks, so every READ has one right
//! answer, whatever order the server chooses.

use super::super::holding::Holding;
use super::super::probe::{ProbeResult, ProbedExport, not_met};
use super::super::rules::{ProbeReply, statuses};
use super::super::transmit::{error_name, same};
use super::super::wire::{ProbeRequest, pattern};
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;
use crate::random::Random;

/// The blocks of a territory at most: what is verified again and again must not take long.
pub(super) const MOST_BLOCKS: u64 = 2048;
/// The blocks of a request at most.
const LONGEST: u64 = 16;

/// What the server offers to a connection.
#[derive(Debug, Clone)]
pub(super) struct Offered {
    pub(super) export: ProbedExport,
    pub(super) mode: ReplyMode,
}

/// A request under way: its blocks, from the first of the territory.
#[derive(Debug, Clone)]
pub(super) struct Move {
    pub(super) request: ProbeRequest,
    first: usize,
    count: usize,
    /// What the blocks hold once it has succeeded.
    brings: Option<Holding>,
    /// It is one that has to fail.
    is_wrong: bool,
}

impl Move {
    /// The same without what is not needed once it is sent.
    pub(super) fn without_payload(mut self) -> Self {
        self.request.payload = Vec::new();
        self
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Territory {
    start: u64,
    block: u64,
    blocks: Vec<Holding>,
    /// How many requests read each block, or that one changes it.
    busy: Vec<u32>,
    versions: u64,
    cookies: u64,
}

const CHANGING: u32 = u32::MAX;

impl Territory {
    /// `blocks` of `block` bytes each; nothing is known of them. `seed` tells what this run writes from what
    /// another one left.
    pub(super) fn new(start: u64, block: u64, blocks: u64, seed: u64) -> Self {
        let blocks = blocks as usize;
        Self {
            start,
            block,
            blocks: vec![Holding::Unknown; blocks],
            busy: vec![0; blocks],
            versions: seed,
            cookies: seed,
        }
    }

    /// READs of all of it.
    pub(super) fn survey(&mut self, maximum: u64) -> Vec<Move> {
        let longest = (maximum / self.block).clamp(1, LONGEST) as usize;
        let firsts = (0..self.blocks.len()).step_by(longest);
        let counted = firsts.map(|first| (first, longest.min(self.blocks.len() - first))).collect::<Vec<_>>();
        counted.into_iter().map(|(first, count)| self.simple(NBD_CMD_READ, first, count, None)).collect()
    }

    /// What is asked next. Nothing when what was drawn has to wait for something under way.
    pub(super) fn draw(&mut self, chance: &mut Random, offered: &Offered) -> Option<Move> {
        let export = &offered.export;
        let longest = (export.maximum() / self.block).clamp(1, LONGEST).min(self.blocks.len() as u64);
        let count = 1 + chance.below(longest) as usize;
        let first = chance.below((self.blocks.len() - count + 1) as u64) as usize;
        let has = |flag: u16| export.has(flag);
        let mut drawn = match chance.below(100) {
            0..35 => self.read(chance, offered, first, count),
            35..75 => {
                self.versions += 1;
                let version = self.versions;
                let mut drawn = self.simple(NBD_CMD_WRITE, first, count, Some(Holding::Version(version)));
                let length = drawn.request.length as usize;
                drawn.request.payload = pattern_of(version, drawn.request.offset, length);
                drawn
            }
            75..83 if has(NBD_FLAG_SEND_WRITE_ZEROES) => {
                let mut drawn = self.simple(NBD_CMD_WRITE_ZEROES, first, count, Some(Holding::Zeroes));
                drawn.request.flags |= if chance.chance(0.5) { NBD_CMD_FLAG_NO_HOLE } else { 0 };
                let is_fast = has(NBD_FLAG_SEND_FAST_ZERO) && chance.chance(0.25);
                drawn.request.flags |= if is_fast { NBD_CMD_FLAG_FAST_ZERO } else { 0 };
                drawn
            }
            83..87 if has(NBD_FLAG_SEND_TRIM) => {
                self.simple(NBD_CMD_TRIM, first, count, Some(Holding::Unknown))
            }
            87..90 if has(NBD_FLAG_SEND_FLUSH) => self.alone(ProbeRequest::flush(), false),
            90..92 if has(NBD_FLAG_SEND_CACHE) => self.simple(NBD_CMD_CACHE, first, count, None),
            92..97 if !export.contexts.is_empty() => self.simple(NBD_CMD_BLOCK_STATUS, first, count, None),
            97..98 => self.alone(ProbeRequest::read(export.size, self.block), true),
            98..99 => self.alone(ProbeRequest::new(UNKNOWN_COMMAND, 0, 0), true),
            _ => self.simple(NBD_CMD_READ, first, count, None),
        };
        let changes = drawn.brings.is_some();
        if changes && has(NBD_FLAG_SEND_FUA) && chance.chance(0.1) {
            drawn.request.flags |= NBD_CMD_FLAG_FUA;
        }
        self.is_free(&drawn).then_some(drawn)
    }

    /// A READ of whole blocks, or of some bytes in them.
    fn read(&mut self, chance: &mut Random, offered: &Offered, first: usize, count: usize) -> Move {
        let mut drawn = self.simple(NBD_CMD_READ, first, count, None);
        let unit = offered.export.minimum();
        let units = drawn.request.length / unit;
        if chance.chance(0.2) && units > 1 {
            let skipped = chance.below(units);
            drawn.request.offset += skipped * unit;
            drawn.request.length = (1 + chance.below(units - skipped)) * unit;
        }
        let can_df = offered.mode != ReplyMode::Simple && offered.export.has(NBD_FLAG_SEND_DF);
        // Up to 64 KiB it has to be possible.
        if can_df && drawn.request.length <= 65536 && chance.chance(0.2) {
            drawn.request.flags |= NBD_CMD_FLAG_DF;
        }
        drawn
    }

    fn simple(&mut self, command: u16, first: usize, count: usize, brings: Option<Holding>) -> Move {
        let offset = self.start + first as u64 * self.block;
        let request = ProbeRequest::new(command, offset, count as u64 * self.block).cookie(self.cookie());
        Move { request, first, count, brings, is_wrong: false }
    }

    /// A request about no block.
    fn alone(&mut self, request: ProbeRequest, is_wrong: bool) -> Move {
        Move { request: request.cookie(self.cookie()), first: 0, count: 0, brings: None, is_wrong }
    }

    /// No two alike, and of all bits.
    fn cookie(&mut self) -> u64 {
        self.cookies += 1;
        self.cookies.wrapping_mul(0xd134_2543_de82_ef95)
    }

    fn is_free(&self, drawn: &Move) -> bool {
        let busy = &self.busy[drawn.first..drawn.first + drawn.count];
        match drawn.brings {
            Some(_) => busy.iter().all(|count| *count == 0),
            None => busy.iter().all(|count| *count != CHANGING),
        }
    }

    /// It is sent.
    pub(super) fn begin(&mut self, of: &Move) {
        for busy in &mut self.busy[of.first..of.first + of.count] {
            *busy = if of.brings.is_some() { CHANGING } else { *busy + 1 };
        }
    }

    /// It is answered. Gives how many bytes were compared with what must be there.
    pub(super) fn end(&mut self, of: &Move, reply: &ProbeReply, export: &ProbedExport) -> ProbeResult<u64> {
        for busy in &mut self.busy[of.first..of.first + of.count] {
            *busy = if of.brings.is_some() { 0 } else { *busy - 1 };
        }
        let request = &of.request;
        let is_fast = request.flags & NBD_CMD_FLAG_FAST_ZERO != 0;
        match (of.is_wrong, reply.error) {
            (true, 0) => return not_met(format!("{request} succeeds, and has to fail")),
            (true, _) => return Ok(0),
            (false, 0) => {}
            (false, NBD_ENOTSUP) if is_fast => return Ok(0),
            (false, error) => return not_met(format!("{request} fails with {}", error_name(error))),
        }
        if let Some(brings) = of.brings {
            self.blocks[of.first..of.first + of.count].fill(brings);
        }
        match request.command {
            NBD_CMD_READ => self.compare(request, &reply.data),
            NBD_CMD_BLOCK_STATUS => self.believe(request, reply, export),
            _ => Ok(0),
        }
    }

    fn compare(&self, request: &ProbeRequest, data: &[u8]) -> ProbeResult<u64> {
        let mut compared = 0;
        let mut rest = data;
        let mut at = request.offset;
        while !rest.is_empty() {
            let index = ((at - self.start) / self.block) as usize;
            let block_end = self.start + (index as u64 + 1) * self.block;
            let (part, after) = rest.split_at(rest.len().min((block_end - at) as usize));
            let holding = self.blocks[index];
            if let Some(expected) = holding.bytes(at, part.len()) {
                same(part, &expected, at, &format!("{request} has to give {holding}"))?;
                compared += part.len() as u64;
            }
            (rest, at) = (after, at + part.len() as u64);
        }
        Ok(compared)
    }

    /// What is said to read as zeroes must not be what a WRITE wrote.
    fn believe(&self, request: &ProbeRequest, reply: &ProbeReply, export: &ProbedExport) -> ProbeResult<u64> {
        let all = statuses(request, &reply.chunks, export.size, export.minimum())?;
        let allocation = export.contexts.iter().find(|(_, name)| name == "base:allocation");
        let Some(extents) = allocation.and_then(|(id, _)| all.get(id)) else {
            return not_met(format!("{request}: no status of base:allocation"));
        };
        let mut at = request.offset;
        let end = request.offset + request.length;
        for &(length, flags) in extents {
            let (from, to) = (at, at.saturating_add(length).min(end));
            at = to;
            if flags & u64::from(NBD_STATE_ZERO) == 0 || from >= to {
                continue;
            }
            let blocks = (from - self.start) / self.block..=(to - 1 - self.start) / self.block;
            for index in blocks {
                if let Holding::Version(version) = self.blocks[index as usize] {
                    return not_met(format!(
                        "{request}: {from:#x}..{to:#x} is said to read as zeroes, and WRITE number {version} wrote there"
                    ));
                }
            }
        }
        Ok(at.saturating_sub(request.offset))
    }
}

/// A command that no server knows.
const UNKNOWN_COMMAND: u16 = 88;

/// The payload of a WRITE. Each block of it is what [`Holding::bytes`] says of that block.
fn pattern_of(version: u64, offset: u64, length: usize) -> Vec<u8> {
    pattern(version % super::super::holding::VERSIONS, offset, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 4096;

    fn offered() -> Offered {
        let flags = NBD_FLAG_SEND_FLUSH
            | NBD_FLAG_SEND_FUA
            | NBD_FLAG_SEND_TRIM
            | NBD_FLAG_SEND_WRITE_ZEROES
            | NBD_FLAG_SEND_FAST_ZERO
            | NBD_FLAG_SEND_CACHE
            | NBD_FLAG_SEND_DF;
        let contexts = vec![(1, "base:allocation".to_owned())];
        let export = ProbedExport { size: 1 << 20, flags, block_sizes: Some([1, 4096, 1 << 20]), contexts };
        Offered { export, mode: ReplyMode::Structured }
    }

    /// The moves under way never overlap where one of them changes something, whatever is drawn.
    #[test]
    fn what_is_under_way_can_be_reordered() {
        let (offered, mut chance) = (offered(), Random::new(7));
        let mut territory = Territory::new(65536, BLOCK, 40, 1);
        let mut flying: Vec<Move> = Vec::new();
        let mut commands = std::collections::BTreeSet::new();
        for _ in 0..20_000 {
            if let Some(drawn) = territory.draw(&mut chance, &offered) {
                let range = |of: &Move| of.first..of.first + of.count;
                for other in &flying {
                    let (one, two) = (range(&drawn), range(other));
                    let overlap = one.start < two.end && two.start < one.end;
                    assert!(!overlap || drawn.brings.is_none() && other.brings.is_none());
                    assert_ne!(drawn.request.cookie, other.request.cookie);
                }
                let (offset, length) = (drawn.request.offset, drawn.request.length);
                assert!(drawn.count == 0 || (offset >= 65536 && offset + length <= 65536 + 40 * BLOCK));
                commands.insert(drawn.request.command);
                territory.begin(&drawn);
                flying.push(drawn);
            }
            if flying.len() > 8 {
                let done = flying.swap_remove(chance.below(flying.len() as u64) as usize);
                let error = if done.is_wrong { NBD_EINVAL } else { 0 };
                let is_checked = [NBD_CMD_READ, NBD_CMD_BLOCK_STATUS].contains(&done.request.command);
                let reply = ProbeReply { error, ..ProbeReply::default() };
                if is_checked {
                    // An error of a right request is a finding, and gives its blocks back all the same.
                    let reply = ProbeReply { error: NBD_EIO, ..reply };
                    assert_eq!(territory.end(&done, &reply, &offered.export).is_err(), !done.is_wrong);
                } else {
                    territory.end(&done, &reply, &offered.export).unwrap();
                }
            }
        }
        assert_eq!(commands.len(), 8, "all commands and an unknown one: {commands:?}");
    }

    #[test]
    fn a_wrong_byte_is_found_wherever_it_is() {
        let mut territory = Territory::new(0, BLOCK, 4, 9);
        territory.blocks = vec![Holding::Version(3), Holding::Zeroes, Holding::Unknown, Holding::Version(4)];
        let right = [pattern(3, 0, 4096), vec![0; 4096], vec![9; 4096], pattern(4, 12288, 4096)].concat();
        let request = ProbeRequest::read(100, 4 * BLOCK - 100);
        assert_eq!(territory.compare(&request, &right[100..]), Ok(3 * 4096 - 100));
        for at in [100, 4095, 4096, 8191, 12288, 16383] {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            let told = territory.compare(&request, &wrong[100..]);
            assert!(told.is_err(), "{at}");
        }
        let mut other = right.clone();
        other[8192..12288].fill(7);
        assert!(territory.compare(&request, &other[100..]).is_ok(), "anything may be there");
    }
}
