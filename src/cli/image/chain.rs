//! `ringnbd image flatten`, `rebase`, and the merges that make room for a snapshot.

use std::io;
use std::path::PathBuf;

use super::show;
use super::watched::Watched;
use crate::cli::Outcome;
use crate::store::catalog::{NodeName, StoreName};
use crate::store::image_path::ImagePath;
use crate::store::{MapFiles, OpenStore, StoreError, look_at_base};

/// Images that a sentence lists.
const LISTED: usize = 8;

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

fn watched(doing: &'static str) -> Result<Watched, StoreError> {
    Watched::new(doing).map_err(no_signals)
}

fn no_signals(source: io::Error) -> StoreError {
    StoreError::Named { what: "watch for signals with", path: PathBuf::from("a thread"), source }
}

pub(super) fn flatten(node: ImagePath, as_json: bool) -> Result<Outcome, StoreError> {
    let name = node.node.clone().into_image()?;
    let mut store = OpenStore::open_to_change(&node.store, MapFiles)?;
    let line = watched("copying")?;
    let is_new = store.flatten(&name, &mut |progress| line.progress(progress.done, progress.total))?;
    drop(line);
    let sentence = match is_new {
        true => format!("{name} stands on a layer of its own: it needs no other image and no base."),
        false => format!("{name} was flat already."),
    };
    show::done(&store, &[node.node], as_json, &sentence)
}

/// Merges layers of images that are as deep as they may be.
pub(super) fn make_room(store: &mut OpenStore<MapFiles>, nodes: &[NodeName]) -> Result<(), StoreError> {
    let full = |node: &&NodeName| store.is_full(&node.image).unwrap_or(false);
    let images: Vec<StoreName> = nodes.iter().filter(full).map(|node| node.image.clone()).collect();
    if images.is_empty() {
        return Ok(());
    }
    let line = watched("merging layers")?;
    images.iter().try_for_each(|name| {
        store.make_room(name, &mut |progress| line.progress(progress.done, progress.total)).map(drop)
    })
}

pub(super) fn rebase(args: RebaseArgs) -> Result<Outcome, StoreError> {
    let RebaseArgs { node, base, r#unsafe: is_unsafe, json } = args;
    let name = node.node.clone().into_image()?;
    let mut store = OpenStore::open_to_change(&node.store, MapFiles)?;
    let rebased = store.rebase(&name, look_at_base(&base)?, is_unsafe)?;
    let images: Vec<&str> = rebased.images.iter().take(LISTED).map(StoreName::as_str).collect();
    let more = match rebased.images.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let mut sentence = format!("{} is the base of {}{more}.", rebased.path.escape_debug(), images.join(", "));
    match (is_unsafe, rebased.differs) {
        (false, _) => {}
        (true, false) => sentence += " Samples of its contents are what they were.",
        (true, true) => {
            sentence += " Its contents are not what they were: what images read of it has changed."
        }
    }
    show::done(&store, &[node.node], json, &sentence)
}
