//! Requests that can be answered without waiting and without memory, and what becomes of reads that are
//! answered from the page cache.

use super::application::Immediate;
use super::device::Device;
use super::kind::Kind;
use super::page_cache::Standing;
use super::trust::Trust;
use crate::block::{ByteRange, CommandKind, IoFlags};
use crate::ring::{Lease, MappedRange, Operation};

/// The answer to a request that needs neither time nor memory.
#[derive(Debug)]
pub(crate) enum AtOnce {
    /// A READ: its data is in the page cache.
    Cached(MappedRange),
    /// A READ: nothing but zeroes.
    Zeroes,
    /// A WRITE: it changes nothing, so it is done when its payload is here.
    Discarded,
}

/// How far the page cache may be believed, for a READ that is to be answered from it.
pub(crate) struct Glance<'a> {
    /// The reply waits: its [standing](Device::standing) is asked for before it leaves.
    pub(crate) waits: bool,
    pub(crate) trust: &'a mut Trust,
    /// The moment of the turn in nanoseconds.
    pub(crate) now: u64,
}

impl Device {
    /// The answer to a READ or WRITE that is not empty, if it can be had at once; from the page cache only if
    /// there is some trust in what was seen there.
    #[inline(always)]
    pub(crate) fn at_once(
        &self,
        command: CommandKind,
        range: ByteRange,
        flags: IoFlags,
        glance: Option<Glance<'_>>,
    ) -> Option<AtOnce> {
        self.assert_request(range, command == CommandKind::Write);
        match (&self.kind, command) {
            (Kind::File(file), CommandKind::Read) => {
                let Glance { waits, trust, now } = glance?;
                file.cached(range, waits, trust, now).map(AtOnce::Cached)
            }
            (Kind::Image(image), CommandKind::Read) => {
                let Glance { waits, trust, now } = glance?;
                let found = image.read_at_once(range, waits, trust, now)?;
                Some(found.map_or(AtOnce::Zeroes, AtOnce::Cached))
            }
            (Kind::Null, CommandKind::Read) => Some(AtOnce::Zeroes),
            (Kind::Null, CommandKind::Write) => Some(AtOnce::Discarded),
            (Kind::Application(application), _) => match application.immediate(command, range, flags)? {
                Immediate::Zeroes => Some(AtOnce::Zeroes),
                Immediate::Discarded => Some(AtOnce::Discarded),
            },
            _ => None,
        }
    }

    /// What has become of a range that [`Device::at_once`] found in the page cache in an earlier turn; with
    /// `trust`, because that was only a moment ago.
    pub(crate) fn standing(&self, mapped: &MappedRange, trust: Option<&mut Trust>, now: u64) -> Standing {
        match &self.kind {
            Kind::File(file) => file.standing(mapped.range(), trust, now),
            Kind::Image(image) => image.standing(mapped, trust, now),
            _ => Standing::Gone,
        }
    }

    /// Reads such a range into memory in one operation, which may be short.
    pub(crate) fn copying(&self, mapped: &MappedRange, lease: Lease) -> Option<Operation> {
        match &self.kind {
            Kind::File(file) => Some(file.copying(mapped.range(), lease)),
            Kind::Image(image) => image.copying(mapped, lease),
            _ => None,
        }
    }

    /// What was seen in the page cache may not be there any more: [`Device::at_once`] asks again.
    pub(crate) fn distrust_page_cache(&self) {
        match &self.kind {
            Kind::File(file) => file.distrust_page_cache(),
            Kind::Image(image) => image.distrust_page_cache(),
            _ => {}
        }
    }
}
