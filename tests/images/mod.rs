//! `ringnbd store` and `ringnbd image` on stores that no server has open, and images that are served.
//!
//! Oracles: what the test itself did; the bytes and the blocks of files, read behind the program's back.

mod bucket;
mod chains;
mod collected;
mod copied;
mod deep;
mod deltas;
mod flattened;
mod full;
mod google;
mod growing;
mod killed;
mod large;
mod marks;
mod online;
mod overwritten;
mod packs;
mod rebuilt;
mod remote;
mod served;
mod shorter;
mod shuru;
mod tier;
mod tier_boot;
mod tier_bucket;
mod tier_clones;
mod tier_faults;
mod tier_hosts;
mod tier_push;
mod tier_reads;
mod tier_services;
mod tracking;
mod upload;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::peers::{self, Finished};
use crate::support::image::{disk_dir, pattern};

/// A store in a directory of its own.
pub(crate) struct Store {
    dir: TempDir,
    /// Where it is in there.
    within: &'static str,
}

impl Store {
    pub(crate) fn init() -> Self {
        let store = Self { dir: disk_dir(), within: "store" };
        assert_eq!(
            store.run("store init STORE").ok().lines().next().unwrap().split_whitespace().next(),
            Some("store")
        );
        store
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join(self.within)
    }

