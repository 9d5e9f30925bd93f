//! Stores that a running server has: all images as exports, and the commands, which ask the server.
//!
//! Oracles: what a store without a server answers to the same commands; the bytes that the test wrote.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ringnbd::{Client, Timeouts};
use serde_json::{Value, json};

use super::Store;
use crate::peers;
use crate::support::image::pattern;
use crate::support::server::{Options, Server};
use crate::support::wait_until;

pub(super) const SIZE: usize = 4 << 20;

/// A server of a store, with a control socket.
pub(super) struct Online {
    pub(super) server: Server,
    pub(super) socket: PathBuf,
    _directory: tempfile::TempDir,
    /// Where the metrics are.
    pub(super) admin: PathBuf,
}

pub(super) fn golden() -> (Store, Vec<u8>) {
    let store = Store::init();
    let golden = pattern(7, 0, SIZE);
    std::fs::write(store.dir.path().join("golden.raw"), &golden).unwrap();
    store.run("image create STORE/golden --from DIR/golden.raw").ok();
    store.run("image snapshot STORE/golden@v1").ok();
    store.run("image clone STORE/golden@v1 STORE/vm1 STORE/vm2").ok();
    (store, golden)
}

pub(super) fn online(store: &Store) -> Online {
    online_with(store, "")
}

/// With parameters of the store.
pub(super) fn online_with(store: &Store, parameters: &str) -> Online {
    online_in(store, parameters, &[])
}

/// In an environment.
pub(super) fn online_in(store: &Store, parameters: &str, environment: &[(&str, &str)]) -> Online {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control");
    let address = format!("unix:{}", socket.display());
    let options = Options::new()
        .shards(2)
        .memory("128M")
        .export(format!("store:{}{parameters}", store.path().display()));
    let options = environment.iter().fold(options, |options, (name, value)| options.env(name, value));
    let admin = directory.path().join("admin");
    let pages = format!("unix:{}", admin.display());
    let server = options.args(["--control", &address, "--admin", &pages, "--sandbox", "on"]).start();
    Online { server, socket, admin, _directory: directory }
}

pub(super) fn client(server: &Server, export: &str) -> Client {
    try_client(server, export).unwrap_or_else(|error| panic!("{export}: {error}\n{}", server.stderr()))
}

fn try_client(server: &Server, export: &str) -> Result<Client, ringnbd::ClientError> {
    Client::open(&server.uri(export).parse().unwrap(), &[], Timeouts::default())
}

pub(super) fn read(server: &Server, export: &str) -> Vec<u8> {
    let mut found = vec![0; SIZE];
    client(server, export).read_at(0, &mut found).unwrap();
    found
}

/// A command about an image whose clients have just left: the server may not have noticed yet.
fn once_free(store: &Store, line: &str) {
    wait_until(line, || store.run(line).status.success());
}

/// Sets it at the end, however that is: a thread that waits for it ends too.
pub(super) struct AtLast<'a>(pub(super) &'a AtomicBool);

impl Drop for AtLast<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Files of layers that the server has open.
fn open_layers(server: &Server) -> usize {
    let links = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let targets = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
    targets.filter(|target| target.ends_with("data") || target.ends_with("map")).count()
}

