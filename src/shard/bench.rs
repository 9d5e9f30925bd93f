//! The shard's private parts for benchmarks (feature `bench`): each takes a round of requests the way a
//! shard's turn does.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{NewConnection, ShardConfig, ShardHandle};
use crate::backend::{Export, ExportId, Standing};
use crate::block::ByteRange;
use crate::config::{ExportUri, Limits, Pinning};
use crate::nbd::server::reply::ReplyTo;
use crate::nbd::session::Session;
use crate::ring::{BufferPool, FileMapping, Payload};
use crate::shard::admission::ledger::Ledger;
use crate::shard::frontend::nbd::batches::Batches;
use crate::shard::frontend::nbd::outbound::Outbound;
use crate::shard::frontend::nbd::reply::{Reply, ReplyChunk};
use crate::shard::request::serve::work;
use crate::shard::request::table::{Record, RequestId, RequestTable};
use crate::shard::turn::run::Worker;
use crate::shard::turn::shard::Shard;
use crate::stats::{Operation, TimedCommand, Timing};

const TIMING: Timing = Timing {
    command: TimedCommand::new(Operation::Read, 0),
    arrived: 1,
    submitted: 2,
    completed: 3,
    offset: 4096,
    length: 4096,
};

/// A request comes and goes to its backend.
fn begin(table: &mut RequestTable, ledger: &Rc<Ledger>, connection: u32) -> RequestId {
    let id = table.insert(Record { connection, grant: ledger.grant(4096), cookie: 1, timing: None });
    let record = table.record(id);
    record.grant.begin_work();
    record.timing = Some(TIMING);
    id
}

/// The request table with a number of requests that stays the same.
pub struct TableRounds {
    table: RequestTable,
    ledger: Rc<Ledger>,
    in_flight: VecDeque<RequestId>,
}

impl TableRounds {
    /// So many requests are in the table all the time.
    pub fn new(in_flight: usize) -> Self {
        let (mut table, ledger) = (RequestTable::new(), Ledger::new(&Rc::default(), Rc::default()));
        let in_flight = (0..in_flight).map(|_| begin(&mut table, &ledger, 1)).collect();
        Self { table, ledger, in_flight }
    }

    /// So many requests leave, the oldest first, and as many come and are submitted.
    pub fn round(&mut self, requests: u32) -> u64 {
        let mut held = 0;
        for now in 0..requests {
            let id = self.in_flight.pop_front().expect("some are in flight");
            self.table.record(id).grant.end_work();
            held += u64::from(self.table.remove(id).grant.held());
            let id = begin(&mut self.table, &self.ledger, now);
            self.table.submitted(id, u64::from(now));
            self.in_flight.push_back(id);
        }
        held
    }
}

/// What is sent behind the header of each reply.
#[derive(Debug, Clone)]
pub enum Content {
    /// Nothing: a write was answered.
    Nothing,
    /// So many bytes of a lease: a read was answered.
    Leased(u32),
    /// So many bytes from the front of a mapped file: a read was answered from the page cache.
    Mapped(Rc<FileMapping>, u32),
    /// So many zeroes without memory: a read of `null:` was answered.
    Zeroes(u32),
}

/// One connection's outbound queue and its batches.
pub struct OutboundRounds {
    outbound: Outbound,
    batches: Batches,
    ended: Vec<RequestId>,
    pool: BufferPool,
}

impl OutboundRounds {
    /// A queue whose sends have room for `pieces` pieces.
    pub fn new(pieces: usize) -> Self {
        let batches = Batches::new(pieces);
        let pool = BufferPool::new(48 << 20, 32 << 20).expect("48 MiB of memory");
        Self { outbound: Outbound::default(), batches, ended: Vec::new(), pool }
    }

