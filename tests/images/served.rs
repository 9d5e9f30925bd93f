//! Images of a store and overlays, served by the real program.

use std::path::Path;

use super::Store;
use crate::peers;
use crate::support::image::{Image, LoopDevice, disk_dir, pattern};
use crate::support::server::{Options, Server};

const SIZE: usize = 8 << 20;

/// Bytes of an export, by a client that is not ours.
pub(super) fn read(server: &Server, export: &str, scratch: &Path) -> Option<Vec<u8>> {
    let to = scratch.join("read.raw");
    let mut convert = peers::command("qemu-img")?;
    peers::run(convert.args(["convert", "-f", "raw", "-O", "raw"]).arg(server.uri(export)).arg(&to)).ok();
    Some(std::fs::read(&to).unwrap())
}

/// Commands of qemu-io, which all succeed.
pub(super) fn qemu_io(server: &Server, export: &str, commands: &[&str]) -> Option<()> {
    let mut command = peers::command("qemu-io")?;
    command.args(["-f", "raw"]);
    commands.iter().for_each(|line| {
        command.args(["-c", line]);
    });
    peers::run(command.arg(server.uri(export))).ok();
    Some(())
}

/// A store with `golden`, of which there is a snapshot with two clones.
fn store() -> (Store, Vec<u8>) {
    let store = Store::init();
    let golden = pattern(7, 0, SIZE);
    std::fs::write(store.dir.path().join("golden.raw"), &golden).unwrap();
    store.run("image create STORE/golden --from DIR/golden.raw").ok();
    store.run("image snapshot STORE/golden@v1").ok();
    store.run("image clone STORE/golden@v1 STORE/vm1 STORE/vm2").ok();
    (store, golden)
}

fn serve(store: &Store, names: &[&str]) -> Server {
    options(store, names).start()
}

fn options(store: &Store, names: &[&str]) -> Options {
    let path = store.path();
    let export = |name: &&str| format!("{}=store:{}/{name}", name.replace('@', "-at-"), path.display());
    names.iter().map(export).fold(Options::new().shards(2).memory("128M"), Options::export)
}

/// C4, S4: each clone has its own contents, whatever is written to the others; and so it is after a kill.
#[test]
fn c4_clones_are_disks_of_their_own_and_survive_a_kill() {
    let (store, golden) = store();
    let scratch = store.dir.path().to_owned();
    let (mut one, mut other) = (golden.clone(), golden.clone());
    let mut server = serve(&store, &["vm1", "vm2", "golden@v1"]);
    let done = (|| {
        qemu_io(&server, "vm1", &["write -P 1 5000 9000", "discard 2M 1M", "write -P 3 4M 64k", "flush"])?;
        qemu_io(&server, "vm2", &["write -z 6M 100k", "write -f -P 2 1 1"])?;
        one[5000..14_000].fill(1);
        one[2 << 20..3 << 20].fill(0);
        one[4 << 20..(4 << 20) + (64 << 10)].fill(3);
        other[6 << 20..(6 << 20) + (100 << 10)].fill(0);
        other[1] = 2;
        Some(())
    })();
    if done.is_none() {
        return;
    }
    let check = |server: &Server| {
        for (name, expected) in [("vm1", &one), ("vm2", &other), ("golden-at-v1", &golden)] {
            assert!(read(server, name, &scratch).unwrap() == *expected, "{name} has other contents");
        }
    };
    check(&server);
    qemu_io(&server, "vm2", &["flush"]);
    server.crash();
    let mut server = serve(&store, &["vm1", "vm2", "golden@v1"]);
    check(&server);
    server.stop();
    // What the offline commands make of it: a snapshot of what was written, and a clone of that.
    store.run("image snapshot STORE/vm1@monday").ok();
    store.run("image clone STORE/vm1@monday STORE/vm3").ok();
    let mut server = serve(&store, &["vm1", "vm3", "vm1@monday"]);
    qemu_io(&server, "vm1", &["write -P 9 0 8M", "flush"]);
    for name in ["vm3", "vm1-at-monday"] {
        assert!(read(&server, name, &scratch).unwrap() == one, "{name} is what vm1 was");
    }
    assert!(read(&server, "vm1", &scratch).unwrap() == vec![9; SIZE]);
    server.stop();
}

