//! Requests about tenants: exports that share rates, and one part of each device.

use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::Operator;
use crate::control::http::reply::{self, error};
use crate::control::live::LiveRefusal;
use crate::control::tenants::TenantRates;

impl Operator {
    pub(super) fn list_tenants(&self) -> Response<String> {
        let all = self.plane.tenants.all();
        let all: Vec<_> = all.iter().map(|(name, rates)| self.tenant(name, *rates)).collect();
        reply::json(StatusCode::OK, &json!({ "tenants": all }))
    }

    pub(super) fn show_tenant(&self, name: &str) -> Response<String> {
        match self.plane.tenants.rates(name) {
            Some(rates) => reply::json(StatusCode::OK, &self.tenant(name, rates)),
            None => refuse(&LiveRefusal::NoTenant(name.to_owned())),
        }
    }

    /// The body says what is different.
    pub(super) fn change_tenant(&self, name: &str, body: &[u8]) -> Response<String> {
        match self.live.change_tenant(name, body) {
            Ok(rates) => reply::json(StatusCode::OK, &self.tenant(name, rates)),
            Err(refusal) => refuse(&refusal),
        }
    }

    fn tenant(&self, name: &str, TenantRates { limits, weight }: TenantRates) -> Value {
        let catalogue = self.plane.catalogue();
        let of = catalogue.iter().filter(|entry| entry.rates().tenant.as_deref() == Some(name));
        let exports: Vec<_> = of.map(|entry| entry.info.name.clone()).collect();
        json!({ "tenant": name, "limit": limits.to_json(), "weight": weight, "exports": exports })
    }
}

fn refuse(refusal: &LiveRefusal) -> Response<String> {
    error(refusal.status(), &refusal.to_string())
}
