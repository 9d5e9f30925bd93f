//! `ringnbd image pull` and `ringnbd image trace`: what is here of an image that came from a tier.

use crate::cli::Outcome;
use crate::cli::owner::{self, RequestError, StorePlace};
use crate::cli::text::{exact_and_human, json, print};
use crate::cli::watched::Watched;
use crate::config::ControlAddress;
use crate::daemon::logging::show_warnings;
use crate::store::image_path::ImagePath;

/// Fetches what is not here. A server that has the store finds what came.
pub(super) fn pull(
    path: &ImagePath,
    as_json: bool,
    control: Option<&ControlAddress>,
) -> Result<Outcome, RequestError> {
    show_warnings();
    let place = StorePlace { store: &path.store, control };
    let line = Watched::begin("pulling", &path.store, Some(0))?;
    let pulled = owner::look_at_sealed(place, |store| {
        store.pull(&path.node, &mut |done, total| line.progress_of(done, total))
    })?;
    line.end();
    let sentence = format!("{} is here: {} fetched.\n", path.node, exact_and_human(pulled.fetched_bytes));
    Ok(print(&if as_json { json(&pulled) } else { sentence }))
}

/// Tells the tier what was read of a snapshot.
pub(super) fn trace(
    path: &ImagePath,
    as_json: bool,
    control: Option<&ControlAddress>,
) -> Result<Outcome, RequestError> {
    show_warnings();
    let place = StorePlace { store: &path.store, control };
    let trace = owner::look(place, (&path.node, None), |store| store.keep_boot_trace(&path.node))?;
    let sentence =
        format!("The tier knows what was read of {}: {}.\n", path.node, exact_and_human(trace.bytes()));
    Ok(print(&if as_json { json(&trace) } else { sentence }))
}
