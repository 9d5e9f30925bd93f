//! See [`crate::cli::watched`].

pub(super) use crate::cli::watched::Watched;
