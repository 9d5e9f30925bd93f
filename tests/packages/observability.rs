//! Alerts and the dashboard of Grafana: what they ask for is what a server prints.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use super::{PACKAGES, PROGRAM};
use crate::support::raw::{Connection, Mode};
use crate::support::server::Options;
use crate::{http, peers, python};

/// What promtool runs: series, and which alerts they are to cause.
const ALERTS_TEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packages/alerts_test.yaml");

/// By the name of a series: its labels, each with the values that were seen.
type Series = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn run(arguments: &[&str]) -> String {
    peers::run(Command::new(PROGRAM).args(arguments)).ok()
}

/// What a server prints that has done everything of which there are figures.
fn printed() -> String {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (store, tls) = (path("store"), path("tls"));
    run(&["store", "init", &store]);
    run(&["image", "create", &format!("{store}/image"), "16M"]);
    run(&["tls", "init", &tls]);
    let sockets = tempfile::Builder::new().prefix("ringnbd").tempdir().unwrap();
    let control = format!("unix:{}", sockets.path().join("c").display());
    let server = Options::new()
        .export("memory=mem:16M")
        .export(format!("store:{store}?push=1h"))
        .args(["--admin", "127.0.0.1:0", "--control", &control, "--tls", &tls, "--tls-mode", "selective"])
        .start();
    for export in ["memory", "image"] {
        let mut client = Connection::attach(&server, export, Mode::Simple);
        client.write(0, &[7; 4096]);
        client.read(0, 4096);
        client.disconnect();
    }
    let mut held = Connection::attach(&server, "image", Mode::Simple);
    held.write(4096, &[7; 4096]);
    run(&["image", "snapshot", &format!("{store}/image@one")]);
    let secure = server.uri("memory").replacen("nbd+unix", "nbds+unix", 1);
    run(&["info", &format!("{secure}&tls-certificates={tls}&tls-hostname=localhost")]);
    let text = http::Address::of(&server).get("/metrics").body;
    held.disconnect();
    text
}

fn series(text: &str) -> Series {
    let mut found = Series::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let labels = found.entry(name.to_owned()).or_default();
        if let Some((_, rest)) = line.split_once('{') {
            for (label, _, value) in matchers(rest.rsplit_once('}').expect("an end").0) {
                labels.entry(label).or_default().insert(value);
            }
        }
    }
    found
}

/// `a="b",c=~"d"` taken apart: label, operator, value.
fn matchers(text: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('"') {
        let (value, behind) = after.split_once('"').expect("a closing quote");
        let before = before.trim_start_matches([',', ' ']);
        let label = before.trim_end_matches(['=', '~', '!']);
        found.push((label.to_owned(), before[label.len()..].to_owned(), value.to_owned()));
        rest = behind;
    }
    found
}

/// What is wrong with a query; `outside` are labels that Prometheus adds.
fn complaints(query: &str, printed: &Series) -> Vec<String> {
    let outside = ["instance", "job"];
    let mut wrong = Vec::new();
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut labels = BTreeSet::new();
    let mut rest = query;
    let mut metrics = 0;
    while let Some(at) = ["ringnbd_", "process_"].iter().filter_map(|start| rest.find(start)).min() {
        rest = &rest[at..];
        let name = &rest[..rest.find(|c| !is_of_a_name(c)).unwrap_or(rest.len())];
        rest = &rest[name.len()..];
        metrics += 1;
        let Some(has) = printed.get(name) else {
            wrong.push(format!("no metric {name}"));
            continue;
        };
        labels.extend(has.keys().map(String::as_str));
        let Some(inner) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else { continue };
        for (label, operator, value) in matchers(inner.0) {
            if outside.contains(&&*label) {
                continue;
            }
            let Some(values) = has.get(&label) else {
                wrong.push(format!("{name} has no label {label}"));
                continue;
            };
            let mut wanted = value.split('|').filter(|value| !value.contains('$'));
            if operator != "!=" && !wanted.all(|value| values.contains(value)) {
                wrong.push(format!("{name} has {label} of {values:?}, and no {value}"));
            }
        }
        rest = inner.1;
    }
    for by in query.split(" by (").skip(1) {
        for label in by.split(')').next().unwrap_or_default().split(',').map(str::trim) {
            if !labels.contains(label) && !outside.contains(&label) {
                wrong.push(format!("nothing has the label {label}"));
            }
        }
    }
    if metrics == 0 && !query.starts_with("up{") {
        wrong.push("it asks for nothing".to_owned());
    }
    wrong
}

/// All strings under these keys.
fn strings<'a>(value: &'a Value, keys: &[&str], found: &mut Vec<&'a str>) {
    if let Some(object) = value.as_object() {
        for (key, value) in object {
            found.extend(value.as_str().filter(|_| keys.contains(&&**key)));
            strings(value, keys, found);
        }
    }
    value.as_array().into_iter().flatten().for_each(|value| strings(value, keys, found));
}

