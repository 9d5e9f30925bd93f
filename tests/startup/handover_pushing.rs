//! A new process takes over a store whose snapshots are on their way to a tier.
//!
//! Oracle: the files of the tier, as the file system knows them, and what another store reads there.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use super::handover::{Line, OFFERED, ended, failed_handovers, message, read_up_to, upgraded};
use super::handover_images::{CLAIM, RELEASED, hello, numbers, run, text};
use crate::support::image::pattern;
use crate::support::raw::Connection;
use crate::support::wait_until;

const SIZE: usize = 8 << 20;
/// What is written between the two snapshots, and where.
const START: usize = 1 << 20;
const LENGTH: usize = 300_000;

/// A server of a store, of whose two snapshots the first is on the tier and the second is on its way.
struct Scene {
    house: tempfile::TempDir,
    line: Line,
    client: Connection,
    /// What the image has.
    bytes: Vec<u8>,
}

/// Files by name, each with its number and when it was written.
type Files = BTreeMap<String, (u64, i64, i64)>;

impl Scene {
    fn start() -> Self {
        let house = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (store, golden) = (text(&house, "store"), text(&house, "golden"));
        let mut bytes = pattern(7, 0, SIZE);
        std::fs::write(&golden, &bytes).unwrap();
        run(&["store", "init", &store]);
        run(&["image", "create", &format!("{store}/golden"), "--from", &golden]);
        run(&["image", "checkpoint", &format!("{store}/golden@v1")]);
        run(&["store", "tier", &store, &format!("file:{}", text(&house, "tier"))]);
        let line = Line::start(&[&format!("store:{store}?ingest=0s&push=0s")]);
        let mut client = line.over_unix("golden");
        let new = pattern(8, 0, LENGTH);
        client.write(START as u64, &new);
        client.flush();
        bytes[START..START + LENGTH].copy_from_slice(&new);
        let scene = Self { house, line, client, bytes };
        wait_until("the first one is there", || scene.uploads(&[])["snapshots"] == 1);
        // It would take minutes.
        scene.uploads(&["--rate", "1K"]);
        run(&["image", "checkpoint", &format!("{store}/golden@v2"), "--control", &scene.control()]);
        wait_until("the second one is on its way", || {
            let told = scene.uploads(&[]);
            told["pushing"] == "golden@v2" && told["bytes_sent"].as_u64() > told["bytes"].as_u64()
        });
        scene
    }

    fn control(&self) -> String {
        format!("unix:{}", self.line.path("control").display())
    }

    /// What the process that serves says of its uploads, after what these words change.
    fn uploads(&self, words: &[&str]) -> Value {
        let (store, control) = (text(&self.house, "store"), self.control());
        let asked = ["store", "push", &store, "--control", &control, "--json"];
        serde_json::from_slice(&run(&[&asked[..], words].concat()).stdout).unwrap()
    }

    /// The packs of the tier, and how many files have no name yet.
    fn tier(&self) -> (Files, usize) {
        let (mut packs, mut unfinished) = (Files::new(), 0);
        let mut directories = vec![self.house.path().join("tier")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
                let name = entry.file_name().into_string().unwrap();
                let found = entry.metadata().unwrap();
                if found.is_dir() {
                    directories.push(entry.path());
                } else if name.starts_with(".new-") {
                    unfinished += 1;
                } else if name.ends_with(".pack") {
                    packs.insert(name, (found.ino(), found.mtime(), found.mtime_nsec()));
                }
            }
        }
        (packs, unfinished)
    }

    /// All is on the tier, for another store too.
    fn end(mut self) {
        assert_eq!(self.client.read(START as u64, LENGTH), self.bytes[START..START + LENGTH]);
        drop(self.client);
        self.line.stop();
        let path = |name: &str| text(&self.house, name);
        run(&["store", "check", &path("store"), "--tier"]);
        run(&["store", "init", &path("other")]);
        let from = format!("file://{}/golden@v2", path("tier"));
        run(&["image", "clone", &from, &format!("{}/x", path("other"))]);
        run(&["image", "export", &format!("{}/x", path("other")), &path("out")]);
        assert!(std::fs::read(path("out")).unwrap() == self.bytes, "what is on the tier");
    }
}

