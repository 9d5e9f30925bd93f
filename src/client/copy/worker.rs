//! What a thread of a copy does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::end::CopyEnd;
use super::error::CopyError;
use super::jobs::{CopyJob, Jobs, PIECE, runs};

/// Reads that a thread keeps under way.
const DEPTH: usize = 8;

/// Is told of bytes that are done, by any thread; false gives the copy up. With `verify` each byte is done
/// twice.
pub type CopyWatch<'a> = &'a (dyn Fn(u64) -> bool + Sync);

/// What the threads share.
pub(super) struct CopyShared<'a> {
    pub(super) jobs: Jobs,
    /// The target reads as zeroes where nothing was written.
    pub(super) target_is_zero: bool,
    pub(super) data: AtomicU64,
    pub(super) stopped: AtomicBool,
    pub(super) progress: CopyWatch<'a>,
}

impl CopyShared<'_> {
    fn progressed(&self, bytes: u64) -> Result<(), CopyError> {
        if (self.progress)(bytes) { Ok(()) } else { Err(CopyError::Interrupted) }
    }
}

/// Copies pieces until there are no more, or another thread has failed.
pub(super) fn copy(from: &mut CopyEnd, to: &mut CopyEnd, shared: &CopyShared<'_>) -> Result<(), CopyError> {
    let result = copy_pieces(from, to, shared);
    if result.is_err() {
        shared.stopped.store(true, Ordering::Relaxed);
    }
    result
}

fn copy_pieces(from: &mut CopyEnd, to: &mut CopyEnd, shared: &CopyShared<'_>) -> Result<(), CopyError> {
    let mut buffers: Vec<Vec<u8>> = (0..DEPTH).map(|_| vec![0; PIECE as usize]).collect();
    let mut jobs: [Option<CopyJob>; DEPTH] = [None; DEPTH];
    loop {
        while let Some(slot) = jobs.iter().position(Option::is_none)
            && !shared.stopped.load(Ordering::Relaxed)
            && let Some(job) = shared.jobs.next()
        {
            if job.is_zero {
                zero(to, job, shared)?;
            } else {
                from.begin_read(slot, job)?;
                jobs[slot] = Some(job);
            }
        }
        if jobs.iter().all(Option::is_none) {
            return to.settle();
        }
        let slot = from.finish_read(&mut buffers)?;
        let job = jobs[slot].take().expect("it was begun");
        for (run, is_zero) in runs(&buffers[slot][..job.length as usize]) {
            let (offset, length) = (job.offset + run.start as u64, run.len() as u64);
            if is_zero {
                zero(to, CopyJob { offset, length, is_zero }, shared)?;
            } else {
                to.write(offset, &buffers[slot][run])?;
                shared.data.fetch_add(length, Ordering::Relaxed);
                shared.progressed(length)?;
            }
        }
    }
}

fn zero(to: &mut CopyEnd, job: CopyJob, shared: &CopyShared<'_>) -> Result<(), CopyError> {
    if !shared.target_is_zero {
        to.zero(job.offset, job.length)?;
    }
    shared.progressed(job.length)
}

/// Compares pieces until there are no more, or a thread has found a difference.
pub(super) fn compare(
    from: &mut CopyEnd,
    to: &mut CopyEnd,
    shared: &CopyShared<'_>,
) -> Result<(), CopyError> {
    let mut ours = [vec![0; PIECE as usize]];
    let mut theirs = ours.clone();
    while !shared.stopped.load(Ordering::Relaxed)
        && let Some(job) = shared.jobs.next()
    {
        let mut both = || -> Result<(), CopyError> {
            from.begin_read(0, job)?;
            to.begin_read(0, job)?;
            from.finish_read(&mut ours)?;
            to.finish_read(&mut theirs)?;
            let length = job.length as usize;
            let (ours, theirs) = (&ours[0][..length], &theirs[0][..length]);
            match ours == theirs {
                true => shared.progressed(job.length),
                false => {
                    let at = ours.iter().zip(theirs).position(|(one, other)| one != other);
                    Err(CopyError::Differs(job.offset + at.unwrap_or_default() as u64))
                }
            }
        };
        both().inspect_err(|_| shared.stopped.store(true, Ordering::Relaxed))?;
    }
    Ok(())
}
