//! Large stores, with figures: minutes each, so they run when they are asked for.
//!
//! Oracles: the bytes that the test wrote; counts of chunks that the test itself makes of two images.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::Store;
use super::online::{Online, client, online_with};
use crate::guest::Guest;

const CHUNK: usize = 64 << 10;
const BLOCK: usize = 4 << 10;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// A file with a block in each chunk that is another one in each.
fn sparse(path: &Path, chunks: u64) {
    let file = File::create(path).unwrap();
    file.set_len(chunks * CHUNK as u64).unwrap();
    for at in 0..chunks {
        file.write_all_at(&numbered(at), at * CHUNK as u64).unwrap();
    }
}

fn numbered(at: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..32].copy_from_slice(blake3::hash(&at.to_le_bytes()).as_bytes());
    block
}

/// Memory that a process had at most.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// A store of so many chunks in packs takes little memory, and opens at once. `RINGNBD_CHUNKS` for fewer.
#[test]
#[ignore = "minutes, and 10 GiB of disk"]
fn a_million_chunks_take_little_memory() {
    let (store, chunks) = (Store::init(), number("RINGNBD_CHUNKS", 1_000_000));
    let raw = store.directory().join("raw");
    sparse(&raw, chunks);
    store.run("image create STORE/vm --from DIR/raw").ok();
    std::fs::remove_file(&raw).unwrap();
    let begun = Instant::now();
    store.run("image checkpoint STORE/vm@1").ok();
    println!("{chunks} chunks: checkpoint {:.1?}", begun.elapsed());
    for line in ["store info STORE", "image ls STORE"] {
        let begun = Instant::now();
        store.run(line).ok();
        println!("{line}: {:.1?}", begun.elapsed());
    }
    let begun = Instant::now();
    let online = online_with(&store, "");
    let Online { server, .. } = &online;
    let mut reader = client(server, "vm");
    let mut found = [0; BLOCK];
    reader.read_at((chunks - 1) * CHUNK as u64, &mut found).unwrap();
    println!("start of a server to its first answer: {:.1?}", begun.elapsed());
    assert!(found == numbered(chunks - 1));
    let opened = server.resident();
    // All packs come to be open, and all that is kept of chunks.
    for at in (0..chunks).step_by(61) {
        reader.read_at(at * CHUNK as u64, &mut found).unwrap();
        assert!(found == numbered(at), "chunk {at}");
    }
    // What is written comes into packs beside them.
    reader.write_at(0, &[7; 1 << 20]).unwrap();
    store.run("image checkpoint STORE/vm@2").ok();
    let (read, peak) = (server.resident(), peak(server.pid()));
    println!("{} MiB resident when opened, {} after reads, {} at most", opened >> 20, read >> 20, peak >> 20);
    let begun = Instant::now();
    println!("{}, in {:.1?}", store.run("store gc STORE").ok().trim_end(), begun.elapsed());
    println!("{} MiB at most with a collection", self::peak(server.pid()) >> 20);
    assert!(peak <= 128 << 20, "{peak} bytes");
    assert_eq!(server.complaints(), [""; 0]);
}

/// Names of all chunks that are not zero, by their places.
fn chunks_of(raw: &Path) -> Vec<Option<blake3::Hash>> {
    let (file, mut chunk) = (File::open(raw).unwrap(), vec![0; CHUNK]);
    let size = file.metadata().unwrap().len();
    let mut found = Vec::new();
    for at in (0..size).step_by(CHUNK) {
        let length = CHUNK.min((size - at) as usize);
        chunk.fill(0);
        file.read_exact_at(&mut chunk[..length], at).unwrap();
        found.push(chunk.iter().any(|byte| *byte != 0).then(|| blake3::hash(&chunk)));
    }
    found
}

