//! `ringnbd store check`: a store looked at for damage, and what of it can be put right.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::of_store::{OfStore, place};
use crate::cli::Outcome;
use crate::cli::owner::{self, RequestError};
use crate::cli::text::{exact_and_human, json, print};
use crate::cli::tiered;
use crate::cli::watched::Watched;
use crate::config::ControlAddress;
use crate::config::size::parse_size;
use crate::store::catalog::{CatalogExcerpt, StoreName};
use crate::store::{
    MapFiles, OpenStore, RebuiltCatalog, RebuiltIndex, ScrubOptions, ScrubReport, StoreAnswer, StoreRequest,
    rebuild_catalog,
};

/// Bytes a second that are read beside a server.
const RATE_BESIDE_SERVER: u64 = 64 << 20;
/// Problems that are printed; JSON has more of them.
const MOST_PRINTED: usize = 1000;

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    of: OfStore,
    /// Read and verify each chunk of all packs too
    #[arg(long)]
    deep: bool,
    /// Look whether all is there that the store's tier says it has, and at nothing of the store
    #[arg(long, conflicts_with_all = ["deep", "rate", "anew", "repair", "rebuild_map", "rebuild_index"])]
    tier: bool,
    /// Read so many bytes a second at most, such as 50M; 0: as fast as it goes
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    rate: Option<u64>,
    /// Begin with the first pack, wherever an earlier --deep was interrupted
    #[arg(long)]
    anew: bool,
    /// Write damaged chunks of packs again that a good copy is found of; as --deep
    #[arg(long)]
    repair: bool,
    /// A file or device that may have copies, such as an old image; may be repeated
    #[arg(long, value_name = "FILE", requires = "repair")]
    copy: Vec<PathBuf>,
    /// Make the maps of this image again that cannot be used, out of the data of its layers
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["deep", "repair"])]
    rebuild_map: Option<StoreName>,
    /// Make the index of chunks again, out of the footers of all packs
    #[arg(long, conflicts_with_all = ["deep", "repair", "rebuild_map"])]
    rebuild_index: bool,
    /// Make the catalogue again that is lost or cannot be read, out of the maps of all layers
    #[arg(long, conflicts_with_all = ["deep", "repair", "rebuild_map", "rebuild_index"])]
    rebuild_catalog: bool,
    /// Do it, although that is a guess: what was trimmed or zeroed may show old contents again
    #[arg(long, requires = "rebuild_map")]
    yes: bool,
}

#[derive(Debug, Serialize)]
struct CheckJson<'a> {
    store: &'a Path,
    ok: bool,
    /// No server writes to the store: all of it was looked at.
    complete: bool,
    problems: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    scrub: Option<&'a ScrubReport>,
}

#[derive(Debug, Serialize)]
struct CatalogJson<'a> {
    store: &'a Path,
    images: usize,
    snapshots: usize,
    left: &'a [String],
}

#[derive(Debug, Serialize)]
struct RebuiltJson<'a> {
    store: &'a Path,
    image: &'a str,
    rebuilt: &'a [String],
}

#[derive(Debug, Serialize)]
struct IndexJson<'a> {
    store: &'a Path,
    #[serde(flatten)]
    made: &'a RebuiltIndex,
}

pub(super) fn run(args: CheckArgs, control: Option<&ControlAddress>) -> Result<Outcome, RequestError> {
    let of = &args.of;
    match &args.rebuild_map {
        _ if args.tier => tiered::check(&of.store, of.json),
        _ if args.rebuild_catalog => new_catalog(of),
        _ if args.rebuild_index => new_index(of, control),
        Some(image) if !args.yes => Ok(Outcome::refused(format_args!(
            "a map that is made again is a guess: what was trimmed or zeroed in \"{image}\" may show old contents again; \
             restore a backup if there is one, or write --yes"
        ))),
        Some(image) => rebuild(of, image, control),
        None if args.deep || args.repair => deep(&args, control),
        None => check(of, control),
    }
}

/// It takes long, so a server does not do it: it tells what there is, and the files are read here.
fn check(of: &OfStore, control: Option<&ControlAddress>) -> Result<Outcome, RequestError> {
    let (problems, is_all) = owner::check(place(of, control), |store| {
        let mut problems = store.check()?;
        problems.extend(store.check_maps()?);
        Ok(problems)
    })?;
    Ok(told(of, is_all, &problems, None))
}

