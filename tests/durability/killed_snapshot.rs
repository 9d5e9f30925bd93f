//! SIGKILL of a server around `image snapshot` of two images that are being written.
//!
//!     RINGNBD_SNAPSHOT_KILLS=1000 cargo test --test integration d7_killed_around_a_snapshot -- --nocapture
//!
//! Writes come in chains: each is sent when the one before it was answered, to the two images in turn. So what a chain has left in both is
//! one number, the last write that is there, and any other contents are wrong. A snapshot of both has one such number for each chain too.

use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use rustix::process::Signal;

use super::content::{self, Dice};
use super::load::{LOOK, Received, receive, take_reply};
use super::victim::Victim;
use crate::images::Store;
use crate::support::raw::{Connection, Mode, Request};
use crate::support::wait_until;
use crate::support::wire::*;

const IMAGES: [&str; 2] = ["vm1", "vm2"];
const CHAINS: usize = 3;
/// Blocks of a chain in each image.
const BLOCKS: u32 = 64;
const BLOCK: usize = 4096;
/// Bytes of an image.
const SIZE: usize = CHAINS * BLOCKS as usize * BLOCK;
/// After so many kills another store is begun.
const KILLS_PER_STORE: u64 = 10;
/// Writes that are answered before a snapshot is asked for.
const LEAD: u64 = 100;
/// Looks for a reply in vain that are too many.
const MOST_LOOKS: usize = 200;

/// What a write puts into a block: its number everywhere, and where it belongs.
fn block_of(chain: usize, write: u32, place: u32) -> Vec<u8> {
    let words = [write, chain as u32, place, write.wrapping_mul(0x9e37_79b9)];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.repeat(BLOCK / bytes.len())
}

/// The image and the block of a write.
fn place_of(write: u32) -> (usize, u32) {
    (write as usize % IMAGES.len(), write / 2 % BLOCKS)
}

/// The last write of a chain, up to this one, that went to a block; 0 for none.
fn last_there(image: usize, place: u32, upto: u32) -> u32 {
    let lap = IMAGES.len() as u32 * BLOCKS;
    let first = place * 2 + image as u32;
    if upto < first { 0 } else { first + (upto - first) / lap * lap }
}

/// The last write of each chain that both images have, if they are what that leaves.
fn point_of(images: &[Vec<u8>; 2]) -> Result<[u32; CHAINS], String> {
    let mut point = [0; CHAINS];
    for (chain, newest) in point.iter_mut().enumerate() {
        let mut found = Vec::new();
        for (image, bytes) in images.iter().enumerate() {
            for (place, block) in (0..BLOCKS).zip(bytes[chain * BLOCKS as usize * BLOCK..].chunks(BLOCK)) {
                let write = u32::from_le_bytes(block[..4].try_into().expect("four bytes"));
                if block != block_of(chain, write, place) {
                    let name = IMAGES[image];
                    let head = &block[..16];
                    return Err(format!("block {place} of chain {chain} in {name} is no write: {head:02x?}"));
                }
                found.push((image, place, write));
            }
        }
        *newest = found.iter().map(|(_, _, write)| *write).max().expect("there are blocks");
        let odd = found.iter().find(|(image, place, write)| last_there(*image, *place, *newest) != *write);
        if let Some((image, place, write)) = odd {
            let (name, due) = (IMAGES[*image], last_there(*image, *place, *newest));
            return Err(format!(
                "chain {chain} is at write {newest}, but block {place} of {name} has {write} and not {due}"
            ));
        }
    }
    Ok(point)
}

