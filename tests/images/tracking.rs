//! What has changed in an image, and how deep it is: told to clients of others, and by `diff`, `map`,
//! `export` and `import`.
//!
//! Oracles: bytes that the test wrote; qcow2 images with the same chain, and QEMU's view of them.

use std::process::Command;

use serde_json::{Value, json};

use super::Store;
use crate::peers;
use crate::support::image::pattern;
use crate::support::server::{Options, Server};

const SIZE: usize = 4 << 20;

fn serve(store: &Store, node: &str) -> Server {
    options(store, node).start()
}

fn options(store: &Store, node: &str) -> Options {
    let export = format!("d=store:{}/{node}", store.path().display());
    Options::new().shards(2).memory("128M").export(export)
}

pub(super) fn qemu_io(target: &str, format: &str, commands: &[&str]) -> Option<()> {
    let mut command = peers::command("qemu-io")?;
    command.args(["-f", format]);
    commands.iter().for_each(|line| {
        command.args(["-c", line]);
    });
    peers::run(command.arg(target)).ok();
    Some(())
}

fn nbdinfo(server: &Server, context: &str) -> Option<Vec<(u64, u64, u64)>> {
    nbdinfo_of(&server.uri("d"), context)
}

/// Parts that are not 0 in a context, by nbdinfo: start, length, number.
pub(super) fn nbdinfo_of(uri: &str, context: &str) -> Option<Vec<(u64, u64, u64)>> {
    let mut command = peers::command("nbdinfo")?;
    command.args(["--json", &format!("--map={context}")]).arg(uri);
    let parts: Value = serde_json::from_str(&peers::run(&mut command).ok()).unwrap();
    let number = |part: &Value, key: &str| part[key].as_u64().unwrap();
    let parts = parts.as_array().unwrap().iter();
    let parts = parts.map(|part| (number(part, "offset"), number(part, "length"), number(part, "type")));
    Some(parts.filter(|(_, _, number)| *number != 0).collect())
}

/// An image on a raw file, of which there is a snapshot `a`, and then `b`.
fn store() -> Option<(Store, Vec<u8>)> {
    let store = Store::init();
    let base = pattern(3, 0, SIZE);
    std::fs::write(store.dir.path().join("base.raw"), &base).unwrap();
    store.run("image create STORE/vm --base file:DIR/base.raw").ok();
    let mut expected = base;
    for (snapshot, at, byte) in [("a", 64 << 10, 1), ("b", 1 << 20, 2)] {
        let mut server = serve(&store, "vm");
        let write = format!("write -P {byte} {at} 8k");
        qemu_io(&server.uri("d"), "raw", &[&write])?;
        server.stop();
        expected[at..at + 8192].fill(byte);
        store.run(&format!("image snapshot STORE/vm@{snapshot}")).ok();
    }
    Some((store, expected))
}

/// B1: what was answered counts at once, and after a kill; a rollback changes what is counted.
#[test]
fn b1_bitmaps_tell_what_has_changed() {
    let Some((store, _)) = store() else { return };
    let (since_a, since_b) = ("qemu:dirty-bitmap:a", "qemu:dirty-bitmap:b");
    let mut server = serve(&store, "vm");
    let (b, now) = ((1 << 20, 8192, 1), (2 << 20, 4096, 1));
    assert_eq!(nbdinfo(&server, since_a).unwrap(), [b]);
    assert_eq!(nbdinfo(&server, since_b).unwrap(), []);
    qemu_io(&server.uri("d"), "raw", &["write -P 5 2M 512"]);
    assert_eq!(nbdinfo(&server, since_a).unwrap(), [b, now]);
    assert_eq!(nbdinfo(&server, since_b).unwrap(), [now]);
    server.crash();
    let mut server = serve(&store, "vm");
    assert_eq!(nbdinfo(&server, since_a).unwrap(), [b, now]);
    let info = store.run(&format!("info --json {}", server.uri("d"))).ok();
    let info: Value = serde_json::from_str(&info).unwrap();
    let contexts = ["base:allocation", "qemu:allocation-depth", since_a, since_b];
    assert_eq!(info["meta_contexts"], serde_json::json!(contexts));
    server.stop();

    // The way to `b` leads through `a`, and down again. What is read of files is told in units.
    store.run("image rollback STORE/vm@a").ok();
    // A confined server can open nothing, not even a map of its store.
    let mut server = options(&store, "vm").args(["--sandbox", "off"]).start();
    assert_eq!(nbdinfo(&server, since_a).unwrap(), []);
    assert_eq!(nbdinfo(&server, since_b).unwrap(), [(1 << 20, 64 << 10, 1)]);
    qemu_io(&server.uri("d"), "raw", &["discard 3M 64k"]);
    assert_eq!(nbdinfo(&server, since_a).unwrap(), [(3 << 20, 64 << 10, 1)]);
    server.stop();
    let diff = store.json("image diff STORE/vm@a STORE/vm");
    assert_eq!(diff["extents"], serde_json::json!([{ "start": 3 << 20, "length": 64 << 10 }]));
    assert_eq!(diff["changed"], 64 << 10);
    store.run("image rm STORE/vm@b").ok();
    let mut server = serve(&store, "vm@a");
    let info = store.run(&format!("info --json {}", server.uri("d"))).ok();
    assert!(!info.contains("dirty-bitmap"), "a snapshot is not told of itself: {info}");
    server.stop();
}

