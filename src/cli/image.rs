//! `ringnbd image`: the images of a store, their snapshots and clones.

mod chain;
mod checkpoint;
mod clone;
mod create;
mod export;
mod import;
mod parts;
mod show;
mod tier;
pub(super) mod upload;
mod watched;

use std::path::PathBuf;

use super::Outcome;
use super::owner::{self, RequestError, StorePlace};
use super::text::human;
use super::tiered;
use crate::config::ControlAddress;
use crate::config::size::parse_size;
use crate::store::catalog::{NodeName, StoreName};
use crate::store::image_path::{ImagePath, one_store};
use crate::store::{StoreError, StoreRequest, names_in_words};
use chain::RebaseArgs;
use checkpoint::CheckpointArgs;
use clone::CloneOrigin;
use create::CreateArgs;
use export::ExportArgs;
use import::ImportArgs;

const LONG_HELP: &str = "\
An image is a disk that can be written. STORE/NAME names it, by the directory of its store and its
name; STORE/NAME@SNAPSHOT is a snapshot of it. A name has letters, digits, \"-\", \"_\" and \".\", and
at most 128 of them. If a server has the store open, these commands ask it, by its control socket
(`serve --control`); else they open the store themselves. Of such a store, `diff`, `map` and `export`
read snapshots only, in its directory; `create --from` and `import` write the new image as a client of
the server, which needs all images of the store as exports. Until it is complete it is called
NAME-unfinished-NUMBER. `resize` makes an image larger while clients use it: they see the new size when
they connect again. `import --delta` writes a new layer into the directory, and the server takes it.

Examples:
  ringnbd image create /srv/store/golden --from golden.raw
  ringnbd image snapshot /srv/store/golden@v1
  ringnbd image checkpoint /srv/store/golden@v1        equal data is stored once; it may be there already
  ringnbd image checkpoint /srv/store/vm1@monday --changes-only   only what has changed is kept, for deltas from it
  ringnbd image clone /srv/store/golden@v1 /srv/store/vm1 /srv/store/vm2
  ringnbd image snapshot /srv/store/vm1@monday /srv/store/vm2@monday     both at one point in time
  ringnbd image ls /srv/store
  ringnbd image rollback /srv/store/vm1@monday
  ringnbd image flatten /srv/store/vm1                 golden and its base may go then
  ringnbd image rebase /srv/store/vm1 --base file:/srv/golden.raw         it was moved there

An image has at most eight layers below its head. When it is to get a ninth, `snapshot` first merges
layers of snapshots that were removed. A server that has the store does so by itself when snapshots are
removed. `flatten` leaves the snapshots of the image where they are.
`rebase` takes a file for the base if it has the size and, at 64 places, the contents of the base;
all images on that base follow. With --unsafe only the size is compared: if the contents differ, what
the images read changes, and file systems in them may be damaged.
  ringnbd image diff /srv/store/vm1@monday /srv/store/vm1
  ringnbd image push /srv/store/vm1@monday             to the tier of the store (`ringnbd store tier`)
  ringnbd image clone 's3://bucket/vms/vm1@monday?region=eu-central-1' /srv/store/vm9
  ringnbd image pull /srv/store/vm9                    all of it is here then
  ringnbd image trace /srv/store/vm9@monday            what was read of it: later clones have that fetched first
  ringnbd image rm /srv/store/vm1@monday --tier        it is not on the tier any more; the store keeps it
  ringnbd image export /srv/store/vm1@monday monday.raw
  ringnbd image export /srv/store/vm1 - --delta monday..tuesday | ssh other ringnbd image import /srv/store/vm1 - --delta

Columns of `ls`: SIZE of the disk; USED, what its layers take and what its disk has in packs; UNIQUE,
what would come back if it were removed; SHARED, the part of USED that others have too; RATIO, USED for
each byte of UNIQUE; DEPTH, its layers; TIER, if something was pushed: of a snapshot \"pushed\" or \"local\",
of an image how much and for how long it has changed since the latest one that was pushed, or \"local\".
A ? marks estimates: `ringnbd store gc` counts what is in packs.

