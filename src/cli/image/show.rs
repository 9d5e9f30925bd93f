//! Images and snapshots, as tables and as JSON.

use std::collections::{HashMap, HashSet};

use crate::cli::Outcome;
use crate::cli::natural::natural;
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

/// The image of a snapshot, the snapshot that an image was cloned from.
fn above(node: &NodeDescription) -> Option<&str> {
    node.name.split_once('@').map(|(image, _)| image).or(node.origin.as_deref())
}

/// Nodes and their levels, for people: under an image stand its snapshots, oldest first as they come, and
/// under a snapshot what was cloned from it. Images beside each other are in natural order.
fn in_order_of_the_tree(nodes: &[NodeDescription]) -> Vec<(usize, &NodeDescription)> {
    let mut known = HashSet::new();
    let mut below: HashMap<Option<&str>, Vec<&NodeDescription>> = HashMap::new();
    for node in nodes {
        // It comes before what stands under it.
        let above = above(node).filter(|above| known.contains(above));
        below.entry(above).or_default().push(node);
        known.insert(&*node.name);
    }
    let is_image = |node: &NodeDescription| !node.name.contains('@');
    for beside in below.values_mut() {
        beside.sort_by(|one, other| match (is_image(one), is_image(other)) {
            (true, true) => natural(&one.name, &other.name),
            (one, other) => one.cmp(&other),
        });
    }
    let mut take = |above, level| {
        let under: Vec<&NodeDescription> = below.remove(&above).unwrap_or_default();
        under.into_iter().rev().map(move |node| (level, node))
    };
    let (mut ordered, mut to_come) = (Vec::new(), Vec::from_iter(take(None, 0)));
    while let Some((level, node)) = to_come.pop() {
        ordered.push((level, node));
        to_come.extend(take(Some(&*node.name), level + 1));
    }
    ordered
}

fn as_tree(nodes: &[NodeDescription]) -> String {
    let titles = ["NAME", "SIZE", "USED", "UNIQUE", "SHARED", "RATIO", "DEPTH", "TIER"];
    // Most stores push nothing.
    let has_tier = nodes.iter().any(|node| node.pushed.is_some());
    let columns = titles.len() - usize::from(!has_tier);
    let mut rows = vec![titles.map(String::from).to_vec()];
    for (level, node) in in_order_of_the_tree(nodes) {
        let own = match node.name.split_once('@') {
            Some((_, snapshot)) if node.changes_only => format!("@{snapshot} (changes only)"),
            Some((_, snapshot)) => format!("@{snapshot}"),
            None => node.name.clone(),
        };
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

/// Where a snapshot is, and how far an image is ahead of what is on the tier.
fn on_tier(node: &NodeDescription) -> String {
    match (node.pushed, node.lag) {
        (Some(_), _) => "pushed".to_owned(),
        (None, Some(PushLag { bytes: 0, .. })) => "no lag".to_owned(),
        (None, Some(PushLag { bytes, seconds })) => format!("{} {}", human(bytes), age(seconds)),
        (None, None) => "local".to_owned(),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, origin: Option<&str>) -> NodeDescription {
        let kind = if name.contains('@') { "snapshot" } else { "image" };
        serde_json::from_value(json!({
            "name": name, "kind": kind, "uuid": "", "size": 1, "used": 0, "unique": 0, "shared": 0, "depth": 1, "created": 0,
            "origin": origin, "clones": [], "snapshots": [], "base": null, "head": null, "held": false, "quota": null,
            "pairs": {},
        }))
        .unwrap()
    }

    /// A cell for each case, in a store that has pushed something.
    #[test]
    fn the_column_of_the_tier_says_what_is_where() {
        let with = |name: &str, pushed: Option<u64>, lag: Option<(u64, u64)>| {
            let lag = lag.map(|(bytes, seconds)| PushLag { bytes, seconds });
            NodeDescription { pushed, lag, ..node(name, None) }
        };
        let nodes = [
            with("even", None, Some((0, 0))),
            with("even@v1", Some(7), None),
            with("behind", None, Some((3 << 20, 59))),
            with("older", None, Some((1 << 30, 7300))),
            with("oldest", None, Some((512, 200_000))),
            with("minutes", None, Some((512, 150))),
            with("new", None, None),
            with("new@v1", None, None),
        ];
        let table = as_tree(&nodes);
        let cell = |name: &str| {
            let mut rows = table.lines().map(str::trim).filter(|row| row.split(' ').next() == Some(name));
            rows.next().unwrap().rsplit("  ").next().unwrap().trim()
        };
        for (name, expected) in [
            ("NAME", "TIER"),
            ("even", "no lag"),
            ("behind", "3 MiB 59 s"),
            ("older", "1 GiB 2 h"),
            ("oldest", "512 bytes 2 d"),
            ("minutes", "512 bytes 2 min"),
            ("new", "local"),
            ("@v1", "pushed"),
        ] {
            assert_eq!(cell(name), expected, "{name}\n{table}");
        }
        let of_new = table.lines().skip_while(|row| !row.starts_with("new ")).nth(1).unwrap();
        assert!(of_new.trim().starts_with("@v1") && of_new.ends_with("local"), "{table}");
        let none = as_tree(&[with("new", None, None)]);
        assert!(!none.contains("TIER") && !none.contains("local"), "{none}");
    }

    #[test]
    fn images_are_in_natural_order_and_snapshots_as_they_were_taken() {
        let nodes = [
            node("vm10", None),
            node("vm10@s9", None),
            node("web10", Some("vm10@s9")),
            node("web2", Some("vm10@s9")),
            node("web2@a", None),
            node("vm10@s10", None),
            node("vm10@s1", None),
            node("vm2", None),
            node("alone", Some("gone@s")),
        ];
        let ordered = in_order_of_the_tree(&nodes);
        let shown: Vec<_> = ordered.iter().map(|(level, node)| (*level, &*node.name)).collect();
        let wanted = [
            (0, "alone"),
            (0, "vm2"),
            (0, "vm10"),
            (1, "vm10@s9"),
            (2, "web2"),
            (3, "web2@a"),
            (2, "web10"),
            (1, "vm10@s10"),
            (1, "vm10@s1"),
        ];
        assert_eq!(shown, wanted);
    }
}
