//! What is told of the exports of a server: to people, and to clients.

use super::catalogue::Entry;
use super::listen::endpoint::Endpoint;
use crate::backend::Export;
use crate::config::Limits;
use crate::nbd::meta_context::MetaContext;
use crate::nbd::session::ExportInfo;

/// An export that is about to be served.
#[derive(Debug, Clone)]
pub struct Served {
    /// Its name.
    pub name: String,
    /// Where its bytes live.
    pub source: String,
    /// Bytes.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// One for each listener.
    pub uris: Vec<String>,
    /// For each listener, what `qemu-img info` is given in a shell; nothing for an export that needs TLS.
    pub qemu: Vec<String>,
}

/// What is told of an export of a server that listens there. `needs_tls`: it cannot be had without.
pub(super) fn served(entry: &Entry, endpoints: &[Endpoint], needs_tls: bool) -> Served {
    let (name, facts) = (&entry.info.name, &entry.info.facts);
    Served {
        name: name.clone(),
        source: entry.source.clone(),
        size: facts.size,
        read_only: facts.read_only,
        uris: endpoints.iter().map(|endpoint| endpoint.uri(name, needs_tls)).collect(),
        // What it needs to know for TLS is the client's.
        qemu: match needs_tls {
            true => Vec::new(),
            false => endpoints.iter().map(|endpoint| endpoint.qemu_arguments(name)).collect(),
        },
    }
}

/// What those who follow events are told of an export that comes.
pub(super) fn added_view(entry: &Entry) -> serde_json::Value {
    serde_json::json!({ "export": entry.info.name, "source": entry.source, "size_bytes": entry.size() })
}

/// What clients are told of an export.
pub(super) fn info_of(
    (name, description): (&str, &str),
    source: &str,
    export: &Export,
    limits: &Limits,
) -> ExportInfo {
    if export.facts().size == 0 {
        tracing::warn!(
            export = name,
            "{source} is empty, so clients see a disk of 0 bytes: give it a size (truncate -s 10G) and start again"
        );
    }
    let mut facts = export.facts().clone();
    facts.block_sizes.maximum = limits.longest_request;
    ExportInfo {
        name: name.to_owned(),
        description: description.to_owned(),
        facts,
        // What else there is may come and go: it is asked for with each handshake.
        contexts: contexts_of(export),
        require_block_size: false,
    }
}

/// What an export has for as long as it is served.
fn contexts_of(export: &Export) -> Vec<MetaContext> {
    let passed = export.passed_contexts().iter().map(|name| MetaContext::Passed(name.clone()));
    let instance = export.has_instance().then_some(MetaContext::Instance);
    [MetaContext::BaseAllocation].into_iter().chain(instance).chain(passed).collect()
}
