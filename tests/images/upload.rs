//! `image create --from` and `image import` while a server has the store.
//!
//! Oracles: the bytes of the files; what clients read.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::Store;
use super::online::{Online, client, golden, online, read};
use crate::peers;
use crate::support::image::pattern;
use crate::support::server::Options;
use crate::support::wait_until;

const MIB: usize = 1 << 20;

/// A file with holes, zeroes that are written, and an end within a sector.
pub(super) fn file_with_holes(store: &Store) -> Vec<u8> {
    let mut bytes = vec![0; 9 * MIB + 777];
    bytes[5000..9000].fill(1);
    bytes[4 * MIB..6 * MIB + 4096].copy_from_slice(&pattern(2, 0, 2 * MIB + 4096));
    bytes[9 * MIB + 700..].fill(3);
    let file = std::fs::File::create(store.dir.path().join("new.raw")).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for part in [0..MIB, 3 * MIB..7 * MIB, 9 * MIB..bytes.len()] {
        file.write_all_at(&bytes[part.clone()], part.start as u64).unwrap();
    }
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn read_all(online: &Online, image: &str, size: usize) -> Vec<u8> {
    let mut found = vec![9; size];
    client(&online.server, image).read_at(0, &mut found).unwrap();
    found
}

#[test]
fn images_of_files_are_made_through_the_server() {
    let (store, golden) = golden();
    let bytes = file_with_holes(&store);
    let online = online(&store);
    let mut user = client(&online.server, "vm1");
    user.write_at(0, &[4; 4096]).unwrap();
    let made = store.run("image create STORE/a --from DIR/new.raw").ok();
    assert!(made.starts_with("a is made: "), "{made}");
    assert!(read_all(&online, "a", bytes.len()) == bytes);
    let json = store.json("image import STORE/b DIR/new.raw --size 12M");
    assert_eq!((&json["nodes"][0]["name"], &json["nodes"][0]["size"]), (&"b".into(), &(12 << 20).into()));
    let mut larger = bytes.clone();
    larger.resize(12 * MIB, 0);
    assert!(read_all(&online, "b", 12 * MIB) == larger);
    // What is zero takes no room.
    let used = json["nodes"][0]["used"].as_u64().unwrap();
    assert!(used < 4 << 20, "{used} bytes are used");
    // Bytes one after the other, through a pipe.
    let image = &mut store.command("image import STORE/c - --size 9438208");
    peers::run_with_input(image, &bytes).ok();
    assert!(read_all(&online, "c", 9 * MIB + 1024) == bytes);
    store.run("image snapshot STORE/a@first STORE/b@first").ok();
    store.run("image export STORE/a@first DIR/out.raw").ok();
    assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == bytes);
    assert!(read(&online.server, "vm1")[4096..] == golden[4096..]);
    assert_eq!(store.names(), ["a", "a@first", "b", "b@first", "c", "golden", "golden@v1", "vm1", "vm2"]);
    assert_eq!(online.server.complaints(), [""; 0]);
    drop((user, online));
    store.run("image export STORE/c DIR/out.raw --force").ok();
    assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == bytes);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

