//! How many requests each thing takes: the guide's page about large tiers counts with these numbers.

use std::io;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use uuid::Uuid;

use super::collect::{CollectOptions, collect_tier};
use super::directory::DirectoryObjects;
use super::keys::{self, PackKey};
use super::made_up::{MadeUpTier, OWN_PACKS, PACK_BYTES, PAGE, SHARED_PACKS, SNAPSHOTS};
use super::objects::{ObjectFuture, ObjectMeta, ObjectVersion, Objects, PackBytes, PutIf, Sent, TierObject};
use super::own::{Pusher, forget};
use super::push::{PackSource, PushTo, SnapshotPush};
use super::records::{RecordPack, RecordRoot, TierSpace};
use super::waiting::run;

/// Requests of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Requests {
    gets: u64,
    heads: u64,
    puts: u64,
    uploads: u64,
    deletes: u64,
    lists: u64,
}

/// A directory that counts what it is asked.
struct Counting {
    inner: DirectoryObjects,
    asked: Mutex<Requests>,
    /// The clock is so much ahead.
    ahead_s: u64,
}

impl Counting {
    fn count(&self, add: impl FnOnce(&mut Requests)) {
        add(&mut self.asked.lock().unwrap());
    }

    fn take(&self) -> Requests {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Objects for Counting {
    fn get<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, TierObject> {
        self.count(|asked| asked.gets += 1);
        self.inner.get(key)
    }

    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> ObjectFuture<'a, Vec<u8>> {
        self.count(|asked| asked.gets += 1);
        self.inner.get_range(key, range)
    }

    fn head<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ObjectMeta> {
        self.count(|asked| asked.heads += 1);
        self.inner.head(key)
    }

    fn put<'a>(&'a self, key: &'a str, bytes: Vec<u8>, when: PutIf) -> ObjectFuture<'a, ()> {
        self.count(|asked| asked.puts += 1);
        self.inner.put(key, bytes, when)
    }

    fn upload<'a>(
        &'a self,
        key: &'a str,
        from: &'a dyn PackBytes,
        sent: &'a dyn Sent,
    ) -> ObjectFuture<'a, ()> {
        self.count(|asked| asked.uploads += 1);
        self.inner.upload(key, from, sent)
    }

    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()> {
        self.count(|asked| asked.deletes += 1);
        self.inner.delete(key)
    }

    fn list<'a>(&'a self, folder: &'a str) -> ObjectFuture<'a, Vec<ObjectMeta>> {
        self.count(|asked| asked.lists += 1);
        self.inner.list(folder)
    }

    fn wait<'a>(&'a self, time: Duration) -> ObjectFuture<'a, ()> {
        self.inner.wait(time)
    }

    fn now_s(&self) -> u64 {
        self.inner.now_s() + self.ahead_s
    }
}

/// A tier that is all made up, and counts what it is asked.
struct MadeUp {
    contents: MadeUpTier,
    asked: Mutex<Requests>,
}

impl Objects for MadeUp {
    fn get<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, TierObject> {
        self.asked.lock().unwrap().gets += 1;
        let version = ObjectVersion { etag: None, version: None };
        let bytes = self.contents.object(key).expect("it was listed");
        Box::pin(std::future::ready(Ok(TierObject { bytes, version })))
    }

    fn list<'a>(&'a self, folder: &'a str) -> ObjectFuture<'a, Vec<ObjectMeta>> {
        let keys = self.contents.keys(folder);
        self.asked.lock().unwrap().lists += (keys.len() as u64).div_ceil(PAGE).max(1);
        let found = keys.into_iter().map(|key| ObjectMeta { key, bytes: PACK_BYTES }).collect();
        Box::pin(std::future::ready(Ok(found)))
    }

    fn get_range<'a>(&'a self, _key: &'a str, _range: Range<u64>) -> ObjectFuture<'a, Vec<u8>> {
        unreachable!("a collection reads no pack")
    }

    fn head<'a>(&'a self, _key: &'a str) -> ObjectFuture<'a, ObjectMeta> {
        unreachable!("nothing is pushed")
    }

