//! Exports that share rates.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::config::{RateLimits, TenantConfig};
use crate::shard::RateGroup;

/// All of them, by name.
#[derive(Debug, Default)]
pub(super) struct Tenants(RefCell<BTreeMap<String, Tenant>>);

#[derive(Debug, Default)]
struct Tenant {
    limits: RateLimits,
    group: RateGroup,
}

impl Tenants {
    /// These, and no others. A rate that stays keeps what was used of it.
    pub(super) fn set(&self, all: &[TenantConfig]) {
        let mut known = std::mem::take(&mut *self.0.borrow_mut());
        let of = |tenant: &TenantConfig| {
            let before = known.remove(&tenant.name).unwrap_or_default();
            let group = before.group.changed(&tenant.limit);
            (tenant.name.clone(), Tenant { limits: tenant.limit, group })
        };
        self.0.replace(all.iter().map(of).collect());
    }

    /// Other rates of one; false when there is none of that name.
    pub(super) fn change(&self, name: &str, limits: RateLimits) -> bool {
        let mut all = self.0.borrow_mut();
        let Some(tenant) = all.get_mut(name) else { return false };
        *tenant = Tenant { limits, group: tenant.group.changed(&limits) };
        true
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.borrow().contains_key(name)
    }

    /// The rates of one, if there is one of that name.
    pub(super) fn limits(&self, name: &str) -> Option<RateLimits> {
        self.0.borrow().get(name).map(|tenant| tenant.limits)
    }

    /// All of them with their rates.
    pub(super) fn all(&self) -> Vec<(String, RateLimits)> {
        self.0.borrow().iter().map(|(name, tenant)| (name.clone(), tenant.limits)).collect()
    }

    /// Gives the buckets of one, if it is there.
    pub(super) fn with<R>(&self, name: Option<&str>, use_it: impl FnOnce(Option<&RateGroup>) -> R) -> R {
        let all = self.0.borrow();
        use_it(name.and_then(|name| all.get(name)).map(|tenant| &tenant.group))
    }
}