#[test]
fn uploads_go_on_in_the_new_process_and_nothing_comes_twice() {
    let mut scene = Scene::start();
    let (before, unfinished) = scene.tier();
    assert!(!before.is_empty() && unfinished == 1, "{before:?}, {unfinished} on their way");
    let mut old = scene.line.succeed();
    wait_until("the upload to go on", || scene.uploads(&[])["snapshots"] == 1);
    let told = scene.uploads(&[]);
    assert!(ended(&mut old).success());
    let (mut after, unfinished) = scene.tier();
    assert_eq!(unfinished, 0, "what the old process had sent is gone");
    // Each pack was sent once by one process: the others are the files that they were.
    after.retain(|name, file| before.get(name) != Some(file));
    assert!(after.keys().all(|name| !before.contains_key(name)), "sent again: {after:?}");
    assert_eq!(told["packs"].as_u64(), Some(after.len() as u64), "{told}");
    assert_eq!((&told["bytes"], &told["failures"]), (&told["bytes_sent"], &0.into()), "{told}");
    scene.end();
}

/// The first push waits behind the question that a server asks its tier when it starts.
#[test]
fn a_tier_that_answers_nothing_holds_no_hand_over_up() {
    let house = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = text(&house, "store");
    run(&["store", "init", &store]);
    run(&["image", "create", &format!("{store}/golden"), "1M"]);
    run(&["image", "checkpoint", &format!("{store}/golden@v1")]);
    // The kernel takes connections, and nobody reads what comes.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = silent.local_addr().unwrap();
    let tier = format!("s3://bucket/tier?endpoint=http://{endpoint}&region=here\n");
    std::fs::write(format!("{store}/tier"), tier).unwrap();
    let served = format!("store:{store}?push=0s");
    let line = Line::start_by(&[&served], |command| {
        command.env("AWS_ACCESS_KEY_ID", "who").env("AWS_SECRET_ACCESS_KEY", "secret");
    });
    let client = line.over_unix("golden");
    let scene = Scene { house, line, client, bytes: Vec::new() };
    wait_until("the first one is on its way", || scene.uploads(&[])["pushing"] == "golden@v1");
    let mut stream = upgraded(&scene.line);
    stream.write_all(&hello()).unwrap();
    read_up_to(&mut stream, OFFERED);
    stream.write_all(&message(CLAIM, &[numbers(&[0]), vec![0]].concat())).unwrap();
    read_up_to(&mut stream, RELEASED);
    drop(stream);
    wait_until("the server to notice", || failed_handovers(&scene.line) == 1);
    let Scene { mut client, line, .. } = scene;
    client.expect_alive();
    drop(client);
    line.stop();
}

#[test]
fn uploads_go_on_in_the_old_process_when_the_new_one_ends() {
    let scene = Scene::start();
    let (before, _) = scene.tier();
    let mut stream = upgraded(&scene.line);
    stream.write_all(&hello()).unwrap();
    read_up_to(&mut stream, OFFERED);
    stream.write_all(&message(CLAIM, &[numbers(&[0]), vec![0]].concat())).unwrap();
    read_up_to(&mut stream, RELEASED);
    // Whoever has the store now may push.
    assert_eq!(scene.tier(), (before.clone(), 0), "the old process has stopped");
    drop(stream);
    wait_until("the server to notice", || failed_handovers(&scene.line) == 1);
    wait_until("the store to be back", || scene.uploads(&["--rate", "1G"])["rate"] == 1 << 30);
    wait_until("the upload to go on", || scene.uploads(&[])["snapshots"] == 2);
    let (after, unfinished) = scene.tier();
    assert_eq!(unfinished, 0);
    assert!(before.iter().all(|(name, file)| after.get(name) == Some(file)), "sent again");
    scene.end();
}