#[test]
fn a_chain_is_at_one_write() {
    let after = |upto: u32| {
        IMAGES.map(|name| {
            let image = usize::from(name == IMAGES[1]);
            let places = |chain| (0..BLOCKS).map(move |place| (chain, place));
            let blocks = (0..CHAINS).flat_map(places).map(|(chain, place)| {
                let upto = if chain == 1 { upto } else { 0 };
                block_of(chain, last_there(image, place, upto), place)
            });
            blocks.collect::<Vec<_>>().concat()
        })
    };
    // One write after the other, beside the formula.
    let mut images = after(0);
    for write in 1..400 {
        let (image, place) = place_of(write);
        let at = (BLOCKS + place) as usize * BLOCK;
        images[image][at..at + BLOCK].copy_from_slice(&block_of(1, write, place));
        assert!(images == after(write), "write {write}");
        assert_eq!(point_of(&images), Ok([0, write, 0]));
    }
    let mut lost = images.clone();
    let (image, place) = place_of(390);
    let at = (BLOCKS + place) as usize * BLOCK;
    lost[image][at..at + BLOCK].copy_from_slice(&block_of(1, 390 - 128, place));
    assert!(point_of(&lost).unwrap_err().contains("has 262 and not 390"));
    let [first, _] = after(398);
    assert!(point_of(&[first, after(380)[1].clone()]).is_err(), "two points in time");
}

/// Writes of one chain.
#[derive(Default)]
struct Chain {
    begun: AtomicU32,
    answered: AtomicU32,
}

/// What those who write to one server share.
struct Round<'a> {
    victim: &'a Victim,
    answered: AtomicU64,
    /// At so many answers the server is killed.
    limit: AtomicU64,
    is_killed: AtomicBool,
    is_over: AtomicBool,
}

impl Round<'_> {
    fn is_answered(&self) {
        let answered = self.answered.fetch_add(1, SeqCst) + 1;
        if answered >= self.limit.load(SeqCst) && !self.is_killed.swap(true, SeqCst) {
            self.victim.signal(Signal::KILL);
        }
    }

    /// Sends a request and waits for its answer; false when the server is gone.
    fn ask(&self, client: &mut Connection, request: &Request) -> bool {
        if client.try_send(&request.encode(Mode::Simple)).is_err() {
            return false;
        }
        let (mut replies, mut looks) = (Vec::new(), 0);
        loop {
            match receive(client, &mut replies) {
                Received::Something => looks = 0,
                Received::End => return false,
                Received::Nothing if self.is_killed.load(SeqCst) => return false,
                Received::Nothing => looks += 1,
            }
            assert!(looks < MOST_LOOKS, "no reply");
            if let Some((_, error)) = take_reply(Mode::Simple, &mut replies) {
                assert_eq!(error, 0, "an error on a good disk");
                return true;
            }
        }
    }

    /// Goes on with a chain until the server is gone or the round over.
    fn write(&self, number: usize, chain: &Chain) {
        let mut clients = IMAGES.map(|image| connect(self.victim, image));
        while !self.is_over.load(SeqCst) {
            let write = chain.begun.fetch_add(1, SeqCst) + 1;
            let (image, place) = place_of(write);
            let offset = (number as u64 * u64::from(BLOCKS) + u64::from(place)) * BLOCK as u64;
            let mut request = Request::write(offset, block_of(number, write, place));
            if write.is_multiple_of(23) {
                request = request.flags(NBD_CMD_FLAG_FUA);
            }
            if !self.ask(&mut clients[image], &request) {
                return;
            }
            chain.answered.store(write, SeqCst);
            self.is_answered();
            if write.is_multiple_of(16) && !self.ask(&mut clients[image], &Request::flush()) {
                return;
            }
        }
    }
}

fn connect(victim: &Victim, export: &str) -> Connection {
    let mut client = victim.connect();
    client.greet(MODERN);
    client.go(export);
    client.patience_to_read(LOOK);
    client
}

/// A snapshot of both images, and the writes that it may end with.
struct Asked {
    name: String,
    answered: [u32; CHAINS],
    begun: [u32; CHAINS],
    /// The command said that it is there.
    is_promised: bool,
}

