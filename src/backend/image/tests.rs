use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::backend::abandon::Abandon;
use crate::backend::testing::context_with;
use crate::block::{ByteRange, IoFlags};
use crate::config::{ImagePlace, ImageUri, VerifyChunks};
use crate::exec::side_by_side;
use crate::ring::{RingOptions, Wait};
use crate::store::map_files::MapFiles;
use crate::store::open_store::OpenStore;

mod packed;

const BLOCK: u64 = 4096;

fn range(offset: u64, length: u64) -> ByteRange {
    ByteRange::new(offset, length).unwrap()
}

fn context() -> ShardContext {
    context_of(256 << 10)
}

fn context_of(reserve: usize) -> ShardContext {
    context_with(&RingOptions { files: 32, reserve, ..RingOptions::small() })
}

/// Polls until it has ended, whoever wakes it.
fn finish<F: Future>(future: F, context: &ShardContext) -> F::Output {
    /// More than anything here needs.
    const MOST_POLLS: usize = 2_000_000;
    let mut future = pin!(future);
    for _ in 0..MOST_POLLS {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
        context.ring.submit_and_reap(Wait::No, 8, &mut Vec::new());
        context.collect();
        std::thread::yield_now();
    }
    panic!("it never ends");
}

/// An image, what it should hold, and what its base held.
struct Tested {
    context: ShardContext,
    device: ImageDevice,
    expected: Vec<u8>,
}

impl Tested {
    fn overlay(directory: &Path, base: &[u8], size: u64) -> Self {
        let path = directory.join("base");
        std::fs::write(&path, base).unwrap();
        let uri = ImageUri {
            place: ImagePlace::Temporary,
            base: Some(crate::config::BasePlace::File(path)),
            size: Some(size),
            direct: false,
            mapped: true,
            verify: VerifyChunks::First,
            read_only: false,
            ingest: None,
            ingest_rate: 1,
            push: None,
            push_rate: 1,
            description: None,
        };
        let (store, facts) = ImageStore::open(&uri, false, true).unwrap();
        assert_eq!(facts.size, size);
        let context = context();
        let device = ImageDevice::open(&Arc::new(store), &context).unwrap();
        let mut expected = base.to_vec();
        expected.resize(size as usize, 0);
        Self { context, device, expected }
    }

    fn read(&self, part: ByteRange) -> Vec<u8> {
        let lease = self.context.pool.lend(part.length() as usize).unwrap();
        let (lease, result) = finish(self.device.read(part, lease, 0, &self.context), &self.context);
        result.unwrap();
        lease.bytes(0..part.length() as usize).to_vec()
    }

    async fn write_now(&self, part: ByteRange, byte: u8) {
        let mut lease = self.context.pool.lend(part.length() as usize).unwrap();
        lease.bytes_mut(0..part.length() as usize).fill(byte);
        self.device.write(part, lease.freeze(), false, &self.context).await.unwrap();
    }

    fn write(&mut self, part: ByteRange, byte: u8) {
        finish(self.write_now(part, byte), &self.context);
        self.expected[part.offset() as usize..part.end() as usize].fill(byte);
    }

    fn zero(&mut self, part: ByteRange, no_hole: bool, trim: bool) {
        let abandon = Abandon::default();
        let flags = IoFlags { no_hole, ..IoFlags::default() };
        let context = &self.context;
        match trim {
            true => finish(self.device.trim(part, &abandon, context), context).unwrap(),
            false => finish(self.device.write_zeroes(part, flags, &abandon, context), context).unwrap(),
        }
        self.expected[part.offset() as usize..part.end() as usize].fill(0);
    }

