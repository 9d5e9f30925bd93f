//! Images and snapshots, as tables and as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::cli::Outcome;
use crate::cli::store::{time, warn_of_missing};
use crate::cli::text::{exact_and_human, human, json, print, table};
use crate::store::catalog::{CatalogView, ChainNode, ImageRefusal, ListedNode, NodeName, listing};
use crate::store::{MapFiles, OpenStore, StoreError};

/// One image or snapshot; its keys are part of the interface.
#[derive(Debug, Serialize)]
struct NodeJson<'a> {
    name: String,
    kind: &'static str,
    uuid: String,
    size: u64,
    used: u64,
    unique: u64,
    shared: u64,
    depth: usize,
    created: u64,
    /// The snapshot that an image was cloned from.
    origin: Option<String>,
    /// Of a snapshot: what was cloned from it.
    clones: Vec<String>,
    /// Of an image: its snapshots, oldest first.
    snapshots: Vec<String>,
    base: Option<&'a str>,
    /// The layer that takes the writes of an image.
    head: Option<String>,
    held: bool,
    quota: Option<u64>,
    pairs: BTreeMap<&'a str, &'a str>,
}

#[derive(Debug, Serialize)]
struct NodesJson<'a> {
    store: &'a Path,
    nodes: Vec<NodeJson<'a>>,
}

fn name_of(line: &ListedNode<'_>) -> NodeName {
    NodeName { image: line.image.name.clone(), snapshot: line.snapshot.map(|row| row.name.clone()) }
}

fn node_json<'a>(view: &'a CatalogView, line: &ListedNode<'a>) -> NodeJson<'a> {
    let image = line.image;
    let space = line.space;
    let (created, base) = match line.snapshot {
        Some(row) => (row.created_s, view.chain(row.below).1),
        None => (image.created_s, view.image_chain(image).1),
    };
    let clones = line.snapshot.map(|row| view.clones_of(row.id)).unwrap_or_default();
    let snapshots = if line.snapshot.is_some() { Vec::new() } else { view.snapshots_of(image.id) };
    let own = line.snapshot.is_none();
    NodeJson {
        name: name_of(line).to_string(),
        kind: if own { "image" } else { "snapshot" },
        uuid: line.snapshot.map_or_else(|| image.id.to_string(), |row| row.id.to_string()),
        size: line.snapshot.map_or(image.size, |row| row.size),
        used: space.used,
        unique: space.unique,
        shared: space.shared(),
        depth: space.depth,
        created,
        origin: if own { view.origin_name(image.origin) } else { None },
        clones: clones.iter().map(|image| image.name.to_string()).collect(),
        snapshots: snapshots.iter().map(|row| view.full_name(row)).collect(),
        base: match base {
            ChainNode::Base(id) => view.base(id).map(|row| &*row.path),
            ChainNode::Nothing | ChainNode::Layer(_) => None,
        },
        head: image.head.filter(|_| own).map(|id| id.to_string()),
        held: line.snapshot.map_or(image.is_held, |row| row.is_held),
        quota: image.quota.filter(|_| own),
        pairs: image.pairs.iter().filter(|_| own).map(|(key, value)| (&**key, &**value)).collect(),
    }
}

/// What a command has made or changed, as JSON; without it a sentence.
pub(super) fn done(
    store: &OpenStore<MapFiles>,
    nodes: &[NodeName],
    as_json: bool,
    sentence: &str,
) -> Result<Outcome, StoreError> {
    if !as_json {
        return Ok(print(&format!("{sentence}\n")));
    }
    let (view, usage) = (store.view()?, store.usage()?);
    let lines = listing(view, &|layer| usage.of(layer));
    let by_name: BTreeMap<NodeName, &ListedNode<'_>> =
        lines.iter().map(|line| (name_of(line), line)).collect();
    // In the order in which they were named.
    let nodes = nodes.iter().filter_map(|node| by_name.get(node)).map(|line| node_json(view, line)).collect();
    Ok(print(&json(&NodesJson { store: store.path(), nodes })))
}

pub(super) fn list(store: &OpenStore<MapFiles>, as_json: bool) -> Result<Outcome, StoreError> {
    let (view, usage) = (store.view()?, store.usage()?);
    let lines = listing(view, &|layer| usage.of(layer));
    warn_of_missing(&usage);
    if as_json {
        let nodes = lines.iter().map(|line| node_json(view, line)).collect();
        return Ok(print(&json(&NodesJson { store: store.path(), nodes })));
    }
    let titles = ["NAME", "SIZE", "USED", "UNIQUE", "SHARED", "DEPTH"];
    let mut rows = vec![titles.map(String::from).to_vec()];
    for line in &lines {
        let own = line.snapshot.map_or_else(|| line.image.name.to_string(), |row| format!("@{}", row.name));
        rows.push(vec![
            format!("{}{own}", "  ".repeat(line.level)),
            human(line.snapshot.map_or(line.image.size, |row| row.size)),
            human(line.space.used),
            human(line.space.unique),
            human(line.space.shared()),
            line.space.depth.to_string(),
        ]);
    }
    Ok(print(&table(&rows, &[false, true, true, true, true, true])))
}

pub(super) fn info(
    store: &OpenStore<MapFiles>,
    node: &NodeName,
    as_json: bool,
) -> Result<Outcome, StoreError> {
    let (view, usage) = (store.view()?, store.usage()?);
    let lines = listing(view, &|layer| usage.of(layer));
    warn_of_missing(&usage);
    let Some(line) = lines.iter().find(|line| name_of(line) == *node) else {
        let image = node.image.clone();
        return Err(StoreError::Refused(match node.snapshot.clone() {
            Some(snapshot) if view.image(&image).is_some() => ImageRefusal::NoSnapshot { image, snapshot },
            _ => ImageRefusal::NoImage(image),
        }));
    };
    let shown = node_json(view, line);
    Ok(print(&if as_json { json(&shown) } else { as_table(&shown) }))
}

fn as_table(shown: &NodeJson<'_>) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    let joined = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(" ") };
    row("name", shown.name.clone());
    row("uuid", shown.uuid.clone());
    row("created", time(shown.created));
    row("size", exact_and_human(shown.size));
    row("used", exact_and_human(shown.used));
    row("unique", exact_and_human(shown.unique));
    row("shared", exact_and_human(shown.shared));
    row("depth", shown.depth.to_string());
    if let Some(origin) = &shown.origin {
        row("clone of", origin.clone());
    }
    if let Some(base) = shown.base {
        row("base", base.escape_debug().to_string());
    }
    match shown.kind {
        "image" => row("snapshots", joined(&shown.snapshots)),
        _ => row("clones", joined(&shown.clones)),
    }
    if shown.held {
        row("held", "yes".to_owned());
    }
    if let Some(quota) = shown.quota {
        row("quota", exact_and_human(quota));
    }
    for (key, value) in &shown.pairs {
        row(&format!("{}:", key.escape_debug()), value.escape_debug().to_string());
    }
    table(&rows, &[false, false])
}
