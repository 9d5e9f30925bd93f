//! What the requests and the tasks of a remote device share on its shard.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::connection::LinkEnd;
use super::state::RemoteState;
use super::store::RemoteStore;
use crate::exec::{Background, Helpers, ReadyList, Waiters};
use crate::ring::{BufferPool, Ring};

/// A remote device on its shard.
pub(super) struct RemoteOnShard {
    pub(super) store: Arc<RemoteStore>,
    pub(super) state: RefCell<RemoteState>,
    pub(super) ring: Ring,
    pub(super) ready: ReadyList,
    pub(super) helpers: Rc<Helpers>,
    pub(super) background: Background,
    /// Memory to receive into, for each connection.
    pub(super) pool: BufferPool,
    /// Requests that wait because too many are unanswered.
    pub(super) room: Waiters,
}

impl RemoteOnShard {
    /// There is something to send: the connection that has been idle for the longest time takes it.
    pub(super) fn rouse(&self) {
        let idle = self.state.borrow_mut().idle.pop_front();
        if let Some(waiter) = idle.and_then(|link| link.rouse()) {
            self.ready.notify(waiter);
        }
    }

    /// Something has happened that the supervisor should see.
    pub(super) fn poke(&self) {
        let mut state = self.state.borrow_mut();
        state.is_poked = true;
        if let Some(waiter) = state.supervisor.take() {
            self.ready.notify(waiter);
        }
    }

    /// Fails what waits for a connection.
    pub(super) fn fail_waiting(&self) {
        let waiters = self.state.borrow_mut().fail_waiting();
        waiters.into_iter().for_each(|waiter| self.ready.notify(waiter));
        self.room.wake_all();
    }

    /// A connection has ended, and with it the others, so that one order of requests holds on all.
    pub(super) fn lose(&self, why: &LinkEnd) {
        let (links, sent_again) = self.state.borrow_mut().lost(self.ring.now());
        let losses = self.store.counts.lost(sent_again);
        tracing::warn!(remote = self.store.text, reason = %why, losses, "a connection was lost");
        let waiters: Vec<_> = links.iter().filter_map(|link| link.kill()).collect();
        waiters.into_iter().for_each(|waiter| self.ready.notify(waiter));
        self.poke();
        self.room.wake_all();
    }
}
