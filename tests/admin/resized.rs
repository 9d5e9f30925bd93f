//! Exports that get another size under their clients.

use std::fs::File;

use serde_json::json;

use crate::control::{Subject, body};
use crate::http::Address;
use crate::images;
use crate::live::{put, send, sentence};
use crate::support::raw::{Connection, Mode, Request};
use crate::support::server::Options;
use crate::support::wait_until;
use crate::support::wire::*;

const MIB: u64 = 1 << 20;

/// A server with the export `vm` of a file of 1 MiB.
fn start(parameters: &str) -> (tempfile::TempDir, std::path::PathBuf, Subject) {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let path = directory.path().join("disk");
    File::create(&path).unwrap().set_len(MIB).unwrap();
    let subject = Subject::start(Options::new().export(format!("vm=file:{}{parameters}", path.display())));
    (directory, path, subject)
}

/// What a write of a block says.
#[track_caller]
fn write(client: &mut Connection, offset: u64, byte: u8) -> u32 {
    let request = Request::write(offset, vec![byte; 4096]).cookie(offset + 1);
    client.send_request(&request);
    client.reply_to(&request).error
}

#[test]
fn a_file_grows_and_sessions_that_are_there_stay_right() {
    for parameters in ["", "?direct=true"] {
        let (_directory, path, subject) = start(parameters);
        let descriptors = || {
            let names = std::fs::read_dir(format!("/proc/{}/fd", subject.server.pid())).unwrap().flatten();
            names.filter_map(|name| std::fs::read_link(name.path()).ok()).filter(|file| *file == path).count()
        };
        let mut old = Connection::attach(&subject.server, "vm", Mode::Simple);
        assert_eq!(write(&mut old, 0, 1), 0);
        let before = descriptors();
        let resized = subject.ctl(&["resize", "vm", "3M"]);
        assert_eq!(resized.status.code(), Some(0), "{resized}");
        assert!(resized.stdout.contains("vm has 3 MiB"), "{resized}");
        assert_eq!(path.metadata().unwrap().len(), 3 * MIB);
        let mut new = Connection::attach(&subject.server, "vm", Mode::Simple);
        assert_eq!(write(&mut new, 2 * MIB, 2), 0, "clients that come have it");
        assert_eq!(write(&mut old, 2 * MIB, 3), NBD_ENOSPC, "those that are there keep theirs");
        assert_eq!(write(&mut old, MIB - 4096, 4), 0);
        assert_eq!(new.read(MIB - 4096, 4096), [4; 4096], "it is the same disk");
        assert_eq!((new.read(2 * MIB, 4096), old.read(0, 4096)), (vec![2; 4096], vec![1; 4096]));
        old.flush();
        old.disconnect();
        wait_until("the descriptors of the old export to go", || descriptors() <= before);
        // The lock is still there.
        let other = crate::peers::run(
            std::process::Command::new(env!("CARGO_BIN_EXE_ringnbd"))
                .args(["serve", "--tcp", "127.0.0.1:0", "--shards", "1"])
                .arg(format!("file:{}", path.display())),
        );
        assert!(other.stderr.contains("is in use by"), "{other}");

        // Somebody else has made it larger.
        File::options().write(true).open(&path).unwrap().set_len(4 * MIB).unwrap();
        let resized = subject.ctl(&["resize", "vm", "--json"]);
        assert!(resized.stdout.contains(&(4 * MIB).to_string()), "{resized}");
        let mut newest = Connection::attach(&subject.server, "vm", Mode::Simple);
        assert_eq!(write(&mut newest, 4 * MIB - 4096, 5), 0);
        assert_eq!(write(&mut new, 4 * MIB - 4096, 5), NBD_ENOSPC);
    }
}

/// A supervisor of a kernel's device asks for it: not of the protocol, and ignored by most servers.
const END_ON_GROWTH: u16 = 0xf17b;
const ENDS_ON_GROWTH: u16 = 1 << 15;

