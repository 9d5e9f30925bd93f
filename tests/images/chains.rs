//! Chains that become shorter, by commands: merges, `flatten`, `rebase`, and a map that is made again.
//!
//! Oracle: bytes that the test itself wrote, through the server and a client.

use std::process::Stdio;

use ringnbd::internal::random::Random;
use ringnbd::{Client, Timeouts};
use rustix::process::{Pid, Signal, kill_process};

use super::Store;
use crate::peers;
use crate::support::image::pattern;
use crate::support::server::{Options, Server};
use crate::support::wait_until;

const SIZE: usize = 4 << 20;

/// Serves one image or snapshot while `work` has a client of it.
fn with_client<T>(store: &Store, node: &str, work: impl FnOnce(&mut Client) -> T) -> T {
    let export = format!("disk=store:{}/{node}", store.path().display());
    let mut server: Server = Options::new().memory("128M").export(export).start();
    let mut client = Client::open(&server.uri("disk").parse().unwrap(), &[], Timeouts::default()).unwrap();
    let done = work(&mut client);
    drop(client);
    server.stop();
    done
}

fn read(store: &Store, node: &str) -> Vec<u8> {
    with_client(store, node, |client| {
        let mut bytes = vec![0; SIZE];
        client.read_at(0, &mut bytes).unwrap();
        bytes
    })
}

/// Writes a few ranges of any alignment, and notes them.
fn write(store: &Store, node: &str, bytes: &mut [u8], random: &mut Random) {
    with_client(store, node, |client| {
        for _ in 0..4 {
            let length = random.between(1, 40_000) as usize;
            let at = random.below((SIZE - length) as u64);
            let new = pattern(random.number() >> 40, at, length);
            client.write_at(at, &new).unwrap();
            bytes[at as usize..][..length].copy_from_slice(&new);
        }
        client.flush().unwrap();
    });
}

fn depth(store: &Store, node: &str) -> u64 {
    store.json(&format!("image info STORE/{node}"))["depth"].as_u64().unwrap()
}

/// A store with a base, an image on it with a snapshot, and what its clone has.
fn on_a_base() -> (Store, Vec<u8>, Random) {
    let store = Store::init();
    let mut random = Random::new(3);
    let mut bytes = pattern(9, 0, SIZE);
    std::fs::write(store.dir.path().join("golden.raw"), &bytes).unwrap();
    store.run("image create STORE/golden --base file:DIR/golden.raw").ok();
    write(&store, "golden", &mut bytes, &mut random);
    store.run("image snapshot STORE/golden@v1").ok();
    store.run("image clone STORE/golden@v1 STORE/vm1").ok();
    write(&store, "vm1", &mut bytes, &mut random);
    (store, bytes, random)
}

