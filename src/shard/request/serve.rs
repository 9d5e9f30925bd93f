//! A request, one way through: what is done for it and what is answered, top to bottom.

use std::cell::RefCell;
use std::rc::Rc;

use crate::backend::{Abandon, Device, ExportId, ShardContext};
use crate::block::{BlockError, ByteRange, CommandKind, Extent};
use crate::nbd::meta_context::MetaContext;
use crate::nbd::server::reply::{ReplyTo, status_length};
use crate::nbd::server::request::{Command, Request, parse_filter};
use crate::nbd::session::{ReplyMode, Session};
use crate::ring::{Lease, Payload};
use crate::shard::frontend::nbd::reply::{Reply, ReplyChunk};
use crate::shard::record::operation;
use crate::shard::request::table::RequestId;
use crate::task::side_by_side;

/// Reads at least this long leave holes out; for shorter ones asking costs more than sending zeroes.
const SPARSE_READ: u64 = 32 << 10;
/// Holes shorter than this are sent as data: a chunk of their own would cost as much.
const SMALLEST_HOLE: u64 = 4096;
/// The most chunks of one sparse read; what is beyond is sent as data.
const MOST_CHUNKS: usize = 64;

/// Reads of one sparse read that run side by side.
const PARTS_AT_ONCE: usize = 16;

/// What all tasks of a shard share.
pub(crate) struct Shared {
    pub(crate) context: ShardContext,
    /// Replies of this turn, on their way to their connections.
    pub(crate) finished: RefCell<Vec<(RequestId, Reply)>>,
    /// Errors of this turn, to be counted: of which export and command.
    pub(crate) errors: RefCell<Vec<(usize, CommandKind, BlockError)>>,
    pub(crate) extents_per_reply: usize,
}

impl Shared {
    /// An error reply, counted.
    fn fail(&self, to: &ReplyTo, peer: &Peer, command: CommandKind, error: BlockError, text: &str) -> Reply {
        self.errors.borrow_mut().push((peer.export, command, error));
        Reply::error(to.error(error, text, None))
    }

    /// A read that ended early, counted: everything before `offset` is good.
    fn read_error(&self, to: &ReplyTo, peer: &Peer, error: BlockError, offset: u64) -> ReplyChunk {
        self.errors.borrow_mut().push((peer.export, CommandKind::Read, error));
        let text = format!("{error} at offset {offset}");
        let (header, text) = to.error(error, &text, Some(offset));
        ReplyChunk::with_text(header, text)
    }
}

/// What requests of one connection share.
pub(crate) struct Peer {
    pub(crate) session: Session,
    pub(crate) device: Rc<Device>,
    pub(crate) id: ExportId,
    /// The index of that, by which the export is counted.
    pub(crate) export: usize,
    /// The connection's number; helper threads serve connections in turn.
    pub(crate) client: u32,
    /// Said when the connection was aborted: replies to its requests go nowhere.
    pub(crate) abandon: Abandon,
}

impl Peer {
    /// Whether the holes of a range are looked for when it is read, to leave them out of the reply.
    pub(crate) fn may_leave_out_holes(&self, range: ByteRange, dont_fragment: bool) -> bool {
        let may = self.session.reply_mode != ReplyMode::Simple && !dont_fragment;
        may && range.length() >= SPARSE_READ && !self.device.is_known_data(range)
    }
}

/// A request with all it needs.
pub(crate) struct Work {
    pub(crate) request: Request,
    /// For a READ the memory to read into, for a WRITE its payload; for a BLOCK_STATUS its filter, and room for the answer.
    pub(crate) lease: Option<Lease>,
    pub(crate) peer: Rc<Peer>,
}

