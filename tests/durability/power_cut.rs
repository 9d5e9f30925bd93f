//! Power cuts on the real kernel. The server runs in a guest, on disks whose writes and flushes dm-log-writes records; afterwards the log
//! tells, for each of its flushes, what the disk held then. What clients had been told is durable must be in it.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::block_log::{self, Entry, Fate};
use super::content::{self, Dice, SECTOR};
use super::history::History;
use super::load::{Received, receive, take_reply};
use super::machine::{Disks, KEPT, Line, Machine, machine};
use super::model::Effect;
use crate::guest::Guest;
use crate::peers;
use crate::support::image::{Image, unmount};
use crate::support::raw::{Connection, MODES, Request};
use crate::support::server::Options;
use crate::support::wait_until;
use crate::support::wire::*;

/// The exports: a device, and on one file system two files, an image, which is a clone, and an overlay.
const EXPORTS: [&str; 5] = ["raw", "buffered", "direct", "image", "overlay"];
const IMAGE: usize = 3;
const OVERLAY: usize = 4;
/// Bytes of each.
const SIZE: u64 = MIB;
/// Bytes of the file system.
const FILE_SYSTEM: u64 = 96 * MIB;
/// Requests between two marks.
const BETWEEN_MARKS: usize = 60;
/// Requests until the next mark at most. A log that is full misses what comes after, and a mark may take as long as a snapshot.
const MOST_BETWEEN_MARKS: usize = 600;
/// Sectors of a slot; every second slot is written with FUA only, because the log puts such writes before older ones without.
const SLOT: u64 = 16;

/// What a guest may take to boot, and for each mark.
const BOOT: Duration = Duration::from_secs(200);
const PER_MARK: Duration = Duration::from_secs(30);

/// Marks in the log: moments at which it is known what was durable.
fn marks() -> usize {
    let given =
        std::env::var("RINGNBD_CUTS").ok().map(|text| text.parse().expect("RINGNBD_CUTS is a number"));
    given.unwrap_or(12)
}

/// A mark in the logs.
struct Mark {
    /// The moments before it was asked for and after it was there, by export.
    moments: [(u64, u64); EXPORTS.len()],
    /// Between them a snapshot of the clone was taken, after the mark.
    is_taken: bool,
}

/// How many requests clients may still send until the next mark; `None` when they are to end.
struct Allowance {
    left: Mutex<Option<usize>>,
    changed: Condvar,
}

impl Allowance {
    fn new() -> Self {
        Self { left: Mutex::new(Some(MOST_BETWEEN_MARKS)), changed: Condvar::new() }
    }

    /// Takes one. Who has `nothing_else` to do waits for it, until the end.
    fn take(&self, nothing_else: bool) -> bool {
        let mut left = self.left.lock().expect("all is well");
        while nothing_else && *left == Some(0) {
            left = self.changed.wait(left).expect("all is well");
        }
        let is_there = left.is_some_and(|left| left > 0);
        *left = left.map(|left| left.saturating_sub(1));
        is_there
    }

    fn set(&self, left: Option<usize>) {
        *self.left.lock().expect("all is well") = left;
        self.changed.notify_all();
    }
}

/// A client that writes and flushes without a pause, as far as it is allowed.
struct Writer<'a> {
    seed: u64,
    history: &'a Mutex<History>,
    allowance: &'a Allowance,
}

