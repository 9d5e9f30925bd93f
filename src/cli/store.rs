//! `ringnbd store`: a directory of images, made and looked at.

mod check;
mod of_store;
mod push;

use std::time::{Duration, UNIX_EPOCH};

use super::Outcome;
use super::outcome::complain;
use super::owner::{self, RequestError};
use super::text::{exact_and_human, json, print, table};
use super::tiered;
use super::watched::Watched;
use crate::config::ControlAddress;
use crate::config::size::parse_duration;
use crate::store::catalog::ChunkCompression;
use crate::store::{
    CollectedLost, IngestState, MapFiles, OpenStore, StoreAnswer, StoreDescription, StoreRequest,
};
use crate::tier::uri::TierUri;
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
  ringnbd store tier /srv/store 's3://bucket/vms?region=eu-central-1'       then: ringnbd image push
  ringnbd store gc --tier /srv/store                        and store check --tier
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
              size (all images, bytes), used, maps, packs (bytes on the disk), packed (what disks have in
              packs, contents of several images once), needed (what that takes of packs), ratio of these
              two, estimated (they were not counted by `gc` since something changed: a ? behind them),
              compression, lost (what waits for `gc`)
  check       store, ok, complete (false while a server has the store), problems; with --deep also
              scrub: packs, chunks, bytes, resumed_at, damaged, more_damaged, unusable, elsewhere; each of
              damaged: pack, chunk, hash, kind (data or node), offset, length, why, uses, more_uses,
              repaired; each of unusable: pack, why, uses, more_uses, is_missing; each of uses: names,
              more_names, start, length. With --rebuild-map store, image, rebuilt (uuids of layers); with
              --rebuild-index store, packs, chunks, left (sentences); with --rebuild-catalog store,
              images, snapshots (numbers), left (sentences)
  ingest      store, after_seconds (null: off), paused, queue (layers), layers, bytes, chunks_zero,
              chunks_known, chunks_written, bytes_written
  tier        store, tier (null: none)
  push        store, after_seconds (null: off), paused, rate (bytes a second), queue (snapshots), pushing
              (null: nothing), snapshots, packs, bytes, bytes_sent, failures, error (null: none), lost (images
              that another store has taken over), last_success (seconds since 1970), lag_bytes, lag_seconds
  gc --tier   packs, packs_needed, packs_marked, packs_deleted, bytes_deleted, records_deleted, traces_deleted,
              names_withdrawn (published names that nobody was told of, whose packs are gone), holds_released (of
              images that were cloned from the tier into this store)
  check --tier  images, snapshots, packs, bytes, problems
  gc          store, finished, removed, lost (what was and is in lost/), packs_removed, packs_written,
              bytes_removed, bytes_copied, bytes_needed, bytes_garbage (it stays in packs of which most is
              needed), chunks_needed, packs_unreadable (they stay), done, total

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
        /// Give it this tier: s3://BUCKET/PREFIX, gs://…, az://… or file:DIRECTORY
        #[arg(long, value_name = "TIER")]
        tier: Option<TierUri>,
    },
    /// Show which tier a store has, or give it one: an object store that snapshots are pushed to
    Tier {
        #[command(flatten)]
        of: OfStore,
        /// s3://BUCKET/PREFIX[?endpoint=URL&region=NAME], gs://BUCKET/PREFIX,
        /// az://CONTAINER/PREFIX?account=NAME, or file:DIRECTORY; credentials are taken from the environment,
        /// as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS,
        /// AZURE_STORAGE_ACCOUNT_KEY
        #[arg(value_name = "TIER", conflicts_with = "off")]
        tier: Option<TierUri>,
        /// The store has no tier any more; what was pushed stays there
        #[arg(long)]
        off: bool,
    },
    /// Show what a store has and what it takes
    Info(OfStore),
    /// Look for damage: the whole catalogue, the files and maps of all layers, the identity of all bases
    Check(check::CheckArgs),
    /// Show what comes into packs without being asked for, while a server has the store
    Ingest {
        #[command(flatten)]
        of: OfStore,
        /// Until the server ends or --resume, nothing comes into packs without being asked for
        #[arg(long)]
        pause: bool,
        /// Go on
        #[arg(long, conflicts_with = "pause")]
        resume: bool,
    },
    /// Show what comes to the tier without being asked for, while a server has the store
    Push(push::PushArgs),
    /// Remove what no image or snapshot needs: chunks in packs, and what interrupted commands have left
    /// behind in lost/
    Gc {
        #[command(flatten)]
        of: OfStore,
        /// Leave what has been in lost/ for less than this
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
        grace: Duration,
        /// Remove what no snapshot needs of the store's tier, and nothing of the store: packs are marked now,
        /// and deleted by a collection after the time of --grace
        #[arg(long)]
        tier: bool,
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
        StoreCommand::Init { of, compress, tier } => init(&of, compress).and_then(|made| match &tier {
            Some(uri) => tiered::set(&of.store, (Some(uri), false), of.json, control),
            None => Ok(show(&StoreAnswer::Store(made), of.json)),
        }),
        StoreCommand::Tier { of, tier, off } => {
            tiered::set(&of.store, (tier.as_ref(), off), of.json, control)
        }
        StoreCommand::Info(of) => ask(&of, StoreRequest::Store),
        StoreCommand::Check(args) => check::run(args, control),
        StoreCommand::Ingest { of, pause, resume } => {
            ask(&of, StoreRequest::Ingest { pause: (pause || resume).then_some(pause) })
        }
        StoreCommand::Push(args) => ask(&args.of, args.request()),
        StoreCommand::Gc { of, grace, tier: true } => tiered::collect(place(&of, control), grace, of.json),
        StoreCommand::Gc { of, grace, tier: false } => collect(&of, grace, control),
    };
    done.unwrap_or_else(RequestError::ended)
}