    fn check(&self) {
        let whole = range(0, self.expected.len() as u64);
        assert!(self.read(whole) == self.expected, "what is read is not what was written");
        let extents = finish(self.device.extents(whole, 1000, 0, &self.context), &self.context).unwrap();
        assert_eq!(extents.iter().map(|extent| extent.length).sum::<u64>(), whole.length());
        let mut offset = 0;
        for extent in extents {
            let bytes = &self.expected[offset as usize..(offset + extent.length) as usize];
            assert!(!extent.zero || bytes.iter().all(|byte| *byte == 0), "it is said to be zero at {offset}");
            offset += extent.length;
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(ByteRange, u8),
    Zero(ByteRange, bool, bool),
    Flush,
}

fn step(size: u64) -> impl Strategy<Value = Step> {
    let part = (0..size, prop_oneof![1..=9000u64, Just(BLOCK), Just(4 * BLOCK)], any::<bool>());
    let part = part.prop_map(move |(offset, length, aligned)| {
        let offset = if aligned { offset / BLOCK * BLOCK } else { offset };
        let length = if aligned { length.next_multiple_of(BLOCK) } else { length };
        range(offset, length.min(size - offset))
    });
    (part, any::<(u8, bool, bool)>(), 0..8u8).prop_map(|(part, (byte, one, other), kind)| match kind {
        0..4 => Step::Write(part, byte),
        4..7 => Step::Zero(part, one, other),
        _ => Step::Flush,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// S1 to S4, one after the other.
    #[test]
    fn an_image_reads_what_was_written_and_its_base_elsewhere(
        base in 0..100_000usize,
        size in 1..100_000u64,
        seed in any::<u8>(),
        script in proptest::collection::vec(step(100_000), 1..40),
    ) {
        let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let bytes: Vec<u8> = (0..base.min(size as usize)).map(|at| (at / 512) as u8 ^ seed | 1).collect();
        let mut image = Tested::overlay(directory.path(), &bytes, size);
        for step in script {
            let within = |part: ByteRange| {
                let offset = part.offset().min(size - 1);
                range(offset, part.length().min(size - offset))
            };
            match step {
                Step::Write(part, byte) => image.write(within(part), byte),
                Step::Zero(part, no_hole, trim) => image.zero(within(part), no_hole, trim),
                Step::Flush => finish(image.device.flush(&image.context), &image.context).unwrap(),
            }
        }
        image.check();
        assert!(std::fs::read(directory.path().join("base")).unwrap() == bytes, "the base was written");
    }
}

/// S1: side by side, too.
#[test]
fn s1_first_writes_keep_what_is_around_them() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let base: Vec<u8> = (0..64 * 1024u32).map(|at| (at / 64) as u8 | 1).collect();
    let mut image = Tested::overlay(directory.path(), &base, 64 << 10);
    // Eight writes into each of the first blocks, of a length that is no part of a block, all at once.
    let parts: Vec<ByteRange> = (0..40).map(|at| range(at * 509, 500)).collect();
    finish(side_by_side(parts.iter().map(|part| image.write_now(*part, 7)), 40), &image.context);
    for part in &parts {
        image.expected[part.offset() as usize..part.end() as usize].fill(7);
    }
    image.check();
}

/// The file had something behind the end, of a larger disk: once the last block is DATA nothing of it is
/// left, whichever bytes were written.
#[test]
fn a_last_block_that_becomes_data_has_zeroes_behind_the_end_of_the_disk() {
    const SIZE: u64 = 3 * BLOCK + 512;
    for (number, part) in [range(3 * BLOCK, 512), range(3 * BLOCK + 100, 20), range(BLOCK, 2 * BLOCK + 512)]
        .into_iter()
        .enumerate()
    {
        let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let path = directory.path().join("store");
        OpenStore::init(&path, MapFiles).unwrap().create_empty(&"vm".parse().unwrap(), SIZE).unwrap();
        let (store, _) = ImageStore::open(&stored(&path.join("vm")), false, true).unwrap();
        let layer = std::fs::read_dir(path.join("layers")).unwrap().next().expect("a head").unwrap();
        let data = File::options().read(true).write(true).open(layer.path().join("data")).unwrap();
        data.write_all_at(&[9; BLOCK as usize], 3 * BLOCK).unwrap();
        let context = context();
        let device = ImageDevice::open(&Arc::new(store), &context).unwrap();
        let mut image = Tested { context, device, expected: vec![0; SIZE as usize] };
        image.write(part, 1 + number as u8);
        image.check();
        let mut last = vec![9; BLOCK as usize];
        data.read_exact_at(&mut last, 3 * BLOCK).unwrap();
        assert_eq!(last[..512], image.expected[3 * BLOCK as usize..]);
        assert!(last[512..].iter().all(|byte| *byte == 0), "{part:?}");
    }
}

/// A write that is under way holds up whoever zeroes its blocks. Otherwise it would bring back, when it ends,
/// what others had written before the zeroes.
#[test]
fn blocks_are_zeroed_when_no_write_to_them_is_under_way() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let mut image = Tested::overlay(directory.path(), &[1; 64 << 10], 64 << 10);
    let (part, abandon) = (range(2 * BLOCK, 3 * BLOCK), Abandon::default());
    {
        let mut task = Context::from_waker(Waker::noop());
        let mut write = pin!(image.write_now(part, 7));
        assert!(write.as_mut().poll(&mut task).is_pending());
        let mut trim = pin!(image.device.trim(range(3 * BLOCK, BLOCK), &abandon, &image.context));
        for _ in 0..100 {
            image.context.ring.submit_and_reap(Wait::No, 8, &mut Vec::new());
            image.context.collect();
            assert!(trim.as_mut().poll(&mut task).is_pending(), "it did not wait for the write");
        }
        finish(write, &image.context);
        finish(trim, &image.context).unwrap();
    }
    for (part, byte) in [(part, 7), (range(3 * BLOCK, BLOCK), 0)] {
        image.expected[part.offset() as usize..part.end() as usize].fill(byte);
    }
    image.check();
}

/// A block that was zeroed may have bytes of the next write, which is not over or fails. Whoever has read it
/// before in one operation, or waits to send it from the page cache, looks again.
#[test]
fn what_was_found_in_blocks_does_not_count_when_they_are_zeroed() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let mut image = Tested::overlay(directory.path(), &[1; 64 << 10], 64 << 10);
    let part = range(2 * BLOCK, BLOCK);
    image.write(part, 7);
    let read = image.device.single_read(part).expect("one layer has it");
    let lease = image.context.pool.lend(BLOCK as usize).unwrap();
    let mut trust = Trust::default();
    let found = image.device.read_at_once(part, true, &mut trust, 0);
    let Some(Some(mapped)) = found else { panic!("it is in the page cache: {found:?}") };
    assert!(image.device.still_holds(part, read, &lease));
    assert_eq!(image.device.standing(&mapped, None, 0), Standing::There);
    image.zero(part, true, false);
    assert!(!image.device.still_holds(part, read, &lease));
    assert_eq!(image.device.standing(&mapped, None, 0), Standing::Gone);
    image.write(part, 8);
    assert!(image.device.still_holds(part, read, &lease));
    assert_eq!(image.device.standing(&mapped, None, 0), Standing::There);
}

/// A device that is closed gives the maps back: the next one has what was answered.
#[test]
fn what_was_written_is_there_when_the_device_is_opened_again() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let mut image = Tested::overlay(directory.path(), &[1; 40_000], 40_000);
    image.write(range(5000, 6000), 9);
    image.zero(range(20_000, 9000), false, true);
    let store = Arc::clone(&image.device.store);
    assert!(ImageDevice::open(&store, &image.context).is_err(), "it is open");
    let files = image.context.ring.registered_files();
    drop(image.device);
    let device = ImageDevice::open(&store, &image.context).unwrap();
    image = Tested { device, ..image };
    assert_eq!(image.context.ring.registered_files(), files);
    image.check();
}

