//! What the integration tests share: the server under test as a process, a raw NBD client, images and devices.
//!
//! Nothing here uses the crate under test: a mistake in its encoders cannot hide in its own tests. Set
//! `RINGNBD_TEST_PEER=qemu-nbd` (or `nbdkit`, `nbd-server`) to run the same tests against another server,
//! which shows that a test can fail.
#![allow(dead_code, reason = "each test crate uses its own part of the harness")]

pub(crate) mod check;
pub(crate) mod handshake;
pub(crate) mod image;
pub(crate) mod peer;
pub(crate) mod raw;
pub(crate) mod reply;
pub(crate) mod server;
pub(crate) mod tls;
pub(crate) mod wire;

use std::time::{Duration, Instant};

/// How long anything may take before a test calls it a hang. Generous, because the tests share their cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Polls `condition` until it holds; panics with `what` when [`PATIENCE`] runs out.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out after {PATIENCE:?} waiting for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
