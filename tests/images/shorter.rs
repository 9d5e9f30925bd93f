//! Chains of images that become shorter while a server has them open.
//!
//! Oracle: what the test's own clients wrote, one write after the other.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use ringnbd::Client;
use ringnbd::internal::random::Random;

use super::Store;
use super::online::{Online, client, online};
use crate::support::server::Server;
use crate::support::wait_until;

const BLOCKS: usize = 256;
const BLOCK: usize = 4096;
const SIZE: usize = BLOCKS * BLOCK;
/// Snapshots that are kept: with the next one, and a layer whose snapshot is gone, a chain is full.
const KEPT: usize = 7;
/// One of them is kept from beginning to end, and read all the time.
const READ: usize = 3;
/// The most layers of an image: eight below its head.
const MOST_LAYERS: u64 = 9;

/// How many snapshots are taken in all.
fn rounds() -> usize {
    std::env::var("RINGNBD_SNAPSHOTS").map_or(20, |number| number.parse().expect("a number"))
}

/// Write n, the first of which is 1, puts its number into its block.
fn write(disk: &mut [u8], number: usize, block: usize) {
    let bytes = (number as u32).to_le_bytes().repeat(BLOCK / 4);
    disk[block * BLOCK..][..BLOCK].copy_from_slice(&bytes);
}

/// The disk after the first so many writes.
fn after(writes: &[usize]) -> Vec<u8> {
    let mut disk = vec![0; SIZE];
    writes.iter().enumerate().for_each(|(index, block)| write(&mut disk, index + 1, *block));
    disk
}

/// Whether a disk is what it was after so many of these writes, for any number in `window`.
fn is_a_moment(writes: &[usize], window: &RangeInclusive<usize>, found: &[u8]) -> bool {
    let mut disk = after(&writes[..*window.start()]);
    let differs = |disk: &[u8], block: usize| {
        let block = block * BLOCK..(block + 1) * BLOCK;
        disk[block.clone()] != found[block]
    };
    let mut different = (0..BLOCKS).filter(|block| differs(&disk, *block)).count();
    for number in window.start() + 1..=*window.end() {
        if different == 0 {
            return true;
        }
        let block = writes[number - 1];
        let before = differs(&disk, block);
        write(&mut disk, number, block);
        different = different + usize::from(differs(&disk, block)) - usize::from(before);
    }
    different == 0
}

fn read(server: &Server, export: &str) -> Vec<u8> {
    let mut found = vec![0; SIZE];
    client(server, export).read_at(0, &mut found).unwrap();
    found
}

/// What one writer does: it begins a write, and then it is answered.
#[derive(Default)]
struct Written {
    blocks: Mutex<Vec<usize>>,
    answered: Mutex<usize>,
    stop: AtomicBool,
}

/// Ends the threads at the end, however that comes.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Written {
    /// Writes one block after the other, and looks whether others are what was written last.
    fn go_on(&self, mut client: Client, mut random: Random) {
        let mut last = vec![0_u32; BLOCKS];
        while !self.stop.load(Ordering::SeqCst) {
            let block = random.below(BLOCKS as u64) as usize;
            let number = {
                let mut blocks = self.blocks.lock().unwrap();
                blocks.push(block);
                blocks.len()
            };
            client
                .write_at((block * BLOCK) as u64, &(number as u32).to_le_bytes().repeat(BLOCK / 4))
                .unwrap();
            *self.answered.lock().unwrap() = number;
            last[block] = number as u32;
            if random.below(50) == 0 {
                client.flush().unwrap();
            }
            let (at, mut found) = (random.below(BLOCKS as u64) as usize, vec![0; BLOCK]);
            client.read_at((at * BLOCK) as u64, &mut found).unwrap();
            assert!(found == last[at].to_le_bytes().repeat(BLOCK / 4), "block {at} after write {number}");
        }
    }

    fn answered(&self) -> usize {
        *self.answered.lock().unwrap()
    }

    fn begun(&self) -> usize {
        self.blocks.lock().unwrap().len()
    }
}

