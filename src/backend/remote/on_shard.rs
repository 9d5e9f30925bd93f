//! A remote device on its shard: its requests, each awaited until the remote has answered.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::connection::RECEIVE;
use super::contexts::{StatusOf, all_data, allocation_within, numbers_within};
use super::shared::RemoteOnShard;
use super::state::{AskedStatus, RemoteEnded, RemoteMemory, RemoteState};
use super::store::RemoteStore;
use super::supervisor;
use super::unanswered::RemoteRequest;
use super::wire::LONGEST_CHANGE;
use crate::backend::abandon::Abandon;
use crate::backend::context::ShardContext;
use crate::backend::file::ReadFailure;
use crate::backend::steps::steps;
use crate::block::{BlockError, ByteRange, CommandKind, Extent, IoFlags, NumberedExtent};
use crate::exec::{Waiter, Waiters};
use crate::nbd::wire::*;
use crate::ring::{BULK_THRESHOLD, BufferPool, Lease, SharedLease};

/// A device that stands on another server.
pub(in crate::backend) struct Remote {
    shared: Rc<RemoteOnShard>,
}

impl Remote {
    /// Begins to connect.
    ///
    /// # Errors
    /// No memory.
    pub(in crate::backend) fn open(store: &Arc<RemoteStore>, context: &ShardContext) -> io::Result<Self> {
        // Links of the last connection may still hold theirs when the next ones come.
        let bytes = 4 * store.connections * RECEIVE + 2 * BULK_THRESHOLD;
        let shared = Rc::new(RemoteOnShard {
            store: Arc::clone(store),
            state: RefCell::new(RemoteState::new(store.reconnect, context.ring.now())),
            ring: context.ring.clone(),
            ready: context.ready.clone(),
            helpers: Rc::clone(&context.helpers),
            background: context.background.clone(),
            pool: BufferPool::new(bytes, RECEIVE)?,
            room: Waiters::default(),
        });
        shared.background.begin(supervisor::run(Rc::clone(&shared)));
        Ok(Self { shared })
    }

    /// A client comes.
    pub(in crate::backend) fn greet(&self, client: u32) {
        self.shared.state.borrow_mut().greet(client);
    }

    /// Places that it takes among the ring's files.
    pub(in crate::backend) fn files(&self) -> usize {
        self.shared.state.borrow().links.len()
    }

    pub(in crate::backend) async fn read(
        &self,
        range: ByteRange,
        mut lease: Lease,
        start: u32,
    ) -> (Lease, Result<(), ReadFailure>) {
        if let Err(error) = self.check(range) {
            return (lease, Err(ReadFailure { error, good: 0 }));
        }
        for part in steps(range, self.longest_payload()) {
            let good = part.offset() - range.offset();
            let memory = RemoteMemory::Target(lease, start + good as u32);
            let request =
                RemoteRequest { command: CommandKind::Read, range: part, flags: IoFlags::default() };
            let (memory, result) = self.ask(request, memory).await;
            let RemoteMemory::Target(back, _) = memory else {
                unreachable!("a request comes back with its memory")
            };
            lease = back;
            if let Err(error) = result {
                return (lease, Err(ReadFailure { error, good }));
            }
        }
        (lease, Ok(()))
    }

    pub(in crate::backend) async fn write(
        &self,
        range: ByteRange,
        lease: &SharedLease,
        fua: bool,
        client: u32,
    ) -> Result<(), BlockError> {
        self.check(range)?;
        let flags = IoFlags { fua: fua && self.has(NBD_FLAG_SEND_FUA), ..IoFlags::default() };
        for part in steps(range, self.longest_payload()) {
            let memory = RemoteMemory::Source(lease.clone(), (part.offset() - range.offset()) as u32);
            let request = RemoteRequest { command: CommandKind::Write, range: part, flags };
            self.ask(request, memory).await.1?;
        }
        if fua && !flags.fua { self.flush(client).await } else { Ok(()) }
    }

