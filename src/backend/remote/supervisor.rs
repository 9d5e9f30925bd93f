//! The task that connects, and fails what has waited too long.

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
        sleep(&remote, now).await;
    }
}

/// Sleeps until something may be due, or has happened.
async fn sleep(remote: &RemoteOnShard, now: Duration) {
    let wake_at = remote.state.borrow().reconnect.wake_at();
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

fn failed(remote: &RemoteOnShard, why: &dyn std::fmt::Display) {
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
    let mut links = Vec::new();
    for RemoteSocket { socket, mode, allocation, .. } in sockets {
        let Some(lease) = remote.pool.lend(RECEIVE) else { break };
        let Ok(index) = remote.ring.register_file(socket.as_fd()) else { break };
        let number = remote.state.borrow_mut().next_connection();
        links.push((Rc::new(RemoteLink::new(number, index, mode, allocation)), lease));
    }
    if links.is_empty() {
        return failed(remote, &"no place is left for its socket");
    }
    let mut state = remote.state.borrow_mut();
    state.unflushed.reconnected(false);
    state.reconnect.connected(remote.ring.now());
    state.links = links.iter().map(|(link, _)| Rc::clone(link)).collect();
    drop(state);
    remote.store.counts.connected(links.len());
    tracing::info!(remote = remote.store.text, connections = links.len(), "connected");
    for (link, lease) in links {
        remote.background.begin(link::run(Rc::clone(remote), link, lease));
    }
}
