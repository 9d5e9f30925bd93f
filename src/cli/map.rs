//! `ringnbd map`.

use super::Outcome;

/// Options of `ringnbd map`.
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
    Outcome::refused("`map` is not built yet")
}