/// Carries a request out and leaves its reply.
pub(crate) async fn serve(shared: Rc<Shared>, id: RequestId, work: Work) {
    let Work { request, lease, peer } = work;
    let mut to = ReplyTo::request(&request, peer.session.reply_mode);
    if canary!(WrongCookie) && id.0 % 8 == 7 {
        to.cookie.0 ^= 1;
    }
    let (device, context) = (&*peer.device, &shared.context);
    let Request { range, flags, .. } = request;
    let kind = operation(request.command);
    let result = match request.command {
        Command::Read { dont_fragment } => {
            let reply = read(&request, dont_fragment, lease, &peer, &shared).await;
            shared.finished.borrow_mut().push((id, reply));
            return;
        }
        Command::BlockStatus { one, filter } => {
            let limit = if one { 1 } else { shared.extents_per_reply };
            let lease = lease.expect("a status has its memory");
            let reply = Box::pin(block_status(&request, limit, filter, lease, &peer, &shared)).await;
            shared.finished.borrow_mut().push((id, reply));
            return;
        }
        _ if range.is_empty() && request.command != Command::Flush => Ok(()),
        Command::Write => {
            let lease = lease.expect("a write has its payload");
            device.write(range, lease.freeze(), flags, context).await
        }
        Command::Flush => device.flush(context).await,
        // What is rare is boxed, so that every task's slot is as small as reads and writes allow.
        Command::Trim => Box::pin(device.trim(range, flags, &peer.abandon, context)).await,
        Command::WriteZeroes => Box::pin(device.write_zeroes(range, flags, &peer.abandon, context)).await,
        Command::Cache => Box::pin(device.cache(range, &peer.abandon, context)).await,
        Command::Disconnect => unreachable!("the connection handles it"),
    };
    let reply = match result {
        Ok(()) => Reply::header(to.success()),
        // It may have stopped for that reason; nobody gets this reply.
        Err(error) if peer.abandon.is_abandoned() => Reply::error(to.error(error, "abandoned", None)),
        Err(error) => shared.fail(&to, &peer, kind, error, &error.to_string()),
    };
    shared.finished.borrow_mut().push((id, reply));
}

async fn read(
    request: &Request,
    dont_fragment: bool,
    lease: Option<Lease>,
    peer: &Peer,
    shared: &Shared,
) -> Reply {
    let context = &shared.context;
    let mode = peer.session.reply_mode;
    let to = ReplyTo::request(request, mode);
    let range = request.range;
    if range.is_empty() {
        return Reply::header(to.success());
    }
    let header = || to.data(range.offset(), range.length() as u32, true);
    let Some(lease) = lease else {
        return match Box::pin(peer.device.read_zeroes(range, context)).await {
            Ok(()) => {
                Reply::One(ReplyChunk { header: header(), payload: Payload::Zeroes(range.length() as u32) })
            }
            Err(error) => shared.fail(&to, peer, CommandKind::Read, error, &error.to_string()),
        };
    };
    if peer.may_leave_out_holes(range, dont_fragment)
        && let Some(extents) =
            Box::pin(peer.device.holes_for_read(range, MOST_CHUNKS, peer.client, context)).await
        && let pieces = pieces(range, &extents)
        && pieces.iter().any(|(_, hole)| *hole)
    {
        return Box::pin(sparse_read(&to, range, &pieces, lease, peer, shared)).await;
    }
    let (lease, result) = peer.device.read(range, lease, 0, context).await;
    match result {
        Ok(()) => {
            let payload = Payload::Leased { lease: lease.freeze(), start: 0, length: range.length() as u32 };
            Reply::One(ReplyChunk { header: header(), payload })
        }
        Err(failure) => {
            let mut chunks = Vec::with_capacity(2);
            if failure.good > 0 && mode != ReplyMode::Simple {
                let good = failure.good as u32;
                let header = to.data(range.offset(), good, false);
                let payload = Payload::Leased { lease: lease.freeze(), start: 0, length: good };
                chunks.push(ReplyChunk { header, payload });
            }
            chunks.push(shared.read_error(&to, peer, failure.error, range.offset() + failure.good));
            Reply::Many(chunks)
        }
    }
}

/// The runs of a read, true for holes: neighbours merged, holes too small to matter counted as data, nothing left out.
fn pieces(range: ByteRange, extents: &[Extent]) -> Vec<(u64, bool)> {
    let mut pieces: Vec<(u64, bool)> = Vec::with_capacity(extents.len() + 1);
    let told: u64 = extents.iter().map(|extent| extent.length).sum();
    let rest = Extent { length: range.length() - told, hole: false, zero: false };
    for extent in extents.iter().chain(std::iter::once(&rest)) {
        let after_hole = matches!(pieces.last(), Some((_, true))) && canary!(HoleTooLong);
        let hole = (extent.zero && extent.length >= SMALLEST_HOLE) || after_hole;
        match pieces.last_mut() {
            _ if extent.length == 0 => {}
            Some(last) if last.1 == hole => last.0 += extent.length,
            _ => pieces.push((extent.length, hole)),
        }
    }
    pieces
}

