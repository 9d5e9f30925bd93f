//! Snapshots whose contents are in packs: made by the command or by a server, and served.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::online::{AtLast, Online, client, golden, online, read};

/// A1: the contents of one file in two images, which were copied apart.
#[test]
fn checkpoints_store_equal_contents_once() {
    let (store, golden) = golden();
    let taken = store.json("image checkpoint STORE/golden@v1");
    let size = golden.len();
    assert_eq!(taken, json!({"node": "golden@v1", "ingested": true, "done": size, "total": size}));
    let packs = || store.json("store info STORE")["packs"].as_u64().unwrap();
    let once = packs();
    assert!(once > 0 && store.layers().iter().all(|layer| !layer.join("data").exists()));
    store.run("image create STORE/again --from DIR/golden.raw").ok();
    store.run("image checkpoint STORE/again@v1").ok();
    assert_eq!(packs(), once, "what is there is not written again");
    for node in ["golden@v1", "vm1", "again", "again@v1"] {
        store.run(&format!("image export STORE/{node} DIR/out.raw --force")).ok();
        assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == golden, "{node}");
    }
    store.refused("image checkpoint STORE/golden", &["golden"]);
    store.refused("image checkpoint STORE/none@v1", &["no image \"none\""]);
    store.run("image flatten STORE/vm1").ok();
    store.run("image export STORE/vm1 DIR/out.raw --force").ok();
    assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == golden);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// Under its sandbox, while clients write and read: a snapshot comes into packs, and its clones are served.
#[test]
fn a_running_server_brings_snapshots_into_packs() {
    let (store, golden) = golden();
    let served = online(&store);
    let Online { server, .. } = &served;
    let (mut writer, mut clone) = (client(server, "golden"), client(server, "vm1"));
    clone.write_at(1 << 20, &[5; 10_000]).unwrap();
    let mut expected = golden.clone();
    expected[1 << 20..(1 << 20) + 10_000].fill(5);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                writer.write_at(0, &[9; 65_536]).unwrap();
                writer.flush().unwrap();
            }
        });
        let _end = AtLast(&stop);
        assert_eq!(store.json("image checkpoint STORE/golden@v1")["ingested"], true);
        let mut found = vec![0; golden.len()];
        clone.read_at(0, &mut found).unwrap();
        assert!(found == expected, "a clone that was open goes on");
        store.run("image checkpoint STORE/vm1@a").ok();
        assert!(read(server, "vm1@a") == expected && read(server, "vm2") == golden);
        clone.write_at(0, &[6; 5000]).unwrap();
        expected[..5000].fill(6);
        clone.read_at(0, &mut found).unwrap();
        assert!(found == expected);
        store.run("image checkpoint STORE/golden@v2").ok();
        assert!(read(server, "golden@v2")[65_536..] == golden[65_536..]);
    });
    drop((writer, clone));
    assert!(read(server, "vm1") == expected);
    assert_eq!(server.complaints(), [""; 0]);
    drop(served);
    store.run("image export STORE/vm1 DIR/out.raw").ok();
    assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == expected);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    // What was ingested has no file of data.
    let with_data = store.layers().iter().filter(|layer| layer.join("data").exists()).count();
    assert_eq!(with_data, 3, "the heads of golden, vm1 and vm2");
}