impl Writer<'_> {
    fn write(&self, mut client: Connection, mut dice: Dice) {
        let mut in_flight: BTreeMap<u64, (Option<u64>, u64)> = BTreeMap::new();
        let (mut cookie, mut replies) = (0, Vec::new());
        loop {
            let mut bytes = Vec::new();
            while in_flight.len() < 8 && self.allowance.take(in_flight.is_empty()) {
                cookie += 1;
                // One FLUSH at a time: the log cannot tell which of two covers what.
                let may_flush = in_flight.values().all(|(number, _)| number.is_some());
                let (number, sent, request) = self.request(&mut dice, may_flush);
                bytes.extend(request.cookie(cookie).encode(client.mode));
                in_flight.insert(cookie, (number, sent));
            }
            client.send(&bytes);
            if in_flight.is_empty() {
                break;
            }
            assert_eq!(receive(&mut client, &mut replies), Received::Something, "the server is there");
            while let Some((cookie, error)) = take_reply(client.mode, &mut replies) {
                assert_eq!(error, 0, "an error on a good disk");
                let (number, sent) = in_flight.remove(&cookie).expect("it is in flight");
                let mut history = self.history.lock().expect("all is well");
                match number {
                    Some(number) => history.answer(number),
                    None => history.flushed(sent),
                }
            }
        }
        let sent = self.history.lock().expect("all is well").moment();
        client.flush();
        self.history.lock().expect("all is well").flushed(sent);
        client.disconnect();
    }

    /// A request, its number unless it is a FLUSH, and the moment.
    fn request(&self, dice: &mut Dice, may_flush: bool) -> (Option<u64>, u64, Request) {
        let mut history = self.history.lock().expect("all is well");
        if may_flush && dice.one_in(10) {
            return (None, history.moment(), Request::flush());
        }
        let slot = dice.below(history.sectors() / SLOT);
        let start = dice.below(SLOT);
        let (first, count) = (slot * SLOT + start, 1 + dice.below(SLOT - start));
        let (offset, length) = (first * SECTOR as u64, count * SECTOR as u64);
        let flag = if slot.is_multiple_of(2) { NBD_CMD_FLAG_FUA } else { 0 };
        let fua = flag != 0;
        let (number, request) = match dice.below(12) {
            0 => (history.submit(Effect::Zeroed, fua, first, count), Request::zeroes(offset, length)),
            1 => (history.submit(Effect::Trimmed, fua, first, count), Request::trim(offset, length)),
            _ => {
                let number = history.submit(Effect::Written, fua, first, count);
                (number, Request::write(offset, content::written(self.seed, number, first, count)))
            }
        };
        (Some(number), 0, request.flags(flag))
    }
}

/// Lets clients write in the guest, puts marks in between, and returns when each of them was. `None` when there is no guest.
fn write_and_mark(seed: u64, histories: &[Mutex<History>], guest: Guest, line: Line) -> Option<Vec<Mark>> {
    let (over, allowance) = (AtomicBool::new(false), Allowance::new());
    std::thread::scope(|scope| {
        let over = &over;
        let console = scope.spawn(move || {
            let finished = guest.run();
            over.store(true, Ordering::Relaxed);
            finished
        });
        let machine = Machine::wait(line, || over.load(Ordering::Relaxed));
        let marked = machine.map(|mut machine| mark_under_load(seed, histories, &mut machine, &allowance));
        let console = console.join().expect("qemu ends")?.ok();
        let said = console.contains("guest: done") && !console.contains("FAILED");
        assert!(said && marked.is_some(), "the guest failed: {console}");
        marked
    })
}

fn mark_under_load(
    seed: u64,
    histories: &[Mutex<History>],
    machine: &mut Machine,
    allowance: &Allowance,
) -> Vec<Mark> {
    let attach = |(index, name): (usize, &&str)| {
        let mut client = machine.connect();
        client.greet(MODERN);
        client.choose(MODES[index % MODES.len()]);
        client.go(name);
        client
    };
    let clients: Vec<Connection> = EXPORTS.iter().enumerate().map(attach).collect();
    let now =
        || -> Vec<u64> { histories.iter().map(|of| of.lock().expect("all is well").moment()).collect() };
    let answered =
        || -> usize { histories.iter().map(|of| of.lock().expect("all is well").answered()).sum() };
    std::thread::scope(|scope| {
        let _stop = StopWhenDropped(allowance);
        let mut writers = Vec::new();
        for (index, client) in clients.into_iter().enumerate() {
            let writer = Writer { seed, history: &histories[index], allowance };
            writers.push(scope.spawn(move || writer.write(client, Dice::new(seed + index as u64))));
        }
        let mut made = Vec::new();
        for label in 0..=marks() {
            if label < marks() {
                let goal = answered() + BETWEEN_MARKS;
                wait_until("some more answers", || answered() >= goal);
            } else {
                // The last mark comes when all is quiet.
                allowance.set(None);
                writers.drain(..).for_each(|writer| writer.join().expect("a writer"));
            }
            let before = now();
            let is_taken = machine.mark(label);
            let after = now();
            let moments = std::array::from_fn(|index| (before[index], after[index]));
            made.push(Mark { moments, is_taken });
            if label < marks() {
                allowance.set(Some(MOST_BETWEEN_MARKS));
            }
        }
        made
    })
}

struct StopWhenDropped<'a>(&'a Allowance);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

