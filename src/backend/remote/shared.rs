//! What the requests and the tasks of a remote device share on its shard.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::connection::{LinkEnd, RemoteLink};
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

    /// A connection has ended. What was under way on it is sent again, over the others if there are some.
    ///
    /// The remote may still be doing what it was sent there, as it may after any loss.
    pub(super) fn lose(&self, link: &RemoteLink, why: &LinkEnd) {
        let lost = self.state.borrow_mut().lost(link.number, self.ring.now());
        let Some(sent_again) = lost else { return };
        let losses = self.store.counts.lost(sent_again);
        let left = self.state.borrow().links.len();
        tracing::warn!(remote = self.store.text, reason = %why, losses, left, "a connection was lost");
        link.kill().into_iter().for_each(|waiter| self.ready.notify(waiter));
        (0..sent_again.min(left)).for_each(|_| self.rouse());
        self.poke();
        self.room.wake_all();
    }
}