    /// Succeeds when all that was answered before is durable, and nothing was lost of which this client was
    /// not told.
    pub(in crate::backend) async fn flush(&self, client: u32) -> Result<(), BlockError> {
        if !self.has(NBD_FLAG_SEND_FLUSH) {
            return Ok(());
        }
        let mark = self.shared.state.borrow().unflushed.mark();
        let range = ByteRange::new(0, 0).expect("nothing fits everywhere");
        let request = RemoteRequest { command: CommandKind::Flush, range, flags: IoFlags::default() };
        self.ask(request, RemoteMemory::Nothing).await.1?;
        let mut state = self.shared.state.borrow_mut();
        let (unflushed, told) = state.told(client);
        let told = unflushed.flushed(mark, told);
        if told.is_err() {
            self.shared.store.counts.flush_failed();
        }
        told
    }

    pub(in crate::backend) async fn trim(
        &self,
        range: ByteRange,
        flags: IoFlags,
        asker: (u32, &Abandon),
    ) -> Result<(), BlockError> {
        // It says what is not needed any more, and need not be heard.
        if !self.has(NBD_FLAG_SEND_TRIM) {
            return if flags.fua { self.flush(asker.0).await } else { Ok(()) };
        }
        self.change(CommandKind::Trim, range, flags, asker).await
    }

    pub(in crate::backend) async fn write_zeroes(
        &self,
        range: ByteRange,
        flags: IoFlags,
        asker: (u32, &Abandon),
        zeroes: &SharedLease,
    ) -> Result<(), BlockError> {
        if flags.fast_zero && !self.has(NBD_FLAG_SEND_FAST_ZERO) {
            return Err(BlockError::NotSupported);
        }
        if self.has(NBD_FLAG_SEND_WRITE_ZEROES) {
            return self.change(CommandKind::WriteZeroes, range, flags, asker).await;
        }
        self.check(range)?;
        let longest = (zeroes.capacity() as u64).min(self.longest_payload());
        for part in steps(range, longest) {
            asker.1.check()?;
            self.write(part, zeroes, false, asker.0).await?;
        }
        if flags.fua { self.flush(asker.0).await } else { Ok(()) }
    }

    pub(in crate::backend) async fn cache(
        &self,
        range: ByteRange,
        abandon: &Abandon,
    ) -> Result<(), BlockError> {
        if !self.has(NBD_FLAG_SEND_CACHE) {
            return Ok(());
        }
        self.step_by_step(CommandKind::Cache, range, IoFlags::default(), abandon).await
    }

    pub(in crate::backend) async fn extents(
        &self,
        range: ByteRange,
        limit: usize,
    ) -> Result<Vec<Extent>, BlockError> {
        let knows =
            self.shared.state.borrow().links.first().is_none_or(|link| link.contexts.allocation.is_some());
        if !knows {
            return Ok(all_data(range));
        }
        let (told, asked) =
            self.ask_status(range, AskedStatus { of: StatusOf::Allocation, most: limit }).await?;
        Ok(allocation_within(&told, asked, range, limit))
    }

    /// What the remote tells of a range by another of its contexts.
    pub(in crate::backend) async fn status(
        &self,
        range: ByteRange,
        name: &str,
        limit: usize,
    ) -> Result<Vec<NumberedExtent>, BlockError> {
        let place = self.shared.store.passed.iter().position(|passed| **passed == *name);
        let status = AskedStatus { of: StatusOf::Passed(place.ok_or(BlockError::Invalid)?), most: limit };
        let (told, asked) = self.ask_status(range, status).await?;
        numbers_within(&told, asked.offset(), range, limit).ok_or(BlockError::Io)
    }