/// S4: beyond a base that is shorter than the image there are zeroes; one that was cut gives errors.
#[test]
fn s4_a_base_that_was_cut_is_an_error_and_never_zeroes() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let image = Tested::overlay(directory.path(), &[1; 40_000], 50_000);
    assert_eq!(image.read(range(39_999, 2)), [1, 0]);
    let base = File::options().write(true).open(directory.path().join("base")).unwrap();
    base.set_len(30_000).unwrap();
    base.write_all_at(&[1], 0).unwrap();
    let lease = image.context.pool.lend(8192).unwrap();
    let read = image.device.read(range(28_000, 8192), lease, 0, &image.context);
    let (_, result) = finish(read, &image.context);
    assert_eq!(result.unwrap_err().good, 2000);
}

/// Memory short: many merges at once, after a start, when the maps of the layers below are not in memory.
#[test]
fn merges_and_the_nodes_that_they_need_share_a_small_reserve() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let (raw, path) = (directory.path().join("raw"), directory.path().join("store"));
    std::fs::write(&raw, [3; 256 << 10]).unwrap();
    let mut store = OpenStore::init(&path, MapFiles).unwrap();
    let from = (raw.as_path(), &File::open(&raw).unwrap(), 256 << 10);
    store.create_from(&"golden".parse().unwrap(), from, 256 << 10, |_| Ok(())).unwrap();
    store.snapshot(vec!["golden@1".parse().unwrap()]).unwrap();
    store.clone_images("golden@1".parse().unwrap(), &["vm".parse().unwrap()]).unwrap();
    drop(store);
    let uri = ImageUri {
        place: ImagePlace::Store(path.join("vm")),
        base: None,
        size: None,
        direct: false,
        mapped: true,
        verify: VerifyChunks::First,
        read_only: false,
        ingest: None,
        ingest_rate: 1,
        push: None,
        push_rate: 1,
        description: None,
    };
    let (store, _) = ImageStore::open(&uri, false, true).unwrap();
    let context = context_of(2 * BLOCK as usize);
    let device = ImageDevice::open(&Arc::new(store), &context).unwrap();
    let mut image = Tested { context, device, expected: vec![3; 256 << 10] };
    let parts: Vec<ByteRange> = (0..32).map(|block| range(block * BLOCK + 7, 100)).collect();
    finish(side_by_side(parts.iter().map(|part| image.write_now(*part, 8)), 32), &image.context);
    for part in &parts {
        image.expected[part.offset() as usize..part.end() as usize].fill(8);
    }
    image.check();
}

