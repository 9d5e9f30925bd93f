//! An io_uring, thread-per-core NBD storage server, to be embedded in an application; and an NBD client.
//!
//! The server is the one of the command `ringnbd serve`, which is built on this library. Clients of any kind
//! connect to it: kernels, QEMU, libnbd.
//!
//! # A server in an application
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use ringnbd::{Client, ServerBuilder, Timeouts};
//!
//! let server = ServerBuilder::new()
//!     .export("scratch", "mem:64M")
//!     .tcp("127.0.0.1:0")
//!     .shards(1)
//!     .unpinned()
//!     .start()?;
//!
//! let uri = server.exports()[0].uris[0].parse()?;
//! let mut client = Client::open(&uri, &[], Timeouts::default())?;
//! client.write_at(4096, b"hello")?;
//! client.flush()?;
//! let mut bytes = [0; 5];
//! client.read_at(4096, &mut bytes)?;
//! assert_eq!(&bytes, b"hello");
//!
//! drop(client);
//! server.stop();
//! # Ok(())
//! # }
//! ```
//!
//! # What embedding changes in the process
//!
//! Threads are started: one named `ringnbd` for connections that come, one for each shard, a few that help
//! them. Nothing else changes: no signal is handled, no limit raised, no privilege given up, nothing written
//! to the standard streams. Log lines go to the subscriber of `tracing` that the application has.
//!
//! Two things are left to the application. The command does both: it raises the limit of open files (one or
//! two for each client that connects), and it handles SIGXFSZ, the signal of a file that would grow beyond
//! RLIMIT_FSIZE.
//!
//! # What is where
//!
//! * [`ServerBuilder`], [`ServerHandle`]: a server, exports that come and go while it runs, and how it ends
//!   ([`Ending`]).
//! * [`device`]: devices of the application's own, served beside files.
//! * [`Client`]: a blocking client, one request at a time; [`NbdUri`] is the address of an export.
//! * [`proto`]: the protocol without I/O, a crate of its own.
//! * [`architecture`]: how the server is built, for those who change it.
#![deny(unsafe_code)]
// Pages of what is private, for those who build them with --document-private-items.
#![allow(rustdoc::private_intra_doc_links)]

#[macro_use]
mod canary;

#[warn(missing_docs)]
mod backend;
mod client;
mod config;
#[warn(missing_docs)]
mod control;
mod exec;
mod identity;
#[doc(hidden)]
pub mod internal;
mod mutex;
mod pause;
mod random;
mod rights;
#[allow(unsafe_code)]
mod ring;
#[warn(missing_docs)]
mod server;
#[warn(missing_docs)]
mod shard;
mod stats;
mod store;
#[allow(unsafe_code)]
mod sys;
mod tier;
#[cfg(feature = "tls")]
mod tls;

/// Devices of the application's own, to be served like files.
///
/// An [`ApplicationDevice`](device::ApplicationDevice) is made of a
/// [`BlockingDevice`](device::BlockingDevice) or of a [`FastDevice`](device::FastDevice). The verbs of the
/// first look like those of a file. The second is handed requests and completes them at any time, on any
/// thread. [`ServerBuilder::device`] serves it from the start, [`ServerHandle::add_device`] later.
///
/// Start with the first: the second takes more care. It pays when one device has to do more than some ten
/// thousand requests a second, or to have more requests under way than there are threads.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::io;
///
/// use ringnbd::device::{ApplicationDevice, BlockingDevice};
/// use ringnbd::{Client, ServerBuilder, Timeouts};
///
/// /// A disk that knows its own offsets, and nothing else.
/// struct Numbers;
///
/// impl BlockingDevice for Numbers {
///     fn size(&self) -> u64 {
///         1 << 40
///     }
///     fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
///         buffer.iter_mut().zip(offset..).for_each(|(byte, place)| *byte = (place / 512) as u8);
///         Ok(())
///     }
///     fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
///         Err(io::ErrorKind::ReadOnlyFilesystem.into())
///     }
///     fn flush(&self) -> io::Result<()> {
///         Ok(())
///     }
/// }
///
/// let server = ServerBuilder::new()
///     .device("numbers", ApplicationDevice::blocking(Numbers))
///     .tcp("127.0.0.1:0")
///     .shards(1)
///     .unpinned()
///     .start()?;
/// let uri = server.exports()[0].uris[0].parse()?;
/// let mut client = Client::open(&uri, &[], Timeouts::default())?;
/// let mut bytes = [0; 2];
/// client.read_at(512 * 7 - 1, &mut bytes)?;
/// assert_eq!(bytes, [6, 7]);
/// assert!(client.write_at(0, b"no").is_err());
/// # Ok(())
/// # }
/// ```
///
/// Two longer ones are in the repository: `tests/examples/blocking_device.rs` and
/// `tests/examples/fast_device.rs`.
#[warn(missing_docs)]
pub mod device {
    pub use crate::backend::{
        ApplicationDevice, BlockingDevice, DeviceQueue, DeviceRequest, FastDevice, Immediate, Preview,
    };
    pub use crate::block::{BlockSizes, CommandKind, DeviceFacts, Extent, IoFlags};
}

#[doc = include_str!("doc/architecture.md")]
#[doc = include_str!("doc/imports.md")]
#[doc = include_str!("doc/glossary.md")]
pub mod architecture {}

pub use client::uri::{NbdUri, ServerAddress, TlsParameters, UriError};
pub use client::{Client, ClientError, Timeouts};
pub use control::{ChangeError, Ending, Served};
pub use ringnbd_proto as proto;
pub use server::{ServerBuilder, ServerError, ServerHandle};
pub use shard::Removal;

pub(crate) use ringnbd_proto as nbd;
pub(crate) use ringnbd_proto::vocabulary as block;
