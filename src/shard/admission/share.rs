//! Where requests wait for their turn at a device, by the weights of tenants and exports.
//!
//! ```text
//! Share         whose an export is, and the weights; the control plane says so
//! DeviceLine    of a device on a shard: what waits for it, and how much it has been given
//! Weighing      what all lines of a shard have in common
//! ```
//!
//! Tenants share a device, and the exports of a tenant share what it gets; an export without a tenant is one
//! of its own. A device is given a bounded depth: what is queued inside of it is out of anybody's hands. Of
//! what needs no device, a shard answers so much in a turn. Until an export says a weight nothing of this is
//! done, and a request pays nothing for it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use crate::config::Weight;
use crate::shard::admission::cost::RequestCost;
use crate::shard::admission::fair::{FlowId, Flows};

/// Requests that begin before a device in one turn, if it is never busy.
const MOST_IN_TURN: usize = 256;
/// The same when exports share the device: what has just come waits for the turn to end, and often for one
/// more. So many reads of the page cache take some 40 µs, and cost no more each than those of longer turns.
const MOST_IN_SHARED_TURN: usize = 24;
/// For how long a device counts as shared when requests of two exports have begun before it, in ns. Whoever
/// reads but once a second finds short turns too.
const SHARED_FOR: u64 = 1_000_000_000;
/// Bytes that count as one request more.
const LONG: u64 = 64 << 10;
/// What a request costs by itself, in units of [`UNIT`] bytes: one of 4 KiB costs twice as much.
const BASE_COST: u64 = 8;
const UNIT: u64 = 512;
/// What one connection may begin before others of its export do: eight small requests.
const SPELL: u64 = 8 * 2 * BASE_COST;

/// Whose an export is, and what it gets beside others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    tenant: FlowId,
    tenant_weight: u16,
    export: FlowId,
    weight: u16,
    /// A weight was said.
    is_said: bool,
}

impl Share {
    /// Of an export that says nothing.
    pub(crate) fn alone() -> Self {
        let (flow, weight) = (FlowId::unique(), Weight::LEAST.get());
        Self { tenant: flow, tenant_weight: weight, export: flow, weight, is_said: false }
    }

    /// The same export with other weights, its own and that of the tenant whose it is.
    pub(crate) fn weighed(self, own: Option<Weight>, tenant: Option<(FlowId, Option<Weight>)>) -> Self {
        let number = |weight: Option<Weight>| weight.unwrap_or(Weight::LEAST).get();
        let is_said = own.is_some() || tenant.is_some_and(|(_, weight)| weight.is_some());
        let (tenant, tenant_weight) = match tenant {
            Some((flow, weight)) => (flow, number(weight)),
            None => (self.export, number(own)),
        };
        Self { tenant, tenant_weight, export: self.export, weight: number(own), is_said }
    }
}

/// What all lines of a shard have in common.
#[derive(Debug, Default)]
pub(crate) struct Weighing {
    /// Exports with connections here that say a weight.
    said: Cell<usize>,
    /// That has become none, or is no longer.
    has_turned: Cell<bool>,
    /// The numbers of lines in which something waits, each once.
    listed: RefCell<VecDeque<usize>>,
    /// There may be something to do: a shard looks at this each turn, and at the rest if so.
    is_due: Cell<bool>,
}

impl Weighing {
    /// Whether requests go by weight.
    pub(crate) fn is_in_force(&self) -> bool {
        self.said.get() > 0
    }

    /// Whether there may be something to do.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.is_due.get()
    }

    /// Whether [`Weighing::is_in_force`] has changed since this was last asked.
    pub(crate) fn take_turned(&self) -> bool {
        self.is_due.set(!self.listed.borrow().is_empty());
        self.has_turned.take()
    }

    /// Lines in which something waits.
    pub(crate) fn listed(&self) -> usize {
        self.listed.borrow().len()
    }

    /// The number of the next of them, which is on the list no more.
    pub(crate) fn next_listed(&self) -> Option<usize> {
        self.listed.borrow_mut().pop_front()
    }

    /// Whether this is so of one of them.
    pub(crate) fn is_any(&self, is_it: impl Fn(usize) -> bool) -> bool {
        self.listed.borrow().iter().any(|number| is_it(*number))
    }

    /// A line is gone.
    pub(crate) fn forget(&self, number: usize) {
        self.listed.borrow_mut().retain(|listed| *listed != number);
    }

    fn list(&self, number: usize) {
        self.listed.borrow_mut().push_back(number);
        self.is_due.set(true);
    }

    fn says(&self, more: usize, less: usize) {
        let (before, after) = (self.said.get(), self.said.get() + more - less);
        self.said.set(after);
        if (before == 0) != (after == 0) {
            self.has_turned.set(true);
            self.is_due.set(true);
        }
    }
}