/// A store with an image, which is served, and what is needed to take snapshots of it.
struct ServedStoreImage {
    image: Tested,
    path: std::path::PathBuf,
}

fn stored(path: &Path) -> ImageUri {
    ImageUri {
        place: ImagePlace::Store(path.to_owned()),
        base: None,
        size: None,
        direct: false,
        mapped: true,
        verify: VerifyChunks::First,
        read_only: false,
        ingest: None,
        ingest_rate: 1,
        push: None,
        push_rate: 1,
        description: None,
    }
}

/// What the catalogue is asked to say, and what comes of that.
struct Noted {
    outcomes: Vec<RecordOutcome>,
    asked: usize,
}

impl SnapshotRecord for Noted {
    async fn begin(&mut self) -> RecordOutcome {
        RecordOutcome::Recorded
    }

    async fn withdraw(&mut self) {}

    async fn go_on_without(&mut self, settled: &[usize]) -> RecordOutcome {
        assert_eq!(settled, [0]);
        RecordOutcome::Recorded
    }

    async fn record(&mut self) -> RecordOutcome {
        self.asked += 1;
        self.outcomes.remove(0)
    }

    async fn read_again(&mut self) -> RecordOutcome {
        self.record().await
    }
}

impl ServedStoreImage {
    fn new(directory: &Path) -> Self {
        let path = directory.join("store");
        let mut store = OpenStore::init(&path, MapFiles).unwrap();
        store.create_empty(&"vm".parse().unwrap(), 64 << 10).unwrap();
        drop(store);
        let (store, _) = ImageStore::open(&stored(&path.join("vm")), false, true).unwrap();
        let context = context();
        let device = ImageDevice::open(&Arc::new(store), &context).unwrap();
        Self { image: Tested { context, device, expected: vec![0; 64 << 10] }, path }
    }

