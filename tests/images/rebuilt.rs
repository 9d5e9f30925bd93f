//! A catalogue that is lost is made again of the layers.
//!
//! Oracle: the bytes of all images and snapshots before, by the same names, or by any where a name is lost.

use std::collections::{BTreeMap, BTreeSet};

use super::Store;
use super::online::{client, golden, online};
use crate::support::image::pattern;

/// The bytes of all images and snapshots.
fn contents(store: &Store) -> BTreeMap<String, Vec<u8>> {
    let bytes = |name: String| {
        store.run(&format!("image export STORE/{name} DIR/out.raw --force")).ok();
        (name, std::fs::read(store.dir.path().join("out.raw")).unwrap())
    };
    store.names().into_iter().map(bytes).collect()
}

/// Writes to an image through the server.
fn write(online: &super::online::Online, image: &str, at: u64, seed: u64) {
    let mut client = client(&online.server, image);
    client.write_at(at, &pattern(seed, at, 70_000)).unwrap();
    client.flush().unwrap();
}

#[test]
fn a_lost_catalogue_is_made_again_of_the_layers() {
    let (store, _) = golden();
    std::fs::write(store.dir.path().join("base.raw"), pattern(9, 0, 3 << 20)).unwrap();
    for line in ["on-base --base file:DIR/base.raw", "flat-base --base file:DIR/base.raw", "empty 2M"] {
        store.run(&format!("image create STORE/{line}")).ok();
    }
    store.run("image clone STORE/golden@v1 STORE/vm3 STORE/flat STORE/unwritten").ok();
    {
        let online = online(&store);
        for (number, image) in
            ["golden", "vm1", "vm2", "vm3", "flat", "on-base", "flat-base", "empty"].iter().enumerate()
        {
            write(&online, image, 100_000 * number as u64, number as u64 + 20);
        }
        store.run("image snapshot STORE/vm1@a STORE/vm2@a STORE/on-base@a").ok();
        write(&online, "vm1", 1 << 20, 40);
        write(&online, "on-base", 1 << 20, 41);
        store.run("image resize STORE/vm1 8M").ok();
        write(&online, "vm1", 7 << 20, 42);
    }
    // A chain whose layers were merged, and one that was rolled back.
    for number in 0..4 {
        store.run(&format!("image snapshot STORE/vm3@s{number}")).ok();
        let online = online(&store);
        write(&online, "vm3", 200_000 * number, 50 + number);
    }
    store.run("image rm STORE/vm3@s1 STORE/vm3@s2").ok();
    for number in 4..9 {
        store.run(&format!("image snapshot STORE/vm3@s{number}")).ok();
        let online = online(&store);
        write(&online, "vm3", 200_000 * number, 60 + number);
    }
    store.run("image rollback STORE/vm2@a").ok();
    store.run("image flatten STORE/flat").ok();
    store.run("image flatten STORE/flat-base").ok();
    store.run("image snapshot STORE/vm1@b").ok();
    let before = contents(&store);
    let uuid = store.json("store info STORE")["uuid"].clone();

    store.refused("store check STORE --rebuild-catalog", &["nothing to make again"]);
    let catalogue = store.path().join("catalog.redb");
    for is_there in [true, false] {
        match is_there {
            true => std::fs::write(&catalogue, "garbage").unwrap(),
            false => std::fs::remove_file(&catalogue).unwrap(),
        }
        let told = store.json("store check STORE --rebuild-catalog");
        // What was flattened stands where it stood before, which is the same: the copy is left.
        let left: Vec<&str> =
            told["left"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        assert_eq!(left.len(), usize::from(is_there), "{told}");
        assert!(left.iter().all(|line| line.contains("a copy of layers that are there")), "{told}");
        assert_eq!(store.json("store info STORE")["uuid"], uuid);
        let after = contents(&store);
        assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
        let known: BTreeSet<&Vec<u8>> = after.values().collect();
        for (name, bytes) in &before {
            match after.get(name) {
                Some(found) => assert!(found == bytes, "{name} has other contents"),
                // Never written, or a snapshot that was taken of an image in use.
                None => assert!(name == "unwritten" || name.contains('@'), "{name} is lost"),
            }
            assert!(known.contains(bytes), "the contents of {name} are lost");
        }
        let made_up = |name: &&String| name.contains("@recovered");
        for (name, bytes) in after.iter().filter(|(name, _)| !made_up(name)) {
            assert!(before.get(name) == Some(bytes), "{name} was not there");
        }
        for name in ["golden@v1", "vm3@s0", "vm3@s8"] {
            assert!(after.contains_key(name), "{name}: {:?}", after.keys());
        }
    }
    assert_eq!(std::fs::read(store.path().join("lost/catalog.redb.0")).unwrap(), b"garbage");
    // It goes on as a store does.
    let online = online(&store);
    write(&online, "vm1", 0, 80);
    drop(online);
    store.run("image snapshot STORE/vm1@next").ok();
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

#[test]
fn what_is_no_store_gets_no_catalogue() {
    let store = Store::init();
    let refused = |words: &str| {
        let finished = store.run("store check STORE --rebuild-catalog");
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(finished.stderr.contains(words), "{finished}");
    };
    refused("nothing to make again");
    std::fs::remove_file(store.path().join("catalog.redb")).unwrap();
    refused("restore the store from a backup");
    std::fs::create_dir(store.path().join("layers/foreign")).unwrap();
    std::fs::write(store.path().join("layers/foreign/map"), [7; 70_000]).unwrap();
    refused("restore the store from a backup");
    std::fs::remove_dir_all(store.path().join("layers")).unwrap();
    refused("is not a store");
}
