//! ringnbd: an io_uring, thread-per-core NBD storage server.
//!
//! This page is the architecture. Read it, then a request's way through [`shard`], and you know where a change belongs.
//!
//! # Two planes
//!
//! ```text
//! clients ──► control plane: ONE thread, tokio-uring          data plane: N shards, one pinned thread and one raw
//!             listeners, handshake, admin HTTP                io_uring each; a shard owns its connections for life
//!                     │                                               ▲
//!                     └── Negotiated{socket, export, session, …} ─────┘
//!                         bounded channel + eventfd doorbell that the shard's ring always watches
//! ```
//!
//! * **Control plane** ([`control`], the only place that knows `tokio-uring`): accepts, negotiates, chooses the shard, hands the
//!   socket over, and never touches it again.
//! * **Data plane** ([`shard`]): parse → request table → backend → reply. No locks, no allocation per request, nothing shared between
//!   shards on the hot path. Replies leave in the order in which work completes; the client matches them by cookie.
//!
//! # A request, one way through
//!
//! ```text
//! CQE recv ► Inbound::feed
//!            ├ nothing      receive more: into a shared receive buffer, or straight into a long write's lease
//!            ├ Refusal      its payload is skipped, then an error reply
//!            ├ Request      its data is at hand (page cache, null): the reply ► Outbound, at once
//!            └ Request      a lease for its data (none left: wait, and read no further: the socket is the backpressure)
//!                           RequestTable::insert ► RequestId ► Tasks::spawn(serve(..))
//! serve    ► backend gate ► ring operations, awaited ► Reply + Lease
//! Reply    ► RequestTable::remove ► Outbound::push ► ONE vectored send in flight per connection
//! CQE send ► the leases go back ► connections that waited go on
//! ```
//!
//! One turn of a shard's loop: mailbox → feed → run tasks → reply → flush → receive → one `submit_and_wait` → record completions. Each phase is
//! bounded; nothing calls back into an earlier phase. `shard::worker::Shard` tells why, and what holds after each turn.
//!
//! # What a server knows of its own speed
//!
//! A shard records into a [`stats::Interval`] of its own: no locks, a clock read a few times a turn. The control plane's collector asks for it
//! once a second, and when somebody looks (`--admin`): a message, answered by handing the interval over. It adds up, keeps a quarter of an
//! hour by second, logs slow requests (`--slow`) and writes histogram logs (`--latency-log`), because a shard must wait for none of that.
//!
//! # Errors by reaction
//!
//! A refusal or a [`block::BlockError`] is an error reply, and the connection lives. A protocol violation ends the connection. A
//! start-up error is a sentence that names cause and remedy, and exit code 2. A contradiction of our own is an `assert!`:
//! it ends its shard, whose connections close, and the other shards go on with all exports; what shards share is given back by guards.
//!
//! # What is durable when
//!
//! A write is answered when the kernel has taken it; FLUSH is `fdatasync` on the export's file, which covers every write answered
//! before it on any connection of any shard, because they all went to the same file; FUA is a sync of the written range, `RWF_DSYNC` on
//! a direct write, or `fdatasync` after a TRIM or WRITE_ZEROES. `backend::durability` tells what becomes of errors.
//!
//! `tests/tidy.rs` checks the table that follows. `unsafe` stands in [`ring`] and [`sys`] only. [`nbd`] is pure: bytes in, values out, no socket, no
//! clock.
//!
#![doc = include_str!("imports.md")]
#![deny(unsafe_code)]

#[macro_use]
mod canary;

mod backend;
mod client;
mod config;
mod control;
#[doc(hidden)]
#[allow(missing_docs)]
pub mod internal;
mod random;
#[allow(unsafe_code)]
mod ring;
mod shard;
mod stats;
mod sync;
#[allow(unsafe_code)]
mod sys;
mod task;

pub use ringnbd_proto as proto;

pub(crate) use ringnbd_proto as nbd;
pub(crate) use ringnbd_proto::vocabulary as block;
