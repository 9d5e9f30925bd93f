//! Snapshots that are pushed to a tier in a directory, by two stores.
//!
//! Oracles: the files of packs in the store and in the tier, read behind the program's back.

use std::path::{Path, PathBuf};

use serde_json::Value;

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
    let row = |name: &str| {
        let table = store.run("image ls STORE").ok();
        let mut rows = table.lines().filter(|row| row.split_whitespace().next() == Some(name));
        rows.next().unwrap_or_else(|| panic!("{name}:\n{table}")).trim_end().to_owned()
    };
    let titles = || row("NAME");
    tiered(&store, &tier);
    store.run("image checkpoint STORE/golden@v1").ok();
    assert!(!titles().contains("TIER") && of("golden").get("lag").is_none());
    store.run("image push STORE/golden@v1").ok();
    assert!(titles().ends_with("TIER"), "{}", titles());
    assert!(of("golden@v1")["pushed"].as_u64().unwrap() >= of("golden@v1")["created"].as_u64().unwrap());
    assert_eq!(of("golden")["lag"], serde_json::json!({"bytes": 0, "seconds": 0}));
    assert!(of("vm1").get("lag").is_none(), "nothing of it was pushed");
    for (name, cell) in [("golden", "  no lag"), ("@v1", "  pushed"), ("vm1", "  local")] {
        assert!(row(name).ends_with(cell), "{}", row(name));
    }
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
    assert!(row("@v2").ends_with("  local"), "{}", row("@v2"));
    assert!(row("golden").ends_with(" s"), "so many seconds: {}", row("golden"));
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

/// Makes an object of the tier older than all limits. Who writes one by hand leaves its checksum out.
fn age(object: &Path, key: &str) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(object).unwrap()).unwrap();
    value[key] = 0.into();
    value.as_object_mut().unwrap().remove("checksum").expect("objects have a checksum");
    std::fs::write(object, value.to_string()).unwrap();
}

/// The files in a directory and below it.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// It stays in its store, clones on other hosts keep what they read, and packs go when nothing needs them.
#[test]
fn a_snapshot_is_taken_out_of_the_tier() {
    let ((store, golden), other, third) = (golden(), Store::init(), Store::init());
    let tier = store.directory().join("tier");
    let from = format!("file://{}/golden@v1", tier.display());
    tiered(&store, &tier);
    tiered(&other, &tier);
    store.run("image checkpoint STORE/golden@v1").ok();
    store.run("image push STORE/golden@v1").ok();
    other.run(&format!("image clone {from} STORE/vm9")).ok();
    store.refused("image rm STORE/golden@v1 --tier", &["was cloned", "vm9 (store ", "--force"]);
    other.refused("image rm STORE/golden@v1 --tier", &["belongs to the store"]);
    store.refused("image rm STORE/golden --tier", &["golden"]);
    store.refused(
        "image rm STORE/golden@v1 STORE/golden@v7 --tier --force",
        &["golden@v7 is not in the tier"],
    );
    assert!(store.json("image info STORE/golden@v1")["pushed"].is_u64(), "none of them goes");

    let removed = store.json("image rm STORE/golden@v1 --tier --force");
    assert_eq!(removed["removed"], serde_json::json!(["golden@v1"]));
    assert!(store.names().contains(&"golden@v1".to_owned()));
    assert!(store.json("image info STORE/golden@v1").get("pushed").is_none());
    third.refused(&format!("image clone {from} STORE/x"), &["no snapshot \"v1\""]);
    for record in files(&tier.join("images/golden/records")) {
        age(&record, "pushed_s");
    }
    let collect = |store: &Store| store.json("store gc STORE --tier --grace 0s");
    // Records go, packs are marked, and then deleted: but the clone keeps these.
    (0..4).for_each(|_| drop(collect(&store)));
    assert!(files(&tier.join("images/golden/records")).is_empty());
    assert!(packs(&tier) == packs(&store.path()));
    other.run("image export STORE/vm9 DIR/out.raw").ok();
    assert!(std::fs::read(other.directory().join("out.raw")).unwrap() == golden);

    let hold = files(&tier.join("holds")).remove(0);
    age(&hold, "since_s");
    assert_eq!(collect(&other)["holds_released"], 0, "it is read");
    other.run("image rm STORE/vm9 --snapshots").ok();
    other.run("store gc STORE --grace 0s").ok();
    assert_eq!(collect(&store)["holds_released"], 0, "it is another store's");
    assert_eq!(collect(&other)["holds_released"], 1);
    (0..2).for_each(|_| drop(collect(&store)));
    assert!(packs(&tier).is_empty());
    // It may come again.
    store.run("image push STORE/golden@v1").ok();
    assert!(packs(&tier) == packs(&store.path()));
    third.run(&format!("image clone {from} STORE/x")).ok();
    assert_eq!(store.json("store check STORE --tier")["problems"], serde_json::json!([]));
}