    /// The directory that it is in.
    pub(crate) fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// A command line without quotes; `STORE` is the store, and `DIR` the directory that it is in.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringnbd"));
        let text = line.replace("STORE", self.path().to_str().unwrap());
        command.args(text.replace("DIR", self.dir.path().to_str().unwrap()).split(' '));
        command
    }

    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> Finished {
        peers::run(&mut self.command(line))
    }

    #[track_caller]
    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.run(&format!("{line} --json")).ok()).expect("the answer is JSON")
    }

    /// A command that is refused with exit code 2, and says these words.
    #[track_caller]
    fn refused(&self, line: &str, words: &[&str]) {
        let before = self.generation();
        let finished = self.run(line);
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(words.iter().all(|word| finished.stderr.contains(word)), "{words:?}: {finished}");
        assert!(finished.stdout.is_empty(), "{finished}");
        assert_eq!(self.generation(), before, "nothing was changed by {line}");
    }

    /// A command that is refused because a server has the store, and says these words.
    #[track_caller]
    fn refused_by_server(&self, line: &str, words: &str) {
        let finished = self.run(line);
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(finished.stderr.contains(words), "{words}: {finished}");
    }

    fn generation(&self) -> Value {
        self.json("store info STORE")["generation"].clone()
    }

    /// Names of images and snapshots, in order of the tree.
    pub(crate) fn names(&self) -> Vec<String> {
        let list = self.json("image ls STORE");
        list["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| node["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Directories of layers on the disk.
    pub(crate) fn layers(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path().join("layers")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

#[test]
fn a_store_is_made_once_and_described() {
    let store = Store::init();
    let info = store.json("store info STORE");
    assert_eq!(
        (&info["images"], &info["layers"], &info["used"], &info["lost"]),
        (&0.into(), &0.into(), &0.into(), &0.into())
    );
    assert_eq!(info["uuid"].as_str().unwrap().len(), 36);
    assert!(std::fs::metadata(store.path()).unwrap().mode() & 0o077 == 0, "images are nobody else's");
    store.refused("store init STORE", &["a store already"]);
    for (line, word) in [
        ("store info DIR", "ringnbd store init"),
        ("store info DIR/nothing", "ringnbd store init"),
        ("store init DIR", "not empty"),
        ("image ls DIR", "is not a store"),
    ] {
        store.refused(line, &[word]);
    }
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    std::fs::write(store.path().join("catalog.redb"), "garbage").unwrap();
    let finished = store.run("store info STORE");
    assert_eq!(finished.status.code(), Some(2), "{finished}");
    assert!(finished.stderr.contains("the catalogue"), "{finished}");
}

/// A script whose errors go to a full disk learns from the exit code what happened.
#[test]
fn a_sentence_that_nobody_can_read_changes_no_exit_code() {
    let store = Store::init();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for (line, code) in [("store info DIR", 2), ("image create STORE/x 1000", 2), ("store info STORE", 0)] {
        let ended = store.command(line).stderr(full()).stdout(std::process::Stdio::null()).status().unwrap();
        assert_eq!(ended.code(), Some(code), "{line}");
    }
}

#[test]
fn images_snapshots_and_clones_make_a_tree() {
    let store = Store::init();
    store.run("image create STORE/golden 20G").ok();
    store.run("image create STORE/alone 512").ok();
    store.run("image snapshot STORE/golden@v1 STORE/alone@v1").ok();
    store.run("image clone STORE/golden@v1 STORE/vm1 STORE/vm2").ok();
    store.run("image snapshot STORE/vm1@monday").ok();
    assert_eq!(store.names(), ["alone", "alone@v1", "golden", "golden@v1", "vm1", "vm1@monday", "vm2"]);
    let table = store.run("image ls STORE").ok();
    let expected = "NAME            SIZE     USED   UNIQUE   SHARED  RATIO  DEPTH
alone      512 bytes  0 bytes  0 bytes  0 bytes  -  0
  @v1      512 bytes  0 bytes  0 bytes  0 bytes  -  0
golden        20 GiB  0 bytes  0 bytes  0 bytes  -  0
  @v1         20 GiB  0 bytes  0 bytes  0 bytes  -  0
    vm1       20 GiB  0 bytes  0 bytes  0 bytes  -  0
      @monday 20 GiB  0 bytes  0 bytes  0 bytes  -  0
    vm2       20 GiB  0 bytes  0 bytes  0 bytes  -  0
";
    let squeezed = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(squeezed(&table), squeezed(expected));
    let vm1 = store.json("image info STORE/vm1");
    assert_eq!(vm1["origin"], "golden@v1");
    assert_eq!(vm1["snapshots"], serde_json::json!(["vm1@monday"]));
    assert_eq!(store.json("image info STORE/golden@v1")["clones"], serde_json::json!(["vm1", "vm2"]));

    store.refused("image rm STORE/golden@v1", &["vm1, vm2", "remove or flatten"]);
    store.refused("image rm STORE/golden", &["vm1, vm2"]);
    store.refused("image rm STORE/vm1", &["vm1@monday", "--snapshots"]);
    store.refused("image create STORE/vm1 1G", &["exists already"]);
    store.refused("image clone STORE/golden@v1 STORE/vm3 STORE/vm2", &["\"vm2\" exists already"]);
    store.refused("image clone STORE/golden@v2 STORE/vm3", &["no snapshot \"v2\""]);
    store.refused("image clone STORE/golden STORE/vm3", &["golden@monday"]);
    store.refused("image snapshot STORE/vm2@a STORE/none@a", &["no image \"none\""]);
    store.refused("image snapshot STORE/vm2@a DIR/vm1@a", &["different stores"]);
    store.refused("image info STORE/none", &["no image \"none\""]);
    store.refused("image info STORE/vm1@none", &["no snapshot \"none\""]);

    store.run("image rm --snapshots STORE/vm1").ok();
    store.run("image rename STORE/vm2 STORE/vm1").ok();
    store.run("image rename STORE/golden@v1 STORE/golden@v0").ok();
    store.refused("image rename STORE/golden@v0 STORE/vm1@v0", &["stays with its image", "golden@NAME"]);
    store.refused("image rename STORE/golden STORE/golden@x", &["without \"@\""]);
    assert_eq!(store.json("image info STORE/vm1")["origin"], "golden@v0");
    store.run("image rm STORE/vm1 STORE/golden@v0 STORE/golden").ok();
    assert_eq!(store.names(), ["alone", "alone@v1"]);
    let partly = store.run("image rm STORE/alone@v1 STORE/none");
    assert_eq!(partly.status.code(), Some(1), "{partly}");
    assert!(partly.stderr.contains("removed before that: alone@v1"), "{partly}");
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

#[test]
fn sizes_change_and_images_go_back() {
    let store = Store::init();
    store.run("image create STORE/vm 1M").ok();
    store.run("image snapshot STORE/vm@small").ok();
    store.run("image resize STORE/vm 2G").ok();
    let size = |node: &str| store.json(&format!("image info STORE/{node}"))["size"].as_u64().unwrap();
    assert_eq!((size("vm"), size("vm@small")), (2 << 30, 1 << 20));
    store.refused("image resize STORE/vm 1M", &["--shrink"]);
    store.refused("image resize STORE/vm 1000", &["multiple of 512"]);
    store.refused("image resize STORE/vm@small 1G", &["without \"@\""]);
    store.run("image resize --shrink STORE/vm 512K").ok();
    assert_eq!(size("vm"), 512 << 10);
    store.refused("image rollback STORE/vm", &["vm@monday"]);
    store.run("image rollback STORE/vm@small").ok();
    assert_eq!(size("vm"), 1 << 20);
}

/// A file with data, written zeroes, holes, and an end that is no whole block.
fn raw_file(path: &Path) -> Vec<u8> {
    let file = std::fs::File::create(path).unwrap();
    let mut bytes = vec![0; (8 << 20) + 1000];
    for (offset, length) in [(0, 5000), (1 << 20, 65_536), ((8 << 20) + 100, 900)] {
        let data = pattern(7, offset, length);
        file.write_all_at(&data, offset).unwrap();
        bytes[offset as usize..offset as usize + length].copy_from_slice(&data);
    }
    file.write_all_at(&vec![0; 1 << 20], 4 << 20).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    bytes
}

#[test]
fn a_copy_has_the_bytes_of_the_file_and_neither_holes_nor_zeroes() {
    let store = Store::init();
    let expected = raw_file(&store.dir.path().join("golden.raw"));
    let made = store.json("image create STORE/golden --from DIR/golden.raw");
    let node = &made["nodes"][0];
    assert_eq!(node["size"], (8 << 20) + 1024);
    let data = store.path().join("layers").join(node["head"].as_str().unwrap()).join("data");
    let copy = std::fs::read(&data).unwrap();
    assert!(copy[..expected.len()] == expected && copy[expected.len()..].iter().all(|byte| *byte == 0));
    let on_disk = std::fs::metadata(&data).unwrap().blocks() * 512;
    assert_eq!(node["used"], on_disk);
    assert_eq!(node["unique"], on_disk);
    // 8 KiB, 64 KiB and 4 KiB have data; a file system may take more around each.
    assert!((76 << 10..512 << 10).contains(&on_disk), "{on_disk} bytes");

    store.run("image snapshot STORE/golden@v1").ok();
    store.run("image clone STORE/golden@v1 STORE/vm1").ok();
    let vm1 = store.json("image info STORE/vm1");
    assert_eq!((&vm1["used"], &vm1["unique"], &vm1["shared"]), (&on_disk.into(), &0.into(), &on_disk.into()));
    assert_eq!(vm1["depth"], 1);
    assert_eq!(store.layers().len(), 1);
    store.refused("image create STORE/small 1M --from DIR/golden.raw", &["does not fit"]);
    store.run("image create STORE/large 16M --from DIR/golden.raw").ok();
    assert_eq!(store.layers().len(), 2);
    store.run("image rm STORE/large STORE/vm1").ok();
    assert_eq!(store.layers().len(), 1);
    let removed = store.json("image rm --snapshots STORE/golden");
    assert_eq!((&removed["layers"], store.layers().len()), (&1.into(), 0));
    assert!(removed["bytes"].as_u64().unwrap() >= on_disk);
}

/// S4: the base is never written, and a base that was changed is noticed.
#[test]
fn a_base_is_known_again() {
    let store = Store::init();
    let base = store.dir.path().join("golden.raw");
    let bytes = raw_file(&base);
    store.run("image create STORE/vm1 --base file:DIR/golden.raw").ok();
    store.run("image create STORE/vm2 1G --base file:DIR/golden.raw").ok();
    let (vm1, vm2) = (store.json("image info STORE/vm1"), store.json("image info STORE/vm2"));
    assert_eq!((&vm1["size"], &vm2["size"]), (&((8 << 20) + 1024).into(), &(1 << 30).into()));
    assert_eq!(vm1["base"].as_str().unwrap(), std::fs::canonicalize(&base).unwrap().to_str().unwrap());
    assert_eq!(store.json("store info STORE")["bases"], 1, "the same base is one row");
    store.run("store check STORE").ok();
    assert!(std::fs::read(&base).unwrap() == bytes);
    for own in ["DIR/golden.raw", "STORE/catalog.redb", "STORE/new"] {
        store.refused(&format!("image export --force STORE/vm2 {own}"), &["belongs to the store"]);
    }
    assert!(std::fs::read(&base).unwrap() == bytes, "nobody else's file took its place");
    store.refused("image create STORE/x --base file:DIR/none", &["No such file"]);
    store.refused("image create STORE/x --base file:DIR", &["neither a file nor a block device"]);
    std::fs::write(&base, b"another").unwrap();
    let finished = store.run("store check STORE");
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert!(finished.stdout.contains("golden.raw") && finished.stdout.contains("size"), "{finished}");
    store.run("image rm STORE/vm1 STORE/vm2").ok();
    assert_eq!(store.json("store info STORE")["bases"], 0);
}

/// L2: a store that is open in one process refuses a second.
#[test]
fn l2_a_store_that_is_open_is_refused() {
    let store = Store::init();
    store.run("image create STORE/vm1 1G").ok();
    let lock = std::fs::OpenOptions::new().read(true).write(true).open(store.path().join("lock")).unwrap();
    let owner =
        ringnbd::internal::store::StoreDirectory::open(&store.path(), std::time::Duration::ZERO).unwrap();
    for line in ["store info STORE", "store check STORE", "image ls STORE", "image rm STORE/vm1"] {
        let finished = store.run(line);
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        let sentence = format!("in use by process {}: stop it", std::process::id());
        assert!(finished.stderr.contains(&sentence), "{finished}");
    }
    drop((owner, lock));
    assert_eq!(store.names(), ["vm1"]);
}

#[test]
fn damage_is_found() {
    let store = Store::init();
    raw_file(&store.dir.path().join("golden.raw"));
    store.run("image create STORE/golden --from DIR/golden.raw").ok();
    let layer = store.layers().remove(0);
    let foreign = store.path().join("layers/foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::OpenOptions::new().write(true).open(layer.join("data")).unwrap().set_len(5).unwrap();
    let problems = |line: &str| {
        let finished = store.run(line);
        assert_eq!(finished.status.code(), Some(1), "{finished}");
        serde_json::from_str::<Value>(&finished.stdout).unwrap()["problems"].clone()
    };
    let found = problems("store check STORE --json");
    assert_eq!(found.as_array().unwrap().len(), 2, "{found}");
    assert!(
        found.to_string().contains("5 bytes instead of") && found.to_string().contains("foreign"),
        "{found}"
    );
    // The next change moves what nobody knows away, and removes nothing.
    store.run("image create STORE/x 512").ok();
    assert!(!foreign.exists() && store.path().join("lost/foreign").exists());
    assert_eq!(store.json("store gc STORE")["lost"], 1, "it waits for a day");
    assert_eq!(store.json("store gc STORE --grace 0")["removed"], 1);
    std::fs::remove_dir_all(&layer).unwrap();
    let found = problems("store check STORE --json");
    assert!(found.to_string().contains("not on the disk"), "{found}");
    let finished = store.run("image ls STORE");
    assert!(finished.status.success() && finished.stderr.contains("store check"), "{finished}");
}
