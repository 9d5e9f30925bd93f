//! Stands in for `records` in a program without TLS.

use crate::client::secure::SecureStream;
use crate::ring::SendBatch;

/// There are none.
#[derive(Debug)]
#[cfg(not(feature = "tls"))]
pub(super) enum LoadRecords {}

/// How a stream of records goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg(not(feature = "tls"))]
#[expect(dead_code, reason = "there are no records")]
pub(super) enum RecordsEnd {
    More,
    Closed,
}

/// There are none, so nothing is wrong with one.
#[derive(Debug)]
#[cfg(not(feature = "tls"))]
pub(super) enum RecordFault {}

impl std::fmt::Display for RecordFault {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}

pub(super) const fn room_for(length: usize) -> usize {
    length
}

impl LoadRecords {
    pub(super) fn new(stream: SecureStream, _renewal: Option<u64>) -> Self {
        match stream {}
    }

    pub(super) fn push(&mut self, _batch: &mut SendBatch, _bytes: &[u8]) {
        match *self {}
    }

    pub(super) fn finish(&mut self, _batch: &mut SendBatch) {
        match *self {}
    }

    pub(super) fn say_goodbye(&mut self, _batch: &mut SendBatch) {
        match *self {}
    }

    pub(super) fn open<E: From<RecordFault>>(
        &mut self,
        _received: &mut [u8],
        _each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<RecordsEnd, E> {
        match *self {}
    }
}
