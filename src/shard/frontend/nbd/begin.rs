//! How a request begins: it is answered at once, or takes memory, receives its payload, and goes to its
//! backend.

use std::rc::Rc;
use std::sync::Arc;

use crate::block::BlockError;
use crate::nbd::meta_context::MetaContext;
use crate::nbd::server::reply::{ReplyTo, status_length};
use crate::nbd::server::request::{Command, Cookie, Refusal, Request, parse_filter};
use crate::nbd::session::{ReplyMode, SelectedContext};
use crate::ring::Lease;
use crate::shard::frontend::nbd::connection::{Connection, Fed, Feeding, Receiving};
use crate::shard::frontend::nbd::reply::Reply;
use crate::shard::frontend::nbd::single::read_alone;
use crate::shard::request::table::{Record, RequestId};
use crate::shard::request::{Action, AskedExtents, Map, ShardJob, Work};
use crate::stats::{Operation, Timing};

impl Connection {
    /// Takes memory for a request; it is admitted at once, or when its payload is here. `LIMITED`: it may
    /// have been held back.
    pub(crate) fn begin<const LIMITED: bool>(
        &mut self,
        request: Request,
        arrived: u64,
        feeding: &mut Feeding<'_>,
    ) -> Option<Fed> {
        if self.read_at_once::<LIMITED>(&request, arrived, feeding)
            || self.write_at_once::<LIMITED>(&request, arrived, feeding)
        {
            return None;
        }
        let payload = request.payload_length();
        let memory = self.memory_for(&request, feeding);
        let mut lease = None;
        if memory > 0 {
            match feeding.admission.lend(feeding.key, &self.ledger, memory as usize) {
                Ok(lent) => lease = Some(lent),
                Err(need) => {
                    self.waiting = Some((request, arrived));
                    return Some(Fed::WaitsForShard(need));
                }
            }
        }
        let held = lease.as_ref().map_or(0, |lease| lease.capacity() as u32);
        let id = self.note(request.cookie, held, None, feeding);
        if payload > 0 {
            self.inbound.expect_payload(u64::from(payload));
            self.receiving = Some(Receiving { id, request, lease, filled: 0, held });
        } else {
            self.admit::<LIMITED>(id, &request, lease, arrived, feeding);
        }
        None
    }

    /// Bytes of memory that a request needs.
    fn memory_for(&self, request: &Request, feeding: &Feeding<'_>) -> u32 {
        let payload = request.payload_length();
        match request.command {
            Command::Read { .. } => request.range.length() as u32,
            Command::BlockStatus { one, .. } => {
                let extents = self.extents_per_context(one, feeding);
                payload.max((self.session.contexts.len() * status_length(extents)) as u32)
            }
            _ => payload,
        }
    }

    /// The most extents of each context in a reply: all together have as much room as one that is alone.
    fn extents_per_context(&self, one: bool, feeding: &Feeding<'_>) -> usize {
        let contexts = self.session.contexts.len().max(1);
        if one { 1 } else { (feeding.limits.extents_per_reply / contexts).max(1) }
    }

    /// A request that holds so many bytes of memory is in flight from now on.
    #[inline]
    pub(crate) fn note(
        &mut self,
        cookie: Cookie,
        held: u32,
        timing: Option<Timing>,
        feeding: &mut Feeding<'_>,
    ) -> RequestId {
        let grant = self.ledger.grant(held as usize);
        feeding.requests.insert(Record { connection: feeding.key, grant, cookie: cookie.0, timing })
    }

    #[inline(always)]
    pub(crate) fn copy_payload(&mut self, bytes: &[u8]) {
        let receiving = self.receiving.as_mut().expect("a payload belongs to a request");
        let start = receiving.filled as usize;
        let lease =
            receiving.lease.as_mut().expect("the kernel receives into it only when nothing is unparsed");
        lease.bytes_mut(start..start + bytes.len()).copy_from_slice(bytes);
        receiving.filled += bytes.len() as u32;
        self.progress.inbound.moved(bytes.len() as u64);
    }

    /// Admits the request whose payload is complete, if there is one.
    pub(crate) fn finish_payload<const LIMITED: bool>(&mut self, feeding: &mut Feeding<'_>) {
        let complete = self.receiving.as_ref().is_some_and(|receiving| {
            receiving.lease.is_some() && receiving.filled == receiving.request.payload_length()
        });
        if !complete {
            return;
        }
        let Receiving { id, request, lease, .. } = self.receiving.take().expect("it is complete");
        let before = feeding.started.len();
        self.admit::<LIMITED>(id, &request, lease, feeding.now, feeding);
        if LIMITED {
            self.weigh_on_device(before, feeding);
        }
    }

    /// How long the request that begins was held back, in nanoseconds.
    #[inline(always)]
    pub(crate) fn take_held_ns<const LIMITED: bool>(&mut self) -> u64 {
        if LIMITED { std::mem::take(&mut self.held_ns) } else { 0 }
    }

    /// Hands a request over to be carried out, unless its payload turns out to be wrong.
    #[inline]
    fn admit<const LIMITED: bool>(
        &mut self,
        id: RequestId,
        request: &Request,
        lease: Option<Lease>,
        arrived: u64,
        feeding: &mut Feeding<'_>,
    ) {
        let (range, operation) = (request.range, operation(request.command));
        if operation == Operation::BlockStatus {
            return self.admit_status(
                id,
                request,
                lease.expect("it has memory for its reply"),
                arrived,
                feeding,
            );
        }
        // The request's own offset: a reply with an extended header repeats it, of a FLUSH too.
        let place = (request.offset, range.length());
        let arrived = (arrived, self.take_held_ns::<LIMITED>());
        let timing = feeding.recorder.admitted(self.peer.export, operation, place, arrived);
        let action = action(request.command, self.session.reply_mode);
        self.start(id, Work { action, range, flags: request.flags, lease }, timing, feeding);
    }

