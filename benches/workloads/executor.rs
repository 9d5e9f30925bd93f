//! The executor: tasks of about the size of a request's.

use std::hint::black_box;

use ringnbd::internal::ring::Ring;
use ringnbd::internal::task::{ReadyList, Tasks};

use super::{ROUND, Workload, ring};

/// Bytes that a task carries over its await: the task of a request is about so long.
const STATE: usize = 512;

/// Tasks that give way `waits` times before they end.
fn tasks(name: &'static str, waits: u32) -> Workload {
    let (ring, ready) = (ring(), ReadyList::detached());
    let mut tasks = Tasks::new(ring.clone(), ready.clone());
    let work = move |ready: ReadyList, ring: Ring, seed: u32| async move {
        let mut state = [seed as u8; STATE];
        for wait in 0..waits {
            ready.give_way(&ring).await;
            state[wait as usize] ^= 1;
        }
        black_box(&state);
    };
    Workload::new(name, move || {
        for index in 0..ROUND {
            tasks.spawn(work(ready.clone(), ring.clone(), index));
        }
        for _ in 0..=waits {
            tasks.run_ready();
        }
        assert_eq!(tasks.running(), 0);
    })
}

pub(super) fn workloads() -> Vec<Workload> {
    vec![
        tasks("executor/ends_at_once", 0),
        tasks("executor/waits_once", 1),
        tasks("executor/waits_four_times", 4),
    ]
}
