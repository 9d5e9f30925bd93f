//! The task that connects, and fails what has waited too long.

use std::fmt::Display;
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::connection::{RECEIVE, RemoteLink};
use super::link;
use super::reconnect::Due;
use super::shared::RemoteOnShard;
use super::store::RemoteSocket;
use crate::exec::Waiter;
use crate::ring::Lease;

/// The longest sleep. A timer that nobody awaits any more lives on for that long.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Sees to the connections of a device, until it is gone.
pub(super) async fn run(remote: Rc<RemoteOnShard>) {
    loop {
        if remote.state.borrow().is_closed {
            return;
        }
        let now = remote.ring.now();
        loop {
            let due = remote.state.borrow_mut().reconnect.due(now);
            match due {
                Some(Due::Connect) => remote.background.begin(attempt(Rc::clone(&remote))),
                Some(Due::FailWaiting) => {
                    let store = &remote.store;
                    tracing::error!(remote = store.text, waited = ?store.reconnect, "no connection, requests fail");
                    remote.fail_waiting();
                }
                None => break,
            }
        }
        let missing = {
            let mut state = remote.state.borrow_mut();
            let connections = state.connections();
            state.refill.due(connections, now)
        };
        if let Some(missing) = missing {
            remote.background.begin(refill(Rc::clone(&remote), missing));
        }
        let proven = remote.state.borrow_mut().take_proven();
        if !proven.is_empty() {
            begin_more_links(&remote, proven);
        }
        sleep(&remote, now).await;
    }
}

/// Sleeps until something may be due, or has happened.
async fn sleep(remote: &RemoteOnShard, now: Duration) {
    let (again, more) = {
        let state = remote.state.borrow();
        (state.reconnect.wake_at(), state.refill.wake_at())
    };
    let wake_at = again.into_iter().chain(more).min();
    let pause = wake_at.map(|at| at.saturating_sub(now).min(LONGEST_SLEEP));
    let mut timer = pin!(remote.ring.sleep(pause.unwrap_or(LONGEST_SLEEP)));
    poll_fn(|context| {
        let mut state = remote.state.borrow_mut();
        if std::mem::take(&mut state.is_poked) || state.is_closed {
            return Poll::Ready(());
        }
        state.supervisor = Some(Waiter::new(&remote.ring, context));
        drop(state);
        match pause {
            Some(_) => timer.as_mut().poll(context),
            None => Poll::Pending,
        }
    })
    .await;
}

/// One attempt to connect. It waits for the network, so a helper thread makes it.
async fn attempt(remote: Rc<RemoteOnShard>) {
    let store = Arc::clone(&remote.store);
    let key = Arc::as_ptr(&store).addr();
    let connected = remote.helpers.run(key, 0, move || store.connect()).await;
    if remote.state.borrow().is_closed {
        return;
    }
    match connected {
        Ok(Ok(sockets)) => begin_links(&remote, sockets),
        Ok(Err(error)) => failed(&remote, &error),
        Err(_panicked) => failed(&remote, &"the attempt panicked"),
    }
    remote.poke();
}

fn failed(remote: &RemoteOnShard, why: &dyn Display) {
    tracing::warn!(remote = remote.store.text, reason = %why, "cannot connect, trying again");
    remote.state.borrow_mut().reconnect.attempt_failed(remote.ring.now());
}

/// The remote is there again, if it is the one that it was.
fn begin_links(remote: &Rc<RemoteOnShard>, sockets: Vec<RemoteSocket>) {
    let changed = sockets.iter().find_map(|socket| remote.store.facts.check(&socket.facts).err());
    if let Some(changed) = changed {
        tracing::error!(remote = remote.store.text, reason = %changed, "the device fails for good");
        remote.state.borrow_mut().reconnect.give_up();
        return remote.fail_waiting();
    }
    let instance = sockets.first().and_then(|socket| socket.instance);
    let instance = instance.filter(|_| sockets.iter().all(|socket| socket.instance == instance));
    let links = links_of(remote, sockets);
    if links.is_empty() {
        return failed(remote, &"no place is left for its socket");
    }
    let mut state = remote.state.borrow_mut();
    let is_same = state.reconnected(instance);
    state.reconnect.connected(remote.ring.now());
    state.refill.connected(links.len(), remote.ring.now());
    drop(state);
    tracing::info!(remote = remote.store.text, connections = links.len(), is_same, "connected");
    begin(remote, links);
}

