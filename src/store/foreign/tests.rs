//! Two stores in two directories, and a tier between them that fails when it is told to.
//!
//! Oracle: the bytes of the disk in the store that wrote it.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use uuid::Uuid;

use super::ledger::EvictableCache;
use super::source::SourcePack;
use super::{RangeSource, SourceError, TierLimits};
use crate::store::catalog::{ChainNode, ForeignPack, ForeignSnapshot, NodeName, PackOrigin, StoreName};
use crate::store::contents::way_to;
use crate::store::copy::MAP_BLOCK;
use crate::store::error::StoreError;
use crate::store::export::RawOutput;
use crate::store::ingest_counts::SPACE;
use crate::store::manifest::{ManifestEntry, NamedChunk};
use crate::store::map::BlockState;
use crate::store::map_files::{MapFiles, change_states};
use crate::store::open_store::OpenStore;
use crate::store::pack::ChunkHint;
use crate::store::pack_shelf::PackShelf;
use crate::store::tiers_file::TiersFile;

const TIER: Uuid = Uuid::from_u128(77);
/// Bytes of the disks.
const SIZE: u64 = 16 << 20;

/// A tier in memory, and what is wrong with it.
#[derive(Debug, Default)]
pub(in crate::store) struct FakeTier {
    packs: Mutex<BTreeMap<(Uuid, u64), Vec<u8>>>,
    pub(in crate::store) gets: AtomicU64,
    pub(in crate::store) bytes: AtomicU64,
    /// So many of the next requests are not answered.
    pub(in crate::store) fails: AtomicU64,
    /// So many of the next requests are refused.
    refuses: AtomicU64,
    /// So many of the next answers are cut, or have a wrong byte.
    cut: AtomicU64,
    wrong: AtomicU64,
    /// Requests wait as long as this is set.
    held: AtomicBool,
    asked: AtomicU64,
}

fn took_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl RangeSource for FakeTier {
    fn read_object(&self, key: &str) -> Result<Vec<u8>, SourceError> {
        Err(SourceError::Missing(key.to_owned()))
    }

    fn write_object(&self, _key: &str, _bytes: &[u8]) -> Result<(), SourceError> {
        Ok(())
    }

    fn read_range(&self, pack: &SourcePack, range: Range<u64>) -> Result<Vec<u8>, SourceError> {
        assert_eq!(pack.tier, TIER);
        self.asked.fetch_add(1, Ordering::SeqCst);
        while self.held.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        if took_one(&self.fails) {
            return Err(SourceError::Unreachable("503".to_owned()));
        }
        if took_one(&self.refuses) {
            return Err(SourceError::Refused("503".to_owned()));
        }
        let packs = self.packs.lock().unwrap();
        let missing = SourceError::Missing(pack.key());
        let file = packs.get(&(pack.store, pack.number)).ok_or(missing)?;
        let mut bytes = file[range.start as usize..range.end as usize].to_vec();
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        if took_one(&self.cut) {
            bytes.truncate(bytes.len() / 2);
        } else if took_one(&self.wrong) {
            bytes.iter_mut().for_each(|byte| *byte ^= 0x40);
        }
        Ok(bytes)
    }
}

fn name(text: &str) -> StoreName {
    text.parse().unwrap()
}

