//! Exports that share rates, and one part of each device.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::config::{RateLimits, TenantConfig, Weight};
use crate::shard::{FlowId, RateGroup};

/// All of them, by name.
#[derive(Debug, Default)]
pub(super) struct Tenants(RefCell<BTreeMap<String, Tenant>>);

/// What its exports share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TenantRates {
    pub(super) limits: RateLimits,
    pub(super) weight: Option<Weight>,
}

#[derive(Debug)]
pub(super) struct Tenant {
    rates: TenantRates,
    group: RateGroup,
    flow: FlowId,
}

impl Tenant {
    /// The buckets of its rates.
    pub(super) fn group(&self) -> &RateGroup {
        &self.group
    }

    /// What tells it apart where weights decide, and its own.
    pub(super) fn share(&self) -> (FlowId, Option<Weight>) {
        (self.flow, self.rates.weight)
    }
}

impl Tenants {
    /// These, and no others. A rate that stays keeps what was used of it.
    pub(super) fn set(&self, all: &[TenantConfig]) {
        let mut known = std::mem::take(&mut *self.0.borrow_mut());
        let of = |tenant: &TenantConfig| {
            let (group, flow) = match known.remove(&tenant.name) {
                Some(before) => (before.group, before.flow),
                None => (RateGroup::default(), FlowId::unique()),
            };
            let rates = TenantRates { limits: tenant.limit, weight: tenant.weight };
            (tenant.name.clone(), Tenant { rates, group: group.changed(&tenant.limit), flow })
        };
        self.0.replace(all.iter().map(of).collect());
    }

    /// Other rates of one; false when there is none of that name.
    pub(super) fn change(&self, name: &str, rates: TenantRates) -> bool {
        let mut all = self.0.borrow_mut();
        let Some(tenant) = all.get_mut(name) else { return false };
        (tenant.rates, tenant.group) = (rates, tenant.group.changed(&rates.limits));
        true
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.borrow().contains_key(name)
    }

    /// The rates of one, if there is one of that name.
    pub(super) fn rates(&self, name: &str) -> Option<TenantRates> {
        self.0.borrow().get(name).map(|tenant| tenant.rates)
    }

    /// All of them with their rates.
    pub(super) fn all(&self) -> Vec<(String, TenantRates)> {
        self.0.borrow().iter().map(|(name, tenant)| (name.clone(), tenant.rates)).collect()
    }

    /// Gives one, if it is there.
    pub(super) fn with<R>(&self, name: Option<&str>, use_it: impl FnOnce(Option<&Tenant>) -> R) -> R {
        let all = self.0.borrow();
        use_it(name.and_then(|name| all.get(name)))
    }
}
