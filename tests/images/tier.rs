//! Snapshots that are pushed to a tier in a directory, by two stores.
//!
//! Oracles: the files of packs in the store and in the tier, read behind the program's back.

use std::path::{Path, PathBuf};

use super::Store;
use super::online::golden;

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
