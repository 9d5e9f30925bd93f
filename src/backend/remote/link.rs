//! One connection to the remote: a task that sends requests and takes replies in.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use super::connection::{LinkEnd, RemoteLink};
use super::shared::RemoteOnShard;
use super::state::RemoteMemory;
use super::wire::client_request;
use crate::block::{BlockError, CommandKind};
use crate::exec::{Waiter, side_by_side};
use crate::nbd::client::replies::{Event, ReplyParser};
use crate::nbd::client::request::{ClientRequest, LONGEST_REQUEST};
use crate::nbd::wire::NBD_CMD_DISC;
use crate::ring::{Lease, Operation, Payload, SendBatch, SendMode};

/// Pieces of one send.
const PIECES: usize = 128;
/// Bytes of a request without data, at most.
const HEADER: usize = LONGEST_REQUEST;

/// Runs a connection until it is dead.
pub(super) async fn run(remote: Rc<RemoteOnShard>, link: Rc<RemoteLink>, lease: Lease) {
    let parts: [Pin<Box<dyn Future<Output = ()> + '_>>; 3] = [
        Box::pin(receive(&remote, &link, lease)),
        Box::pin(send(&remote, &link)),
        Box::pin(end(&remote, &link)),
    ];
    side_by_side(parts.into_iter(), 3).await;
    remote.ring.release_file(link.socket);
}

/// Ends both directions when the connection is dead, so that nothing waits on it any more.
async fn end(remote: &RemoteOnShard, link: &RemoteLink) {
    poll_fn(|context| {
        if link.is_dead.get() {
            return Poll::Ready(());
        }
        link.waiter.replace(Some(Waiter::new(&remote.ring, context)));
        Poll::Pending
    })
    .await;
    let how = std::net::Shutdown::Both;
    // One that is gone already is as good.
    let _ = remote.ring.run(Operation::Shutdown { socket: link.socket, how }).await;
}

async fn receive(remote: &RemoteOnShard, link: &RemoteLink, mut lease: Lease) {
    while !link.is_dead.get() {
        let length = lease.capacity() as u32;
        let operation = Operation::ReceiveInto { socket: link.socket, lease, start: 0, length, whole: false };
        let (result, operation) = remote.ring.run(operation).await;
        let Operation::ReceiveInto { lease: back, .. } = operation else {
            unreachable!("an operation comes back as it was")
        };
        lease = back;
        if link.is_dead.get() {
            return;
        }
        let taken = match result {
            Ok(0) => Err(LinkEnd::Closed),
            Ok(length) => take_in(remote, link, lease.bytes(0..length as usize)),
            Err(libc::EINTR | libc::EAGAIN) => Ok(()),
            Err(errno) => Err(LinkEnd::Failed(errno)),
        };
        if let Err(why) = taken {
            return remote.lose(link, &why);
        }
    }
}

/// Replies, or parts of them.
fn take_in(remote: &RemoteOnShard, link: &RemoteLink, mut input: &[u8]) -> Result<(), LinkEnd> {
    let mut parser = link.parser.borrow_mut();
    let mut has_room = false;
    while let Some(event) = parser.feed(&mut input)? {
        let mut state = remote.state.borrow_mut();
        match event {
            Event::Data { cookie, offset, data } => {
                state.held(cookie).into_iter().for_each(|held| held.put(offset, data));
            }
            Event::Hole { cookie, offset, length } => {
                state.held(cookie).into_iter().for_each(|held| held.put_zeroes(offset, length));
            }
            Event::Extent { cookie, context, length, flags } => {
                let is_asked_for = |of| link.contexts.id(of) == Some(context);
                let held = state.held(cookie).filter(|held| is_asked_for(held.status.of));
                held.into_iter().for_each(|held| held.put_extent(length, flags));
            }
            Event::Failure { error, message, .. } => {
                tracing::debug!(remote = remote.store.text, %error, message, "a request failed there");
            }
            // It is not done, so it is sent again to whoever comes next.
            Event::Done { result: Err(BlockError::Shutdown), .. } => return Err(LinkEnd::ShuttingDown),
            Event::Done { cookie, result } => {
                let waiter = state.answered(cookie, link.number, result)?;
                let has_proven = state.has_proven();
                drop(state);
                if has_proven {
                    remote.poke();
                }
                waiter.into_iter().for_each(|waiter| remote.ready.notify(waiter));
                has_room = true;
            }
        }
    }
    if has_room {
        remote.room.wake_all();
    }
    Ok(())
}

