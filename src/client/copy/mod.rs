//! Copies a disk from a file or an NBD server to another one.
//!
//! A few threads each have a connection to both ends. A thread keeps several reads under way, and hands on
//! what has come while the rest is on its way. What the source says is a hole is not read, and what turns out
//! to be zeroes is not written as data.

mod end;
mod error;
mod file;
mod jobs;
mod link;
mod place;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Timeouts;
use crate::exec::lock;
use end::CopyEnd;
pub use error::CopyError;
use jobs::{Between, DataRanges, Jobs};
pub use place::CopyPlace;
use worker::CopyShared;
pub use worker::CopyWatch;

/// How to copy.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Threads, each with a connection to both ends; fewer where a server allows fewer.
    pub connections: usize,
    /// The target reads as zeroes already.
    pub target_is_zero: bool,
    /// Make the target durable at the end.
    pub flush: bool,
    /// Read both ends afterwards, and compare.
    pub verify: bool,
    /// Copy only what this dirty bitmap of the source says has changed: the target has all the rest.
    pub delta: Option<String>,
    pub timeouts: Timeouts,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyReport {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes that were written as data.
    pub data: u64,
    /// Connections to each end that is a server.
    pub connections: usize,
    pub took: Duration,
    /// Bytes that were compared afterwards.
    pub verified: Option<u64>,
}

/// Bytes of a disk that could be copied.
///
/// # Errors
/// [`CopyError`].
pub fn size_of(source: &CopyPlace, timeouts: Timeouts) -> Result<u64, CopyError> {
    Ok(CopyEnd::open_source(source, timeouts)?.size())
}

/// Copies all of `source` to the beginning of `target`. A file that is the target is made, or emptied before,
/// unless only changes are copied.
///
/// # Errors
/// [`CopyError`].
pub fn copy(
    (source, target): (&CopyPlace, &CopyPlace),
    options: &CopyOptions,
    progress: CopyWatch<'_>,
) -> Result<CopyReport, CopyError> {
    let began = Instant::now();
    let places = (source, target);
    let bitmap = options.delta.as_deref();
    let mut from = match bitmap {
        None => CopyEnd::open_source(source, options.timeouts)?,
        Some(bitmap) => CopyEnd::open_changed(source, bitmap, options.timeouts)?,
    };
    let size = from.size();
    let mut to = CopyEnd::open_target(places, (size, bitmap.is_some()), options.timeouts)?;
    let unit = u64::from(from.minimum().max(to.minimum()));
    if !size.is_multiple_of(unit) {
        return Err(CopyError::Unaligned { size, unit });
    }
    let (ranges, between, target_is_zero) = match bitmap {
        None => {
            let is_zero = options.target_is_zero || to.reads_as_zeroes(size)?;
            (from.data_ranges(unit)?, Between::Zeroes, is_zero)
        }
        Some(_) => (from.changed_ranges(unit)?, Between::Same, false),
    };
    let connections = options.connections.min(from.most_connections()).min(to.most_connections()).max(1);
    let shared = CopyShared {
        jobs: Jobs::new(ranges, between, size),
        target_is_zero,
        data: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
        progress,
    };
    let (mut from, mut to) =
        in_threads(places, options, connections, (from, to), |from, to| worker::copy(from, to, &shared))?;
    if options.flush {
        to.flush()?;
    }
    let data = shared.data.load(Ordering::Relaxed);
    if options.verify {
        let shared = CopyShared { jobs: Jobs::new(DataRanges::whole(size), Between::Same, size), ..shared };
        (from, to) = in_threads(places, options, connections, (from, to), |from, to| {
            worker::compare(from, to, &shared)
        })?;
    }
    drop((from, to));
    let verified = options.verify.then_some(size);
    Ok(CopyReport { size, data, connections, took: began.elapsed(), verified })
}

/// Does a work in so many threads, each with ends of its own; the first one takes those that are open, and
/// gives them back.
fn in_threads(
    (source, target): (&CopyPlace, &CopyPlace),
    options: &CopyOptions,
    threads: usize,
    (mut from, mut to): (CopyEnd, CopyEnd),
    work: impl Fn(&mut CopyEnd, &mut CopyEnd) -> Result<(), CopyError> + Sync,
) -> Result<(CopyEnd, CopyEnd), CopyError> {
    let failure = std::sync::Mutex::new(None);
    let note = |result: Result<(), CopyError>| {
        if let Err(error) = result {
            lock(&failure).get_or_insert(error);
        }
    };
    let another = || -> Result<(), CopyError> {
        let mut from = CopyEnd::open_source(source, options.timeouts)?;
        let mut to = CopyEnd::open_again(target, options.timeouts)?;
        work(&mut from, &mut to)
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| note(another()));
        }
        note(work(&mut from, &mut to));
    });
    match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok((from, to)),
    }
}
