//! `check --durability`: what FLUSH and FUA promise, asked by killing the server between the promise and the
//! read-back.
//!
//! The operating system goes on, so what reached its page cache survives: this finds what a server keeps in
//! its own memory, or forgets on its way. It finds no disk that lies, and no missing fsync.
//!
//! ```text
//! promises    what has to be there after the kill, and what was found   pure
//! server      a command that is started, killed, and started again
//! mod         the rounds: write, have it promised, kill, start, read back
//! ```

mod promises;
mod server;

use super::examiner::{Examiner, Subject};
use super::holding::{Holding, VERSIONS};
use super::probe::{Finding, Probe, ProbeResult, not_met};
use super::transcript::WireTransfer;
use super::transmit::judge;
use super::wire::{ProbeRequest, pattern};
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;
use crate::random::Random;
use promises::{Loss, Promises};
pub(crate) use server::{KillableServer, ServerCommand};

/// Blocks of the part of the export that is written to.
const BLOCKS: u64 = 128;
const BLOCK: u64 = 4096;
/// Writes before a promise.
const WRITES: usize = 24;
/// The blocks of one at most.
const LONGEST: u64 = 8;

/// How often, and with which choices.
#[derive(Debug, Clone)]
pub(crate) struct DurabilityWish {
    /// How often each promise is tried.
    pub rounds: u64,
    pub seed: u64,
}

/// What makes a change durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    Flush,
    Fua,
    /// A FLUSH on another connection than the WRITEs.
    FlushElsewhere,
}

impl Means {
    const ALL: [Self; 3] = [Self::Flush, Self::Fua, Self::FlushElsewhere];

    const fn name(self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::Fua => "fua",
            Self::FlushElsewhere => "multi_conn",
        }
    }

    /// The sentence that was broken.
    const fn promise(self) -> &'static str {
        match self {
            Self::Flush => "what was answered before a FLUSH was sent is durable when the FLUSH is answered",
            Self::Fua => "a WRITE or WRITE_ZEROES with the flag FUA is durable when it is answered",
            Self::FlushElsewhere => {
                "with MULTI_CONN, a FLUSH makes durable what was answered on any connection before it was sent"
            }
        }
    }
}