/// A copy of one snapshot becomes one of the next: what has not changed is neither read nor written.
#[test]
fn a_copy_takes_over_what_has_changed() {
    let Some((store, mut expected)) = store() else { return };
    let copy = store.dir.path().join("copy.raw");
    let refused = |line: &str, words: &str| {
        let finished = store.run(line);
        assert!(finished.status.code() == Some(2) && finished.stderr.contains(words), "{finished}");
    };
    let mut server = serve(&store, "vm@a");
    refused(
        &format!("copy {} DIR/none.raw --delta a", server.uri("d")),
        "does not offer qemu:dirty-bitmap:a",
    );
    store.run(&format!("copy {} DIR/copy.raw", server.uri("d"))).ok();
    server.stop();
    // A mark where nothing has changed, and a target that was cut behind what has.
    let mark = expected.len() - 4096;
    let file = std::fs::File::options().write(true).open(&copy).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xEE; 512], 2 << 20).unwrap();
    file.set_len(mark as u64).unwrap();
    let server = serve(&store, "vm@b");
    let line = format!("copy {} DIR/copy.raw --delta a", server.uri("d"));
    assert_eq!(store.json(&line)["data"], 8192);
    let copied = std::fs::read(&copy).unwrap();
    expected[2 << 20..][..512].fill(0xEE);
    expected[mark..].fill(0);
    assert!(copied == expected, "it has what has changed, and nothing else was touched");
    let compared = store.run(&format!("{line} --verify"));
    assert!(compared.status.code() == Some(1) && compared.stderr.contains("differ at 2097152"), "{compared}");
    refused(&format!("copy {} DIR/none.raw --delta a", server.uri("d")), "without --delta");
    assert!(!store.dir.path().join("none.raw").exists());
    refused("copy DIR/copy.raw DIR/base.raw --delta a", "needs a server's URI");
}

