//! The life of a server around its requests: how it starts, refuses to start, listens, serves one client, stops; and what it leaves
//! behind, which is nothing.

mod support;

#[path = "startup/lifecycle.rs"]
mod lifecycle;
#[path = "startup/listening.rs"]
mod listening;
#[path = "startup/refusal.rs"]
mod refusal;
#[path = "startup/stdio.rs"]
mod stdio;

use std::process::Command;

/// The binary under test.
fn binary() -> String {
    std::env::var("RINGNBD_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ringnbd").into())
}

/// `ringnbd serve` with these arguments, ended after half a minute whatever happens.
fn serve(arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.arg("30").arg(binary()).arg("serve").args(arguments).env_remove("RUST_LOG");
    command
}
