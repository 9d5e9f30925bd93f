//! What tests of operations need.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::{BufferPool, Ring, RingOptions, Wait};

/// A ring with room for some files.
pub(super) fn ring() -> (Ring, BufferPool) {
    Ring::new(&RingOptions { files: 16, ..RingOptions::small() }).unwrap()
}

/// Runs a future to its end; in a world also what happens there.
pub(super) fn finish<F: Future>(ring: &Ring, future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
        turn(ring);
    }
}

/// Submits, and waits for something to be finished.
pub(super) fn turn(ring: &Ring) {
    #[cfg(feature = "sim")]
    if let Some(world) = super::sim::World::current() {
        ring.submit_and_reap(Wait::No, usize::MAX, &mut Vec::new());
        world.step();
    }
    let wait = if ring.is_simulated() { Wait::No } else { Wait::Forever };
    ring.submit_and_reap(wait, usize::MAX, &mut Vec::new());
}
