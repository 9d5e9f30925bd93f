//! Where requests wait for the rates of their export, and of its tenant.
//!
//! ```text
//! RateGroup      buckets of one export or one tenant; all shards share them
//! ExportLimits   the groups that are in force for an export, and its share of its device; the control plane
//!                puts others there
//! Gate           of an export on a shard: two lanes, of what reads and of what writes, and behind them the
//!                line before its device, where weights decide
//! Lane           its accounts, and the connections that wait, in order
//! ```
//!
//! Each connection waits with one request at most, since nothing of it is parsed meanwhile. The lanes are
//! apart so that a rate of writes holds up no read of another connection. Within a lane nobody overtakes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{Rate, RateLimits, RateScope, RateUnit, Weight};
use crate::shard::admission::cost::RequestCost;
use crate::shard::admission::fair::FlowId;
use crate::shard::admission::rate::{RateAccount, RateBucket};
use crate::shard::admission::share::{DeviceLine, Share, SharePlace};

/// The buckets of an export, or of a tenant.
#[derive(Debug, Clone, Default)]
pub(crate) struct RateGroup(Vec<(RateUnit, RateScope, Arc<RateBucket>)>);

impl RateGroup {
    /// The buckets of other limits. A rate that stays keeps what it has; one that changes begins anew.
    pub(crate) fn changed(&self, limits: &RateLimits) -> Self {
        let bucket = |unit: RateUnit, scope: RateScope, rate: Rate| {
            let is_same = |(of, at, bucket): &&(RateUnit, RateScope, Arc<RateBucket>)| {
                *of == unit && *at == scope && bucket.rate() == rate
            };
            match self.0.iter().find(is_same) {
                Some((.., bucket)) => Arc::clone(bucket),
                None => Arc::new(RateBucket::new(rate)),
            }
        };
        Self(limits.rates().map(|(unit, scope, rate)| (unit, scope, bucket(unit, scope, rate))).collect())
    }
}

/// What is counted, and where.
type SharedRate = (RateUnit, Arc<RateBucket>);

/// What holds an export's requests back, on all shards.
#[derive(Debug)]
pub struct ExportLimits(Mutex<InForce>);

/// What is in force for an export.
#[derive(Debug, Clone)]
struct InForce {
    lanes: Arc<[Vec<SharedRate>; 2]>,
    share: Share,
}

impl Default for ExportLimits {
    fn default() -> Self {
        Self(Mutex::new(InForce { lanes: Arc::default(), share: Share::alone() }))
    }
}

impl ExportLimits {
    /// Puts the rates of these groups into force. Shards look when they are
    /// [told](crate::shard::ShardHandle::rates_changed).
    pub(crate) fn set(&self, groups: &[&RateGroup]) {
        let of = |scope: RateScope| {
            let all = groups.iter().flat_map(|group| &group.0);
            let wanted = all.filter(move |(_, of, _)| *of == RateScope::Total || *of == scope);
            wanted.map(|(unit, _, bucket)| (*unit, Arc::clone(bucket))).collect()
        };
        let lanes = Arc::new([of(RateScope::Read), of(RateScope::Write)]);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).lanes = lanes;
    }

    /// Puts weights into force: the export's own, and that of the tenant whose it is. Shards look when they
    /// are told.
    pub(crate) fn weigh(&self, own: Option<Weight>, tenant: Option<(FlowId, Option<Weight>)>) {
        let mut in_force = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        in_force.share = in_force.share.weighed(own, tenant);
    }

    /// Puts the weight of an export without a tenant into force.
    #[cfg(any(feature = "sim", test))]
    pub fn weigh_alone(&self, weight: Option<Weight>) {
        self.weigh(weight, None);
    }

    /// Puts an export's own rates into force, which begin anew.
    #[cfg(any(feature = "sim", test))]
    pub fn set_alone(&self, limits: &RateLimits) {
        self.set(&[&RateGroup::default().changed(limits)]);
    }

    fn in_force(&self) -> InForce {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A gate as connections have it.
pub(crate) type SharedGate = Rc<RefCell<Gate>>;

/// With the number by which the shard knows it.
pub(crate) struct NumberedGate {
    pub(crate) gate: SharedGate,
    pub(crate) number: usize,
}

/// Where a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GatePlace {
    reads: bool,
    number: u64,
}

/// Of an export on a shard.
#[derive(Debug)]
pub(crate) struct Gate {
    limits: Arc<ExportLimits>,
    /// Of what reads, and of what writes.
    lanes: [Lane; 2],
    share: Share,
    /// Of its device.
    queue: Rc<RefCell<DeviceLine>>,
}

impl Gate {
    pub(crate) fn new(limits: Arc<ExportLimits>, queue: Rc<RefCell<DeviceLine>>) -> Self {
        let share = limits.in_force().share;
        queue.borrow_mut().join(&share);
        let mut gate = Self { limits, lanes: Default::default(), share, queue };
        gate.renew();
        gate
    }

