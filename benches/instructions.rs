//! The same workloads for `perf/instructions`, which runs this under callgrind and counts what happens in [`measured_rounds`] only.

mod workloads;

/// Rounds before counting: what grows once has grown, what is filled once is full.
const WARM_UP: u32 = 20;
/// Rounds that are counted.
const ROUNDS: u32 = 10;

/// callgrind knows this function by its name: entering it switches counting on, leaving it writes the counts down.
#[inline(never)]
fn measured_rounds(round: &mut dyn FnMut(), rounds: u32) {
    for _ in 0..rounds {
        round();
    }
}

fn main() {
    for mut workload in workloads::all() {
        for _ in 0..WARM_UP {
            (workload.round)();
        }
        measured_rounds(&mut workload.round, ROUNDS);
        // The order of these lines is the order of callgrind's files.
        println!("{} {}", workload.name, u64::from(ROUNDS) * workload.operations);
    }
}