    /// Asks about a range, or a part from its start on. Gives what was told, and of which range.
    async fn ask_status(
        &self,
        range: ByteRange,
        status: AskedStatus,
    ) -> Result<(Vec<NumberedExtent>, ByteRange), BlockError> {
        // Outwards: the answer begins where the question does.
        let minimum = self.shared.store.facts.block_sizes.minimum;
        let wide = range.widened(minimum).filter(|wide| wide.is_within(self.shared.store.facts.size));
        let wide = wide.ok_or(BlockError::Invalid)?;
        let asked = steps(wide, LONGEST_CHANGE).next().ok_or(BlockError::Invalid)?;
        let command = CommandKind::BlockStatus;
        let request = RemoteRequest { command, range: asked, flags: IoFlags::default() };
        Ok((self.ask_for(request, RemoteMemory::Nothing, status).await.1?, asked))
    }

    async fn change(
        &self,
        command: CommandKind,
        range: ByteRange,
        flags: IoFlags,
        (client, abandon): (u32, &Abandon),
    ) -> Result<(), BlockError> {
        self.check(range)?;
        let fua = flags.fua && self.has(NBD_FLAG_SEND_FUA);
        self.step_by_step(command, range, IoFlags { fua, ..flags }, abandon).await?;
        if flags.fua && !fua { self.flush(client).await } else { Ok(()) }
    }

    async fn step_by_step(
        &self,
        command: CommandKind,
        range: ByteRange,
        flags: IoFlags,
        abandon: &Abandon,
    ) -> Result<(), BlockError> {
        for (index, part) in steps(range, LONGEST_CHANGE).enumerate() {
            if index > 0 {
                abandon.check()?;
            }
            self.ask(RemoteRequest { command, range: part, flags }, RemoteMemory::Nothing).await.1?;
        }
        Ok(())
    }

    /// Hands a request to whichever connection sends it, and waits for its end.
    async fn ask(&self, request: RemoteRequest, memory: RemoteMemory) -> RemoteEnded {
        self.ask_for(request, memory, AskedStatus::default()).await
    }

    /// As [`Remote::ask`]; `status` counts for a BLOCK_STATUS.
    async fn ask_for(
        &self,
        request: RemoteRequest,
        memory: RemoteMemory,
        status: AskedStatus,
    ) -> RemoteEnded {
        let shared = &self.shared;
        let mut memory = Some(memory);
        let entered =
            shared.room.until(|| shared.state.borrow_mut().enter(request, &mut memory, status)).await;
        let cookie = match entered {
            Ok(cookie) => cookie,
            Err(error) => return (memory.take().expect("it was not taken"), Err(error)),
        };
        let mut asking = Asking { shared, cookie: Some(cookie) };
        shared.rouse();
        poll_fn(|context| {
            let ended = shared.state.borrow_mut().ended(cookie, || Waiter::new(&shared.ring, context));
            match ended {
                Some(ended) => {
                    asking.cookie = None;
                    Poll::Ready(ended)
                }
                None => Poll::Pending,
            }
        })
        .await
    }

    fn check(&self, range: ByteRange) -> Result<(), BlockError> {
        match range.is_aligned(self.shared.store.facts.block_sizes.minimum) {
            true => Ok(()),
            false => Err(BlockError::Invalid),
        }
    }

    fn longest_payload(&self) -> u64 {
        self.shared.store.facts.block_sizes.maximum.into()
    }

    fn has(&self, flag: u16) -> bool {
        self.shared.store.flags & flag != 0
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let mut state = self.shared.state.borrow_mut();
        state.is_closed = true;
        self.shared.store.counts.closed();
        let waiters: Vec<_> = state.links.iter().filter_map(|link| link.rouse()).collect();
        let waiters = waiters.into_iter().chain(state.supervisor.take());
        waiters.for_each(|waiter| self.shared.ready.notify(waiter));
    }
}

/// A request that is awaited. When it is dropped before its end, nobody waits any more.
struct Asking<'a> {
    shared: &'a RemoteOnShard,
    cookie: Option<u64>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(cookie) = self.cookie {
            self.shared.state.borrow_mut().withdraw(cookie);
        }
    }
}
