//! What is tried again when it fails, with pauses that grow.

use std::time::{Duration, Instant};

use super::error::AttachError;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// When something is tried again.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    pause: Option<Duration>,
    next: Option<Instant>,
    /// Said once, until something else is wrong.
    complaint: String,
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
        let pause = self.pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
        (self.pause, self.next) = (Some(pause), Some(now + pause));
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
    fn pauses_grow_to_a_limit_and_end_with_success() {
        let now = Instant::now();
        let mut attempts = Attempts::default();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            attempts.failed(now, "d", "nothing", &AttachError::NoModule);
            pauses.push(attempts.wait(now).as_millis());
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        attempts.succeeded();
        assert_eq!(attempts.wait(now), Duration::ZERO);
    }
}
