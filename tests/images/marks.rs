//! Snapshots that keep no contents, only which parts of the disk have changed.
//!
//! Oracles: what the test wrote, and what QEMU's and libnbd's tools are told; the same images with snapshots
//! that keep their contents.

use serde_json::json;

use super::Store;
use super::online::{client, golden, online};
use super::tracking::{nbdinfo_of, qemu_io};
use crate::support::image::pattern;
use crate::support::server::{Options, Server};
use crate::support::wait_until;

const SIZE: usize = 4 << 20;
const MIB: u64 = 1 << 20;
const UNIT: u64 = 64 << 10;

fn serve(store: &Store) -> Server {
    // A confined server of one image can open nothing, not even a map of its store.
    let export = format!("d=store:{}/vm", store.path().display());
    Options::new().shards(2).memory("128M").export(export).args(["--sandbox", "off"]).start()
}

/// Writes a unit as a guest does, while nobody else has the store. What has changed is told to the unit once
/// layers became one, which a server may do at any time.
fn write(store: &Store, at: u64, byte: u8) -> Option<()> {
    let mut server = serve(store);
    qemu_io(&server.uri("d"), "raw", &[&format!("write -P {byte} {at} 64k")])?;
    server.stop();
    Some(())
}

/// An image with a base that was written, and snapshots without contents between.
fn store() -> Option<Store> {
    let store = Store::init();
    std::fs::write(store.directory().join("base.raw"), pattern(3, 0, SIZE)).unwrap();
    store.run("image create STORE/vm --base file:DIR/base.raw").ok();
    for (name, at) in [("a", UNIT), ("b", MIB)] {
        write(&store, at, 1)?;
        store.run(&format!("image checkpoint STORE/vm@{name} --changes-only")).ok();
    }
    Some(store)
}

/// B1, B2: what has changed is told after a kill, and a delta from such a snapshot makes the next one.
#[test]
fn b1_b2_marks_tell_what_has_changed_and_deltas_begin_there() {
    let Some(store) = store() else { return };
    let (since_a, since_b) = ("qemu:dirty-bitmap:a", "qemu:dirty-bitmap:b");
    let mut server = serve(&store);
    let (b, now) = ((MIB, UNIT, 1), (2 * MIB, 4096, 1));
    let told = |server: &Server, context| nbdinfo_of(&server.uri("d"), context);
    let Some(found) = told(&server, since_a) else { return };
    assert_eq!(found, [b]);
    qemu_io(&server.uri("d"), "raw", &["write -P 5 2M 512"]);
    assert_eq!(told(&server, since_a).unwrap(), [b, now]);
    server.crash();
    let mut server = serve(&store);
    assert_eq!(told(&server, since_a).unwrap(), [b, now]);
    assert_eq!(told(&server, since_b).unwrap(), [now]);
    server.stop();

    // B2: a disk as it was then, and the delta, make the disk as it is.
    store.run("image snapshot STORE/vm@c").ok();
    store.run("image export STORE/vm DIR/c.delta --delta a..c").ok();
    let mut expected = pattern(3, 0, SIZE);
    expected[UNIT as usize..][..UNIT as usize].fill(1);
    std::fs::write(store.directory().join("then.raw"), &expected).unwrap();
    let server = Options::new()
        .export(format!("d=store:{}/vm@c", store.path().display()))
        .args(["--sandbox", "off"])
        .start();
    store.run(&format!("copy {} DIR/then.raw --delta a", server.uri("d"))).ok();
    drop(server);
    expected[MIB as usize..][..UNIT as usize].fill(1);
    expected[2 * MIB as usize..][..512].fill(5);
    assert!(std::fs::read(store.directory().join("then.raw")).unwrap() == expected);
    let delta = std::fs::metadata(store.directory().join("c.delta")).unwrap().len();
    assert!(delta < 3 * UNIT, "it has what has changed: {delta} bytes");
}

