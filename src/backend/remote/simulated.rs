//! Remotes of simulations, where nothing is negotiated: both ends know what the export is.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::contexts::LinkContexts;
use super::counts::RemoteCounts;
use super::facts::RemoteFacts;
use super::store::{RemoteSocket, RemoteStore, RemoteWay, SimulatedWay};
use crate::block::{BlockSizes, DeviceFacts};
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

impl RemoteStore {
    /// An export of so many bytes, reached by `way` over several connections at a time.
    pub(in crate::backend) fn simulated(
        way: SimulatedWay,
        size: u64,
        reconnect: Duration,
        connections: usize,
    ) -> (Arc<Self>, DeviceFacts) {
        let flags = NBD_FLAG_HAS_FLAGS
            | NBD_FLAG_SEND_FLUSH
            | NBD_FLAG_SEND_FUA
            | NBD_FLAG_SEND_TRIM
            | NBD_FLAG_SEND_WRITE_ZEROES
            | NBD_FLAG_CAN_MULTI_CONN;
        let block_sizes = BlockSizes::default();
        let facts = RemoteFacts { size, read_only: false, abilities: 0, block_sizes, name: None };
        let device = DeviceFacts { size, read_only: false, rotational: false, fast_zero: false, block_sizes };
        let (text, way, first) =
            ("a simulated remote".to_owned(), RemoteWay::Simulated(way), Mutex::new(None));
        let (passed, counts) = (Vec::new(), RemoteCounts::default());
        let store = Self { text, way, facts, flags, passed, reconnect, connections, first, counts };
        (Arc::new(store), device)
    }

    pub(super) fn simulated_socket(&self, socket: OwnedFd) -> RemoteSocket {
        let (facts, mode) = (self.facts.clone(), ReplyMode::Extended);
        RemoteSocket { socket, facts, mode, contexts: LinkContexts::default(), instance: None }
    }
}