    /// The files of a next head as the store would make them, which nobody records.
    fn next_head(&self, directory: &Path, name: &str) -> NextHead {
        let path = directory.join(name);
        let mut other = OpenStore::init(&path, MapFiles).unwrap();
        other.create_empty(&"vm".parse().unwrap(), 64 << 10).unwrap();
        let files = other.make_next_head(&"vm".parse().unwrap()).unwrap();
        self.image.device.store.next_head(files).unwrap()
    }

    /// A snapshot, beside something else that goes on meanwhile.
    fn snapshot(
        &self,
        next: NextHead,
        outcomes: &[RecordOutcome],
        beside: impl Future<Output = ()>,
    ) -> Result<Vec<Duration>, SnapshotError> {
        let (member, task) = sealing(next);
        let mut record = Noted { outcomes: outcomes.to_vec(), asked: 0 };
        let result = std::cell::RefCell::new(None);
        let taken = async { *result.borrow_mut() = Some(seal_group(vec![member], &mut record).await) };
        let device = &self.image.device;
        let all: [std::pin::Pin<Box<dyn Future<Output = ()> + '_>>; 3] = [
            Box::pin(device.seal(task, Duration::from_secs(60), &self.image.context)),
            Box::pin(taken),
            Box::pin(beside),
        ];
        finish(side_by_side(all.into_iter(), 3), &self.image.context);
        assert!(record.outcomes.is_empty() || record.asked == 0);
        result.into_inner().unwrap()
    }
}

#[test]
fn an_image_goes_on_with_another_head_and_reads_what_the_sealed_one_has() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let mut served = ServedStoreImage::new(directory.path());
    for round in 1..=3 {
        served.image.write(range(u64::from(round) * 5000, 9000), round);
        let next = served.next_head(directory.path(), &round.to_string());
        let before = served.image.device.chain().layers.len();
        let part = range(u64::from(round) * 3000, 500);
        let writes = async { served.image.write_now(part, 100 + round).await };
        served.snapshot(next, &[RecordOutcome::Recorded], writes).unwrap();
        served.image.expected[part.offset() as usize..part.end() as usize].fill(100 + round);
        assert_eq!(served.image.device.chain().layers.len(), before + 1);
        served.image.check();
        served.image.zero(range(u64::from(round) * 2000, 7000), false, true);
        finish(served.image.device.flush(&served.image.context), &served.image.context).unwrap();
    }
    served.image.check();
    let (store, files) =
        (Arc::clone(&served.image.device.store), served.image.context.ring.registered_files());
    drop(served.image.device);
    assert_eq!(served.image.context.ring.registered_files(), 0);
    let device = ImageDevice::open(&store, &served.image.context).unwrap();
    let image = Tested { device, ..served.image };
    assert_eq!(image.context.ring.registered_files(), files, "it has all of its layers");
    image.check();
    assert!(served.path.exists());
}

/// Whatever becomes of the catalogue's change, the image goes on. A FLUSH is answered when it is known that
/// the catalogue leads to the head.
#[test]
fn an_image_goes_on_when_its_snapshot_is_not_recorded() {
    let (refused, unknown) = (RecordOutcome::Refused("no".into()), RecordOutcome::Unknown("?".into()));
    for (outcomes, works) in [
        (vec![refused.clone()], false),
        (vec![unknown.clone(), refused], false),
        (vec![unknown.clone(), unknown.clone()], false),
        (vec![unknown, RecordOutcome::Recorded], true),
    ] {
        let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let mut served = ServedStoreImage::new(directory.path());
        served.image.write(range(0, 9000), 1);
        let next = served.next_head(directory.path(), "1");
        assert_eq!(served.snapshot(next, &outcomes, async {}).is_ok(), works, "{outcomes:?}");
        let context = &served.image.context;
        let is_known = !matches!(outcomes.last(), Some(RecordOutcome::Unknown(_)));
        assert_eq!(finish(served.image.device.flush(context), context).is_ok(), is_known, "{outcomes:?}");
        served.image.write(range(4096, 4096), 2);
        served.image.check();
        let next = served.next_head(directory.path(), "2");
        let recorded = if is_known { vec![RecordOutcome::Recorded] } else { Vec::new() };
        assert_eq!(served.snapshot(next, &recorded, async {}).is_ok(), is_known, "{outcomes:?}");
        served.image.check();
    }
}