#[test]
fn what_keeps_changes_only_is_not_read() {
    let Some(store) = store() else { return };
    let words = ["has no contents", "--changes-only", "image diff"];
    for line in [
        "image clone STORE/vm@a STORE/new",
        "image export STORE/vm@a DIR/a.raw",
        "image export STORE/vm DIR/a.delta --delta ..a",
        "image map STORE/vm@a",
        "image rollback STORE/vm@a",
        "image checkpoint STORE/vm@a",
        "serve store:STORE/vm@a --tcp 127.0.0.1:0",
    ] {
        let finished = store.run(line);
        let is_told = words.iter().all(|word| finished.stderr.contains(word));
        assert!(!finished.status.success() && is_told, "{line}: {finished}");
    }
    assert!(!store.directory().join("a.raw").exists());
    let list = store.run("image ls STORE").ok();
    assert!(list.contains("@a (changes only)") && list.contains("@b (changes only)"), "{list}");
    assert!(store.run("image info STORE/vm@a").ok().contains("none, changes only"));
    let shown = store.json("image info STORE/vm@a");
    assert_eq!((&shown["changes_only"], &shown["used"]), (&json!(true), &json!(0)));
    assert_eq!(store.json("image info STORE/vm")["changes_only"], false);
    store.refused("image checkpoint STORE/vm@c STORE/vm@d", &["--changes-only"]);

    // What was kept is given up; not what clones stand on.
    store.run("image snapshot STORE/vm@c").ok();
    store.run("image clone STORE/vm@c STORE/other").ok();
    store.refused("image checkpoint STORE/vm@c --changes-only", &["has clones", "other"]);
    store.run("image rm STORE/other").ok();
    store.run("image checkpoint STORE/vm@c --changes-only").ok();
    assert_eq!(store.json("image info STORE/vm@c")["changes_only"], true);
    // Removing one adds what it told to the next one's.
    store.run("image rm STORE/vm@b").ok();
    let diff = store.json("image diff STORE/vm@a STORE/vm@c");
    assert_eq!(diff["extents"], json!([{ "start": MIB, "length": UNIT }]));
}

/// Several images at one point in time, while clients have them; their layers become one with the next.
#[test]
fn a_server_takes_marks_and_merges_what_they_stood_on() {
    let (store, _) = golden();
    let online = online(&store);
    let server = &online.server;
    let mut clients = [client(server, "vm1"), client(server, "vm2")];
    for (round, name) in ["a", "b", "c"].into_iter().enumerate() {
        for client in &mut clients {
            client.write_at(round as u64 * MIB, &[round as u8 + 1; 8192]).unwrap();
        }
        let line = format!("image checkpoint STORE/vm1@{name} STORE/vm2@{name} --changes-only");
        let made = store.json(&line);
        assert_eq!(made["nodes"][1]["changes_only"], true, "{made}");
    }
    clients[0].write_at(3 * MIB, &[9; 4096]).unwrap();
    // The golden image's layer, one of all three, and the head.
    let depth = |image: &str| store.json(&format!("image info STORE/{image}"))["depth"].clone();
    wait_until("the layers become one", || depth("vm1") == 3 && depth("vm2") == 3);
    let Some(told) = nbdinfo_of(&server.uri("vm1"), "qemu:dirty-bitmap:a") else { return };
    assert_eq!(told, [(MIB, UNIT, 1), (2 * MIB, UNIT, 1), (3 * MIB, 4096, 1)]);
    let told = nbdinfo_of(&server.uri("vm1"), "qemu:dirty-bitmap:c").unwrap();
    assert_eq!(told, [(3 * MIB, 4096, 1)]);
    // One that keeps changes only is no export, and the others go on.
    let listed = store.run(&format!("list {}", server.uri("vm1"))).ok();
    assert!(!listed.contains("vm1@a") && listed.contains("golden@v1"), "{listed}");
    let diff = store.json("image diff STORE/vm1@a STORE/vm1@b");
    assert_eq!(diff["extents"], json!([{ "start": MIB, "length": UNIT }]));
    store.refused_by_server("image clone STORE/vm1@a STORE/new", "has no contents");
    store.refused_by_server("image export STORE/vm1@a DIR/a.raw", "has no contents");
    // A client has one that is to give its contents up.
    store.run("image snapshot STORE/vm1@kept").ok();
    let reader = client(server, "vm1@kept");
    store.refused_by_server("image checkpoint STORE/vm1@kept --changes-only", "has clients");
    drop(reader);
    wait_until("it gives its contents up", || {
        store.run("image checkpoint STORE/vm1@kept --changes-only").status.success()
    });
    let mut found = vec![0; 8192];
    clients[0].read_at(2 * MIB, &mut found).unwrap();
    assert_eq!(found, [3; 8192]);
    drop(clients);
    drop(online);
    assert!(store.run("store check STORE").status.success());
}