fn read(name: &str) -> String {
    std::fs::read_to_string(format!("{PACKAGES}/observability/{name}")).expect("a file of the packages")
}

#[test]
fn dashboard_and_alerts_ask_for_what_there_is() {
    let printed = series(&printed());
    let dashboard: Value = serde_json::from_str(&read("grafana.json")).expect("JSON");
    let mut queries = Vec::new();
    strings(&dashboard, &["expr", "definition"], &mut queries);
    const SCRIPT: &str = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.argv[1])))";
    let alerts = python::json(SCRIPT, &[&read("alerts.yaml")]);
    if let Some(alerts) = &alerts {
        strings(alerts, &["expr"], &mut queries);
    }
    assert!(queries.len() > 25, "{queries:?}");
    let wrong: Vec<_> = queries.iter().map(|query| (query, complaints(query, &printed))).collect();
    let wrong: Vec<_> = wrong.iter().filter(|(_, complaints)| !complaints.is_empty()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let Some(alerts) = alerts else { return };
    let page = include_str!("../../src/doc/guide/observability.md");
    let mut names = Vec::new();
    strings(&alerts, &["alert"], &mut names);
    for name in &names {
        assert!(page.contains(&format!("| `{name}` |")), "the guide does not tell of {name}");
    }
    assert_eq!(page.matches("| `Ringnbd").count(), names.len(), "the guide tells of others than {names:?}");
    let mut labels = Vec::new();
    strings(&alerts, &["summary", "description"], &mut labels);
    assert_eq!(labels.len(), 2 * names.len(), "each says what happened and what to do");
}

/// Rules parse and their functions fit; names, units and help of metrics are as Prometheus wants them.
#[test]
fn promtool_has_nothing_to_say() {
    let promtool = |arguments: &[&str], input: &str| {
        let finished = peers::run_with_input(Command::new("promtool").args(arguments), input.as_bytes());
        finished.ok()
    };
    if Command::new("promtool").arg("--version").output().is_err() {
        return peers::skip("promtool", "install prometheus");
    }
    let rules = promtool(&["check", "rules", &format!("{PACKAGES}/observability/alerts.yaml")], "");
    assert!(rules.contains("SUCCESS"), "{rules}");
    let fired = promtool(&["test", "rules", ALERTS_TEST], "");
    assert!(fired.contains("SUCCESS"), "{fired}");
    assert_eq!(promtool(&["check", "metrics"], &printed()), "");
}

/// In the file that promtool runs: silent for all, and then firing for what is wrong, with the labels that its sentences have.
#[test]
fn each_alert_is_tried() {
    let (alerts, tests) = (read("alerts.yaml"), std::fs::read_to_string(ALERTS_TEST).expect("the tests"));
    let tests: Vec<_> = tests.split("  - name: ").skip(1).collect();
    let alerts: Vec<_> = alerts.split("- alert: ").skip(1).collect();
    assert!(alerts.len() > 10 && alerts.len() == tests.len(), "{} alerts", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().expect("a name");
        let test = tests.iter().find(|test| test.lines().next() == Some(name));
        let test = test.unwrap_or_else(|| panic!("nothing tries {name}"));
        let (silent, firing) = test.split_once("exp_samples: []").expect("it is silent first");
        let asks = format!("'ALERTS{{alertname=\"{name}\", alertstate=\"firing\"}}'");
        assert!(silent.contains(&asks) && firing.contains(&asks), "{test}");
        let (_, fires) = firing.split_once("- labels: ").expect("then it fires");
        for label in alert.split("$labels.").skip(1).filter_map(|rest| rest.split(' ').next()) {
            assert!(fires.contains(&format!("{label}=\"")), "{name} has no label {label}: {fires}");
        }
    }
}

#[test]
fn panels_lie_side_by_side() {
    let dashboard: Value = serde_json::from_str(&read("grafana.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut taken = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for panel in panels {
        let side = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
        assert!(side("x") + side("w") <= 24, "{panel}");
        assert!(numbers.insert(panel["id"].as_u64()), "two have the number of {panel}");
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                assert!(taken.insert((x, y)), "something lies below {}", panel["title"]);
            }
        }
    }
}

#[test]
fn wrong_queries_are_found() {
    let printed = series("ringnbd_a_total{export=\"x\",error=\"EIO\"} 1\nringnbd_b 2\n");
    assert_eq!(
        complaints("sum by (export) (rate(ringnbd_a_total{error=\"EIO\"}[5m])) > 0", &printed),
        [""; 0]
    );
    for query in [
        "ringnbd_c",
        "ringnbd_b{export=\"x\"}",
        "sum by (shard) (ringnbd_b)",
        "ringnbd_a_total{error=\"ENOENT\"}",
        "vector(1)",
    ] {
        assert_eq!(complaints(query, &printed).len(), 1, "{query}");
    }
}
