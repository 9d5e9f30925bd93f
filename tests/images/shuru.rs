//! Disks of shuru-store that are imported. They are written here, after the description of its format.

use std::path::Path;

use super::Store;
use super::online::{Online, golden, online, read};
use crate::support::image::pattern;

const CHUNK: usize = 64 << 10;

/// Writes `disk` as a checkpoint of shuru-store 0.2 has it.
fn write_store(house: &Path, disk: &[u8]) {
    let chunks = house.join("shuru/chunks");
    std::fs::create_dir_all(&chunks).unwrap();
    let mut index = (disk.len() as u64).to_le_bytes().to_vec();
    index.extend((disk.len().div_ceil(CHUNK) as u64).to_le_bytes());
    index.extend([0; 8]);
    for chunk in disk.chunks(CHUNK) {
        let mut whole = chunk.to_vec();
        whole.resize(CHUNK, 0);
        let name = match whole.iter().all(|byte| *byte == 0) {
            true => "ZERO".to_owned(),
            false => blake3::hash(&whole).to_hex().to_string(),
        };
        if name != "ZERO" {
            std::fs::write(chunks.join(&name), &whole).unwrap();
        }
        index.extend((name.len() as u32).to_le_bytes());
        index.extend(name.as_bytes());
    }
    std::fs::write(house.join("shuru/vm.idx"), index).unwrap();
}

fn disk() -> Vec<u8> {
    let mut disk = pattern(5, 0, 4 << 20);
    disk[CHUNK..10 * CHUNK].fill(0);
    disk.copy_within(..CHUNK, 20 * CHUNK);
    disk
}

/// A7.
#[test]
fn a_disk_of_shuru_is_imported_and_equal() {
    let (store, mut disk) = (Store::init(), disk());
    disk.truncate(disk.len() - 5120);
    write_store(store.dir.path(), &disk);
    let made = store.json("image import STORE/vm shuru:DIR/shuru/vm.idx");
    assert_eq!(made["nodes"][0]["size"], disk.len());
    store.run("image checkpoint STORE/vm@1").ok();
    for node in ["vm", "vm@1"] {
        store.run(&format!("image export STORE/{node} DIR/out.raw --force")).ok();
        assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == disk, "{node}");
    }
    // A chunk that is missing or damaged is never zeroes.
    let chunk =
        std::fs::read_dir(store.dir.path().join("shuru/chunks")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&chunk, "other").unwrap();
    let failed = store.run("image import STORE/bad shuru:DIR/shuru/vm.idx");
    assert!(!failed.status.success() && failed.stderr.contains("other bytes than its name"), "{failed}");
    std::fs::remove_file(&chunk).unwrap();
    let failed = store.run("image import STORE/bad shuru:DIR/shuru/vm.idx");
    assert!(!failed.status.success() && failed.stderr.contains("is missing"), "{failed}");
    assert_eq!(store.names(), ["vm", "vm@1"]);
    store.refused("image import STORE/bad shuru:DIR/out.raw", &["no index of shuru-store"]);
}

#[test]
fn a_server_takes_a_disk_of_shuru() {
    let (store, _) = golden();
    let disk = disk();
    write_store(store.dir.path(), &disk);
    let served = online(&store);
    let Online { server, .. } = &served;
    store.run("image import STORE/shuru shuru:DIR/shuru/vm.idx").ok();
    assert!(read(server, "shuru") == disk);
}