#[test]
fn a_snapshot_that_is_given_up_changes_nothing() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let mut served = ServedStoreImage::new(directory.path());
    served.image.write(range(100, 9000), 1);
    let files = served.image.context.ring.registered_files();
    let context = &served.image.context;
    let device = &served.image.device;
    // A change that never ends.
    let inside = finish(device.entrance.enter(), context);
    let (member, task) = sealing(served.next_head(directory.path(), "slow"));
    let mut record = Noted { outcomes: Vec::new(), asked: 0 };
    let group = async {
        let failure = seal_group(vec![member], &mut record).await.unwrap_err();
        assert!(matches!(failure, SnapshotError::Image(0, SealFailure::TooSlow(_))), "{failure}");
    };
    let home = device.seal(task, Duration::from_millis(20), context);
    let all: [std::pin::Pin<Box<dyn Future<Output = ()> + '_>>; 2] = [Box::pin(home), Box::pin(group)];
    finish(side_by_side(all.into_iter(), 2), context);
    drop(inside);
    // Whoever takes it is gone before it has closed, and after.
    for orders in [0, 1] {
        let (member, task) = sealing(served.next_head(directory.path(), &orders.to_string()));
        let gone = async {
            member.has_come(sealing::SealStage::Prepared).await.unwrap();
            if orders == 1 {
                member.give(sealing::SealOrder::Close);
                member.has_come(sealing::SealStage::Closed).await.unwrap();
            }
            drop(member);
        };
        let home = device.seal(task, Duration::from_secs(60), context);
        let all: [std::pin::Pin<Box<dyn Future<Output = ()> + '_>>; 2] = [Box::pin(home), Box::pin(gone)];
        finish(side_by_side(all.into_iter(), 2), context);
    }
    // The home is gone.
    let (member, task) = sealing(served.next_head(directory.path(), "gone"));
    drop(task);
    let group = seal_group(vec![member], &mut record);
    assert_eq!(finish(group, context), Err(SnapshotError::Image(0, SealFailure::Gone)));
    assert_eq!((record.asked, context.ring.registered_files()), (0, files));
    finish(device.flush(context), context).unwrap();
    served.image.write(range(300, 9000), 2);
    served.image.check();
}

/// C1, of one image: whatever is written side by side with a snapshot is in it or not, as a whole, and a
/// later write is never in it when an earlier one is not.
#[test]
fn a_snapshot_has_what_was_answered_before_it() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let mut served = ServedStoreImage::new(directory.path());
    served.image.write(range(0, 64 << 10), 1);
    let next = served.next_head(directory.path(), "1");
    let writes = async {
        for block in 0..16 {
            served.image.write_now(range(block * BLOCK, BLOCK), 2).await;
        }
    };
    served.snapshot(next, &[RecordOutcome::Recorded], writes).unwrap();
    // What the sealed layer reads as, without the head.
    let chain = served.image.device.chain();
    let sealed = chain::Chain {
        store: Arc::clone(&served.image.device.store),
        layers: chain.layers[1..].to_vec(),
        contents: None,
        base: None,
    };
    let context = &served.image.context;
    let lease = context.pool.lend(64 << 10).unwrap();
    let (lease, result) = finish(sealed.read(range(0, 64 << 10), lease, 0, context), context);
    result.unwrap();
    let blocks: Vec<u8> = lease.bytes(0..64 << 10).chunks(BLOCK as usize).map(|block| block[0]).collect();
    assert!(
        lease
            .bytes(0..64 << 10)
            .chunks(BLOCK as usize)
            .all(|block| block.iter().all(|byte| *byte == block[0]))
    );
    assert!(blocks.is_sorted_by(|one, other| one >= other), "{blocks:?}");
    drop((sealed, chain));
}

