//! `ringnbd image import`: an image of a file, of the standard input or of a disk of shuru-store, or the next
//! snapshot of one by a delta.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::create::{copy, made};
use super::show;
use super::upload::{self, Contents};
use super::watched::Watched;
use crate::cli::Outcome;
use crate::cli::owner::{self, RequestError, StorePlace};
use crate::config::ControlAddress;
use crate::config::size::parse_size;
use crate::store::catalog::{NodeName, SIZE_UNIT, StoreName};
use crate::store::image_path::ImagePath;
use crate::store::{ArrivingDelta, ShuruDisk, StoreAnswer, StoreError, StoreRequest};

/// Instead of a file: the standard input.
const STANDARD: &str = "-";
/// In front of the index of a disk of shuru-store. A file of that name is `./shuru:...`.
const SHURU: &str = "shuru:";
/// The standard input, if it is a file that can be read at any place.
const INPUT_FILE: &str = "/dev/stdin";

#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// STORE/NAME; with --delta also STORE/NAME@SNAPSHOT, to call the snapshot so
    #[arg(value_name = "STORE/NAME[@SNAPSHOT]")]
    pub node: ImagePath,
    /// The file, - for the standard input, or shuru:DIR/INDEX for a checkpoint of shuru-store 0.2
    #[arg(value_name = "FILE")]
    pub from: PathBuf,
    /// The size of a new image, such as 20G; that of FILE if nothing is written here
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "delta")]
    pub size: Option<u64>,
    /// FILE is a delta, of `ringnbd image export --delta`
    #[arg(long)]
    pub delta: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn import(args: ImportArgs, control: Option<&ControlAddress>) -> Result<Outcome, RequestError> {
    let place = StorePlace { store: &args.node.store, control };
    if args.delta {
        return delta(place, &args);
    }
    let name = args.node.node.into_image().map_err(StoreError::Name)?;
    if let Some(index) = args.from.to_str().and_then(|text| text.strip_prefix(SHURU)) {
        let path = Path::new(index);
        let mut disk = ShuruDisk::open(path).map_err(StoreError::Shuru)?;
        let size = args.size.unwrap_or_else(|| disk.size().next_multiple_of(SIZE_UNIT));
        let answer = stream(place, &name, (path, &mut disk), Some(size))?;
        return Ok(made(&name, &answer, args.json));
    }
    let is_standard = args.from.as_os_str() == STANDARD;
    let is_file = std::fs::metadata(INPUT_FILE).is_ok_and(|input| input.is_file());
    let answer = match is_standard {
        // Its holes are known.
        false => copy(place, &name, &args.from, args.size)?,
        true if is_file => copy(place, &name, Path::new(INPUT_FILE), args.size)?,
        true => stream(place, &name, (&args.from, &mut io::stdin().lock()), args.size)?,
    };
    Ok(made(&name, &answer, args.json))
}

fn stream(
    place: StorePlace<'_>,
    name: &StoreName,
    (path, source): (&Path, &mut dyn Read),
    size: Option<u64>,
) -> Result<StoreAnswer, RequestError> {
    let server = owner::clients_place(place)?;
    let copying = Watched::begin("copying", path, None)?;
    if let Some(uri) = server {
        let size = size.ok_or(RequestError::NoSize)?;
        return upload::fill((place, uri), (name, size), (path, Contents::Stream(source)), &copying);
    }
    let mut store = owner::open_alone(place)?;
    store.import_stream(name, size, (path, source), &mut |done| copying.progress(done))?;
    let made = store.describe_some(&[NodeName { image: name.clone(), snapshot: None }])?;
    Ok(StoreAnswer::Nodes(made))
}

fn delta(place: StorePlace<'_>, args: &ImportArgs) -> Result<Outcome, RequestError> {
    let NodeName { image, snapshot } = args.node.node.clone();
    let mut source: Box<dyn Read> = match args.from.as_os_str() == STANDARD {
        true => Box::new(io::stdin().lock()),
        false => {
            let file = File::open(&args.from);
            let at = |source| StoreError::Named { what: "open", path: args.from.clone(), source };
            Box::new(BufReader::new(file.map_err(at)?))
        }
    };
    let mut arriving = ArrivingDelta::begin(&image, snapshot, &mut source)?;
    let made = arriving.claim().node();
    let size = arriving.claim().size;
    let begin = StoreRequest::Import { delta: arriving.claim().clone(), complete: false };
    let copying = Watched::begin("copying", &args.from, Some(size))?;
    let is_online = owner::ask_owner(place, &begin)?.is_some();
    let mut progress = |done| copying.progress(done);
    let answer = if is_online {
        arriving.fill(place.store, &mut progress)?;
        let complete = StoreRequest::Import { delta: arriving.claim().clone(), complete: true };
        owner::ask_server_of(place, &complete).inspect_err(|error| {
            // Of another failure it is not known whether the snapshot is there.
            if matches!(error, RequestError::Server { is_refusal: true, .. }) {
                arriving.give_up(place.store);
            }
        })?
    } else {
        let mut store = owner::open_alone(place)?;
        store.import_delta(arriving, &mut progress)?;
        StoreAnswer::Nodes(store.describe_some(std::slice::from_ref(&made))?)
    };
    drop(copying);
    Ok(show::answer(&answer, args.json, &format!("{made} is made.")))
}