/// S5: as in the same chain of qcow2 images.
#[test]
fn s5_depths_are_those_of_qemu() {
    let store = Store::init();
    let base = store.dir.path().join("base.raw");
    std::fs::write(&base, pattern(3, 0, SIZE)).unwrap();
    store.run("image create STORE/vm 6M --base file:DIR/base.raw").ok();
    let name = |number: usize| store.dir.path().join(format!("{number}.qcow2")).to_str().unwrap().to_owned();
    let steps: [&[&str]; 3] = [
        &["write -P 1 0 128k", "write -z 1M 64k", "write -P 1 5M 64k"],
        &["write -P 2 64k 128k", "discard 2M 128k", "write -z 512k 64k"],
        &["write -P 3 128k 64k", "write -P 3 512k 64k"],
    ];
    for (number, commands) in steps.iter().enumerate() {
        let Some(mut create) = peers::command("qemu-img") else { return };
        let (backing, format) = match number {
            0 => (base.to_str().unwrap().to_owned(), "raw"),
            _ => (name(number - 1), "qcow2"),
        };
        peers::run(create.args(["create", "-f", "qcow2", "-b", &backing, "-F", format, &name(number), "6M"]))
            .ok();
        qemu_io(&name(number), "qcow2", commands);
        let mut server = serve(&store, "vm");
        qemu_io(&server.uri("d"), "raw", commands);
        server.stop();
        if number < 2 {
            store.run(&format!("image snapshot STORE/vm@s{number}")).ok();
        }
    }
    let map = |command: &mut Command| -> Vec<(u64, u64, u64, (bool, bool))> {
        let parts: Value = serde_json::from_str(&peers::run(command).ok()).unwrap();
        let mut found: Vec<(u64, u64, u64, (bool, bool))> = Vec::new();
        for part in parts.as_array().unwrap() {
            let number = |key: &str| part[key].as_u64().unwrap();
            let (start, length, depth) = (number("start"), number("length"), number("depth"));
            let zero = (part["zero"].as_bool().unwrap(), part["present"].as_bool().unwrap());
            match found.last_mut() {
                Some(last) if (last.2, last.3) == (depth, zero) => last.1 += length,
                _ => found.push((start, length, depth, zero)),
            }
        }
        found
    };
    let Some(mut qemu) = peers::command("qemu-img") else { return };
    let expected = map(qemu.args(["map", "--output=json", &name(2)]));
    assert!(
        expected.iter().any(|part| part.2 == 3) && expected.iter().any(|part| part.3.0 && part.3.1),
        "{expected:?}"
    );
    assert_eq!(map(&mut store.command("image map STORE/vm --json")), expected);
    // The same by the protocol, where a depth is counted from 1, and what lies behind the end of the base
    // is the base's: so `qemu-nbd --allocation-depth` has it.
    let mut server = serve(&store, "vm");
    let mut depths: Vec<(u64, u64, u64)> = Vec::new();
    for (start, length, depth, (_, present)) in expected {
        let depth = if present { depth + 1 } else { 4 };
        match depths.last_mut() {
            Some(last) if last.2 == depth => last.1 += length,
            _ => depths.push((start, length, depth)),
        }
    }
    assert_eq!(nbdinfo(&server, "qemu:allocation-depth").unwrap(), depths);
    server.stop();
}

/// What QEMU's own tool makes of an image that is served: of its bytes, and of what has changed since a snapshot.
#[test]
fn maps_of_qemu_are_those_of_the_image() {
    let Some((store, mut expected)) = store() else { return };
    let mut server = serve(&store, "vm");
    qemu_io(&server.uri("d"), "raw", &["write -P 5 2M 4k", "discard 3M 64k", "write -z 512k 8k"]);
    for (at, length, byte) in [(2 << 20, 4096, 5), (3 << 20, 64 << 10, 0), (512 << 10, 8192, 0)] {
        expected[at..at + length].fill(byte);
    }
    let map = |bitmap: Option<&str>| -> Option<Vec<Value>> {
        let place = json!({ "type": "unix", "path": server.socket() });
        let mut device = json!({ "driver": "nbd", "export": "d", "server": place });
        if let Some(name) = bitmap {
            device["x-dirty-bitmap"] = format!("qemu:dirty-bitmap:{name}").into();
        }
        let mut command = peers::command("qemu-img")?;
        command.args(["map", "--output=json", &format!("json:{device}")]);
        Some(serde_json::from_str(&peers::run(&mut command).ok()).unwrap())
    };
    let parts = |map: Vec<Value>, key: &str, value: bool| -> Vec<(u64, u64)> {
        let map = map.iter().filter(|part| part[key] == value);
        map.map(|part| (part["start"].as_u64().unwrap(), part["length"].as_u64().unwrap())).collect()
    };
    let zeroes = parts(map(None).unwrap(), "zero", true);
    assert_eq!(zeroes, [(512 << 10, 8192), (3 << 20, 64 << 10)]);
    // QEMU has no word of its own for a part that has changed, and calls it no data.
    let now = [(512 << 10, 8192), (2 << 20, 4096), (3 << 20, 64 << 10)];
    assert_eq!(parts(map(Some("b")).unwrap(), "data", false), now);
    let since_a = [now[0], (1 << 20, 8192), now[1], now[2]];
    assert_eq!(parts(map(Some("a")).unwrap(), "data", false), since_a);
    server.stop();
    store.run("image export STORE/vm DIR/out.raw").ok();
    assert!(std::fs::read(store.dir.path().join("out.raw")).unwrap() == expected);
}