/// Reads the data of a range side by side, each run into its own part of the lease, and leaves holes out.
async fn sparse_read(
    to: &ReplyTo,
    range: ByteRange,
    pieces: &[(u64, bool)],
    lease: Lease,
    peer: &Peer,
    shared: &Shared,
) -> Reply {
    let context = &shared.context;
    let (mut offset, mut rest) = (range.offset(), lease);
    let mut parts = Vec::with_capacity(pieces.len());
    for (length, hole) in pieces {
        let (part, after) = rest.split_at(*length as usize);
        rest = after;
        if !hole {
            parts.push((ByteRange::new(offset, *length).expect("within the request"), part));
        }
        offset += length;
    }
    let reads = parts.into_iter().map(|(part, lease)| peer.device.read(part, lease, 0, context));
    let mut results = side_by_side(reads, PARTS_AT_ONCE).await.into_iter();
    let mut chunks = Vec::with_capacity(pieces.len());
    let mut offset = range.offset();
    for (index, (length, hole)) in pieces.iter().enumerate() {
        let done = index + 1 == pieces.len();
        if *hole {
            let header = to.hole(offset, *length as u32, done);
            chunks.push(ReplyChunk { header, payload: Payload::Nothing });
        } else {
            let (part, result) = results.next().expect("each run was read");
            let (good, failure) = match result {
                Ok(()) => (*length as u32, None),
                Err(failure) => (failure.good as u32, Some(failure.error)),
            };
            if good > 0 {
                let header = to.data(offset, good, done && failure.is_none());
                let payload = Payload::Leased { lease: part.freeze(), start: 0, length: good };
                chunks.push(ReplyChunk { header, payload });
            }
            if let Some(error) = failure {
                chunks.push(shared.read_error(to, peer, error, offset + u64::from(good)));
                break;
            }
        }
        offset += length;
    }
    Reply::Many(chunks)
}

/// Gives each data chunk its hold on the lease, once nothing is written into it any more.
fn with_lease(
    chunks: Vec<(crate::nbd::server::reply::HeaderBytes, Option<(u32, u32)>)>,
    lease: Lease,
) -> Vec<ReplyChunk> {
    let lease = lease.freeze();
    let chunk = |(header, part): (_, Option<(u32, u32)>)| {
        let payload = match part {
            None => Payload::Nothing,
            Some((start, length)) => Payload::Leased { lease: lease.clone(), start, length },
        };
        ReplyChunk { header, payload }
    };
    chunks.into_iter().map(chunk).collect()
}

async fn block_status(
    request: &Request,
    limit: usize,
    filter: Option<u32>,
    mut lease: Lease,
    peer: &Peer,
    shared: &Shared,
) -> Reply {
    let context = &shared.context;
    let to = ReplyTo::request(request, peer.session.reply_mode);
    let session = &peer.session;
    let all = || session.contexts.iter().map(|context| context.id).collect::<Vec<u32>>();
    let (range, ids) = match filter {
        None => (request.range, all()),
        Some(length) => match parse_filter(lease.bytes(0..length as usize), request.offset, session) {
            Ok(filter) => filter,
            Err(error) => {
                let text = "a filter with unknown or repeated contexts, or a bad range";
                return shared.fail(&to, peer, CommandKind::BlockStatus, error, text);
            }
        },
    };
    let mut chunks = Vec::with_capacity(ids.len());
    let room = status_length(limit);
    for (index, id) in ids.iter().enumerate() {
        let selected = session.contexts.iter().find(|context| context.id == *id).expect("known ids only");
        let extents = match selected.context {
            MetaContext::BaseAllocation => peer.device.extents(range, limit, peer.client, context).await,
        };
        match extents {
            Ok(extents) => {
                let start = index * room;
                let payload = lease.bytes_mut(start..start + room);
                let (header, length) = to.status(*id, &extents, index + 1 == ids.len(), payload);
                chunks.push((header, Some((start as u32, length as u32))));
            }
            Err(error) => {
                return shared.fail(&to, peer, CommandKind::BlockStatus, error, &error.to_string());
            }
        }
    }
    Reply::Many(with_lease(chunks, lease))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_holes_are_data_and_the_untold_rest_too() {
        let hole = |length| Extent { length, hole: true, zero: true };
        let data = |length| Extent { length, hole: false, zero: false };
        let range = ByteRange::new(0, 100_000).unwrap();
        let extents = [hole(8192), data(4096), hole(512), data(4096), hole(40_000), data(1000)];
        let expected = [(8192, true), (4096 + 512 + 4096, false), (40_000, true), (100_000 - 56_896, false)];
        assert_eq!(pieces(range, &extents), expected);
    }
}