/// Under its sandbox, while a client writes: images are snapshotted and cloned, and the clones are served.
#[test]
fn a_running_server_snapshots_clones_and_serves_the_clones() {
    let (store, golden) = golden();
    let online = online(&store);
    let Online { server, .. } = &online;
    assert_eq!(open_layers(server), 0, "no client has chosen an image");
    let mut writer = client(server, "vm1");
    assert!(open_layers(server) > 0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                writer.write_at(0, &[9; 65_536]).unwrap();
                writer.flush().unwrap();
            }
        });
        let _end = AtLast(&stop);
        // One of them is written meanwhile, the other is not open.
        store.run("image snapshot STORE/vm1@monday STORE/vm2@monday").ok();
        assert!(read(server, "vm1@monday")[65_536..] == golden[65_536..]);
        store.run("image clone STORE/vm2@monday STORE/vm3 STORE/vm4").ok();
        assert!(read(server, "vm3") == golden, "the clone of a clone");
        let mut third = client(server, "vm3");
        third.write_at(5000, &[3; 9000]).unwrap();
        drop(third);
        let mut expected = golden.clone();
        expected[5000..14_000].fill(3);
        assert!(read(server, "vm3") == expected && read(server, "vm4") == golden);
        // An image that was open and has no client any more.
        store.run("image snapshot STORE/vm3@a").ok();
        client(server, "vm3").write_at(0, &[1; 4096]).unwrap();
        assert!(read(server, "vm3@a") == expected, "the snapshot of what was written");
        assert!(client(server, "vm3@a").write_at(0, &[1]).is_err(), "a snapshot is never written");
        store.run("image create STORE/empty 1M").ok();
        let mut bytes = vec![1; 1 << 20];
        client(server, "empty").read_at(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
        once_free(&store, "image resize STORE/empty 2M");
        client(server, "empty").read_at(1 << 20, &mut bytes).unwrap();
        once_free(&store, "image rollback STORE/vm3@a");
        assert!(read(server, "vm3") == expected);
        once_free(&store, "image rename STORE/vm4 STORE/last");
        assert!(read(server, "last") == golden && try_client(server, "vm4").is_err());
    });
    drop(writer);
    assert!(read(server, "vm1")[..65_536].iter().all(|byte| *byte == 9));
    assert_eq!(server.complaints(), [""; 0]);
    drop(online);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// Blocks of each image that are written in turn, and their size.
const BLOCKS: u32 = 64;
const BLOCK: usize = 4096;

/// Both images as they are after so many writes, of which the first is write 1: even ones go to the first image.
fn after(writes: u32, golden: &[u8]) -> [Vec<u8>; 2] {
    let mut images = [golden.to_vec(), golden.to_vec()];
    for write in 1..=writes {
        let at = (write / 2 % BLOCKS) as usize * BLOCK;
        images[write as usize % 2][at..at + BLOCK].copy_from_slice(&write.to_le_bytes().repeat(BLOCK / 4));
    }
    images
}

/// C1: snapshots of two images are one point in time: all that was answered before they were asked for is in
/// them, nothing that was asked for after they were there, and in between a beginning of the writes.
#[test]
fn c1_snapshots_of_images_in_use_are_one_point_in_time() {
    let (store, golden) = golden();
    let online = online(&store);
    let Online { server, .. } = &online;
    let (begun, answered, stop) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    let mut windows = Vec::new();
    let mut clients = [client(server, "vm1"), client(server, "vm2")];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for write in 1.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                begun.store(write, Ordering::SeqCst);
                let client = &mut clients[write as usize % 2];
                let at = u64::from(write / 2 % BLOCKS) * BLOCK as u64;
                client.write_at(at, &write.to_le_bytes().repeat(BLOCK / 4)).unwrap();
                answered.store(write, Ordering::SeqCst);
                if write % 50 == 0 {
                    client.flush().unwrap();
                }
            }
        });
        let _end = AtLast(&stop);
        wait_until("some writes", || answered.load(Ordering::SeqCst) > 200);
        for number in 0..5 {
            let before = answered.load(Ordering::SeqCst);
            store.run(&format!("image snapshot STORE/vm1@s{number} STORE/vm2@s{number}")).ok();
            windows.push((before, begun.load(Ordering::SeqCst)));
            let more = begun.load(Ordering::SeqCst) + 100;
            wait_until("writes go on", || answered.load(Ordering::SeqCst) > more);
        }
    });
    for (number, (before, behind)) in windows.into_iter().enumerate() {
        let found = ["vm1", "vm2"].map(|image| read(server, &format!("{image}@s{number}")));
        let matches = (before..=behind).find(|writes| after(*writes, &golden) == found);
        assert!(
            matches.is_some(),
            "snapshot {number}: no point in time between writes {before} and {behind}"
        );
    }
    assert!(
        ["vm1", "vm2"].map(|image| read(server, image)) == after(answered.load(Ordering::SeqCst), &golden)
    );
    assert_eq!(server.complaints(), [""; 0]);
    drop(online);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// A copy of a store beside it, of which the commands know as `DIR/copy`.
fn copied(store: &Store) -> Store {
    let mut other = Store::init();
    other.within = "copy";
    peers::run(std::process::Command::new("cp").arg("-a").arg(store.path()).arg(other.path())).ok();
    other
}

/// What is the same in two stores that were treated alike.
fn comparable(value: &mut Value) {
    match value {
        Value::Object(all) => {
            for key in ["uuid", "created", "head", "store", "generation", "bytes", "maps"] {
                if let Some(value) = all.get_mut(key) {
                    *value = json!(value.is_null());
                }
            }
            all.values_mut().for_each(comparable);
        }
        Value::Array(all) => all.iter_mut().for_each(comparable),
        _ => {}
    }
}

