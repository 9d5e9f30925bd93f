//! Flows that share something by their weights: whose turn it is.
//!
//! Each flow has a virtual moment at which its next request begins. The first of them is next, and a request
//! moves its flow's moment on by what it costs divided by the weight. So over any time in which two flows
//! always want something, what they get is as their weights are, to within one request of each. A flow that
//! wanted nothing for a while goes on from the moment that the others have reached: nothing is saved up.
//!
//! This is start-time fair queueing. A deficit round robin gives the same parts, but in rounds of as many
//! requests as the greatest weight says. Beside a flow of weight 1000 one with a single request would wait
//! for a round, and here it waits for a request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

/// Tells flows apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlowId(u64);

impl FlowId {
    /// One that no other flow of the process has.
    pub(crate) fn unique() -> Self {
        static GIVEN: AtomicU64 = AtomicU64::new(0);
        Self(GIVEN.fetch_add(1, Ordering::Relaxed))
    }
}

/// Parts of a unit of cost, so that dividing by a weight leaves no rest worth mentioning.
const SCALE: u128 = 1 << 16;

/// See the module. A flow is known while it has members, or something waits in it.
#[derive(Debug)]
pub(super) struct Flows<T> {
    all: BTreeMap<FlowId, Flow<T>>,
    /// Those in which something waits, by the moment at which it begins.
    ready: BTreeSet<(u128, FlowId)>,
    /// The moment of what began last.
    reached: u128,
}

#[derive(Debug, Default)]
struct Flow<T> {
    weight: u16,
    begins: u128,
    is_ready: bool,
    members: usize,
    content: T,
}

impl<T> Default for Flows<T> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), ready: BTreeSet::new(), reached: 0 }
    }
}

impl<T: Default> Flows<T> {
    /// A flow of this weight has one member more.
    pub(super) fn join(&mut self, id: FlowId, weight: u16) -> &mut T {
        let flow = self.all.entry(id).or_default();
        flow.weight = weight.max(1);
        flow.members += 1;
        &mut flow.content
    }

    /// It has one less.
    pub(super) fn part(&mut self, id: FlowId) {
        self.flow(id).members -= 1;
        self.forget_unused(id);
    }

    /// What is in a flow.
    pub(super) fn content(&mut self, id: FlowId) -> &mut T {
        &mut self.flow(id).content
    }

    /// The flow that is next.
    pub(super) fn first(&self) -> Option<FlowId> {
        self.ready.first().map(|(_, id)| *id)
    }

    /// Something waits in a flow.
    pub(super) fn wants(&mut self, id: FlowId) {
        let reached = self.reached;
        let flow = self.flow(id);
        if !std::mem::replace(&mut flow.is_ready, true) {
            flow.begins = flow.begins.max(reached);
            let begins = flow.begins;
            self.ready.insert((begins, id));
        }
    }

    /// Nothing waits in a flow any more.
    pub(super) fn wants_nothing(&mut self, id: FlowId) {
        let flow = self.flow(id);
        if std::mem::take(&mut flow.is_ready) {
            let begins = flow.begins;
            self.ready.remove(&(begins, id));
            self.forget_unused(id);
        }
    }

    /// A request of a flow begins that costs so much. `is_next`: it was its turn.
    pub(super) fn charge(&mut self, id: FlowId, cost: u64, is_next: bool) {
        let reached = self.reached;
        let flow = self.flow(id);
        let (is_ready, before) = (flow.is_ready, flow.begins);
        let begins = if is_ready { before } else { before.max(reached) };
        flow.begins = begins + u128::from(cost) * SCALE / u128::from(flow.weight);
        let after = flow.begins;
        if is_ready {
            self.ready.remove(&(before, id));
            self.ready.insert((after, id));
        }
        if is_next {
            self.reached = reached.max(begins);
        }
    }

    fn forget_unused(&mut self, id: FlowId) {
        let flow = self.flow(id);
        if flow.members == 0 && !flow.is_ready {
            self.all.remove(&id);
        }
    }

    fn flow(&mut self, id: FlowId) -> &mut Flow<T> {
        self.all.get_mut(&id).expect("it has a member, or something waits in it")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flows(weights: &[u16]) -> (Flows<()>, Vec<FlowId>) {
        let mut flows = Flows::default();
        let ids: Vec<_> = weights.iter().map(|_| FlowId::unique()).collect();
        for (id, weight) in ids.iter().zip(weights) {
            flows.join(*id, *weight);
        }
        (flows, ids)
    }

    proptest! {
        /// Oracle: what each has got, by its weight, is as far as that of any other to within one request of
        /// each, whatever the requests cost and whenever the flows began.
        #[test]
        fn flows_that_always_want_something_get_what_their_weights_say(
            weights in prop::collection::vec(1_u16..=1000, 2..6),
            costs in prop::collection::vec(1_u64..5000, 400),
            late in prop::collection::vec(0_usize..50, 6),
        ) {
            let (mut flows, ids) = flows(&weights);
            let mut got = vec![0_u128; ids.len()];
            for (turn, cost) in costs.into_iter().enumerate() {
                for (id, late) in ids.iter().zip(&late) {
                    if *late == turn || turn == 50 {
                        flows.wants(*id);
                    }
                }
                if turn == 50 {
                    got.fill(0);
                }
                let Some(next) = flows.first() else { continue };
                flows.charge(next, cost, true);
                let index = ids.iter().position(|id| *id == next).unwrap();
                got[index] += u128::from(cost) * 1_000_000 / u128::from(weights[index]);
                if turn >= 50 {
                    for (one, of_one) in got.iter().zip(&weights) {
                        for (other, of_other) in got.iter().zip(&weights) {
                            let request = |weight: u16| 5000 * 1_000_000 / u128::from(weight);
                            prop_assert!(one.abs_diff(*other) <= 2 * (request(*of_one) + request(*of_other)));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_saved_up_and_a_late_one_is_next() {
        let (mut flows, ids) = flows(&[1000, 1]);
        flows.wants(ids[0]);
        for _ in 0..5000 {
            flows.charge(ids[0], 8, true);
        }
        flows.wants(ids[1]);
        assert_eq!(flows.first(), Some(ids[1]), "it has waited for one request at most");
        flows.charge(ids[1], 8, true);
        for turn in 0..999 {
            assert_eq!(flows.first(), Some(ids[0]), "{turn}");
            flows.charge(ids[0], 8, true);
        }
        flows.wants_nothing(ids[0]);
        flows.part(ids[0]);
        assert_eq!(flows.first(), Some(ids[1]));
        flows.part(ids[1]);
        assert_eq!(flows.all.len(), 1, "something waits in it");
        flows.wants_nothing(ids[1]);
        assert!(flows.all.is_empty() && flows.ready.is_empty());
    }
}
