//! `ringnbd info`.

use super::Outcome;

/// Options of `ringnbd info`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The export: nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH
    pub uri: String,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(_args: Args) -> Outcome {
    Outcome::refused("`info` is not built yet")
}
