//! Statements of what a correct NBD server does, asked of any server over its wire.
//!
//! It shares no code with this project's server or client, but the numbers of the protocol: it has to send
//! what they never would, and to believe nothing. `tests/conformance` asks more of this server, from inside
//! as well.
//!
//! ```text
//! run          statement after statement; what came of each
//! statements   the statements, as functions that talk to the server
//! examiner     what they share: how to connect, what the server is like
//! probe        a connection: every wait ends, and what was sent is kept
//! rules        what each reply obeys                                       pure
//! wire         options and requests as bytes                               pure
//! load         all commands at once over several connections, with verification
//! durability   what FLUSH and FUA promise, by killing the server
//! holding      what a block of the export holds                            pure
//! ```
#![forbid(unsafe_code)]

mod dial;
mod durability;
mod examiner;
mod haggle;
mod holding;
mod load;
mod probe;
mod rules;
mod run;
mod statement;
mod statements;
mod transcript;
mod transmit;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use dial::Dialer;
pub(crate) use durability::{DurabilityVerdict, DurabilityWish, LostPromise, ServerCommand, endure};
pub(crate) use examiner::Subject;
pub(crate) use load::{LoadVerdict, LoadWish, torture};
pub(crate) use run::{Examined, Judgement, examine};
pub(crate) use statement::{Level, Statement};
pub(crate) use statements::all;
pub(crate) use transcript::{Sender, WireTransfer};
