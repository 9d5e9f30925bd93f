//! `check --load`: all commands at once, over several connections, for a while; every byte that is read is
//! compared with what must be there.
//!
//! ```text
//! territory    what the blocks of one part of the export hold, and what is asked of them next   pure
//! line         one connection: many requests under way
//! mod          connections beside each other, in turns; the verdict
//! ```
//! After each turn the territories move on to the next connection if the server promises that connections see
//! each other's writes (MULTI_CONN). It first reads all of what another one wrote.

mod line;
mod territory;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::dial::Dialer;
use super::examiner::{Examiner, Subject};
use super::holding::VERSIONS;
use super::probe::Finding;
use super::transcript::WireTransfer;
use crate::nbd::wire::*;
use crate::random::Random;
use line::{Deeds, Line, send_all};
use territory::{MOST_BLOCKS, Territory};

/// How long a connection stays with its territory.
const TURN: Duration = Duration::from_millis(700);
/// A block, unless the server's are larger.
const BLOCK: u64 = 4096;

/// How much load.
#[derive(Debug, Clone)]
pub(crate) struct LoadWish {
    pub duration: Duration,
    pub connections: usize,
    /// Requests under way on each.
    pub depth: usize,
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(crate) struct LoadVerdict {
    pub seconds: f64,
    pub connections: usize,
    /// Name, requests and bytes of each command.
    pub commands: Vec<(&'static str, u64, u64)>,
    /// Nanoseconds: median, 99th percentile, longest.
    pub latency_ns: [u64; 3],
    /// Bytes that were compared with what must be there.
    pub compared_bytes: u64,
    /// Connections read what others wrote.
    pub is_shared: bool,
    /// What the server did wrong, and what went over the wire last.
    pub broken: Option<(String, Vec<WireTransfer>)>,
}

const NAMES: [&str; 9] =
    ["read", "write", "disc", "flush", "trim", "cache", "write_zeroes", "block_status", "unknown"];

/// What all connections of a run share.
struct Storm<'a> {
    subject: &'a Subject,
    wish: &'a LoadWish,
    territories: Vec<Mutex<Territory>>,
    /// They move on.
    is_shared: bool,
    turn: Barrier,
    until: Instant,
    /// The end, for all at once.
    is_over: AtomicBool,
    has_failed: AtomicBool,
}

/// Loads a server.
///
/// # Errors
/// A text: it cannot be reached, or this cannot be asked of the export.
pub(crate) fn torture(subject: &Subject, wish: &LoadWish) -> Result<LoadVerdict, String> {
    let examiner = Examiner::new(subject)?;
    let facts = &examiner.facts;
    if facts.flags & NBD_FLAG_READ_ONLY != 0 {
        return Err("the export is read-only: load writes to it".to_owned());
    }
    // Each connection to a command is a server of its own.
    let is_one_server = matches!(subject.dialer, Dialer::Address(_));
    let connections = if is_one_server { wish.connections.max(1) } else { 1 };
    let block = examiner.trial_block(BLOCK)?;
    let blocks = facts.size / block / connections as u64;
    if blocks < 4 {
        return Err(format!(
            "the export has {} bytes: {connections} connections need {}; use fewer, or a larger one",
            facts.size,
            connections as u64 * 4 * block
        ));
    }
    let territories = (0..connections as u64).map(|index| {
        let seed = (wish.seed ^ index << 20) % VERSIONS;
        Mutex::new(Territory::new(index * blocks * block, block, blocks.min(MOST_BLOCKS), seed))
    });
    let storm = Storm {
        subject,
        wish,
        territories: territories.collect(),
        is_shared: is_one_server && facts.flags & NBD_FLAG_CAN_MULTI_CONN != 0 && connections > 1,
        turn: Barrier::new(connections),
        until: Instant::now() + wish.duration,
        is_over: AtomicBool::new(false),
        has_failed: AtomicBool::new(false),
    };
    let started = Instant::now();
    let ends: Vec<StormEnd> = std::thread::scope(|scope| {
        let storm = &storm;
        let lines: Vec<_> =
            (0..connections).map(|index| scope.spawn(move || storm.connection(index))).collect();
        lines.into_iter().filter_map(|line| line.join().ok()).collect()
    });
    let mut deeds = Deeds::new();
    ends.iter().for_each(|end| deeds.add(&end.deeds));
    let commands = NAMES.iter().zip(deeds.commands).map(|(name, (requests, bytes))| (*name, requests, bytes));
    Ok(LoadVerdict {
        seconds: started.elapsed().as_secs_f64(),
        connections,
        commands: commands.filter(|(_, requests, _)| *requests > 0).collect(),
        latency_ns: [0.5, 0.99, 1.0].map(|quantile| deeds.latency.value_at_quantile(quantile)),
        compared_bytes: deeds.compared,
        is_shared: storm.is_shared,
        broken: ends.into_iter().find_map(|end| end.broken),
    })
}

/// How a connection ended.
struct StormEnd {
    deeds: Deeds,
    broken: Option<(String, Vec<WireTransfer>)>,
}

impl Storm<'_> {
    /// The whole life of a connection. Whatever comes of it, it takes part in every turn: others wait for it.
    fn connection(&self, index: usize) -> StormEnd {
        let examiner = Examiner::new(self.subject);
        let mode = |examiner: &Examiner<'_>| examiner.facts.modes[index % examiner.facts.modes.len()];
        let line = examiner.as_ref().map_err(|why| Finding::Unreachable(why.clone())).and_then(|examiner| {
            examiner.begin();
            Line::new(examiner.attach(mode(examiner))?, self.wish.depth.max(1))
        });
        let (line, socket, parcels) = match line {
            Ok(line) => line,
            Err(finding) => {
                let transfers = examiner.map(|examiner| examiner.transfers()).unwrap_or_default();
                self.take_turns(|_| Err(()));
                return StormEnd { deeds: Deeds::new(), broken: Some((text_of(finding), transfers)) };
            }
        };
        let mut found = None;
        let deeds = std::thread::scope(|scope| {
            scope.spawn(move || send_all(&socket, &parcels));
            // It goes with this scope, and its sender with it.
            let mut line = line;
            let mut chance = Random::new(self.wish.seed.wrapping_add(index as u64));
            self.take_turns(|turn| {
                let of = if self.is_shared { (index + turn) % self.territories.len() } else { index };
                let mut territory = self.territories[of].lock().unwrap_or_else(PoisonError::into_inner);
                let until = self.until.min(Instant::now() + TURN);
                let done = line
                    .survey(&mut territory)
                    .and_then(|()| line.storm(&mut territory, &mut chance, until))
                    .and_then(|()| if until == self.until { line.survey(&mut territory) } else { Ok(()) });
                done.map_err(|finding| found = Some(finding))
            });
            line.hang_up();
            line.deeds
        });
        let broken = found.map(|finding| {
            let transfers = examiner.map(|examiner| examiner.transfers()).unwrap_or_default();
            (text_of(finding), transfers)
        });
        StormEnd { deeds, broken }
    }

    /// Has `work` done once a turn until the time is over or a connection has failed.
    fn take_turns(&self, mut work: impl FnMut(usize) -> Result<(), ()>) {
        for turn in 0.. {
            if work(turn).is_err() {
                self.has_failed.store(true, Ordering::SeqCst);
            }
            // One of them decides for all, between the two waits.
            if self.turn.wait().is_leader() {
                let is_over = self.has_failed.load(Ordering::SeqCst) || Instant::now() >= self.until;
                self.is_over.store(is_over, Ordering::SeqCst);
            }
            self.turn.wait();
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

fn text_of(finding: Finding) -> String {
    match finding {
        Finding::NotMet(why) | Finding::NotApplicable(why) | Finding::Unreachable(why) => why,
    }
}
