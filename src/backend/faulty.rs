//! A device behind a fault.

use super::fault::{Fault, Verdict};
use super::kind::Kind;
use super::{Abandon, ReadFailure, ShardContext};
use crate::block::{BlockError, ByteRange, CommandKind, Extent, IoFlags};
use crate::ring::{Lease, SharedLease};

/// Each request meets the fault, and then the device behind it, unless it failed. None is answered at once, since it may have to wait.
pub(super) struct Faulty {
    pub(super) fault: Fault,
    pub(super) inner: Kind,
}

impl Faulty {
    async fn meet(
        &self,
        command: CommandKind,
        range: Option<ByteRange>,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        match self.fault.meet(command, range, &context.ring).await {
            Verdict::Pass => Ok(()),
            Verdict::Fail(error) | Verdict::FailAfter(_, error) => Err(error),
        }
    }

    pub(super) async fn read(
        &self,
        range: ByteRange,
        lease: Lease,
        start: u32,
        client: u32,
        context: &ShardContext,
    ) -> (Lease, Result<(), ReadFailure>) {
        match self.fault.meet(CommandKind::Read, Some(range), &context.ring).await {
            Verdict::Pass => self.inner.read(range, lease, start, client, context).await,
            Verdict::Fail(error) => (lease, Err(ReadFailure { error, good: 0 })),
            Verdict::FailAfter(good, error) => {
                let front = ByteRange::new(range.offset(), good).expect("within the range");
                let (lease, result) = self.inner.read(front, lease, start, client, context).await;
                (lease, result.and(Err(ReadFailure { error, good })))
            }
        }
    }

    pub(super) async fn write(
        &self,
        range: ByteRange,
        lease: SharedLease,
        flags: IoFlags,
        client: u32,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        match self.fault.meet(CommandKind::Write, Some(range), &context.ring).await {
            Verdict::Pass => self.inner.write(range, lease, flags, client, context).await,
            Verdict::Fail(error) => Err(error),
            Verdict::FailAfter(good, error) => {
                let front = ByteRange::new(range.offset(), good).expect("within the range");
                self.inner.write(front, lease, flags, client, context).await?;
                Err(error)
            }
        }
    }

    pub(super) async fn flush(
        &self,
        read_only: bool,
        client: u32,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        self.meet(CommandKind::Flush, None, context).await?;
        self.inner.flush(read_only, client, context).await
    }

    pub(super) async fn trim(
        &self,
        range: ByteRange,
        flags: IoFlags,
        asker: (u32, &Abandon),
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        self.meet(CommandKind::Trim, Some(range), context).await?;
        self.inner.trim(range, flags, asker, context).await
    }

    pub(super) async fn write_zeroes(
        &self,
        range: ByteRange,
        flags: IoFlags,
        asker: (u32, &Abandon),
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        self.meet(CommandKind::WriteZeroes, Some(range), context).await?;
        self.inner.write_zeroes(range, flags, asker, context).await
    }

    pub(super) async fn cache(
        &self,
        range: ByteRange,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        self.meet(CommandKind::Cache, Some(range), context).await?;
        self.inner.cache(range, abandon, context).await
    }

    pub(super) async fn extents(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<Extent>, BlockError> {
        self.meet(CommandKind::BlockStatus, Some(range), context).await?;
        self.inner.extents(range, limit, client, context).await
    }
}