JSON keys:
  ls, and what was made or changed   store, nodes
  each of nodes, and info            name, kind (image or snapshot), uuid, size, used, unique, shared, ratio
                                     (a number, or null), estimated, depth,
                                     created (seconds since 1970), origin, clones, snapshots, base, head,
                                     held, changes_only, quota, pairs; pushed (seconds since 1970) and lag (bytes,
                                     seconds) if something was pushed
  rm                                 removed, layers, bytes; with --tier store, removed
  rollback                           store, nodes, layers, bytes
  checkpoint                         node, ingested, done, total; with --changes-only as ls
  push                               store, node, record, was_there, packs, bytes, bytes_sent
  pull                               chunks, bytes, fetched_bytes
  trace                              version, snapshot (its uuid), packs (store, number, ranges)
  own                                store, generation, host, since_s, snapshots (records by name)
  publish                            the record: id, image, snapshot, uuid, store, created_s, pushed_s, size,
                                     space, root, packs; with --off name, image, snapshot
  diff                               from, to, from_size, size, extents ({start, length}), changed (bytes)
  map                                a list as of `qemu-img map`: start, length, depth, present, zero, data, offset
  export                             store, node, file, size, from, delta

Exit codes: 0, done; 1, it failed; 2, it was refused: nothing was changed.";