fn collect(of: &OfStore, grace: Duration, control: Option<&ControlAddress>) -> Result<Outcome, RequestError> {
    let request = StoreRequest::Gc { grace: grace.as_secs() };
    let line = Watched::begin("collecting", &of.store, Some(0))?;
    let answer = loop {
        match owner::ask_owner(place(of, control), &request)? {
            // A server answers after a moment, and goes on.
            Some(StoreAnswer::Collected(so_far)) if !so_far.finished => {
                line.progress_of(so_far.done, so_far.total)?;
            }
            Some(answer) => break answer,
            None => {
                let mut store = OpenStore::open_to_remove(&of.store, MapFiles)?;
                let collected = store.collect_garbage(grace.as_secs(), &mut |progress| {
                    line.progress_of(progress.done, progress.total)
                });
                break StoreAnswer::Collected(collected?);
            }
        }
    };
    drop(line);
    Ok(show(&answer, of.json))
}

fn ingested(of: &IngestState) -> String {
    let state = match of.after_seconds {
        _ if of.paused => "paused".to_owned(),
        Some(seconds) => format!(
            "layers that were sealed {} ago",
            humantime::format_duration(Duration::from_secs(seconds))
        ),
        None => "off: only what is asked for (`image checkpoint`)".to_owned(),
    };
    let rows = [
        ("ingest", state),
        ("waiting", of.queue.to_string()),
        ("layers", of.layers.to_string()),
        ("read", exact_and_human(of.bytes)),
        ("zeroes", of.chunks_zero.to_string()),
        ("known", of.chunks_known.to_string()),
        ("written", of.chunks_written.to_string()),
        ("bytes", exact_and_human(of.bytes_written)),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table(&rows, &[false, false])
}

/// What was collected, for people.
fn collected(of: &CollectedLost) -> String {
    let packs = &of.packs;
    let mut text = format!("{} removed, {} left in lost/.\n", of.removed, of.lost);
    if packs.packs_removed > 0 {
        let freed = packs.bytes_removed.saturating_sub(packs.bytes_copied);
        text += &format!(
            "{} packs removed, {} written: {} freed.\n",
            packs.packs_removed,
            packs.packs_written,
            exact_and_human(freed)
        );
    }
    if packs.packs_unreadable > 0 {
        let count = packs.packs_unreadable;
        text += &format!("{count} packs cannot be read and stay (`ringnbd store check` tells why).\n");
    }
    text
}

fn init(of: &OfStore, compress: Compress) -> Result<StoreDescription, RequestError> {
    let compression = match compress {
        Compress::Lz4 => ChunkCompression::Lz4,
        Compress::Zstd => ChunkCompression::Zstd,
        Compress::None => ChunkCompression::None,
    };
    let made = OpenStore::init_with(&of.store, MapFiles, compression)?;
    Ok(made.describe_store()?)
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
        StoreAnswer::Collected(of) => collected(of),
        StoreAnswer::Ingest(of) => ingested(of),
        StoreAnswer::Push(of) => push::pushed(of),
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
        ("packed", marked(exact_and_human(of.packed), of.estimated)),
        ("needed", marked(exact_and_human(of.needed), of.estimated)),
        ("ratio", of.ratio.map_or_else(|| "-".to_owned(), |ratio| marked(ratio.to_string(), of.estimated))),
        ("compression", of.compression.clone()),
        ("lost", of.lost.to_string()),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table(&rows, &[false, false])
}

/// A figure that is an estimate says so.
pub(super) fn marked(figure: String, is_estimate: bool) -> String {
    if is_estimate { format!("{figure} ?") } else { figure }
}

/// Layers whose files are missing count as nothing, which somebody should know.
pub(super) fn warn_of_missing(missing: &[String]) {
    if let Some(first) = missing.first() {
        complain("ringnbd", format_args!("{first} (`ringnbd store check` lists all that is wrong)"));
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
