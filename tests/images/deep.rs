//! `store check --deep` and `--repair`, without a server and beside one. What is damaged is never served.

use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Value, json};

use super::Store;
use super::online::{Online, client, golden, online, read};
use crate::http::Address;

const CHUNK: u64 = 64 << 10;
/// Where the first payload of a pack begins, and with it the first chunk of the disk.
const FIRST: u64 = 4096;

fn flip(pack: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(pack).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// What a check finds, with exit code 1.
#[track_caller]
fn found(store: &Store, line: &str) -> Value {
    let finished = store.run(&format!("{line} --json"));
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    serde_json::from_str(&finished.stdout).unwrap()
}

/// A4, A5.
#[test]
fn damage_in_packs_is_told_and_repaired() {
    let (store, golden) = golden();
    store.run("image checkpoint STORE/golden@v1").ok();
    let whole = store.run("store check STORE --deep").ok();
    assert!(whole.contains("chunks of packs were read") && whole.ends_with("Nothing is wrong.\n"), "{whole}");
    let pack = store.path().join("packs/1.pack");
    let good = std::fs::read(&pack).unwrap();
    flip(&pack, FIRST + 100);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n", "footers are whole");
    let report = found(&store, "store check STORE --deep --rate 0");
    let damaged = &report["scrub"]["damaged"];
    assert_eq!(
        (damaged.as_array().unwrap().len(), &report["ok"], &report["complete"]),
        (1, &json!(false), &json!(true))
    );
    let names = json!(["golden", "golden@v1", "vm1", "vm2"]);
    let place = json!({"names": names, "more_names": 0, "start": 0, "length": CHUNK});
    assert_eq!(
        (&damaged[0]["uses"], &damaged[0]["pack"], &damaged[0]["offset"]),
        (&json!([place]), &json!(1), &json!(FIRST))
    );
    let text = report["problems"][0].as_str().unwrap();
    assert!(text.contains("bytes 0 to 65536 of golden") && text.contains("damaged"), "{text}");
    // No copy is anywhere.
    assert_eq!(found(&store, "store check STORE --repair")["scrub"]["damaged"][0]["repaired"], false);
    let repaired = store.run("store check STORE --repair --copy DIR/golden.raw").ok();
    assert!(repaired.contains("1 damaged chunks were written again"), "{repaired}");
    assert!(std::fs::read(&pack).unwrap() == good);
    store.run("image export STORE/vm1 DIR/out.raw").ok();
    assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == golden);
    std::fs::rename(&pack, store.dir.path().join("moved")).unwrap();
    let report = found(&store, "store check STORE --deep");
    assert_eq!(report["scrub"]["unusable"][0]["is_missing"], true);
    assert_eq!(report["problems"].as_array().unwrap().len(), 1, "it is told once: {report}");
    store.refused("store check STORE --copy DIR/golden.raw", &["--repair"]);
    store.refused("store check STORE --deep --rebuild-index", &["--rebuild-index"]);
}

/// A4, under the sandbox: EIO for what is damaged and nothing else, until it is repaired beside the server.
#[test]
fn t37_a_server_gives_eio_for_what_is_damaged_until_it_is_repaired() {
    let (store, golden) = golden();
    store.run("image checkpoint STORE/golden@v1").ok();
    flip(&store.path().join("packs/1.pack"), FIRST + 5000);
    let served = online(&store);
    let Online { server, .. } = &served;
    let mut vm = client(server, "vm1");
    let mut bytes = vec![0; golden.len()];
    for _ in 0..2 {
        assert!(vm.read_at(0, &mut bytes[..4096]).is_err(), "the chunk does not verify");
        assert!(vm.read_at(5000, &mut bytes[..10]).is_err());
    }
    vm.read_at(CHUNK, &mut bytes[CHUNK as usize..]).unwrap();
    assert!(bytes[CHUNK as usize..] == golden[CHUNK as usize..]);
    // Parts of chunks that were verified before, in and across pages.
    for (at, length) in [(CHUNK + 5000, 10), (CHUNK + 4090, 20), (2 * CHUNK - 1, 2), (3 * CHUNK, 4096)] {
        let found = &mut bytes[..length];
        vm.read_at(at, found).unwrap();
        assert!(*found == golden[at as usize..][..length], "{at}");
    }
    let report = found(&store, "store check STORE --deep");
    assert_eq!(
        (&report["complete"], &report["scrub"]["damaged"][0]["uses"][0]["start"]),
        (&json!(false), &json!(0))
    );
    store.run("store check STORE --repair --copy DIR/golden.raw").ok();
    assert!(read(server, "vm1") == golden, "it is good again");
    store.refused_by_server("store check STORE --rebuild-index", "while it runs");
    let complaints = server.complaints();
    assert!(complaints.iter().all(|line| line.contains("cannot be read from its packs")), "{complaints:?}");
    assert!(!complaints.is_empty());
    let metrics = Address::Unix(served.admin.clone()).get("/metrics").body;
    let failed = metrics.lines().find(|line| line.starts_with("ringnbd_store_failed_reads_total{"));
    assert!(failed.is_some_and(|line| !line.ends_with(" 0")), "{failed:?}");
    drop(vm);
    drop(served);
    assert!(store.run("store check STORE --deep").ok().ends_with("Nothing is wrong.\n"));
}

/// A6, as a command.
#[test]
fn the_index_is_made_again() {
    let (store, golden) = golden();
    store.run("image checkpoint STORE/golden@v1").ok();
    let packs = store.json("store info STORE")["packs"].clone();
    for bytes in [None, Some("garbage")] {
        let index = store.path().join("index.redb");
        std::fs::remove_file(&index).unwrap();
        if let Some(bytes) = bytes {
            std::fs::write(&index, bytes).unwrap();
        }
        let made = store.json("store check STORE --rebuild-index");
        assert_eq!((&made["packs"], &made["left"]), (&json!(1), &json!([])));
        assert!(made["chunks"].as_u64().unwrap() > 60, "{made}");
        store.run("image create STORE/again --from DIR/golden.raw").ok();
        store.run("image checkpoint STORE/again@v1").ok();
        assert_eq!(store.json("store info STORE")["packs"], packs, "what is there is found");
        store.run("image export STORE/again DIR/out.raw --force").ok();
        assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == golden);
        store.run("image rm STORE/again --snapshots").ok();
    }
}

/// What is compressed, and how much, follows from the store; the contents are the same.
#[test]
fn stores_compress_as_they_were_made_to() {
    let text: Vec<u8> = (0..1 << 20)
        .map(|at: u32| b"a line of text, and another\n"[at as usize % 28] + (at >> 18) as u8)
        .collect();
    let mut sizes = Vec::new();
    for how in ["none", "lz4", "zstd"] {
        let store = Store { dir: crate::support::image::disk_dir(), within: "store" };
        store.run(&format!("store init STORE --compress {how}")).ok();
        std::fs::write(store.dir.path().join("text.raw"), &text).unwrap();
        store.run("image create STORE/vm --from DIR/text.raw").ok();
        store.run("image checkpoint STORE/vm@1").ok();
        let info = store.json("store info STORE");
        assert_eq!(info["compression"], how);
        sizes.push(info["packs"].as_u64().unwrap());
        store.run("image export STORE/vm@1 DIR/out.raw").ok();
        assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == text, "{how}");
        assert!(store.run("store check STORE --deep").ok().ends_with("Nothing is wrong.\n"));
    }
    assert!(sizes[1] < sizes[0] / 2 && sizes[2] < sizes[0] / 2, "{sizes:?}");
}