/// What is below a merged layer is seen no further than it was through the two; S1 and S2 across that.
#[test]
fn a_chain_that_became_shorter_reads_as_before() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let (base, path) = (directory.path().join("golden"), directory.path().join("store"));
    std::fs::write(&base, [7; 60_000]).unwrap();
    let (vm, uri) = ("vm".parse().unwrap(), stored(&path.join("vm")));
    let mut store = OpenStore::init(&path, MapFiles).unwrap();
    store.create_on_base(&vm, Some(64 << 10), crate::store::base::look_at_base(&base).unwrap()).unwrap();
    let mut expected = [vec![7; 60_000], vec![0; (64 << 10) - 60_000]].concat();
    for (round, size) in [(1, 64 << 10), (2, 20_480), (3, 64 << 10), (4, 64 << 10)] {
        // What was cut off reads as zeroes when it comes back.
        if expected.len() != size {
            store.resize(&vm, size as u64, true).unwrap();
            expected.resize(size, 0);
        }
        drop(store);
        let (opened, _) = ImageStore::open(&uri, false, true).unwrap();
        let (context, opened) = (context(), Arc::new(opened));
        let device = ImageDevice::open(&opened, &context).unwrap();
        let mut image = Tested { context, device, expected };
        image.write(range(u64::from(round) * 3000, 5000), round);
        image.check();
        expected = std::mem::take(&mut image.expected);
        drop((image, opened));
        store = OpenStore::open_to_change(&path, MapFiles).unwrap();
        store.snapshot(vec![format!("vm@{round}").parse().unwrap()]).unwrap();
    }
    drop(store);
    let (opened, _) = ImageStore::open(&uri, false, true).unwrap();
    let (context, opened) = (context(), Arc::new(opened));
    let device = ImageDevice::open(&opened, &context).unwrap();
    let mut image = Tested { context, device, expected };
    image.write(range(100, 3000), 9);
    image.check();
    let handle = ImageHandle::of(&opened).unwrap();
    for (depth, snapshot) in [(4, "2"), (3, "3"), (2, "1")] {
        let files = image.context.ring.registered_files();
        let old = image.device.chain();
        let chain = handle.remove_and_merge(&format!("vm@{snapshot}").parse().unwrap());
        let (told, outcome) = std::sync::mpsc::channel();
        let task = ShortenTask::new(chain, move |outcome| told.send(outcome).unwrap());
        image.device.shorten(task, &image.context);
        assert_eq!(outcome.recv().unwrap(), ShortenOutcome::Shorter);
        assert_eq!(image.device.chain().layers.len(), depth);
        image.check();
        // A request that began before.
        let (lease, result) = {
            let lease = image.context.pool.lend(64 << 10).unwrap();
            finish(old.read(range(0, 64 << 10), lease, 0, &image.context), &image.context)
        };
        result.unwrap();
        assert!(lease.bytes(0..64 << 10) == image.expected);
        assert!(image.context.ring.registered_files() > files);
        drop(old);
        assert!(image.context.ring.registered_files() < files);
        image.write(range(depth as u64 * 7000, 6000), 20 + depth as u8);
        image.check();
    }
    // Open nowhere, and open again.
    let Tested { context, device, expected } = image;
    drop(device);
    assert_eq!(context.ring.registered_files(), 0);
    let device = ImageDevice::open(&opened, &context).unwrap();
    let image = Tested { context, device, expected };
    image.check();
    finish(image.device.flush(&image.context), &image.context).unwrap();
    let expected = image.expected.clone();
    drop((image, opened, handle));
    let (opened, _) = ImageStore::open(&uri, false, true).unwrap();
    let context = self::context();
    let device = ImageDevice::open(&Arc::new(opened), &context).unwrap();
    Tested { context, device, expected }.check();
}

