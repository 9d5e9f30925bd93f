//! `ringnbd image clone`: of a snapshot in the same store, or of one on a tier.

use std::str::FromStr;

use super::{chain, show};
use crate::cli::Outcome;
use crate::cli::owner::{self, RequestError, StorePlace};
use crate::config::ControlAddress;
use crate::daemon::logging::show_warnings;
use crate::store::catalog::{ImageRefusal, NodeName, StoreName};
use crate::store::image_path::{ImagePath, ImagePathError};
use crate::store::{
    OpenStore, StoreAnswer, StoreError, StoreRequest, TierPath, look_up_snapshot, names_in_words,
};

/// What a clone begins as.
#[derive(Debug, Clone)]
pub(crate) enum CloneOrigin {
    Store(ImagePath),
    Tier(TierPath),
}

impl FromStr for CloneOrigin {
    type Err = ImagePathError;

    fn from_str(text: &str) -> Result<Self, ImagePathError> {
        if text.contains("://") { text.parse().map(Self::Tier) } else { text.parse().map(Self::Store) }
    }
}

/// Looks the snapshot up on the tier, and notes there that these images need it, before any is made.
pub(super) fn from_tier(
    from: &TierPath,
    to: Vec<ImagePath>,
    as_json: bool,
    control: Option<&ControlAddress>,
) -> Result<Outcome, RequestError> {
    let store = to.first().map(|path| path.store.clone()).unwrap_or_default();
    let images = to.into_iter().map(|path| path.node.into_image());
    let to: Vec<StoreName> = images.collect::<Result<_, _>>().map_err(StoreError::Name)?;
    let names: Vec<String> = to.iter().map(StoreName::to_string).collect();
    let place = || StorePlace { store: &store, control };
    let StoreAnswer::Store(of) = owner::ask(place(), &StoreRequest::Store, chain::make_room)? else {
        unreachable!("a store describes itself")
    };
    // What is noted on the tier is noted under the image's name. Of one that is there it says what that
    // reads.
    for image in &to {
        let node = NodeName { image: image.clone(), snapshot: None };
        if owner::ask(place(), &StoreRequest::Image { node }, |_, _| Ok(())).is_ok() {
            return Err(StoreError::from(ImageRefusal::Exists(image.to_string())).into());
        }
    }
    show_warnings();
    // Whoever asks a server may not be allowed to look at its store.
    let reads = owner::look_at_sealed(place(), OpenStore::packs_of_tiers).ok();
    let from = Box::new(look_up_snapshot(from, (&of.uuid, reads.as_ref()), &names)?);
    let answer = owner::ask(place(), &StoreRequest::CloneFromTier { from, to }, chain::make_room)?;
    Ok(show::answer(&answer, as_json, &format!("Made: {}.", names_in_words(&names))))
}
