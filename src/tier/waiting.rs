//! For callers that wait.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::time::Duration;

use super::error::TierError;
use crate::random::Random;

/// Threads that look up names of hosts.
const LOOK_UPS: usize = 4;

/// From half of a time to all of it: hosts that were refused at one moment do not come back at one moment.
#[must_use]
pub fn spread(time: Duration) -> Duration {
    // The standard library has other keys each time.
    let seed = RandomState::new().build_hasher().finish();
    spread_by(time, Random::new(seed).fraction())
}

/// The same by a number from 0 to 1.
#[must_use]
pub fn spread_by(time: Duration, fraction: f64) -> Duration {
    time.mul_f64(0.5 + fraction / 2.0)
}

/// What a thread needs that asks a tier again and again, and waits. Made before a process is confined, it
/// works on afterwards.
#[derive(Debug)]
pub struct TierWaiting(tokio::runtime::Runtime);

impl TierWaiting {
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_io().enable_time().max_blocking_threads(LOOK_UPS).build().map(Self)
    }

    /// Waits on this thread.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.block_on(work)
    }
}

/// Waits for what is asked of a tier, on this thread.
///
/// # Errors
/// Its own.
pub fn run<T>(work: impl Future<Output = Result<T, TierError>>) -> Result<T, TierError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| super::objects::ObjectError::Other {
        key: "the tier".to_owned(),
        why: format!("no thread of this program can wait for it: {error}"),
    })?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_differ_and_have_bounds() {
        let time = Duration::from_secs(10);
        let waits: Vec<Duration> = (0..100).map(|_| spread(time)).collect();
        assert!(waits.iter().all(|wait| (time / 2..=time).contains(wait)), "{waits:?}");
        let distinct: std::collections::BTreeSet<_> = waits.iter().collect();
        assert!(distinct.len() > 90, "{} of 100 differ", distinct.len());
    }
}
