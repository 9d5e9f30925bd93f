//! The command's tools, its documentation, and what it keeps when it is killed: one program of tests, so that what they share is compiled and
//! linked once. `tests/run` runs one module after the other.
//!
//! Tests that need the machine for themselves, or that another phase of `tests/run` runs, are programs of their own.

mod bench;
mod check;
mod client;
mod corpus;
mod durability;
mod images;
mod packages;
mod readme;
mod remote;
mod report;
mod tls;

#[path = "vm/cpio.rs"]
mod cpio;
#[path = "vm/guest.rs"]
mod guest;
#[allow(dead_code, reason = "each test crate uses its own part")]
#[path = "admin/http.rs"]
mod http;
#[path = "support/peers.rs"]
mod peers;
#[path = "support/python.rs"]
mod python;
mod support;
