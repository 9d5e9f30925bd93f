//! What all statements of a run share: how to reach the server, and what it is like.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::dial::Dialer;
use super::haggle::contexts;
use super::probe::{Finding, Probe, ProbeResult, not_applicable};
use super::transcript::{Transcript, WireTransfer};
use super::wire::{MODERN, be32, meta_data};
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

pub(super) const ALLOCATION: &[u8] = b"base:allocation";

/// What a run is about.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub dialer: Dialer,
    /// The export's name.
    pub export: String,
    /// How long a statement may take.
    pub timeout: Duration,
    /// The export may be overwritten.
    pub danger: bool,
}

/// What the server is like.
#[derive(Debug, Clone, Default)]
pub(super) struct ServerFacts {
    /// The forms of replies that it agrees to.
    pub(super) modes: Vec<ReplyMode>,
    /// It has `base:allocation`.
    pub(super) has_allocation: bool,
    pub(super) flags: u16,
    pub(super) size: u64,
    /// What offsets and lengths are a multiple of.
    pub(super) minimum: u64,
    /// The longest payload.
    pub(super) maximum: u64,
}

/// Asks one server, statement by statement.
pub(super) struct Examiner<'a> {
    pub(super) subject: &'a Subject,
    pub(super) facts: ServerFacts,
    transcript: Rc<RefCell<Transcript>>,
    deadline: Cell<Instant>,
}

impl<'a> Examiner<'a> {
    /// Learns what the server is like.
    pub(super) fn new(subject: &'a Subject) -> Result<Self, String> {
        let mut examiner = Self {
            subject,
            facts: ServerFacts::default(),
            transcript: Rc::default(),
            deadline: Cell::new(Instant::now() + subject.timeout),
        };
        let facts = examiner.learn();
        examiner.facts = facts.map_err(|finding| match finding {
            Finding::NotMet(why) | Finding::NotApplicable(why) | Finding::Unreachable(why) => why,
        })?;
        Ok(examiner)
    }

    fn learn(&self) -> ProbeResult<ServerFacts> {
        let mut facts = ServerFacts::default();
        for mode in [ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended] {
            let mut probe = self.open()?;
            let server_flags = probe.read_greeting()?;
            let is_fixed = server_flags & NBD_FLAG_FIXED_NEWSTYLE != 0;
            if !is_fixed {
                // Such a server knows one option.
                let flags = u32::from(server_flags) & NBD_FLAG_C_NO_ZEROES;
                probe.send(&flags.to_be_bytes())?;
                probe.export_name(&self.subject.export, flags != 0)?;
                facts.modes.push(ReplyMode::Simple);
                (facts.flags, facts.size) = (probe.export.flags, probe.export.size);
                (facts.minimum, facts.maximum) = (probe.export.minimum(), probe.export.maximum());
                return Ok(facts);
            }
            probe.send(&MODERN.to_be_bytes())?;
            match probe.choose(mode) {
                Ok(()) => facts.modes.push(mode),
                Err(Finding::NotMet(_)) => continue,
                Err(other) => return Err(other),
            }
            if mode != ReplyMode::Simple {
                let query = meta_data(self.subject.export.as_bytes(), &[ALLOCATION]);
                let answers = probe.ask(NBD_OPT_SET_META_CONTEXT, &query)?;
                facts.has_allocation = contexts(&answers).is_ok_and(|contexts| !contexts.is_empty());
            }
            probe.go(&self.subject.export)?;
            (facts.flags, facts.size) = (probe.export.flags, probe.export.size);
            (facts.minimum, facts.maximum) = (probe.export.minimum(), probe.export.maximum());
        }
        Ok(facts)
    }

    /// Begins a statement: its time starts now.
    pub(super) fn begin(&self) {
        self.deadline.set(Instant::now() + self.subject.timeout);
        drop(self.transcript.borrow_mut().take());
    }

    /// What went over the wire last.
    pub(super) fn transfers(&self) -> Vec<WireTransfer> {
        self.transcript.borrow_mut().take()
    }

    /// A connection, nothing said.
    pub(super) fn open(&self) -> ProbeResult<Probe> {
        let dialled = self.subject.dialer.dial(self.subject.timeout);
        let dialled = dialled.map_err(|error| Finding::Unreachable(format!("cannot connect: {error}")))?;
        let transcript = Rc::clone(&self.transcript);
        Ok(Probe::new(dialled, transcript, self.deadline.get(), self.subject.timeout))
    }

    /// A connection past its greeting.
    pub(super) fn haggling(&self) -> ProbeResult<Probe> {
        let mut probe = self.open()?;
        probe.greet(MODERN)?;
        Ok(probe)
    }