#[test]
fn a_flat_image_needs_neither_its_origin_nor_its_base() {
    let (store, mut bytes, mut random) = on_a_base();
    store.run("image snapshot STORE/vm1@early").ok();
    let early = bytes.clone();
    write(&store, "vm1", &mut bytes, &mut random);
    store.refused("image rm --snapshots STORE/golden", &["vm1", "flatten"]);
    store.refused("image flatten STORE/none", &["no image \"none\""]);
    store.refused("image flatten STORE/vm1@early", &["without \"@\""]);
    let made = store.json("image flatten STORE/vm1");
    let node = &made["nodes"][0];
    assert_eq!((&node["origin"], &node["base"], &node["depth"]), (&().into(), &().into(), &2.into()));
    assert!(read(&store, "vm1") == bytes);
    assert!(read(&store, "vm1@early") == early);
    store.run("image rm --snapshots STORE/golden").ok();
    assert!(read(&store, "vm1@early") == early, "its snapshot stays where it is");
    store.run("image rm STORE/vm1@early").ok();
    assert_eq!(store.json("store info STORE")["bases"], 0);
    std::fs::remove_file(store.dir.path().join("golden.raw")).unwrap();
    assert!(read(&store, "vm1") == bytes);
    let generation = store.generation();
    assert!(store.run("image flatten STORE/vm1").ok().contains("flat already"));
    assert_eq!(store.generation(), generation);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// C3, with deletion, by commands.
#[test]
fn a_chain_stays_short_when_snapshots_go() {
    let (store, mut bytes, mut random) = on_a_base();
    let mut snapshots = Vec::new();
    // `golden` has one layer below these.
    for number in 0..7 {
        store.run(&format!("image snapshot STORE/vm1@s{number}")).ok();
        snapshots.push((number, bytes.clone()));
        write(&store, "vm1", &mut bytes, &mut random);
    }
    assert_eq!(depth(&store, "vm1"), 9);
    store.refused("image snapshot STORE/vm1@s7", &["8 sealed layers", "image flatten"]);
    for number in 7..10 {
        let gone = random.below(snapshots.len() as u64) as usize;
        store.run(&format!("image rm STORE/vm1@s{}", snapshots.remove(gone).0)).ok();
        store.run(&format!("image snapshot STORE/vm1@s{number}")).ok();
        snapshots.push((number, bytes.clone()));
        assert!(depth(&store, "vm1") <= 8);
        write(&store, "vm1", &mut bytes, &mut random);
    }
    assert!(read(&store, "vm1") == bytes);
    for (number, bytes) in &snapshots {
        assert!(read(&store, &format!("vm1@s{number}")) == *bytes, "s{number} is another");
    }
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    // Detached, it has room again though all of its snapshots stay.
    store.run("image flatten STORE/vm1").ok();
    assert_eq!(depth(&store, "vm1"), 2);
    store.run("image snapshot STORE/vm1@last").ok();
    assert!(read(&store, "vm1@last") == bytes);
}

/// S4: a base that was moved is followed, and another file is not taken for it.
#[test]
fn a_base_that_was_moved_is_followed() {
    let (store, bytes, _) = on_a_base();
    let place = |name: &str| store.dir.path().join(name);
    std::fs::rename(place("golden.raw"), place("moved.raw")).unwrap();
    let check = store.run("store check STORE");
    assert!(check.stdout.contains("a base is missing"), "{check}");
    std::fs::write(place("other.raw"), pattern(10, 0, SIZE)).unwrap();
    std::fs::write(place("short.raw"), pattern(9, 0, SIZE - 512)).unwrap();
    store.refused("image rebase STORE/vm1 --base file:DIR/other.raw", &["contents", "--unsafe"]);
    store.refused("image rebase STORE/vm1 --base file:DIR/short.raw --unsafe", &["size"]);
    let told = store.run("image rebase STORE/vm1 --base file:DIR/moved.raw").ok();
    assert!(told.contains("moved.raw is the base of golden, vm1."), "{told}");
    assert!(read(&store, "vm1") == bytes);
    let told = store.run("image rebase STORE/vm1 --base file:DIR/other.raw --unsafe").ok();
    assert!(told.contains("not what they were"), "{told}");
}

#[test]
fn a_lost_map_is_made_again_when_that_is_asked_for() {
    let store = Store::init();
    let mut bytes = vec![0; SIZE];
    store.run(&format!("image create STORE/vm {SIZE}")).ok();
    write(&store, "vm", &mut bytes, &mut Random::new(4));
    let head = store.layers().remove(0);
    std::fs::write(head.join("map"), "garbage").unwrap();
    let check = store.run("store check STORE");
    assert_eq!(check.status.code(), Some(1), "{check}");
    assert!(check.stdout.contains("its map cannot be used"), "{check}");
    store.refused("store check STORE --rebuild-map vm", &["a guess", "--yes"]);
    let made = store.json("store check STORE --rebuild-map vm --yes");
    assert_eq!(made["rebuilt"], serde_json::json!([head.file_name().unwrap().to_str().unwrap()]));
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    assert!(read(&store, "vm") == bytes, "nothing was trimmed, so nothing is guessed");
    assert_eq!(store.json("store info STORE")["lost"], 1, "the old map");
}

/// C2: an image that is being made flat is as it was, or flat.
#[test]
fn a_command_that_is_killed_or_stopped_leaves_a_whole_image() {
    let store = Store::init();
    let large = std::fs::File::create(store.dir.path().join("large.raw")).unwrap();
    for number in 0..64 {
        use std::os::unix::fs::FileExt;
        large.write_all_at(&pattern(number, 0, 1 << 20), number << 20).unwrap();
    }
    let expected = pattern(0, 0, SIZE.min(1 << 20));
    let mut random = Random::new(u64::from(std::process::id()));
    for round in 0..8 {
        store.run("image create STORE/vm --base file:DIR/large.raw").ok();
        let mut command = store.command("image flatten STORE/vm");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if round > 1 {
            wait_until("a layer", || !store.layers().is_empty() || child.try_wait().unwrap().is_some());
        }
        for _ in 0..random.below(3000) {
            std::thread::yield_now();
        }
        let signal = if round % 2 == 0 { Signal::KILL } else { Signal::TERM };
        if child.try_wait().unwrap().is_none() {
            kill_process(Pid::from_child(&child), signal).unwrap();
        }
        let status = child.wait().unwrap();
        let info = store.json("image info STORE/vm");
        let is_flat = info["base"].is_null();
        assert!(is_flat || !status.success(), "round {round}: {status}");
        if signal == Signal::TERM && status.code().is_some() {
            assert_eq!(is_flat, status.success());
            assert_eq!(
                store.layers().len(),
                usize::from(is_flat),
                "nothing stays of a copy that was stopped"
            );
        }
        // The next change moves away what is left of a copy that was killed.
        store.run("image rename STORE/vm STORE/renamed").ok();
        assert_eq!(store.layers().len(), usize::from(is_flat));
        with_client(&store, "renamed", |client| {
            let mut bytes = vec![0; expected.len()];
            client.read_at(0, &mut bytes).unwrap();
            assert!(bytes == expected);
        });
        assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
        store.run("image rm STORE/renamed").ok();
    }
    drop(peers::run(&mut store.command("store gc STORE --grace 0")).ok());
}