/// A promise that the server broke.
#[derive(Debug, Clone)]
pub(crate) struct LostPromise {
    /// `flush`, `fua` or `multi_conn`.
    pub means: &'static str,
    pub promise: &'static str,
    /// From 1 on.
    pub round: u64,
    /// Where, and what is there.
    pub what: String,
    /// What went over the wire last before the kill.
    pub transfers: Vec<WireTransfer>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(crate) struct DurabilityVerdict {
    /// The promises, how often each was tried, and why not if it was not.
    pub tried: Vec<(&'static str, u64, Option<&'static str>)>,
    pub kills: u64,
    pub broken: Option<LostPromise>,
}

/// Tries each promise `rounds` times. Ends with the first that is broken.
///
/// # Errors
/// A text: the server does not start, cannot be reached, or this cannot be asked of the export.
pub(crate) fn endure(
    server: &mut dyn KillableServer,
    subject: &Subject,
    wish: &DurabilityWish,
) -> Result<DurabilityVerdict, String> {
    let mut chance = Random::new(wish.seed);
    let mut life = Life { subject: subject.clone(), version: chance.below(VERSIONS / 2), promises: None };
    life.subject.dialer = server.start()?;
    let (facts, block) = {
        let examiner = Examiner::new(&life.subject)?;
        let block = examiner.trial_block(BLOCK)?;
        (examiner.facts, block)
    };
    if facts.flags & NBD_FLAG_READ_ONLY != 0 {
        return Err("the export is read-only: it is written to".to_owned());
    }
    let blocks = (facts.size / block).min(BLOCKS);
    if blocks < 2 * LONGEST {
        return Err(format!("the export has {} bytes, and {} are needed", facts.size, 2 * LONGEST * block));
    }
    life.promises = Some((block, Promises::new(block, blocks as usize)));
    let applies = |means: Means| match means {
        Means::Flush if facts.flags & NBD_FLAG_SEND_FLUSH == 0 => {
            Some("the export has not the flag SEND_FLUSH")
        }
        Means::Fua if facts.flags & NBD_FLAG_SEND_FUA == 0 => Some("the export has not the flag SEND_FUA"),
        Means::FlushElsewhere if !server.is_one() => Some("each connection is a server of its own"),
        Means::FlushElsewhere if facts.flags & NBD_FLAG_SEND_FLUSH == 0 => {
            Some("the export has not the flag SEND_FLUSH")
        }
        Means::FlushElsewhere if facts.flags & NBD_FLAG_CAN_MULTI_CONN == 0 => {
            Some("the export has not the flag CAN_MULTI_CONN")
        }
        _ => None,
    };
    let mut verdict = DurabilityVerdict {
        tried: Means::ALL.map(|means| (means.name(), 0, applies(means))).to_vec(),
        kills: 0,
        broken: None,
    };
    for round in 0..wish.rounds {
        for (index, means) in Means::ALL.into_iter().enumerate() {
            if verdict.tried[index].2.is_some() {
                continue;
            }
            let broken = life.round(server, means, &mut chance)?;
            verdict.tried[index].1 += 1;
            verdict.kills += 1;
            if let Some((what, transfers)) = broken {
                let (means, promise, round) = (means.name(), means.promise(), round + 1);
                verdict.broken = Some(LostPromise { means, promise, round, what, transfers });
                server.kill();
                return Ok(verdict);
            }
        }
    }
    server.kill();
    Ok(verdict)
}

/// What was found, and what went over the wire before.
type Broke = (String, Vec<WireTransfer>);

/// The server over its deaths.
struct Life {
    subject: Subject,
    /// Of the last WRITE.
    version: u64,
    /// The size of a block, and what was promised; from the first start on.
    promises: Option<(u64, Promises)>,
}

impl Life {
    /// Writes, has it promised, kills, starts, reads back.
    fn round(
        &mut self,
        server: &mut dyn KillableServer,
        means: Means,
        chance: &mut Random,
    ) -> Result<Option<Broke>, String> {
        let Some((block, mut promises)) = self.promises.take() else { return Ok(None) };
        let subject = self.subject.clone();
        let transfers = {
            let examiner = Examiner::new(&subject)?;
            examiner.begin();
            let longest = (examiner.facts.maximum / block).clamp(1, LONGEST);
            let (promises, version) = (&mut promises, &mut self.version);
            let mut writer = Writer { block, longest, promises, version, chance };
            let written = writer.write(&examiner, means);
            let transfers = examiner.transfers();
            match written {
                // The connections go before the server is started again.
                Ok(probes) => probes.into_iter().for_each(|mut probe| probe.kill_server()),
                Err(Finding::Unreachable(why)) => return Err(why),
                Err(Finding::NotMet(why) | Finding::NotApplicable(why)) => return Ok(Some((why, transfers))),
            }
            server.kill();
            transfers
        };
        self.subject.dialer = server.start()?;
        let examiner = Examiner::new(&self.subject)?;
        examiner.begin();
        let found = read_back(&examiner, block, block * promises.blocks() as u64);
        let broken = match found {
            Ok(data) => promises.judge(&data).map(|Loss { offset, what }| {
                (format!("the block of {block} bytes at {offset:#x}: {what}"), transfers)
            }),
            Err(Finding::Unreachable(why)) => return Err(why),
            Err(Finding::NotMet(why) | Finding::NotApplicable(why)) => {
                Some((format!("after the kill: {why}"), examiner.transfers()))
            }
        };
        self.promises = Some((block, promises));
        Ok(broken)
    }
}

fn read_back(examiner: &Examiner<'_>, block: u64, length: u64) -> ProbeResult<Vec<u8>> {
    let mut probe = examiner.attach(ReplyMode::Simple)?;
    if probe.export.size < length {
        return not_met(format!("the export has {} bytes, and had at least {length}", probe.export.size));
    }
    let most = (probe.export.maximum().min(1 << 20) / block).max(1) * block;
    let mut data = Vec::with_capacity(length as usize);
    while (data.len() as u64) < length {
        let part = most.min(length - data.len() as u64);
        data.extend(probe.read(data.len() as u64, part)?);
    }
    Ok(data)
}

/// The half of a round before the kill.
struct Writer<'a> {
    block: u64,
    /// Blocks of a WRITE at most.
    longest: u64,
    promises: &'a mut Promises,
    version: &'a mut u64,
    chance: &'a mut Random,
}

