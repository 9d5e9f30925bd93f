//! `ringnbd image`: the images of a store, their snapshots and clones.

mod copying;
mod create;
mod export;
mod import;
mod parts;
mod show;

use std::path::PathBuf;

use super::Outcome;
use super::store::ended;
use super::text::{human, json, print};
use crate::config::size::parse_size;
use crate::store::catalog::{NameError, NodeName, StoreName};
use crate::store::image_path::{ImagePath, one_store};
use crate::store::{MapFiles, OpenStore, Released, StoreError};
use create::CreateArgs;
use export::ExportArgs;
use import::ImportArgs;

const LONG_HELP: &str = "\
An image is a disk that can be written. STORE/NAME names it, by the directory of its store and its
name; STORE/NAME@SNAPSHOT is a snapshot of it. A name has letters, digits, \"-\", \"_\" and \".\", and
at most 128 of them. These commands need the store for themselves, so no server may have it open.

Examples:
  ringnbd image create /srv/store/golden --from golden.raw
  ringnbd image snapshot /srv/store/golden@v1
  ringnbd image clone /srv/store/golden@v1 /srv/store/vm1 /srv/store/vm2
  ringnbd image snapshot /srv/store/vm1@monday /srv/store/vm2@monday     both at one point in time
  ringnbd image ls /srv/store
  ringnbd image rollback /srv/store/vm1@monday
  ringnbd image diff /srv/store/vm1@monday /srv/store/vm1
  ringnbd image export /srv/store/vm1@monday monday.raw
  ringnbd image export /srv/store/vm1 - --delta monday..tuesday | ssh other ringnbd image import /srv/store/vm1 - --delta

Columns of `ls`: SIZE of the disk; USED, what its layers take; UNIQUE, what would come back if it
were removed; SHARED, what others need too; DEPTH, its layers.

JSON keys:
  ls, and what was made or changed   store, nodes
  each of nodes, and info            name, kind (image or snapshot), uuid, size, used, unique, shared, depth,
                                     created (seconds since 1970), origin, clones, snapshots, base, head,
                                     held, quota, pairs
  rm                                 removed, layers, bytes
  diff                               from, to, from_size, size, extents ({start, length}), changed (bytes)
  map                                a list as of `qemu-img map`: start, length, depth, present, zero, data, offset
  export                             store, node, file, size, from, delta

Exit codes: 0, done; 1, it failed; 2, it was refused: nothing was changed.";

/// Names that a sentence lists.
const LISTED: usize = 8;