/// Every command says the same whether it opens the store or asks the server that has it.
#[test]
fn commands_say_the_same_with_a_server_and_without() {
    let (alone, _) = golden();
    let served = copied(&alone);
    let online = online(&served);
    for (line, code) in [
        ("image ls STORE", 0),
        ("image info STORE/golden", 0),
        ("image info STORE/golden@v1", 0),
        ("image create STORE/empty 1G", 0),
        ("image create STORE/empty 1G", 2),
        ("image create STORE/odd 1000", 2),
        ("image snapshot STORE/vm1@a STORE/vm2@a", 0),
        ("image snapshot STORE/vm1@a", 2),
        ("image snapshot STORE/none@a", 2),
        ("image clone STORE/vm1@a STORE/vm3 STORE/vm4", 0),
        ("image clone STORE/vm1@b STORE/vm5", 2),
        ("image resize STORE/vm3 8M", 0),
        ("image resize STORE/vm3 1M", 2),
        ("image resize --shrink STORE/vm3 1M", 0),
        ("image rename STORE/vm4 STORE/vm6", 0),
        ("image rename STORE/vm6 STORE/vm1", 2),
        ("image rename STORE/vm1@a STORE/vm1@b", 0),
        ("image rename STORE/vm1@b STORE/vm2@c", 2),
        ("image rollback STORE/vm2@a", 0),
        ("image rollback STORE/vm2@z", 2),
        ("image rm STORE/golden", 2),
        ("image rm STORE/vm6 STORE/vm3", 0),
        ("image rm STORE/empty STORE/none", 1),
        ("image rm --snapshots STORE/vm1", 0),
        ("image ls STORE", 0),
        ("store info STORE", 0),
        ("store gc STORE", 0),
    ] {
        let json = [&alone, &served].map(|store| store.run(&format!("{line} --json")));
        for finished in &json {
            assert_eq!(finished.status.code(), Some(code), "{line}: {finished}");
        }
        if code == 0 {
            let mut values = json.map(|finished| serde_json::from_str::<Value>(&finished.stdout).unwrap());
            values.iter_mut().for_each(comparable);
            assert_eq!(values[0], values[1], "{line}");
        } else {
            assert_eq!(json[0].stderr, json[1].stderr, "{line}");
        }
    }
    let tables = [&alone, &served].map(|store| store.run("image ls STORE").ok());
    assert_eq!(tables[0], tables[1]);
    drop(online);
    assert_eq!(served.run("store check STORE").ok(), "Nothing is wrong.\n");
}

#[test]
fn what_clients_use_is_refused_with_a_sentence() {
    let (store, golden) = golden();
    let online = online(&store);
    let Online { server, socket, .. } = &online;
    let mut user = client(server, "vm1");
    let mut other = client(server, "golden@v1");
    for (line, words) in [
        ("image rm STORE/vm1", "has clients (1)"),
        ("image rename STORE/vm1 STORE/x", "disconnect them first"),
        ("image resize --shrink STORE/vm1 1M", "has clients"),
        ("image rollback STORE/vm1@x", "--force"),
        ("image rm STORE/golden@v1", "has clients"),
        ("image import STORE/x DIR/golden.raw --delta", "no delta that can be applied"),
        ("image create STORE/x --base file:DIR/golden.raw", "no base that the server has open"),
        ("store check STORE --rebuild-map vm1 --yes", "cannot do this while it runs"),
        ("image info STORE/nothing", "no image"),
    ] {
        store.refused(line, &[words]);
    }
    store.refused(&format!("image ls DIR --control unix:{}", socket.display()), &["no store"]);
    store.refused("image ls STORE --control unix:/nonexistent/c", &["no server listens there"]);
    let mut bytes = vec![0; 4096];
    user.read_at(0, &mut bytes).unwrap();
    other.read_at(0, &mut bytes).unwrap();
    assert!(bytes == golden[..4096]);
    drop((user, other));
    wait_until("the client is gone", || store.run("image rm STORE/vm1").status.success());
    // Forced, the clients of the image go.
    store.run("image snapshot STORE/vm2@a").ok();
    let mut user = client(server, "vm2");
    user.write_at(0, &[5; 4096]).unwrap();
    store.run("image rollback --force STORE/vm2@a").ok();
    assert!(user.read_at(0, &mut bytes).is_err(), "it was disconnected");
    assert!(read(server, "vm2") == golden);
}

