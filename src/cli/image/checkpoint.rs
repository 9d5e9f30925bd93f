//! `ringnbd image checkpoint`: a snapshot whose contents are in packs, or one that keeps none.

use std::path::PathBuf;

use super::watched::Watched;
use super::{chain, show};
use crate::cli::Outcome;
use crate::cli::owner::{self, RequestError, StorePlace};
use crate::config::ControlAddress;
use crate::store::catalog::NodeName;
use crate::store::image_path::ImagePath;
use crate::store::{MapFiles, OpenStore, StoreAnswer, StoreError, StoreRequest, names_in_words};

#[derive(Debug, clap::Args)]
pub(crate) struct CheckpointArgs {
    /// STORE/NAME@SNAPSHOT; with --changes-only several, each in the same store
    #[arg(value_name = "STORE/NAME@SNAPSHOT", required = true)]
    pub nodes: Vec<ImagePath>,
    /// Keep no contents, only which parts of the disk have changed before it and since: for backups that
    /// count changes from here. A snapshot that is there gives its contents up
    #[arg(long)]
    pub changes_only: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: CheckpointArgs, control: Option<&ControlAddress>) -> Result<Outcome, RequestError> {
    let CheckpointArgs { nodes, changes_only, json } = args;
    match &nodes[..] {
        _ if changes_only => of_changes(nodes, json, control),
        [node] => checkpoint(node, json, control),
        _ => Ok(Outcome::refused(
            "several checkpoints at one point in time keep changes only: write --changes-only; or take them with `ringnbd image snapshot`, then checkpoint each",
        )),
    }
}

/// Snapshots that keep changes only, at one point in time.
fn of_changes(
    nodes: Vec<ImagePath>,
    as_json: bool,
    control: Option<&ControlAddress>,
) -> Result<Outcome, RequestError> {
    let store = nodes.first().map_or_else(PathBuf::new, |path| path.store.clone());
    let nodes: Vec<NodeName> = nodes.into_iter().map(|path| path.node).collect();
    let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    let sentence = format!("Changes are counted from {}; no contents are kept.", names_in_words(&names));
    let request = StoreRequest::Snapshot { nodes, changes_only: true };
    let answer = owner::ask(StorePlace { store: &store, control }, &request, chain::make_room)?;
    Ok(show::answer(&answer, as_json, &sentence))
}

fn checkpoint(
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
