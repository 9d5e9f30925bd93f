//! Whether anything is busy in this process beside the store's thread.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Others that take less than this part of one processor have nothing to wait for. Orders to the store's
/// thread alone take about a hundredth.
const IDLE_PART: u32 = 20;

/// Time that processors have spent until a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuTimes {
    at: Instant,
    /// By all threads.
    process: Duration,
    /// By the one that this was asked on, and by those that work for it.
    thread: Duration,
}

fn spent(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

impl CpuTimes {
    /// Those of the thread that calls. Others have worked for it for so long, and do not now.
    pub(super) fn now(aside: Duration) -> Self {
        let (process, thread) = (spent(ClockId::ProcessCPUTime), spent(ClockId::ThreadCPUTime));
        Self { at: Instant::now(), process, thread: thread + aside }
    }

    /// Whether other threads were busy since an earlier moment, which was told on the same thread.
    pub(super) fn others_were_busy(&self, before: &Self) -> bool {
        let thread = self.thread.saturating_sub(before.thread);
        let others = self.process.saturating_sub(before.process).saturating_sub(thread);
        others * IDLE_PART >= self.at.duration_since(before.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_busy_from_a_twentieth_of_a_processor_on() {
        let times = |at, process, thread| {
            let ms = Duration::from_millis;
            (ms(at), ms(process), ms(thread))
        };
        let begun = Instant::now();
        let made = |(at, process, thread)| CpuTimes { at: begun + at, process, thread };
        let before = made(times(1000, 500, 400));
        for (at, process, thread, is_busy) in
            [(1100, 600, 500, false), (1100, 604, 500, false), (1100, 605, 500, true), (1010, 520, 410, true)]
        {
            assert_eq!(made(times(at, process, thread)).others_were_busy(&before), is_busy, "{at} {process}");
        }
        // Clocks that are read one after the other do not fit to the nanosecond.
        assert!(!made(times(1001, 500, 401)).others_were_busy(&before));
    }

    #[test]
    fn a_thread_that_spins_is_busy_for_the_others_only() {
        let before = CpuTimes::now(Duration::ZERO);
        let mut word = 0_u64;
        while spent(ClockId::ThreadCPUTime) < before.thread + Duration::from_millis(20) {
            word = std::hint::black_box(word.wrapping_mul(3));
        }
        let after = CpuTimes::now(Duration::ZERO);
        assert!(after.process - before.process >= Duration::from_millis(20));
        assert!(after.thread - before.thread >= Duration::from_millis(20));
    }
}
