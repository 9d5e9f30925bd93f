//! Reads that can be answered without waiting, and what becomes of those that are answered from the page cache.

use super::page_cache::Standing;
use super::trust::Trust;
use super::{Device, Kind};
use crate::block::ByteRange;
use crate::ring::{Lease, MappedRange, Operation};

/// The data of a read that was answered at once.
#[derive(Debug)]
pub(crate) enum AtOnce {
    /// It is in the page cache.
    Cached(MappedRange),
    /// Nothing but zeroes.
    Zeroes,
}

impl Device {
    /// What a read brings, if that can be had without waiting and without a buffer; from a mapped file only if there is some trust in what
    /// was seen there; that it `waits` means that its [standing](Device::standing) is asked for before it leaves. `now` is the moment of the turn in nanoseconds.
    pub(crate) fn read_at_once(
        &self,
        range: ByteRange,
        waits: bool,
        trust: Option<&mut Trust>,
        now: u64,
    ) -> Option<AtOnce> {
        if !self.faults.is_empty() {
            return None;
        }
        self.assert_request(range, false);
        match &self.kind {
            Kind::File(file) => file.cached(range, waits, trust?, now).map(AtOnce::Cached),
            Kind::Memory(_) => None,
            Kind::Null => Some(AtOnce::Zeroes),
        }
    }

    /// What has become of a range that [`Device::read_at_once`] found in the page cache in an earlier turn; with `trust`, because that
    /// was only a moment ago.
    pub(crate) fn standing(&self, range: ByteRange, trust: Option<&mut Trust>, now: u64) -> Standing {
        match &self.kind {
            Kind::File(file) => file.standing(range, trust, now),
            Kind::Memory(_) | Kind::Null => Standing::Gone,
        }
    }

    /// Reads such a range into memory in one operation, which may be short.
    pub(crate) fn copying(&self, range: ByteRange, lease: Lease) -> Option<Operation> {
        match &self.kind {
            Kind::File(file) => Some(file.copying(range, lease)),
            Kind::Memory(_) | Kind::Null => None,
        }
    }

    /// What was seen in the page cache may not be there any more: [`Device::read_at_once`] asks again.
    pub(crate) fn distrust_page_cache(&self) {
        if let Kind::File(file) = &self.kind {
            file.distrust_page_cache();
        }
    }
}
