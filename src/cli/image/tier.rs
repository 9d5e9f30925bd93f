//! `ringnbd image pull`, `image trace` and `image rm --tier`: what of an image is on a tier, and what of that
//! is here.

use std::path::Path;

use serde::Serialize;

use crate::cli::Outcome;
use crate::cli::owner::{self, RequestError, StorePlace};
use crate::cli::text::{exact_and_human, json, print};
use crate::cli::tiered::{pusher, tier};
use crate::cli::watched::Watched;
use crate::config::ControlAddress;
use crate::daemon::logging::show_warnings;
use crate::store::image_path::ImagePath;
use crate::store::{StoreError, names_in_words, note_withdrawal};
use crate::tier::run;
use crate::tier::withdraw::{WithdrawCloned, withdraw};

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

/// What was taken out of a tier. Its keys are part of the interface.
#[derive(Debug, Serialize)]
struct WithdrawnJson<'a> {
    store: &'a Path,
    removed: &'a [String],
}

/// Takes snapshots out of the tier of their store, and leaves the store as it is.
pub(super) fn remove(
    paths: &[ImagePath],
    force: bool,
    as_json: bool,
    control: Option<&ControlAddress>,
) -> Result<Outcome, RequestError> {
    let store = paths.first().map_or(Path::new(""), |path| &path.store);
    let (objects, who) = (tier(store)?, pusher(StorePlace { store, control })?);
    let named = |path: &ImagePath| {
        let (image, snapshot) = path.node.clone().into_snapshot().map_err(StoreError::Name)?;
        Ok::<_, StoreError>((image.to_string(), snapshot.to_string()))
    };
    let going = paths.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    let cloned = if force { WithdrawCloned::Yes } else { WithdrawCloned::No };
    run(withdraw(&*objects, &who, &going, cloned, &mut |record| {
        if let Err(error) = note_withdrawal(store, record.uuid) {
            tracing::warn!(%error, "`image ls` goes on to show that it was pushed");
        }
    }))?;
    let removed: Vec<String> = paths.iter().map(|path| path.node.to_string()).collect();
    let sentence = format!(
        "Removed from the tier: {}. What nothing else needs goes with collections (`ringnbd store gc --tier`).\n",
        names_in_words(&removed)
    );
    Ok(print(&if as_json { json(&WithdrawnJson { store, removed: &removed }) } else { sentence }))
}