/// An ext4 file system with what is in a directory.
fn root_image(root: &Path, image: &Path) {
    File::create(image).unwrap().set_len(1 << 30).unwrap();
    let mut command = Command::new("mkfs.ext4");
    let made = command.args(["-q", "-F", "-d"]).arg(root).arg(image).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// What the first boot of a system writes: names, keys, caches and logs, each its own.
fn boot(image: &Path, number: usize) {
    let house = tempfile::tempdir().unwrap();
    let mut script = String::new();
    let files = [
        ("etc/hostname", 16),
        ("etc/machine-id", 33),
        ("etc/ssh-host-key", 3_000),
        ("var/log/boot.log", 200_000),
    ];
    let more = [("var/lib/random-seed", 512), ("var/log/journal", 1_500_000), ("var/cache/ldconfig", 90_000)];
    for (at, (name, length)) in files.into_iter().chain(more).enumerate() {
        let path = house.path().join(at.to_string());
        let mut bytes = vec![0; length];
        let seed = format!("{number} {name}");
        blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        script += &format!("rm /{name}\nwrite {} /{name}\n", path.display());
    }
    let script_path = house.path().join("script");
    std::fs::write(&script_path, script).unwrap();
    let done = Command::new("debugfs").arg("-w").arg("-f").arg(&script_path).arg(image).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Bytes that all files below a directory occupy.
fn on_disk(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| match path.is_dir() {
            true => on_disk(&path),
            false => std::fs::metadata(&path).unwrap().blocks() * 512,
        })
        .sum()
}

/// Gives a clone all blocks in which a file differs from the golden image.
fn write_differences(golden: &File, changed: &Path, mut write: impl FnMut(u64, &[u8])) {
    let (changed, mut was, mut is) = (File::open(changed).unwrap(), vec![0; BLOCK], vec![0; BLOCK]);
    for at in (0..changed.metadata().unwrap().len()).step_by(BLOCK) {
        golden.read_exact_at(&mut was, at).unwrap();
        changed.read_exact_at(&mut is, at).unwrap();
        if was != is {
            write(at, &is);
        }
    }
}

/// A store with an image of the root in `RINGNBD_ROOT`, and clones of it, `vm0` and on; the image's file, and how many clones there are.
fn store_of_clones() -> (Store, PathBuf, usize) {
    let root = std::env::var("RINGNBD_ROOT").expect("RINGNBD_ROOT: a directory with a root file system");
    let clones = number("RINGNBD_CLONES", 50) as usize;
    let store = Store::init();
    let golden = store.directory().join("golden.raw");
    root_image(Path::new(&root), &golden);
    store.run("image create STORE/golden --from DIR/golden.raw").ok();
    store.run("image checkpoint STORE/golden@1").ok();
    let names: Vec<String> = (0..clones).map(|number| format!("STORE/vm{number}")).collect();
    store.run(&format!("image clone STORE/golden@1 {}", names.join(" "))).ok();
    (store, golden, clones)
}

fn differing_chunks(before: &[Option<blake3::Hash>], after: &[Option<blake3::Hash>]) -> usize {
    before.iter().zip(after).filter(|(was, is)| was != is && is.is_some()).count()
}

/// What a collected store takes on disk, beside the chunks of its golden image and those in which clones differ from it.
fn takes_little_more(store: &Store, clones: usize, (golden, differing): (&[Option<blake3::Hash>], usize)) {
    let image_chunks = golden.iter().flatten().collect::<HashSet<_>>().len();
    let ideal = ((image_chunks + differing) * CHUNK) as u64;
    // The index can be made anew, and the reserve is room for removals.
    let (taken, packs) = (on_disk(&store.path()), on_disk(&store.path().join("packs")));
    let ratio = taken as f64 / ideal as f64;
    println!(
        "{clones} clones: {image_chunks} chunks of the image and {differing} that differ are {} MiB; on disk {} MiB, of \
         which {} MiB of packs: {ratio:.3}",
        ideal >> 20,
        taken >> 20,
        packs >> 20
    );
    assert!(ratio <= 1.15, "{ratio}");
}

/// Clones of a root image that were each written by a boot take what differs, and little else.
///
/// `RINGNBD_ROOT` is a directory with a root file system, as `debootstrap --variant=minbase` makes it;
/// `RINGNBD_CLONES` for another number.
#[test]
#[ignore = "minutes, and needs a root file system"]
fn clones_of_a_root_image_take_what_differs() {
    let (store, golden, clones) = store_of_clones();
    let before = chunks_of(&golden);
    let (changed, golden_file) = (store.directory().join("changed.raw"), File::open(&golden).unwrap());
    let online = online_with(&store, "");
    let mut differing = 0;
    for number in 0..clones {
        store_copy(&golden, &changed);
        boot(&changed, number);
        let after = chunks_of(&changed);
        differing += differing_chunks(&before, &after);
        let mut writer = client(&online.server, &format!("vm{number}"));
        write_differences(&golden_file, &changed, |at, bytes| writer.write_at(at, bytes).unwrap());
        writer.flush().unwrap();
        drop(writer);
        store.run(&format!("image checkpoint STORE/vm{number}@booted")).ok();
    }
    store.run(&format!("image export STORE/vm{}@booted DIR/out.raw", clones - 1)).ok();
    assert!(chunks_of(&store.directory().join("out.raw")) == chunks_of(&changed), "the last clone");
    assert_eq!(online.server.complaints(), [""; 0]);
    drop(online);
    store.run("store gc STORE").ok();
    takes_little_more(&store, clones, (&before, differing));
}

fn store_copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("--sparse=always").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// First boot of a Debian root: it gets names and keys of its own, its caches are made anew, and logs are written.
const FIRST_BOOT: &str = "
mount -t ext4 -o errors=panic /dev/vda /mnt || poweroff -f
mount -t proc proc /mnt/proc
cat > /mnt/first-boot <<'END'
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
cat /proc/sys/kernel/random/uuid | tr -d - > /etc/machine-id
echo vm-$(head -c 8 /etc/machine-id) > /etc/hostname
mkdir -p /etc/ssh /var/lib/systemd /var/log/journal
head -c 3000 /dev/urandom > /etc/ssh/ssh_host_key
head -c 512 /dev/urandom > /var/lib/systemd/random-seed
ldconfig
perl -e 'print scalar localtime' > /var/log/boot.log
for i in 1 2 3 4 5 6; do dmesg >> /var/log/boot.log; cat /proc/self/maps >> /var/log/journal/system; done
head -c 1500000 /dev/urandom >> /var/log/journal/system
dpkg-query -W > /var/log/packages
passwd -d root > /dev/null
echo guest: booted once
END
chroot /mnt /bin/sh /first-boot || echo guest: FAILED
rm /mnt/first-boot
sync
umount /mnt/proc
umount /mnt || echo guest: FAILED to unmount
poweroff -f
";

/// Boots a guest from an export, from its kernel to the end.
fn boot_guest(socket: &Path, export: &str) -> Option<()> {
    let socket = socket.display();
    let guest = Guest::new(FIRST_BOOT)
        .modules(&["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"])
        .disk(&format!("driver=nbd,server.type=unix,server.path={socket},export={export},cache.direct=on"));
    let console = guest.run()?.ok();
    assert!(console.contains("guest: booted once") && !console.contains("FAILED"), "{console}");
    Some(())
}

/// As `clones_of_a_root_image_take_what_differs`, and each clone is booted by a guest with a real kernel.
#[test]
#[ignore = "a guest for each of 50 clones, and needs a root file system"]
fn clones_that_guests_have_booted_take_what_differs() {
    let (store, golden, clones) = store_of_clones();
    let (before, out) = (chunks_of(&golden), store.directory().join("out.raw"));
    let online = online_with(&store, "");
    let socket = online.server.socket().to_owned();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let take = || Some(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)).filter(|next| *next < clones);
    // As many guests at once as there are processors here.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(number) = take() {
                    boot_guest(&socket, &format!("vm{number}")).expect("there are guests here");
                    store.run(&format!("image checkpoint STORE/vm{number}@booted")).ok();
                }
            });
        }
    });
    assert_eq!(online.server.complaints(), [""; 0]);
    drop(online);
    store.run("store gc STORE").ok();
    let mut differing = 0;
    for number in 0..clones {
        store.run(&format!("image export STORE/vm{number}@booted DIR/out.raw --force")).ok();
        let after = chunks_of(&out);
        differing += differing_chunks(&before, &after);
        check_file_system(&out);
    }
    takes_little_more(&store, clones, (&before, differing));
}

/// A disk that a guest has unmounted has a file system without an error.
fn check_file_system(disk: &Path) {
    let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(disk).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}
