//! Stands in for `tls_stage` in a program without TLS.

use std::cell::Cell;
use std::rc::Rc;

use crate::nbd::server::reply::HeaderBytes;
use crate::ring::{Payload, Received};
use crate::shard::frontend::nbd::batches::Batches;
use crate::shard::frontend::nbd::connection::{Connection, Fed, Feeding};
use crate::shard::frontend::nbd::hold::CannotLeave;
use crate::shard::frontend::nbd::reply::Reply;
use crate::shard::frontend::nbd::unparsed::Unparsed;
use crate::shard::request::table::RequestId;
use crate::shard::takes_tls::ConnectionTls;

/// There is none.
#[derive(Debug)]
#[cfg(not(feature = "tls"))]
pub enum Secured {}

/// There is none.
#[derive(Debug)]
#[cfg(not(feature = "tls"))]
pub(crate) enum Secure {}

/// There is none.
#[derive(Debug)]
#[cfg(not(feature = "tls"))]
pub(crate) enum LeavingSecure {}

impl Connection {
    pub(crate) fn secure(&mut self, secured: Option<Box<Secured>>, _held: &Rc<Cell<usize>>) {
        if let Some(secured) = secured {
            match *secured {}
        }
    }

    pub(crate) fn unparsed_of(&self, received: Received) -> Unparsed {
        Unparsed::buffer(received)
    }

    pub(crate) fn open_next_record(
        &mut self,
        _unparsed: &mut Option<Unparsed>,
        _feeding: &mut Feeding<'_>,
    ) -> Option<Fed> {
        unreachable!("there is no TLS")
    }

    pub(crate) fn leaving_secure(&self) -> Result<Option<LeavingSecure>, CannotLeave> {
        Ok(None)
    }

    pub(crate) fn tls(&self) -> ConnectionTls {
        ConnectionTls::None
    }

    pub(crate) fn seal_no_more(&mut self) {}

    pub(crate) fn is_within_record(&self) -> bool {
        false
    }

    pub(crate) fn forget_records(&mut self) {}

    pub(crate) fn partial_since(&self) -> Option<u64> {
        None
    }

    pub(crate) fn push_sealed(&mut self, _reply: Reply, _request: RequestId) {
        unreachable!("there is no TLS")
    }

    pub(crate) fn push_sealed_data(
        &mut self,
        _header: HeaderBytes,
        _payload: Payload,
        _request: RequestId,
        _batches: &mut Batches,
    ) {
        unreachable!("there is no TLS")
    }

    pub(crate) fn seal_tail(&mut self, _batches: &mut Batches) {}

    pub(crate) fn forget_tail(&mut self) -> Option<RequestId> {
        None
    }

    pub(crate) fn say_farewell(&mut self) {}

    pub(crate) fn take_key_updates(&mut self) -> u64 {
        0
    }
}
