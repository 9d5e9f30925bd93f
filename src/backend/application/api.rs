//! What an application implements.

use std::io;

use super::request::DeviceRequest;
use crate::block::{CommandKind, DeviceFacts, Extent, IoFlags};

/// Bytes of zeroes that [`BlockingDevice::zero`] writes at once.
const ZEROES: usize = 64 << 10;

/// A device whose verbs block: a file format, a remote store behind a synchronous client, anything that is
/// easier to write so.
///
/// The verbs run on helper threads of the server's shards, never on a shard itself, and several run at the
/// same time: two for each shard, of which the second comes when nothing has ended for a moment. A verb that
/// hangs holds up its own device and no other.
///
/// # What the server guarantees
///
/// * Offsets and lengths lie within [`facts().size`](DeviceFacts::size) and are multiples of its minimum
///   block size; lengths are not 0.
/// * A device that says it is read-only gets no `write`, `trim` and `zero`.
/// * `trim` and `zero` of a long range come as calls of at most 64 MiB each.
///
/// # What the device guarantees
///
/// * A verb has taken effect when it returns. Verbs of overlapping ranges may run at the same time, in any
///   order: that is the client's doing.
/// * [`flush`](Self::flush) makes durable all writes, trims and zeroings that returned before it began, on
///   whichever thread.
/// * An error is told to the client by its number or its kind, see [`DeviceRequest::fail`]. After an error of
///   `write` the range may hold anything.
/// * A verb that panics fails its request with `EIO`. No verb of the device is called after that, all its
///   requests fail, and [`ApplicationDevice::has_failed`](super::ApplicationDevice::has_failed) says so.
///
/// ```
/// use std::io;
/// use std::sync::Mutex;
///
/// struct Memory(Mutex<Vec<u8>>);
///
/// impl ringnbd::device::BlockingDevice for Memory {
///     fn size(&self) -> u64 {
///         self.0.lock().unwrap().len() as u64
///     }
///     fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
///         buffer.copy_from_slice(&self.0.lock().unwrap()[offset as usize..][..buffer.len()]);
///         Ok(())
///     }
///     fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
///         self.0.lock().unwrap()[offset as usize..][..data.len()].copy_from_slice(data);
///         Ok(())
///     }
///     fn flush(&self) -> io::Result<()> {
///         Ok(())
///     }
/// }
/// ```
pub trait BlockingDevice: Send + Sync + 'static {
    /// Bytes. Asked once, when the device is exported.
    fn size(&self) -> u64;

    /// What clients are told of the device, its size included. Asked once, when the device is
    /// exported.
    fn facts(&self) -> DeviceFacts {
        DeviceFacts::new(self.size())
    }

    /// Fills all of the buffer with the bytes from `offset`. The buffer holds bytes of earlier requests
    /// before.
    ///
    /// # Errors
    /// Nothing is sent then.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of the data at `offset`.
    ///
    /// # Errors
    /// Any.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes durable what returned before.
    ///
    /// # Errors
    /// What was written may be lost.
    fn flush(&self) -> io::Result<()>;

    /// The bytes are not needed any more; what they read as from now on is up to the device. Does nothing
    /// unless it is written otherwise.
    ///
    /// # Errors
    /// Any.
    fn trim(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    /// Makes the range read as zeroes; with [`no_hole`](IoFlags::no_hole) its room stays reserved. Writes
    /// zeroes unless it is written otherwise. [`fast_zero`](IoFlags::fast_zero) is set only if the facts
    /// promise fast zeroing: then this must be faster than that, or fail as
    /// [`Unsupported`](io::ErrorKind::Unsupported) and change nothing.
    ///
    /// # Errors
    /// Any.
    fn zero(&self, offset: u64, length: u64, flags: IoFlags) -> io::Result<()> {
        if flags.fast_zero {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let zeroes = [0; ZEROES];
        let mut done = 0;
        while done < length {
            let step = (length - done).min(ZEROES as u64);
            self.write(offset + done, &zeroes[..step as usize])?;
            done += step;
        }
        Ok(())
    }

    /// Extents that follow each other from `offset`, `limit` at the most; what is beyond the range is left
    /// out. Says that all is data unless it is written otherwise.
    ///
    /// # Errors
    /// Any.
    fn status(&self, _offset: u64, length: u64, _limit: usize) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { length, hole: false, zero: false }])
    }
}

/// A device that carries requests out side by side, without a thread for each: on the shard itself if that is
/// quick, or elsewhere.
///
/// Each shard of the server opens a [`DeviceQueue`] of its own when its first client of the device comes, and
/// drops it when the device was removed and the last client is gone, or when the server stops.
pub trait FastDevice: Send + Sync + 'static {
    /// What clients are told of the device. Asked once, when the device is exported.
    fn facts(&self) -> DeviceFacts;

    /// Opens the device on a shard, on the shard's thread, where all calls of the queue are made.
    ///
    /// # Errors
    /// The client's connection is closed, and the error logged.
    fn open(&self, shard: usize) -> io::Result<Box<dyn DeviceQueue>>;
}

/// A [`FastDevice`] on one shard.
///
/// All methods are called on the thread of the shard, which serves other clients too: none of them may wait
/// for anything. What takes longer than a few microseconds belongs on a thread of the application's, to which
/// the [`DeviceRequest`] is sent.
///
/// # What the server guarantees
///
/// * A request lies within the device's size, at multiples of its minimum block size, and is not empty unless
///   it is a FLUSH.
/// * A device that says it is read-only gets only READ and BLOCK_STATUS.
/// * TRIM and WRITE_ZEROES of a long range come as requests of at most 64 MiB, one after the other, and FLUSH
///   follows them when the client asked for FUA; so [`fua`](IoFlags::fua) is set for WRITE only. CACHE does
///   not come.
/// * As many requests are outstanding as the server has admitted, which limits their number and their memory.
///
/// # What the device guarantees
///
/// * A request has taken effect when it is completed. A FLUSH that is completed has made durable whatever was
///   completed before it was submitted, on any shard; so has a WRITE with [`fua`](IoFlags::fua) for its own
///   range.
/// * Each request ends in the end. A client that waits for one that does not holds its connection and the
///   request's memory, until the server stops and cuts it off.
/// * A method that panics fails its request. No method of the device is called after that on any shard: its
///   queues are dropped, and so are the requests that they keep; all its requests fail with `EIO`, and
///   [`ApplicationDevice::has_failed`](super::ApplicationDevice::has_failed) says so.
pub trait DeviceQueue {
    /// Answers a READ or WRITE before it takes any memory, if that needs no data: `None` has it
    /// [submitted](Self::submit) instead. A WRITE is asked about before its data is here. One that has to
    /// wait for memory is asked about again.
    fn immediate(&mut self, _request: &Preview) -> Option<Immediate> {
        None
    }

    /// Takes a request, and ends it when it is done: here, in [`commit`](Self::commit), or on another thread.
    fn submit(&mut self, request: DeviceRequest);

    /// What was submitted since the last call is all for now: what was gathered can start.
    fn commit(&mut self) {}
}

/// What a READ or WRITE is going to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Preview {
    /// READ or WRITE.
    pub command: CommandKind,
    /// The first byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// How it is to be carried out.
    pub flags: IoFlags,
}

/// An answer without data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Immediate {
    /// A READ brings nothing but zeroes.
    Zeroes,
    /// A WRITE changes nothing, now or later.
    Discarded,
}