fn node(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// Bytes that do not compress, and are others for another seed.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Gives blocks of an image contents, as a server does.
fn write(store: &mut OpenStore<MapFiles>, image: &str, block: u64, bytes: &[u8]) {
    store.give_head(&name(image)).unwrap();
    let head = store.view().unwrap().image(&name(image)).unwrap().head.unwrap();
    let (data, map) = store.directory.open_layer(head).unwrap();
    data.write_all_at(bytes, block * MAP_BLOCK).unwrap();
    change_states(&data, &map, block, bytes.len() as u64 / MAP_BLOCK, BlockState::Data);
}

fn try_read(store: &OpenStore<MapFiles>, of: &str) -> Result<Vec<u8>, StoreError> {
    let file = tempfile::tempfile().unwrap();
    let mut out: RawOutput<'_, File> = RawOutput::Sparse(&file);
    store.export_raw(&node(of), (Path::new("out"), &mut out), &mut |_| Ok(()))?;
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Ok(bytes)
}

fn read(store: &OpenStore<MapFiles>, of: &str) -> Vec<u8> {
    try_read(store, of).unwrap()
}

/// Puts all packs on the tier, as push does; what is told of the snapshot.
fn push(store: &OpenStore<MapFiles>, tier: &FakeTier, of: &str) -> ForeignSnapshot {
    let view = store.view().unwrap();
    let own = store.header().store;
    let node = node(of);
    let image = view.image(&node.image).unwrap();
    let row = view.snapshot(image.id, node.snapshot.as_ref().unwrap()).unwrap();
    let ChainNode::Layer(layer) = row.below.node else { panic!("it was ingested") };
    let mut packs = Vec::new();
    for pack in view.packs() {
        let foreign = view.foreign_packs().find(|row| row.number == pack.number);
        let origin = foreign.map_or(PackOrigin { store: own, number: pack.number }, |row| row.origin);
        let footer_offset = match foreign {
            Some(row) => row.footer_offset,
            None => {
                let file = std::fs::read(store.path().join(format!("packs/{}.pack", pack.number))).unwrap();
                let at = file.len() - 32;
                let footer = u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
                tier.packs.lock().unwrap().insert((own, pack.number), file);
                footer
            }
        };
        let (bytes, chunks) = (pack.bytes, pack.chunks);
        packs.push(ForeignPack { origin, upload: 0, number: pack.number, bytes, chunks, footer_offset });
    }
    ForeignSnapshot {
        tier: TIER,
        store: own,
        id: row.id,
        snapshot: row.name.clone(),
        root: view.contents(layer).unwrap().root,
        packs,
    }
}

/// A new store, whose image `vm` is a clone of a snapshot of another one, with a directory as the tier.
pub(crate) fn clone_by_directory(from: &Path, of: &str, tier: &Path, to: &Path) {
    let between = FakeTier::default();
    let snapshot = push(&OpenStore::open_to_change(from, MapFiles).unwrap(), &between, of);
    for ((store, number), bytes) in between.packs.into_inner().unwrap() {
        let at = tier.join(SourcePack { tier: TIER, store, number, upload: 0 }.key());
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, bytes).unwrap();
    }
    std::fs::write(tier.join("tier.json"), "{}").unwrap();
    let mut store = OpenStore::init(to, MapFiles).unwrap();
    let tiers = BTreeMap::from([(TIER, format!("file://{}", tier.display()))]);
    store.directory.keep_tiers(&TiersFile { tiers, ..TiersFile::default() }).unwrap();
    store.open_tiers().unwrap();
    store.clone_foreign(&name("vm"), &snapshot).unwrap();
}

struct TierHost {
    _house: tempfile::TempDir,
    path: PathBuf,
    store: OpenStore<MapFiles>,
}

impl TierHost {
    fn new(tier: &Arc<FakeTier>, limits: TierLimits) -> Self {
        let house = tempfile::tempdir().unwrap();
        let path = house.path().join("store");
        let store = OpenStore::init(&path, MapFiles).unwrap();
        store.set_range_source(Arc::clone(tier) as Arc<dyn RangeSource>, limits);
        Self { _house: house, path, store }
    }

    /// One with an image that is a clone.
    fn with_clone(tier: &Arc<FakeTier>, limits: TierLimits, image: &str, of: &ForeignSnapshot) -> Self {
        let mut host = Self::new(tier, limits);
        host.store.clone_foreign(&name(image), of).unwrap();
        host
    }

