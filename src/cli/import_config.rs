//! `ringnbd import-config`: the configuration of nbd-server, said in ringnbd's.

mod keyfile;
mod nbd_server;

use std::path::{Path, PathBuf};

use super::outcome::complain;
use super::{Outcome, text};
use crate::config::Settings;
use keyfile::{KeyFile, Section};
use nbd_server::Imported;

const LONG_HELP: &str = "\
What has no counterpart stands in the output as a comment, with what to do about it, and on stderr.

Examples:
  ringnbd import-config /etc/nbd-server/config > ringnbd.toml
  ringnbd serve --config ringnbd.toml --check

Exit codes: 0, it is printed; 1, the same with --strict when something was left out; 2, FILE cannot be read.";

/// More than any configuration has.
const LONGEST_FILE: u64 = 4 << 20;

/// Options of `ringnbd import-config`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows examples.")]
pub(crate) struct Args {
    /// The configuration of nbd-server
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Fail when something has no counterpart
    #[arg(long)]
    pub strict: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Outcome {
    let Imported { toml, left_out } = match import(&args.file) {
        Ok(imported) => imported,
        Err(sentence) => return Outcome::refused(sentence),
    };
    // It is ours, so it has to be right.
    if let Err(error) = Settings::from_toml(&toml) {
        return Outcome::refused(format_args!(
            "{}: the outcome is no configuration: {error}",
            args.file.display()
        ));
    }
    left_out.iter().for_each(|note| complain("ringnbd", note));
    match text::print(&toml) {
        Outcome::Done if args.strict && !left_out.is_empty() => Outcome::Failed,
        outcome => outcome,
    }
}

fn import(path: &Path) -> Result<Imported, String> {
    let mut sections = sections(path)?;
    if let Some(directory) = included(&sections) {
        for file in files_of(&directory)? {
            // What an included file says of the server itself is ignored, as by nbd-server.
            sections.extend(self::sections(&file)?.into_iter().filter(|section| section.name != "generic"));
        }
    }
    Ok(nbd_server::import(&sections, &|file| read(file).ok()))
}

fn included(sections: &[Section]) -> Option<PathBuf> {
    let generic = sections.iter().find(|section| section.name == "generic")?;
    generic.value("includedir").map(PathBuf::from)
}

/// The files of a directory that nbd-server includes: `*.conf`, in the order of their names.
fn files_of(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("cannot read includedir {}: {error}", directory.display())),
    };
    let mut files: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    files.sort_unstable();
    Ok(files)
}

fn sections(path: &Path) -> Result<Vec<Section>, String> {
    let text = read(path)?;
    KeyFile::parse(&text).map_err(|error| format!("{}, {error}", path.display()))
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let sentence = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(sentence)?;
    let length = file.take(LONGEST_FILE + 1).read_to_string(&mut text).map_err(sentence)?;
    if length as u64 > LONGEST_FILE {
        return Err(format!("{} is too long for a configuration", path.display()));
    }
    Ok(text)
}