/// As a raw file does: what was answered is there after an orderly end, flushed or not.
#[test]
fn an_orderly_end_keeps_what_was_not_flushed() {
    let (store, mut expected) = store();
    let mut server = serve(&store, &["vm1"]);
    let mut client =
        ringnbd::Client::open(&server.uri("vm1").parse().unwrap(), &[], ringnbd::Timeouts::default())
            .unwrap();
    client.write_at(70_000, &[6; 50_000]).unwrap();
    expected[70_000..120_000].fill(6);
    drop(client);
    server.stop();
    let mut server = serve(&store, &["vm1"]);
    let mut client =
        ringnbd::Client::open(&server.uri("vm1").parse().unwrap(), &[], ringnbd::Timeouts::default())
            .unwrap();
    let mut found = vec![0; SIZE];
    client.read_at(0, &mut found).unwrap();
    assert!(found == expected, "what was answered is lost");
    drop(client);
    server.stop();
}

/// Logs of changes of this store, by the files of maps that they belong to.
fn logs(store: &Store) -> Vec<std::path::PathBuf> {
    use std::os::unix::fs::MetadataExt;

    let maps = std::fs::read_dir(store.path().join("layers")).unwrap();
    let ids = maps.map(|layer| {
        let layer = layer.unwrap();
        let map = layer.path().join("map").metadata().unwrap();
        // Tests that kill servers leave logs behind, and numbers of inodes come again.
        format!("-{}-{:x}-{:x}", layer.file_name().display(), map.dev(), map.ino())
    });
    let ids: Vec<String> = ids.collect();
    let places = std::fs::read_dir("/dev/shm").unwrap().map(|place| place.unwrap().path());
    let places = places.filter(|place| place.to_string_lossy().contains("/ringnbd-"));
    let files = places.flat_map(|place| std::fs::read_dir(place).into_iter().flatten());
    let files = files.map(|file| file.unwrap().path());
    files.filter(|file| ids.iter().any(|id| file.to_string_lossy().ends_with(id))).collect()
}

/// As with a raw file: what was answered is there after a kill, flushed or not, for a command as well as for the next server.
#[test]
fn a_kill_keeps_what_was_answered() {
    let (store, mut expected) = store();
    let write = |server: &Server, offset: usize, bytes: &[u8]| {
        let uri = server.uri("vm1").parse().unwrap();
        let mut client = ringnbd::Client::open(&uri, &[], ringnbd::Timeouts::default()).unwrap();
        client.write_at(offset as u64, bytes).unwrap();
    };
    let mut server = serve(&store, &["vm1"]);
    write(&server, 70_000, &[6; 50_000]);
    expected[70_000..120_000].fill(6);
    assert_eq!(logs(&store).len(), 1);
    server.crash();
    let mut server = serve(&store, &["vm1"]);
    write(&server, 4 << 20, &[7; 5000]);
    expected[4 << 20..(4 << 20) + 5000].fill(7);
    server.crash();
    store.run("image snapshot STORE/vm1@after").ok();
    assert_eq!(logs(&store).len(), 0);
    let mut server = serve(&store, &["vm1@after", "vm1"]);
    write(&server, 0, &[8; 100]);
    let uri = server.uri("vm1-at-after").parse().unwrap();
    let mut client = ringnbd::Client::open(&uri, &[], ringnbd::Timeouts::default()).unwrap();
    let mut found = vec![0; SIZE];
    client.read_at(0, &mut found).unwrap();
    assert!(found == expected, "what was answered is lost");
    drop(client);
    assert_eq!(logs(&store).len(), 1);
    server.stop();
    assert_eq!(logs(&store).len(), 0, "an orderly end leaves none");
}

#[test]
fn a_snapshot_refuses_writes() {
    let (store, _) = store();
    let mut server = serve(&store, &["golden@v1"]);
    let Some(mut command) = peers::command("qemu-io") else { return };
    let refused = peers::run(command.args(["-f", "raw", "-c", "write 0 4k"]).arg(server.uri("golden-at-v1")));
    assert!(!refused.status.success() || refused.stderr.contains("read-only"), "{refused}");
    server.stop();
}

