//! A request on its way to a device of the application and back.

use std::io;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::block::{BlockError, ByteRange, CommandKind, Extent, IoFlags};
use crate::exec::QuietDoorbell;
use crate::ring::Loan;

/// A request that a [`DeviceQueue`](super::DeviceQueue) has been handed, with all it needs.
///
/// It may be sent to another thread, be kept as long as the device likes, and end in any order: once, by
/// [`complete`](Self::complete), [`complete_with_extents`](Self::complete_with_extents) or
/// [`fail`](Self::fail), which take it. To drop it is to fail it with `EIO`. Ending it never waits. It does
/// no harm when the client has gone or the server has stopped meanwhile.
#[derive(Debug)]
pub struct DeviceRequest {
    pub(in crate::backend) command: CommandKind,
    pub(in crate::backend) range: ByteRange,
    pub(in crate::backend) flags: IoFlags,
    pub(in crate::backend) most_extents: usize,
    pub(in crate::backend) loan: Option<Loan>,
    pub(in crate::backend) ticket: RequestTicket,
    pub(in crate::backend) way: Arc<Way>,
    pub(in crate::backend) ended: bool,
    /// Others wait behind it: a thread is going to look for the next one when this has ended.
    pub(in crate::backend) more_follow: bool,
}

/// Which of the requests that a shard has outstanding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) struct RequestTicket {
    /// Its place, which others have before and after it.
    pub(in crate::backend) place: u32,
    /// Its number, which no other ever has.
    pub(in crate::backend) number: u64,
}

/// A request that ended.
#[derive(Debug)]
pub(in crate::backend) struct Ended {
    pub(in crate::backend) ticket: RequestTicket,
    pub(in crate::backend) loan: Option<Loan>,
    pub(in crate::backend) result: Result<Vec<Extent>, BlockError>,
    /// Others were waiting for the same thread.
    pub(in crate::backend) more_follow: bool,
}

/// The way back to the shard.
#[derive(Debug)]
pub(in crate::backend) struct Way {
    /// Holds no more than are outstanding.
    pub(in crate::backend) sender: Sender<Ended>,
    pub(in crate::backend) doorbell: QuietDoorbell,
}

impl DeviceRequest {
    /// What is asked for; never [`CommandKind::Cache`].
    pub fn command(&self) -> CommandKind {
        self.command
    }

    /// The first byte, a multiple of the device's minimum block size.
    pub fn offset(&self) -> u64 {
        self.range.offset()
    }

    /// Bytes, a multiple of the minimum block size; 0 for a FLUSH.
    pub fn length(&self) -> u64 {
        self.range.length()
    }

    /// How it is to be carried out.
    pub fn flags(&self) -> IoFlags {
        self.flags
    }

    /// The data of a WRITE; of anything else nothing.
    pub fn data(&self) -> &[u8] {
        match self.command {
            CommandKind::Write => self.loan.as_ref().map_or(&[], Loan::bytes),
            _ => &[],
        }
    }

    /// Where the data of a READ goes; for anything else nothing. It holds bytes of earlier requests: fill all
    /// of it before you complete the request, because all of it is sent.
    pub fn buffer(&mut self) -> &mut [u8] {
        self.loan.as_mut().map_or(&mut [], Loan::bytes_mut)
    }

    /// Extents that an answer to a BLOCK_STATUS may have at the most.
    pub fn most_extents(&self) -> usize {
        self.most_extents
    }

    /// It is done. A BLOCK_STATUS that ends so says that all of its range is data.
    pub fn complete(mut self) {
        self.end(Ok(Vec::new()));
    }

    /// A BLOCK_STATUS is done: these extents follow each other from its offset. What is beyond its range or
    /// [`Self::most_extents`] is left out, and neighbours of the same kind are merged.
    pub fn complete_with_extents(mut self, extents: Vec<Extent>) {
        self.end(Ok(extents));
    }

    /// It failed. What the client is told follows from the error's number or, if it has none, its kind:
    /// `ENOSPC`, `EPERM`, `EINVAL` of [`InvalidInput`](io::ErrorKind::InvalidInput), `ENOTSUP` for a fast
    /// zeroing that is [`Unsupported`](io::ErrorKind::Unsupported); anything else is `EIO`.
    pub fn fail(mut self, error: io::Error) {
        let mut error = block_error(&error);
        if error == BlockError::NotSupported && !self.flags.fast_zero {
            error = BlockError::Io;
        }
        self.end(Err(error));
    }

