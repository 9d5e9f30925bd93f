//! `ringnbd detach`: the end of a `/dev/nbdN`.

use super::Outcome;
use super::text::print;
use crate::attach::{self, DetachTarget};

const LONG_HELP: &str = "\
Examples:
  ringnbd detach /dev/nbd3
  ringnbd detach nbd://localhost/disk

Exit codes: 0, nothing of it is left; 1, the kernel failed; 2, it was not tried: the device is in use, or was
attached by something else.";

/// Options of `ringnbd detach`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows examples.")]
pub(crate) struct Args {
    /// The device, such as /dev/nbd3, or the URI that was attached
    #[arg(value_name = "DEVICE|URI")]
    pub target: DetachTarget,
    /// Detach it although it is mounted, or was attached by something else
    #[arg(long)]
    pub force: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Outcome {
    let target = super::attach::with_absolute_socket(args.target.clone());
    match attach::detach(&target, args.force) {
        Ok(device) => print(&format!("{device}\n")),
        Err(error) if error.is_refusal() => Outcome::refused(error),
        Err(error) => Outcome::failed(error),
    }
}
