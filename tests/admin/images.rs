//! What is shown of stores: their images, who uses them, and what their snapshots cost.
//!
//! Oracles: what `ringnbd image ls` says of the store while nobody serves it; what the test itself did.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::image::disk_dir;
use crate::support::raw::{Connection, Mode};
use crate::support::server::Options;
use crate::support::wait_until;
use crate::{Subject, peers};

/// A command about the store in a directory; `STORE` is its path.
#[track_caller]
fn run(store: &Path, line: &str) -> peers::Finished {
    let text = line.replace("STORE", store.to_str().unwrap());
    peers::run(Command::new(env!("CARGO_BIN_EXE_ringnbd")).args(text.split(' ')))
}

/// A store with `golden`, its snapshot, and clones of that, of which one has a snapshot.
pub(crate) fn store(clones: &[&str]) -> (TempDir, PathBuf) {
    let directory = disk_dir();
    let (store, raw) = (directory.path().join("store"), directory.path().join("golden.raw"));
    std::fs::write(&raw, vec![7; 1 << 20]).unwrap();
    run(&store, "store init STORE").ok();
    run(&store, &format!("image create STORE/golden 4M --from {}", raw.display())).ok();
    run(&store, "image snapshot STORE/golden@v1").ok();
    let clones: Vec<_> = clones.iter().map(|name| format!("STORE/{name}")).collect();
    run(&store, &format!("image clone STORE/golden@v1 {}", clones.join(" "))).ok();
    run(&store, &format!("image snapshot {}@monday", clones[0])).ok();
    (directory, store)
}

/// The only store that a server has open.
#[track_caller]
fn only(subject: &Subject, path: &str) -> Value {
    let mut all = subject.json(path)["stores"].take();
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    all[0].take()
}

