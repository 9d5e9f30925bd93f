//! What a world consists of.

use std::collections::VecDeque;

use crate::backend::remote::unflushed::FlushMark;
use crate::block::CommandKind;

/// What is done wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Planted {
    Nothing,
    /// A connection is used as soon as it comes.
    NewcomersAreBelieved,
    /// A reconnect is not taken for a crash.
    CrashesAreForgotten,
    /// What was under way on a lost connection is given up.
    RequestsAreLost,
    /// The server has the same number after a crash.
    OneInstance,
}

/// One connection, as the network and the server see it.
#[derive(Debug)]
pub(super) struct NetworkWay {
    /// Which life of the server it leads to.
    pub(super) life: u64,
    /// Nothing comes through any more, and the device may not have noticed.
    pub(super) is_cut: bool,
    pub(super) requests: Vec<u64>,
    pub(super) replies: VecDeque<(u64, u64)>,
}

/// A request of a client, by its cookie.
#[derive(Debug, Clone, Copy)]
pub(super) struct AskedOfServer {
    pub(super) client: u32,
    pub(super) command: CommandKind,
    pub(super) block: u64,
    /// What a WRITE writes; of a READ, the least that it has to see.
    pub(super) version: u64,
    /// How many requests had been answered when it was asked.
    pub(super) covers: u64,
    pub(super) mark: FlushMark,
}

/// A change that was answered and is not known to be durable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owed {
    /// How many requests had been answered before it.
    pub(super) at: u64,
    pub(super) block: u64,
    pub(super) version: u64,
}