/// Options of `ringnbd image`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows examples and the JSON keys.")]
pub(crate) struct Args {
    /// Ask the server that has the store, here: unix:PATH [default: the control socket that it has told the
    /// store of]
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub control: Option<ControlAddress>,
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ImageCommand {
    /// Make an image: empty, a copy of a file, or on a base
    Create(CreateArgs),
    /// Take snapshots, of several images at one point in time
    Snapshot(Several),
    /// Take a snapshot, and store its contents in packs, where equal data is stored once; or keep none
    Checkpoint(CheckpointArgs),
    /// Store a snapshot in the tier of its store, where other hosts find it; its contents have to be in packs
    Push {
        /// The snapshot: STORE/NAME@SNAPSHOT
        #[arg(value_name = "STORE/NAME@SNAPSHOT")]
        of: ImagePath,
        /// Send so many bytes a second at most, such as 50M
        #[arg(long, value_name = "BYTES", value_parser = parse_size)]
        rate: Option<u64>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a snapshot that was pushed a name in the tier for everybody, which stays if the snapshot goes
    Publish {
        /// The snapshot: STORE/NAME@SNAPSHOT
        #[arg(value_name = "STORE/NAME@SNAPSHOT")]
        of: ImagePath,
        /// The name
        #[arg(value_name = "NAME")]
        name: String,
        /// Take the name back: images that were cloned from it stay
        #[arg(long)]
        off: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch all that an image or a snapshot has on a tier and that is not here yet, and verify it
    Pull(One),
    /// Tell the tier what was read here of a snapshot that came from it: clones that are made later fetch
    /// that before it is asked for. What has been read is what is here of the snapshot's packs
    Trace(One),
    /// Take a name in the tier: one store at a time can push snapshots of it
    Own {
        #[command(flatten)]
        of: One,
        /// Take it from the store that has it, which cannot push it any more
        #[arg(long)]
        force: bool,
    },
    /// Make images that begin as a snapshot is
    Clone {
        /// The snapshot: STORE/NAME@SNAPSHOT, or one of a tier, as s3://BUCKET/PREFIX/NAME@SNAPSHOT or
        /// file:///srv/tier/NAME@SNAPSHOT; NAME alone is what was published as that
        #[arg(value_name = "STORE/NAME@SNAPSHOT")]
        from: CloneOrigin,
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
        /// Take snapshots out of the tier of the store, and leave the store as it is; what only they need of
        /// the tier goes with `store gc --tier`
        #[arg(long, conflicts_with = "snapshots")]
        tier: bool,
        /// With --tier: also those that images were cloned from, which keep what they read
        #[arg(long, requires = "tier")]
        force: bool,
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
    Rollback {
        #[command(flatten)]
        of: One,
        /// Disconnect its clients, if a server has the store
        #[arg(long)]
        force: bool,
    },
    /// Give an image a layer of its own with all that it reads from its origin and its base
    Flatten(One),
    /// Tell where the base of an image is now, after it was moved or copied
    Rebase(RebaseArgs),
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

pub(crate) fn run(args: Args) -> Outcome {
    let Args { control, command } = args;
    if let Err(sentence) = one_store(&named(&command)) {
        return Outcome::refused(sentence);
    }
    let done = match command {
        ImageCommand::Create(args) => create::create(args, control.as_ref()),
        ImageCommand::Flatten(of) => chain::flatten((of.node, of.json), control.as_ref()),
        ImageCommand::Checkpoint(of) => checkpoint::run(of, control.as_ref()),
        ImageCommand::Push { of, rate, json } => tiered::push(&of, rate, json, control.as_ref()),
        ImageCommand::Publish { of, name, off, json } => tiered::publish_as(&of, (&name, off), json),
        ImageCommand::Pull(of) => tier::pull(&of.node, of.json, control.as_ref()),
        ImageCommand::Trace(of) => tier::trace(&of.node, of.json, control.as_ref()),
        ImageCommand::Own { of, force } => tiered::take(&of.node, force, of.json, control.as_ref()),
        ImageCommand::Rebase(args) => chain::rebase(args, control.as_ref()),
        ImageCommand::Diff { from, to, json } => parts::diff(&from, &to, json, control.as_ref()),
        ImageCommand::Map(of) => parts::map(&of.node, of.json, control.as_ref()),
        ImageCommand::Export(args) => export::export(&args, control.as_ref()),
        ImageCommand::Import(args) => import::import(args, control.as_ref()),
        ImageCommand::Rm { of: Several { nodes, json }, tier: true, force, .. } => {
            tier::remove(&nodes, force, json, control.as_ref())
        }
        ImageCommand::Clone { from: CloneOrigin::Tier(from), to, json } => {
            clone::from_tier(&from, to, json, control.as_ref())
        }
        command => asked(command).and_then(|asked| {
            let place = StorePlace { store: &asked.store, control: control.as_ref() };
            let answer = owner::ask(place, &asked.request, chain::make_room)?;
            Ok(show::answer(&answer, asked.as_json, &asked.sentence))
        }),
    };
    done.unwrap_or_else(RequestError::ended)
}

/// A command as what is asked of a store.
struct AskedCommand {
    store: PathBuf,
    request: StoreRequest,
    as_json: bool,
    /// What is said when it is done; lists and descriptions speak for themselves.
    sentence: String,
}

fn asked(command: ImageCommand) -> Result<AskedCommand, RequestError> {
    let first = |nodes: &[ImagePath]| nodes.first().map_or_else(PathBuf::new, |path| path.store.clone());
    Ok(match command {
        ImageCommand::Create(_)
        | ImageCommand::Checkpoint(_)
        | ImageCommand::Push { .. }
        | ImageCommand::Publish { .. }
        | ImageCommand::Own { .. }
        | ImageCommand::Pull(_)
        | ImageCommand::Trace(_)
        | ImageCommand::Flatten(_)
        | ImageCommand::Rebase(_)
        | ImageCommand::Diff { .. }
        | ImageCommand::Map(_)
        | ImageCommand::Export(_)
        | ImageCommand::Import(_) => unreachable!("they have a way of their own"),
        ImageCommand::Ls { store, json } => {
            AskedCommand { store, request: StoreRequest::Images, as_json: json, sentence: String::new() }
        }
        ImageCommand::Info(One { node, json }) => {
            let request = StoreRequest::Image { node: node.node };
            AskedCommand { store: node.store, request, as_json: json, sentence: String::new() }
        }
        ImageCommand::Snapshot(Several { nodes, json }) => {
            let store = first(&nodes);
            let nodes: Vec<NodeName> = nodes.into_iter().map(|path| path.node).collect();
            let sentence = format!("Taken: {}.", in_words(&nodes));
            let request = StoreRequest::Snapshot { nodes, changes_only: false };
            AskedCommand { store, request, as_json: json, sentence }
        }
        ImageCommand::Clone { from: CloneOrigin::Tier(_), .. } => unreachable!("it has a way of its own"),
        ImageCommand::Clone { from: CloneOrigin::Store(from), to, json } => {
            let images = to.into_iter().map(|path| path.node.into_image());
            let to: Vec<StoreName> = images.collect::<Result<_, _>>().map_err(StoreError::Name)?;
            let names: Vec<String> = to.iter().map(StoreName::to_string).collect();
            let sentence = format!("Made: {}.", names_in_words(&names));
            let request = StoreRequest::Clone { from: from.node, to };
            AskedCommand { store: from.store, request, as_json: json, sentence }
        }
        ImageCommand::Rm { tier: true, .. } => unreachable!("it has a way of its own"),
        ImageCommand::Rm { of: Several { nodes, json }, snapshots, .. } => {
            let store = first(&nodes);
            let nodes: Vec<NodeName> = nodes.into_iter().map(|path| path.node).collect();
            let sentence = format!("Removed: {}.", in_words(&nodes));
            AskedCommand {
                store,
                request: StoreRequest::Remove { nodes, snapshots },
                as_json: json,
                sentence,
            }
        }
        ImageCommand::Resize { of: One { node, json }, size, shrink } => {
            let image = node.node.into_image().map_err(StoreError::Name)?;
            let sentence = format!("{image} has {}.", human(size));
            let request = StoreRequest::Resize { image, size, shrink };
            AskedCommand { store: node.store, request, as_json: json, sentence }
        }
        ImageCommand::Rename { of: One { node, json }, to } => {
            let sentence = format!("{} is called {} now.", node.node, to.node);
            let request = StoreRequest::Rename { node: node.node, to: to.node };
            AskedCommand { store: node.store, request, as_json: json, sentence }
        }
        ImageCommand::Rollback { of: One { node, json }, force } => {
            let sentence = format!("{} is as {} was.", node.node.image, node.node);
            let request = StoreRequest::Rollback { node: node.node, force };
            AskedCommand { store: node.store, request, as_json: json, sentence }
        }
    })
}

fn in_words(nodes: &[NodeName]) -> String {
    names_in_words(&nodes.iter().map(NodeName::to_string).collect::<Vec<_>>())
}

/// All that a command names, which has to be in one store.
fn named(command: &ImageCommand) -> Vec<&ImagePath> {
    match command {
        ImageCommand::Snapshot(of) | ImageCommand::Rm { of, .. } => of.nodes.iter().collect(),
        ImageCommand::Checkpoint(of) => of.nodes.iter().collect(),
        ImageCommand::Clone { from: CloneOrigin::Store(from), to, .. } => {
            std::iter::once(from).chain(to).collect()
        }
        ImageCommand::Clone { from: CloneOrigin::Tier(_), to, .. } => to.iter().collect(),
        ImageCommand::Rename { of, to } => vec![&of.node, to],
        ImageCommand::Info(of)
        | ImageCommand::Resize { of, .. }
        | ImageCommand::Rollback { of, .. }
        | ImageCommand::Map(of)
        | ImageCommand::Pull(of)
        | ImageCommand::Trace(of)
        | ImageCommand::Flatten(of) => vec![&of.node],
        ImageCommand::Push { of, .. } | ImageCommand::Publish { of, .. } => vec![of],
        ImageCommand::Own { of, .. } => vec![&of.node],
        ImageCommand::Rebase(args) => vec![&args.node],
        ImageCommand::Diff { from, to, .. } => vec![from, to],
        ImageCommand::Export(args) => vec![&args.node],
        ImageCommand::Import(args) => vec![&args.node],
        ImageCommand::Create(args) => vec![&args.image],
        ImageCommand::Ls { .. } => Vec::new(),
    }
}
