//! Images that begin with a snapshot which another store has pushed to a tier, in a directory.
//!
//! Oracle: the bytes of the image in the store that wrote it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Store;
use super::online::{Online, client, golden, online, read};

const TIER: &str = "00000000-0000-0000-0000-000000000077";
const RECORD: &str = "00000000000000000000000000000088";

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The only node in a pack, which is the root of a small disk: its slot and its hash, read from the footer.
fn root(pack: &[u8]) -> (usize, String) {
    let footer = &pack[number(pack, pack.len() - 32) as usize..];
    let chunks = u32::from_le_bytes(footer[56..60].try_into().unwrap()) as usize;
    let entries = footer[64..].chunks(96).take(chunks);
    let mut nodes = entries.enumerate().filter(|(_, entry)| entry[60] == 1);
    let (slot, entry) = nodes.next().unwrap();
    assert!(nodes.next().is_none(), "a disk of up to 16 MiB has one node");
    (slot, entry[..32].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Puts what a store has of a snapshot on a tier, as its records are described.
fn push(store: &Store, image: &str, snapshot: &str, size: usize, tier: &Path) {
    let uuid = store.json("store info STORE")["uuid"].as_str().unwrap().to_owned();
    let packs = tier.join("packs").join(uuid.replace('-', ""));
    std::fs::create_dir_all(&packs).unwrap();
    std::fs::copy(store.path().join("packs/1.pack"), packs.join("1.pack")).unwrap();
    let pack = std::fs::read(packs.join("1.pack")).unwrap();
    let (slot, hash) = root(&pack);
    let of_pack = json!({"store": uuid, "number": 1, "bytes": pack.len()});
    let record = json!({
        "version": 1, "id": RECORD, "image": image, "snapshot": snapshot, "store": uuid, "size": size,
        "uuid": "00000000-0000-0000-0000-000000000099", "created_s": 5, "pushed_s": 6,
        "space": {"algorithm": "blake3", "chunk_bytes": 65536, "domain": "00000000-0000-0000-0000-000000000000"},
        "root": {"node": {"hash": hash, "pack": of_pack, "slot": slot}},
        "packs": [of_pack],
    });
    let put = |key: &str, value: Value| {
        let path = tier.join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value.to_string()).unwrap();
    };
    let space = record["space"].clone();
    put("tier.json", json!({"version": 1, "uuid": TIER, "space": space, "created_s": 1}));
    put(&format!("images/{image}/records/{RECORD}.json"), record);
    let owner = json!({
        "version": 1, "store": uuid, "generation": 1, "host": "here", "since_s": 1, "snapshots": {snapshot: RECORD},
    });
    put(&format!("images/{image}/owner.json"), owner);
}

fn pushed() -> (Store, Vec<u8>, PathBuf) {
    let (one, golden) = golden();
    one.run("image checkpoint STORE/golden@v1").ok();
    let tier = one.directory().join("tier");
    push(&one, "golden", "v1", golden.len(), &tier);
    (one, golden, tier)
}

/// A confined server of another store reads what was pushed; the tier goes, and comes back.
#[test]
fn another_host_starts_an_image_of_a_tier() {
    let (_one, golden, tier) = pushed();
    let other = Store::init();
    let made = other.run(&format!("image clone file://{}/golden@v1 STORE/vm9", tier.display())).ok();
    assert_eq!(made, "Made: vm9.\n");
    let holds: Vec<_> = std::fs::read_dir(tier.join("holds")).unwrap().collect();
    assert_eq!(holds.len(), 1, "the tier knows that the packs are needed");
    // Reads wait one second in this test.
    let file = other.path().join("tiers");
    let mut tiers: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(tiers["tiers"][TIER], format!("file://{}", tier.display()));
    tiers["wait_s"] = 1.into();
    std::fs::write(&file, tiers.to_string()).unwrap();
    let served = online(&other);
    let Online { server, .. } = &served;
    let mut reader = client(server, "vm9");
    let mut found = vec![0; 4096];
    reader.read_at(0, &mut found).unwrap();
    assert!(found == golden[..4096]);
    let away = tier.with_extension("away");
    std::fs::rename(&tier, &away).unwrap();
    let far = golden.len() - 4096;
    reader.read_at(far as u64, &mut found).unwrap_err();
    reader.read_at(0, &mut found).unwrap();
    assert!(found == golden[..4096], "what is here is read on");
    std::fs::rename(&away, &tier).unwrap();
    assert!(read(server, "vm9") == golden);
    reader.write_at(70_000, &[3; 5000]).unwrap();
    let mut expected = golden.clone();
    expected[70_000..75_000].fill(3);
    assert!(read(server, "vm9") == expected);
    // The server has the tier open, so more clones can be made.
    other.run(&format!("image clone file://{}/golden@v1 STORE/vm10", tier.display())).ok();
    assert!(read(server, "vm10") == golden);
    drop((reader, served));
    // All of it is here now.
    std::fs::rename(&tier, &away).unwrap();
    other.run("image export STORE/vm9 DIR/out.raw --force").ok();
    assert!(std::fs::read(other.directory().join("out.raw")).unwrap() == expected);
    assert_eq!(other.run("store check STORE").ok(), "Nothing is wrong.\n");
    assert_eq!(other.run("store check STORE --deep").status.code(), Some(0));
}

#[test]
fn what_is_no_snapshot_of_a_tier_is_refused() {
    let (_one, _, tier) = pushed();
    let other = Store::init();
    let address = format!("file://{}", tier.display());
    for (from, words) in [
        (format!("{address}/golden@v2"), "no snapshot \"v2\""),
        (format!("{address}/none@v1"), "images/none/owner.json"),
        (format!("{address}x/golden@v1"), "tier.json"),
        ("file://tier/golden@v1".to_owned(), "the whole path of a directory"),
        ("gopher://tier/golden@v1".to_owned(), "no address of a tier"),
    ] {
        other.refused(&format!("image clone {from} STORE/vm9"), &[words]);
    }
    let record = tier.join(format!("images/golden/records/{RECORD}.json"));
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace("\"version\":1", "\"version\":2")).unwrap();
    other.refused(&format!("image clone {address}/golden@v1 STORE/vm9"), &["use a newer ringnbd"]);
    std::fs::write(&record, text.replace("blake3", "md5")).unwrap();
    other.refused(&format!("image clone {address}/golden@v1 STORE/vm9"), &["cannot be used"]);
}
