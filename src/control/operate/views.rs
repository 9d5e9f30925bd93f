//! The JSON of the control socket. Its keys are part of the interface, as those of the admin server are.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::Operator;
use crate::config::{ExportRates, Weight};
use crate::control::catalogue::Entry;
use crate::nbd::session::ReplyMode;

/// `GET /api/v1/exports`.
#[derive(Debug, Serialize)]
pub(super) struct ExportList {
    exports: Vec<ExportListEntry>,
}

#[derive(Debug, Serialize)]
pub(super) struct ExportListEntry {
    export: String,
    /// Index and generation: never the same for two exports of one server.
    id: String,
    /// What `If-Match` wants, without quotes.
    etag: String,
    description: String,
    source: String,
    size_bytes: u64,
    read_only: bool,
    /// The transmission flags that a client with all extensions is told.
    flags_value: u16,
    connections: u64,
    /// Rates: what is not there is not limited.
    limit: Value,
    tenant: Option<String>,
    /// What it gets of a device beside others; null is 1.
    weight: Option<Weight>,
    state: &'static str,
}

/// `GET /api/v1/health`.
#[derive(Debug, Serialize)]
pub(super) struct HealthView {
    pub(super) state: &'static str,
    shards: usize,
    shards_failed: usize,
    /// They do not answer.
    shards_stuck: usize,
    exports: usize,
    connections: u64,
}

/// `GET /api/v1/stores`.
#[derive(Debug, Serialize)]
pub(super) struct StoreList {
    stores: Vec<PathBuf>,
    /// Those whose images are all exports.
    whole: Vec<PathBuf>,
    /// Where clients connect, of the export without a name.
    uris: Vec<String>,
}

impl Operator {
    pub(super) fn open_stores(&self) -> StoreList {
        let uris =
            self.endpoints.iter().map(|endpoint| endpoint.uri("", self.stores.plane.needs_tls(""))).collect();
        StoreList { stores: self.stores.directories(), whole: self.stores.whole_directories(), uris }
    }

    pub(super) fn exports(&self) -> ExportList {
        let catalogue = self.plane.catalogue();
        ExportList { exports: catalogue.iter().map(|entry| self.export(entry)).collect() }
    }

    pub(super) fn export(&self, entry: &Entry) -> ExportListEntry {
        let ExportRates { limits, tenant, weight } = entry.rates();
        ExportListEntry {
            export: entry.info.name.clone(),
            id: format!("{}.{}", entry.id.index, entry.id.generation),
            etag: entry.tag(),
            description: entry.info.description.clone(),
            source: entry.source.clone(),
            size_bytes: entry.size(),
            read_only: entry.info.facts.read_only,
            flags_value: entry.info.transmission_flags(ReplyMode::Extended),
            connections: self.collector.state().totals.export_gauges(entry.index()).connections,
            limit: limits.to_json(),
            tenant,
            weight,
            state: if self.plane.is_stopping() { "stopping" } else { "serving" },
        }
    }

    pub(super) fn health(&self) -> HealthView {
        let state = self.collector.state();
        let failed = self.plane.failures();
        let stuck = state.shards.iter().filter(|shard| !shard.failed && !shard.is_responsive()).count();
        HealthView {
            state: match (self.plane.is_stopping(), failed + stuck) {
                (true, _) => "stopping",
                (false, 0) => "ok",
                (false, _) => "degraded",
            },
            shards: state.shards.len(),
            shards_failed: failed,
            shards_stuck: stuck,
            exports: self.plane.catalogue().iter().count(),
            connections: state.totals.gauges.iter().map(|gauges| gauges.connections).sum(),
        }
    }
}