/// Goes through a log from flush to flush; calls `look` with the disk as cuts behind it may leave it, and the span of moments in which they
/// are. With `every`, only at every so many flushes.
fn replay(
    entries: &[Entry],
    disk: &mut [u8],
    marks: &[Mark],
    seed: u64,
    every: usize,
    mut look: impl FnMut(&[u8], Option<usize>, usize),
) -> usize {
    let (mut last_mark, mut flushes, mut cuts) = (None, 0, 0);
    for (at, entry) in entries.iter().enumerate() {
        block_log::redo(entry, disk);
        if let Some(label) = entry.mark() {
            last_mark = Some(label.parse::<usize>().expect("our labels are numbers"));
        }
        flushes += usize::from(entry.is_flush());
        let is_last = last_mark.is_some_and(|mark| mark + 1 == marks.len());
        if (entry.is_flush() && flushes.is_multiple_of(every)) || entry.mark().is_some() {
            let next = last_mark.map_or(0, |mark| (mark + 1).min(marks.len() - 1));
            // In turn, because each look takes its time.
            let fate = [Fate::Lost, Fate::Kept, Fate::Some(seed + at as u64)][cuts % 3];
            look(&block_log::cut(entries, at, disk, fate), last_mark, next);
            cuts += 1;
        }
        if is_last {
            return cuts;
        }
    }
    panic!("the last mark is missing in a log of {} entries", entries.len());
}

/// A file system after a power cut, mounted, so that its journal is replayed.
struct Mounted {
    image: Image,
}

impl Mounted {
    fn of(disk: &[u8]) -> Self {
        let image = Image::sparse(disk.len() as u64);
        const PIECE: usize = 64 << 10;
        let file = image.open();
        for (index, piece) in disk.chunks(PIECE).enumerate() {
            // The comparison of slices is fast even in a debug build.
            if *piece != [0; PIECE][..piece.len()] {
                file.write_all_at(piece, (index * PIECE) as u64).expect("write the image");
            }
        }
        let at = image.dir().join("mnt");
        std::fs::create_dir(&at).expect("make a mount point");
        let mounted =
            Command::new("mount").args(["-o", "loop"]).arg(&image.path).arg(&at).output().expect("run mount");
        assert!(
            mounted.status.success(),
            "mount after the cut: {}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        Self { image }
    }

    /// What a server reads of an image, of which there are many files.
    fn read_image(&self, uri: &str) -> Vec<u8> {
        let uri = uri.replace("MNT", &self.image.dir().join("mnt").display().to_string());
        let mut server = Options::new().export(format!("image={uri}")).start();
        let mut client = Connection::open(&server);
        client.greet(MODERN);
        client.go("image");
        let bytes = client.read(0, SIZE as usize);
        client.disconnect();
        server.stop();
        bytes
    }

    /// The same of the overlay. Its base had another path in the guest.
    fn read_overlay(&self) -> Vec<u8> {
        let place = self.image.dir().join("mnt");
        let base = format!("file:{}", place.join("golden.raw").display());
        let image = place.join("over.d/disk").display().to_string();
        self.ringnbd(&["image", "rebase", "--base", &base, &image]);
        self.read_image("overlay:MNT/over.d?base=MNT/golden.raw")
    }

    /// The snapshots of the clone, by the label of their marks, and what each holds.
    fn snapshots(&self) -> BTreeMap<usize, Vec<u8>> {
        let store = self.image.dir().join("mnt/store").display().to_string();
        let list = self.ringnbd(&["image", "ls", "--json", &store]);
        let list: serde_json::Value = serde_json::from_slice(&list).expect("the answer is JSON");
        let nodes = list["nodes"].as_array().expect("a list").iter();
        let labels = nodes.filter_map(|node| node["name"].as_str()?.strip_prefix("vm@s")?.parse().ok());
        let to = self.image.dir().join("snapshot.raw").display().to_string();
        let read = |label: usize| {
            self.ringnbd(&["image", "export", "--force", &format!("{store}/vm@s{label}"), &to]);
            (label, std::fs::read(&to).expect("read what was exported"))
        };
        labels.map(read).collect()
    }

    fn ringnbd(&self, words: &[&str]) -> Vec<u8> {
        let ended = Command::new(env!("CARGO_BIN_EXE_ringnbd")).args(words).output().expect("run it");
        assert!(ended.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ended.stderr));
        ended.stdout
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.image.dir().join("mnt").join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.image.dir().join("mnt"));
    }
}

/// The disks of the guest; the image begins with `golden`.
fn disks(golden: &[u8]) -> Disks {
    let files = Image::sparse(FILE_SYSTEM);
    let inside = files.dir().join("inside");
    std::fs::create_dir(&inside)
        .and_then(|()| std::fs::write(inside.join("golden.raw"), golden))
        .expect("write a file");
    let inside = inside.display().to_string();
    let make = ["-q", "-t", "ext4", "-J", "size=4", "-d", &inside, &files.path.display().to_string()];
    peers::system("mke2fs", &make);
    let log = || Image::sparse(GIB);
    Disks { raw: Image::sparse(SIZE), raw_log: log(), files, files_log: log() }
}

