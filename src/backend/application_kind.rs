//! A device of the application on one shard: its requests go to the application's queue or to helper threads.

use std::io;
use std::rc::Rc;

use super::abandon::Abandon;
use super::allocation::within;
use super::application::{
    ApplicationDevice, BlockingOnShard, BlockingQueue, DeviceSource, Immediate, Preview, QueueOnShard, tidied,
};
use super::context::ShardContext;
use super::file::ReadFailure;
use super::steps::steps;
use crate::block::{BlockError, ByteRange, CommandKind, DeviceFacts, Extent, IoFlags};
use crate::ring::{Lease, Loan, SharedLease};

/// The longest TRIM or WRITE_ZEROES that a device is handed at once.
const LONGEST_CHANGE: u64 = 64 << 20;

/// A device of the application on one shard.
pub(super) struct Application {
    /// Its minimum block size: what is not aligned to it does not reach it.
    minimum: u32,
    way: OnShard,
}

enum OnShard {
    Fast(Rc<QueueOnShard>),
    Blocking(Rc<BlockingOnShard>),
}

impl Application {
    /// Opens it on a shard.
    ///
    /// # Errors
    /// The application's.
    pub(super) fn open(
        device: &ApplicationDevice,
        facts: &DeviceFacts,
        context: &ShardContext,
    ) -> io::Result<Self> {
        let way = match &device.source {
            DeviceSource::Fast(fast) => OnShard::Fast(QueueOnShard::open(
                fast.get(),
                &device.health,
                context.shard,
                &context.outstanding,
            )?),
            DeviceSource::Blocking(blocking) => {
                let threads = context.helpers.most_per_key();
                let way = context.outstanding.way();
                let queue = BlockingQueue::new(blocking, &device.health, way, threads);
                OnShard::Blocking(BlockingOnShard::new(queue))
            }
        };
        Ok(Self { minimum: facts.block_sizes.minimum, way })
    }

    /// The answer to a READ or WRITE that needs no data, if the application has one; a wrong one is none.
    pub(super) fn immediate(
        &self,
        command: CommandKind,
        range: ByteRange,
        flags: IoFlags,
    ) -> Option<Immediate> {
        let OnShard::Fast(queue) = &self.way else { return None };
        if !range.is_aligned(self.minimum) {
            return None;
        }
        let asked = Preview { command, offset: range.offset(), length: range.length(), flags };
        let answer = queue.immediate(&asked)?;
        let fits = matches!(
            (command, answer),
            (CommandKind::Read, Immediate::Zeroes) | (CommandKind::Write, Immediate::Discarded)
        );
        fits.then_some(answer)
    }

    pub(super) async fn read(
        &self,
        range: ByteRange,
        lease: Lease,
        start: u32,
        client: u32,
        context: &ShardContext,
    ) -> (Lease, Result<(), ReadFailure>) {
        if !range.is_aligned(self.minimum) {
            return (lease, Err(ReadFailure { error: BlockError::Invalid, good: 0 }));
        }
        let start = start as usize;
        let loan = Loan::own(lease, start..start + range.length() as usize);
        let asked = AskedRequest { command: CommandKind::Read, range, ..AskedRequest::default() };
        let (lease, result) = self.ask(asked, Some(loan), client, context).await;
        let lease = lease.expect("a request comes back with its memory");
        (lease, result.map(drop).map_err(|error| ReadFailure { error, good: 0 }))
    }

    pub(super) async fn write(
        &self,
        range: ByteRange,
        lease: SharedLease,
        flags: IoFlags,
        client: u32,
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        if !range.is_aligned(self.minimum) {
            return Err(BlockError::Invalid);
        }
        let loan = Loan::shared(lease, 0..range.length() as usize);
        let asked = AskedRequest { command: CommandKind::Write, range, flags, most_extents: 0 };
        self.ask(asked, Some(loan), client, context).await.1.map(drop)
    }

    pub(super) async fn flush(&self, client: u32, context: &ShardContext) -> Result<(), BlockError> {
        self.ask(AskedRequest::default(), None, client, context).await.1.map(drop)
    }

    /// TRIM and WRITE_ZEROES, step by step; stops when it is abandoned.
    pub(super) async fn change(
        &self,
        command: CommandKind,
        range: ByteRange,
        flags: IoFlags,
        (client, abandon): (u32, &Abandon),
        context: &ShardContext,
    ) -> Result<(), BlockError> {
        if !range.is_aligned(self.minimum) {
            return Err(BlockError::Invalid);
        }
        for (index, range) in steps(range, LONGEST_CHANGE).enumerate() {
            if index > 0 {
                abandon.check()?;
            }
            let flags = IoFlags { fua: false, ..flags };
            let asked = AskedRequest { command, range, flags, most_extents: 0 };
            self.ask(asked, None, client, context).await.1?;
        }
        if flags.fua { self.flush(client, context).await } else { Ok(()) }
    }

    pub(super) async fn extents(
        &self,
        range: ByteRange,
        limit: usize,
        client: u32,
        context: &ShardContext,
    ) -> Result<Vec<Extent>, BlockError> {
        // Outwards: the answer begins where the question does.
        let unit = u64::from(self.minimum);
        let start = range.offset() / unit * unit;
        let wide =
            ByteRange::new(start, range.end().next_multiple_of(unit) - start).ok_or(BlockError::Invalid)?;
        let asked = AskedRequest {
            command: CommandKind::BlockStatus,
            range: wide,
            most_extents: limit,
            ..AskedRequest::default()
        };
        let told = self.ask(asked, None, client, context).await.1?;
        Ok(within(&tidied(told, wide, limit), start, range))
    }

    /// Hands a request to the application and waits for its end.
    async fn ask(
        &self,
        asked: AskedRequest,
        loan: Option<Loan>,
        client: u32,
        context: &ShardContext,
    ) -> (Option<Lease>, Result<Vec<Extent>, BlockError>) {
        let AskedRequest { command, range, flags, most_extents } = asked;
        let outstanding = &context.outstanding;
        let (request, waiting) = outstanding.request(command, range, flags, most_extents, loan);
        match &self.way {
            OnShard::Fast(queue) => queue.submit(request, outstanding),
            OnShard::Blocking(queue) => {
                let with = (outstanding, &*context.helpers, context.ring.is_simulated());
                queue.submit(request, client, with).await;
            }
        }
        waiting.await
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        if let OnShard::Blocking(queue) = &self.way {
            queue.close();
        }
    }
}

/// What a request asks for; a FLUSH unless something else is said.
struct AskedRequest {
    command: CommandKind,
    range: ByteRange,
    flags: IoFlags,
    most_extents: usize,
}

impl Default for AskedRequest {
    fn default() -> Self {
        let range = ByteRange::new(0, 0).expect("nothing fits everywhere");
        Self { command: CommandKind::Flush, range, flags: IoFlags::default(), most_extents: 0 }
    }
}