#[test]
fn what_cannot_be_an_image_is_refused_and_leaves_nothing() {
    let (store, _) = golden();
    file_with_holes(&store);
    let online = online(&store);
    let names = store.names();
    for (line, words) in [
        ("image create STORE/vm1 --from DIR/new.raw", "exists already"),
        ("image create STORE/x 1M --from DIR/new.raw", "1048576"),
        ("image create STORE/x --from DIR/nothing", "No such file"),
        ("image import STORE/x -", "--size"),
        ("image import STORE/x DIR/new.raw --delta", "no delta that can be applied"),
    ] {
        store.refused(line, &[words]);
    }
    // A stream that is longer than it was said to be.
    let finished =
        peers::run_with_input(&mut store.command("image import STORE/x - --size 3M"), &vec![5; 4 * MIB]);
    assert_eq!(finished.status.code(), Some(2), "{finished}");
    assert!(finished.stderr.contains("3145728"), "{finished}");
    assert_eq!(store.names(), names);
    drop(online);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// What is stopped is removed; what is killed has a name that says what it is.
#[test]
fn an_import_that_ends_early_is_no_image_that_looks_whole() {
    let (store, _) = golden();
    let online = online(&store);
    let names = store.names();
    for signal in [Signal::TERM, Signal::KILL] {
        let mut command = store.command("image import STORE/x - --size 64M");
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(&vec![5; 8 * MIB]).unwrap();
        // It reads on, so it has written what it read before.
        kill_process(Pid::from_child(&child), signal).unwrap();
        if signal == Signal::TERM {
            // It looks at a signal between two pieces.
            let _gone = (0..50).try_for_each(|_| input.write_all(&vec![5; MIB]));
        }
        drop(input);
        let finished = child.wait_with_output().unwrap();
        assert!(!finished.status.success());
        let found: Vec<String> = store.names().into_iter().filter(|name| !names.contains(name)).collect();
        let said = String::from_utf8_lossy(&finished.stderr);
        match (signal, &found[..]) {
            (Signal::TERM, []) => {}
            (Signal::KILL, [name]) if name.starts_with("x-unfinished-") => {
                let line = format!("image rm STORE/{name}");
                wait_until(&line, || store.run(&line).status.success());
            }
            _ => panic!("{signal:?}: {found:?} {said}"),
        }
        assert_eq!(store.names(), names);
    }
    drop(online);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// Without a way in plain text the bytes go over TLS, with what is at the usual place for a client.
#[test]
fn images_of_files_are_made_over_tls() {
    let (store, _) = golden();
    let bytes = file_with_holes(&store);
    let home = tempfile::tempdir().unwrap();
    let files = home.path().join(".pki/libnbd");
    std::fs::create_dir_all(&files).unwrap();
    crate::support::tls::write_files(&files);
    let control = format!("unix:{}", store.dir.path().join("control").display());
    let options = Options::new().memory("128M").export(format!("store:{}", store.path().display()));
    let directory = files.display().to_string();
    let more = ["--control", &control, "--tls", &directory, "--tls-mode", "required"];
    let server = options.args(more).start();
    let image = |home: &std::path::Path, line: &str| {
        let mut command = store.command(line);
        command.env("HOME", home);
        command
    };
    let large = pattern(5, 0, 24 * MIB);
    std::fs::write(store.dir.path().join("large.raw"), &large).unwrap();
    peers::run(&mut image(home.path(), "image create STORE/a --from DIR/new.raw")).ok();
    peers::run(&mut image(home.path(), "image create STORE/large --from DIR/large.raw")).ok();
    let stream = &mut image(home.path(), "image import STORE/b - --size 9438208");
    peers::run_with_input(stream, &bytes).ok();
    // Who has no certificate is told so, and nothing stays.
    let stranger = tempfile::tempdir().unwrap();
    let names = store.names();
    let refused = peers::run(&mut image(stranger.path(), "image create STORE/c --from DIR/new.raw"));
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    assert!(refused.stderr.contains("the new image cannot be written"), "{refused}");
    assert_eq!(store.names(), names);
    let secured = |line: &serde_json::Value| line["tls"].as_str().is_some_and(|it| it.starts_with("Certif"));
    assert_eq!(server.log().iter().filter(|line| secured(line)).count(), 3);
    drop(server);
    for (name, expected) in [("a", &bytes), ("large", &large), ("b", &bytes)] {
        store.run(&format!("image export STORE/{name} DIR/out.raw --force")).ok();
        assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == *expected, "{name}");
    }
}

/// A server of single images has no place for others.
#[test]
fn a_server_of_single_images_says_what_to_do() {
    let (store, _) = golden();
    file_with_holes(&store);
    let socket = store.dir.path().join("control");
    let address = format!("unix:{}", socket.display());
    let options = Options::new().export(format!("vm1=store:{}/vm1", store.path().display()));
    let server = options.args(["--control", &address]).start();
    store.refused("image create STORE/x --from DIR/new.raw", &["serve the whole store"]);
    drop(server);
    store.run("image create STORE/x --from DIR/new.raw").ok();
}