/// A store from its beginning to its end.
struct Life {
    store: Store,
    victim: Victim,
    chains: [Chain; CHAINS],
    /// Snapshots that were found, and the last write of each chain in them.
    found: Vec<(String, [u32; CHAINS])>,
    asked: Option<Asked>,
    snapshots: u32,
    /// Answers while a snapshot is being taken, from the command's start to its end.
    span: u64,
}

impl Life {
    fn begins() -> Self {
        let store = Store::init();
        let golden = || {
            let places = (0..CHAINS).flat_map(|chain| (0..BLOCKS).map(move |place| (chain, place)));
            places.flat_map(|(chain, place)| block_of(chain, 0, place)).collect::<Vec<_>>()
        };
        std::fs::write(store.directory().join("golden.raw"), golden()).expect("write the origin");
        store.run("image create STORE/golden --from DIR/golden.raw").ok();
        store.run("image snapshot STORE/golden@v1").ok();
        store.run("image clone STORE/golden@v1 STORE/vm1 STORE/vm2").ok();
        let uri = format!("store:{}", store.path().display());
        let control = format!("unix:{}", store.directory().join("control.sock").display());
        let victim = Victim::with_arguments(&uri, 2, &["--control", &control]);
        let (chains, found) = (Default::default(), Vec::new());
        Self { store, victim, chains, found, asked: None, snapshots: 0, span: 0 }
    }

    fn numbers(&self) -> ([u32; CHAINS], [u32; CHAINS]) {
        let of = |which: fn(&Chain) -> &AtomicU32| self.chains.each_ref().map(|it| which(it).load(SeqCst));
        (of(|chain| &chain.answered), of(|chain| &chain.begun))
    }

    /// A server finds what the one before it has left; a snapshot is asked for under load, and it is killed, if it is to be.
    fn round(&mut self, dice: &mut Dice, is_killed: bool) -> Result<(), String> {
        self.victim.spawn();
        if is_killed && dice.one_in(8) {
            // It does not even come up.
            self.victim.signal(Signal::KILL);
            self.victim.bury();
            return Ok(());
        }
        self.finds_everything()?;
        self.snapshots += 1;
        let name = format!("s{}", self.snapshots);
        let line = format!("image snapshot STORE/vm1@{name} STORE/vm2@{name}");
        let mut command = self.store.command(&line);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let round = Round {
            victim: &self.victim,
            answered: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            is_killed: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        };
        let (mut answered, mut output, mut span) = ([0; CHAINS], None, self.span);
        std::thread::scope(|scope| {
            for (number, chain) in self.chains.iter().enumerate() {
                let round = &round;
                scope.spawn(move || round.write(number, chain));
            }
            let _end = AtLast(&round.is_over);
            wait_until("some writes", || round.answered.load(SeqCst) >= LEAD);
            answered = self.numbers().0;
            let before = round.answered.load(SeqCst);
            if is_killed {
                round.limit.store(before + 1 + dice.below(span * 5 / 4), SeqCst);
            }
            let child: Child = command.spawn().expect("run the command");
            output = Some(child.wait_with_output().expect("wait for the command"));
            if is_killed {
                wait_until("the kill", || round.is_killed.load(SeqCst));
            } else {
                span = round.answered.load(SeqCst) - before;
            }
        });
        self.span = span;
        let output = output.expect("it ran");
        let is_promised = output.status.success();
        if !is_killed && !is_promised {
            return Err(format!("no snapshot: {}", String::from_utf8_lossy(&output.stderr)));
        }
        self.asked = Some(Asked { name, answered, begun: self.numbers().1, is_promised });
        match is_killed {
            true => self.victim.bury(),
            false => self.victim.stop(),
        }
        Ok(())
    }

