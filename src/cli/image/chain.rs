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
    MapFiles, NodeDescriptions, OpenStore, RebasedImages, StoreAnswer, StoreError, StoreRequest,
    look_at_base, names_in_words,
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
    let place = StorePlace { store: &node.store, control };
    let line = Watched::begin("copying", &node.store, Some(0))?;
    let (is_new, answer) = match flatten_online(place, &name, &line)? {
        Some(is_new) => {
            // It has more to tell of an image than its name.
            let StoreAnswer::Node(of) =
                owner::ask_server_of(place, &StoreRequest::Image { node: node.node })?
            else {
                unreachable!("it is the answer to another request")
            };
            let (store, missing) = (node.store.clone(), Vec::new());
            (is_new, NodeDescriptions { store, nodes: vec![of], missing })
        }
        None => {
            let mut store = owner::open_alone(place)?;
            let is_new =
                store.flatten(&name, &mut |progress| line.progress_of(progress.done, progress.total))?;
            (is_new, store.describe_some(&[node.node])?)
        }
    };
    drop(line);
    let sentence = match is_new {
        true => format!("{name} stands on a layer of its own: it needs no other image and no base."),
        false => format!("{name} was flat already."),
    };
    Ok(show::answer(&StoreAnswer::Nodes(answer), json, &sentence))
}

/// Has the server that has the store flatten an image, and waits for it; none if no server has it. A signal
/// has it given up.
fn flatten_online(
    place: StorePlace<'_>,
    name: &StoreName,
    line: &Watched,
) -> Result<Option<bool>, RequestError> {
    let request = |stop| StoreRequest::Flatten { image: name.clone(), stop };
    let Some(mut answer) = owner::ask_owner(place, &request(false))? else { return Ok(None) };
    loop {
        let StoreAnswer::Flattened(of) = answer else { unreachable!("it is the answer to another request") };
        if of.is_new.is_some() {
            return Ok(of.is_new);
        }
        let stop = line.progress_of(of.done, of.total).is_err();
        answer = owner::ask_server_of(place, &request(stop))?;
    }
}

/// Merges layers of images that are as deep as they may be, before snapshots of them.
pub(super) fn make_room(store: &mut OpenStore<MapFiles>, request: &StoreRequest) -> Result<(), StoreError> {
    let StoreRequest::Snapshot { nodes, .. } = request else { return Ok(()) };
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
    let request = StoreRequest::Rebase { image: name, base: look_at_base(&base)?, is_unsafe };
    let place = StorePlace { store: &node.store, control };
    let StoreAnswer::Rebased(RebasedImages { of, rebased }) = owner::ask(place, &request, |_, _| Ok(()))?
    else {
        unreachable!("it is the answer to another request")
    };
    let images: Vec<String> = rebased.images.iter().map(StoreName::to_string).collect();
    let mut sentence = format!("{} is the base of {}.", rebased.path.escape_debug(), names_in_words(&images));
    match (is_unsafe, rebased.differs) {
        (false, _) => {}
        (true, false) => sentence += " Samples of its contents are what they were.",
        (true, true) => {
            sentence += " Its contents are not what they were: what images read of it has changed."
        }
    }
    Ok(show::answer(&StoreAnswer::Nodes(of), json, &sentence))
}
