//! Signals and limits of this process.

use std::io;
use std::sync::Arc;

use crate::client::load::Stop;
use crate::daemon::signals::on_stop;

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