/// L2, and one image is one export.
#[test]
fn a_store_that_is_served_refuses_others() {
    let (store, _) = store();
    let mut server = options(&store, &["vm1"]).args(["--control", "off"]).start();
    store_refuses(&store, "image snapshot STORE/vm1@now", "in use");
    store_refuses(&store, "serve --check --tcp 127.0.0.1:0 store:STORE/vm2", "in use");
    server.stop();
    store_refuses(
        &store,
        "serve --check --tcp 127.0.0.1:0 a=store:STORE/vm1 b=store:STORE/vm1",
        "served already",
    );
    // A server that is not told otherwise listens in the store.
    let mut server = serve(&store, &["vm1"]);
    store.run("image snapshot STORE/vm1@now").ok();
    server.stop();
    store_refuses(&store, "serve --check --tcp 127.0.0.1:0 store:STORE/vm9", "no image");
    store_refuses(&store, "serve --check --tcp 127.0.0.1:0 store:DIR/vm9", "not a store");
}

#[track_caller]
fn store_refuses(store: &Store, line: &str, words: &str) {
    let finished = store.run(line);
    assert_eq!(finished.status.code(), Some(2), "{line}: {finished}");
    assert!(finished.stderr.contains(words), "{line}: {finished}");
}

#[test]
fn an_overlay_keeps_what_was_written_and_never_its_base() {
    let directory = disk_dir();
    let (base, overlay) = (directory.path().join("base.raw"), directory.path().join("overlay"));
    let mut expected = pattern(3, 0, SIZE);
    std::fs::write(&base, &expected).unwrap();
    let uri = format!("overlay:{}?base={}", overlay.display(), base.display());
    let mut server = Options::new().export(&*uri).start();
    if qemu_io(&server, "", &["write -P 5 100 70000", "flush"]).is_none() {
        return;
    }
    expected[100..70_100].fill(5);
    server.crash();
    // It is there already: its base is known.
    let mut server = Options::new().export(format!("overlay:{}", overlay.display())).start();
    assert!(read(&server, "", directory.path()).unwrap() == expected);
    server.stop();
    assert!(std::fs::read(&base).unwrap() == pattern(3, 0, SIZE), "the base was written");
    // Another file in place of the base is noticed.
    std::fs::write(&base, pattern(4, 0, SIZE)).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    let refused = peers::run(command.args(["serve", "--check", "--tcp", "127.0.0.1:0", &uri]));
    assert!(
        refused.status.code() == Some(2) && refused.stderr.contains("not the file that it was"),
        "{refused}"
    );
}

/// S4, of a block device.
#[test]
fn an_overlay_never_writes_a_block_device_below_it() {
    let image = Image::sparse(SIZE as u64);
    let before = pattern(3, 0, SIZE);
    std::fs::write(&image.path, &before).unwrap();
    let Some(device) = LoopDevice::over(image) else { return };
    let directory = disk_dir();
    let uri =
        format!("overlay:{}?base={}", directory.path().join("overlay").display(), device.path.display());
    let mut server = Options::new().export(&*uri).start();
    if qemu_io(&server, "", &["write -P 5 100 70000", "discard 1M 64k", "flush"]).is_none() {
        return;
    }
    server.crash();
    let mut expected = before.clone();
    expected[100..70_100].fill(5);
    expected[1 << 20..(1 << 20) + (64 << 10)].fill(0);
    let mut server = Options::new().export(&*uri).start();
    assert!(read(&server, "", directory.path()).unwrap() == expected);
    server.stop();
    assert!(std::fs::read(&device.path).unwrap() == before, "the device was written");
}

#[test]
fn a_temporary_overlay_forgets() {
    let directory = disk_dir();
    let base = directory.path().join("base.raw");
    let contents = pattern(3, 0, SIZE);
    std::fs::write(&base, &contents).unwrap();
    for _ in 0..2 {
        let mut server = Options::new().export(format!("overlay:temp?base={}", base.display())).start();
        let Some(before) = read(&server, "", directory.path()) else { return };
        assert!(before == contents, "what the base has");
        qemu_io(&server, "", &["write -P 5 100 70000", "flush", "read -P 5 100 70000"]);
        server.stop();
    }
    assert!(std::fs::read(&base).unwrap() == contents, "the base was written");
}
