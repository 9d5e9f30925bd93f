//! What carries the requests of an export out on one shard, by kind.

use std::sync::Arc;
use std::time::Duration;

use super::abandon::Abandon;
use super::application_kind::Application;
use super::context::ShardContext;
use super::export::Export;
use super::export::Store;
use super::fault::{Fault, Verdict};
use super::file::FileDevice;
use super::file::ReadFailure;
use super::image::{HomeTask, ImageDevice, SealFailure};
use super::memory::MemoryStore;
use super::remote::Remote;
use super::steps::steps;
use crate::block::{BlockError, ByteRange, CommandKind, Extent, IoFlags};
use crate::ring::{Lease, SharedLease};

// There is one value a device and shard, itself behind an `Rc`: another pointer on every way to a file would
// cost more.
#[allow(clippy::large_enum_variant)]
pub(super) enum Kind {
    File(FileDevice),
    Memory(Arc<MemoryStore>),
    Null,
    Application(Application),
    /// Layers over a base.
    Image(Box<ImageDevice>),
    /// An export of another server.
    Remote(Box<Remote>),
    /// Another one behind a fault.
    Fault(Box<Faulty>),
}

/// Copies of memory longer than this give way in between, so that they do not hold up the shard.
const MEMORY_STEP: u64 = 256 << 10;
/// Memory given back in one step.
const DISCARD_STEP: u64 = 64 << 20;

/// What is rare or long is boxed below, so that every task's slot is as small as reads and writes of files
/// allow.
impl Kind {
    pub(super) fn open(export: &Export, context: &ShardContext) -> std::io::Result<Self> {
        let facts = export.facts();
        let kind = match &export.store {
            Store::File(store) => Self::File(FileDevice::new(Arc::clone(store), facts.size, context)?),
            Store::Memory(store) => Self::Memory(Arc::clone(store)),
            Store::Null => Self::Null,
            Store::Application(device) => Self::Application(Application::open(device, facts, context)?),
            Store::Remote(store) => Self::Remote(Box::new(Remote::open(store, context)?)),
            Store::Image(store) => Self::Image(Box::new(ImageDevice::open(store, context)?)),
        };
        // The first fault is the outermost.
        Ok(export.faults.iter().rev().fold(kind, |inner, options| {
            Self::Fault(Box::new(Faulty { fault: Fault::new(options.clone(), context.shard), inner }))
        }))
    }

    /// The image that this is, behind whatever faults.
    pub(super) fn image(&self) -> Option<&ImageDevice> {
        match self {
            Self::Image(image) => Some(image),
            Self::Fault(faulty) => faulty.inner.image(),
            _ => None,
        }
    }