/// One attempt to connect once more, while other connections stand.
async fn refill(remote: Rc<RemoteOnShard>, missing: usize) {
    let store = Arc::clone(&remote.store);
    let key = Arc::as_ptr(&store).addr();
    let connected = remote.helpers.run(key, 0, move || store.connect_more(missing)).await;
    let failure: Box<dyn Display> = match connected {
        Ok(Ok(sockets)) => match welcome(&remote, sockets) {
            Ok(()) => return remote.poke(),
            Err(why) => why,
        },
        Ok(Err(error)) => Box::new(error),
        Err(_panicked) => Box::new("the attempt panicked"),
    };
    tracing::info!(remote = remote.store.text, reason = %failure, "cannot connect once more, trying again");
    remote.state.borrow_mut().refill.attempt_failed(remote.ring.now());
    remote.poke();
}

/// Has connections wait until they are known to lead to the same server as the others.
fn welcome(remote: &RemoteOnShard, mut sockets: Vec<RemoteSocket>) -> Result<(), Box<dyn Display>> {
    let mut state = remote.state.borrow_mut();
    // The last of the others may have been lost meanwhile, and all of them are made anew.
    let Some(other) = state.links.first().filter(|_| !state.is_closed) else { return Ok(()) };
    let has_map = other.contexts.allocation.is_some();
    for socket in &sockets {
        remote
            .store
            .facts
            .check(&socket.facts)
            .map_err(|changed| -> Box<dyn Display> { Box::new(changed) })?;
        if socket.contexts.allocation.is_some() != has_map {
            return Err(Box::new("it has another map than on the other connections"));
        }
    }
    state.refill.attempt_succeeded(remote.ring.now());
    // They were asked for before all others were lost and made anew, perhaps.
    sockets.truncate(remote.store.connections.saturating_sub(state.connections()));
    sockets.into_iter().for_each(|socket| state.welcome(socket));
    Ok(())
}

/// Connections that proved to lead to the same server.
fn begin_more_links(remote: &Rc<RemoteOnShard>, sockets: Vec<RemoteSocket>) {
    let wanted = sockets.len();
    sockets.iter().for_each(|socket| remote.state.borrow_mut().joined(socket.instance));
    let links = links_of(remote, sockets);
    let left = remote.state.borrow().links.len();
    tracing::info!(remote = remote.store.text, more = links.len(), left, "connected once more");
    if links.len() < wanted {
        remote.state.borrow_mut().refill.lost(remote.ring.now());
    }
    if !links.is_empty() {
        begin(remote, links);
    }
}

/// Gives sockets to the ring, as many as there is room for.
fn links_of(remote: &RemoteOnShard, sockets: Vec<RemoteSocket>) -> Vec<(Rc<RemoteLink>, Lease)> {
    let mut links = Vec::new();
    for RemoteSocket { socket, mode, contexts, .. } in sockets {
        let Some(lease) = remote.pool.lend(RECEIVE) else { break };
        let Ok(index) = remote.ring.register_file(socket.as_fd()) else { break };
        let number = remote.state.borrow_mut().next_connection();
        links.push((Rc::new(RemoteLink::new(number, index, mode, contexts)), lease));
    }
    links
}

fn begin(remote: &Rc<RemoteOnShard>, links: Vec<(Rc<RemoteLink>, Lease)>) {
    remote.store.counts.connected(links.len());
    remote.state.borrow_mut().links.extend(links.iter().map(|(link, _)| Rc::clone(link)));
    for (link, lease) in links {
        remote.background.begin(link::run(Rc::clone(remote), link, lease));
    }
}
