//! Room for the replies of a shard: how many requests each connection may have in flight.
//!
//! A client that does not fetch its replies keeps their room as long as it likes. So three quarters go to any
//! that asks, but no connection may hold more than remains free. The last quarter is reserved: every
//! connection is guaranteed an equal share of it, whatever the others do. So a client that fetches its
//! replies does not wait for this room for long, and none has to be evicted for it (see
//! [`stall`](crate::shard::admission::stall)).

/// Room for so many replies that are not out.
#[derive(Debug)]
pub(crate) struct Budget {
    /// For any connection that asks.
    common: usize,
    /// For all evenly.
    last_quarter: usize,
    /// What each connection is guaranteed.
    share: usize,
}

impl Budget {
    pub(crate) fn new(replies: usize) -> Self {
        let last_quarter = replies / 4;
        Self { common: replies - last_quarter, last_quarter, share: last_quarter.max(1) }
    }

    /// So many connections share it; true when each is guaranteed more than before. Powers of two, so that
    /// one connection more or less seldom changes it.
    pub(crate) fn share_among(&mut self, connections: usize) -> bool {
        let share = 1 << (self.last_quarter / connections.max(1)).max(1).ilog2();
        std::mem::replace(&mut self.share, share) < share
    }

    /// How many requests a connection may come to have that has `in_flight`, when of all connections `unsent`
    /// replies are not out: each further one leaves one less for the next.
    pub(crate) fn most(&self, in_flight: usize, unsent: usize) -> usize {
        let left = self.common.saturating_sub(unsent);
        let further = left.checked_sub(2 * (in_flight + 1)).map_or(0, |rest| rest / 3 + 1);
        (in_flight + further).max(self.share)
    }

    /// What must be left for a further request of a connection.
    pub(crate) fn needed(&self, in_flight: usize) -> usize {
        if in_flight < self.share { 0 } else { 2 * (in_flight + 1) }
    }

    /// Whether so much is left.
    pub(crate) fn has(&self, unsent: usize, needed: usize) -> bool {
        needed == 0 || unsent + needed <= self.common
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Oracle: one request after the other asks whether it may come.
        #[test]
        fn most_is_what_one_after_the_other_may_come_to(
            replies in 1usize..2000, connections in 1usize..50, in_flight in 0usize..300, others in 0usize..2000
        ) {
            let mut budget = Budget::new(replies);
            budget.share_among(connections);
            let mut naive = in_flight;
            while budget.has(others + naive, budget.needed(naive)) {
                naive += 1;
            }
            prop_assert_eq!(budget.most(in_flight, others + in_flight), naive);
        }

        #[test]
        fn whatever_the_others_do_each_has_its_share(
            order in prop::collection::vec(0usize..20, 1..2000), replies in 80usize..2000
        ) {
            let mut budget = Budget::new(replies);
            budget.share_among(20);
            let mut in_flight = [0; 20];
            for connection in order {
                let unsent: usize = in_flight.iter().sum();
                in_flight[connection] = budget.most(in_flight[connection], unsent);
                prop_assert!(in_flight[connection] > replies / 4 / 20 / 2);
            }
            prop_assert!(in_flight.iter().sum::<usize>() <= replies);
        }
    }

    #[test]
    fn shares_change_seldom() {
        let mut budget = Budget::new(65_536);
        budget.share_among(100);
        assert_eq!(budget.most(0, 65_536), 128);
        assert!((65..128).all(|connections| !budget.share_among(connections)));
        assert!(budget.share_among(64));
        assert!(!budget.share_among(1_000_000));
        assert_eq!(budget.most(0, 65_536), 1);
    }
}
