//! One end of a copy, whatever it is.

use super::error::CopyError;
use super::file::CopyFile;
use super::jobs::{CopyJob, DataRanges, PIECE};
use super::link::CopyLink;
use super::place::CopyPlace;
use crate::client::Timeouts;
use crate::client::uri::NbdUri;
use crate::nbd::wire::*;

/// One end, in the hands of one thread.
pub(super) enum CopyEnd {
    File(CopyFile),
    Nbd(Box<CopyLink>),
}

fn connect(uri: &NbdUri, timeouts: Timeouts) -> Result<CopyEnd, CopyError> {
    let open = CopyLink::open(uri, None, timeouts);
    let link = open.map_err(|error| CopyError::Open { place: uri.to_string(), error })?;
    Ok(CopyEnd::Nbd(Box::new(link)))
}

impl CopyEnd {
    pub(super) fn open_source(place: &CopyPlace, timeouts: Timeouts) -> Result<Self, CopyError> {
        match place {
            CopyPlace::File(path) => Ok(Self::File(CopyFile::source(path)?)),
            CopyPlace::Nbd(uri) => connect(uri, timeouts),
        }
    }

    /// Opens a source that knows what has changed in it.
    pub(super) fn open_changed(
        place: &CopyPlace,
        bitmap: &str,
        timeouts: Timeouts,
    ) -> Result<Self, CopyError> {
        let CopyPlace::Nbd(uri) = place else { return Err(CopyError::NoBitmaps(place.to_string())) };
        let open = CopyLink::open(uri, Some(bitmap), timeouts);
        let link = open.map_err(|error| CopyError::Open { place: uri.to_string(), error })?;
        if !link.has_bitmap() {
            return Err(CopyError::NoBitmap { place: uri.to_string(), bitmap: bitmap.to_owned() });
        }
        Ok(Self::Nbd(Box::new(link)))
    }

    /// Opens the target for the first time, for so many bytes. `as_it_is`: what it has is needed.
    pub(super) fn open_target(
        (source, target): (&CopyPlace, &CopyPlace),
        (size, as_it_is): (u64, bool),
        timeouts: Timeouts,
    ) -> Result<Self, CopyError> {
        let end = match target {
            CopyPlace::File(path) if as_it_is => Self::File(CopyFile::old_target(path, size)?),
            CopyPlace::File(path) => Self::File(CopyFile::target(source, path, size)?),
            CopyPlace::Nbd(uri) => connect(uri, timeouts)?,
        };
        if let Self::Nbd(link) = &end
            && link.has(NBD_FLAG_READ_ONLY)
        {
            return Err(CopyError::ReadOnly(target.to_string()));
        }
        match end.size() {
            enough if enough >= size => Ok(end),
            target => Err(CopyError::TooSmall { source_size: size, target }),
        }
    }

    /// Opens the target for one more thread.
    pub(super) fn open_again(target: &CopyPlace, timeouts: Timeouts) -> Result<Self, CopyError> {
        match target {
            CopyPlace::File(path) => Ok(Self::File(CopyFile::again(path)?)),
            CopyPlace::Nbd(uri) => connect(uri, timeouts),
        }
    }

    pub(super) fn size(&self) -> u64 {
        match self {
            Self::File(file) => file.size,
            Self::Nbd(link) => link.size(),
        }
    }

    /// What offsets and lengths are multiples of.
    pub(super) fn minimum(&self) -> u32 {
        match self {
            Self::File(_) => 1,
            Self::Nbd(link) => {
                let minimum = link.transmission.export.block_sizes.map_or(1, |sizes| sizes.minimum);
                // A wrong one is the server's to complain of.
                if minimum.is_power_of_two() && u64::from(minimum) <= PIECE { minimum } else { 1 }
            }
        }
    }

    /// Threads that may have one of their own.
    pub(super) fn most_connections(&self) -> usize {
        match self {
            Self::Nbd(link) if !link.has(NBD_FLAG_CAN_MULTI_CONN) => 1,
            _ => usize::MAX,
        }
    }

    pub(super) fn data_ranges(&mut self, unit: u64) -> Result<DataRanges, CopyError> {
        match self {
            Self::File(file) => file.data_ranges(unit),
            Self::Nbd(link) => Ok(link.data_ranges(unit)?),
        }
    }

    /// What the bitmap says has changed.
    pub(super) fn changed_ranges(&mut self, unit: u64) -> Result<DataRanges, CopyError> {
        match self {
            Self::File(file) => file.data_ranges(unit),
            Self::Nbd(link) => Ok(link.changed_ranges(unit)?),
        }
    }

    /// Whether the first `size` bytes are known to be zeroes.
    pub(super) fn reads_as_zeroes(&mut self, size: u64) -> Result<bool, CopyError> {
        match self {
            Self::File(file) => Ok(file.is_fresh),
            Self::Nbd(link) => {
                let mut all = true;
                link.walk(size, |_, _, is_zero| {
                    all &= is_zero;
                    all
                })?;
                Ok(all)
            }
        }
    }

    pub(super) fn begin_read(&mut self, slot: usize, job: CopyJob) -> Result<(), CopyError> {
        match self {
            Self::File(file) => file.begin_read(slot, job),
            Self::Nbd(link) => link.begin_read(slot, job)?,
        }
        Ok(())
    }

    /// Waits until a read is complete, and gives its slot.
    pub(super) fn finish_read(&mut self, buffers: &mut [Vec<u8>]) -> Result<usize, CopyError> {
        match self {
            Self::File(file) => file.finish_read(buffers),
            Self::Nbd(link) => Ok(link.finish_read(buffers)?),
        }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), CopyError> {
        match self {
            Self::File(file) => file.write(offset, bytes),
            Self::Nbd(link) => Ok(link.write(offset, bytes)?),
        }
    }

    pub(super) fn zero(&mut self, offset: u64, length: u64) -> Result<(), CopyError> {
        match self {
            Self::File(file) => file.zero(offset, length),
            Self::Nbd(link) => Ok(link.zero(offset, length)?),
        }
    }

    /// Waits for all changes.
    pub(super) fn settle(&mut self) -> Result<(), CopyError> {
        match self {
            Self::File(_) => Ok(()),
            Self::Nbd(link) => Ok(link.settle()?),
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), CopyError> {
        match self {
            Self::File(file) => file.flush(),
            Self::Nbd(link) => Ok(link.flush()?),
        }
    }
}
