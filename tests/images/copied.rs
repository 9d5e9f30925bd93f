//! `ringnbd copy` with images of stores as ends, with and without a server that has the store.
//!
//! Oracles: the bytes of the files; the blocks that files and images take.

use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::Store;
use super::online::{golden, online};
use super::upload::file_with_holes;
use crate::support::image::pattern;
use crate::support::server::Server;
use crate::support::wait_until;

/// More than the data of a file with holes, and less than its holes.
const LITTLE: u64 = 4 << 20;

/// A file that a copy made has these bytes, and holes.
#[track_caller]
fn assert_file(store: &Store, bytes: &[u8]) {
    let path = store.directory().join("out.raw");
    assert!(std::fs::read(&path).unwrap() == bytes, "other bytes");
    let taken = path.metadata().unwrap().blocks() * 512;
    assert!(taken < LITTLE, "{taken} bytes are taken of {}", bytes.len());
    std::fs::remove_file(path).unwrap();
}

#[track_caller]
fn assert_sparse(store: &Store, image: &str) {
    let used = store.json(&format!("image info STORE/{image}"))["used"].as_u64();
    assert!(used.unwrap() < LITTLE, "{image}: {used:?} bytes are used");
}

#[test]
fn images_are_copied_without_a_server() {
    let (store, other) = (Store::init(), Store::init());
    let bytes = file_with_holes(&store);
    let report = store.json("copy DIR/new.raw store:STORE/a --verify --quiet");
    assert!(report["data"].as_u64().unwrap() < LITTLE, "{report}");
    assert_eq!(report["verified"], report["size"]);
    store.run("image snapshot STORE/a@v1").ok();
    store.run("copy store:STORE/a DIR/out.raw --verify --quiet").ok();
    assert_file(&store, &bytes);
    // Within a store, and from one to another.
    store.run("copy store:STORE/a@v1 store:STORE/b --verify --quiet").ok();
    let elsewhere = other.path().join("c").display().to_string();
    store.run(&format!("copy store:STORE/b store:{elsewhere} --verify --quiet")).ok();
    other.run("copy store:STORE/c DIR/out.raw --quiet").ok();
    assert_file(&other, &bytes);
    assert_eq!(
        (store.names(), other.names()),
        (["a", "a@v1", "b"].map(String::from).into(), vec!["c".into()])
    );
    assert_sparse(&store, "a");
    assert_sparse(&store, "b");
    assert_sparse(&other, "c");
    for store in [&store, &other] {
        assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    }
}

#[test]
fn images_of_a_server_are_copied() {
    let (store, golden) = golden();
    let bytes = file_with_holes(&store);
    let online = online(&store);
    store.run("copy DIR/new.raw store:STORE/new --verify --quiet").ok();
    store.run("copy store:STORE/new DIR/out.raw --quiet").ok();
    assert_file(&store, &bytes);
    assert_sparse(&store, "new");
    // One that is there keeps what lies behind the end of the source.
    std::fs::write(store.directory().join("small.raw"), pattern(8, 0, 1 << 20)).unwrap();
    store.run("copy DIR/small.raw store:STORE/vm1 --verify --quiet").ok();
    let served = online.server.uri("vm1");
    store.run(&format!("copy {served} DIR/out.raw --quiet")).ok();
    let found = std::fs::read(store.directory().join("out.raw")).unwrap();
    assert!(found[..1 << 20] == pattern(8, 0, 1 << 20) && found[1 << 20..] == golden[1 << 20..]);
    // What has changed since a snapshot, into an image that has the rest.
    store.run("image snapshot STORE/vm2@before").ok();
    store.run("copy store:STORE/vm2 store:STORE/copy --quiet").ok();
    store.run("copy DIR/small.raw store:STORE/vm2 --quiet").ok();
    let report = store.json("copy store:STORE/vm2 store:STORE/copy --delta before --verify --quiet");
    assert_eq!(report["data"], 1 << 20, "{report}");
    assert_eq!(store.names().iter().filter(|name| name.contains("unfinished")).count(), 0);
    assert_eq!(online.server.complaints(), [""; 0]);
}

#[test]
fn what_cannot_be_copied_leaves_no_image() {
    let (store, _) = golden();
    file_with_holes(&store);
    let disk = store.directory().join("golden.raw");
    let bad = Server::serve(&[format!("bad=fault:error.read=EIO:{}", disk.display())]);
    let names = store.names();
    for (line, words) in [
        ("copy DIR/new.raw store:STORE/vm1", "make it larger"),
        ("copy DIR/new.raw store:STORE/vm1@v9", "vm1@v9"),
        ("copy store:STORE/none store:STORE/x", "none"),
        ("copy store:STORE/vm1 store:STORE/vm1", "both source and target"),
        ("copy store:DIR/nothing/vm1 DIR/out.raw", "is not a store"),
        ("copy store:STORE/vm1 store:STORE/x --delta v1", "x"),
    ] {
        let finished = store.run(&format!("{line} --quiet"));
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(finished.stderr.contains(words), "{words}: {finished}");
        assert_eq!(store.names(), names, "{line}");
    }
    let finished = store.run(&format!("copy {} store:STORE/x --quiet", bad.uri("bad")));
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert_eq!(store.names(), names);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// What is stopped is removed.
#[test]
fn a_copy_that_is_stopped_leaves_no_image() {
    let (store, _) = golden();
    let slow = Server::serve(&["slow=fault:delay.read=200ms:mem:64M".to_owned()]);
    let source = slow.uri("slow");
    // A source that says where its data is: memory that was written.
    std::fs::write(store.directory().join("data.raw"), pattern(4, 0, 64 << 20)).unwrap();
    store.run(&format!("copy DIR/data.raw {source} --quiet")).ok();
    let online = online(&store);
    let names = store.names();
    let mut command = store.command(&format!("copy {source} store:STORE/x --quiet"));
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the copy has begun", || store.names().iter().any(|name| name.starts_with("x-unfinished-")));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let finished = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&finished.stderr);
    assert_eq!(finished.status.code(), Some(1), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    assert_eq!(store.names(), names);
    drop(online);
}