    fn put<'a>(&'a self, key: &'a str, _bytes: Vec<u8>, _when: PutIf) -> ObjectFuture<'a, ()> {
        unreachable!("everything is needed, and {key} is written")
    }

    fn upload<'a>(
        &'a self,
        _key: &'a str,
        _from: &'a dyn PackBytes,
        _sent: &'a dyn Sent,
    ) -> ObjectFuture<'a, ()> {
        unreachable!("nothing is pushed")
    }

    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()> {
        unreachable!("everything is needed, and {key} is deleted")
    }

    fn wait<'a>(&'a self, _time: Duration) -> ObjectFuture<'a, ()> {
        unreachable!("everything is answered")
    }

    fn now_s(&self) -> u64 {
        1 << 40
    }
}

/// The most memory that this process had since it was asked last, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak = kilobytes.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    peak
}

/// Every pack is here, and has one byte.
struct OneByte;

impl PackBytes for OneByte {
    fn length(&self) -> u64 {
        1
    }

    fn read(&self, _at: u64, to: &mut [u8]) -> io::Result<()> {
        to.fill(7);
        Ok(())
    }
}

impl PackSource for OneByte {
    fn open(&self, _pack: &PackKey) -> io::Result<Option<Box<dyn PackBytes>>> {
        Ok(Some(Box::new(Self)))
    }
}

const STORE: Uuid = Uuid::from_u128(1);

fn snapshot(image: u64, packs: Range<u64>) -> SnapshotPush {
    let pack = |number| RecordPack::new(PackKey { store: STORE, number, upload: 0 }, 1);
    SnapshotPush {
        image: format!("vm{image}"),
        snapshot: format!("s{}", packs.end),
        uuid: Uuid::from_u128(u128::from(image << 32 | packs.end)),
        created_s: 1,
        size: 1 << 30,
        space: TierSpace { algorithm: "blake3".to_owned(), chunk_bytes: 65536, domain: Uuid::nil() },
        root: RecordRoot::Zeroes,
        packs: packs.map(pack).collect(),
    }
}

fn new_id() -> Uuid {
    static NEXT: AtomicU64 = AtomicU64::new(1000);
    Uuid::from_u128(NEXT.fetch_add(1, Ordering::Relaxed).into())
}

/// Pushes one; the requests of that.
fn push(objects: &Counting, of: &SnapshotPush) -> Requests {
    objects.take();
    let who = Pusher { store: STORE, host: "here".to_owned() };
    let to = PushTo { objects, who: &who, packs: &OneByte, sent: &(), new_id: &new_id };
    run(to.push(of)).unwrap();
    objects.take()
}

fn collect(objects: &Counting) -> Requests {
    objects.take();
    run(collect_tier(objects, CollectOptions { grace_s: 100, expiry_s: 100 })).unwrap();
    objects.take()
}

fn tier() -> (tempfile::TempDir, Counting) {
    let directory = tempfile::tempdir().unwrap();
    let inner = DirectoryObjects::new(directory.path()).unwrap();
    (directory, Counting { inner, asked: Mutex::default(), ahead_s: 0 })
}

#[test]
fn a_push_asks_twice_for_each_pack_and_five_times_besides() {
    let (_directory, objects) = tier();
    // A name that is new: it is taken with one more PUT.
    let first = push(&objects, &snapshot(1, 0..10));
    assert_eq!(
        first,
        Requests { gets: 1 + 10 + 1, heads: 10 + 1, puts: 3, uploads: 10, ..Requests::default() }
    );
    let second = push(&objects, &snapshot(1, 0..12));
    assert_eq!(
        second,
        Requests { gets: 1 + 12 + 1, heads: 12 + 1, puts: 2, uploads: 2, ..Requests::default() }
    );
    // What is there costs two.
    let again = push(&objects, &snapshot(1, 0..12));
    assert_eq!(again, Requests { gets: 2, ..Requests::default() });
}

