//! Signals and limits of this process.

use std::io;
use std::sync::Arc;

use crate::client::load::Stop;
use crate::control::on_stop;

/// The exit code of a command that a signal ended.
const INTERRUPTED: i32 = 130;

/// SIGINT and SIGTERM end the run early, with its results so far; a second one ends the process.
///
/// # Errors
/// The kernel's, when there is no room for a thread or a descriptor.
pub(super) fn watch(stop: &Arc<Stop>) -> io::Result<()> {
    let stop = Arc::clone(stop);
    on_stop(move || stop.request(), || std::process::exit(INTERRUPTED))
}

/// As many descriptors as this process may have: each connection needs one for a moment and a place in the ring for good.
pub(super) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Without it fewer connections fit, and the ring says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
