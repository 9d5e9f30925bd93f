//! Contents in packs that a shard reads by itself.

use std::path::PathBuf;

use rustix::fs::FallocateFlags;

use super::*;
use crate::backend::trust::Trust;
use crate::ring::Operation;

const SIZE: u64 = 1 << 20;
const CHUNK: u64 = 64 << 10;

/// A store whose image `vm` is in packs, all of it different bytes, and those.
fn packed_store(directory: &Path) -> (PathBuf, Vec<u8>) {
    let path = directory.join("store");
    let bytes: Vec<u8> =
        (0..SIZE).flat_map(|at| blake3::hash(&at.to_le_bytes()).as_bytes()[..1].to_vec()).collect();
    let mut store = OpenStore::init(&path, MapFiles).unwrap();
    let vm: crate::store::catalog::StoreName = "vm".parse().unwrap();
    store.create_empty(&vm, SIZE).unwrap();
    drop(store);
    let (opened, _) = ImageStore::open(&stored(&path.join("vm")), false, true).unwrap();
    let (context, opened) = (context_of(2 << 20), Arc::new(opened));
    let device = ImageDevice::open(&opened, &context).unwrap();
    for (at, part) in (0..).step_by(CHUNK as usize).zip(bytes.chunks(CHUNK as usize)) {
        let mut lease = context.pool.lend(part.len()).unwrap();
        lease.bytes_mut(0..part.len()).copy_from_slice(part);
        let write = device.write(range(at, part.len() as u64), lease.freeze(), false, &context);
        finish(write, &context).unwrap();
    }
    finish(device.flush(&context), &context).unwrap();
    drop((device, opened, context));
    let mut store = OpenStore::open_to_change(&path, MapFiles).unwrap();
    store.snapshot(vec!["vm@1".parse().unwrap()]).unwrap();
    assert!(store.ingest(&"vm".parse().unwrap(), &mut |_| Ok(())).unwrap() > 0);
    (path, bytes)
}

fn open(path: &Path, verify: VerifyChunks, expected: Vec<u8>) -> (Tested, Arc<ImageStore>) {
    let uri = ImageUri { verify, ..stored(&path.join("vm")) };
    let (opened, _) = ImageStore::open(&uri, false, true).unwrap();
    let (context, opened) = (context_of(2 << 20), Arc::new(opened));
    let device = ImageDevice::open(&opened, &context).unwrap();
    (Tested { context, device, expected }, opened)
}

impl Tested {
    /// What is sent of a range straight from the page cache, if it is.
    fn sent(&self, part: ByteRange) -> Option<Vec<u8>> {
        let mapped = self.device.read_at_once(part, false, &mut Trust::default(), 1 << 40)??;
        assert_eq!(self.device.standing(&mapped, None, 1 << 40), Standing::There);
        let lease = self.context.pool.lend(part.length() as usize).unwrap();
        let operation = self.device.copying(&mapped, lease).unwrap();
        let (result, operation) = finish(self.context.ring.run(operation), &self.context);
        assert_eq!(result.unwrap(), part.length() as u32);
        let Operation::Read { lease, .. } = operation else { unreachable!("it was one") };
        Some(lease.bytes(0..part.length() as usize).to_vec())
    }

    fn expected(&self, part: ByteRange) -> &[u8] {
        &self.expected[part.offset() as usize..part.end() as usize]
    }
}