/// Looks at the snapshots that a power cut behind the mark number `last` has left: those whose command had ended are there until they are
/// removed, and each has what was answered before it began, and nothing that was sent after it had ended.
fn check_snapshots(
    found: &BTreeMap<usize, Vec<u8>>,
    marks: &[Mark],
    last: usize,
    history: &History,
) -> Result<usize, String> {
    let is_due = |label: usize| marks[label].is_taken && label < last && last < label + KEPT;
    if let Some(lost) = (0..marks.len()).find(|label| is_due(*label) && !found.contains_key(label)) {
        return Err(format!("snapshot s{lost} is lost"));
    }
    for (label, bytes) in found {
        let (from, to) = marks[*label].moments[IMAGE];
        history.check_snapshot(bytes, from, to).map_err(|wrong| format!("snapshot s{label}: {wrong}"))?;
    }
    Ok(found.len())
}

/// D1 and D7 on a real kernel, of an overlay and of a clone too, of which snapshots are taken meanwhile.
#[test]
fn d1_power_cuts_lose_nothing_that_is_durable() {
    if peers::debian_root().is_none() {
        return;
    }
    let seed = content::seed();
    let sectors = SIZE / SECTOR as u64;
    let histories = EXPORTS.map(|_| Mutex::new(History::new(seed, sectors)));
    let golden = {
        let mut history = histories[IMAGE].lock().expect("all is well");
        let number = history.submit(Effect::Written, true, 0, sectors);
        history.answer(number);
        // Both begin with the same bytes.
        let mut other = histories[OVERLAY].lock().expect("all is well");
        assert_eq!(other.submit(Effect::Written, true, 0, sectors), number);
        other.answer(number);
        content::written(seed, number, 0, sectors)
    };
    let disks = disks(&golden);
    let mut files = disks.files.read(0, FILE_SYSTEM as usize);
    let (guest, line) = machine(&disks, SIZE, BOOT + PER_MARK * marks() as u32);
    let Some(marks) = write_and_mark(seed, &histories, guest, line) else { return };
    let histories = histories.map(|history| history.into_inner().expect("all is well"));
    let span = |export: usize, mark: Option<usize>, next: usize| {
        (mark.map_or(0, |mark| marks[mark].moments[export].0), marks[next].moments[export].1)
    };
    let check = |export: usize, disk: &[u8], mark, next| {
        let (from, to) = span(export, mark, next);
        if let Err(wrong) = histories[export].check(disk, from, to) {
            panic!("{}, RINGNBD_SEED={seed}, after mark {mark:?}: {wrong}", EXPORTS[export]);
        }
    };
    let entries = block_log::read(&disks.raw_log.path);
    let look = |disk: &[u8], mark, next| check(0, disk, mark, next);
    let raw_cuts = replay(&entries, &mut vec![0; SIZE as usize], &marks, seed, 1, look);
    let file_entries = block_log::read(&disks.files_log.path);
    let flushes = file_entries.iter().filter(|entry| entry.is_flush()).count();
    let every = (flushes / marks.len().max(1)).max(2);
    let mut looked = 0;
    let file_cuts = replay(&file_entries, &mut files, &marks, seed, every, |disk, mark, next| {
        // Before the first mark the files may not be there yet.
        if let Some(last) = mark {
            let mounted = Mounted::of(disk);
            check(1, &mounted.read("buffered.img"), mark, next);
            check(2, &mounted.read("direct.img"), mark, next);
            check(IMAGE, &mounted.read_image("store:MNT/store/vm"), mark, next);
            check(OVERLAY, &mounted.read_overlay(), mark, next);
            let found = check_snapshots(&mounted.snapshots(), &marks, last, &histories[IMAGE]);
            looked += found.unwrap_or_else(|wrong| panic!("RINGNBD_SEED={seed}, after mark {last}: {wrong}"));
        }
    });
    let taken = marks.iter().filter(|mark| mark.is_taken).count();
    let answered: usize = histories.iter().map(History::answered).sum();
    let flushes = [&entries, &file_entries].map(|of| of.iter().filter(|entry| entry.is_flush()).count());
    eprintln!(
        "-- {answered} answered requests, {flushes:?} flushes in the logs of {EXPORTS:?}; {raw_cuts} cuts of the device and {file_cuts} of the file system; \
         {taken} snapshots were taken, and {looked} looked at"
    );
    assert!(raw_cuts > 0 && file_cuts > 0 && taken > 0 && looked > 0);
}
