//! A store on a disk that is full.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::Store;
use crate::peers;
use crate::support::image::pattern;
use crate::support::raw::{Connection, Mode, Request};
use crate::support::wire::*;

/// Bytes that are written at once.
const PART: u64 = 64 << 10;

/// A small file system, as long as this is there.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path) -> Self {
        std::fs::create_dir(at).unwrap();
        peers::run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=14M", "tmpfs"]).arg(at)).ok();
        Self(at)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _status = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

/// Gives the room of a file back. To remove it would not be enough: a program that another test starts at this moment has the
/// file open too, until it has become that program.
fn give_back(file: &File) {
    file.set_len(0).unwrap();
}

/// D8, of the catalogue: a clean error when the disk is full, removing works, and then all goes on.
#[test]
fn d8_what_makes_room_works_on_a_full_disk() {
    if !rustix::process::geteuid().is_root() {
        return peers::skip("small file system", "run as root");
    }
    let mut store = Store::init();
    std::fs::write(store.dir.path().join("raw"), pattern(5, 0, 1 << 20)).unwrap();
    let small = store.dir.path().join("small");
    let _disk = SmallDisk::mount(&small);
    store.within = "small/store";
    store.run("store init STORE").ok();
    let copy = |number: u32| store.run(&format!("image create STORE/vm{number} --from DIR/raw"));
    let mut made = 0;
    let failed = loop {
        let finished = copy(made);
        if !finished.status.success() {
            break finished;
        }
        made += 1;
        assert!(made < 14, "the disk is small");
    };
    assert_eq!(failed.status.code(), Some(1), "{failed}");
    assert!(failed.stderr.contains("No space left"), "{failed}");
    assert_eq!(store.layers().len(), made as usize, "nothing stays of the copy that failed");
    let mut file = File::create(small.join("rest")).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}

    assert_eq!(store.names().len(), made as usize);
    store.run("image rm STORE/vm0 STORE/vm1").ok();
    copy(0).ok();
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// D8, of chains: a copy that finds no room ends cleanly, and works once there is some.
#[test]
fn an_image_is_made_flat_when_there_is_room() {
    if !rustix::process::geteuid().is_root() {
        return peers::skip("small file system", "run as root");
    }
    let mut store = Store::init();
    std::fs::write(store.dir.path().join("raw"), pattern(5, 0, 6 << 20)).unwrap();
    let small = store.dir.path().join("small");
    let _disk = SmallDisk::mount(&small);
    store.within = "small/store";
    store.run("store init STORE").ok();
    store.run("image create STORE/vm --base file:DIR/raw").ok();
    let mut file = File::create(small.join("rest")).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    file.set_len(file.metadata().unwrap().len() - (2 << 20)).unwrap();
    let failed = store.run("image flatten STORE/vm");
    assert_eq!(failed.status.code(), Some(1), "{failed}");
    assert!(failed.stderr.contains("No space left"), "{failed}");
    assert!(store.layers().is_empty(), "nothing stays of the copy that failed");
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    give_back(&file);
    store.run("image flatten STORE/vm").ok();
    assert_eq!(store.layers().len(), 1);
    assert!(std::fs::read(store.layers()[0].join("data")).unwrap() == pattern(5, 0, 6 << 20));
}

/// The same with a server that has the store: what fails leaves it whole, and nothing has to be started again.
#[test]
fn a_server_makes_room_on_a_full_disk() {
    if !rustix::process::geteuid().is_root() {
        return peers::skip("small file system", "run as root");
    }
    let mut store = Store::init();
    let small = store.dir.path().join("small");
    let _disk = SmallDisk::mount(&small);
    store.within = "small/store";
    store.run("store init STORE").ok();
    store.run("image create STORE/vm0 1M").ok();
    store.run("image snapshot STORE/vm0@a").ok();
    store.run("image clone STORE/vm0@a STORE/gone").ok();
    let online = super::online::online(&store);
    // Its head takes some of the disk.
    super::online::client(&online.server, "vm0").write_at(0, &[1; 1 << 20]).unwrap();
    let mut file = File::create(small.join("rest")).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let failed = (1..200).find_map(|round| {
        let names = (0..100).map(|number| format!("STORE/vm{round}-{number}")).collect::<Vec<_>>();
        let finished = store.run(&format!("image clone STORE/vm0@a {}", names.join(" ")));
        (!finished.status.success()).then_some(finished)
    });
    let failed = failed.expect("a full disk has no room for all of them");
    assert_eq!(failed.status.code(), Some(1), "{failed}");
    assert!(failed.stderr.contains("No space left"), "{failed}");
    let before = store.names();
    store.run("image rm STORE/gone").ok();
    assert_eq!(store.names().len(), before.len() - 1);
    give_back(&file);
    store.run("image create STORE/more 1M").ok();
    let mut bytes = [0; 512];
    super::online::client(&online.server, "more").read_at(0, &mut bytes).unwrap();
    drop(online);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// S6, and D8 of first writes: what is told to be no hole takes writes on a full disk. Other writes fail, cost
/// nothing, and work once there is room.
#[test]
fn s6_what_is_no_hole_takes_writes_on_a_full_disk() {
    if !rustix::process::geteuid().is_root() {
        return peers::skip("small file system", "run as root");
    }
    let mut store = Store::init();
    let small = store.dir.path().join("small");
    let _disk = SmallDisk::mount(&small);
    store.within = "small/store";
    store.run("store init STORE").ok();
    store.run("image create STORE/vm 2M").ok();
    let mut online = super::online::online(&store);
    let mut client = Connection::attach(&online.server, "vm", Mode::Extended);
    let mut expected = vec![0; 2 << 20];
    put(&mut client, &mut expected, (0, 1));
    client.succeed(&Request::zeroes(PART, PART).flags(NBD_CMD_FLAG_NO_HOLE));
    client.flush();
    let mut file = File::create(small.join("rest")).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let told = client.extents(&Request::status(0, 2 << 20));
    let hole = |part: u64| {
        let mut at = 0;
        let found = told.iter().find(|(length, _)| {
            at += length;
            at > part * PART
        });
        found.expect("all of it is told").1 & NBD_STATE_HOLE != 0
    };
    assert_eq!([0, 1, 2, 31].map(hole), [false, false, true, true], "{told:?}");
    put(&mut client, &mut expected, (0, 2));
    put(&mut client, &mut expected, (1, 3));
    client.flush();
    client.fail(&Request::write(2 * PART, vec![4; PART as usize]), NBD_ENOSPC);
    client.fail(&Request::write(31 * PART + 100, vec![4; 1000]), NBD_ENOSPC);
    client.flush();
    assert!(client.read(0, 2 * PART as usize) == expected[..2 * PART as usize]);
    give_back(&file);
    put(&mut client, &mut expected, (2, 5));
    put(&mut client, &mut expected, (31, 6));
    assert!(client.read(0, 2 << 20) == expected);
    drop(client);
    online.server.crash();
    drop(online);
    let online = super::online::online(&store);
    let found = Connection::attach(&online.server, "vm", Mode::Simple).read(0, 2 << 20);
    assert!(found == expected, "nothing is lost by a kill");
    drop(online);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

/// Writes a part of a disk, and notes it.
fn put(client: &mut Connection, disk: &mut [u8], (part, byte): (u64, u8)) {
    client.write(part * PART, &[byte; PART as usize]);
    disk[(part * PART) as usize..][..PART as usize].fill(byte);
}