/// Where a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SharePlace {
    tenant: FlowId,
    export: FlowId,
    number: u64,
}

/// Keys of connections with what their requests cost, by number.
type Waiting = BTreeMap<u64, (u32, u64)>;

/// See the module.
#[derive(Debug)]
pub(crate) struct DeviceLine {
    weighing: Rc<Weighing>,
    /// Its own among those of the shard.
    number: usize,
    depth: usize,
    /// What the device works on, in requests; the grants of requests count it.
    load: Rc<Cell<usize>>,
    tenants: Flows<Flows<Waiting>>,
    waiting: usize,
    /// Its number is among those of the lines in which something waits.
    is_listed: bool,
    /// Numbers that were given out.
    given: u64,
    /// The turn by its moment, and what began in it.
    turn: u64,
    begun: usize,
    /// The export whose request began last, and until when the device counts as shared.
    last: Option<FlowId>,
    shared_until: u64,
    /// The connection whose turn it is, and what it may still begin.
    spell: Option<(u32, u64)>,
}

/// What a request counts at its device.
pub(crate) fn load(bytes: u64) -> u16 {
    u16::try_from(1 + bytes / LONG).unwrap_or(u16::MAX)
}

fn cost(request: RequestCost) -> u64 {
    BASE_COST + request.bytes.div_ceil(UNIT)
}

impl DeviceLine {
    pub(crate) fn new(weighing: &Rc<Weighing>, number: usize, depth: usize) -> Self {
        Self {
            weighing: Rc::clone(weighing),
            number,
            depth,
            load: Rc::default(),
            tenants: Flows::default(),
            waiting: 0,
            is_listed: false,
            given: 0,
            turn: 0,
            begun: 0,
            last: None,
            shared_until: 0,
            spell: None,
        }
    }

