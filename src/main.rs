//! The `ringnbd` command: the command line, and the process around a server. Everything else is the library.
#![deny(unsafe_code)]

mod attach;
mod check;
mod cli;
mod daemon;
mod sandbox;

use std::process::ExitCode;

// The command is built on the library's inside, and names it as the library does.
#[cfg(feature = "tls")]
use ringnbd::internal::tls;
use ringnbd::internal::{block, client, config, control, nbd, pause, random, ring, stats, store, sys, tier};

fn main() -> ExitCode {
    if cli::qemu_nbd::is_called(std::env::args_os().next().as_ref()) {
        return cli::qemu_nbd::run().into();
    }
    cli::run(cli::Cli::of_process()).into()
}