async fn send(remote: &RemoteOnShard, link: &Rc<RemoteLink>) {
    let mut batch = Box::new(SendBatch::with_capacity(PIECES, PIECES * HEADER));
    let mut spare = Box::new(SendBatch::with_capacity(PIECES, PIECES * HEADER));
    loop {
        if batch.is_empty() && !has_work(remote, link).await {
            return;
        }
        fill(remote, link, &mut batch);
        if batch.is_empty() {
            continue;
        }
        let operation = Operation::Send { socket: link.socket, mode: SendMode::Some, batch };
        let (result, operation) = remote.ring.run(operation).await;
        let Operation::Send { batch: back, .. } = operation else {
            unreachable!("an operation comes back as it was")
        };
        batch = back;
        if link.is_dead.get() {
            return;
        }
        let sent = match result {
            Ok(sent) => sent as usize,
            Err(libc::EINTR | libc::EAGAIN) => 0,
            Err(errno) => return remote.lose(link, &LinkEnd::Failed(errno)),
        };
        batch.take_sent(
            sent,
            |_tag| {},
            |unsent| spare.push_chunk(unsent.header, unsent.payload, unsent.left, unsent.tag),
        );
        std::mem::swap(&mut batch, &mut spare);
    }
}

/// Waits for something to send; false when the connection is dead. A device that is gone says goodbye.
async fn has_work(remote: &RemoteOnShard, link: &Rc<RemoteLink>) -> bool {
    poll_fn(|context| {
        if link.is_dead.get() {
            return Poll::Ready(());
        }
        let mut state = remote.state.borrow_mut();
        if state.is_closed || state.unanswered.has_unsent() {
            return Poll::Ready(());
        }
        if !link.is_listed.replace(true) {
            state.idle.push_back(Rc::clone(link));
        }
        link.waiter.replace(Some(Waiter::new(&remote.ring, context)));
        Poll::Pending
    })
    .await;
    if remote.state.borrow().is_closed && !link.is_dead.get() {
        goodbye(remote, link).await;
        link.kill().into_iter().for_each(|waiter| remote.ready.notify(waiter));
    }
    !link.is_dead.get()
}

async fn goodbye(remote: &RemoteOnShard, link: &RemoteLink) {
    let disconnect = ClientRequest { command: NBD_CMD_DISC, flags: 0, cookie: 0, offset: 0, length: 0 };
    let mut header = Vec::with_capacity(HEADER);
    disconnect.encode(link.mode, &mut header);
    let mut batch = Box::new(SendBatch::with_capacity(SendBatch::PIECES_PER_CHUNK, HEADER));
    batch.push_chunk(&header, Payload::Nothing, 0, 0);
    // The connection ends in any case.
    let _ = remote.ring.run(Operation::Send { socket: link.socket, mode: SendMode::Now, batch }).await;
}

/// Encodes a BLOCK_STATUS, for one context alone where the remote lets a client choose.
fn ask_status(
    link: &RemoteLink,
    (asked, context): (ClientRequest, u32),
    parser: &mut ReplyParser,
    header: &mut Vec<u8>,
) {
    match link.contexts.are_chosen_from() {
        true => {
            asked.encode_for_context(context, header);
            parser.expect_of_context(asked, context);
        }
        false => {
            asked.encode(link.mode, header);
            parser.expect(asked);
        }
    }
}

/// Puts requests into a batch, as many as it takes.
fn fill(remote: &RemoteOnShard, link: &RemoteLink, batch: &mut SendBatch) {
    let (mut state, mut parser) = (remote.state.borrow_mut(), link.parser.borrow_mut());
    let mut header = Vec::with_capacity(HEADER);
    while !link.is_dead.get() && batch.has_room_for_chunk(HEADER) {
        let Some((cookie, request)) = state.unanswered.send(link.number) else { return };
        let asked = client_request(cookie, &request);
        header.clear();
        if request.command == CommandKind::BlockStatus {
            let of = state.held(cookie).map(|held| held.status.of).unwrap_or_default();
            let Some(context) = link.contexts.id(of) else {
                // The remote had it when its clients were told of it.
                let waiter = state.give_up(cookie, link.number);
                waiter.into_iter().for_each(|waiter| remote.ready.notify(waiter));
                remote.room.wake_all();
                continue;
            };
            ask_status(link, (asked, context), &mut parser, &mut header);
            batch.push_chunk(&header, Payload::Nothing, 0, 0);
            continue;
        }
        asked.encode(link.mode, &mut header);
        let payload = match state.held(cookie).map(|held| &held.memory) {
            Some(RemoteMemory::Source(lease, start)) if request.command == CommandKind::Write => {
                let (lease, length) = (lease.clone(), request.range.length() as u32);
                Payload::Leased { lease, start: *start, length }
            }
            _ => Payload::Nothing,
        };
        parser.expect(asked);
        batch.push_chunk(&header, payload, 0, 0);
    }
}
