//! `ringnbd image create`: empty, on a base, or with the contents of a file.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::show;
use super::upload::{self, Contents};
use super::watched::Watched;
use crate::cli::Outcome;
use crate::cli::owner::{self, RequestError, StorePlace};
use crate::cli::text::human;
use crate::config::size::parse_size;
use crate::config::{ControlAddress, ExportUri};
use crate::store::catalog::{NodeName, SIZE_UNIT, StoreName};
use crate::store::image_path::ImagePath;
use crate::store::{StoreAnswer, StoreError, StoreRequest, look_at_base, look_at_remote_base};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("beginning").args(["size", "from", "base"]).multiple(true).required(true))]
pub(crate) struct CreateArgs {
    /// The new image: STORE/NAME
    #[arg(value_name = "STORE/NAME")]
    pub image: ImagePath,
    /// Its size, such as 20G; that of FILE if nothing is written here
    #[arg(value_name = "SIZE", value_parser = parse_size)]
    pub size: Option<u64>,
    /// Copy a raw file or a block device into it
    #[arg(long, value_name = "FILE", conflicts_with = "base")]
    pub from: Option<PathBuf>,
    /// Begin with a raw file or a block device, file:PATH, or an export of another server,
    /// nbd://HOST/NAME. It is not copied and must not change
    #[arg(long, value_name = "BASE", value_parser = image_base)]
    pub base: Option<ImageBase>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What an image begins with.
#[derive(Debug, Clone)]
pub(crate) enum ImageBase {
    File(PathBuf),
    /// The URI of an export of another server.
    Remote(String),
}

fn image_base(text: &str) -> Result<ImageBase, String> {
    if ["nbd://", "nbd+unix://"].iter().any(|scheme| text.starts_with(scheme)) {
        text.parse::<ExportUri>().map_err(|error| error.to_string())?;
        return Ok(ImageBase::Remote(text.to_owned()));
    }
    base_path(text).map(ImageBase::File)
}

pub(super) fn base_path(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("file:") {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => Err("write file: and the path of a raw file or a block device, as in file:golden.raw".into()),
    }
}

pub(super) fn create(args: CreateArgs, control: Option<&ControlAddress>) -> Result<Outcome, RequestError> {
    let place = StorePlace { store: &args.image.store, control };
    let image = args.image.node.into_image().map_err(StoreError::Name)?;
    let answer = if let Some(from) = &args.from {
        copy(place, &image, from, args.size)?
    } else {
        let (base, remote) = match args.base {
            Some(ImageBase::File(path)) => (Some(path), None),
            Some(ImageBase::Remote(uri)) => (None, Some(Box::new(look_at_remote_base(&uri)?))),
            None => (None, None),
        };
        let (image, size) = (image.clone(), args.size);
        owner::ask(place, &StoreRequest::Create { image, size, base, remote }, |_, _| Ok(()))?
    };
    Ok(made(&image, &answer, args.json))
}

/// Tells of an image that was made.
pub(super) fn made(image: &StoreName, answer: &StoreAnswer, as_json: bool) -> Outcome {
    let size = match answer {
        StoreAnswer::Nodes(of) => of.nodes.first().map_or(0, |node| node.size),
        _ => 0,
    };
    show::answer(answer, as_json, &format!("{image} is made: {}.", human(size)))
}

/// Copies a file, with a bar on a terminal. A signal ends it, and nothing stays.
pub(super) fn copy(
    place: StorePlace<'_>,
    name: &StoreName,
    path: &Path,
    size: Option<u64>,
) -> Result<StoreAnswer, RequestError> {
    let at = |what| move |source| StoreError::Named { what, path: path.to_owned(), source };
    // The same that a base may be.
    look_at_base(path)?;
    let mut file = File::open(path).map_err(at("open"))?;
    let length = file.seek(SeekFrom::End(0)).map_err(at("look at"))?;
    let size = size.unwrap_or_else(|| length.next_multiple_of(SIZE_UNIT));
    if size < length {
        return Err(StoreError::TooSmall { path: path.to_owned(), length, size }.into());
    }
    let server = owner::clients_place(place)?;
    let line = Watched::begin("copying", path, Some(length))?;
    if let Some(uri) = server {
        let contents = (path, Contents::File(&file, length));
        return upload::fill((place, uri), (name, size), contents, &line);
    }
    let mut store = owner::open_alone(place)?;
    store.create_from(name, (path, &file, length), size, |done| line.progress(done))?;
    let made = store.describe_some(&[NodeName { image: name.clone(), snapshot: None }])?;
    Ok(StoreAnswer::Nodes(made))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::Cli;

    #[test]
    fn an_image_begins_in_one_way() {
        let accepts =
            |words: &[&str]| Cli::try_parse_from(["ringnbd", "image", "create"].iter().chain(words)).is_ok();
        for words in [
            &["s/a", "20G"][..],
            &["s/a", "--from", "f"],
            &["s/a", "--base", "file:f"],
            &["s/a", "1T", "--base", "file:f", "--json"],
            &["s/a", "--base", "nbd://host/golden?connections=4"],
            &["s/a", "--base", "nbd+unix:///?socket=s"],
            &["s/a", "1T", "--from", "f"],
        ] {
            assert!(accepts(words), "{words:?}");
        }
        for words in [
            &["s/a"][..],
            &["s/a", "20GB"],
            &["s/a", "--from", "f", "--base", "file:f"],
            &["s/a", "--base", "f"],
            &["s/a", "--base", "file:"],
            &["s/a", "--base", "nbd://host/x?connections=0"],
            &["s/", "1G"],
        ] {
            assert!(!accepts(words), "{words:?}");
        }
    }
}
