//! A world instead of a kernel: the same operations over simulated files, sockets and time, all from one
//! seed.
//!
//! A thread [enters](World::enter) a world; every ring that it then sets up belongs to it. Operations are the
//! real ones, with the real table, leases and receive buffers below them. Nothing happens by itself: the
//! driver of the world lets shards take turns and [steps](World::step) the clock to the next event in
//! between, so a run is one thread and replays exactly.
//!
//! * A write takes effect at one or two moments between its submission and its completion, and its memory is
//!   read then: memory that is given back too early shows as wrong bytes. A read fills its memory in the same
//!   way.
//! * A sync makes durable what completed before it was submitted, and a random part of the rest.
//!   [`World::power_cut`] keeps that. Every other sector is lost, or kept as of any moment since, each for
//!   itself.
//! * [`World::process_death`] ends all shards and keeps the page cache. Either way the world goes on: its
//!   files can be opened again, by shards that are new.
//! * Names below a directory are durable when the directory was synced; a power cut loses the last changes of
//!   each directory since then, any number of them.
//! * Data that could not be written back is lost although it still reads as written, and each description of
//!   the file is told once.
//! * A write through the page cache beside a direct write to the same page can undo it, as on a real kernel.
//! * What blocks goes through a bounded number of worker threads of its ring, in order, and an allocation
//!   locks its file meanwhile. A read that is tried in the shard then puts the shard to sleep.
//! * A send from a mapped file that needs an evicted page lets time pass, as its thread would sleep; behind
//!   the end of a cut file it finds zeroes up to the end of the page, and `EFAULT` there and where the medium
//!   fails.
//! * What fails, and how often, is in [`Faults`].

mod ending;
mod engine;
mod faults;
mod files;
mod handle;
mod mapped;
mod names;
mod naming;
mod parts;
mod shared_words;
mod sockets;
mod transfer;
mod work;
mod workers;
mod world;

pub use crate::random::{Random, mixed};
pub(super) use engine::SimEngine;
pub use faults::Faults;
pub(crate) use handle::FileTokens;
pub use handle::{Entered, FileId, SocketId, World};
pub use naming::DirectoryId;
pub(crate) use shared_words::SimSharedWords;
