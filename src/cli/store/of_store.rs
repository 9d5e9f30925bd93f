//! Which store a command is about.

use std::path::PathBuf;

use crate::cli::owner::StorePlace;
use crate::config::ControlAddress;

#[derive(Debug, clap::Args)]
pub(crate) struct OfStore {
    /// The directory
    #[arg(value_name = "STORE")]
    pub store: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The store, and where its server is asked.
pub(super) fn place<'a>(of: &'a OfStore, control: Option<&'a ControlAddress>) -> StorePlace<'a> {
    StorePlace { store: &of.store, control }
}