    /// The same host after a restart.
    fn again(self, tier: &Arc<FakeTier>, limits: TierLimits) -> Self {
        let Self { _house, path, store } = self;
        drop(store);
        let store = OpenStore::open_to_change(&path, MapFiles).unwrap();
        store.set_range_source(Arc::clone(tier) as Arc<dyn RangeSource>, limits);
        Self { _house, path, store }
    }

    /// Puts all packs on the tier, as push does; what is told of the snapshot.
    fn push(&self, tier: &FakeTier, of: &str) -> ForeignSnapshot {
        push(&self.store, tier, of)
    }

    fn metadata(&self, of: &str) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(self.path.join("packs").join(of)).unwrap().blocks() * 512
    }
}

fn quick() -> TierLimits {
    TierLimits { wait: Duration::from_millis(300), ..TierLimits::default() }
}

/// A host with an image that is on the tier: noise in the first 4 MiB, then something that compresses.
fn first(tier: &Arc<FakeTier>) -> (TierHost, ForeignSnapshot) {
    let mut host = TierHost::new(tier, quick());
    host.store.create_empty(&name("vm"), SIZE).unwrap();
    write(&mut host.store, "vm", 0, &noise(1, 4 << 20));
    let text: Vec<u8> = (0..2 << 20).map(|at: u32| (at / 700) as u8).collect();
    write(&mut host.store, "vm", 2048, &text);
    host.store.checkpoint(&node("vm@1"), &mut |_| Ok(())).unwrap();
    let snapshot = host.push(tier, "vm@1");
    (host, snapshot)
}

#[test]
fn another_host_reads_what_one_has_written_and_fetches_it_once() {
    let tier = Arc::new(FakeTier::default());
    let (one, snapshot) = first(&tier);
    let other = TierHost::with_clone(&tier, quick(), "vm2", &snapshot);
    assert_eq!(tier.gets.load(Ordering::SeqCst), 0, "a clone fetches nothing");
    assert_eq!(other.store.header().incompatible & 8, 8, "earlier programs refuse it");
    assert_eq!(read(&other.store, "vm2"), read(&one.store, "vm@1"));
    let stored: u64 = snapshot.packs.iter().map(|pack| pack.bytes).sum();
    let fetched = tier.bytes.load(Ordering::SeqCst);
    assert!(fetched * 10 <= stored * 13, "{fetched} of {stored}");
    // After a restart nothing is fetched again, whether the tier is there or not.
    let gone = Arc::new(FakeTier::default());
    let other = other.again(&gone, quick());
    assert_eq!(read(&other.store, "vm2@1"), read(&one.store, "vm"));
    assert_eq!(gone.gets.load(Ordering::SeqCst), 0);
    assert_eq!(other.store.check().unwrap(), Vec::<String>::new());
    assert_eq!(other.store.check_maps().unwrap(), Vec::<String>::new());
}

#[test]
fn what_a_clone_writes_goes_on_to_a_third_host_and_back() {
    let tier = Arc::new(FakeTier::default());
    let (mut one, snapshot) = first(&tier);
    let mut other = TierHost::new(&tier, quick());
    // Packs have other numbers here.
    other.store.create_empty(&name("own"), SIZE).unwrap();
    write(&mut other.store, "own", 5, &noise(9, 1 << 20));
    other.store.checkpoint(&node("own@1"), &mut |_| Ok(())).unwrap();
    other.store.clone_foreign(&name("vm2"), &snapshot).unwrap();
    write(&mut other.store, "vm2", 100, &noise(2, 1 << 20));
    other.store.checkpoint(&node("vm2@2"), &mut |_| Ok(())).unwrap();
    let mut expected = read(&one.store, "vm@1");
    expected[100 * 4096..100 * 4096 + (1 << 20)].copy_from_slice(&noise(2, 1 << 20));
    assert!(read(&other.store, "vm2@2") == expected);
    let changed = other.push(&tier, "vm2@2");
    let third = TierHost::with_clone(&tier, quick(), "vm3", &changed);
    assert!(read(&third.store, "vm3") == expected);
    one.store.clone_foreign(&name("back"), &changed).unwrap();
    assert!(read(&one.store, "back") == expected);
    let view = one.store.view().unwrap();
    assert_eq!(view.own_packs().count(), snapshot.packs.len(), "its own packs are not fetched");
    one.store.clone_foreign(&name("self"), &snapshot).unwrap();
    assert_eq!(one.store.check().unwrap(), Vec::<String>::new());
    assert!(read(&one.store, "self") == read(&one.store, "vm@1"));
}