    /// The export of another server that this is, behind whatever faults.
    pub(super) fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Remote(remote) => Some(remote),
            Self::Fault(faulty) => faulty.inner.remote(),
            _ => None,
        }
    }

    /// A connection comes.
    pub(super) fn greet(&self, client: u32) {
        match self {
            Self::Remote(remote) => remote.greet(client),
            Self::Fault(faulty) => faulty.inner.greet(client),
            _ => {}
        }
    }

    pub(super) fn files(&self) -> usize {
        match self {
            Self::File(file) => file.files(),
            Self::Fault(faulty) => faulty.inner.files(),
            Self::Image(image) => image.files(),
            Self::Remote(remote) => remote.files(),
            Self::Memory(_) | Self::Null | Self::Application(_) => 0,
        }
    }

    pub(super) async fn read(
        &self,
        range: ByteRange,
        mut lease: Lease,
        start: u32,
        client: u32,
        context: &ShardContext,
    ) -> (Lease, Result<(), ReadFailure>) {
        match self {
            Self::File(file) if file.may_block() => {
                Box::pin(file.read_in_worker(range, lease, start, context)).await
            }
            Self::File(file) => file.read(range, lease, start, context).await,
            Self::Image(image) => Box::pin(image.read(range, lease, start, context)).await,
            Self::Remote(remote) => Box::pin(remote.read(range, lease, start)).await,
            Self::Memory(_) | Self::Null => {
                for step in steps(range, MEMORY_STEP) {
                    if step.offset() > range.offset() {
                        context.ready.give_way(&context.ring).await;
                    }
                    let at = start as usize + (step.offset() - range.offset()) as usize;
                    let target = lease.bytes_mut(at..at + step.length() as usize);
                    match self {
                        Self::Memory(store) => store.read(step.offset(), target),
                        _ => target.fill(0),
                    }
                }
                (lease, Ok(()))
            }
            Self::Application(application) => application.read(range, lease, start, client, context).await,
            Self::Fault(faulty) => Box::pin(faulty.read(range, lease, start, client, context)).await,
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
        match self {
            Self::File(file) => file.write(range, lease, flags.fua, context).await,
            Self::Image(image) => Box::pin(image.write(range, lease, flags.fua, context)).await,
            Self::Remote(remote) => Box::pin(remote.write(range, &lease, flags.fua, client)).await,
            Self::Memory(store) => {
                for step in steps(range, MEMORY_STEP) {
                    if step.offset() > range.offset() {
                        context.ready.give_way(&context.ring).await;
                    }
                    let at = (step.offset() - range.offset()) as usize;
                    store.write(step.offset(), lease.bytes(at..at + step.length() as usize));
                }
                Ok(())
            }
            Self::Null => Ok(()),
            Self::Application(application) => application.write(range, lease, flags, client, context).await,
            Self::Fault(faulty) => Box::pin(faulty.write(range, lease, flags, client, context)).await,
        }
    }

    pub(super) async fn flush(
        &self,
        read_only: bool,
        client: u32,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        match self {
            Self::Fault(faulty) => Box::pin(faulty.flush(read_only, client, context)).await,
            _ if read_only => Ok(()),
            Self::File(file) => file.flush(context).await,
            Self::Image(image) => Box::pin(image.flush(context)).await,
            Self::Remote(remote) => Box::pin(remote.flush(client)).await,
            Self::Memory(_) | Self::Null => Ok(()),
            Self::Application(application) => application.flush(client, context).await,
        }
    }

    pub(super) async fn trim(
        &self,
        range: ByteRange,
        flags: IoFlags,
        asker: (u32, &Abandon),
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        match self {
            Self::File(file) => {
                file.trim(range, asker.1, context).await?;
                if flags.fua { file.flush(context).await } else { Ok(()) }
            }
            Self::Image(image) => {
                Box::pin(image.trim(range, asker.1, context)).await?;
                if flags.fua { Box::pin(image.flush(context)).await } else { Ok(()) }
            }
            Self::Remote(remote) => Box::pin(remote.trim(range, flags, asker)).await,
            Self::Memory(store) => discard(store, range, asker.1, context).await,
            Self::Null => Ok(()),
            Self::Application(application) => {
                application.change(CommandKind::Trim, range, flags, asker, context).await
            }
            Self::Fault(faulty) => Box::pin(faulty.trim(range, flags, asker, context)).await,
        }
    }

    pub(super) async fn write_zeroes(
        &self,
        range: ByteRange,
        flags: IoFlags,
        asker: (u32, &Abandon),
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        match self {
            Self::File(file) => {
                file.write_zeroes(range, flags, asker.1, context).await?;
                if flags.fua && !canary!(FuaOfZeroesIgnored) { file.flush(context).await } else { Ok(()) }
            }
            Self::Image(image) => {
                Box::pin(image.write_zeroes(range, flags, asker.1, context)).await?;
                if flags.fua { Box::pin(image.flush(context)).await } else { Ok(()) }
            }
            Self::Remote(remote) => Box::pin(remote.write_zeroes(range, flags, asker, &context.zeroes)).await,
            Self::Memory(store) => {
                discard(store, range, asker.1, context).await?;
                if flags.no_hole {
                    store.mark(range);
                }
                Ok(())
            }
            Self::Null => Ok(()),
            Self::Application(application) => {
                application.change(CommandKind::WriteZeroes, range, flags, asker, context).await
            }
            Self::Fault(faulty) => Box::pin(faulty.write_zeroes(range, flags, asker, context)).await,
        }
    }

    pub(super) async fn cache(
        &self,
        range: ByteRange,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        match self {
            Self::File(file) => file.cache(range, abandon, context).await,
            Self::Image(image) => Box::pin(image.cache(range, abandon, context)).await,
            Self::Remote(remote) => Box::pin(remote.cache(range, abandon)).await,
            Self::Memory(_) | Self::Null | Self::Application(_) => Ok(()),
            Self::Fault(faulty) => Box::pin(faulty.cache(range, abandon, context)).await,
        }
    }

    pub(super) async fn extents(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<Extent>, BlockError> {
        match self {
            Self::File(file) => file.extents(range, limit, client, context).await,
            Self::Image(image) => Box::pin(image.extents(range, limit, client, context)).await,
            Self::Remote(remote) => Box::pin(remote.extents(range, limit)).await,
            Self::Memory(store) => Ok(store.extents(range, limit)),
            Self::Null => Ok(vec![Extent { length: range.length(), hole: true, zero: true }]),
            Self::Application(application) => application.extents(range, limit, client, context).await,
            Self::Fault(faulty) => Box::pin(faulty.extents(range, limit, client, context)).await,
        }
    }

    pub(super) async fn extents_for_read(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<Extent>, BlockError> {
        match self {
            Self::File(file) => file.extents_for_read(range, limit, client, context).await,
            Self::Image(image) => Box::pin(image.extents_for_read(range, limit, client, context)).await,
            Self::Fault(faulty) => {
                Box::pin(faulty.inner.extents_for_read(range, limit, client, context)).await
            }
            _ => self.extents(range, limit, client, context).await,
        }
    }

    pub(super) async fn perform(&self, task: HomeTask, limit: Duration, context: &ShardContext) {
        match self {
            Self::Image(image) => image.perform(task, limit, context).await,
            Self::Fault(faulty) => Box::pin(faulty.inner.perform(task, limit, context)).await,
            _ => task.fail(SealFailure::NotWritten),
        }
    }

    pub(super) fn is_known_data(&self, range: ByteRange) -> bool {
        match self {
            Self::File(file) => file.is_known_data(range),
            Self::Image(image) => image.is_known_data(range),
            Self::Memory(_) => false,
            // Whether it has holes nobody knows but the application or the remote: to ask takes as long as a
            // read.
            Self::Null | Self::Application(_) | Self::Remote(_) => true,
            Self::Fault(faulty) => faulty.inner.is_known_data(range),
        }
    }
}

/// A device behind a fault.
///
/// Each request meets the fault, and then the device behind it, unless it failed. None is answered at once,
/// since it may have to wait.
pub(super) struct Faulty {
    fault: Fault,
    inner: Kind,
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

    async fn read(
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

    async fn write(
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

    async fn flush(&self, read_only: bool, client: u32, context: &ShardContext) -> Result<(), BlockError> {
        self.meet(CommandKind::Flush, None, context).await?;
        self.inner.flush(read_only, client, context).await
    }

    async fn trim(
        &self,
        range: ByteRange,
        flags: IoFlags,
        asker: (u32, &Abandon),
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        self.meet(CommandKind::Trim, Some(range), context).await?;
        self.inner.trim(range, flags, asker, context).await
    }

    async fn write_zeroes(
        &self,
        range: ByteRange,
        flags: IoFlags,
        asker: (u32, &Abandon),
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        self.meet(CommandKind::WriteZeroes, Some(range), context).await?;
        self.inner.write_zeroes(range, flags, asker, context).await
    }

    async fn cache(
        &self,
        range: ByteRange,
        abandon: &Abandon,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        self.meet(CommandKind::Cache, Some(range), context).await?;
        self.inner.cache(range, abandon, context).await
    }

    async fn extents(
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

async fn discard(
    store: &MemoryStore,
    range: ByteRange,
    abandon: &Abandon,
    context: &ShardContext,
) -> Result<(), BlockError> {
    for (index, step) in steps(range, DISCARD_STEP).enumerate() {
        if index > 0 {
            context.ready.give_way(&context.ring).await;
            abandon.check()?;
        }
        store.discard(step);
    }
    Ok(())
}
