//! How what an image answered becomes durable.
//!
//! A commit takes the states that are pending, syncs the head's data, and then appends one record of those
//! states to the journal, durably. So a record that is there names only blocks whose data was there before
//! it. It takes before it syncs: a block that is written meanwhile belongs to the next commit. Without new
//! blocks a FLUSH is one `fdatasync`.
//!
//! One commit of a layer runs at a time, and FLUSHes that come meanwhile share the next one. When one has
//! failed all others fail until the image is opened again. [`HeadCommits`](super::head_commits) tells for
//! what a FLUSH waits after a snapshot.
//!
//! When half of the journal is used, a checkpoint writes what the records say into the map's nodes: first
//! into slots that no superblock names, then the superblock that names them.

use super::chain::{Chain, OpenLayer};
use crate::backend::context::ShardContext;
use crate::backend::file::{until_done, write_all};
use crate::backend::steps::steps;
use crate::block::{BlockError, ByteRange};
use crate::ring::{FileIndex, Operation};
use crate::store::map::{CheckpointStep, FileWrite, LogRoom, NoCommit};

/// Bytes of one write to a map's file.
const WRITE_STEP: usize = 64 << 10;

impl Chain {
    /// Whether one more change can be noted for the time after a kill.
    #[inline]
    pub(super) fn has_log_room(&self) -> bool {
        let head = self.head();
        match head.map.borrow_mut().log_room() {
            LogRoom::Enough => true,
            LogRoom::HalfFull => {
                head.commit_is_due.set(true);
                true
            }
            LogRoom::Full => false,
        }
    }

    /// Waits until a change can be noted. The caller has no memory of the reserve, of which a commit needs
    /// some.
    pub(super) async fn make_log_room(&self, context: &ShardContext) -> Result<(), BlockError> {
        while !self.has_log_room() {
            self.share_commit(context).await?;
        }
        Ok(())
    }

    /// A commit that nobody has asked for, if the log is half full, so that nobody has to wait for room
    /// later. If it fails, so do all FLUSHes, and the log says why.
    pub(super) async fn commit_early(&self, context: &ShardContext) {
        if self.head().commit_is_due.take() {
            let _told_later = Box::pin(self.share_commit(context)).await;
        }
    }

    /// A commit, or one that others have asked for and that has not begun.
    pub(super) async fn share_commit(&self, context: &ShardContext) -> Result<(), BlockError> {
        self.head().commits.syncs.flush(async || self.commit(context).await).await
    }

    /// Makes everything durable that was answered, so that the image finds it again.
    pub(super) async fn make_durable(&self, context: &ShardContext) -> Result<(), BlockError> {
        self.share_commit(context).await?;
        self.is_found_again().await
    }

    /// Waits until the image finds what is durable of its head again after a power cut.
    pub(super) async fn is_found_again(&self) -> Result<(), BlockError> {
        if canary!(FlushBeforeCommit) {
            return Ok(());
        }
        self.head().commits.is_sure().await
    }

    /// Makes everything durable that was answered; one at a time.
    pub(super) async fn commit(&self, context: &ShardContext) -> Result<(), i32> {
        let head = self.head();
        let Some(map_file) = head.map_file else {
            // It is forgotten at the end.
            return Ok(());
        };
        // What changes from now on came after the FLUSH.
        let mark = head.map.borrow().mark();
        loop {
            let taken = head.map.borrow_mut().begin_commit();
            let record = match taken {
                Ok(record) => record,
                Err(NoCommit::RingFull) => {
                    head.checkpoint(map_file, context).await?;
                    continue;
                }
                Err(NoCommit::Failed | NoCommit::ReadOnly) => return Err(libc::EIO),
            };
            let has_record = record.is_some();
            let result = self.write_record(record, map_file, context).await;
            if has_record {
                head.map.borrow_mut().end_commit(result.is_ok());
            }
            result?;
            if head.map.borrow().is_committed(mark) {
                break;
            }
        }
        let is_due = head.map.borrow().should_checkpoint();
        if is_due { head.checkpoint(map_file, context).await } else { Ok(()) }
    }

    /// The same, and then the journal has nothing that the next opening would have to replay.
    pub(super) async fn commit_and_checkpoint(&self, context: &ShardContext) -> Result<(), i32> {
        self.commit(context).await?;
        let head = self.head();
        match head.map_file {
            Some(map_file) => head.checkpoint(map_file, context).await,
            None => Ok(()),
        }
    }

