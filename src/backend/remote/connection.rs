//! A connection to the remote, as all that deal with it see it, and why it may end.

use std::cell::{Cell, RefCell};

use super::contexts::LinkContexts;
use super::unanswered::{ConnectionNumber, StrayReply};
use crate::exec::Waiter;
use crate::nbd::client::replies::{ReplyError, ReplyParser};
use crate::nbd::session::ReplyMode;
use crate::ring::FileIndex;

/// Bytes that are received at once.
pub(super) const RECEIVE: usize = 256 << 10;
/// A connection.
pub(super) struct RemoteLink {
    pub(super) number: ConnectionNumber,
    pub(super) socket: FileIndex,
    pub(super) mode: ReplyMode,
    pub(super) contexts: LinkContexts,
    pub(super) parser: RefCell<ReplyParser>,
    pub(super) is_dead: Cell<bool>,
    /// It stands among the idle ones, though it may have found something to send since.
    pub(super) is_listed: Cell<bool>,
    /// Its task.
    pub(super) waiter: RefCell<Option<Waiter>>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkEnd {
    #[error("the remote closed the connection")]
    Closed,
    #[error("the connection failed: {}", std::io::Error::from_raw_os_error(*.0))]
    Failed(i32),
    #[error("the remote is shutting down")]
    ShuttingDown,
    #[error(transparent)]
    Violation(#[from] ReplyError),
    #[error(transparent)]
    Stray(#[from] StrayReply),
}

impl RemoteLink {
    pub(super) fn new(
        number: ConnectionNumber,
        socket: FileIndex,
        mode: ReplyMode,
        contexts: LinkContexts,
    ) -> Self {
        let parser = RefCell::new(ReplyParser::new(mode, contexts.all.clone()));
        let (is_dead, is_listed, waiter) = Default::default();
        Self { number, socket, mode, contexts, parser, is_dead, is_listed, waiter }
    }

    /// It was lost, or is not needed any more: its task is to end it.
    pub(super) fn kill(&self) -> Option<Waiter> {
        self.is_dead.set(true);
        self.waiter.take()
    }

    /// There is something to send.
    pub(super) fn rouse(&self) -> Option<Waiter> {
        self.is_listed.set(false);
        self.waiter.take()
    }
}