    /// The same for a BLOCK_STATUS, whose payload may choose among the contexts and narrow the range.
    fn admit_status(
        &mut self,
        id: RequestId,
        request: &Request,
        lease: Lease,
        arrived: u64,
        feeding: &mut Feeding<'_>,
    ) {
        let Command::BlockStatus { one, filter } = request.command else { unreachable!("it is none other") };
        let limit = self.extents_per_context(one, feeding);
        let (range, ids) = match filter {
            None => (request.range, None),
            Some(length) => {
                let payload = lease.bytes(0..length as usize);
                match parse_filter(payload, request.offset, &self.session) {
                    Ok((range, ids)) => (range, Some(ids)),
                    Err(error) => return self.refuse_filter(id, request, error, feeding),
                }
            }
        };
        let map = |selected: &SelectedContext| {
            let map = match &selected.context {
                MetaContext::BaseAllocation => Map::Allocation,
                MetaContext::AllocationDepth => Map::Depth,
                MetaContext::DirtyBitmap(since) => Map::Changed(Arc::clone(since)),
                MetaContext::Passed(name) => Map::Passed(Arc::clone(name)),
                MetaContext::Instance => Map::Instance,
            };
            (selected.id, map)
        };
        let contexts = &self.session.contexts;
        let maps = match ids {
            None => contexts.iter().map(map).collect(),
            // In the order in which they were asked for.
            Some(ids) => {
                ids.iter().flat_map(|id| contexts.iter().find(|context| context.id == *id)).map(map).collect()
            }
        };
        let place = (request.offset, request.range.length());
        // Here nobody counts instructions.
        let arrived = (arrived, self.take_held_ns::<true>());
        let timing = feeding.recorder.admitted(self.peer.export, Operation::BlockStatus, place, arrived);
        let action = Action::Extents(Box::new(AskedExtents { maps, limit }));
        self.start(id, Work { action, range, flags: request.flags, lease: Some(lease) }, timing, feeding);
    }

    /// Gives a request to its device.
    #[inline(always)]
    pub(crate) fn start(&mut self, id: RequestId, work: Work, timing: Timing, feeding: &mut Feeding<'_>) {
        self.progress.admitted = true;
        let record = feeding.requests.record(id);
        feeding.admission.begin_work(&mut record.grant);
        record.timing = Some(timing);
        feeding.started.push(id);
        match self.single_read(&work) {
            Some(file) => read_alone(id, file, work, feeding),
            None => feeding.jobs.push(ShardJob::Request(id, Rc::clone(&self.peer), work)),
        }
    }

    #[cold]
    pub(crate) fn refuse(&mut self, refusal: &Refusal, feeding: &mut Feeding<'_>) {
        if !canary!(DiscardForgotten) {
            self.inbound.expect_discard(refusal.discard);
        }
        let to = ReplyTo::refusal(refusal, self.session.reply_mode);
        let stats = feeding.recorder.export(self.peer.export);
        stats.refused += 1;
        stats.discarded_bytes += refusal.discard;
        stats.count_error(refusal.command, refusal.error);
        let reply = Reply::error(to.error(refusal.error, refusal.reason, None));
        let id = self.note(refusal.cookie, 0, None, feeding);
        self.outbound.hold_back(reply, id);
        self.has_refused |= self.refuses.is_some();
        if refusal.discard == 0 || canary!(DiscardForgotten) {
            self.let_go();
        }
    }

    /// Answers a BLOCK_STATUS whose payload names what it must not.
    #[cold]
    fn refuse_filter(
        &mut self,
        id: RequestId,
        request: &Request,
        error: BlockError,
        feeding: &mut Feeding<'_>,
    ) {
        let stats = feeding.recorder.export(self.peer.export);
        stats.refused += 1;
        stats.count_error(Some(Operation::BlockStatus), error);
        let text = "a filter with unknown or repeated contexts, or a bad range";
        let to = ReplyTo::request(request, self.session.reply_mode);
        self.push_reply(Reply::error(to.error(error, text, None)), id);
    }

    /// The payload that was being received will not come, or is of no use any more.
    pub(crate) fn forget_payload(&mut self) {
        self.forgotten.extend(self.receiving.take().map(|receiving| receiving.id));
    }
}

/// What a command asks to be done, except for BLOCK_STATUS, which has its own way.
fn action(command: Command, mode: ReplyMode) -> Action {
    match command {
        Command::Read { dont_fragment } => {
            Action::Read { in_parts: mode != ReplyMode::Simple && !dont_fragment }
        }
        Command::Write => Action::Write,
        Command::Flush => Action::Flush,
        Command::Trim => Action::Trim,
        Command::Cache => Action::Cache,
        Command::WriteZeroes => Action::WriteZeroes,
        Command::BlockStatus { .. } | Command::Disconnect => unreachable!("it goes another way"),
    }
}

/// What statistics call a command.
pub(crate) fn operation(command: Command) -> Operation {
    match command {
        Command::Read { .. } => Operation::Read,
        Command::Write => Operation::Write,
        Command::Flush => Operation::Flush,
        Command::Trim => Operation::Trim,
        Command::Cache => Operation::Cache,
        Command::WriteZeroes => Operation::WriteZeroes,
        Command::BlockStatus { .. } => Operation::BlockStatus,
        Command::Disconnect => unreachable!("the connection handles it"),
    }
}