    /// What the next server has: every answered write, the snapshot as a whole or not at all, and all those before it unchanged.
    fn finds_everything(&mut self) -> Result<(), String> {
        self.victim.wait_ready();
        let now = self.point(IMAGES.map(str::to_owned))?;
        let (answered, begun) = self.numbers();
        if !within(answered, now, begun) {
            return Err(format!("the images are at {now:?}, between {answered:?} and {begun:?}"));
        }
        for (chain, write) in self.chains.iter().zip(now) {
            chain.begun.store(write, SeqCst);
            chain.answered.store(write, SeqCst);
        }
        let names = self.store.names();
        if let Some(asked) = self.asked.take() {
            let both = IMAGES.map(|image| format!("{image}@{}", asked.name));
            match both.clone().map(|name| names.contains(&name)) {
                [true, true] => {
                    let point = self.point(both)?;
                    if !within(asked.answered, point, asked.begun) || !within(point, point, now) {
                        return Err(format!(
                            "snapshot {} is at {point:?}, between {:?} and {:?}; the images are at {now:?}",
                            asked.name, asked.answered, asked.begun
                        ));
                    }
                    self.found.push((asked.name, point));
                }
                [false, false] if !asked.is_promised => {}
                is_there => {
                    return Err(format!(
                        "snapshot {}: {is_there:?}, promised: {}",
                        asked.name, asked.is_promised
                    ));
                }
            }
        }
        // The others are looked at now and then: the newest ones, whose layers were just merged perhaps.
        for (name, point) in self.found.iter().rev().take(3) {
            let found = self.point(IMAGES.map(|image| format!("{image}@{name}")))?;
            if found != *point {
                return Err(format!("snapshot {name} was at {point:?}, and is at {found:?}"));
            }
        }
        Ok(())
    }

    fn point(&self, exports: [String; 2]) -> Result<[u32; CHAINS], String> {
        let images = exports.each_ref().map(|export| {
            let mut client = connect(&self.victim, export);
            let bytes = client.read(0, SIZE);
            client.disconnect();
            bytes
        });
        point_of(&images).map_err(|wrong| format!("{}: {wrong}", exports[0]))
    }

    fn ends(mut self) -> Result<usize, String> {
        self.victim.spawn();
        self.finds_everything()?;
        self.victim.stop();
        let said = self.store.run("store check STORE").ok();
        if said == "Nothing is wrong.\n" { Ok(self.found.len()) } else { Err(said) }
    }
}

/// Sets it at the end, however that is: those who wait for it end too.
struct AtLast<'a>(&'a AtomicBool);

impl Drop for AtLast<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn within(from: [u32; CHAINS], it: [u32; CHAINS], to: [u32; CHAINS]) -> bool {
    (0..CHAINS).all(|chain| (from[chain]..=to[chain]).contains(&it[chain]))
}

/// C1, C2 and D7 with the real server: 20 kills, or `RINGNBD_SNAPSHOT_KILLS`.
#[test]
fn d7_killed_around_a_snapshot() {
    let seed = content::seed();
    let mut dice = Dice::new(seed);
    let given = std::env::var("RINGNBD_SNAPSHOT_KILLS").ok();
    let kills = given.map_or(20, |text| text.parse().expect("RINGNBD_SNAPSHOT_KILLS is a number"));
    let mut found = 0;
    for first in (0..kills).step_by(KILLS_PER_STORE as usize) {
        let mut life = Life::begins();
        let mut goes_on = |kill: u64, is_killed: bool, life: &mut Life| {
            let wrong = life.round(&mut dice, is_killed).err();
            assert!(
                wrong.is_none(),
                "RINGNBD_SEED={seed}, before kill {kill}: {}",
                wrong.unwrap_or_default()
            );
        };
        goes_on(first, false, &mut life);
        for kill in first..kills.min(first + KILLS_PER_STORE) {
            goes_on(kill, true, &mut life);
        }
        found += life.ends().unwrap_or_else(|wrong| panic!("RINGNBD_SEED={seed}, at the end: {wrong}")) - 1;
    }
    eprintln!("-- {kills} kills around snapshots, of which {found} are there");
}
