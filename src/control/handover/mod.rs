//! A running server hands its clients over to a new process, which goes on in its place.
//!
//! ```text
//! the new one (take)                         the old one (leave)
//! POST /api/v1/handover  ──────────────────► 101, at its control socket: the peer is root, or who started it
//! HELLO versions         ──────────────────►
//!                        ◄────────────────── WELCOME, EXPORT with its files…, LISTENER…, OFFERED
//! CLAIM stores           ──────────────────► if both have stores: clients of images leave the shards, and wait
//!                        ◄────────────────── EXPORT for each of these images, RELEASED: the stores are closed
//! starts as usual, with what it was given; enters its sandbox
//! PREPARED what it takes ──────────────────► no client is accepted; connections are held
//!                        ◄────────────────── CONNECTION with its socket…, ALL SENT
//! looks at all of it
//! READY                  ──────────────────► from here on it is not the old one's any more
//!                        ◄────────────────── COMMIT
//! serves                                     serves what was not taken, and ends
//! ```
//!
//! A store has one owner at any time: the old one closes it, and if the new one fails it opens it again, and
//! its clients go on there (`lend`).
//!
//! Before COMMIT the new one reads nothing of a client, sends nothing, and removes no file. Whatever goes
//! wrong before, and whoever ends: the old one goes on reading where it stopped. A connection that is not
//! ready in time stays with the old one, which serves it to its end; so do those of exports that the new one
//! does not take.
//!
//! Where nobody hands over, but somebody keeps descriptors between the end of the old one and the start of
//! the new one, the same messages are written to memory (`kept_state`): `keep` is the old one's side,
//! `take_kept` the new one's.
//!
//! What comes is hostile on both sides: `message` bounds it all, and `socket` the time.

mod arrived;
mod departed;
mod fields;
mod keep;
mod kept_connections;
mod kept_state;
mod leave;
mod lend;
mod message;
mod offer;
#[cfg(test)]
mod samples;
mod secure_state;
mod socket;
mod take;
mod take_kept;

pub(super) use arrived::attach;
pub(super) use keep::Parting;
pub(super) use leave::{Handovers, Leaver, carry_out};
pub(super) use message::ListenerPurpose;
pub(super) use offer::{OfferedListener, PassedListeners};
pub use take::{Takeover, TakeoverError};

/// Reads bytes as the messages of another process, for the fuzzer.
///
/// # Panics
/// A message means something else when it is written again, or takes more memory than its bytes.
pub fn read_arbitrary(bytes: &[u8]) {
    message::read_arbitrary(bytes);
}

/// What the protocol is called where HTTP ends.
pub(super) const PROTOCOL: &str = "ringnbd-handover";