/// A name that is taken cannot be cloned to, and what keeps the packs of the image that has it stays as it is.
#[test]
fn what_an_image_reads_is_kept_when_its_name_is_asked_for_again() {
    let ((store, golden), other) = (golden(), Store::init());
    let tier = store.directory().join("tier");
    tiered(&store, &tier);
    store.run("image checkpoint STORE/golden@v1").ok();
    store.run("image push STORE/golden@v1").ok();
    other.run(&format!("image clone file://{}/golden@v1 STORE/vm9", tier.display())).ok();
    store.run("image create STORE/small 1M").ok();
    store.run("image checkpoint STORE/small@s").ok();
    store.run("image push STORE/small@s").ok();
    let again = format!("image clone file://{}/small@s STORE/new STORE/vm9", tier.display());
    other.refused(&again, &["\"vm9\" exists already"]);
    store.refused("image rm STORE/golden@v1 --tier", &["was cloned", "vm9 (store "]);
    store.run("image rm STORE/golden@v1 --tier --force").ok();
    files(&tier.join("images/golden/records")).iter().for_each(|record| age(record, "pushed_s"));
    (0..4).for_each(|_| drop(store.run("store gc STORE --tier --grace 0s").ok()));
    other.run("image export STORE/vm9 DIR/out.raw").ok();
    assert!(std::fs::read(other.directory().join("out.raw")).unwrap() == golden);
}

/// The name is free again, and an image reads what was kept under it.
#[test]
fn what_an_image_reads_is_kept_when_its_first_name_is_given_to_another() {
    let ((store, golden), other) = (golden(), Store::init());
    let tier = store.directory().join("tier");
    tiered(&store, &tier);
    store.run("image create STORE/small 1M").ok();
    for node in ["golden@v1", "small@s"] {
        store.run(&format!("image checkpoint STORE/{node}")).ok();
        store.run(&format!("image push STORE/{node}")).ok();
    }
    let clone =
        |from: &str| other.run(&format!("image clone file://{}/{from} STORE/vm9", tier.display())).ok();
    clone("golden@v1");
    other.run("image rename STORE/vm9 STORE/web9").ok();
    clone("small@s");
    store.run("image rm STORE/golden@v1 --tier --force").ok();
    files(&tier.join("images/golden/records")).iter().for_each(|record| age(record, "pushed_s"));
    (0..4).for_each(|_| drop(store.run("store gc STORE --tier --grace 0s").ok()));
    other.run("image export STORE/web9 DIR/out.raw").ok();
    assert!(std::fs::read(other.directory().join("out.raw")).unwrap() == golden);
}

/// The second one is not there any more when its turn comes.
#[test]
fn what_was_taken_out_before_a_failure_is_known_to_be_gone() {
    let (store, _) = golden();
    tiered(&store, &store.directory().join("tier"));
    store.run("image checkpoint STORE/golden@v1").ok();
    store.run("image push STORE/golden@v1").ok();
    assert!(store.json("image info STORE/golden@v1")["pushed"].is_u64());
    store.refused("image rm STORE/golden@v1 STORE/golden@v1 --tier", &["golden@v1 is not in the tier"]);
    assert!(store.json("image info STORE/golden@v1").get("pushed").is_none());
}

/// A name for everybody is cloned without knowing the image, outlives the snapshot, and is taken back.
#[test]
fn a_published_name_is_cloned_and_taken_back() {
    let ((store, golden), other) = (golden(), Store::init());
    let tier = store.directory().join("tier");
    tiered(&store, &tier);
    store.run("image checkpoint STORE/golden@v1").ok();
    store.run("image push STORE/golden@v1").ok();
    let from = format!("file://{}/debian", tier.display());
    other.refused(&format!("image clone {from} STORE/vm"), &["nothing is published as debian"]);
    store.run("image publish STORE/golden@v1 debian").ok();
    store.run("image rm STORE/golden@v1 --tier").ok();
    for record in files(&tier.join("images/golden/records")) {
        age(&record, "pushed_s");
    }
    let collect = || drop(store.json("store gc STORE --tier --grace 0s"));
    (0..4).for_each(|_| collect());
    assert!(files(&tier.join("images/golden/records")).is_empty());
    other.run(&format!("image clone {from} STORE/vm")).ok();
    other.run("image export STORE/vm DIR/out.raw").ok();
    assert!(std::fs::read(other.directory().join("out.raw")).unwrap() == golden);

    store.refused(
        "image publish STORE/vm1@v1 debian --off",
        &["is not what the tier has published as debian"],
    );
    assert_eq!(store.json("image publish STORE/golden@v1 debian --off")["image"], "golden");
    store.refused("image publish STORE/golden@v1 debian --off", &["is not what"]);
    other.refused(&format!("image clone {from} STORE/vm2"), &["nothing is published as debian"]);
    // The clone reads on what it needs.
    (0..4).for_each(|_| collect());
    assert!(packs(&tier) == packs(&store.path()));
    assert_eq!(other.run("store check STORE --deep").status.code(), Some(0));
}

/// What keeps packs is written before a clone is made: a collection between leaves it alone.
#[test]
fn what_a_clone_will_read_is_kept_before_it_is_made() {
    let (store, other) = (golden().0, Store::init());
    let tier = store.directory().join("tier");
    tiered(&store, &tier);
    tiered(&other, &tier);
    store.run("image checkpoint STORE/golden@v1").ok();
    store.run("image push STORE/golden@v1").ok();
    other.run(&format!("image clone file://{}/golden@v1 STORE/vm9", tier.display())).ok();
    other.run("image rm STORE/vm9 --snapshots").ok();
    other.run("store gc STORE --grace 0s").ok();
    assert_eq!(other.json("store gc STORE --tier --grace 0s")["holds_released"], 0, "it is young");
    age(&files(&tier.join("holds"))[0], "since_s");
    assert_eq!(other.json("store gc STORE --tier --grace 0s")["holds_released"], 1);
    assert_eq!(other.json("store gc STORE --tier --grace 0s")["holds_released"], 0, "it is over");
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