    /// Whether it is the gate of these limits.
    pub(crate) fn is_of(&self, limits: &Arc<ExportLimits>) -> bool {
        Arc::ptr_eq(&self.limits, limits)
    }

    /// Takes over the rates and weights that are in force now. Those who wait keep their places.
    pub(crate) fn renew(&mut self) {
        let InForce { lanes, share } = self.limits.in_force();
        for (lane, shared) in self.lanes.iter_mut().zip(lanes.iter()) {
            lane.renew(shared);
        }
        if share != self.share {
            let mut queue = self.queue.borrow_mut();
            // In this order a tenant that stays is never forgotten.
            queue.join(&share);
            queue.part(&self.share);
            self.share = share;
        }
    }

    /// Whether there is any rate, or requests go by weight.
    pub(crate) fn is_limited(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.accounts.is_empty()) || self.is_weighed()
    }

    /// Whether requests go by weight.
    pub(crate) fn is_weighed(&self) -> bool {
        self.queue.borrow().is_in_force()
    }

    /// Lets a request that no rate holds back begin, or has it wait until it is its export's turn at the
    /// device. `now` is the moment of the turn.
    pub(crate) fn line_up(&mut self, key: u32, cost: RequestCost, now: u64) -> Option<SharePlace> {
        let mut queue = self.queue.borrow_mut();
        if queue.is_in_force() { queue.enter(&self.share, key, cost, now) } else { None }
    }

    /// A connection waits for its turn no more.
    pub(crate) fn leave_line(&mut self, place: SharePlace) {
        self.queue.borrow_mut().leave(place);
    }

    /// Lets a connection's request begin, or has it wait.
    pub(crate) fn enter(&mut self, key: u32, cost: RequestCost, now: u64) -> Option<GatePlace> {
        let number = self.lanes[usize::from(!cost.reads)].enter(key, cost, now)?;
        Some(GatePlace { reads: cost.reads, number })
    }

    /// A connection waits no more.
    pub(crate) fn leave(&mut self, place: GatePlace) {
        self.lanes[usize::from(!place.reads)].leave(place.number);
    }

    /// The next connection whose request may begin; it waits no more.
    pub(crate) fn next(&mut self, now: u64) -> Option<u32> {
        self.lanes.iter_mut().find_map(|lane| lane.next(now))
    }

    /// When that will be; none if nobody waits.
    pub(crate) fn due(&mut self, now: u64) -> Option<u64> {
        self.lanes.iter_mut().filter_map(|lane| lane.due(now)).min()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.queue.borrow_mut().part(&self.share);
    }
}

#[derive(Debug, Default)]
struct Lane {
    accounts: Vec<(RateUnit, RateAccount)>,
    /// Keys of connections, by number.
    waiting: BTreeMap<u64, (u32, RequestCost)>,
    /// Numbers that were given out.
    given: u64,
}

impl Lane {
    fn renew(&mut self, shared: &[SharedRate]) {
        // What the old ones have left goes back, to buckets that may stay.
        self.accounts.clear();
        self.accounts.extend(shared.iter().map(|(unit, bucket)| (*unit, RateAccount::new(bucket))));
    }

    /// When a request may begin that costs so much.
    fn moment(&mut self, cost: RequestCost, now: u64) -> u64 {
        let moments = self.accounts.iter_mut().map(|(unit, account)| account.secure(cost.of(*unit), now));
        moments.max().unwrap_or(0)
    }

    fn spend(&mut self, cost: RequestCost) {
        self.accounts.iter_mut().for_each(|(unit, account)| account.spend(cost.of(*unit)));
    }

    fn enter(&mut self, key: u32, cost: RequestCost, now: u64) -> Option<u64> {
        if self.waiting.is_empty() && self.moment(cost, now) <= now {
            self.spend(cost);
            return None;
        }
        let number = self.given;
        self.given += 1;
        self.waiting.insert(number, (key, cost));
        Some(number)
    }

    fn leave(&mut self, number: u64) {
        self.waiting.remove(&number).expect("it waits there");
        if self.waiting.is_empty() {
            self.accounts.iter_mut().for_each(|(_, account)| account.give_back());
        }
    }

    fn next(&mut self, now: u64) -> Option<u32> {
        let (&number, &(key, cost)) = self.waiting.first_key_value()?;
        if self.moment(cost, now) > now {
            return None;
        }
        self.spend(cost);
        self.waiting.remove(&number);
        Some(key)
    }

