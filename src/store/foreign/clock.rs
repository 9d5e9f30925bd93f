//! The clock of whoever waits for a tier. A test may have one that does not wait.

#[cfg(not(test))]
pub(super) use real::FetchClock;
#[cfg(test)]
pub(in crate::store) use skipping::FetchClock;

#[cfg(not(test))]
mod real {
    use std::time::{Duration, Instant};

    #[derive(Debug, Default)]
    pub(in super::super) struct FetchClock;

    impl FetchClock {
        pub(in super::super) fn now(&self) -> Instant {
            Instant::now()
        }

        pub(in super::super) fn sleep(&self, time: Duration) {
            std::thread::sleep(time);
        }
    }
}

#[cfg(test)]
mod skipping {
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use crate::mutex::lock;

    /// Time stands still but for sleeping, once it skips. It is ahead of the real one: who is answered in
    /// real time is in time.
    const AHEAD: Duration = Duration::from_secs(3600);

    #[derive(Debug, Default)]
    pub(in crate::store) struct FetchClock(Mutex<Option<Instant>>);

    impl FetchClock {
        pub(in crate::store) fn now(&self) -> Instant {
            lock(&self.0).unwrap_or_else(Instant::now)
        }

        pub(in crate::store) fn sleep(&self, time: Duration) {
            let is_skipped = { lock(&self.0).as_mut().map(|now| *now += time).is_some() };
            if !is_skipped {
                std::thread::sleep(time);
            }
        }

        pub(in crate::store) fn skip(&self) {
            lock(&self.0).get_or_insert_with(|| Instant::now() + AHEAD);
        }
    }
}
