//! Weights of exports that come, change and go while clients use them. The numbers are drawn apart: a world without weights is what it
//! was before there were any.

use std::sync::Arc;

use ringnbd::internal::config::Weight;
use ringnbd::internal::ring::sim::{Random, mixed};
use ringnbd::internal::shard::{ExportLimits, SteppedShard};

use super::super::plan::Plan;
use super::Simulation;

/// What a world has of weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WeightPlan {
    seed: u64,
    /// How often one changes, by step.
    changes: f64,
    /// What a shard gives a device once there are weights.
    depth: usize,
}

impl WeightPlan {
    /// None in most worlds.
    pub(crate) fn some(seed: u64) -> Option<Self> {
        let seed = mixed(seed ^ 0x3e19_47ed);
        let mut random = Random::new(seed);
        random.chance(0.2).then(|| Self {
            seed,
            changes: random.pick(&[0.0005, 0.005, 0.05]),
            depth: random.pick(&[1, 3, 64]),
        })
    }

    /// A world that has them.
    pub(crate) fn added_to(this: Option<Self>, mut plan: Plan) -> Plan {
        if let Some(Self { depth, .. }) = this {
            Arc::make_mut(&mut plan.limits).device_depth = depth;
        }
        Plan { weights: this, ..plan }
    }
}

/// The weights of a run.
pub(super) struct Weighing {
    random: Random,
    /// By export.
    pub(super) limits: Vec<Arc<ExportLimits>>,
    /// How often one has changed.
    pub(super) changes: u64,
}

impl Weighing {
    pub(super) fn new(plan: &Plan) -> Self {
        let seed = plan.weights.map_or(0, |weights| weights.seed);
        let limits = plan.disks.iter().map(|_| Arc::default()).collect();
        Self { random: Random::new(seed), limits, changes: 0 }
    }
}

impl Simulation {
    /// Perhaps an export gets another weight, or has none any more.
    pub(super) fn weigh(&mut self) {
        let Some(WeightPlan { changes, .. }) = self.plan.weights else { return };
        let Weighing { random, limits, changes: made } = &mut self.weighing;
        if !random.chance(changes) {
            return;
        }
        let number: u64 = random.pick(&[0, 0, 1, 3, 1000]);
        let weight: Option<Weight> =
            (number > 0).then(|| serde_json::from_value(number.into()).expect("a weight"));
        limits[random.below(limits.len() as u64) as usize].weigh_alone(weight);
        self.shards.iter().for_each(SteppedShard::rates_changed);
        *made += 1;
    }
}