#[test]
fn clients_that_asked_for_it_connect_again_when_there_is_more() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let path = directory.path().join("disk");
    File::create(&path).unwrap().set_len(MIB).unwrap();
    let pages = directory.path().join("admin");
    let options = Options::new().export(format!("vm=fault:delay.write=2s:file:{}", path.display()));
    let subject = Subject::start(options.args(["--admin", &format!("unix:{}", pages.display())]));
    let attach = || {
        let mut client = Connection::haggling(&subject.server);
        client.go_with("vm", &[NBD_INFO_BLOCK_SIZE, END_ON_GROWTH]);
        assert!(client.export.has(ENDS_ON_GROWTH), "the server agrees");
        client
    };
    let (mut idle, mut busy) = (attach(), attach());
    let mut other = Connection::attach(&subject.server, "vm", Mode::Simple);
    assert!(!other.export.has(ENDS_ON_GROWTH), "nobody else sees a flag that is not of the protocol");
    // The read is answered first: by then the write is under way.
    let (write, read) = (Request::write(0, vec![7; 4096]).cookie(1), Request::read(4096, 512).cookie(2));
    busy.send_request(&write);
    busy.send_request(&read);
    assert_eq!(busy.reply_to(&read).error, 0);
    let same = subject.ctl(&["resize", "vm", "1M"]);
    assert_eq!(same.status.code(), Some(0), "{same}");
    idle.expect_alive();
    let resized = subject.ctl(&["resize", "vm", "3M"]);
    assert_eq!(resized.status.code(), Some(0), "{resized}");
    idle.expect_close("there is more");
    assert_eq!(busy.reply_to(&write).error, 0, "what has begun is answered");
    busy.expect_close("there is more");
    let mut again = attach();
    assert_eq!(again.export.size, 3 * MIB);
    assert_eq!(again.read(0, 4096), [7; 4096]);
    again.expect_alive();
    assert_eq!((other.export.size, other.read(0, 4096)), (MIB, vec![7; 4096]), "it did not ask");
    let ended = "ringnbd_sessions_ended_total{reason=\"resized\"} 2";
    let page = Address::Unix(pages).get("/metrics").body;
    assert!(page.contains(ended), "{page}");
}

#[test]
fn nothing_becomes_smaller_by_mistake() {
    let (_directory, path, subject) = start("");
    let resize = |text: &str| send(&subject, ("POST", "resize/vm"), "", text);
    let mut client = Connection::attach(&subject.server, "vm", Mode::Simple);
    let answer = resize(r#"{"size": 4096}"#);
    assert_eq!((answer.status, sentence(&answer).contains("would be lost")), (409, true), "{answer:?}");
    let answer = resize(r#"{"size": 4096, "shrink": true}"#);
    assert_eq!((answer.status, sentence(&answer).contains("has clients")), (409, true), "{answer:?}");
    assert_eq!(path.metadata().unwrap().len(), MIB);
    let stale = send(&subject, ("POST", "resize/vm"), "If-Match: \"9.9.9\"\r\n", r#"{"size": 2097152}"#);
    assert_eq!(stale.status, 412, "{stale:?}");
    client.expect_alive();
    let answer = resize(r#"{"size": 524288, "shrink": true, "cut_off": true}"#);
    assert_eq!((answer.status, body(&answer)["size_bytes"].as_u64()), (200, Some(MIB / 2)), "{answer:?}");
    client.expect_close("it is to connect again");
    assert_eq!(path.metadata().unwrap().len(), MIB / 2);
    let mut client = Connection::attach(&subject.server, "vm", Mode::Simple);
    assert_eq!(write(&mut client, MIB / 2, 1), NBD_ENOSPC);
    assert_eq!(write(&mut client, 0, 1), 0);
}

#[test]
fn what_cannot_be_resized_says_why() {
    let (_house, store) = images::store(&["clone"]);
    let (_directory, path, first) = start("?readonly=true");
    drop(first);
    let read_only = format!("ro=file:{}?readonly=true", path.display());
    let subject = Subject::start(
        Options::new().export("mem=mem:1M").export(read_only).export(format!("store:{}", store.display())),
    );
    let resize = |name: &str, text: &str| send(&subject, ("POST", &format!("resize/{name}")), "", text);
    for (name, text, status, words) in [
        ("mem", r#"{"size": 4096}"#, 409, "change the URI"),
        ("ro", r#"{"size": 2097152}"#, 409, "read-only"),
        ("none", r#"{"size": 4096}"#, 404, "there is no export"),
        ("ro", r#"{"size": 99999999999999999999}"#, 422, "not understood"),
        ("ro", r#"{"size": 18446744073709551615}"#, 409, "too large"),
        ("ro", r#"{"bytes": 1}"#, 422, "not understood"),
        ("ro", "[", 422, "not understood"),
        ("clone", "{}", 422, "say a size"),
    ] {
        let answer = resize(name, text);
        assert_eq!(answer.status, status, "{name} {text}: {answer:?}");
        assert!(sentence(&answer).contains(words), "{name} {text}: {answer:?}");
    }
    let mut client = Connection::attach(&subject.server, "clone", Mode::Simple);
    let answer = resize("clone", &json!({ "size": 8 * MIB }).to_string());
    assert_eq!((answer.status, body(&answer)["size_bytes"].as_u64()), (200, Some(8 * MIB)), "{answer:?}");
    client.expect_alive();
    let mut client = Connection::attach(&subject.server, "clone", Mode::Simple);
    assert_eq!(write(&mut client, 8 * MIB - 4096, 1), 0);
    assert_eq!(put(&subject, "mem", &json!({"uri": "mem:2M"})).status, 200, "as the sentence says");
    let snapshot = subject.ctl(&["snapshot", "clone@tuesday", "golden@tuesday"]);
    assert_eq!(snapshot.stdout, "clone@tuesday\ngolden@tuesday\n", "{snapshot}");
}
