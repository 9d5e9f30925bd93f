//! How long a guest takes to boot from a clone of a snapshot in a bucket that is 20 ms away.
//!
//! Oracles: the requests as qemu traces them, the picture of the disk, and the footers of the packs, read by the test: they say which bytes
//! of packs the boot needed. Times are of the whole machine, so nothing else should run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use super::Store;
use super::bucket::{Bucket, CREDENTIALS, FaultProxy, run};
use super::online::online_in;
use crate::guest::{self, Guest};
use crate::peers;
use crate::support::image::{Image, disk_dir};

const LATE_MS: u64 = 20;
const DISK: u64 = 512 << 20;
/// Programs and libraries on the disk, and the largest of them.
const FILES_BYTES: u64 = 160 << 20;
const LARGEST: u64 = 8 << 20;
const CHUNK: usize = 64 << 10;

const SWITCH_ROOT: &str = "
mount -t ext4 -o ro /dev/vda /mnt || poweroff -f
exec switch_root /mnt /sbin/init
";

/// First process of the guest: what a boot does to a disk. It reads some of the programs and libraries, in no order, some of them as a whole.
const BOOT: &str = "#!/bin/busybox sh
mount() { /bin/busybox mount \"$@\"; }
mount -t proc proc /proc
mount -t devtmpfs dev /dev
read begun rest < /proc/uptime
while read length file; do
  if [ $length = all ]; then
    /bin/busybox cat $file > /dev/null || echo guest: FAILED
  else
    /bin/busybox head -c $length $file > /dev/null || echo guest: FAILED
  fi
done < /boot-list
read ended rest < /proc/uptime
echo guest: read from $begun to $ended
/bin/busybox poweroff -f
";

/// Files that a boot could read, largest ones left out.
fn programs(root: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for folder in ["usr/bin", "usr/sbin", "usr/lib/x86_64-linux-gnu"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            if about.is_file() && (4096..LARGEST).contains(&about.len()) {
                found.push((path, about.len()));
            }
        }
    }
    found.sort();
    let mut left = FILES_BYTES;
    found.retain(|(_, bytes)| {
        let fits = *bytes <= left;
        left -= if fits { *bytes } else { 0 };
        fits
    });
    found
}