/// A hint may name a pack of another store that is not known here, or not the one that has the chunk.
#[test]
fn chunks_without_hints_are_looked_for() {
    let tier = Arc::new(FakeTier::default());
    let (one, mut snapshot) = first(&tier);
    let ManifestEntry::Named(NamedChunk { hash, .. }) = snapshot.root.top else { panic!("a node") };
    snapshot.root.top = ManifestEntry::Named(NamedChunk { hash, hint: None });
    snapshot.packs.iter_mut().for_each(|pack| pack.number += 1000);
    snapshot.store = Uuid::from_u128(3);
    let mut other = TierHost::new(&tier, quick());
    let mut wrong = snapshot.clone();
    for pack in &mut wrong.packs {
        pack.origin.number += 50;
    }
    other.store.clone_foreign(&name("nowhere"), &wrong).unwrap();
    let refused = try_read(&other.store, "nowhere").unwrap_err().to_string();
    assert!(refused.contains("is in no pack that is known"), "{refused}");
    other.store.clone_foreign(&name("vm2"), &snapshot).unwrap();
    assert!(read(&other.store, "vm2") == read(&one.store, "vm@1"));
}

#[test]
fn a_tier_that_fails_half_answers_or_lies_costs_attempts_and_no_bytes() {
    let tier = Arc::new(FakeTier::default());
    let (one, snapshot) = first(&tier);
    let other = TierHost::with_clone(&tier, TierLimits::default(), "vm2", &snapshot);
    for (what, times) in [(&tier.fails, 2), (&tier.cut, 1), (&tier.wrong, 3)] {
        what.store(times, Ordering::SeqCst);
    }
    assert!(read(&other.store, "vm2") == read(&one.store, "vm@1"));
    let figures = other.store.foreign_packs().figures();
    assert_eq!((figures.failed, figures.gave_up), (3, 0));
    assert!(figures.waits > 0);
}

/// Wrong bytes are fetched again, and are an error then; never data.
#[test]
fn wrong_bytes_are_never_given_out() {
    let tier = Arc::new(FakeTier::default());
    let (one, snapshot) = first(&tier);
    let other = TierHost::with_clone(&tier, quick(), "vm2", &snapshot);
    let expected = read(&one.store, "vm@1");
    assert!(read(&other.store, "vm2") == expected);
    // Each byte that is here becomes another one: what does not fit is fetched again.
    for row in other.store.view().unwrap().foreign_packs() {
        let file = other.path.join(format!("packs/{}.part", row.number));
        let footer = row.footer_offset as usize;
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[4096..footer].iter_mut().for_each(|byte| *byte ^= 1);
        File::options().write(true).open(&file).unwrap().write_all_at(&bytes, 0).unwrap();
    }
    let before = tier.gets.load(Ordering::SeqCst);
    assert!(read(&other.store, "vm2") == expected);
    assert!(tier.gets.load(Ordering::SeqCst) > before);
    // A tier that always lies.
    let third = TierHost::with_clone(&tier, quick(), "vm3", &snapshot);
    tier.wrong.store(u64::MAX, Ordering::SeqCst);
    assert!(try_read(&third.store, "vm3").is_err());
    tier.wrong.store(0, Ordering::SeqCst);
    assert!(read(&third.store, "vm3") == expected, "and when it has stopped lying, all is there");
}