/// Options of `ringnbd image`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows examples and the JSON keys.")]
pub(crate) struct Args {
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ImageCommand {
    /// Make an image: empty, a copy of a file, or on a base
    Create(CreateArgs),
    /// Take snapshots, of several images at one point in time
    Snapshot(Several),
    /// Make images that begin as a snapshot is
    Clone {
        /// The snapshot: STORE/NAME@SNAPSHOT
        #[arg(value_name = "STORE/NAME@SNAPSHOT")]
        from: ImagePath,
        /// The new images: STORE/NAME
        #[arg(value_name = "STORE/NAME", required = true)]
        to: Vec<ImagePath>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List images, snapshots and clones as a tree, with the space they take
    Ls {
        /// The directory
        #[arg(value_name = "STORE")]
        store: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show all about one image or snapshot
    Info(One),
    /// Remove images or snapshots; one that was cloned stays
    Rm {
        #[command(flatten)]
        of: Several,
        /// Remove the snapshots of an image with it
        #[arg(long)]
        snapshots: bool,
    },
    /// Give an image another size
    Resize {
        #[command(flatten)]
        of: One,
        /// The size, such as 40G
        #[arg(value_name = "SIZE", value_parser = parse_size)]
        size: u64,
        /// Lose what lies behind the new end
        #[arg(long)]
        shrink: bool,
    },
    /// Give an image or a snapshot another name
    Rename {
        #[command(flatten)]
        of: One,
        /// The new name: STORE/NAME, or STORE/NAME@SNAPSHOT with the same NAME
        #[arg(value_name = "TO")]
        to: ImagePath,
    },
    /// Put an image back to one of its snapshots; what was written since is lost
    Rollback(One),
    /// Show where two snapshots of an image differ, or a snapshot and the image
    Diff {
        /// The one: STORE/NAME, or STORE/NAME@SNAPSHOT
        #[arg(value_name = "A")]
        from: ImagePath,
        /// The other
        #[arg(value_name = "B")]
        to: ImagePath,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show in which layer each part of an image or a snapshot is
    Map(One),
    /// Write an image or a snapshot to a raw file, or what changed between two snapshots
    Export(ExportArgs),
    /// Make an image of a raw file or of bytes that come, or its next snapshot of a delta
    Import(ImportArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// STORE/NAME, or STORE/NAME@SNAPSHOT
    #[arg(value_name = "STORE/NAME[@SNAPSHOT]")]
    pub node: ImagePath,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Several {
    /// STORE/NAME@SNAPSHOT, each in the same store
    #[arg(value_name = "STORE/NAME[@SNAPSHOT]", required = true)]
    pub nodes: Vec<ImagePath>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `rm` prints; its keys are part of the interface.
#[derive(Debug, serde::Serialize)]
struct RemovedJson {
    removed: Vec<String>,
    layers: usize,
    bytes: u64,
}

pub(crate) fn run(command: ImageCommand) -> Outcome {
    if let Err(sentence) = one_store(&named(&command)) {
        return Outcome::refused(sentence);
    }
    ended(match command {
        ImageCommand::Create(args) => create::create(args),
        ImageCommand::Snapshot(of) => snapshot(of),
        ImageCommand::Clone { from, to, json } => clone(from, to, json),
        ImageCommand::Ls { store, json } => {
            OpenStore::open(&store, MapFiles).and_then(|store| show::list(&store, json))
        }
        ImageCommand::Info(of) => OpenStore::open(&of.node.store, MapFiles)
            .and_then(|store| show::info(&store, &of.node.node, of.json)),
        ImageCommand::Rm { of, snapshots } => remove(of, snapshots),
        ImageCommand::Resize { of, size, shrink } => resize(of, size, shrink),
        ImageCommand::Rename { of, to } => rename(of, to),
        ImageCommand::Rollback(of) => roll_back(of),
        ImageCommand::Diff { from, to, json } => parts::diff(&from, &to, json),
        ImageCommand::Map(of) => parts::map(&of.node, of.json),
        ImageCommand::Export(args) => export::export(&args),
        ImageCommand::Import(args) => import::import(args),
    })
}

/// All that a command names, which has to be in one store.
fn named(command: &ImageCommand) -> Vec<&ImagePath> {
    match command {
        ImageCommand::Snapshot(of) | ImageCommand::Rm { of, .. } => of.nodes.iter().collect(),
        ImageCommand::Clone { from, to, .. } => std::iter::once(from).chain(to).collect(),
        ImageCommand::Rename { of, to } => vec![&of.node, to],
        ImageCommand::Info(of)
        | ImageCommand::Resize { of, .. }
        | ImageCommand::Rollback(of)
        | ImageCommand::Map(of) => vec![&of.node],
        ImageCommand::Diff { from, to, .. } => vec![from, to],
        ImageCommand::Export(args) => vec![&args.node],
        ImageCommand::Import(args) => vec![&args.node],
        ImageCommand::Create(args) => vec![&args.image],
        ImageCommand::Ls { .. } => Vec::new(),
    }
}

fn open(paths: &[ImagePath]) -> Result<OpenStore<MapFiles>, StoreError> {
    let first = paths.first().map_or_else(PathBuf::new, |path| path.store.clone());
    OpenStore::open_to_change(&first, MapFiles)
}

/// Names as a sentence has them: the first ones, and how many more.
fn names(nodes: &[NodeName]) -> String {
    let mut text = nodes.iter().take(LISTED).map(NodeName::to_string).collect::<Vec<_>>().join(", ");
    if nodes.len() > LISTED {
        text += &format!(" and {} more", nodes.len() - LISTED);
    }
    text
}

fn snapshot(of: Several) -> Result<Outcome, StoreError> {
    let mut store = open(&of.nodes)?;
    let nodes: Vec<NodeName> = of.nodes.into_iter().map(|path| path.node).collect();
    store.snapshot(nodes.clone())?;
    show::done(&store, &nodes, of.json, &format!("Taken: {}.", names(&nodes)))
}

fn clone(from: ImagePath, to: Vec<ImagePath>, as_json: bool) -> Result<Outcome, StoreError> {
    let mut store = open(&to)?;
    let images = to.into_iter().map(|path| path.node.into_image());
    let images: Vec<StoreName> = images.collect::<Result<_, NameError>>()?;
    store.clone_images(from.node, &images)?;
    let nodes: Vec<NodeName> = images.into_iter().map(|image| NodeName { image, snapshot: None }).collect();
    show::done(&store, &nodes, as_json, &format!("Made: {}.", names(&nodes)))
}

fn remove(of: Several, with_snapshots: bool) -> Result<Outcome, StoreError> {
    let first = of.nodes.first().map_or_else(PathBuf::new, |path| path.store.clone());
    let mut store = OpenStore::open_to_remove(&first, MapFiles)?;
    let (mut all, mut removed) = (Released::default(), Vec::new());
    for path in of.nodes {
        match store.remove(&path.node, with_snapshots) {
            Ok(released) => {
                all.layers += released.layers;
                all.bytes += released.bytes;
                removed.push(path.node);
            }
            Err(error) => {
                // Those before it are gone, which has to be told.
                if !removed.is_empty() {
                    eprintln!("ringnbd: removed before that: {}", names(&removed));
                    return Ok(Outcome::failed(error));
                }
                return Err(error);
            }
        }
    }
    if of.json {
        let removed = removed.iter().map(NodeName::to_string).collect();
        let shown = RemovedJson { removed, layers: all.layers, bytes: all.bytes };
        return Ok(print(&json(&shown)));
    }
    let sentence = format!("Removed: {}. {}", names(&removed), freed(all));
    Ok(print(&format!("{}\n", sentence.trim_end())))
}

fn freed(released: Released) -> String {
    match released.layers {
        0 => String::new(),
        1 => format!("1 layer of {} went with it.", human(released.bytes)),
        layers => format!("{layers} layers of {} went with it.", human(released.bytes)),
    }
}

fn resize(of: One, size: u64, may_shrink: bool) -> Result<Outcome, StoreError> {
    let name = of.node.node.clone().into_image()?;
    let mut store = OpenStore::open_to_change(&of.node.store, MapFiles)?;
    store.resize(&name, size, may_shrink)?;
    show::done(&store, &[of.node.node], of.json, &format!("{name} has {}.", human(size)))
}

fn rename(of: One, to: ImagePath) -> Result<Outcome, StoreError> {
    let (from, to) = (of.node.node, to.node);
    let new = match (&from.snapshot, &to.snapshot) {
        (None, None) => &to.image,
        (Some(_), Some(new)) if from.image == to.image => new,
        (None, Some(_)) => return Err(NameError::NotAnImage(to.to_string()).into()),
        _ => return Err(StoreError::OtherImage { from: from.to_string(), image: from.image.to_string() }),
    };
    let mut store = OpenStore::open_to_change(&of.node.store, MapFiles)?;
    store.rename(&from, new)?;
    let sentence = format!("{from} is called {to} now.");
    show::done(&store, std::slice::from_ref(&to), of.json, &sentence)
}

fn roll_back(of: One) -> Result<Outcome, StoreError> {
    let (mut store, to) = (OpenStore::open_to_change(&of.node.store, MapFiles)?, of.node.node);
    let released = store.roll_back(to.clone())?;
    let image = NodeName { image: to.image.clone(), snapshot: None };
    let sentence = format!("{image} is as {to} was. {}", freed(released));
    show::done(&store, &[image], of.json, sentence.trim_end())
}
