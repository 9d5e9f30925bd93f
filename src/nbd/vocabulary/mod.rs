//! The vocabulary of a block device, shared by every layer: ranges, block sizes, commands, flags, extents,
//! errors.
//!
//! A leaf: it imports nothing of this crate, knows no protocol and does no I/O.

mod command;
mod device;
pub mod errno;
mod range;

pub use command::{CommandKind, IoFlags};
pub use device::{BlockSizes, DeviceFacts, Extent, NumberedExtent};
pub use errno::BlockError;
pub use range::ByteRange;
