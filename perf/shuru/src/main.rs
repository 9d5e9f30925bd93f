//! Images of a store beside shuru-store 0.2, over the same client:
//!
//! * how long a checkpoint takes of a disk on which so much was written since the last one, with no FLUSH;
//! * how long a FLUSH takes after one write of 4 KiB, and after 32, at random places;
//! * how long the file system needs to make one write of 4 KiB durable, and 32, in a file that is there: no
//!   FLUSH that is durable takes less;
//! * whether what a FLUSH was answered for is there after the server was killed;
//! * how much memory a server takes for each chunk of a disk that is in chunks already.
//!
//! ```text
//! cargo build --release
//! cargo run --release -- [--binary PATH] [--directory PATH] [--rounds N] [--dirty MIB] [--flushes N] [--chunks N]
//! ```
//!
//! Each is measured once a round, the first of one round being the second of the next, on a disk that has
//! nothing to do when it begins; what is compared are medians.
//!
//! Both keep chunks of 64 KiB under BLAKE3, and a checkpoint of either is durable. What is written does not
//! compress, and no chunk of it is there twice. The memory of a disk of `--chunks` chunks is private memory of
//! the server after every 64th chunk was read. It is told in two ways: less that of a server of an empty disk
//! that was read alike, divided by the chunks; and what each chunk adds between a tenth of them and all, which
//! leaves out what is the same for any disk, such as caches with a limit.

mod client;
mod servers;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use servers::{CHUNK, Ours, Server, Shuru, serve_shuru};
use shuru_store::{ChunkIndex, ChunkStore, LocalChunkStore};

const REQUEST: usize = 1 << 20;
const BLOCK: usize = 4 << 10;
/// A chunk of so many is read before memory is measured.
const READ_ONE_OF: u64 = 64;

struct Options {
    binary: PathBuf,
    directory: PathBuf,
    rounds: usize,
    dirty: u64,
    flushes: usize,
    chunks: u64,
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        binary: "../../target/release/ringnbd".into(),
        directory: "../../target".into(),
        rounds: 3,
        dirty: 2048,
        flushes: 200,
        chunks: 1_000_000,
    };
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} wants a value"))?;
        match flag.as_str() {
            "--binary" => options.binary = value.into(),
            "--directory" => options.directory = value.into(),
            "--rounds" => options.rounds = value.parse()?,
            "--dirty" => options.dirty = value.parse()?,
            "--flushes" => options.flushes = value.parse()?,
            "--chunks" => options.chunks = value.parse()?,
            other => bail!("unknown flag {other}"),
        }
    }
    Ok(options)
}

/// xorshift64*: nothing of it compresses, and nothing comes twice.
struct Random(u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.chunks_mut(8).for_each(|word| word.copy_from_slice(&self.number().to_le_bytes()[..word.len()]));
    }
}

struct Figures {
    written: Duration,
    checkpoint: Duration,
    flush_1: Duration,
    flush_32: Duration,
}

impl Figures {
    fn medians(all: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> Duration| median(all.iter().map(figure).collect());
        Self {
            written: of(|one| one.written),
            checkpoint: of(|one| one.checkpoint),
            flush_1: of(|one| one.flush_1),
            flush_32: of(|one| one.flush_32),
        }
    }
}

