//! `ringnbd image create`: empty, on a base, or with the contents of a file.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::show;
use super::watched::Watched;
use crate::cli::Outcome;
use crate::cli::text::human;
use crate::config::size::parse_size;
use crate::store::catalog::{NodeName, SIZE_UNIT, StoreName};
use crate::store::image_path::ImagePath;
use crate::store::{MapFiles, OpenStore, StoreError, look_at_base};

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
    /// Begin with a raw file or a block device, file:PATH, which is not copied and must not change
    #[arg(long, value_name = "BASE", value_parser = base_path)]
    pub base: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn base_path(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("file:") {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => Err("write file: and the path of a raw file or a block device, as in file:golden.raw".into()),
    }
}

pub(super) fn create(args: CreateArgs) -> Result<Outcome, StoreError> {
    let name = args.image.node.into_image()?;
    let mut store = OpenStore::open_to_change(&args.image.store, MapFiles)?;
    match (&args.from, &args.base) {
        (Some(from), _) => copy(&mut store, &name, from, args.size)?,
        (None, Some(base)) => store.create_on_base(&name, args.size, look_at_base(base)?)?,
        // One of the three is there: the command line requires it.
        (None, None) => store.create_empty(&name, args.size.unwrap_or_default())?,
    }
    let size = store.view()?.image(&name).map_or(0, |image| image.size);
    let sentence = format!("{name} is made: {}.", human(size));
    show::done(&store, &[NodeName { image: name, snapshot: None }], args.json, &sentence)
}

/// Copies a file, with a bar on a terminal. A signal ends it, and nothing stays.
fn copy(
    store: &mut OpenStore<MapFiles>,
    name: &StoreName,
    path: &Path,
    size: Option<u64>,
) -> Result<(), StoreError> {
    let at = |what| move |source| StoreError::Named { what, path: path.to_owned(), source };
    // The same that a base may be.
    look_at_base(path)?;
    let mut file = File::open(path).map_err(at("open"))?;
    let length = file.seek(SeekFrom::End(0)).map_err(at("look at"))?;
    let size = size.unwrap_or_else(|| length.next_multiple_of(SIZE_UNIT));
    if size < length {
        return Err(StoreError::TooSmall { path: path.to_owned(), length, size });
    }
    let line = Watched::new("copying").map_err(at("watch for signals while copying"))?;
    store.create_from(name, (path, &file, length), size, |done| line.progress(done, length))
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
            &["s/", "1G"],
        ] {
            assert!(!accepts(words), "{words:?}");
        }
    }
}