    fn end(&mut self, result: Result<Vec<Extent>, BlockError>) {
        self.ended = true;
        let more_follow = self.more_follow;
        let ended = Ended { ticket: self.ticket, loan: self.loan.take(), result, more_follow };
        // A shard that is gone waits for nothing.
        if self.way.sender.send(ended).is_ok() {
            match more_follow {
                true => self.way.doorbell.announce_one_of_several(),
                false => self.way.doorbell.announce(),
            }
        }
    }
}

impl Drop for DeviceRequest {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Err(BlockError::Io));
        }
    }
}

/// What clients are told of an error of the application.
fn block_error(error: &io::Error) -> BlockError {
    use io::ErrorKind;
    match (error.raw_os_error(), error.kind()) {
        (Some(errno), _) => BlockError::from_errno(errno),
        (None, ErrorKind::InvalidInput) => BlockError::Invalid,
        (None, ErrorKind::Unsupported) => BlockError::NotSupported,
        (None, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge) => {
            BlockError::NoSpace
        }
        (None, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => BlockError::NotPermitted,
        _ => BlockError::Io,
    }
}

/// What an application said of a range, made true to the protocol: at least one extent, none empty, none
/// beyond the range, no two neighbours alike, at most `limit`.
pub(in crate::backend) fn tidied(told: Vec<Extent>, range: ByteRange, limit: usize) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::with_capacity(told.len().clamp(1, limit.max(1)));
    let mut rest = range.length();
    for extent in told {
        let extent = Extent { length: extent.length.min(rest), ..extent };
        let is_full = extents.len() == limit;
        rest -= extent.length;
        match extents.last_mut() {
            _ if extent.length == 0 => {}
            Some(last) if (last.hole, last.zero) == (extent.hole, extent.zero) => {
                last.length += extent.length
            }
            _ if is_full => break,
            _ => extents.push(extent),
        }
    }
    if extents.is_empty() {
        extents.push(Extent { length: range.length(), hole: false, zero: false });
    }
    extents
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn errors_are_told_by_number_or_by_kind() {
        let of_number = |errno| block_error(&io::Error::from_raw_os_error(errno));
        assert_eq!(
            [libc::ENOSPC, libc::EACCES].map(of_number),
            [BlockError::NoSpace, BlockError::NotPermitted]
        );
        assert_eq!(of_number(libc::EINVAL), BlockError::Io, "what the kernel says of the application's call");
        let of_kind = |kind: io::ErrorKind| block_error(&kind.into());
        assert_eq!(of_kind(io::ErrorKind::InvalidInput), BlockError::Invalid);
        assert_eq!(of_kind(io::ErrorKind::StorageFull), BlockError::NoSpace);
        assert_eq!(of_kind(io::ErrorKind::TimedOut), BlockError::Io);
    }

    proptest! {
        /// Oracle: the kind of each byte.
        #[test]
        fn whatever_is_told_becomes_a_valid_answer(
            told in prop::collection::vec((0u64..20, any::<bool>(), any::<bool>()), 0..10),
            length in 1u64..60, limit in 1usize..6,
        ) {
            let extents = told.iter().map(|(length, hole, zero)| Extent { length: *length, hole: *hole, zero: *zero });
            let tidy = tidied(extents.collect(), ByteRange::new(7, length).unwrap(), limit);
            prop_assert!(!tidy.is_empty() && tidy.len() <= limit);
            prop_assert!(tidy.iter().all(|extent| extent.length > 0));
            prop_assert!(tidy.windows(2).all(|pair| (pair[0].hole, pair[0].zero) != (pair[1].hole, pair[1].zero)));
            let bytes = |of: Vec<(u64, bool, bool)>| -> Vec<(bool, bool)> {
                of.into_iter().flat_map(|(length, hole, zero)| vec![(hole, zero); length as usize]).collect()
            };
            let naive = bytes(told);
            let found = bytes(tidy.iter().map(|extent| (extent.length, extent.hole, extent.zero)).collect());
            prop_assert!(found.len() as u64 <= length);
            if naive.is_empty() {
                prop_assert!(found.len() as u64 == length && found.iter().all(|kind| *kind == (false, false)));
            } else {
                prop_assert_eq!(&found[..], &naive[..found.len()]);
            }
        }
    }
}