#[test]
fn a_collection_reads_each_record_once_and_asks_for_packs_only_that_nothing_needs() {
    let (_directory, mut objects) = tier();
    for image in 0..20 {
        push(&objects, &snapshot(image, 100 * image..100 * image + 5));
        push(&objects, &snapshot(image, 100 * image..100 * image + 6));
    }
    let lists = 6;
    assert_eq!(collect(&objects), Requests { gets: 40, lists, ..Requests::default() });
    // Owners are read when a record may be too old to be of a push that goes on.
    objects.ahead_s = 1000;
    assert_eq!(collect(&objects), Requests { gets: 40 + 20, lists, ..Requests::default() });
    // A snapshot goes, and in three collections its record and the pack that only it had.
    let who = Pusher { store: STORE, host: "here".to_owned() };
    run(forget(&objects, &who, "vm0", "s6")).unwrap();
    let mut all = Requests::default();
    for _ in 0..4 {
        let asked = collect(&objects);
        all.puts += asked.puts;
        all.deletes += asked.deletes;
        objects.ahead_s += 100_000;
    }
    // The record: given up, settled. The pack: marked, seen, condemned.
    assert_eq!(all.puts, 2 + 3, "{all:?}");
    assert!((2..=4).contains(&all.deletes), "{all:?}");
    assert_eq!(
        run(collect_tier(&objects, CollectOptions { grace_s: 1, expiry_s: 1 })).unwrap().packs,
        20 * 6 - 1
    );
}

/// What boots have read of a snapshot is of no use without it, and costs one listing.
#[test]
fn a_trace_goes_with_its_snapshot() {
    let (_directory, mut objects) = tier();
    for image in 0..2 {
        push(&objects, &snapshot(image, 100 * image..100 * image + 5));
    }
    let traces = [0, 1].map(|image| keys::boot_trace(snapshot(image, 100 * image..100 * image + 5).uuid));
    let put = |key| run(async { Ok(objects.inner.put(key, b"{}".to_vec(), PutIf::Absent).await?) });
    traces.iter().map(String::as_str).chain(["boot-traces/nobody's"]).for_each(|key| put(key).unwrap());
    collect(&objects);
    let there = |objects: &Counting| {
        let listed = run(async { Ok(objects.inner.list(keys::BOOT_TRACES).await?) }).unwrap();
        listed.into_iter().map(|found| found.key).collect::<Vec<_>>()
    };
    assert_eq!(there(&objects).len(), 3);
    let who = Pusher { store: STORE, host: "here".to_owned() };
    run(forget(&objects, &who, "vm0", "s5")).unwrap();
    let mut deleted = 0;
    for _ in 0..4 {
        deleted +=
            run(collect_tier(&objects, CollectOptions { grace_s: 1, expiry_s: 1 })).unwrap().traces_deleted;
        objects.ahead_s += 100_000;
    }
    let stay = there(&objects);
    assert!(deleted == 1 && stay.len() == 2 && stay.contains(&traces[1]), "{stay:?}");
}

/// With `RINGNBD_TIER_IMAGES=20000` it prints what the page of the guide says.
#[test]
fn a_collection_of_many_images_asks_as_often_as_the_guide_says() {
    let images = std::env::var("RINGNBD_TIER_IMAGES").map_or(200, |images| images.parse().unwrap());
    let objects = MadeUp { contents: MadeUpTier { images, per_host: 100 }, asked: Mutex::default() };
    let _of_tests_before = peak();
    let (before, begin) = (peak(), std::time::Instant::now());
    let collected = run(collect_tier(&objects, CollectOptions { grace_s: 100, expiry_s: 100 })).unwrap();
    let (grown, time) = (peak().saturating_sub(before), begin.elapsed());
    println!(
        "{images} images: {grown} bytes of memory, {time:.1?} of CPU, {:?}",
        objects.asked.lock().unwrap()
    );
    let packs = images * OWN_PACKS + SHARED_PACKS;
    assert_eq!((collected.packs, collected.packs_needed, collected.packs_marked), (packs, packs, 0));
    let listed = [packs, images * (1 + SNAPSHOTS), 0, 0, 0, 0];
    let lists = listed.iter().map(|objects| objects.div_ceil(PAGE).max(1)).sum();
    let gets = images * SNAPSHOTS + images;
    assert_eq!(*objects.asked.lock().unwrap(), Requests { gets, lists, ..Requests::default() });
}