#[test]
fn what_is_in_packs_and_in_memory_is_sent_from_the_page_cache() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let (path, bytes) = packed_store(directory.path());
    let (mut image, _store) = open(&path, VerifyChunks::First, bytes);
    let files = image.context.ring.registered_files();
    for part in [range(0, 4096), range(70_001, 3000), range(3 * CHUNK - 512, 1024)] {
        assert_eq!(image.sent(part), None, "nobody has verified it");
        assert!(image.read(part) == image.expected(part));
        assert_eq!(image.sent(part).as_deref(), Some(image.expected(part)));
    }
    assert!(image.context.ring.registered_files() > files);
    image.check();
    // Several chunks that follow each other in a pack, and a part of the last.
    for part in [range(0, SIZE), range(CHUNK + 4096, 5 * CHUNK + 17)] {
        assert_eq!(image.sent(part).as_deref(), Some(image.expected(part)));
    }
    // What the head has is not read from below it.
    image.write(range(2 * CHUNK + 4096, 4096), 9);
    assert_eq!(image.sent(range(2 * CHUNK + 4096, 4096)), Some(vec![9; 4096]));
    assert_eq!(image.sent(range(2 * CHUNK, 3 * 4096)), None, "it is in two files");
    let below = range(2 * CHUNK + 8192, CHUNK);
    assert_eq!(image.sent(below).as_deref(), Some(image.expected(below)));
    image.check();
    image.zero(range(4 * CHUNK, 8192), false, true);
    let zeroed = image.device.read_at_once(range(4 * CHUNK, 8192), false, &mut Trust::default(), 1 << 40);
    assert!(matches!(zeroed, Some(None)));
    image.check();
}

/// The room of a pack comes back only when nobody has it open any more.
#[test]
fn packs_that_are_gone_are_closed_and_read_in_the_usual_way() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let (path, bytes) = packed_store(directory.path());
    let (image, _store) = open(&path, VerifyChunks::First, bytes);
    let files = image.context.ring.registered_files();
    image.check();
    assert_eq!(image.context.ring.registered_files(), files + 1);
    let mapped = image.device.read_at_once(range(0, 4096), false, &mut Trust::default(), 1 << 40).unwrap();
    let packs = std::fs::read_dir(path.join("packs")).unwrap().map(|pack| {
        let name = pack.unwrap().file_name().into_string().unwrap();
        name.trim_end_matches(".pack").parse().unwrap()
    });
    image.device.chain().forget_packs(&packs.collect::<Vec<u64>>());
    image.context.ring.submit_and_reap(Wait::No, 8, &mut Vec::new());
    assert_eq!(image.context.ring.registered_files(), files);
    assert_eq!(image.device.standing(&mapped.unwrap(), None, 1 << 40), Standing::Gone);
    assert_eq!(image.sent(range(0, 4096)), None);
    image.check();
    assert!(image.sent(range(0, 4096)).is_some(), "it is open again");
}

/// A4 with `verify=always`: bytes that change in the page cache are never data.
#[test]
fn with_verify_always_each_read_is_verified() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let (path, bytes) = packed_store(directory.path());
    let (image, _store) = open(&path, VerifyChunks::Always, bytes);
    image.check();
    let part = range(5 * CHUNK + 4096, 8192);
    assert!(image.sent(part).is_none(), "what is sent from the page cache is not looked at");
    let spot = {
        let chain = image.device.chain();
        let (found, contents, spot) = chain.in_packs(part).expect("its place is known");
        assert_eq!(found, part);
        let lease = image.context.pool.lend(part.length() as usize).unwrap();
        let (lease, is_read) =
            finish(contents.read_placed((found, spot), lease, 0, &image.context), &image.context);
        assert!(is_read && lease.bytes(0..part.length() as usize) == image.expected(part));
        spot
    };
    let pack = std::fs::read_dir(path.join("packs")).unwrap().next().unwrap().unwrap().path();
    let file = File::options().write(true).open(pack).unwrap();
    let at = image.expected[part.offset() as usize + 5000];
    file.write_all_at(&[at ^ 4], spot.offset + 5000).unwrap();
    let chain = image.device.chain();
    let (found, contents, spot) = chain.in_packs(part).unwrap();
    let lease = image.context.pool.lend(part.length() as usize).unwrap();
    let read = contents.read_placed((found, spot), lease, 0, &image.context);
    let (_, is_read) = finish(read, &image.context);
    assert!(!is_read, "a flipped bit was taken for data");
    let lease = image.context.pool.lend(part.length() as usize).unwrap();
    let (lease, result) = finish(image.device.read(part, lease, 0, &image.context), &image.context);
    assert!(result.is_err() || lease.bytes(0..part.length() as usize) == image.expected(part));
}

