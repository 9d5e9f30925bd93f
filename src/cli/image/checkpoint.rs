//! `ringnbd image checkpoint`: a snapshot whose contents are in packs.

use super::show;
use super::watched::Watched;
use crate::cli::Outcome;
use crate::cli::owner::{self, RequestError, StorePlace};
use crate::config::ControlAddress;
use crate::store::image_path::ImagePath;
use crate::store::{MapFiles, OpenStore, StoreAnswer, StoreError, StoreRequest};

pub(super) fn checkpoint(
    path: &ImagePath,
    as_json: bool,
    control: Option<&ControlAddress>,
) -> Result<Outcome, RequestError> {
    let place = StorePlace { store: &path.store, control };
    let request = StoreRequest::Checkpoint { node: path.node.clone() };
    let line = Watched::begin("storing", &path.store, Some(0))?;
    let answer = loop {
        let answer = owner::ask(place, &request, |store, _| ingest(store, path, &line))?;
        // A server answers after a moment, and goes on.
        match &answer {
            StoreAnswer::Checkpoint(of) if !of.ingested => line.progress_of(of.done, of.total)?,
            _ => break answer,
        }
    };
    drop(line);
    Ok(show::answer(&answer, as_json, &format!("The contents of {} are in packs.", path.node)))
}

/// The work itself, when this command has the store. Another time it goes on where it was interrupted.
fn ingest(store: &mut OpenStore<MapFiles>, path: &ImagePath, line: &Watched) -> Result<(), StoreError> {
    let node = &path.node;
    if !store.has_snapshot(node)? {
        store.make_room(&node.image, &mut |progress| line.progress_of(progress.done, progress.total))?;
    }
    store.checkpoint(node, &mut |progress| line.progress_of(progress.done, progress.total)).map(drop)
}