#[track_caller]
fn node(subject: &Subject, name: &str) -> Value {
    let store = only(subject, "/api/v1/images");
    let found = store["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).cloned();
    found.unwrap_or_else(|| panic!("no {name}: {store}"))
}

#[test]
fn images_are_those_of_the_command_with_who_uses_them() {
    let (_directory, store) = store(&["vm1", "vm2"]);
    let listed: Value = serde_json::from_str(&run(&store, "image ls STORE --json").ok()).unwrap();
    let subject = Subject::serve(&[&format!("store:{}", store.display())]);
    wait_until("the store has answered", || only(&subject, "/api/v1/images")["age_seconds"].is_f64());
    let shown = only(&subject, "/api/v1/images");
    let path = std::fs::canonicalize(&store).unwrap();
    assert_eq!((shown["store"].as_str(), &shown["error"]), (path.to_str(), &Value::Null));
    assert_eq!([&shown["images"], &shown["snapshots"], &shown["count"]], [3, 2, 5], "{shown}");
    let (shown, listed) = (shown["nodes"].as_array().unwrap(), listed["nodes"].as_array().unwrap());
    assert_eq!(shown.len(), listed.len());
    for (shown, listed) in shown.iter().zip(listed) {
        let mut expected = listed.clone();
        expected["open"] = false.into();
        expected["export"] = listed["name"].clone();
        expected["connections"] = 0.into();
        for (count, of) in [("snapshot_count", "snapshots"), ("clone_count", "clones")] {
            expected[count] = listed[of].as_array().unwrap().len().into();
        }
        assert_eq!(*shown, expected);
    }
    let few = only(&subject, "/api/v1/images?limit=2");
    assert_eq!((&few["count"], few["nodes"].as_array().unwrap().len()), (&json!(5), 2));

    let mut client = Connection::attach(&subject.server, "vm2", Mode::Simple);
    client.write(0, &[1; 4096]);
    let state = |name| ["open", "connections"].map(|key| node(&subject, name)[key].clone());
    wait_until("the client is counted", || state("vm2") == [json!(true), json!(1)]);
    assert_eq!(state("vm1"), [json!(false), json!(0)]);
    client.disconnect();
    wait_until("the client is gone", || state("vm2")[1] == 0);
}

#[test]
fn an_image_with_a_name_of_its_own_and_a_server_without_stores() {
    let (_directory, store) = store(&["vm1"]);
    let subject = Subject::serve(&[&format!("disk=store:{}/vm1", store.display()), "mem:1M"]);
    wait_until("the store has answered", || only(&subject, "/api/v1/images")["age_seconds"].is_f64());
    let of = |name| ["open", "export"].map(|key| node(&subject, name)[key].clone());
    assert_eq!(of("vm1"), [json!(true), json!("disk")]);
    assert_eq!(of("golden"), [json!(false), Value::Null], "clients cannot ask for it");
    drop(subject);
    let subject = Subject::serve(&["mem:1M"]);
    assert_eq!(subject.json("/api/v1/images"), json!({"stores": []}));
    assert!(!subject.admin.get("/metrics").body.contains("ringnbd_image"));
}

#[test]
fn snapshots_and_their_pauses_are_counted() {
    let (_directory, store) = store(&["vm1", "vm2"]);
    // The path of a socket holds 107 bytes at most.
    let run_directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", run_directory.path().join("control").display());
    let options = Options::new().export(format!("store:{}", store.display()));
    let subject = Subject::start(options.args(["--control", &socket]));
    let path = std::fs::canonicalize(&store).unwrap();
    let metric = |name: &str, labels: &str| {
        let body = subject.admin.get("/metrics").body;
        let start = format!("ringnbd_image_{name}{{store=\"{}\"{labels}}} ", path.display());
        let line = body.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {start}: {body}")).parse::<f64>().unwrap()
    };
    let outcome = |name: &str| metric("snapshots_total", &format!(",outcome=\"{name}\""));
    let pauses = || metric("snapshot_pause_seconds_count", "");
    assert_eq!([outcome("taken"), outcome("refused"), outcome("failed"), pauses()], [0.0; 4]);
    let mut client = Connection::attach(&subject.server, "vm1", Mode::Simple);
    client.write(0, &[1; 65_536]);
    // One of them is open.
    run(&store, "image snapshot STORE/vm1@a STORE/vm2@a").ok();
    assert_eq!([outcome("taken"), outcome("refused"), pauses()], [2.0, 0.0, 1.0]);
    assert!(metric("snapshot_pause_seconds_sum", "") > 0.0);
    assert_eq!(metric("snapshot_pause_seconds_bucket", ",le=\"+Inf\""), 1.0);
    let refused = run(&store, "image snapshot STORE/vm1@a");
    assert!(!refused.status.success(), "{refused}");
    run(&store, "image snapshot STORE/golden@v2").ok();
    assert_eq!([outcome("taken"), outcome("refused"), outcome("failed"), pauses()], [3.0, 1.0, 0.0, 1.0]);
    client.write(0, &[2; 4096]);
    client.disconnect();
    wait_until("the snapshot is shown", || only(&subject, "/api/v1/images")["snapshots"] == 5);
    assert_eq!(node(&subject, "vm1@a")["kind"], "snapshot");
}

#[test]
fn what_an_image_writes_and_takes_is_counted() {
    let (_directory, store) = store(&["vm1", "vm2"]);
    let subject = Subject::start(Options::new().export(format!("store:{}", store.display())));
    let mut client = Connection::attach(&subject.server, "vm1", Mode::Simple);
    let metric = |name: &str| {
        let body = subject.admin.get("/metrics").body;
        let start = format!("ringnbd_image_{name}{{export=\"vm1\"}} ");
        let line = body.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {start}: {body}")).parse::<u64>().unwrap()
    };
    let counts = || [metric("first_writes_total"), metric("journal_bytes_total")];
    let taken = || [metric("layers"), metric("used_bytes"), metric("below_bytes")];
    // Nothing was written to it: it stands on the layer of the golden image, which others share.
    assert_eq!((counts(), taken()), ([0, 0], [2, 0, 1 << 20]));
    // Three blocks, and a part of one; a record of its journal takes a block.
    client.write(0, &[1; 3 * 4096]);
    client.write(64 << 10, &[1; 512]);
    assert_eq!(counts(), [4, 0]);
    client.flush();
    assert_eq!((counts(), taken()), ([4, 4096], [2, 4 * 4096, 1 << 20]));
    // What it has itself is written in place.
    client.write(4096, &[2; 4096]);
    client.flush();
    assert_eq!((counts(), taken()), ([4, 4096], [2, 4 * 4096, 1 << 20]));
    client.disconnect();
}