/// A pack that goes while a helper thread reads from it is not opened by whoever is told where that was.
#[test]
fn what_was_found_before_packs_were_closed_opens_none_of_them() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let (path, bytes) = packed_store(directory.path());
    let (image, _store) = open(&path, VerifyChunks::First, bytes);
    let files = image.context.ring.registered_files();
    let (first, second) = (range(0, 4096), range(CHUNK, 4096));
    // With this the nodes are here.
    assert!(image.read(first) == image.expected(first));
    let chain = image.device.chain();
    let go = || {
        let packs: Vec<u64> = (0..100).collect();
        chain.contents.as_ref().unwrap().of.shelf.forget(&packs);
        chain.forget_packs(&packs);
    };
    go();
    let lease = image.context.pool.lend(4096).unwrap();
    let mut read = Box::pin(image.device.read(second, lease, 0, &image.context));
    assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    go();
    let (lease, result) = finish(read, &image.context);
    assert!(result.is_ok() && lease.bytes(0..4096) == image.expected(second));
    image.context.ring.submit_and_reap(Wait::No, 8, &mut Vec::new());
    assert_eq!(image.context.ring.registered_files(), files);
    assert!(image.read(second) == image.expected(second) && image.sent(second).is_some());
}

/// Of what another store has written nothing is sent unseen: its bytes are given back when there is no room,
/// and read as zeroes then.
#[test]
fn what_another_store_has_written_is_verified_by_each_read_of_a_shard() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let (from, bytes) = packed_store(directory.path());
    let (tier, path) = (directory.path().join("tier"), directory.path().join("other"));
    crate::store::foreign::tests::clone_by_directory(&from, "vm@1", &tier, &path);
    let (image, _store) = open(&path, VerifyChunks::First, bytes);
    let files = image.context.ring.registered_files();
    image.check();
    assert_eq!(image.context.ring.registered_files(), files + 1, "the cache of the pack");
    let by_shard = |part: ByteRange| {
        assert!(image.sent(part).is_none());
        let chain = image.device.chain();
        let (found, contents, spot) = chain.in_packs(part).expect("its place is known");
        assert_eq!(found, part);
        assert!(
            contents.single_read(part, spot).is_some() && contents.single_read(range(1, 9), spot).is_none()
        );
        let lease = image.context.pool.lend(part.length() as usize).unwrap();
        let read = contents.read_placed((found, spot), lease, 0, &image.context);
        let (lease, is_read) = finish(read, &image.context);
        let is_as_expected = lease.bytes(0..part.length() as usize) == image.expected(part);
        (is_read, is_as_expected, spot.offset)
    };
    let packs = std::fs::read_dir(path.join("packs")).unwrap().map(|file| file.unwrap().path());
    let cache = packs.into_iter().find(|file| file.extension().is_some_and(|it| it == "part")).unwrap();
    let cache = File::options().write(true).open(cache).unwrap();
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // What is given back, and what is damaged.
    let spoils: [&dyn Fn(u64); 2] =
        [&|at| rustix::fs::fallocate(&cache, hole, at / 4096 * 4096, 4096).unwrap(), &|at| {
            cache.write_all_at(&[0x55], at).unwrap()
        }];
    for (spoil, chunk) in spoils.into_iter().zip([3, 9]) {
        let part = range(chunk * CHUNK + 8192, 2 * CHUNK);
        let (is_read, is_as_expected, at) = by_shard(part);
        assert!(is_read && is_as_expected);
        assert_ne!(image.expected(part)[5000], 0x55);
        spoil(at + 5000);
        let (is_read, is_as_expected, _) = by_shard(part);
        assert!(!is_read && !is_as_expected, "it was taken for data");
        for part in [part, range(part.offset() + 4097, 3000)] {
            assert!(image.read(part) == image.expected(part), "a helper thread finds it elsewhere");
        }
    }
}