    /// A record of all that is pending, without a sync of the data: a planted bug.
    pub(super) async fn record_unsynced(&self, context: &ShardContext) -> Result<(), BlockError> {
        let head = self.head();
        let commit = async || {
            let record = head.map.borrow_mut().begin_commit();
            let (Ok(Some(record)), Some(map_file)) = (record, head.map_file) else {
                return self.commit(context).await;
            };
            let written = write(map_file, &record, true, context).await;
            head.map.borrow_mut().end_commit(written.is_ok());
            written
        };
        head.commits.syncs.flush(commit).await
    }

    /// Makes a larger size of the disk durable. No change is under way, and no other commit.
    pub(super) async fn commit_size(&self, size: u64, context: &ShardContext) -> Result<(), i32> {
        let head = self.head();
        let Some(map_file) = head.map_file else { return Err(libc::EROFS) };
        loop {
            let begun = head.map.borrow_mut().begin_resize(size);
            match begun {
                Ok(None) => return Ok(()),
                Ok(record) => {
                    let result = self.write_record(record, map_file, context).await;
                    head.map.borrow_mut().end_commit(result.is_ok());
                    return result;
                }
                Err(NoCommit::RingFull) => head.checkpoint(map_file, context).await?,
                Err(NoCommit::Failed | NoCommit::ReadOnly) => return Err(libc::EIO),
            }
        }
    }

    async fn write_record(
        &self,
        record: Option<FileWrite>,
        map_file: FileIndex,
        context: &ShardContext,
    ) -> Result<(), i32> {
        let write_early = canary!(JournalBeforeData);
        if let Some(record) = &record
            && write_early
        {
            write(map_file, record, true, context).await?;
        }
        if let Some(record) = &record {
            self.store.counts.record(record.bytes.len());
        }
        let synced = self.head().data.flush(context).await;
        if self.head().data.may_have_lost_writes() {
            // The next server must not believe that the data is there: its own sync would be told of nothing.
            self.head().map.borrow_mut().abandon_log();
        }
        synced.map_err(BlockError::errno)?;
        match &record {
            Some(record) if !write_early => write(map_file, record, true, context).await,
            _ => Ok(()),
        }
    }
}

impl OpenLayer {
    /// Writes what the journal's records say into the map's nodes, and gives their room in the journal up.
    async fn checkpoint(&self, map_file: FileIndex, context: &ShardContext) -> Result<(), i32> {
        self.map.borrow_mut().begin_checkpoint(now_s());
        let result = Box::pin(self.checkpoint_steps(map_file, context)).await;
        let mut map = self.map.borrow_mut();
        map.end_checkpoint(result.is_ok());
        map.evict_some();
        result
    }

    async fn checkpoint_steps(&self, map_file: FileIndex, context: &ShardContext) -> Result<(), i32> {
        loop {
            let step = self.map.borrow_mut().checkpoint_step();
            match step {
                CheckpointStep::Load(node) => {
                    self.load(node, context).await.map_err(BlockError::errno)?;
                }
                CheckpointStep::Write(nodes) => {
                    for node in &nodes {
                        write(map_file, node, false, context).await?;
                    }
                }
                CheckpointStep::Grow { offset, length } => {
                    let rest = ByteRange::new(offset, length as u64).expect("within the map's file");
                    // The journal that there is has room for all records; only checkpoints come more often.
                    if write_zeroes(map_file, rest, context).await.is_err() {
                        self.map.borrow_mut().stay_small();
                    }
                }
                CheckpointStep::Superblock(superblock) => {
                    let sync = || Operation::Sync { file: map_file, range: None };
                    until_done(sync, context).await?;
                    return write(map_file, &superblock, true, context).await;
                }
            }
        }
    }
}

/// Seconds since 1970, for people: nothing depends on it.
fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Writes zeroes to a map's file, which takes no memory.
async fn write_zeroes(file: FileIndex, range: ByteRange, context: &ShardContext) -> Result<(), BlockError> {
    for step in steps(range, context.zeroes.capacity() as u64) {
        write_all(file, step, (context.zeroes.clone(), 0), false, context).await?;
    }
    Ok(())
}

/// Writes bytes to a map's file, in steps.
async fn write(
    file: FileIndex,
    FileWrite { offset, bytes }: &FileWrite,
    durable: bool,
    context: &ShardContext,
) -> Result<(), i32> {
    for (index, step) in bytes.chunks(WRITE_STEP).enumerate() {
        let mut lease = context.pool.reserve().lend(step.len()).await;
        lease.bytes_mut(0..step.len()).copy_from_slice(step);
        let range = ByteRange::new(offset + (index * WRITE_STEP) as u64, step.len() as u64);
        let range = range.expect("within the map's file");
        let written = write_all(file, range, (lease.freeze(), 0), durable, context).await;
        written.map_err(BlockError::errno)?;
    }
    Ok(())
}
