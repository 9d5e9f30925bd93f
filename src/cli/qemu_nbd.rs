//! Run as `qemu-nbd`: the part of its command line that serves, connects and lists, for scripts that call it.
//!
//! A call becomes one of `ringnbd serve`, `attach` or `detach`, or a list in QEMU's words. What ringnbd has
//! not, such as formats with a meaning of their own, is refused with a sentence; nothing is silently done in
//! another way.

mod arguments;
mod listing;
mod translation;

use std::ffi::OsString;
use std::path::Path;

use clap::Parser;

use super::outcome::complain;
use super::text::print;
use super::{Cli, Outcome};
use crate::client::uri::NbdUri;
use crate::client::{self, Timeouts};
use crate::daemon::within::{NotUp, PrivateDirectory, ServerWithin};
use arguments::QemuNbdArgs;
use translation::{Calls, Translated, translate};

/// The name by which this is meant.
const NAME: &str = "qemu-nbd";

/// Whether a program was called by that name.
pub(crate) fn is_called(program: Option<&OsString>) -> bool {
    program.is_some_and(|program| Path::new(program).file_name().is_some_and(|name| name == NAME))
}

/// Runs as `qemu-nbd`.
pub(crate) fn run() -> Outcome {
    let args = QemuNbdArgs::parse();
    let Translated { calls, notes } = match translate(&args) {
        Ok(translated) => translated,
        Err(error) => return refused(error),
    };
    notes.iter().for_each(|note| complain(NAME, note));
    match calls {
        Calls::Run(words) => run_words(words),
        Calls::List(uri) => list(&uri),
        Calls::InBackground(words) => in_background(words, None),
        Calls::Connected { serve, attach } => in_background(serve, Some(attach)),
    }
}

/// qemu-nbd's exit code for everything that goes wrong.
fn refused(sentence: impl std::fmt::Display) -> Outcome {
    complain(NAME, sentence);
    Outcome::Failed
}

fn list(server: &NbdUri) -> Outcome {
    match client::list(server, Timeouts::default()) {
        Ok((dialect, exports)) => print(&listing::text(dialect, &exports)),
        Err(error) => refused(error),
    }
}

fn run_words(words: Vec<OsString>) -> Outcome {
    let program = OsString::from("ringnbd");
    match Cli::try_parse_from(std::iter::once(program).chain(words)) {
        Ok(cli) => match super::run(cli) {
            Outcome::Refused => Outcome::Failed,
            outcome => outcome,
        },
        Err(error) => refused(error),
    }
}

/// Starts a server that stays when this command ends. Then runs something about the export, if there is
/// something.
fn in_background(words: Vec<OsString>, attach: Option<Vec<OsString>>) -> Outcome {
    let directory = match PrivateDirectory::create() {
        Ok(directory) => directory,
        Err(error) => return refused(format_args!("cannot make a directory to wait in: {error}")),
    };
    // Behind the sub-command.
    let server = match ServerWithin::start(words.iter().skip(1), directory.path()) {
        Ok(server) => server,
        Err(NotUp::Ended(_)) => return Outcome::Failed,
        Err(NotUp::Failed(error)) => return refused(format_args!("cannot start the server: {error}")),
    };
    let Some(mut attach) = attach else { return Outcome::Done };
    attach.push(server.uri.as_deref().unwrap_or_default().into());
    let outcome = run_words(attach);
    if outcome != Outcome::Done {
        server.ask_to_stop();
    }
    outcome
}
