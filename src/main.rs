//! The `ringnbd` command.

use std::process::ExitCode;

use clap::Parser;
use ringnbd::cli::{self, Cli};

fn main() -> ExitCode {
    cli::run(Cli::parse()).into()
}
