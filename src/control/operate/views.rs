//! The JSON of the control socket. Its keys are part of the interface, as those of the admin server are.

use std::path::PathBuf;

use serde::Serialize;

use super::Operator;
use crate::nbd::session::ReplyMode;

/// `GET /api/v1/exports`.
#[derive(Debug, Serialize)]
pub(super) struct ExportList {
    exports: Vec<ExportListEntry>,
}

#[derive(Debug, Serialize)]
struct ExportListEntry {
    export: String,
    /// Index and generation: never the same for two exports of one server.
    id: String,
    description: String,
    source: String,
    size_bytes: u64,
    read_only: bool,
    /// The transmission flags that a client with all extensions is told.
    flags_value: u16,
    connections: u64,
    state: &'static str,
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
        let state = self.collector.state();
        let stopping = self.plane.is_stopping();
        let catalogue = self.plane.catalogue();
        let exports = catalogue.iter().map(|entry| ExportListEntry {
            export: entry.info.name.clone(),
            id: format!("{}.{}", entry.id.index, entry.id.generation),
            description: entry.info.description.clone(),
            source: entry.source.clone(),
            size_bytes: entry.size(),
            read_only: entry.info.facts.read_only,
            flags_value: entry.info.transmission_flags(ReplyMode::Extended),
            connections: state.totals.export_gauges(entry.index()).connections,
            state: if stopping { "stopping" } else { "serving" },
        });
        ExportList { exports: exports.collect() }
    }
}