#[test]
fn a_tier_that_is_gone_is_waited_for_up_to_the_limit_and_read_again_when_it_is_back() {
    let tier = Arc::new(FakeTier::default());
    let (one, snapshot) = first(&tier);
    let other = TierHost::with_clone(&tier, quick(), "vm2", &snapshot);
    tier.fails.store(u64::MAX, Ordering::SeqCst);
    let failed = try_read(&other.store, "vm2").unwrap_err().to_string();
    assert!(failed.contains("cannot be reached: 503"), "{failed}");
    assert!(tier.asked.load(Ordering::SeqCst) > 1, "it was tried again until the limit");
    // When that has lasted as long as the limit, one attempt is all that a read has.
    let mut reads = 1;
    loop {
        let asked = tier.asked.load(Ordering::SeqCst);
        try_read(&other.store, "vm2").unwrap_err();
        reads += 1;
        if tier.asked.load(Ordering::SeqCst) == asked + 1 {
            break;
        }
    }
    assert_eq!(other.store.foreign_packs().figures().gave_up, reads);
    assert_eq!(other.store.check().unwrap(), Vec::<String>::new(), "nothing of the store is damaged");
    tier.fails.store(0, Ordering::SeqCst);
    assert!(read(&other.store, "vm2") == read(&one.store, "vm@1"));
}

/// No answer comes for an hour. The guest asks again after each error, and goes on when the endpoint is back.
/// No time passes but that of the clock.
#[test]
fn an_hour_without_an_answer_costs_reads_their_limit_and_then_they_go_on() {
    let tier = Arc::new(FakeTier::default());
    let (one, snapshot) = first(&tier);
    let limits = TierLimits::default();
    let other = TierHost::with_clone(&tier, limits, "vm2", &snapshot);
    let packs = other.store.foreign_packs();
    let clock = || packs.clock();
    clock().skip();
    let begun = clock().now();
    tier.fails.store(u64::MAX, Ordering::SeqCst);
    let mut waited = Vec::new();
    while clock().now() < begun + Duration::from_secs(3600) {
        let (began, asked) = (clock().now(), tier.asked.load(Ordering::SeqCst));
        let failed = try_read(&other.store, "vm2").unwrap_err().to_string();
        assert!(failed.contains("cannot be reached: 503"), "{failed}");
        waited.push((clock().now() - began, tier.asked.load(Ordering::SeqCst) - asked));
        clock().sleep(Duration::from_secs(10));
    }
    // Pauses grow to two seconds, and none ends behind the limit.
    let (first, later) = waited.split_first().unwrap();
    assert!(limits.wait - Duration::from_secs(2) <= first.0 && first.0 < limits.wait, "{first:?}");
    assert!((10..40).contains(&first.1), "{first:?}");
    assert!(later.len() > 300 && later.iter().all(|wait| *wait == (Duration::ZERO, 1)), "{later:?}");
    assert_eq!(other.store.foreign_packs().figures().gave_up, waited.len() as u64);
    tier.fails.store(0, Ordering::SeqCst);
    assert!(read(&other.store, "vm2") == read(&one.store, "vm@1"));
    // What is missed for less than the limit is waited for again.
    let third = TierHost::with_clone(&tier, limits, "vm3", &snapshot);
    third.store.foreign_packs().clock().skip();
    tier.fails.store(first.1 - 1, Ordering::SeqCst);
    assert!(read(&third.store, "vm3") == read(&one.store, "vm@1"));
}