    /// What the device works on.
    pub(crate) fn load(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.load)
    }

    /// Whether requests go by weight.
    pub(crate) fn is_in_force(&self) -> bool {
        self.weighing.is_in_force()
    }

    /// An export has connections here.
    pub(crate) fn join(&mut self, share: &Share) {
        self.tenants.join(share.tenant, share.tenant_weight).join(share.export, share.weight);
        self.weighing.says(share.is_said.into(), 0);
    }

    /// It has none any more, or another share. What waits keeps its place.
    pub(crate) fn part(&mut self, share: &Share) {
        self.tenants.content(share.tenant).part(share.export);
        self.tenants.part(share.tenant);
        self.weighing.says(0, share.is_said.into());
    }

    /// Lets a connection's request begin, or has it wait; `now` is the moment of the turn.
    pub(crate) fn enter(
        &mut self,
        share: &Share,
        key: u32,
        request: RequestCost,
        now: u64,
    ) -> Option<SharePlace> {
        self.look_at_turn(now);
        let cost = cost(request);
        let is_first = self.waiting == 0;
        if self.has_room() && (is_first || self.goes_on(key, cost)) {
            self.begin(share.tenant, share.export, cost, is_first);
            return None;
        }
        let place = SharePlace { tenant: share.tenant, export: share.export, number: self.given };
        self.given += 1;
        let exports = self.tenants.content(share.tenant);
        exports.content(share.export).insert(place.number, (key, cost));
        exports.wants(share.export);
        self.tenants.wants(share.tenant);
        self.waiting += 1;
        self.list();
        Some(place)
    }

    /// A connection waits no more.
    pub(crate) fn leave(&mut self, place: SharePlace) {
        let SharePlace { tenant, export, number } = place;
        let exports = self.tenants.content(tenant);
        exports.content(export).remove(&number).expect("it waits there");
        self.waited(tenant, export);
    }

    /// The next connection whose request may begin; it waits no more. `now` is the moment of the turn.
    pub(crate) fn next(&mut self, now: u64) -> Option<u32> {
        self.look_at_turn(now);
        self.spell = None;
        if !self.has_room() {
            return None;
        }
        let tenant = self.tenants.first()?;
        let exports = self.tenants.content(tenant);
        let export = exports.first().expect("the tenant has one in which something waits");
        let (_, (key, cost)) = exports.content(export).pop_first().expect("something waits in it");
        self.begin(tenant, export, cost, true);
        self.waited(tenant, export);
        self.spell = Some((key, SPELL.saturating_sub(cost)));
        Some(key)
    }

    /// It was taken off the list of the lines in which something waits, and goes to its end if that is still
    /// so.
    pub(crate) fn list_again(&mut self) {
        self.is_listed = false;
        if self.waiting > 0 {
            self.list();
        }
    }

    fn list(&mut self) {
        if !std::mem::replace(&mut self.is_listed, true) {
            self.weighing.list(self.number);
        }
    }

    /// Whether something waits that may begin in the next turn.
    pub(crate) fn may_go_on(&self) -> bool {
        self.waiting > 0 && self.load.get() < self.depth
    }

    fn look_at_turn(&mut self, now: u64) {
        if std::mem::replace(&mut self.turn, now) != now {
            (self.begun, self.spell) = (0, None);
        }
    }

    /// A request may overdraw, so that none is too long to begin.
    fn has_room(&self) -> bool {
        let most = if self.turn < self.shared_until { MOST_IN_SHARED_TURN } else { MOST_IN_TURN };
        self.load.get() < self.depth && self.begun < most
    }

    /// Whether it is this connection's turn, and it may begin one more.
    fn goes_on(&mut self, key: u32, cost: u64) -> bool {
        match &mut self.spell {
            Some((of, left)) if *of == key && *left >= cost => {
                *left -= cost;
                true
            }
            _ => false,
        }
    }

    fn begin(&mut self, tenant: FlowId, export: FlowId, cost: u64, is_next: bool) {
        self.begun += 1;
        if self.last.replace(export).is_some_and(|last| last != export) {
            self.shared_until = self.turn + SHARED_FOR;
        }
        self.tenants.charge(tenant, cost, is_next);
        self.tenants.content(tenant).charge(export, cost, is_next);
    }

    /// One less waits in an export.
    fn waited(&mut self, tenant: FlowId, export: FlowId) {
        self.waiting -= 1;
        let exports = self.tenants.content(tenant);
        if exports.content(export).is_empty() {
            exports.wants_nothing(export);
            if exports.first().is_none() {
                self.tenants.wants_nothing(tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: RequestCost = RequestCost { reads: true, bytes: 4096 };

    fn weight(number: u64) -> Option<Weight> {
        Some(Weight::new(number).unwrap())
    }

    fn queue(depth: usize) -> (Rc<Weighing>, DeviceLine) {
        let weighing = Rc::default();
        (Rc::clone(&weighing), DeviceLine::new(&weighing, 7, depth))
    }

    /// Begins so many in as many turns of one each; how many of each connection.
    fn dealt(queue: &mut DeviceLine, shares: &[Share], turns: u64) -> Vec<usize> {
        let mut counts = vec![0; shares.len()];
        for turn in 1..=turns {
            let key = queue.next(turn).expect("all always want something");
            counts[key as usize] += 1;
            assert!(queue.enter(&shares[key as usize], key, READ, turn + turns).is_some());
        }
        counts
    }

    #[test]
    fn tenants_share_a_device_and_exports_what_their_tenant_gets() {
        let (weighing, mut queue) = queue(1);
        let (blue, red) = (FlowId::unique(), FlowId::unique());
        let shares = [
            Share::alone().weighed(weight(1), Some((blue, weight(2)))),
            Share::alone().weighed(weight(3), Some((blue, weight(2)))),
            Share::alone().weighed(weight(500), Some((red, None))),
            Share::alone().weighed(weight(1), None),
        ];
        shares.iter().for_each(|share| queue.join(share));
        queue.load.set(1);
        for (share, key) in shares.iter().zip(0..) {
            assert!(queue.enter(share, key, READ, 1).is_some(), "the device has enough");
        }
        assert_eq!((queue.next(1), queue.may_go_on()), (None, false));
        queue.load.set(0);
        assert!(queue.may_go_on());
        assert_eq!(dealt(&mut queue, &shares, 800), [100, 300, 200, 200]);
        assert_eq!((weighing.next_listed(), weighing.next_listed()), (Some(7), None), "once");
    }

    #[test]
    fn what_needs_no_device_is_shared_turn_by_turn() {
        let (_weighing, mut queue) = queue(64);
        let shares = [3, 1].map(|number| Share::alone().weighed(weight(number), None));
        shares.iter().for_each(|share| queue.join(share));
        queue.load.set(64);
        for (share, key) in shares.iter().zip(0..) {
            assert!(queue.enter(share, key, READ, 1).is_some());
        }
        queue.load.set(0);
        let mut counts = [0; 2];
        for turn in 2..12 {
            while let Some(key) = queue.next(turn) {
                counts[key as usize] += 1;
                while queue.enter(&shares[key as usize], key, READ, turn).is_none() {
                    counts[key as usize] += 1;
                }
            }
        }
        assert_eq!(counts.iter().sum::<usize>(), 10 * MOST_IN_SHARED_TURN);
        assert!(counts[0].abs_diff(3 * counts[1]) <= 3 * 8, "{counts:?}");
    }

    #[test]
    fn turns_are_short_while_exports_share_a_device() {
        let (_weighing, mut queue) = queue(1024);
        let shares = [1, 1].map(|number| Share::alone().weighed(weight(number), None));
        shares.iter().for_each(|share| queue.join(share));
        let begun = |queue: &mut DeviceLine, turn| {
            let begun = (0..).take_while(|_| queue.enter(&shares[0], 0, READ, turn).is_none()).count();
            assert_eq!(
                (queue.next(turn), queue.next(turn + 1)),
                (None, Some(0)),
                "the next turn has the rest"
            );
            begun
        };
        assert_eq!(begun(&mut queue, 10), MOST_IN_TURN, "nobody else has begun anything");
        // The other one reads once, and for a second it may do so again at any time.
        assert_eq!(queue.enter(&shares[1], 1, READ, 20), None);
        assert_eq!(begun(&mut queue, 30), MOST_IN_SHARED_TURN);
        assert_eq!(
            begun(&mut queue, 20 + SHARED_FOR),
            MOST_IN_SHARED_TURN,
            "the first one's came after that"
        );
        assert_eq!(begun(&mut queue, 30 + SHARED_FOR), MOST_IN_TURN);
    }

    #[test]
    fn one_connection_begins_several_and_then_it_is_the_turn_of_others() {
        let (_weighing, mut queue) = queue(64);
        let share = Share::alone().weighed(weight(1), None);
        queue.join(&share);
        for key in 0..MOST_IN_TURN as u32 {
            assert_eq!(queue.enter(&share, key, READ, 1), None, "nobody waits");
        }
        let places: Vec<_> = (0..2).map(|key| queue.enter(&share, key, READ, 1).unwrap()).collect();
        assert_eq!(queue.next(1), None, "enough for one turn");
        assert_eq!(queue.next(2), Some(0));
        let more = (0..100).take_while(|_| queue.enter(&share, 0, READ, 2).is_none()).count();
        assert_eq!(more, 7, "eight with the first");
        assert_eq!(queue.next(2), Some(1));
        let long = RequestCost { bytes: 64 << 20, ..READ };
        assert!(queue.enter(&share, 1, long, 2).is_some(), "a long one is no part of a spell");
        assert_eq!(places[1].number, 1);
    }

    #[test]
    fn weights_are_in_force_while_an_export_says_one() {
        let (weighing, mut queue) = queue(64);
        let (silent, said) = (Share::alone(), Share::alone().weighed(weight(1), None));
        queue.join(&silent);
        assert!(!weighing.is_in_force() && !weighing.is_due());
        queue.join(&said);
        assert!(weighing.is_in_force() && weighing.is_due() && weighing.take_turned());
        assert!(!weighing.is_due() && !weighing.take_turned());
        queue.load.set(64);
        let place = queue.enter(&said, 0, READ, 1).unwrap();
        queue.part(&said);
        assert!(!weighing.is_in_force() && weighing.take_turned() && weighing.is_due(), "something waits");
        assert_eq!(weighing.next_listed(), Some(7));
        queue.leave(place);
        queue.list_again();
        assert!(!weighing.take_turned() && !weighing.is_due() && !queue.may_go_on());
    }
}
