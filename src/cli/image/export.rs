//! `ringnbd image export`: the contents of an image, or what changed between two snapshots.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use super::watched::Watched;
use crate::cli::Outcome;
use crate::cli::owner::{self, RequestError, StorePlace};
use crate::cli::text::{human, json, print};
use crate::config::ControlAddress;
use crate::store::catalog::{NameError, NodeName, StoreName};
use crate::store::image_path::ImagePath;
use crate::store::{MapFiles, OpenStore, RawOutput, StoreError, random_uuid};

/// Instead of a file: the standard output.
const STANDARD: &str = "-";

#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// STORE/NAME, or STORE/NAME@SNAPSHOT
    #[arg(value_name = "STORE/NAME[@SNAPSHOT]")]
    pub node: ImagePath,
    /// The file to make, or - for the standard output
    #[arg(value_name = "FILE")]
    pub out: PathBuf,
    /// Write what makes snapshot B of snapshot A of the image; ..B makes it of nothing
    #[arg(long, value_name = "[A]..B")]
    pub delta: Option<DeltaRange>,
    /// Replace a file that exists
    #[arg(long)]
    pub force: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `A..B`, or `..B`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeltaRange {
    from: Option<StoreName>,
    to: StoreName,
}

impl FromStr for DeltaRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = || "write two snapshots of the image, as in monday..tuesday, or ..tuesday for all of it";
        let (from, to) = text.split_once("..").ok_or_else(hint)?;
        let name = |text: &str| text.parse().map_err(|error: NameError| error.to_string());
        Ok(Self { from: (!from.is_empty()).then(|| name(from)).transpose()?, to: name(to)? })
    }
}

/// What was exported; its keys are part of the interface.
#[derive(Debug, Serialize)]
struct ExportedJson<'a> {
    store: &'a Path,
    node: String,
    file: &'a Path,
    size: u64,
    /// The snapshot that a delta begins with.
    from: Option<String>,
    delta: bool,
}

pub(super) fn export(args: &ExportArgs, control: Option<&ControlAddress>) -> Result<Outcome, RequestError> {
    let (from, node) = match &args.delta {
        None => (None, args.node.node.clone()),
        Some(range) => named(&args.node.node, range)?,
    };
    let copying = Watched::begin("copying", &args.out, Some(0))?;
    let (place, from) = (StorePlace { store: &args.node.store, control }, from.as_ref());
    owner::look(place, (&node, from), |store| export_of(store, (from, &node), args, &copying))
}

fn export_of(
    store: &OpenStore<MapFiles>,
    (from, node): (Option<&NodeName>, &NodeName),
    args: &ExportArgs,
    copying: &Watched,
) -> Result<Outcome, StoreError> {
    let size = store.size_of(node)?;
    if args.out.as_os_str() == STANDARD {
        let out = io::stdout().lock();
        write_out(store, (from, node, size), args, (&args.out, RawOutput::Stream(out)), copying)?;
        return Ok(Outcome::Done);
    }
    if store.needs_path(&args.out)? {
        return Err(StoreError::Needed(args.out.clone()));
    }
    let new = NewFile::make(&args.out, args.force)?;
    let output: RawOutput<'_, &File> = match args.delta {
        None => RawOutput::Sparse(&new.file),
        Some(_) => RawOutput::Stream(&new.file),
    };
    write_out(store, (from, node, size), args, (&args.out, output), copying)?;
    copying.end();
    new.finish(args.force)?;
    let file = args.out.as_path();
    let sentence = match (&args.delta, from) {
        (None, _) => format!("{} has all of {node}: {}.", file.display(), human(size)),
        (Some(_), None) => format!("{} makes {node}.", file.display()),
        (Some(_), Some(from)) => format!("{} makes {node} of {from}.", file.display()),
    };
    if !args.json {
        return Ok(print(&format!("{sentence}\n")));
    }
    let (from, delta) = (from.map(|from| from.to_string()), args.delta.is_some());
    let shown = ExportedJson { store: store.path(), node: node.to_string(), file, size, from, delta };
    Ok(print(&json(&shown)))
}