/// LIST has images and snapshots, and what is made and removed meanwhile.
#[test]
fn lists_follow_the_store_and_idle_images_are_closed() {
    let (store, _) = golden();
    let online = online(&store);
    let Online { server, .. } = &online;
    let listed = || -> BTreeSet<String> {
        let list = store.json(&format!("list {}", server.uri("")));
        let exports = list["exports"].as_array().unwrap();
        exports.iter().map(|export| export["export"].as_str().unwrap().to_owned()).collect()
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(listed(), names(&["golden", "golden@v1", "vm1", "vm2"]));
    assert_eq!(open_layers(server), 0, "asking about images opens none");
    store.run("image clone STORE/golden@v1 STORE/vm3").ok();
    once_free(&store, "image rm STORE/vm2");
    let user = client(server, "vm3");
    assert_eq!(listed(), names(&["golden", "golden@v1", "vm1", "vm3"]));
    assert!(open_layers(server) > 0);
    assert!(try_client(server, "vm9").is_err() && try_client(server, "../vm1").is_err());
    drop(user);
    wait_until("an idle image is closed", || open_layers(server) == 0);
    assert_eq!(server.complaints(), [""; 0]);
}

/// Bases are opened at the start, because a server in its sandbox can open none.
#[test]
fn images_on_a_base_are_made_and_served() {
    let store = Store::init();
    let golden = pattern(7, 0, SIZE);
    let base = store.dir.path().join("golden.raw");
    std::fs::write(&base, &golden).unwrap();
    store.run("image create STORE/first --base file:DIR/golden.raw").ok();
    store.run("image snapshot STORE/first@v1").ok();
    let online = online(&store);
    let Online { server, .. } = &online;
    assert!(read(server, "first@v1") == golden, "it has no layer of its own");
    store.run("image create STORE/second --base file:DIR/golden.raw").ok();
    client(server, "second").write_at(0, &[1; 4096]).unwrap();
    store.run("image clone STORE/first@v1 STORE/third").ok();
    assert!(read(server, "second")[4096..] == golden[4096..] && read(server, "third") == golden);
    assert!(std::fs::read(&base).unwrap() == golden);
    assert_eq!(server.complaints(), [""; 0]);
}

#[test]
fn names_that_clash_are_told_at_the_start() {
    let (store, _) = golden();
    let other = copied(&store);
    let check = |exports: &str, words: &str| {
        let finished = store.run(&format!("serve --check --tcp 127.0.0.1:0 {exports}"));
        assert_eq!(finished.status.code(), Some(2), "{exports}: {finished}");
        assert!(finished.stderr.contains(words), "{exports}: {finished}");
    };
    check("vm1=mem:1M store:STORE", "\"vm1\"");
    check(&format!("store:STORE store:{}", other.path().display()), "two exports would be named");
    check("x=store:STORE", "names of their own");
    store.run("serve --check --tcp 127.0.0.1:0 mem:1M x=store:STORE/vm1 store:STORE").ok();
    // L2: one server has a store, and a second is told which.
    let online = online(&store);
    check("store:STORE", "in use by process");
    // A server that cannot be asked says how it could be.
    drop(online);
    let address = format!("store:{}", store.path().display());
    let _server = Options::new().export(address).args(["--control", "off"]).start();
    store.refused_by_server("image ls STORE", "--control unix:PATH");
}

/// C4 in figures: an idle image is a row.
#[test]
fn ten_thousand_idle_clones_take_little_memory() {
    let (store, golden) = golden();
    for thousand in 0..10 {
        let names = (0..1000).map(|number| format!("STORE/clone{thousand}-{number}"));
        let names = names.collect::<Vec<_>>().join(" ");
        store.run(&format!("image clone STORE/golden@v1 {names}")).ok();
    }
    let online = online(&store);
    let Online { server, .. } = &online;
    assert!(read(server, "clone7-777") == golden);
    let list = store.json(&format!("list {}", server.uri("")));
    assert_eq!(list["exports"].as_array().unwrap().len(), 500, "a list has so many");
    let resident = server.resident();
    println!("{} MiB resident with 10,000 idle clones", resident >> 20);
    assert!(resident <= 256 << 20, "{resident} bytes");
}