impl Writer<'_> {
    /// Writes until the promise is given, and a little more. The connections are still open then.
    fn write(&mut self, examiner: &Examiner<'_>, means: Means) -> ProbeResult<Vec<Probe>> {
        let mode = examiner.facts.modes[self.chance.below(examiner.facts.modes.len() as u64) as usize];
        let mut probe = examiner.attach(mode)?;
        let mut probes = Vec::new();
        // Something is there that a lost WRITE would leave: all of it in one promise.
        self.fill(&mut probe)?;
        for pass in 0..2 {
            self.changes(&mut probe, means, pass)?;
        }
        match means {
            Means::Flush => {
                probe.succeed(&ProbeRequest::flush())?;
                self.promises.promise_all();
            }
            Means::Fua => {}
            Means::FlushElsewhere => {
                let mut other = examiner.attach(ReplyMode::Simple)?;
                other.succeed(&ProbeRequest::flush())?;
                self.promises.promise_all();
                probes.push(other);
            }
        }
        // Nobody waits for these. They may be there or not, and what was promised lies below them.
        for _ in 0..4 {
            let (request, first, count) = self.draw();
            self.promises.change(first, count, Holding::Version(*self.version));
            probe.send_request(&request)?;
        }
        probes.push(probe);
        Ok(probes)
    }

    /// Writes all blocks, and flushes if there is such a thing.
    fn fill(&mut self, probe: &mut Probe) -> ProbeResult<()> {
        let blocks = self.promises.blocks();
        let longest = self.longest as usize;
        for first in (0..blocks).step_by(longest) {
            let request = self.write_of(first, (blocks - first).min(longest));
            probe.succeed(&request)?;
            self.promises.change(first, (blocks - first).min(longest), Holding::Version(*self.version));
        }
        if probe.export.has(NBD_FLAG_SEND_FLUSH) {
            probe.succeed(&ProbeRequest::flush())?;
            self.promises.promise_all();
        }
        Ok(())
    }

    /// Changes at once, each of blocks of its own, and all their answers.
    fn changes(&mut self, probe: &mut Probe, means: Means, pass: u32) -> ProbeResult<()> {
        let mut in_flight: Vec<ProbeRequest> = Vec::new();
        let mut places: Vec<(u64, usize, usize, Holding)> = Vec::new();
        for _ in 0..WRITES {
            let (mut request, first, count) = self.draw();
            let is_taken = |(_, other, many, _): &(u64, usize, usize, Holding)| {
                first < other + many && *other < first + count
            };
            if places.iter().any(is_taken) {
                continue;
            }
            let mut holding = Holding::Version(*self.version);
            let has_zeroes = probe.export.has(NBD_FLAG_SEND_WRITE_ZEROES);
            if has_zeroes && pass == 1 && self.chance.chance(0.15) {
                let zeroes = ProbeRequest::zeroes(request.offset, request.length);
                request = zeroes.cookie(request.cookie);
                holding = Holding::Zeroes;
            }
            // Some are not promised, so that a server cannot get away with keeping none of them.
            if means == Means::Fua && self.chance.chance(0.8) {
                request.flags |= NBD_CMD_FLAG_FUA;
            }
            places.push((request.cookie, first, count, holding));
            probe.send_request(&request)?;
            in_flight.push(request);
        }
        while !in_flight.is_empty() {
            let (request, reply) = probe.next_reply(&mut in_flight)?;
            judge(&request, reply.error, &[0])?;
            let place = places.iter().find(|(cookie, ..)| *cookie == request.cookie);
            let Some(&(_, first, count, holding)) = place else { continue };
            self.promises.change(first, count, holding);
            if request.flags & NBD_CMD_FLAG_FUA != 0 {
                self.promises.promise(first, count);
            }
        }
        Ok(())
    }

    /// A WRITE of some blocks, with a cookie of all bits.
    fn draw(&mut self) -> (ProbeRequest, usize, usize) {
        let blocks = self.promises.blocks() as u64;
        let count = 1 + self.chance.below(self.longest);
        let first = self.chance.below(blocks - count + 1) as usize;
        (self.write_of(first, count as usize), first, count as usize)
    }

    fn write_of(&mut self, first: usize, count: usize) -> ProbeRequest {
        *self.version += 1;
        let (offset, length) = (first as u64 * self.block, count * self.block as usize);
        let payload = pattern(*self.version % VERSIONS, offset, length);
        ProbeRequest::write(offset, payload).cookie(self.chance.number())
    }
}