    fn due(&mut self, now: u64) -> Option<u64> {
        let cost = self.waiting.first_key_value()?.1.1;
        Some(self.moment(cost, now))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const START: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;
    const READ: RequestCost = RequestCost { reads: true, bytes: 4096 };
    const WRITE: RequestCost = RequestCost { reads: false, bytes: 4096 };

    fn group(value: serde_json::Value) -> RateGroup {
        RateGroup::default().changed(&RateLimits::default().patched(&value).unwrap())
    }

    fn gate(groups: &[&RateGroup]) -> (Arc<ExportLimits>, Gate) {
        let limits = Arc::new(ExportLimits::default());
        limits.set(groups);
        let queue = Rc::new(RefCell::new(DeviceLine::new(&Rc::default(), 0, 64)));
        (Arc::clone(&limits), Gate::new(limits, queue))
    }

    #[test]
    fn nobody_overtakes_and_reads_do_not_wait_for_writes() {
        let (_limits, mut gate) = gate(&[&group(json!({"write_iops": 100}))]);
        assert_eq!(gate.enter(0, WRITE, START), None);
        let first = gate.enter(0, WRITE, START).unwrap();
        let _second = gate.enter(1, WRITE, START).unwrap();
        assert_eq!((gate.enter(2, READ, START), gate.next(START)), (None, None));
        assert_eq!(gate.due(START), Some(START + 10 * MS));
        assert_eq!(gate.next(START + 10 * MS), Some(0));
        assert_eq!(gate.next(START + 10 * MS), None);
        let third = gate.enter(0, WRITE, START + 15 * MS).unwrap();
        assert!(third.number > first.number);
        assert_eq!(gate.next(START + 25 * MS), Some(1));
        gate.leave(third);
        assert_eq!(gate.due(START + 25 * MS), None);
    }

    #[test]
    fn all_rates_hold_at_once() {
        let (_limits, mut gate) = gate(&[&group(json!({"iops": 1000, "bytes": 40960}))]);
        let begun = |gate: &mut Gate| {
            let (mut now, mut count) = (START, 0);
            while now < START + 1000 * MS {
                let reads = count % 2 == 0;
                if gate.enter(0, RequestCost { reads, bytes: 4096 }, now).is_some() {
                    now = gate.due(now).unwrap();
                    if now < START + 1000 * MS {
                        assert_eq!(gate.next(now), Some(0));
                        count += 1;
                    }
                } else {
                    count += 1;
                }
            }
            count
        };
        assert_eq!(begun(&mut gate), 10, "reads and writes share a total");
    }

    #[test]
    fn a_tenants_exports_share_its_rate() {
        let tenant = group(json!({"iops": 100}));
        let own = group(json!({"iops": 1000}));
        let (mut one, mut other) = (gate(&[&own, &tenant]).1, gate(&[&tenant]).1);
        let (mut now, mut counts) = (START, [0, 0]);
        let gates = [&mut one, &mut other];
        for (key, gate) in gates.into_iter().enumerate() {
            if gate.enter(key as u32, READ, now).is_none() {
                counts[key] += 1;
                assert!(gate.enter(key as u32, READ, now).is_some());
            }
        }
        while now < START + 1000 * MS {
            let due = [one.due(now).unwrap(), other.due(now).unwrap()];
            let next = usize::from(due[1] < due[0]);
            now = due[next];
            let gate = if next == 0 { &mut one } else { &mut other };
            assert_eq!(gate.next(now), Some(next as u32));
            counts[next] += 1;
            assert!(gate.enter(next as u32, READ, now).is_some());
        }
        assert!(
            counts.iter().sum::<u32>().abs_diff(100) <= 2 && counts[0].abs_diff(counts[1]) <= 2,
            "{counts:?}"
        );
    }

    #[test]
    fn other_rates_are_in_force_at_once_for_those_who_wait() {
        let slow = group(json!({"iops": 1}));
        let (limits, mut gate) = gate(&[&slow]);
        assert_eq!(gate.enter(0, READ, START), None);
        for key in 1..4 {
            assert!(gate.enter(key, READ, START).is_some());
        }
        assert_eq!(gate.due(START), Some(START + 1000 * MS));
        let fast = slow.changed(&RateLimits::default().patched(&json!({"iops": 1000})).unwrap());
        limits.set(&[&fast]);
        gate.renew();
        assert_eq!(gate.due(START + MS), Some(START + MS));
        assert_eq!((gate.next(START + MS), gate.next(START + MS)), (Some(1), None));
        limits.set(&[&group(json!(null))]);
        gate.renew();
        assert!(!gate.is_limited());
        assert_eq!(
            [gate.next(START + MS), gate.next(START + MS), gate.next(START + MS)],
            [Some(2), Some(3), None]
        );
    }

    #[test]
    fn a_rate_that_stays_keeps_what_was_used_of_it() {
        let before = group(json!({"iops": 1, "bytes": 4096}));
        let (limits, mut gate) = gate(&[&before]);
        assert_eq!(gate.enter(0, READ, START), None);
        limits.set(&[&before.changed(&RateLimits::default().patched(&json!({"iops": 1})).unwrap())]);
        gate.renew();
        assert!(gate.enter(0, READ, START).is_some());
        assert_eq!(gate.due(START), Some(START + 1000 * MS));
    }
}
