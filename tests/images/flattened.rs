//! Images of a running server that get a layer of their own, and bases that were moved.
//!
//! Oracles: the bytes that the test wrote; the layers on the disk.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use super::Store;
use super::online::{AtLast, Online, client, golden, online, read};
use crate::support::image::pattern;
use crate::support::wait_until;

const SIZE: usize = 4 << 20;

/// A store with an image on a base.
fn on_base() -> (Store, Vec<u8>) {
    let store = Store::init();
    let base = pattern(7, 0, SIZE);
    std::fs::write(store.dir.path().join("base.raw"), &base).unwrap();
    store.run("image create STORE/first --base file:DIR/base.raw").ok();
    (store, base)
}

/// Bytes written by a client of the server, and expected from then on.
fn write(online: &Online, image: &str, at: usize, seed: u64, expected: &mut [u8]) {
    let bytes = pattern(seed, at as u64, 70_000);
    let mut client = client(&online.server, image);
    client.write_at(at as u64, &bytes).unwrap();
    client.flush().unwrap();
    expected[at..at + bytes.len()].copy_from_slice(&bytes);
}

#[test]
fn images_in_use_are_flattened() {
    let (store, mut expected) = golden();
    let base = pattern(7, 0, SIZE);
    std::fs::write(store.dir.path().join("base.raw"), &base).unwrap();
    store.run("image create STORE/first --base file:DIR/base.raw").ok();
    let mut first = base;
    let online = online(&store);
    write(&online, "vm1", 100_000, 30, &mut expected);
    write(&online, "first", 200_000, 31, &mut first);
    let stop = AtomicBool::new(false);
    let mut writer = client(&online.server, "vm1");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                writer.write_at(3 << 20, &[9; 65_536]).unwrap();
                writer.flush().unwrap();
            }
        });
        let _end = AtLast(&stop);
        let told = store.run("image flatten STORE/vm1").ok();
        assert!(told.contains("stands on a layer of its own"), "{told}");
        let json = store.json("image flatten STORE/first");
        assert_eq!((&json["nodes"][0]["name"], &json["nodes"][0]["base"]), (&"first".into(), &().into()));
    });
    drop(writer);
    expected[3 << 20..(3 << 20) + 65_536].fill(9);
    assert!(store.run("image flatten STORE/vm1").ok().contains("was flat already"));
    store.refused("image flatten STORE/none", &["no image \"none\""]);
    // Nobody needs what they stood on.
    assert_eq!(store.json("image info STORE/vm1")["origin"], serde_json::Value::Null);
    wait_until("the clone goes", || store.run("image rm STORE/vm2").status.success());
    store.run("image rm --snapshots STORE/golden").ok();
    std::fs::remove_file(store.dir.path().join("base.raw")).unwrap();
    write(&online, "vm1", 2 << 20, 32, &mut expected);
    assert!(read(&online.server, "vm1") == expected && read(&online.server, "first") == first);
    assert_eq!(online.server.complaints(), [""; 0]);
    drop(online);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    let online = super::online::online(&store);
    assert!(read(&online.server, "vm1") == expected && read(&online.server, "first") == first);
}

/// A command that is stopped has the server give it up.
#[test]
fn a_flatten_that_is_stopped_leaves_nothing() {
    let store = Store::init();
    store.run("image create STORE/large 1G").ok();
    let mut online = online(&store);
    let mut writer = client(&online.server, "large");
    for at in 0..256 {
        writer.write_at(at << 20, &pattern(3, at, 1 << 20)).unwrap();
    }
    drop(writer);
    store.run("image snapshot STORE/large@a").ok();
    store.run("image clone STORE/large@a STORE/clone").ok();
    let layers = store.layers().len();
    for signal in [Signal::TERM, Signal::KILL] {
        let mut child = store.command("image flatten STORE/clone").spawn().unwrap();
        wait_until("a layer", || store.layers().len() > layers || child.try_wait().unwrap().is_some());
        kill_process(Pid::from_child(&child), signal).unwrap();
        let was_done = child.wait().unwrap().success();
        let is_flat = || store.json("image info STORE/clone")["origin"].is_null();
        match signal {
            Signal::TERM if !was_done => {
                assert!(!is_flat());
                assert_eq!(store.layers().len(), layers, "nothing is left of it");
            }
            // The server goes on with it.
            _ => wait_until("it is flat", is_flat),
        }
        if is_flat() {
            break;
        }
    }
    online.server.stop();
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// S4, while a server has the store.
#[test]
fn a_base_is_followed_while_its_images_are_used() {
    let (store, mut expected) = on_base();
    let moved = store.dir.path().join("moved.raw");
    std::fs::copy(store.dir.path().join("base.raw"), &moved).unwrap();
    std::fs::write(store.dir.path().join("other.raw"), pattern(8, 0, SIZE)).unwrap();
    std::fs::write(store.dir.path().join("longer.raw"), pattern(7, 0, SIZE + 512)).unwrap();
    {
        let online = online(&store);
        let mut user = client(&online.server, "first");
        write(&online, "first", 50_000, 40, &mut expected);
        store.refused("image rebase STORE/first --base file:DIR/other.raw", &["other contents", "stop it"]);
        let line = "image rebase STORE/first --base file:DIR/other.raw --unsafe";
        store.refused(line, &["other contents", "stop it"]);
        store.refused("image rebase STORE/first --base file:DIR/nothing", &["No such file"]);
        let json = store.json("image rebase STORE/first --base file:DIR/moved.raw --unsafe");
        assert_eq!(json["nodes"][0]["base"], moved.to_str().unwrap());
        std::fs::remove_file(store.dir.path().join("base.raw")).unwrap();
        let mut found = vec![0; SIZE];
        user.read_at(0, &mut found).unwrap();
        assert!(found == expected && read(&online.server, "first") == expected);
        assert_eq!(online.server.complaints(), [""; 0]);
    }
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    let online = online(&store);
    assert!(read(&online.server, "first") == expected, "it is read from where it is now");
}

/// Layers that commands have left to be merged are, when a server has the store.
#[test]
fn what_was_left_to_be_merged_is_merged_after_a_start() {
    let (store, mut expected) = golden();
    for number in 0..6 {
        {
            let online = online(&store);
            write(&online, "vm1", 300_000 * number, 50 + number as u64, &mut expected);
        }
        store.run(&format!("image snapshot STORE/vm1@s{number}")).ok();
    }
    let names: Vec<String> = (0..5).map(|number| format!("STORE/vm1@s{number}")).collect();
    store.run(&format!("image rm {}", names.join(" "))).ok();
    let depth = || store.json("image info STORE/vm1")["depth"].as_u64().unwrap();
    let (before, layers) = (depth(), store.layers().len());
    assert!(before >= 7, "{before} layers: no command merges them");
    let online = online(&store);
    wait_until("layers become fewer", || depth() <= before / 2 && store.layers().len() < layers);
    assert!(read(&online.server, "vm1") == expected);
    assert_eq!(online.server.complaints(), [""; 0]);
    drop(online);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}