/// The two snapshots of a delta.
fn named(node: &NodeName, range: &DeltaRange) -> Result<(Option<NodeName>, NodeName), StoreError> {
    let of = |snapshot: &StoreName| NodeName { image: node.image.clone(), snapshot: Some(snapshot.clone()) };
    let to = of(&range.to);
    if node.snapshot.is_some() && *node != to {
        return Err(StoreError::OtherSnapshot { node: node.to_string(), to: to.to_string() });
    }
    Ok((range.from.as_ref().map(of), to))
}

fn write_out<W: Write>(
    store: &OpenStore<MapFiles>,
    (from, node, size): (Option<&NodeName>, &NodeName, u64),
    args: &ExportArgs,
    (path, mut out): (&Path, RawOutput<'_, W>),
    copying: &Watched,
) -> Result<(), StoreError> {
    let progress = &mut |done| copying.progress_of(done, size);
    match (&args.delta, &mut out) {
        (Some(_), RawOutput::Stream(stream)) => {
            store.export_delta(from, node, (path, &mut BufWriter::new(stream)), progress)
        }
        _ => store.export_raw(node, (path, &mut out), progress),
    }
}

/// A file that gets its name when it is complete.
struct NewFile {
    file: File,
    path: PathBuf,
    /// Its name until then.
    new: PathBuf,
    is_done: bool,
}

impl NewFile {
    fn make(path: &Path, may_replace: bool) -> Result<Self, StoreError> {
        match std::fs::symlink_metadata(path) {
            // What is no file is not replaced by one.
            Ok(found) if !may_replace || !found.is_file() => {
                return Err(StoreError::FileExists(path.to_owned()));
            }
            _ => {}
        }
        let at = |what| move |source| StoreError::Named { what, path: path.to_owned(), source };
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput.into()).map_err(at("write"))?;
        let mut new = std::ffi::OsString::from(".");
        new.push(name);
        new.push(format!(".{}", random_uuid()));
        let new = path.with_file_name(new);
        let file = File::options().write(true).create_new(true).open(&new).map_err(at("write"))?;
        Ok(Self { file, path: path.to_owned(), new, is_done: false })
    }

    fn finish(mut self, may_replace: bool) -> Result<(), StoreError> {
        let at = |source| StoreError::Named { what: "write", path: self.path.clone(), source };
        self.file.sync_all().map_err(at)?;
        let named = match may_replace {
            true => std::fs::rename(&self.new, &self.path),
            // A file that came meanwhile is not replaced.
            false => std::fs::hard_link(&self.new, &self.path).and_then(|()| std::fs::remove_file(&self.new)),
        };
        match named {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::FileExists(self.path.clone()));
            }
            named => named.map_err(at)?,
        }
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let synced = File::open(parent.unwrap_or(Path::new("."))).and_then(|parent| parent.sync_all());
        synced.map_err(at)?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_done {
            let _gone = std::fs::remove_file(&self.new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_two_snapshots_or_one() {
        let name = |text: &str| text.parse::<StoreName>().unwrap();
        let range = "mon..tue".parse::<DeltaRange>().unwrap();
        assert_eq!(range, DeltaRange { from: Some(name("mon")), to: name("tue") });
        assert_eq!("..tue".parse::<DeltaRange>().unwrap(), DeltaRange { from: None, to: name("tue") });
        for text in ["", "mon", "mon..", "..", "a..b..c", "a...b"] {
            text.parse::<DeltaRange>().unwrap_err();
        }
    }

    #[test]
    fn a_file_has_its_name_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let names = || std::fs::read_dir(directory.path()).unwrap().count();
        drop(NewFile::make(&path, false).unwrap());
        assert_eq!(names(), 0);
        NewFile::make(&path, false).unwrap().finish(false).unwrap();
        assert!(matches!(NewFile::make(&path, false), Err(StoreError::FileExists(_))));
        let other = NewFile::make(&path, true).unwrap();
        assert!(matches!(other.finish(false), Err(StoreError::FileExists(_))));
        NewFile::make(&path, true).unwrap().finish(true).unwrap();
        assert_eq!(names(), 1);
        assert!(NewFile::make(directory.path(), true).is_err(), "a directory stays");
    }
}
