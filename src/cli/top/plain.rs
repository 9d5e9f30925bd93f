//! The same figures once, as text and as JSON, for scripts and for what is no terminal.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::model::{TopModel, TopPage};
use super::words::{age, short_bytes, time_or_dash};
use crate::cli::info::export_name;
use crate::cli::text::{human_rate, table};
use crate::nbd::printable::printable;

pub(super) fn text(model: &TopModel) -> String {
    let figures = &model.shot.figures;
    let (requests, read, written, errors) = model.sums();
    let mut text = format!(
        "{} requests/s, read {}B/s, written {}B/s, {} errors/s; {} exports, {} clients, {} shards\n",
        human_rate(requests),
        short_bytes(read),
        short_bytes(written),
        human_rate(errors),
        figures.exports.len(),
        model.shot.client_count,
        figures.shards.len()
    );
    for (index, shard) in figures.shards.iter().enumerate().filter(|(_, of)| of.failed || !of.responsive) {
        let what = if shard.failed { "has failed" } else { "does not answer" };
        let _ = writeln!(text, "shard {index} {what}");
    }
    text + &match model.page {
        TopPage::Exports => exports(model),
        TopPage::Clients => clients(model),
        TopPage::Shards => shards(model),
    }
}

fn exports(model: &TopModel) -> String {
    let titles = [
        "EXPORT",
        "READ/s",
        "WRITE/s",
        "OTHER/s",
        "READ B/s",
        "WRITE B/s",
        "P50",
        "P99",
        "FLIGHT",
        "CLIENTS",
        "ERRORS",
    ];
    let mut rows = vec![titles.map(String::from).to_vec()];
    for row in model.shown.iter().map(|index| &model.exports[*index]) {
        rows.push(vec![
            export_name(&row.of.export),
            human_rate(row.reads),
            human_rate(row.writes),
            human_rate(row.others),
            short_bytes(row.read_bytes),
            short_bytes(row.written_bytes),
            time_or_dash(row.of.p50_ns),
            time_or_dash(row.of.p99_ns),
            row.of.in_flight.to_string(),
            row.of.connections.to_string(),
            row.of.errors.to_string(),
        ]);
    }
    let mut right = [true; 11];
    right[0] = false;
    table(&rows, &right)
}

fn clients(model: &TopModel) -> String {
    let titles = ["EXPORT", "REQ/s", "BYTES/s", "FLIGHT", "AGE", "REQUESTS", "PEER"];
    let mut rows = vec![titles.map(String::from).to_vec()];
    for row in model.shown.iter().map(|index| &model.clients[*index]) {
        rows.push(vec![
            export_name(&row.of.export),
            human_rate(row.requests),
            short_bytes(row.bytes),
            row.of.in_flight.to_string(),
            age(row.of.age_seconds),
            row.of.requests.to_string(),
            printable(&row.of.peer),
        ]);
    }
    table(&rows, &[false, true, true, true, true, true, false])
}

fn shards(model: &TopModel) -> String {
    let titles = ["SHARD", "CLIENTS", "FLIGHT", "UNSENT", "MEMORY", "OF"];
    let mut rows = vec![titles.map(String::from).to_vec()];
    for (index, of) in model.shot.figures.shards.iter().enumerate() {
        rows.push(vec![
            index.to_string(),
            of.connections.to_string(),
            of.in_flight.to_string(),
            of.unsent.to_string(),
            short_bytes(of.buffer_memory_used_bytes as f64),
            short_bytes(of.buffer_memory_bytes as f64),
        ]);
    }
    table(&rows, &[false, true, true, true, true, true])
}

/// The keys are part of the interface. Rows are chosen and sorted on the page that is shown.
pub(super) fn json(model: &TopModel) -> Value {
    let (requests, read, written, errors) = model.sums();
    let chosen = |page: TopPage, count: usize| match model.page == page {
        true => model.shown.clone(),
        false => (0..count).collect(),
    };
    let exports = chosen(TopPage::Exports, model.exports.len()).into_iter().map(|index| {
        let row = &model.exports[index];
        json!({
            "export": row.of.export,
            "reads_per_second": row.reads,
            "writes_per_second": row.writes,
            "others_per_second": row.others,
            "read_bytes_per_second": row.read_bytes,
            "written_bytes_per_second": row.written_bytes,
            "errors_per_second": row.errors,
            "p50_ns": row.of.p50_ns,
            "p99_ns": row.of.p99_ns,
            "in_flight": row.of.in_flight,
            "connections": row.of.connections,
            "errors": row.of.errors,
            "size_bytes": row.of.size_bytes,
            "read_only": row.of.read_only,
        })
    });
    let clients = chosen(TopPage::Clients, model.clients.len()).into_iter().map(|index| {
        let row = &model.clients[index];
        json!({
            "id": row.of.id,
            "peer": row.of.peer,
            "export": row.of.export,
            "shard": row.of.shard,
            "age_seconds": row.of.age_seconds,
            "requests_per_second": row.requests,
            "bytes_per_second": row.bytes,
            "in_flight": row.of.in_flight,
            "requests": row.of.requests,
            "bytes": row.of.bytes,
        })
    });
    let shards = model.shot.figures.shards.iter().map(|of| {
        json!({
            "responsive": of.responsive,
            "failed": of.failed,
            "connections": of.connections,
            "in_flight": of.in_flight,
            "unsent": of.unsent,
            "buffer_memory_used_bytes": of.buffer_memory_used_bytes,
            "buffer_memory_bytes": of.buffer_memory_bytes,
        })
    });
    json!({
        "version": model.shot.figures.version,
        "stopping": model.shot.figures.stopping,
        "requests_per_second": requests,
        "read_bytes_per_second": read,
        "written_bytes_per_second": written,
        "errors_per_second": errors,
        "client_count": model.shot.client_count,
        "exports": exports.collect::<Vec<_>>(),
        "clients": clients.collect::<Vec<_>>(),
        "shards": shards.collect::<Vec<_>>(),
    })
}