/// An image of which all that is sealed is in packs, below clients that go on; S1 and S2 across that.
#[test]
fn a_chain_that_ends_in_packs_reads_as_before() {
    const SIZE: u64 = 400 << 10;
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let (base, path) = (directory.path().join("golden"), directory.path().join("store"));
    let golden: Vec<u8> = (0..300_000u32).map(|at| (at / 1000) as u8 | 1).collect();
    std::fs::write(&base, &golden).unwrap();
    let (vm, uri) = ("vm".parse().unwrap(), stored(&path.join("vm")));
    let mut store = OpenStore::init(&path, MapFiles).unwrap();
    store.create_on_base(&vm, Some(SIZE), crate::store::base::look_at_base(&base).unwrap()).unwrap();
    drop(store);
    let mut expected = golden;
    expected.resize(SIZE as usize, 0);
    for round in 1..4u8 {
        let (opened, _) = ImageStore::open(&uri, false, true).unwrap();
        let (context, opened) = (context_of(1 << 20), Arc::new(opened));
        let device = ImageDevice::open(&opened, &context).unwrap();
        let mut image = Tested { context, device, expected };
        for part in 0..4 {
            image.write(range(u64::from(round) * 30_000 + part * 70_001, 5000), round * 10 + part as u8);
        }
        image.zero(range(u64::from(round) * 50_000, 40_000), false, true);
        image.check();
        expected = std::mem::take(&mut image.expected);
        drop((image, opened));
        let mut store = OpenStore::open_to_change(&path, MapFiles).unwrap();
        store.snapshot(vec![format!("vm@{round}").parse().unwrap()]).unwrap();
    }
    let (opened, _) = ImageStore::open(&uri, false, true).unwrap();
    let (context, opened) = (context_of(1 << 20), Arc::new(opened));
    let device = ImageDevice::open(&opened, &context).unwrap();
    let mut image = Tested { context, device, expected };
    image.write(range(100, 3000), 9);
    let (handle, old) = (ImageHandle::of(&opened).unwrap(), image.device.chain());
    let (told, outcome) = std::sync::mpsc::channel();
    let task = ShortenTask::new(handle.ingest(), move |outcome| told.send(outcome).unwrap());
    image.device.shorten(task, &image.context);
    assert_eq!(outcome.recv().unwrap(), ShortenOutcome::Shorter);
    assert_eq!(image.device.chain().layers.len(), 1);
    image.check();
    drop(old);
    // The head, what is in packs, and the base.
    let depths = finish(image.device.depths(range(0, SIZE), 1000, &image.context), &image.context).unwrap();
    assert!(depths.iter().all(|extent| (1..=3).contains(&extent.number)), "{depths:?}");
    for part in 0..6 {
        image.write(range(part * 60_000 + 77, 3000), 100 + part as u8);
        image.zero(range(part * 64_000, 1000), false, part % 2 == 0);
        image.check();
    }
    let expected = image.expected.clone();
    drop((image, opened, handle));
    // Opened with its packs; one that is damaged gives errors, and nothing else.
    for is_damaged in [false, true] {
        if is_damaged {
            for pack in std::fs::read_dir(path.join("packs")).unwrap() {
                let pack = File::options().write(true).open(pack.unwrap().path()).unwrap();
                pack.write_all_at(&[0x5a; 2000], 4096).unwrap();
            }
        }
        let (opened, _) = ImageStore::open(&uri, false, true).unwrap();
        let (context, opened) = (context_of(1 << 20), Arc::new(opened));
        let device = ImageDevice::open(&opened, &context).unwrap();
        let image = Tested { context, device, expected: expected.clone() };
        if !is_damaged {
            image.check();
            continue;
        }
        let mut errors = 0;
        for at in (0..SIZE).step_by(4096) {
            let lease = image.context.pool.lend(4096).unwrap();
            let read = image.device.read(range(at, 4096), lease, 0, &image.context);
            match finish(read, &image.context) {
                (lease, Ok(())) => {
                    assert!(*lease.bytes(0..4096) == expected[at as usize..at as usize + 4096], "at {at}");
                }
                (_, Err(failure)) => {
                    assert_eq!(failure.error, BlockError::Io);
                    errors += 1;
                }
            }
        }
        assert!(errors > 0, "a damaged chunk was read");
    }
}
