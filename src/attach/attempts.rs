//! What is tried again when it fails, with pauses that grow.

use std::time::{Duration, Instant};

use super::error::AttachError;
use crate::pause::GrowingPause;

/// Between attempts.
const PAUSES: GrowingPause = GrowingPause::new(Duration::from_millis(50), Duration::from_secs(5));

/// When something is tried again.
#[derive(Debug)]
pub(super) struct Attempts {
    pause: GrowingPause,
    next: Option<Instant>,
    /// Said once, until something else is wrong.
    complaint: String,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { pause: PAUSES, next: None, complaint: String::new() }
    }
}

impl Attempts {
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now))
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// `what` did not come about for the device.
    pub(super) fn failed(&mut self, now: Instant, device: &str, what: &str, error: &AttachError) {
        self.next = Some(now + self.pause.take());
        let complaint = error.to_string();
        if complaint != self.complaint {
            tracing::warn!(device, "{what}: {complaint}");
            self.complaint = complaint;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_with_success() {
        let now = Instant::now();
        let mut attempts = Attempts::default();
        let mut pauses = Vec::new();
        for _ in 0..3 {
            attempts.failed(now, "d", "nothing", &AttachError::NoModule);
            pauses.push(attempts.wait(now).as_millis());
        }
        assert_eq!(pauses, [50, 100, 200]);
        attempts.succeeded();
        assert_eq!(attempts.wait(now), Duration::ZERO);
    }
}
