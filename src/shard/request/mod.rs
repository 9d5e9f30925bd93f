//! Requests and their answers, whatever protocol carries them: a front-end makes the one and takes the other.
//!
//! [`serve`](serve::serve) is what is done for a request, top to bottom. [`table`] knows all requests of the
//! shard.

pub(crate) mod answer;
pub(crate) mod serve;
pub(crate) mod sparse;
pub(crate) mod table;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Abandon, Device, Export, ExportId, HomeTask};
use crate::block::{ByteRange, IoFlags};
use crate::exec::BackgroundTask;
use crate::ring::Lease;
use crate::shard::request::table::RequestId;

/// What requests of one connection have in common.
pub(crate) struct Peer {
    pub(crate) device: Rc<Device>,
    pub(crate) id: ExportId,
    /// The index of that, by which the export is counted.
    pub(crate) export: usize,
    /// The connection's number; helper threads serve connections in turn.
    pub(crate) client: u32,
    /// Said when the connection was aborted: answers to its requests go nowhere.
    pub(crate) abandon: Abandon,
}

/// A request with all it needs.
pub(crate) struct Work {
    pub(crate) action: Action,
    pub(crate) range: ByteRange,
    pub(crate) flags: IoFlags,
    /// For a read the memory to read into, for a write its payload; for extents room for the front-end's
    /// reply.
    pub(crate) lease: Option<Lease>,
}

/// What a task of the shard does.
pub(crate) enum ShardJob {
    /// Carries a request out.
    Request(RequestId, Rc<Peer>, Work),
    /// Opens the device of an export.
    Open(ExportId, Arc<Export>),
    /// Does something as the home of an image. Its changes wait for at most `limit` for those under way.
    Home { id: ExportId, device: Rc<Device>, task: HomeTask, limit: Duration },
    /// Goes on with what a device began.
    Background(BackgroundTask),
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Action {
    /// Read the range; holes may be left out of the answer when it may come in parts.
    Read {
        in_parts: bool,
    },
    Write,
    Flush,
    Trim,
    WriteZeroes,
    Cache,
    Extents(Box<AskedExtents>),
}

/// A question for extents.
#[derive(Debug)]
pub(crate) struct AskedExtents {
    pub(crate) maps: Vec<AskedMap>,
    /// The most extents of each map.
    pub(crate) limit: usize,
}

/// What extents tell of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Map {
    /// Holes and zeroes.
    Allocation,
    /// How deep in a chain of layers the bytes are.
    Depth,
    /// What has changed since a snapshot of this name.
    Changed(Arc<str>),
    /// What another server tells by this name.
    Passed(Arc<str>),
    /// The [`Device::instance`], for all of the range.
    Instance,
}

/// A map and what the front-end calls it.
pub(crate) type AskedMap = (u32, Map);