/// Reads what a bitmap says has changed, and writes only that to a copy.
const BACK_UP: &str = r#"
import nbd, os
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.add_meta_context("qemu:dirty-bitmap:b")
h.connect_uri(os.environ["URI"])
size, copied, parts = h.get_size(), 0, []
def note(context, offset, entries, error):
    if context == "qemu:dirty-bitmap:b":
        for length, flags in zip(entries[::2], entries[1::2]):
            parts.append((offset, length, flags))
            offset += length
at = 0
while at < size:
    count = len(parts)
    h.block_status(size - at, at, note)
    assert len(parts) > count
    at = parts[-1][0] + parts[-1][1]
with open(os.environ["COPY"], "r+b") as copy:
    for offset, length, flags in parts:
        if flags & 1:
            copied += length
            copy.seek(offset)
            copy.write(h.pread(length, offset))
print(copied)
"#;

/// An incremental backup with a public tool, while the server runs.
#[test]
fn a_script_backs_up_what_has_changed() {
    let Some((store, mut expected)) = store() else { return };
    let copy = store.dir.path().join("copy.raw");
    store.run("image export STORE/vm@b DIR/copy.raw").ok();
    assert!(std::fs::read(&copy).unwrap() == expected);
    let mut server = serve(&store, "vm");
    qemu_io(&server.uri("d"), "raw", &["write -P 7 100k 300k", "write -z 3M 4k", "write -P 8 3500k 512"]);
    expected[100 << 10..400 << 10].fill(7);
    expected[3 << 20..(3 << 20) + 4096].fill(0);
    expected[3500 << 10..(3500 << 10) + 512].fill(8);
    let Some(mut nbdsh) = peers::command("nbdsh") else { return };
    nbdsh.args(["-c", BACK_UP]).env("URI", server.uri("d")).env("COPY", &copy);
    let copied: u64 = peers::run(&mut nbdsh).ok().trim().parse().unwrap();
    assert_eq!(copied, (300 << 10) + 4096 + 4096);
    assert!(std::fs::read(&copy).unwrap() == expected, "the copy is another");
    server.stop();
}

/// B2, by the commands: all of it, by a file and by a pipe.
#[test]
fn b2_exports_and_deltas_restore_the_same_bytes() {
    let Some((store, expected)) = store() else { return };
    let other = Store::init();
    let copy = |from: &str, to: &str| {
        let exported = store.command(from).output().unwrap();
        assert!(exported.status.success(), "{from}");
        peers::run_with_input(&mut other.command(to), &exported.stdout)
    };
    copy("image export STORE/vm - --delta ..a", "image import STORE/vm - --delta").ok();
    copy("image export STORE/vm@b - --delta a..b", "image import STORE/vm@later - --delta").ok();
    copy("image export STORE/vm@b -", "image import STORE/raw -").ok();
    for node in ["vm@later", "vm", "raw"] {
        other.run(&format!("image export STORE/{node} DIR/out.raw --force")).ok();
        assert!(std::fs::read(other.dir.path().join("out.raw")).unwrap() == expected, "{node} is another");
    }
    other.refused("image export STORE/vm DIR/out.raw", &["exists already", "--force"]);
    other.refused("image export STORE/vm DIR --force", &["exists already"]);
    let again = copy("image export STORE/vm@b - --delta a..b", "image import STORE/vm - --delta");
    assert!(again.status.code() == Some(2) && again.stderr.contains("in this store already"), "{again}");
    let raw = copy("image export STORE/vm@b -", "image import STORE/vm - --delta");
    assert!(raw.status.code() == Some(2) && raw.stderr.contains("no delta"), "{raw}");
    store.refused("image export STORE/vm@a DIR/x --delta a..b", &["vm@a is not vm@b"]);
    store.refused("image diff STORE/vm STORE/vm@c", &["no snapshot \"c\""]);
    assert_eq!(other.run("store check STORE").ok(), "Nothing is wrong.\n");
    assert_eq!(std::fs::read_dir(other.dir.path()).unwrap().count(), 2, "nothing is left beside the files");
}
