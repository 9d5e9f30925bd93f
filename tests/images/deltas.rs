//! `image import --delta` while a server has the store.
//!
//! Oracles: the bytes that the test wrote; what clients read; what is on the disk.

use std::io::Write;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::Store;
use super::online::{SIZE, client, golden, online, read};
use crate::support::image::pattern;
use crate::support::wait_until;

/// A store whose image `vm1` has the snapshots `a` and `b`, as deltas in files, and what is in each.
fn origin(deltas: &Store) -> [Vec<u8>; 2] {
    let (store, golden) = golden();
    let mut disks = [golden.clone(), golden];
    let mut write = |snapshot: &str, at: usize, from: usize| {
        let server = online(&store);
        let mut writer = client(&server.server, "vm1");
        let bytes = pattern(snapshot.len() as u64 + at as u64, 0, 70_000);
        writer.write_at(at as u64, &bytes[..69_632]).unwrap();
        disks[from..].iter_mut().for_each(|disk| disk[at..at + 69_632].copy_from_slice(&bytes[..69_632]));
        if snapshot == "b" {
            writer.write_at(1 << 20, &[0; 65_536]).unwrap();
            disks[1][1 << 20..][..65_536].fill(0);
        }
        drop(writer);
        store.run(&format!("image snapshot STORE/vm1@{snapshot}")).ok();
    };
    write("a", 4096, 0);
    write("b", 2 << 20, 1);
    let to = deltas.directory().display();
    store.run(&format!("image export STORE/vm1 {to}/a.delta --delta ..a")).ok();
    store.run(&format!("image export STORE/vm1 {to}/b.delta --delta a..b")).ok();
    disks
}

/// B2: beside clients of other images, and under the sandbox of the server.
#[test]
fn deltas_come_into_a_store_that_a_server_has() {
    let (store, golden) = golden();
    let disks = origin(&store);
    let online = online(&store);
    let mut other = client(&online.server, "vm2");
    store.refused("image import STORE/copy DIR/b.delta --delta", &["no image \"copy\""]);
    store.refused("image import STORE/vm1 DIR/a.delta --delta", &["exists already"]);
    let made = store.json("image import STORE/copy DIR/a.delta --delta");
    assert_eq!(made["nodes"][0]["name"], "copy@a");
    other.write_at(0, &[1; 4096]).unwrap();
    assert!(read(&online.server, "copy@a") == disks[0]);
    store.refused("image import STORE/other DIR/a.delta --delta", &["in this store already"]);
    let import = "image import STORE/copy@later DIR/b.delta --delta";
    store.run(import).ok();
    assert!(read(&online.server, "copy@later") == disks[1] && read(&online.server, "copy@a") == disks[0]);
    assert!(read(&online.server, "copy") == disks[1]);
    store.refused(import, &["in this store already"]);
    assert!(read(&online.server, "vm2")[4096..] == golden[4096..]);
    assert_eq!(online.server.complaints(), [""; 0]);
    drop((other, online));
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    assert_eq!(store.json("store info STORE")["lost"], 0, "what was refused has left nothing");
}

/// An image that clients may have written is not as its snapshot is; what is stopped or killed is no snapshot.
#[test]
fn a_delta_that_does_not_come_whole_leaves_nothing() {
    let (store, _) = golden();
    let disks = origin(&store);
    let online = online(&store);
    store.run("image import STORE/copy DIR/a.delta --delta").ok();
    let mut reader = client(&online.server, "copy");
    store.refused("image import STORE/copy DIR/b.delta --delta", &["is not as the snapshot", "roll back"]);
    reader.read_at(0, &mut [0; 512]).unwrap();
    drop(reader);
    let back = "image rollback STORE/copy@a";
    wait_until(back, || store.run(back).status.success());
    let delta = std::fs::read(store.directory().join("b.delta")).unwrap();
    let (names, before) = (store.names(), store.layers().len());
    std::fs::write(store.directory().join("cut.delta"), &delta[..delta.len() - 1]).unwrap();
    store.refused("image import STORE/copy DIR/cut.delta --delta", &["ends too early"]);
    assert_eq!((store.names(), store.layers().len()), (names.clone(), before));
    for signal in [Signal::TERM, Signal::KILL] {
        let mut command = store.command("image import STORE/copy - --delta");
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(&delta[..40_000]).unwrap();
        // It has a layer then.
        wait_until("a layer is made", || store.layers().len() > before);
        kill_process(Pid::from_child(&child), signal).unwrap();
        if signal == Signal::TERM {
            let _gone = input.write_all(&delta[40_000..]);
        }
        drop(input);
        assert!(!child.wait_with_output().unwrap().status.success());
        assert_eq!(store.names(), names);
    }
    store.run("image import STORE/copy DIR/b.delta --delta").ok();
    assert!(read(&online.server, "copy@b") == disks[1]);
    drop(online);
    // The next one who changes the store moves away what the killed one has left.
    store.run("image rm STORE/vm2").ok();
    assert_eq!(store.json("store info STORE")["lost"], 1);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    assert_eq!(SIZE, disks[0].len());
}
