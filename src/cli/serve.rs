//! `ringnbd serve`.

use super::Outcome;

/// Options of `ringnbd serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to serve: [NAME=]URI
    pub exports: Vec<String>,
}

/// Runs the command.
pub fn run(_args: Args) -> Outcome {
    Outcome::refused("`serve` is not built yet")
}