/// A rush on one image has the tier refuse most reads for minutes: they wait for their turn.
#[test]
fn a_tier_that_asks_for_less_is_waited_for_longer_than_a_silent_one() {
    let tier = Arc::new(FakeTier::default());
    let (one, snapshot) = first(&tier);
    let limits = TierLimits::default();
    let other = TierHost::with_clone(&tier, limits, "vm2", &snapshot);
    let packs = other.store.foreign_packs();
    packs.clock().skip();
    let begun = packs.clock().now();
    tier.refuses.store(60, Ordering::SeqCst);
    assert!(read(&other.store, "vm2") == read(&one.store, "vm@1"));
    let waited = packs.clock().now() - begun;
    assert!((2 * limits.wait..limits.refused_wait).contains(&waited), "{waited:?}");
    assert_eq!((packs.figures().failed, packs.figures().gave_up), (60, 0));
    // Not for ever.
    let third = TierHost::with_clone(&tier, limits, "vm3", &snapshot);
    let packs = third.store.foreign_packs();
    packs.clock().skip();
    let begun = packs.clock().now();
    tier.refuses.store(u64::MAX, Ordering::SeqCst);
    let failed = try_read(&third.store, "vm3").unwrap_err().to_string();
    assert!(failed.contains("asks for less: 503"), "{failed}");
    let waited = packs.clock().now() - begun;
    assert!(
        (limits.refused_wait - Duration::from_secs(3)..limits.refused_wait).contains(&waited),
        "{waited:?}"
    );
}

/// Readers of one chunk share one request.
#[test]
fn concurrent_readers_make_one_request() {
    let tier = Arc::new(FakeTier::default());
    let (_one, snapshot) = first(&tier);
    let other = TierHost::with_clone(&tier, TierLimits::default(), "vm2", &snapshot);
    let number = other.store.foreign_packs().numbers()[0];
    let pack = other.store.pack_place().unwrap().open(number, SPACE).unwrap();
    let before = tier.asked.load(Ordering::SeqCst);
    tier.held.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let readers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| pack.read(&pack.chunk(3).unwrap()).unwrap())).collect();
        while tier.asked.load(Ordering::SeqCst) == before {
            std::thread::yield_now();
        }
        tier.held.store(false, Ordering::SeqCst);
        let mut read = readers.into_iter().map(|reader| reader.join().unwrap());
        let one = read.next().unwrap();
        assert!(read.all(|other| other == one));
    });
    assert_eq!(tier.asked.load(Ordering::SeqCst), before + 1);
}

/// The cap holds; what went is fetched again.
#[test]
fn caches_stay_below_the_cap() {
    let tier = Arc::new(FakeTier::default());
    let (one, snapshot) = first(&tier);
    let limits = TierLimits { cache_bytes: 1 << 20, ..quick() };
    let other = TierHost::with_clone(&tier, limits, "vm2", &snapshot);
    for _ in 0..2 {
        assert!(read(&other.store, "vm2") == read(&one.store, "vm@1"));
    }
    let foreign = other.store.foreign_packs();
    assert!(foreign.figures().evicted_bytes > 4 << 20);
    let number = foreign.numbers()[0];
    // A read, and what is fetched ahead of it, may go beyond until the next look.
    assert!(other.metadata(&format!("{number}.part")) <= (2 << 20) + (64 << 10));
    let other = other.again(&tier, limits);
    let found = other.store.foreign_packs().cached_bytes();
    assert!(found > 0, "caches that are not open are counted");
}

