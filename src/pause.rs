//! Pauses between attempts of what has failed and may succeed later. No clock: callers wait by their own.

#![forbid(unsafe_code)]

use std::time::Duration;

/// A pause that is twice as long each time, from a first one to the longest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrowingPause {
    first: Duration,
    longest: Duration,
    taken: u32,
}

impl GrowingPause {
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, taken: 0 }
    }

    /// The pause that is due, if one is.
    pub fn upcoming(&self) -> Duration {
        self.after(self.taken)
    }

    /// Takes the pause that is due.
    pub fn take(&mut self) -> Duration {
        let pause = self.upcoming();
        self.taken = self.taken.saturating_add(1);
        pause
    }

    /// Something has succeeded: the next pause is the first one again.
    pub const fn restart(&mut self) {
        self.taken = 0;
    }

    /// The pause after so many others, which is the first one after none.
    pub fn after(&self, others: u32) -> Duration {
        self.first.saturating_mul(1_u32.checked_shl(others).unwrap_or(u32::MAX)).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_the_longest_and_begins_again() {
        let mut pause = GrowingPause::new(Duration::from_millis(50), Duration::from_secs(5));
        let pauses: Vec<_> = (0..9)
            .map(|_| {
                let upcoming = pause.upcoming();
                assert_eq!(pause.take(), upcoming);
                upcoming.as_millis()
            })
            .collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        pause.restart();
        assert_eq!(pause.take(), Duration::from_millis(50));
    }

    #[test]
    fn no_number_of_attempts_is_too_large() {
        let pause = GrowingPause::new(Duration::from_secs(2), Duration::from_secs(600));
        let after = |others| pause.after(others).as_secs();
        assert_eq!(
            [after(0), after(1), after(8), after(9), after(31), after(32)],
            [2, 4, 512, 600, 600, 600]
        );
        assert_eq!(pause.after(u32::MAX), Duration::from_secs(600));
        let endless = GrowingPause { taken: u32::MAX, ..GrowingPause::new(Duration::MAX, Duration::MAX) };
        assert_eq!(endless.clone().take(), Duration::MAX);
    }
}
