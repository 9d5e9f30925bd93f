//! `ringnbd image flatten`, `rebase`, and the merges that make room for a snapshot.

use std::path::PathBuf;

use super::show;
use super::watched::Watched;
use crate::cli::Outcome;
use crate::cli::owner::{self, RequestError, StorePlace};
use crate::config::ControlAddress;
use crate::store::catalog::StoreName;
use crate::store::image_path::ImagePath;
use crate::store::{
    MapFiles, OpenStore, StoreAnswer, StoreError, StoreRequest, look_at_base, names_in_words,
};

#[derive(Debug, clap::Args)]
pub(crate) struct RebaseArgs {
    /// STORE/NAME
    #[arg(value_name = "STORE/NAME")]
    pub node: ImagePath,
    /// Where the base is now: file:PATH
    #[arg(long, value_name = "BASE", value_parser = super::create::base_path)]
    pub base: PathBuf,
    /// Do not compare its contents with what they were; where they differ, images are damaged
    #[arg(long)]
    pub r#unsafe: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn flatten(
    (node, json): (ImagePath, bool),
    control: Option<&ControlAddress>,
) -> Result<Outcome, RequestError> {
    let name = node.node.clone().into_image().map_err(StoreError::Name)?;
    let mut store = owner::open_alone(StorePlace { store: &node.store, control })?;
    let line = Watched::begin("copying", &node.store, Some(0))?;
    let is_new = store.flatten(&name, &mut |progress| line.progress_of(progress.done, progress.total))?;
    drop(line);
    let sentence = match is_new {
        true => format!("{name} stands on a layer of its own: it needs no other image and no base."),
        false => format!("{name} was flat already."),
    };
    let answer = store.describe_some(&[node.node])?;
    Ok(show::answer(&StoreAnswer::Nodes(answer), json, &sentence))
}

/// Merges layers of images that are as deep as they may be, before snapshots of them.
pub(super) fn make_room(store: &mut OpenStore<MapFiles>, request: &StoreRequest) -> Result<(), StoreError> {
    let StoreRequest::Snapshot { nodes } = request else { return Ok(()) };
    let full = nodes.iter().filter(|node| store.is_full(&node.image).unwrap_or(false));
    let images: Vec<StoreName> = full.map(|node| node.image.clone()).collect();
    if images.is_empty() {
        return Ok(());
    }
    let line = Watched::begin("merging layers", store.path(), Some(0))?;
    images.iter().try_for_each(|name| {
        store.make_room(name, &mut |progress| line.progress_of(progress.done, progress.total)).map(drop)
    })
}

pub(super) fn rebase(args: RebaseArgs, control: Option<&ControlAddress>) -> Result<Outcome, RequestError> {
    let RebaseArgs { node, base, r#unsafe: is_unsafe, json } = args;
    let name = node.node.clone().into_image().map_err(StoreError::Name)?;
    let mut store = owner::open_alone(StorePlace { store: &node.store, control })?;
    let rebased = store.rebase(&name, look_at_base(&base)?, is_unsafe)?;
    let images: Vec<String> = rebased.images.iter().map(StoreName::to_string).collect();
    let mut sentence = format!("{} is the base of {}.", rebased.path.escape_debug(), names_in_words(&images));
    match (is_unsafe, rebased.differs) {
        (false, _) => {}
        (true, false) => sentence += " Samples of its contents are what they were.",
        (true, true) => {
            sentence += " Its contents are not what they were: what images read of it has changed."
        }
    }
    let answer = store.describe_some(&[node.node])?;
    Ok(show::answer(&StoreAnswer::Nodes(answer), json, &sentence))
}
