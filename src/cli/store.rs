//! `ringnbd store`: a directory of images, made and looked at.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::Outcome;
use super::text::{exact_and_human, json, print, table};
use crate::config::size::parse_duration;
use crate::store::catalog::StoreName;
use crate::store::{MapFiles, OpenStore, StoreError, StoreUsage};

/// The last one that has four digits for its year.
const LAST_SECOND: u64 = 253_402_300_799;

const LONG_HELP: &str = "\
A store is a directory. It holds images, which are disks that can be written, snapshots of them, and
clones of snapshots; `ringnbd image` makes these.

Examples:
  ringnbd store init /srv/store
  ringnbd image create /srv/store/golden --from golden.raw
  ringnbd store info --json /srv/store | jq .used
  ringnbd store check /srv/store

JSON keys:
  init, info  store, uuid, created (seconds since 1970), generation, images, snapshots, layers, bases,
              size (all images, bytes), used, maps (bytes on the disk), lost (what waits for `store gc`)
  check       store, ok, problems; with --rebuild-map store, image, rebuilt (uuids of layers)
  gc          store, removed, lost

Exit codes: 0, done; 1, it failed, or `check` found something; 2, it was refused: nothing was changed.";

/// Options of `ringnbd store`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows examples and the JSON keys.")]
pub(crate) struct Args {
    #[command(subcommand)]
    pub command: StoreCommand,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum StoreCommand {
    /// Make a store of an empty directory, or of one that does not exist yet
    Init(OfStore),
    /// Show what a store has and what it takes
    Info(OfStore),
    /// Look for damage: the whole catalogue, the files and maps of all layers, the identity of all bases
    Check {
        #[command(flatten)]
        of: OfStore,
        /// Make the maps of this image again that cannot be used, out of the data of its layers
        #[arg(long, value_name = "IMAGE")]
        rebuild_map: Option<StoreName>,
        /// Do it, although that is a guess: what was trimmed or zeroed may show old contents again
        #[arg(long, requires = "rebuild_map")]
        yes: bool,
    },
    /// Remove what interrupted commands have left behind in lost/
    Gc {
        #[command(flatten)]
        of: OfStore,
        /// Leave what has been there for less than this
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
        grace: Duration,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct OfStore {
    /// The directory
    #[arg(value_name = "STORE")]
    pub store: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `init` and `info` print; its keys are part of the interface.
#[derive(Debug, Serialize)]
struct InfoOfStore<'a> {
    store: &'a Path,
    uuid: String,
    created: u64,
    generation: u64,
    images: usize,
    snapshots: usize,
    layers: usize,
    bases: usize,
    size: u64,
    used: u64,
    maps: u64,
    lost: usize,
}

#[derive(Debug, Serialize)]
struct CheckJson<'a> {
    store: &'a Path,
    ok: bool,
    problems: &'a [String],
}

#[derive(Debug, Serialize)]
struct RebuiltJson<'a> {
    store: &'a Path,
    image: &'a str,
    rebuilt: &'a [String],
}

#[derive(Debug, Serialize)]
struct GcJson<'a> {
    store: &'a Path,
    removed: usize,
    lost: usize,
}

pub(crate) fn run(args: Args) -> Outcome {
    ended(match args.command {
        StoreCommand::Init(of) => OpenStore::init(&of.store, MapFiles).and_then(|made| info(&of, &made)),
        StoreCommand::Info(of) => OpenStore::open(&of.store, MapFiles).and_then(|found| info(&of, &found)),
        StoreCommand::Check { of, rebuild_map: None, .. } => check(&of),
        StoreCommand::Check { rebuild_map: Some(image), yes: false, .. } => {
            return Outcome::refused(format_args!(
                "a map that is made again is a guess: what was trimmed or zeroed in \"{image}\" may show old contents again; \
                 restore a backup if there is one, or write --yes"
            ));
        }
        StoreCommand::Check { of, rebuild_map: Some(image), yes: true } => rebuild(&of, &image),
        StoreCommand::Gc { of, grace } => gc(&of, grace),
    })
}