/// C3: many snapshots under load, of which old ones go: no client sees an error, the chain stays short, and
/// the contents are right.
#[test]
fn c3_snapshots_under_load_keep_the_chain_short() {
    let mut random = Random::new(11);
    let store = Store::init();
    store.run(&format!("image create STORE/vm {SIZE}")).ok();
    let online = online(&store);
    let Online { server, .. } = &online;
    let written = Written::default();
    // Between which writes each snapshot was taken.
    let mut windows = BTreeMap::new();
    std::thread::scope(|scope| {
        let _end = AtEnd(&written.stop);
        let own = Random::new(random.number());
        let (written, writer) = (&written, client(server, "vm"));
        scope.spawn(move || written.go_on(writer, own));
        for round in 0..rounds() {
            let more = written.answered() + 20;
            wait_until("writes go on", || written.answered() > more);
            let before = written.answered();
            store.run(&format!("image snapshot STORE/vm@s{round}")).ok();
            windows.insert(round, before..=written.begun());
            if round == READ {
                let mut client = client(server, "vm@s3");
                scope.spawn(move || {
                    let mut found = vec![0; SIZE];
                    client.read_at(0, &mut found).unwrap();
                    let (first, mut found) = (found, vec![0; SIZE]);
                    while !written.stop.load(Ordering::SeqCst) {
                        client.read_at(0, &mut found).unwrap();
                        assert!(found == first, "a snapshot has changed");
                    }
                });
            }
            while windows.len() > KEPT {
                let old: Vec<usize> = windows.keys().copied().filter(|round| *round != READ).collect();
                let gone = old[random.below(old.len() as u64 - 1) as usize];
                store.run(&format!("image rm STORE/vm@s{gone}")).ok();
                windows.remove(&gone);
            }
            let depth = store.json("image info STORE/vm")["depth"].as_u64().unwrap();
            assert!(depth <= MOST_LAYERS, "{depth} layers after {round} snapshots");
        }
    });
    let blocks = written.blocks.lock().unwrap();
    for (round, window) in windows {
        let found = read(server, &format!("vm@s{round}"));
        let fits = is_a_moment(&blocks, &window, &found);
        assert!(fits, "snapshot {round}: no point in time between writes {window:?}");
    }
    assert!(read(server, "vm") == after(&blocks));
    assert_eq!(server.complaints(), [""; 0]);
    drop(online);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    assert!(store.layers().len() <= MOST_LAYERS as usize, "the files of merged layers are gone");
}

/// What is merged when nobody waits for it: the room of layers comes back while an image is open, and its
/// clones and its clients see nothing of it.
#[test]
fn the_room_of_snapshots_that_are_gone_comes_back_while_clients_go_on() {
    let store = Store::init();
    store.run(&format!("image create STORE/vm {SIZE}")).ok();
    let online = online(&store);
    let Online { server, .. } = &online;
    let mut writer = client(server, "vm");
    let mut expected = vec![0; SIZE];
    for round in 1..=5 {
        // Each layer has the same blocks.
        writer.write_at(0, &vec![round; SIZE / 2]).unwrap();
        expected[..SIZE / 2].fill(round);
        store.run(&format!("image snapshot STORE/vm@s{round}")).ok();
    }
    store.run("image clone STORE/vm@s5 STORE/other").ok();
    let mut other = client(server, "other");
    other.write_at(100, &[99; 5000]).unwrap();
    let mut of_other = expected.clone();
    of_other[100..5100].fill(99);
    store.run("image rm STORE/vm@s1 STORE/vm@s2 STORE/vm@s3 STORE/vm@s4").ok();
    // The heads of both, and the layer of the snapshot that is left.
    wait_until("layers are merged", || store.layers().len() == 3);
    let depth = |image: &str| store.json(&format!("image info STORE/{image}"))["depth"].as_u64().unwrap();
    assert_eq!((depth("vm"), depth("other")), (2, 2));
    let mut found = vec![0; SIZE];
    writer.read_at(0, &mut found).unwrap();
    assert!(found == expected);
    other.read_at(0, &mut found).unwrap();
    assert!(found == of_other);
    // Files that are gone and open take room all the same.
    let gone = || {
        let links = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        let targets = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
        let layers = targets.filter(|target| target.to_string_lossy().contains("/layers/"));
        layers.filter(|target| target.to_string_lossy().ends_with("(deleted)")).count()
    };
    wait_until("no file that is gone is open", || gone() == 0);
    writer.write_at(SIZE as u64 - 10, &[1; 10]).unwrap();
    writer.flush().unwrap();
    expected[SIZE - 10..].fill(1);
    drop((writer, other));
    assert!(read(server, "vm") == expected && read(server, "other") == of_other);
    assert_eq!(server.complaints(), [""; 0]);
    drop(online);
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}