/// A root file system whose first process reads a third of it.
fn disk() -> Option<Image> {
    let root = peers::debian_root()?;
    let tree = disk_dir();
    let at = |path: &str| tree.path().join(path);
    for directory in ["bin", "sbin", "dev", "proc", "programs"] {
        fs::create_dir(at(directory)).unwrap();
    }
    fs::copy(guest::busybox(&root), at("bin/busybox")).unwrap();
    fs::write(at("sbin/init"), BOOT).unwrap();
    fs::set_permissions(at("sbin/init"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut list = Vec::new();
    for (index, (path, _)) in programs(&root).into_iter().enumerate() {
        let name = format!("programs/{index}");
        fs::copy(path, at(&name)).unwrap();
        match index % 4 {
            0 => list.push((index * 7919 % 4099, format!("all /{name}\n"))),
            1 => list.push((index * 7919 % 4099, format!("65536 /{name}\n"))),
            _ => {}
        }
    }
    list.sort();
    fs::write(at("boot-list"), list.into_iter().map(|(_, line)| line).collect::<String>()).unwrap();
    let image = Image::sparse(DISK);
    let (tree, path) = (tree.path().display().to_string(), image.path.display().to_string());
    peers::system("mke2fs", &["-q", "-t", "ext4", "-d", &tree, &path]);
    Some(image)
}

struct Boot {
    /// From the start of qemu to its end.
    all: Duration,
    /// In which the guest read its disk.
    reading: f64,
    /// The chunks of the disk that were read.
    chunks: BTreeSet<u64>,
}

/// Boots from an image of a store.
fn boot(store: &Store, image: &str) -> Option<Boot> {
    let online = online_in(store, "", &CREDENTIALS);
    let trace = store.directory().join("requests");
    let socket = online.server.socket().display().to_string();
    let guest = Guest::new(SWITCH_ROOT)
        .modules(&["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"])
        .trace_requests(&trace)
        .disk(&format!("driver=nbd,server.type=unix,server.path={socket},export={image},cache.direct=on"));
    let begun = Instant::now();
    let console = guest.run()?.ok().replace('\r', "");
    let all = begun.elapsed();
    assert!(!console.contains("FAILED") && !console.contains("I/O error"), "{console}");
    let line = console.lines().find_map(|line| line.strip_prefix("guest: read from ")).expect("it booted");
    let (from, to) = line.split_once(" to ").unwrap();
    let reading = to.trim().parse::<f64>().unwrap() - from.parse::<f64>().unwrap();
    Some(Boot { all, reading, chunks: chunks_read(&fs::read_to_string(&trace).unwrap()) })
}

/// Of lines such as `nbd_send_request Sending request to server: { .from = 0, .len = 4096, .cookie = 1, .flags = 0x0, .type = 0 (read) }`.
fn chunks_read(trace: &str) -> BTreeSet<u64> {
    let number = |line: &str, name: &str| {
        let (_, rest) = line.split_once(name)?;
        rest.split([',', ' ']).next()?.parse::<u64>().ok()
    };
    let mut chunks = BTreeSet::new();
    for line in trace.lines().filter(|line| line.contains("nbd_send_request") && line.contains("(read)")) {
        let (from, length) = number(line, ".from = ").zip(number(line, ".len = ")).expect("a request");
        chunks.extend(from / CHUNK as u64..(from + length).div_ceil(CHUNK as u64));
    }
    assert!(!chunks.is_empty(), "{trace}");
    chunks
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The bytes of packs without which these chunks of a disk cannot be read: their payloads, each once, all nodes, and the footers.
fn needed_bytes(store: &Store, image: &Image, chunks: &BTreeSet<u64>) -> u64 {
    let (mut payloads, mut bytes) = (BTreeMap::new(), 0);
    for entry in fs::read_dir(store.path().join("packs")).unwrap() {
        let pack = fs::read(entry.unwrap().path()).unwrap();
        let footer_at = number(&pack, pack.len() - 32) as usize;
        bytes += (pack.len() - footer_at) as u64;
        let footer = &pack[footer_at..];
        let count = u32::from_le_bytes(footer[56..60].try_into().unwrap()) as usize;
        for entry in footer[64..].chunks(96).take(count) {
            let length = u64::from(u32::from_le_bytes(entry[40..44].try_into().unwrap()));
            match entry[60] {
                1 => bytes += length,
                _ => drop(payloads.insert(<[u8; 32]>::try_from(&entry[..32]).unwrap(), length)),
            }
        }
    }
    let mut seen = BTreeSet::new();
    for chunk in chunks {
        let contents = image.read(chunk * CHUNK as u64, CHUNK);
        let hash = *blake3::hash(&contents).as_bytes();
        if contents.iter().any(|byte| *byte != 0) && seen.insert(hash) {
            bytes += payloads.get(&hash).expect("it is in a pack");
        }
    }
    bytes
}

/// What the bucket was asked for during a boot.
struct Asked {
    gets: u64,
    bytes: u64,
}

fn asked(proxy: &FaultProxy, work: impl FnOnce() -> Option<Boot>) -> Option<(Boot, Asked)> {
    let counts = || (proxy.counts().pack_gets.load(SeqCst), proxy.counts().pack_bytes.load(SeqCst));
    let before = counts();
    let boot = work()?;
    let after = counts();
    Some((boot, Asked { gets: after.0 - before.0, bytes: after.1 - before.1 }))
}

/// With `RINGNBD_BOOT_FIGURES=1` the times are asserted too.
#[test]
#[ignore = "boots a guest five times; figures need a machine with nothing else to do"]
fn a_guest_boots_from_a_bucket_that_is_far_away() {
    let Some(bucket) = Bucket::start() else { return };
    let Some(image) = disk() else { return };
    let (origin, first, second) = (Store::init(), Store::init(), Store::init());
    let proxy = FaultProxy::start(&bucket, 1);
    origin.run(&format!("image create STORE/golden --from {}", image.path.display())).ok();
    run(&origin, &format!("store tier STORE {}", proxy.uri(""))).ok();
    origin.run("image checkpoint STORE/golden@v1").ok();
    run(&origin, "image push STORE/golden@v1").ok();
    origin.run("image clone STORE/golden@v1 STORE/vm").ok();
    proxy.be_far(LATE_MS);
    let from = proxy.uri("/golden@v1");
    let clone =
        |store: &Store, name: &str| drop(run(store, &format!("image clone {from} STORE/{name}")).ok());

    let Some(_warms_the_page_cache) = boot(&origin, "vm") else { return };
    let local = boot(&origin, "vm").unwrap();
    clone(&first, "vm");
    let (cold, cold_asked) = asked(&proxy, || boot(&first, "vm")).unwrap();
    clone(&first, "other");
    let (warm, warm_asked) = asked(&proxy, || boot(&first, "other")).unwrap();
    run(&first, "image trace STORE/vm@v1").ok();
    clone(&second, "vm");
    let (traced, traced_asked) = asked(&proxy, || boot(&second, "vm")).unwrap();

    let needed = needed_bytes(&origin, &image, &cold.chunks);
    let ratio = |boot: &Boot| boot.all.as_secs_f64() / local.all.as_secs_f64();
    println!("{needed} bytes of packs are needed for {} chunks", cold.chunks.len());
    let none = Asked { gets: 0, bytes: 0 };
    for (name, boot, asked) in [
        ("local", &local, &none),
        ("without a trace", &cold, &cold_asked),
        ("with a trace", &traced, &traced_asked),
        ("warm", &warm, &warm_asked),
    ] {
        println!(
            "{name}: {:.1?}, {:.2} of local; reading {:.1} s, {:.2} of local; {} GETs, {} bytes, {:.2} of what is needed",
            boot.all,
            ratio(boot),
            boot.reading,
            boot.reading / local.reading,
            asked.gets,
            asked.bytes,
            asked.bytes as f64 / needed as f64,
        );
    }
    // The end of a run may be fetched ahead that reaches what nobody has read.
    assert!(warm_asked.bytes * 20 <= needed, "{} bytes came, and all was here", warm_asked.bytes);
    for asked in [&cold_asked, &traced_asked] {
        assert!(asked.bytes * 10 <= needed * 13, "{} bytes came, and {needed} were needed", asked.bytes);
    }
    if std::env::var_os("RINGNBD_BOOT_FIGURES").is_some() {
        assert!(ratio(&cold) <= 10.0 && ratio(&traced) <= 3.0 && ratio(&warm) <= 1.05);
    }
}
