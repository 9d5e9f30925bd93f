//! What this process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files as far as this process may: each connection takes one or two for a moment,
/// and a place in a ring for good.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Without it fewer connections fit. The configuration's check, which counts them, says so.
    let _lower = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
