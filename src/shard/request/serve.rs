//! A request, one way through: what is done for it and what is answered, top to bottom.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use crate::backend::{Device, ExportId, ShardContext};
use crate::block::{BlockError, ByteRange, NumberedExtent};
use crate::ring::{Lease, Payload};
use crate::shard::request::answer::{Answer, Described, ReadPart};
use crate::shard::request::table::RequestId;
use crate::shard::request::{Action, AskedExtents, Map, Peer, ShardJob, Work, sparse};

/// What all tasks of a shard share.
pub(crate) struct TaskContext {
    pub(crate) context: ShardContext,
    /// Answers of this turn, on their way to their connections.
    pub(crate) answered: RefCell<Vec<(RequestId, Answer)>>,
    /// Devices of this turn that were opened or could not be.
    pub(crate) opened: RefCell<Vec<(ExportId, io::Result<Device>)>>,
    /// Images of this turn for which something was done or could not be.
    pub(crate) visited: RefCell<Vec<ExportId>>,
}

/// Does a task's job and leaves what comes of it. A request is carried out here and not in a function of its
/// own: the future of that would be moved once more.
pub(crate) async fn work(shared: Rc<TaskContext>, job: ShardJob) {
    let (id, peer, Work { action, range, flags, lease }) = match job {
        ShardJob::Request(id, peer, work) => (id, peer, work),
        ShardJob::Open(id, export) => {
            let opened = Device::new(&export, &shared.context);
            shared.opened.borrow_mut().push((id, opened));
            return;
        }
        ShardJob::Home { id, device, task, limit } => {
            Box::pin(device.perform(task, limit, &shared.context)).await;
            return shared.visited.borrow_mut().push(id);
        }
        ShardJob::Background(task) => return task.await,
    };
    let (device, context) = (&*peer.device, &shared.context);
    let answer = match action {
        Action::Read { in_parts } => read(range, in_parts, lease, &peer, context).await,
        Action::Extents(asked) => Box::pin(extents(range, &asked, lease, &peer, context)).await,
        Action::Flush => Answer::of(device.flush(peer.client, context).await),
        _ if range.is_empty() => Answer::Done,
        Action::Write => {
            let lease = lease.expect("a write has its payload");
            Answer::of(device.write(range, lease.freeze(), flags, peer.client, context).await)
        }
        // What is rare is boxed, so that every task's slot is as small as reads and writes allow.
        Action::Trim => {
            Answer::of(Box::pin(device.trim(range, flags, (peer.client, &peer.abandon), context)).await)
        }
        Action::WriteZeroes => Answer::of(
            Box::pin(device.write_zeroes(range, flags, (peer.client, &peer.abandon), context)).await,
        ),
        Action::Cache => Answer::of(Box::pin(device.cache(range, &peer.abandon, context)).await),
    };
    shared.answered.borrow_mut().push((id, answer));
}

async fn read(
    range: ByteRange,
    in_parts: bool,
    lease: Option<Lease>,
    peer: &Peer,
    context: &ShardContext,
) -> Answer {
    if range.is_empty() {
        return Answer::Done;
    }
    let length = range.length() as u32;
    let mut lease = lease.expect("a read has its memory");
    if in_parts && sparse::is_worth_it(range, &peer.device) {
        match Box::pin(sparse::read(range, lease, peer, context)).await {
            Ok(answer) => return answer,
            Err(back) => lease = back,
        }
    }
    let (lease, result) = peer.device.read(range, lease, 0, peer.client, context).await;
    match result {
        Ok(()) => Answer::Data(Payload::Leased { lease: lease.freeze(), start: 0, length }),
        Err(failure) => {
            let good = (failure.good > 0)
                .then(|| ReadPart { length: failure.good as u32, data: Some(lease.freeze()) });
            Answer::Parts { parts: Vec::from_iter(good), failure: Some(failure.error) }
        }
    }
}

async fn extents(
    range: ByteRange,
    asked: &AskedExtents,
    lease: Option<Lease>,
    peer: &Peer,
    context: &ShardContext,
) -> Answer {
    let mut found = Vec::with_capacity(asked.maps.len());
    for (name, map) in &asked.maps {
        let (limit, client, device) = (asked.limit, peer.client, &peer.device);
        let described: Result<_, BlockError> = match map {
            Map::Allocation => device.extents(range, limit, client, context).await.map(Described::Allocation),
            Map::Depth => device.depths(range, limit, context).await.map(Described::Numbers),
            Map::Changed(since) => {
                device.changed(range, since, limit, client, context).await.map(Described::Numbers)
            }
            Map::Passed(name) => device.passed(range, name, limit).await.map(Described::Numbers),
            Map::Instance => {
                let number = device.instance().into();
                Ok(Described::Numbers(vec![NumberedExtent { length: range.length(), number }]))
            }
        };
        match described {
            Ok(described) => found.push((*name, described)),
            Err(error) => return Answer::Failed(error),
        }
    }
    Answer::Extents { found, lease: lease.expect("there is room for the reply") }
}