    /// A connection in the transmission phase, with `base:allocation` where there is such a thing.
    pub(super) fn attach(&self, mode: ReplyMode) -> ProbeResult<Probe> {
        self.has(mode)?;
        let mut probe = self.open()?;
        let server_flags = probe.read_greeting()?;
        if server_flags & NBD_FLAG_FIXED_NEWSTYLE == 0 {
            let flags = u32::from(server_flags) & NBD_FLAG_C_NO_ZEROES;
            probe.send(&flags.to_be_bytes())?;
            probe.export_name(self.export(), flags != 0)?;
            return Ok(probe);
        }
        probe.send(&MODERN.to_be_bytes())?;
        probe.choose(mode)?;
        if mode != ReplyMode::Simple && self.facts.has_allocation {
            probe.select(self.export(), &[ALLOCATION])?;
        }
        probe.go(self.export())?;
        Ok(probe)
    }

    pub(super) fn export(&self) -> &str {
        &self.subject.export
    }

    /// Asks in each form of replies that the server has.
    pub(super) fn each(&self, ask: impl Fn(&mut Probe) -> ProbeResult<()>) -> ProbeResult<()> {
        self.facts
            .modes
            .iter()
            .try_for_each(|&mode| in_mode(mode, self.attach(mode).and_then(|mut p| ask(&mut p))))
    }

    /// The same, of structured replies and extended headers only.
    pub(super) fn each_chunked(&self, ask: impl Fn(&mut Probe) -> ProbeResult<()>) -> ProbeResult<()> {
        let modes = self.chunked()?;
        modes.into_iter().try_for_each(|mode| in_mode(mode, self.attach(mode).and_then(|mut p| ask(&mut p))))
    }

    /// The forms of replies that are made of chunks.
    pub(super) fn chunked(&self) -> ProbeResult<Vec<ReplyMode>> {
        let modes: Vec<_> =
            self.facts.modes.iter().copied().filter(|mode| *mode != ReplyMode::Simple).collect();
        if modes.is_empty() { not_applicable("the server has simple replies only") } else { Ok(modes) }
    }

    /// The server has this form of replies.
    pub(super) fn has(&self, mode: ReplyMode) -> ProbeResult<()> {
        match (self.facts.modes.contains(&mode), mode) {
            (true, _) => Ok(()),
            (_, ReplyMode::Extended) => not_applicable("the server has no extended headers"),
            _ => not_applicable("the server has no structured replies"),
        }
    }

    /// The server has `base:allocation`.
    pub(super) fn needs_allocation(&self) -> ProbeResult<()> {
        match self.facts.has_allocation {
            true => Ok(()),
            false => not_applicable("the server has no context base:allocation for this export"),
        }
    }

    /// The transmission flag is set.
    pub(super) fn needs_flag(&self, flag: u16, name: &str) -> ProbeResult<()> {
        match self.facts.flags & flag {
            0 => not_applicable(format!("the export has not the flag {name}")),
            _ => Ok(()),
        }
    }

    /// Blocks in which a trial writes: of `usual` bytes, or of the server's minimum. A text when that is more
    /// than the document allows.
    pub(super) fn trial_block(&self, usual: u64) -> Result<u64, String> {
        match self.facts.minimum {
            ..=65536 => Ok(self.facts.minimum.max(usual)),
            minimum => Err(format!("the minimum block size is {minimum}; servers may have up to 65536")),
        }
    }

    /// The export has that many bytes.
    pub(super) fn needs_size(&self, bytes: u64) -> ProbeResult<()> {
        match self.facts.size >= bytes {
            true => Ok(()),
            false => {
                not_applicable(format!("the export has {} bytes, and {bytes} are needed", self.facts.size))
            }
        }
    }

    /// Names of exports that the server lists.
    pub(super) fn listed(&self) -> ProbeResult<Vec<String>> {
        let mut probe = self.haggling()?;
        let answers = probe.ask(NBD_OPT_LIST, b"")?;
        let names = answers.iter().filter(|answer| answer.kind == NBD_REP_SERVER).filter_map(|answer| {
            let length = be32(&answer.data, 0) as usize;
            std::str::from_utf8(answer.data.get(4..)?.get(..length)?).ok().map(str::to_owned)
        });
        Ok(names.collect())
    }
}

/// A finding says in which form of replies it was made.
fn in_mode(mode: ReplyMode, asked: ProbeResult<()>) -> ProbeResult<()> {
    asked.map_err(|finding| match finding {
        Finding::NotMet(what) => {
            let name = match mode {
                ReplyMode::Simple => "simple replies",
                ReplyMode::Structured => "structured replies",
                ReplyMode::Extended => "extended headers",
            };
            Finding::NotMet(format!("{name}: {what}"))
        }
        other => other,
    })
}