    /// So many replies are queued, and leave in as few sends as they need; gives the bytes sent.
    pub fn round(&mut self, replies: u32, to: &ReplyTo, content: &Content) -> usize {
        for request in 0..replies {
            let (header, payload) = match *content {
                Content::Nothing => (to.success(), Payload::Nothing),
                Content::Zeroes(length) => (to.data(to.offset, length, true), Payload::Zeroes(length)),
                Content::Mapped(ref mapping, length) => {
                    let range = ByteRange::new(0, length.into()).expect("it fits");
                    (to.data(to.offset, length, true), Payload::Mapped(mapping.range(range)))
                }
                Content::Leased(length) => {
                    let lease = self.pool.lend(length as usize).expect("few are lent").freeze();
                    (to.data(to.offset, length, true), Payload::Leased { lease, start: 0, length })
                }
            };
            match content {
                Content::Nothing => {
                    let reply = Reply::One(ReplyChunk { header, payload });
                    self.outbound.push(reply, RequestId(request));
                }
                _ => self.outbound.push_one(header, payload, RequestId(request), 0, &mut self.batches),
            }
        }
        let mut sent = 0;
        while self.outbound.wants_to_send() {
            let mut batch = self.outbound.take_batch(&mut self.batches);
            self.outbound.fill(&mut batch, 0, |_, _| Standing::There);
            let bytes = batch.length();
            sent += bytes;
            self.outbound.sent(&mut batch, Ok(bytes as u32), 0, &mut self.ended);
            self.batches.give(batch);
            self.ended.clear();
        }
        sent
    }
}

/// A whole shard with one connection on the kernel's ring, taking its turns on the thread of its client: what
/// a request costs in all of the program.
pub struct ShardRounds {
    turn: Box<dyn FnMut()>,
    client: UnixStream,
    answer: Vec<u8>,
}

impl ShardRounds {
    /// A shard that serves `uri` to one client.
    pub fn new(uri: &str, session: Session, record: bool) -> Self {
        let uri: ExportUri = uri.parse().expect("a URI");
        let export = Arc::new(Export::open(&uri, false).expect("it opens"));
        let limits = Limits { connections: 16, pinned: Pinning::Off, ..Limits::SMALLEST };
        let config = ShardConfig {
            index: 0,
            cpu: None,
            limits: Arc::new(limits),
            files: 1,
            busy_poll: Duration::ZERO,
            record,
            slow: None,
            on_exit: Box::new(|_| {}),
        };
        let (handle, shard_end) = ShardHandle::new(&config.limits).expect("an eventfd");
        let shard = Shard::new(&config, shard_end);
        let mut shard = shard.unwrap_or_else(|error| panic!("{error}"));
        let (client, server) = UnixStream::pair().expect("a socket pair");
        client.set_nonblocking(true).expect("a socket can be non-blocking");
        let (leftover, peer, permit) = (Vec::new(), Default::default(), Box::new(()));
        let (socket, socket_permit) = (server.into(), Box::new(()));
        shard.connect(NewConnection {
            number: 1,
            socket,
            over_tcp: false,
            id: ExportId { index: 0, generation: 0 },
            export,
            limits: Arc::default(),
            session,
            leftover,
            secure: None,
            peer,
            permit,
            socket_permit,
        });
        let mut worker = Worker::new(shard, work);
        let turn = Box::new(move || {
            let _open_for_ever = &handle;
            worker.turn();
        });
        Self { turn, client, answer: Vec::new() }
    }

    /// Sends `requests` in one piece and lets the shard take turns until there are `answer` bytes of replies.
    /// Both must fit into the buffer of a socket, because a turn may wait for the kernel.
    pub fn round(&mut self, requests: &[u8], answer: usize) -> &[u8] {
        self.client.write_all(requests).expect("they fit");
        self.answer.resize(answer, 0);
        let mut filled = 0;
        while filled < answer {
            (self.turn)();
            match self.client.read(&mut self.answer[filled..]) {
                Ok(0) => panic!("the shard closed the connection"),
                Ok(length) => filled += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        &self.answer
    }
}