/// Whether a chunk is near is known without a request, and before anybody has read it.
#[test]
fn what_is_here_is_near_until_it_is_given_back() {
    let tier = Arc::new(FakeTier::default());
    let (_one, snapshot) = first(&tier);
    let other = TierHost::with_clone(&tier, quick(), "vm2", &snapshot);
    let root = other.store.shape(&node("vm2")).unwrap().contents.unwrap().root;
    let shelf = || other.store.pack_place().unwrap().shelf(root.space);
    let chunk = |shelf: &PackShelf, number| {
        let ManifestEntry::Named(chunk) = way_to(shelf, &root, number).unwrap().run(number).1 else {
            panic!("it has contents")
        };
        chunk
    };
    let opened = shelf();
    let all: Vec<NamedChunk> = (0..16).map(|number| chunk(&opened, number)).collect();
    assert!(!all.iter().any(|chunk| opened.is_near(chunk)), "their nodes were read, and nothing else");
    opened.read(&all[3]).unwrap();
    let near = |shelf: &PackShelf| all.iter().filter(|chunk| shelf.is_near(chunk)).count();
    assert_eq!(near(&opened), 1);
    read(&other.store, "vm2");
    assert_eq!(near(&opened), all.len());
    assert_eq!(near(&shelf()), 0, "where they are in their pack is not known yet");
    let moved =
        NamedChunk { hint: all[5].hint.map(|hint| ChunkHint { slot: hint.slot + 1, ..hint }), ..all[5] };
    assert!(!opened.is_near(&moved), "another chunk is there");
    let number = other.store.foreign_packs().numbers()[0];
    other.store.pack_place().unwrap().partial(number).unwrap().evict().unwrap();
    assert_eq!(near(&opened), 1, "the one that is in memory");
}

/// A pack of another store is neither copied nor kept when nothing needs it.
#[test]
fn a_collection_gives_up_what_nobody_reads() {
    let tier = Arc::new(FakeTier::default());
    let (one, snapshot) = first(&tier);
    let mut other = TierHost::with_clone(&tier, quick(), "vm2", &snapshot);
    write(&mut other.store, "vm2", 0, &noise(7, 1 << 20));
    other.store.checkpoint(&node("vm2@2"), &mut |_| Ok(())).unwrap();
    let expected = read(&other.store, "vm2@2");
    let number = other.store.foreign_packs().numbers()[0];
    let collect = |store: &mut OpenStore<MapFiles>| store.collect_packs(&mut |_| Ok(())).unwrap();
    collect(&mut other.store);
    assert!(read(&other.store, "vm2@2") == expected && !other.store.foreign_packs().is_empty());
    other.store.remove(&node("vm2"), true).unwrap();
    collect(&mut other.store);
    assert!(other.store.foreign_packs().is_empty());
    assert!(!other.path.join(format!("packs/{number}.part")).exists());
    assert_eq!(other.store.header().incompatible & 8, 0, "earlier programs may have it back");
    other.store.clone_foreign(&name("vm3"), &snapshot).unwrap();
    assert!(read(&other.store, "vm3") == read(&one.store, "vm"));
}

/// What is told of a snapshot may be anything.
#[test]
fn impossible_records_are_refused_and_nothing_stays() {
    let tier = Arc::new(FakeTier::default());
    let (_one, snapshot) = first(&tier);
    let mut other = TierHost::new(&tier, quick());
    let with = |change: &dyn Fn(&mut ForeignSnapshot)| {
        let mut snapshot = snapshot.clone();
        change(&mut snapshot);
        snapshot
    };
    for bad in [
        with(&|snapshot| snapshot.packs[0].bytes = u64::MAX),
        with(&|snapshot| snapshot.packs[0].footer_offset = snapshot.packs[0].bytes),
        with(&|snapshot| snapshot.packs[0].footer_offset = 1),
        with(&|snapshot| snapshot.packs[0].number = 0),
        with(&|snapshot| snapshot.packs.push(snapshot.packs[0].clone())),
        with(&|snapshot| snapshot.root.size = 7),
        with(&|snapshot| snapshot.root.space.chunk_bytes = 7),
    ] {
        assert!(other.store.clone_foreign(&name("vm2"), &bad).unwrap_err().is_refusal());
    }
    assert_eq!(other.store.view().unwrap().layers().count(), 0);
    assert_eq!(other.store.header().incompatible, 0);
    // Another footer than the pack has: an error of reads.
    let bad = with(&|snapshot| snapshot.packs[0].bytes -= 512);
    other.store.clone_foreign(&name("vm2"), &bad).unwrap();
    assert!(try_read(&other.store, "vm2").is_err());
}