fn told(of: &OfStore, is_all: bool, problems: &[String], scrub: Option<&ScrubReport>) -> Outcome {
    let ok = problems.is_empty();
    let left_out = "What is written now was not looked at: stop the server that has the store for that.\n";
    let text = if of.json {
        json(&CheckJson { store: &of.store, ok, complete: is_all, problems, scrub })
    } else {
        let mut lines: String =
            problems.iter().take(MOST_PRINTED).map(|problem| format!("{problem}\n")).collect();
        lines.push_str(&scrub.map(in_words).unwrap_or_default());
        lines.push_str(if ok { "Nothing is wrong.\n" } else { "" });
        lines.push_str(if is_all { "" } else { left_out });
        lines
    };
    let printed = print(&text);
    match problems.len() {
        0 => printed,
        1 => Outcome::failed("one problem was found"),
        count => Outcome::failed(format_args!("{count} problems were found")),
    }
}

fn in_words(scrub: &ScrubReport) -> String {
    let mut text = format!("{} chunks of packs were read, {}.\n", scrub.chunks, exact_and_human(scrub.bytes));
    if let Some(pack) = scrub.resumed_at {
        text += &format!("It went on with pack {pack}, where an earlier check was interrupted.\n");
    }
    if scrub.repaired() > 0 {
        text += &format!("{} damaged chunks were written again and are good.\n", scrub.repaired());
    }
    text
}

/// The same, and all that is in packs.
fn deep(args: &CheckArgs, control: Option<&ControlAddress>) -> Result<Outcome, RequestError> {
    let of = &args.of;
    let (mut problems, is_all) = owner::check(place(of, control), |store| {
        let mut problems = store.check()?;
        problems.extend(store.check_maps()?);
        Ok(problems)
    })?;
    let (store, told_by_server) = owner::open_to_read(place(of, control))?;
    let usual = told_by_server.as_ref().map(|_| RATE_BESIDE_SERVER);
    let options = ScrubOptions {
        rate: args.rate.or(usual),
        is_new: args.anew,
        repairs: args.repair,
        copies: args.copy.clone(),
    };
    let line = Watched::begin("verifying", &of.store, Some(0))?;
    let mut report =
        store.scrub(&options, &mut |progress| line.progress_of(progress.done, progress.total))?;
    line.end();
    if let Some(before) = told_by_server {
        forget_what_went(&mut report, args, control, &before)?;
    }
    let found = report.problems();
    // What is wrong with a pack as a whole was found before, without the images that need it.
    problems.retain(|problem| !found.iter().any(|more| more.starts_with(problem.as_str())));
    problems.extend(found);
    Ok(told(of, is_all, &problems, Some(&report)))
}

/// A server may have removed packs since it told of them.
fn forget_what_went(
    report: &mut ScrubReport,
    args: &CheckArgs,
    control: Option<&ControlAddress>,
    before: &CatalogExcerpt,
) -> Result<(), RequestError> {
    let now = match owner::ask_owner(place(&args.of, control), &StoreRequest::Sealed)? {
        Some(StoreAnswer::Layers(now)) => now,
        _ => before.clone(),
    };
    report.forget_missing(|pack| now.lists_pack(pack));
    Ok(())
}

fn rebuild(
    of: &OfStore,
    image: &StoreName,
    control: Option<&ControlAddress>,
) -> Result<Outcome, RequestError> {
    let layers = owner::open_alone(place(of, control))?.rebuild_maps(image)?;
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

/// Nothing else may use the index meanwhile.
fn new_index(of: &OfStore, control: Option<&ControlAddress>) -> Result<Outcome, RequestError> {
    let mut store: OpenStore<MapFiles> = owner::open_alone(place(of, control))?;
    let made = store.rebuild_index()?;
    if of.json {
        return Ok(print(&json(&IndexJson { store: &of.store, made: &made })));
    }
    let mut text = format!("Made again: {} packs, {} chunks.\n", made.packs, made.chunks);
    for line in &made.left {
        text += &format!("Left out: {line}.\n");
    }
    Ok(print(&text))
}

/// A server that has the store is not asked: it has read the catalogue.
fn new_catalog(of: &OfStore) -> Result<Outcome, RequestError> {
    let RebuiltCatalog { images, snapshots, left } = rebuild_catalog(&of.store, Duration::ZERO)?;
    if of.json {
        return Ok(print(&json(&CatalogJson { store: &of.store, images, snapshots, left: &left })));
    }
    let mut text = format!("Made again: {images} images, {snapshots} snapshots.\n");
    for line in &left {
        text += &format!("Left out: {line}.\n");
    }
    text += "Look what is missing (`ringnbd image ls`), and check the file systems in the images.\n";
    Ok(print(&text))
}
