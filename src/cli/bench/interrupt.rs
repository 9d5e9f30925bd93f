//! Signals and limits of this process.

use std::io;
use std::sync::Arc;

use crate::client::load::Stop;

/// The exit code of a command that a signal ended.
const INTERRUPTED: i32 = 130;

/// SIGINT and SIGTERM end the run early, with its results so far; a second one ends the process.
///
/// # Errors
/// The kernel's, when there is no room for a thread or a descriptor.
pub(super) fn watch(stop: &Arc<Stop>) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = Arc::clone(stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = move || {
        runtime.block_on(async move {
            let mut next = async || {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            };
            next().await;
            stop.request();
            next().await;
            std::process::exit(INTERRUPTED);
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}

/// As many descriptors as this process may have: each connection needs one for a moment and a place in the ring for good.
pub(super) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Without it fewer connections fit, and the ring says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