/// A sentence for what was not done.
pub(super) fn ended(result: Result<Outcome, StoreError>) -> Outcome {
    match result {
        Ok(outcome) => outcome,
        Err(error) if error.is_refusal() => Outcome::refused(error),
        Err(error) => Outcome::failed(error),
    }
}

fn info(of: &OfStore, store: &OpenStore<MapFiles>) -> Result<Outcome, StoreError> {
    let (view, header, usage) = (store.view()?, store.header(), store.usage()?);
    let counts = view.counts();
    let shown = InfoOfStore {
        store: &of.store,
        uuid: header.store.to_string(),
        created: header.created_s,
        generation: header.generation,
        images: counts.images,
        snapshots: counts.snapshots,
        layers: counts.layers,
        bases: counts.bases,
        size: view.images().map(|image| image.size).fold(0, u64::saturating_add),
        used: usage.data.values().sum(),
        maps: usage.maps,
        lost: store.lost()?,
    };
    warn_of_missing(&usage);
    if of.json {
        return Ok(print(&json(&shown)));
    }
    let rows = [
        ("store", of.store.display().to_string()),
        ("uuid", shown.uuid),
        ("created", time(shown.created)),
        ("images", shown.images.to_string()),
        ("snapshots", shown.snapshots.to_string()),
        ("layers", shown.layers.to_string()),
        ("bases", shown.bases.to_string()),
        ("size", exact_and_human(shown.size)),
        ("used", exact_and_human(shown.used)),
        ("maps", exact_and_human(shown.maps)),
        ("lost", shown.lost.to_string()),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    Ok(print(&table(&rows, &[false, false])))
}

/// Layers whose files are missing count as nothing, which somebody should know.
pub(super) fn warn_of_missing(usage: &StoreUsage) {
    if let Some(first) = usage.missing.first() {
        eprintln!("ringnbd: {first} (`ringnbd store check` lists all that is wrong)");
    }
}

/// Seconds since 1970 as people read them.
pub(super) fn time(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND))).to_string()
}

fn check(of: &OfStore) -> Result<Outcome, StoreError> {
    let store = OpenStore::open(&of.store, MapFiles)?;
    let mut problems = store.check()?;
    problems.extend(store.check_maps()?);
    let text = match (of.json, problems.is_empty()) {
        (true, is_well) => json(&CheckJson { store: &of.store, ok: is_well, problems: &problems }),
        (false, true) => "Nothing is wrong.\n".to_owned(),
        (false, false) => problems.iter().map(|problem| format!("{problem}\n")).collect(),
    };
    let printed = print(&text);
    match problems.len() {
        0 => Ok(printed),
        1 => Ok(Outcome::failed("one problem was found")),
        count => Ok(Outcome::failed(format_args!("{count} problems were found"))),
    }
}

fn rebuild(of: &OfStore, image: &StoreName) -> Result<Outcome, StoreError> {
    let layers = OpenStore::open_to_change(&of.store, MapFiles)?.rebuild_maps(image)?;
    let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
    if of.json {
        return Ok(print(&json(&RebuiltJson { store: &of.store, image: image.as_str(), rebuilt: &layers })));
    }
    Ok(print(&match layers.is_empty() {
        true => format!("The maps of {image} can be used: nothing was changed.\n"),
        false => {
            let text = "Made again, the old ones are in lost/; check the file systems in it";
            format!("{text}: {}.\n", layers.join(", "))
        }
    }))
}

fn gc(of: &OfStore, grace: Duration) -> Result<Outcome, StoreError> {
    let store = OpenStore::open_to_remove(&of.store, MapFiles)?;
    let (removed, lost) = (store.remove_lost(grace.as_secs())?, store.lost()?);
    if of.json {
        return Ok(print(&json(&GcJson { store: &of.store, removed, lost })));
    }
    Ok(print(&format!("{removed} removed, {lost} left in lost/.\n")))
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
