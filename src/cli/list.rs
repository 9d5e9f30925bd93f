//! `ringnbd list`.

use super::Outcome;

/// Options of `ringnbd list`.
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
    Outcome::refused("`list` is not built yet")
}
