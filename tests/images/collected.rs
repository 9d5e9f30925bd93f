//! Packs that are collected, and layers that come into packs by themselves, while clients use the images.
//!
//! Oracle: the bytes that the test wrote.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::Store;
use super::online::{AtLast, Online, client, golden, online, online_with, read};
use crate::support::image::pattern;
use crate::support::wait_until;

/// An image whose first part nobody else has, and whose rest is that of another one, in packs.
fn with_mixed(store: &Store, golden: &[u8]) {
    let mixed = [pattern(8, 0, 2 * golden.len()), golden.to_vec()].concat();
    std::fs::write(store.dir.path().join("mixed.raw"), &mixed).unwrap();
    store.run("image create STORE/mixed --from DIR/mixed.raw").ok();
    store.run("image checkpoint STORE/mixed@a").ok();
}

fn exported(store: &Store, node: &str) -> Vec<u8> {
    store.run(&format!("image export STORE/{node} DIR/out.raw --force")).ok();
    std::fs::read(store.dir.path().join("out.raw")).unwrap()
}

fn packs(store: &Store) -> usize {
    std::fs::read_dir(store.path().join("packs")).unwrap().count()
}

/// What is left of the packs of images that were removed.
fn moved(found: &Value) {
    let counts = ["packs_removed", "packs_written", "packs_unreadable"].map(|key| found[key].as_u64());
    assert_eq!(counts, [Some(1), Some(1), Some(0)], "{found}");
    let bytes = |key: &str| found[key].as_u64().unwrap();
    assert!(bytes("bytes_garbage") * 20 <= bytes("bytes_needed"), "{found}");
    assert!(bytes("bytes_copied") * 2 < bytes("bytes_removed"), "{found}");
    assert_eq!(found["finished"], true);
}

/// A2: what is needed of a pack moves, and the rest comes back.
#[test]
fn a_command_collects_packs() {
    let (store, golden) = golden();
    with_mixed(&store, &golden);
    store.run("image checkpoint STORE/golden@v1").ok();
    assert_eq!(store.json("store gc STORE")["packs_removed"], 0, "all of it is needed");
    let all = store.json("store info STORE")["packs"].as_u64().unwrap();
    store.run("image rm --snapshots STORE/mixed").ok();
    moved(&store.json("store gc STORE"));
    assert!(store.json("store info STORE")["packs"].as_u64().unwrap() * 2 < all);
    assert_eq!(store.run("store gc STORE").ok(), "0 removed, 0 left in lost/.\n");
    for node in ["golden@v1", "golden", "vm1"] {
        assert!(exported(&store, node) == golden, "{node}");
    }
    // What an interruption has left behind waits in lost/.
    std::fs::write(store.path().join("packs/900.pack"), "unfinished").unwrap();
    assert_eq!(store.json("store gc STORE")["lost"], 1);
    assert!(store.path().join("lost/900.pack").exists());
    assert_eq!(store.json("store gc STORE --grace 0")["removed"], 1);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    store.refused("store ingest STORE", &["server"]);
}

/// Columns of what is in packs: estimates, until they are counted; by a server as well.
#[test]
fn what_is_in_packs_is_counted_by_a_collection() {
    let (store, golden) = golden();
    store.run("image checkpoint STORE/golden@v1").ok();
    assert!(store.run("image ls STORE").ok().contains(" ?"));
    let served = online(&store);
    store.json("store gc STORE");
    let told = store.json("image info STORE/golden@v1");
    assert_eq!(
        (&told["estimated"], &told["unique"], &told["ratio"]),
        (&false.into(), &0.into(), &Value::Null)
    );
    assert_eq!((&told["used"], &told["shared"]), (&golden.len().into(), &golden.len().into()));
    let all = store.json("store info STORE");
    assert_eq!((&all["packed"], &all["estimated"]), (&golden.len().into(), &false.into()));
    let (needed, packs) = (all["needed"].as_u64().unwrap(), all["packs"].as_u64().unwrap());
    assert!(needed > 0 && needed <= packs, "{all}");
    drop(served);
    assert!(
        !store.run("image ls STORE").ok().contains('?') && !store.run("store info STORE").ok().contains('?')
    );
    assert_eq!(store.json("store info STORE")["needed"], needed, "it is kept");
}

/// A2: under its sandbox, while clients write and read what moves.
#[test]
fn a_running_server_collects_packs() {
    let (store, golden) = golden();
    with_mixed(&store, &golden);
    let served = online(&store);
    let Online { server, .. } = &served;
    store.run("image checkpoint STORE/golden@v1").ok();
    let (mut writer, mut reader) = (client(server, "vm2"), client(server, "vm1"));
    let mut found = vec![0; golden.len()];
    reader.read_at(0, &mut found).unwrap();
    assert!(found == golden);
    store.run("image rm --snapshots STORE/mixed").ok();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                writer.write_at(0, &[9; 65_536]).unwrap();
                writer.flush().unwrap();
            }
        });
        let _end = AtLast(&stop);
        moved(&store.json("store gc STORE"));
        reader.read_at(0, &mut found).unwrap();
        assert!(found == golden, "a client that had it open");
        assert!(read(server, "golden@v1") == golden, "one that comes");
    });
    drop((writer, reader));
    let links = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let targets = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
    let open: Vec<_> =
        targets.filter(|target| target.to_string_lossy().contains(".pack (deleted)")).collect();
    assert!(open.is_empty(), "they take room: {open:?}");
    assert_eq!(server.complaints(), [""; 0]);
    drop(served);
    assert!(exported(&store, "vm1") == golden && exported(&store, "vm2")[65_536..] == golden[65_536..]);
    assert_eq!((packs(&store), store.run("store check STORE").ok()), (2, "Nothing is wrong.\n".to_owned()));
}

/// Layers that have been sealed for a while; here that is no time at all.
#[test]
fn layers_come_into_packs_by_themselves() {
    let (store, golden) = golden();
    let served = online_with(&store, "?ingest=0s");
    let Online { server, .. } = &served;
    let layers = || store.json("store ingest STORE")["layers"].as_u64().unwrap();
    wait_until("a layer is in packs", || layers() == 1);
    assert!(store.layers().iter().all(|layer| !layer.join("data").exists()));
    assert!(read(server, "vm1") == golden && read(server, "golden") == golden);
    let paused = store.json("store ingest STORE --pause");
    assert_eq!((&paused["paused"], &paused["after_seconds"]), (&true.into(), &0.into()));
    let mut writer = client(server, "vm1");
    writer.write_at(1 << 20, &[5; 100_000]).unwrap();
    store.run("image snapshot STORE/vm1@a").ok();
    // It is asked for all the same.
    store.run("image checkpoint STORE/vm1@a").ok();
    assert_eq!(layers(), 2);
    writer.write_at(2 << 20, &[6; 100_000]).unwrap();
    store.run("image snapshot STORE/vm1@b").ok();
    assert_eq!(store.json("store ingest STORE --resume")["paused"], false);
    wait_until("the next one too", || layers() == 3);
    let mut expected = golden;
    expected[1 << 20..(1 << 20) + 100_000].fill(5);
    assert!(read(server, "vm1@a") == expected);
    expected[2 << 20..(2 << 20) + 100_000].fill(6);
    assert!(read(server, "vm1@b") == expected && read(server, "vm1") == expected);
    drop(writer);
    assert_eq!(server.complaints(), [""; 0]);
    drop(served);
    assert!(exported(&store, "vm1") == expected);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}