/// Waits until the disk has done what it was given, such as the room of removed files.
fn settle(directory: &Path) -> Result<()> {
    let synced = Command::new("sync").arg("-f").arg(directory).status()?;
    anyhow::ensure!(synced.success(), "sync -f {}", directory.display());
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Half of the FLUSHes that come after so many writes take no longer.
fn flushes(server: &dyn Server, size: u64, writes: usize, rounds: usize) -> Result<Duration> {
    let (mut client, mut random, mut block) = (server.connect()?, Random(7 + writes as u64), [0; BLOCK]);
    let mut times = Vec::new();
    for _ in 0..rounds {
        for _ in 0..writes {
            random.fill(&mut block);
            client.write(random.number() % (size / BLOCK as u64) * BLOCK as u64, &block)?;
        }
        let begun = Instant::now();
        client.flush()?;
        times.push(begun.elapsed());
    }
    Ok(median(times))
}

fn measure(server: &mut dyn Server, options: &Options) -> Result<Figures> {
    let size = options.dirty << 20;
    let (mut client, mut random, mut bytes) = (server.connect()?, Random(1), vec![0; REQUEST]);
    let begun = Instant::now();
    for offset in (0..size).step_by(REQUEST) {
        random.fill(&mut bytes);
        client.write(offset, &bytes)?;
    }
    let written = begun.elapsed();
    let begun = Instant::now();
    server.checkpoint(1)?;
    let checkpoint = begun.elapsed();
    drop(client);
    let flush_1 = flushes(server, size, 1, options.flushes)?;
    let flush_32 = flushes(server, size, 32, options.flushes.div_ceil(4))?;
    println!(
        "{}: {} MiB written in {written:.1?}; checkpoint {checkpoint:.2?}; FLUSH after 1 write {flush_1:.2?}, after 32 \
         {flush_32:.2?}",
        server.name(),
        options.dirty
    );
    Ok(Figures { written, checkpoint, flush_1, flush_32 })
}

/// What the file system takes for `fdatasync` after so many writes in a file that is there, at random places.
fn floor(directory: &Path, size: u64, writes: usize, rounds: usize) -> Result<Duration> {
    let path = directory.join("floor");
    let file = File::create(&path)?;
    let (mut random, mut bytes, mut block) = (Random(11), vec![0; REQUEST], [0; BLOCK]);
    for offset in (0..size).step_by(REQUEST) {
        random.fill(&mut bytes);
        file.write_all_at(&bytes, offset)?;
    }
    file.sync_all()?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        for _ in 0..writes {
            random.fill(&mut block);
            file.write_all_at(&block, random.number() % (size / BLOCK as u64) * BLOCK as u64)?;
        }
        let begun = Instant::now();
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    std::fs::remove_file(&path)?;
    Ok(median(times))
}

/// Bytes of the floor's file.
const FLOOR: u64 = 256 << 20;

/// Whether what a FLUSH was answered for is read after the server was killed and started again.
fn survives<S: Server>(start: impl Fn(bool) -> Result<S>) -> Result<bool> {
    let (mut block, mut found) = ([0; BLOCK], [0; BLOCK]);
    Random(3).fill(&mut block);
    let server = start(true)?;
    let mut client = server.connect()?;
    client.write(0, &block)?;
    client.flush()?;
    // It is killed.
    drop(server);
    start(false)?.connect()?.read(0, &mut found)?;
    Ok(found == block)
}

fn tell_survival(options: &Options, house: &Path) -> Result<()> {
    const SIZE: u64 = 64 << 20;
    let shuru = made(house, "shuru-killed")?;
    let ours = made(house, "ours-killed")?;
    let shuru = survives(|_| Shuru::start(&shuru, SIZE, None))?;
    let ours = survives(|is_first| match is_first {
        true => Ours::start(&options.binary, &ours, SIZE, None),
        false => Ours::serve(&options.binary, &ours),
    })?;
    let told = |is_there| if is_there { "is there" } else { "is gone" };
    println!(
        "after a FLUSH and a kill, what was written {} (shuru-store), {} (ringnbd)",
        told(shuru),
        told(ours)
    );
    Ok(())
}

/// Reads some of each part of a disk, and says how much memory the server has then.
fn read_some(server: &dyn Server, size: u64) -> Result<u64> {
    let (mut client, mut block) = (server.connect()?, [0; BLOCK]);
    for chunk in (0..size / CHUNK).step_by(READ_ONE_OF as usize) {
        client.read(chunk * CHUNK, &mut block)?;
    }
    server.resident()
}

fn made(parent: &Path, name: &str) -> Result<PathBuf> {
    let path = parent.join(name);
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

/// Chunks of a disk, each another one: a number, and zeroes.
fn numbered(at: u64) -> Vec<u8> {
    let mut chunk = vec![0; CHUNK as usize];
    Random(at + 1).fill(&mut chunk[..64]);
    chunk
}

/// Private memory of a server whose disk has so many chunks, and of one of an empty disk of that size.
#[derive(Clone, Copy)]
struct Memory {
    chunks: u64,
    empty: u64,
    full: u64,
}

impl Memory {
    fn a_chunk(&self) -> f64 {
        self.full.saturating_sub(self.empty) as f64 / self.chunks as f64
    }

    fn told(&self, name: &str) {
        let Self { chunks, empty, full } = self;
        println!(
            "{name}, {chunks} chunks: {:.1} MiB, of an empty disk {:.1} MiB",
            *full as f64 / f64::from(1 << 20),
            *empty as f64 / f64::from(1 << 20)
        );
    }
}

/// Bytes that each chunk adds from the smaller disk to the larger one.
fn slope(small: Memory, large: Memory) -> f64 {
    (large.full as f64 - small.full as f64) / (large.chunks - small.chunks) as f64
}

fn memory_of_shuru(house: &Path, chunks: u64) -> Result<Memory> {
    let size = chunks * CHUNK;
    let empty = made(house, &format!("shuru-empty-{chunks}"))?;
    let empty = read_some(&Shuru::start(&empty, size, None)?, size)?;
    let full = made(house, &format!("shuru-full-{chunks}"))?;
    let store = LocalChunkStore::open(&full.to_string_lossy())?;
    let mut index = ChunkIndex::new(size);
    for at in 0..chunks {
        // Those that are read have to be there.
        let hash = match at % READ_ONE_OF {
            0 => store.put(&numbered(at))?,
            _ => format!("{at:064x}"),
        };
        index.set_hash(at as usize, hash);
    }
    let full = read_some(&Shuru::start(&full, size, Some(&index))?, size)?;
    Ok(Memory { chunks, empty, full })
}

fn memory_of_ours(binary: &Path, house: &Path, chunks: u64) -> Result<Memory> {
    let size = chunks * CHUNK;
    let empty = made(house, &format!("ours-empty-{chunks}"))?;
    let empty = read_some(&Ours::start(binary, &empty, size, None)?, size)?;
    let directory = made(house, &format!("ours-full-{chunks}"))?;
    let raw = directory.join("raw");
    let file = File::create(&raw)?;
    file.set_len(size)?;
    for at in 0..chunks {
        file.write_all_at(&numbered(at)[..BLOCK], at * CHUNK)?;
    }
    let server = Ours::start(binary, &directory, size, Some(&raw))?;
    std::fs::remove_file(&raw)?;
    let full = read_some(&server, size)?;
    Ok(Memory { chunks, empty, full })
}

fn compare_memory(options: &Options, house: &Path) -> Result<()> {
    let (few, all) = (options.chunks.div_ceil(10), options.chunks);
    let of_shuru = [few, all].map(|chunks| memory_of_shuru(house, chunks));
    let of_ours = [few, all].map(|chunks| memory_of_ours(&options.binary, house, chunks));
    for (name, [small, large]) in [("shuru-store", of_shuru), ("ringnbd", of_ours)] {
        let (small, large) = (small?, large?);
        small.told(name);
        large.told(name);
        println!(
            "{name}: {:.1} bytes a chunk of {all} more than an empty disk; each chunk beyond {few} adds {:.1}",
            large.a_chunk(),
            slope(small, large)
        );
    }
    Ok(())
}

fn ratio(name: &str, theirs: Duration, ours: Duration) {
    println!("{name}: {:.1} times faster", theirs.as_secs_f64() / ours.as_secs_f64());
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == "serve-shuru") {
        let (Some(directory), Some(size)) = (arguments.nth(1), arguments.next()) else { bail!("two values") };
        return serve_shuru(Path::new(&directory), size.parse()?);
    }
    let options = options(arguments)?;
    let house = options.directory.join(format!("shuru-{}", std::process::id()));
    let measured = compare(&options, &house);
    let removed = std::fs::remove_dir_all(&house);
    measured.and(removed.context("what was measured on is still there"))
}

fn compare(options: &Options, house: &Path) -> Result<()> {
    if options.dirty > 0 {
        tell_survival(options, house)?;
        let size = options.dirty << 20;
        let (mut of_shuru, mut of_ours) = (Vec::new(), Vec::new());
        for round in 0..options.rounds.max(1) {
            for is_shuru in [round % 2 == 0, round % 2 != 0] {
                let directory = made(house, if is_shuru { "shuru" } else { "ours" })?;
                settle(house)?;
                if is_shuru {
                    of_shuru.push(measure(&mut Shuru::start(&directory, size, None)?, options)?);
                } else {
                    let mut server = Ours::start(&options.binary, &directory, size, None)?;
                    of_ours.push(measure(&mut server, options)?);
                }
                std::fs::remove_dir_all(directory)?;
            }
        }
        let (shuru, ours) = (Figures::medians(&of_shuru), Figures::medians(&of_ours));
        ratio("writes", shuru.written, ours.written);
        ratio("checkpoint", shuru.checkpoint, ours.checkpoint);
        ratio("writes and checkpoint", shuru.written + shuru.checkpoint, ours.written + ours.checkpoint);
        for (writes, rounds) in [(1, options.flushes), (32, options.flushes.div_ceil(4))] {
            let took = floor(house, FLOOR, writes, rounds)?;
            println!("the file system's fdatasync after {writes}: {took:.2?}");
        }
        ratio("FLUSH after 1 write", shuru.flush_1, ours.flush_1);
        ratio("FLUSH after 32 writes", shuru.flush_32, ours.flush_32);
    }
    if options.chunks > 0 {
        compare_memory(options, house)?;
    }
    Ok(())
}
