//! `ringnbd store`: a directory of images, made and looked at.

mod check;
mod of_store;

use std::time::{Duration, UNIX_EPOCH};

use super::Outcome;
use super::owner::{self, RequestError};
use super::text::{exact_and_human, json, print, table};
use crate::config::ControlAddress;
use crate::config::size::parse_duration;
use crate::store::catalog::ChunkCompression;
use crate::store::{MapFiles, OpenStore, StoreAnswer, StoreDescription, StoreRequest};
use of_store::{OfStore, place};

/// The last one that has four digits for its year.
const LAST_SECOND: u64 = 253_402_300_799;

const LONG_HELP: &str = "\
A store is a directory. It holds images, which are disks that can be written, snapshots of them, and
clones of snapshots; `ringnbd image` makes these. If a server has the store open, `info`, `check` and
`gc` ask it, by its control socket (`serve --control`).

Examples:
  ringnbd store init /srv/store
  ringnbd store init --compress zstd /srv/archive
  ringnbd image create /srv/store/golden --from golden.raw
  ringnbd store info --json /srv/store | jq .used
  ringnbd store check /srv/store
  ringnbd store check --deep --rate 50M /srv/store          all packs are read; another time it goes on
  ringnbd store check --repair --copy old.raw /srv/store    damaged chunks are looked for there too
  ringnbd store check --rebuild-catalog /srv/store          catalog.redb is lost, or cannot be read

`check --deep` reads each chunk of all packs past the page cache, and verifies its checksums and its
name. It says which images and snapshots need what is damaged, and which bytes of their disks that are.
If it is interrupted, the next one goes on with the same pack; --anew begins again. Beside a server it
reads 64M a second unless --rate says something else. With --repair a damaged chunk is written again
when a good copy is found: in another pack, in a layer that is not in packs, in a base, or in a file
named by --copy, at a multiple of 64K. What is damaged and has no copy gives EIO to who reads it.

A catalogue that is made again has what the layers tell. Each layer is a snapshot, under its name where
that is known, or recovered, recovered-2 and so on; each image that was ever written stands on its newest
layer. Images that were never written since they began, names that were given later, key-values and holds
are lost. The old file goes to lost/, and so do layers that are nobody's, with the next change.

JSON keys:
  init, info  store, uuid, created (seconds since 1970), generation, images, snapshots, layers, bases,
              size (all images, bytes), used, maps, packs (bytes on the disk), compression, lost (what waits
              for `store gc`)
  check       store, ok, complete (false while a server has the store), problems; with --deep also
              scrub: packs, chunks, bytes, resumed_at, damaged, more_damaged, unusable, elsewhere; each of
              damaged: pack, chunk, hash, kind (data or node), offset, length, why, uses, more_uses,
              repaired; each of unusable: pack, why, uses, more_uses, is_missing; each of uses: names,
              more_names, start, length. With --rebuild-map store, image, rebuilt (uuids of layers); with
              --rebuild-index store, packs, chunks, left (sentences); with --rebuild-catalog store,
              images, snapshots (numbers), left (sentences)
  gc          store, removed, lost

Exit codes: 0, done; 1, it failed, or `check` found something; 2, it was refused: nothing was changed.";

/// Options of `ringnbd store`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows examples and the JSON keys.")]
pub(crate) struct Args {
    /// Ask the server that has the store, here: unix:PATH [default: the control socket that it has told the
    /// store of]
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub control: Option<ControlAddress>,
    #[command(subcommand)]
    pub command: StoreCommand,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum StoreCommand {
    /// Make a store of an empty directory, or of one that does not exist yet
    Init {
        #[command(flatten)]
        of: OfStore,
        /// How chunks are compressed that come into packs; it leaves those alone that become hardly smaller
        #[arg(long, value_name = "HOW", value_enum, default_value_t = Compress::Lz4)]
        compress: Compress,
    },
    /// Show what a store has and what it takes
    Info(OfStore),
    /// Look for damage: the whole catalogue, the files and maps of all layers, the identity of all bases
    Check(check::CheckArgs),
    /// Remove what interrupted commands have left behind in lost/
    Gc {
        #[command(flatten)]
        of: OfStore,
        /// Leave what has been there for less than this
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
        grace: Duration,
    },
}

/// How chunks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Compress {
    /// Fast to read
    Lz4,
    /// Smaller, and slower to read; versions before this one refuse the store
    Zstd,
    /// Not at all: the fastest reads
    None,
}

pub(crate) fn run(args: Args) -> Outcome {
    let control = args.control.as_ref();
    let ask = |of: &OfStore, request: StoreRequest| {
        let answer = owner::ask(place(of, control), &request, |_, _| Ok(()));
        answer.map(|answer| show(&answer, of.json))
    };
    let done = match args.command {
        StoreCommand::Init { of, compress } => init(&of, compress),
        StoreCommand::Info(of) => ask(&of, StoreRequest::Store),
        StoreCommand::Check(args) => check::run(args, control),
        StoreCommand::Gc { of, grace } => ask(&of, StoreRequest::Gc { grace: grace.as_secs() }),
    };
    done.unwrap_or_else(RequestError::ended)
}

fn init(of: &OfStore, compress: Compress) -> Result<Outcome, RequestError> {
    let compression = match compress {
        Compress::Lz4 => ChunkCompression::Lz4,
        Compress::Zstd => ChunkCompression::Zstd,
        Compress::None => ChunkCompression::None,
    };
    let made = OpenStore::init_with(&of.store, MapFiles, compression)?;
    Ok(show(&StoreAnswer::Store(made.describe_store()?), of.json))
}

fn show(answer: &StoreAnswer, as_json: bool) -> Outcome {
    if let StoreAnswer::Store(of) = answer {
        warn_of_missing(&of.missing);
    }
    if as_json {
        return print(&json(answer));
    }
    print(&match answer {
        StoreAnswer::Store(of) => as_table(of),
        StoreAnswer::Collected(of) => format!("{} removed, {} left in lost/.\n", of.removed, of.lost),
        _ => String::new(),
    })
}

fn as_table(of: &StoreDescription) -> String {
    let rows = [
        ("store", of.store.display().to_string()),
        ("uuid", of.uuid.clone()),
        ("created", time(of.created)),
        ("images", of.images.to_string()),
        ("snapshots", of.snapshots.to_string()),
        ("layers", of.layers.to_string()),
        ("bases", of.bases.to_string()),
        ("size", exact_and_human(of.size)),
        ("used", exact_and_human(of.used)),
        ("maps", exact_and_human(of.maps)),
        ("packs", exact_and_human(of.packs)),
        ("compression", of.compression.clone()),
        ("lost", of.lost.to_string()),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table(&rows, &[false, false])
}

/// Layers whose files are missing count as nothing, which somebody should know.
pub(super) fn warn_of_missing(missing: &[String]) {
    if let Some(first) = missing.first() {
        eprintln!("ringnbd: {first} (`ringnbd store check` lists all that is wrong)");
    }
}

/// Seconds since 1970 as people read them.
pub(super) fn time(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND))).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_second_is_a_time() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
