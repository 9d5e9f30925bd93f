//! Images and snapshots, as tables and as JSON.

use std::collections::HashMap;

use crate::cli::Outcome;
use crate::cli::store::{marked, time, warn_of_missing};
use crate::cli::text::{exact_and_human, human, json, print, table};
use crate::store::{NodeDescription, PushLag, StoreAnswer};

/// What came of a command: as JSON, as a table, or as a sentence.
pub(super) fn answer(answer: &StoreAnswer, as_json: bool, sentence: &str) -> Outcome {
    if let StoreAnswer::Nodes(of) = answer {
        warn_of_missing(&of.missing);
    }
    if as_json {
        return print(&json(answer));
    }
    let told = match answer {
        StoreAnswer::Nodes(of) if sentence.is_empty() => as_tree(&of.nodes),
        StoreAnswer::Node(of) => as_table(of),
        StoreAnswer::Removed(of) => format!("{sentence}{}\n", freed(of.layers, of.bytes)),
        StoreAnswer::RolledBack(of) => format!("{sentence}{}\n", freed(of.layers, of.bytes)),
        StoreAnswer::Nodes(_)
        | StoreAnswer::Layers(_)
        | StoreAnswer::Store(_)
        | StoreAnswer::Checkpoint(_)
        | StoreAnswer::Flattened(_)
        | StoreAnswer::Rebased(_)
        | StoreAnswer::Ingest(_)
        | StoreAnswer::Push(_)
        | StoreAnswer::Collected(_) => format!("{sentence}\n"),
    };
    print(&told)
}

fn freed(layers: usize, bytes: u64) -> String {
    match layers {
        0 => String::new(),
        1 => format!(" 1 layer of {} went with it.", human(bytes)),
        layers => format!(" {layers} layers of {} went with it.", human(bytes)),
    }
}

/// Under an image stand its snapshots, and under a snapshot what was cloned from it: that is their order.
fn as_tree(nodes: &[NodeDescription]) -> String {
    let titles = ["NAME", "SIZE", "USED", "UNIQUE", "SHARED", "RATIO", "DEPTH", "TIER"];
    // Most stores push nothing.
    let has_tier = nodes.iter().any(|node| node.pushed.is_some());
    let columns = titles.len() - usize::from(!has_tier);
    let mut rows = vec![titles.map(String::from).to_vec()];
    let mut levels: HashMap<&str, usize> = HashMap::new();
    for node in nodes {
        let (above, own) = match node.name.split_once('@') {
            Some((image, snapshot)) if node.changes_only => {
                (Some(image), format!("@{snapshot} (changes only)"))
            }
            Some((image, snapshot)) => (Some(image), format!("@{snapshot}")),
            None => (node.origin.as_deref(), node.name.clone()),
        };
        let level = above.and_then(|above| levels.get(above)).map_or(0, |level| level + 1);
        levels.insert(&node.name, level);
        rows.push(vec![
            format!("{}{own}", "  ".repeat(level)),
            human(node.size),
            marked(human(node.used), node.estimated),
            marked(human(node.unique), node.estimated),
            marked(human(node.shared), node.estimated),
            node.ratio.map_or_else(|| "-".to_owned(), |ratio| marked(ratio.to_string(), node.estimated)),
            node.depth.to_string(),
            on_tier(node),
        ]);
    }
    rows.iter_mut().for_each(|row| row.truncate(columns));
    table(&rows, &[false, true, true, true, true, true, true, true][..columns])
}

/// Whether a snapshot is on the tier, and how far an image is ahead of that.
fn on_tier(node: &NodeDescription) -> String {
    match (node.pushed, node.lag) {
        (Some(_), _) => "pushed".to_owned(),
        (None, Some(PushLag { bytes: 0, .. })) => "no lag".to_owned(),
        (None, Some(PushLag { bytes, seconds })) => format!("{} {}", human(bytes), age(seconds)),
        (None, None) => "-".to_owned(),
    }
}

/// As roughly as a column allows.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn as_table(shown: &NodeDescription) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    let joined = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(" ") };
    row("name", shown.name.clone());
    row("uuid", shown.uuid.clone());
    row("created", time(shown.created));
    if let Some(pushed) = shown.pushed {
        row("pushed", time(pushed));
    }
    if shown.lag.is_some() {
        row("ahead of its tier", on_tier(shown));
    }
    if shown.changes_only {
        row("contents", "none, changes only".to_owned());
    }
    row("size", exact_and_human(shown.size));
    let space = |bytes| marked(exact_and_human(bytes), shown.estimated);
    row("used", space(shown.used));
    row("unique", space(shown.unique));
    row("shared", space(shown.shared));
    if let Some(ratio) = shown.ratio {
        row("ratio", marked(ratio.to_string(), shown.estimated));
    }
    row("depth", shown.depth.to_string());
    if let Some(origin) = &shown.origin {
        row("clone of", origin.clone());
    }
    if let Some(base) = &shown.base {
        row("base", base.escape_debug().to_string());
    }
    match &*shown.kind {
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
