//! What to run: flags over a fio job file over the defaults.

use std::time::{Duration, SystemTime};

use super::args::{Args, ReadWrite, ReplyForm};
use super::fio::FioJob;
use crate::client::Timeouts;
use crate::client::load::pattern::UNIT;
use crate::client::load::{LoadKind, LoadOptions, Pattern, Replies};
use crate::nbd::session::ReplyMode;

/// Everything that a run needs.
#[derive(Debug)]
pub(super) struct RunSettings {
    pub(super) load: LoadOptions,
    pub(super) rw: ReadWrite,
    /// For stderr: what of the job file has no effect.
    pub(super) warnings: Vec<String>,
}

impl ReadWrite {
    fn pattern(self, mix: u8, flush_after: Option<u32>) -> Pattern {
        let (is_random, read_percent) = match self {
            Self::Trim => (false, 0),
            Self::Randtrim => (true, 0),
            Self::Read => (false, 100),
            Self::Write => (false, 0),
            Self::Randread => (true, 100),
            Self::Randwrite => (true, 0),
            Self::Randrw => (true, mix),
        };
        let trims = matches!(self, Self::Trim | Self::Randtrim);
        Pattern { is_random, read_percent, trims, flush_after }
    }
}

impl ReplyForm {
    const fn mode(self) -> ReplyMode {
        match self {
            Self::Simple => ReplyMode::Simple,
            Self::Structured => ReplyMode::Structured,
            Self::Extended => ReplyMode::Extended,
        }
    }
}

/// Requests in flight over all connections.
const MOST_IN_FLIGHT: usize = 1 << 20;
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

impl RunSettings {
    /// Flags win over the job file.
    ///
    /// # Errors
    /// A sentence with the cause and the remedy.
    pub(super) fn resolve(args: &Args) -> Result<Self, String> {
        let mut warnings = Vec::new();
        let job = match &args.fio {
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let text = read.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
                FioJob::parse(&text, args.ops.is_some() || args.duration.is_some(), &mut warnings)
                    .map_err(|error| format!("{}: {error}", path.display()))?
            }
            None => FioJob::default(),
        };
        let uri =
            args.uri.clone().or(job.uri).ok_or("no URI: name the export, as in nbd://localhost/disk")?;
        let rw = args.rw.or(job.rw).unwrap_or(ReadWrite::Randread);
        let verify = args.verify || job.verify;
        let pattern = rw.pattern(args.mix.or(job.mix).unwrap_or(50), args.fsync.or(job.fsync));
        if args.mix.is_some() && rw != ReadWrite::Randrw {
            return Err("--mix needs --rw randrw".into());
        }
        let block_size = args.bs.or(job.bs).unwrap_or(4096);
        let longest = crate::ring::LARGEST_LEASE as u64;
        let block_size =
            u32::try_from(block_size).ok().filter(|size| *size > 0 && u64::from(*size) <= longest);
        let block_size = block_size.ok_or("--bs must be from 1 to 256M")?;
        if pattern.has(LoadKind::Flush) && !pattern.has(LoadKind::Write) {
            return Err("--fsync comes after writes: choose --rw write, randwrite or randrw".into());
        }
        if verify && !pattern.has(LoadKind::Write) {
            return Err(
                "--verify checks what the run itself wrote: choose --rw write, randwrite or randrw".into()
            );
        }
        if verify && !block_size.is_multiple_of(UNIT as u32) {
            return Err(format!("--verify needs a --bs that is a multiple of {UNIT}"));
        }
        let depth = args.depth.or(job.depth).unwrap_or(1) as usize;
        let connections = args.connections.or(job.connections).unwrap_or(1) as usize;
        if depth * connections > MOST_IN_FLIGHT {
            return Err(format!("--connections times --depth is at most {MOST_IN_FLIGHT}"));
        }
        let operations = args.ops.or(job.operations);
        let duration = args.duration.or(job.duration);
        let load = LoadOptions {
            uri,
            pattern,
            block_size,
            depth,
            connections,
            rate: args.rate.or(job.rate),
            duration: duration.or(operations.is_none().then_some(DEFAULT_DURATION)),
            warm_up: args.warmup.or(job.warm_up).unwrap_or_default(),
            operations,
            offset: args.offset.or(job.offset).unwrap_or(0),
            size: args.size.or(job.size),
            seed: args.seed.or(job.seed).unwrap_or_else(another_seed),
            verify,
            replies: args.replies.map_or(Replies::Best, |form| Replies::Exactly(form.mode())),
            timeouts: Timeouts::default(),
            tls_renewal: args.tls_key_update_records,
        };
        Ok(Self { load, rw, warnings })
    }

    /// The kinds of operations that the load has.
    pub(super) fn kinds(&self) -> Vec<LoadKind> {
        LoadKind::ALL.into_iter().filter(|kind| self.load.pattern.has(*kind)).collect()
    }
}

/// Small enough for every JSON reader, and another one each time.
fn another_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (now.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(32)) >> 12
}
