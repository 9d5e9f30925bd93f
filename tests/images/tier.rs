//! Snapshots that are pushed to a tier in a directory, by two stores.
//!
//! Oracles: the files of packs in the store and in the tier, read behind the program's back.

use std::path::{Path, PathBuf};

use super::Store;
use super::online::{client, golden, online};

/// The packs in a directory and below it, by their bytes.
fn packs(directory: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut packs(&path));
        } else if path.extension().is_some_and(|extension| extension == "pack") {
            found.push(std::fs::read(path).unwrap());
        }
    }
    found.sort();
    found
}

/// Gives a store a tier in a directory.
fn tiered(store: &Store, tier: &Path) {
    store.run(&format!("store tier STORE file:{}", tier.display())).ok();
}

/// A push brings the packs, a second one nothing, and what is missing is found.
#[test]
fn a_snapshot_is_pushed_once_and_its_packs_are_the_files_of_the_store() {
    let (store, _) = golden();
    let tier = store.directory().join("tier");
    store.refused("image push STORE/golden@v1", &["there is no tier"]);
    store.refused("store tier STORE nowhere:x", &["s3://BUCKET/PREFIX"]);
    tiered(&store, &tier);
    store.refused("image push STORE/golden@v1", &["image checkpoint"]);
    assert!(packs(&tier).is_empty());
    store.run("image checkpoint STORE/golden@v1").ok();
    let pushed = store.json("image push STORE/golden@v1");
    assert_eq!((&pushed["was_there"], &pushed["bytes"]), (&false.into(), &pushed["bytes_sent"]));
    assert!(packs(&tier) == packs(&store.path()) && !packs(&tier).is_empty());
    let again = store.json("image push STORE/golden@v1");
    assert_eq!((&again["was_there"], &again["bytes_sent"]), (&true.into(), &0.into()));
    store.run("image publish STORE/golden@v1 debian").ok();
    assert_eq!(store.json("store check STORE --tier")["problems"], serde_json::json!([]));
    let collected = store.json("store gc STORE --tier --grace 0s");
    assert_eq!((&collected["packs_marked"], &collected["packs_deleted"]), (&0.into(), &0.into()));

    std::fs::remove_dir_all(tier.join("packs")).unwrap();
    let checked = store.run("store check STORE --tier");
    assert_eq!(checked.status.code(), Some(1), "{checked}");
    assert!(checked.stderr.contains("it is missing") && checked.stderr.contains("golden@v1"), "{checked}");
    store.run("store tier STORE --off").ok();
    store.refused("image push STORE/golden@v1", &["there is no tier"]);
}

/// What was pushed is shown, and what the loss of the host would cost.
#[test]
fn a_list_tells_what_is_on_the_tier() {
    let (store, _) = golden();
    let tier = store.directory().join("tier");
    let of = |name: &str| {
        let list = store.json("image ls STORE");
        let mut nodes = list["nodes"].as_array().unwrap().iter();
        nodes.find(|node| node["name"] == name).unwrap().clone()
    };
    let titles = || store.run("image ls STORE").ok().lines().next().unwrap().to_owned();
    tiered(&store, &tier);
    store.run("image checkpoint STORE/golden@v1").ok();
    assert!(!titles().contains("TIER") && of("golden").get("lag").is_none());
    store.run("image push STORE/golden@v1").ok();
    assert!(titles().ends_with("TIER"), "{}", titles());
    assert!(of("golden@v1")["pushed"].as_u64().unwrap() >= of("golden@v1")["created"].as_u64().unwrap());
    assert_eq!(of("golden")["lag"], serde_json::json!({"bytes": 0, "seconds": 0}));
    assert!(of("vm1").get("lag").is_none(), "nothing of it was pushed");
    {
        let online = online(&store);
        let mut writer = client(&online.server, "golden");
        writer.write_at(1 << 20, &[5; 1 << 20]).unwrap();
        writer.flush().unwrap();
        let bytes = of("golden")["lag"]["bytes"].as_u64().unwrap();
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}: a server tells it too");
    }
    store.run("image checkpoint STORE/golden@v2").ok();
    let bytes = of("golden")["lag"]["bytes"].as_u64().unwrap();
    assert!(bytes > 0, "in packs it is not on the tier yet");
    store.run("image push STORE/golden@v2").ok();
    assert_eq!(of("golden")["lag"]["bytes"], 0);
    store.run("store tier STORE --off").ok();
    assert!(of("golden@v1").get("pushed").is_none() && !titles().contains("TIER"));
}

/// A name belongs to one store; who takes it over is told to the other, which loses nothing.
#[test]
fn a_name_has_one_writer() {
    let ((one, _), (other, _)) = (golden(), golden());
    let tier = one.directory().join("tier");
    for store in [&one, &other] {
        tiered(store, &tier);
        store.run("image checkpoint STORE/golden@v1").ok();
    }
    one.run("image push STORE/golden@v1").ok();
    other.refused("image push STORE/golden@v1", &["belongs to the store", "image own --force"]);
    other.refused("image own STORE/golden", &["belongs to the store"]);
    other.run("image own STORE/golden --force").ok();
    one.run("image checkpoint STORE/golden@v2").ok();
    one.refused("image push STORE/golden@v2", &["belongs to the store"]);
    other.refused("image push STORE/golden@v1", &["another snapshot"]);
    other.run("image rename STORE/golden@v1 STORE/golden@mine").ok();
    other.run("image push STORE/golden@mine").ok();
    assert_eq!(one.json("store check STORE --tier")["snapshots"], 2);
    assert_eq!(one.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// Its name is right, so that is not what is told.
#[test]
fn a_boot_of_zeroes_has_nothing_to_trace() {
    let tier = tempfile::tempdir().unwrap();
    let (one, other) = (Store::init(), Store::init());
    tiered(&one, tier.path());
    one.run("image create STORE/blank 1M").ok();
    one.run("image checkpoint STORE/blank@v1").ok();
    one.run("image push STORE/blank@v1").ok();
    other.run(&format!("image clone file://{}/blank@v1 STORE/vm", tier.path().display())).ok();
    other.refused("image trace STORE/vm@v1", &["all zeroes"]);
}
