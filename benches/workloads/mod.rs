//! What is measured: rounds of a fixed number of operations, always the same ones.

mod executor;
mod recording;
mod replying;
mod shard;
mod wire;

use ringnbd::internal::ring::{Ring, RingOptions};

/// Operations of one round: about what a busy shard does in one turn.
const ROUND: u32 = 64;

/// One thing to measure.
pub(crate) struct Workload {
    /// `group/name`.
    pub(crate) name: &'static str,
    /// Operations of one round.
    pub(crate) operations: u64,
    /// Does them.
    pub(crate) round: Box<dyn FnMut()>,
}

impl Workload {
    /// [`ROUND`] operations a round.
    fn new(name: &'static str, round: impl FnMut() + 'static) -> Self {
        Self { name, operations: u64::from(ROUND), round: Box::new(round) }
    }
}

/// A ring that is set up and never entered.
fn ring() -> Ring {
    let options = RingOptions {
        reserve: 0,
        lease_memory: 48 << 20,
        longest_lease: 32 << 20,
        receive_buffers: 1,
        receive_buffer: 4096,
        files: 1,
        registered: false,
        workers: 0,
    };
    Ring::new(&options).unwrap_or_else(|error| panic!("{error}")).0
}

/// All, in a fixed order.
pub(crate) fn all() -> Vec<Workload> {
    let mut all = wire::workloads();
    all.extend(replying::workloads());
    all.extend(executor::workloads());
    all.extend(recording::workloads());
    all.extend(shard::workloads());
    all
}
