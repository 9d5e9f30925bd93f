//! A server that is never restarted: exports come, go, grow and get rates, snapshots are taken, the configuration is read again, and
//! new processes take over with other numbers of shards, all under clients that verify.
//!
//! Oracle: each client's picture of its part of a disk, which is compared with the disk itself in the end, behind the server's back.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringnbd::internal::random::Random;

use super::fleet_probe::{self, EXPORT as PROBE, Pins, Table};
use super::handover::{Line, ended, moved_by, negotiated};
use super::handover_images::{Ending, run};
use crate::support::raw::Connection;
use crate::support::{PATIENCE, wait_until};

const MIB: u64 = 1 << 20;
/// The part of a disk that one client writes.
const PART: u64 = 4 * MIB;
/// Exports that come and go: at most so many, of so many bytes.
const EXTRAS: u64 = 5;
const EXTRA: u64 = 2 * MIB;
/// Snapshots of the image that are kept.
const SNAPSHOTS: usize = 3;
/// The figure of a shard that says how much of its buffers is in use.
const BUFFERS: &str = "buffer_memory_used_bytes";
/// Disks that grow, and those whose requests are held back.
const RESIZED: [&str; 3] = ["raw", "vm1", "over"];
const LIMITED: [&str; 3] = ["raw", "secure", "over"];
/// In the last part each change is made so often.
const REPEATS: usize = 4;

/// What is done to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    /// What the load and the machine do by themselves.
    Nothing,
    Add,
    Remove,
    Resize,
    Limit,
    Weigh,
    Snapshot,
    Checkpoint,
    Reload,
    Handover,
}

/// Each in a round, in another order.
const ROUND: [Change; 12] = [
    Change::Nothing,
    Change::Add,
    Change::Add,
    Change::Remove,
    Change::Resize,
    Change::Resize,
    Change::Limit,
    Change::Weigh,
    Change::Snapshot,
    Change::Checkpoint,
    Change::Reload,
    Change::Handover,
];

/// A client that writes and reads its part of a disk.
struct Verifier {
    client: Connection,
    export: &'static str,
    start: u64,
    /// What its part has.
    picture: Vec<u8>,
    random: Random,
}

/// What others see of a verifier.
#[derive(Default)]
struct Seen {
    requests: AtomicU64,
    /// The longest time that a request took, since somebody looked.
    longest_ns: AtomicU64,
}

impl Verifier {
    /// `fill`: what nobody has written yet.
    fn new(mut client: Connection, (export, start, fill): (&'static str, u64, u8), seed: u64) -> Self {
        // A campaign may get little of the machine.
        client.patience(4 * PATIENCE);
        Self { client, export, start, picture: vec![fill; PART as usize], random: Random::new(seed) }
    }

    fn verify(&mut self, seen: &Seen, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            let length = 512 * self.random.between(1, 256);
            let offset = 512 * self.random.below((PART - length) / 512 + 1);
            let begun = Instant::now();
            let part = offset as usize..(offset + length) as usize;
            match self.random.below(8) {
                0 => self.client.flush(),
                1..4 => {
                    let seed = self.random.number();
                    let data: Vec<u8> =
                        (0..length).map(|at| (at.wrapping_mul(seed | 1) >> 9) as u8).collect();
                    self.client.write(self.start + offset, &data);
                    self.picture[part].copy_from_slice(&data);
                }
                _ => {
                    let found = self.client.read(self.start + offset, length as usize);
                    assert!(found == self.picture[part], "{} at {offset}", self.export);
                }
            }
            let took = begun.elapsed().as_nanos() as u64;
            seen.longest_ns.fetch_max(took, Ordering::Relaxed);
            seen.requests.fetch_add(1, Ordering::Relaxed);
        }
        self.client.flush();
    }
}

/// The server, its disks, and what it is known to have.
struct Fleet {
    line: Line,
    pins: Pins,
    house: tempfile::TempDir,
    /// Processes that were taken over.
    earlier: Vec<Child>,
    random: Random,
    /// What each of the extra disks begins with.
    marks: BTreeMap<String, u8>,
    sizes: BTreeMap<&'static str, u64>,
    snapshots: Vec<String>,
    changes: usize,
    /// Bytes of a shard's buffers that are in use before clients come.
    buffers_at_first: u64,
}

impl Fleet {
    fn start(seed: u64) -> Self {
        let house = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = |name: &str| house.path().join(name);
        crate::support::tls::write_files(house.path());
        for disk in ["raw", "secure"] {
            std::fs::File::create(path(disk)).unwrap().set_len(64 * MIB).unwrap();
        }
        std::fs::write(path("base"), vec![9; 32 << 20]).unwrap();
        std::fs::write(path(PROBE), vec![1; 1 << 20]).unwrap();
        let store = path("store").display().to_string();
        std::fs::write(path("golden"), vec![7; 32 << 20]).unwrap();
        run(&["store", "init", &store]);
        run(&[
            "image",
            "create",
            &format!("{store}/golden"),
            "--from",
            &path("golden").display().to_string(),
        ]);
        // Its contents are in packs, each chunk once.
        run(&["image", "checkpoint", &format!("{store}/golden@v1")]);
        run(&["image", "clone", &format!("{store}/golden@v1"), &format!("{store}/vm1")]);
        let configuration = path("fleet.toml");
        std::fs::write(&configuration, configured(&house, 0)).unwrap();
        let tls = house.path().display().to_string();
        let configuration = configuration.display().to_string();
        let arguments = ["--config", &configuration, "--tcp", "127.0.0.1:0"];
        let arguments = [&arguments[..], &["--tls", &tls, "--tls-mode", "selective"]].concat();
        let pins = Pins::of_environment();
        let line = pins.starting(|| Line::start(&arguments));
        let sizes = BTreeMap::from([("raw", 64 * MIB), ("vm1", 32 * MIB), ("over", 32 * MIB)]);
        let (random, snapshots, marks) = (Random::new(seed), Vec::new(), BTreeMap::new());
        let mut fleet = Self {
            line,
            pins,
            house,
            earlier: Vec::new(),
            random,
            marks,
            sizes,
            snapshots,
            changes: 0,
            buffers_at_first: 0,
        };
        fleet.buffers_at_first = fleet.figures()["shards"][0][BUFFERS].as_u64().unwrap();
        fleet
    }

    fn path(&self, name: &str) -> PathBuf {
        self.house.path().join(name)
    }

    fn node(&self, name: &str) -> String {
        format!("{}/{name}", self.path("store").display())
    }

    #[track_caller]
    fn ctl(&self, arguments: &[&str]) -> Output {
        let control = format!("unix:{}", self.line.path("control").display());
        let output = Command::new(crate::binary())
            .args(["ctl", "--control", &control])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// The extra exports that there are.
    fn extras(&self) -> Vec<String> {
        let list: serde_json::Value = serde_json::from_slice(&self.ctl(&["list", "--json"]).stdout).unwrap();
        let names =
            list["exports"].as_array().unwrap().iter().map(|export| export["export"].as_str().unwrap());
        names.filter(|name| name.starts_with('x')).map(str::to_owned).collect()
    }

    fn change(&mut self, change: Change) {
        self.changes += 1;
        match change {
            Change::Nothing => {}
            Change::Add => self.add(),
            Change::Remove => self.remove(),
            Change::Resize => {
                let name = RESIZED[self.random.below(3) as usize];
                self.resize(name);
            }
            Change::Limit => {
                let name = LIMITED[self.random.below(3) as usize];
                self.limit(name);
            }
            Change::Weigh => {
                let name = LIMITED[self.random.below(3) as usize];
                self.weigh(name);
            }
            Change::Snapshot => self.snapshot("snapshot"),
            Change::Checkpoint => self.snapshot("checkpoint"),
            Change::Reload => self.reload(),
            Change::Handover => self.hand_over(),
        }
    }

    fn add(&mut self) {
        let extras = self.extras();
        let name = format!("x{}", self.random.below(EXTRAS));
        // A process with a client that was too slow to move has the disks that it had.
        let has_another = self.earlier.iter_mut().any(|process| process.try_wait().unwrap().is_none());
        if extras.contains(&name) || has_another {
            return;
        }
        let disk = self.path(&name);
        if !self.marks.contains_key(&name) {
            std::fs::File::create(&disk).unwrap().set_len(EXTRA).unwrap();
        }
        self.ctl(&["export", "add", &name, &format!("file:{}", disk.display())]);
        let mark = self.marks.entry(name.clone()).or_default();
        let mut client = self.line.over_unix(&name);
        assert!(client.read(4096, 512) == [*mark; 512], "{name}");
        *mark = self.changes as u8;
        client.write(4096, &[*mark; 512]);
    }

    fn remove(&mut self) {
        let extras = self.extras();
        if extras.is_empty() {
            return;
        }
        let name = &extras[self.random.below(extras.len() as u64) as usize];
        let mut client = self.line.over_tcp(name);
        let mode = ["hide", "soft", "hard"][self.random.below(3) as usize];
        self.ctl(&["export", "rm", name, "--mode", mode]);
        match mode {
            "hide" => client.expect_alive(),
            "hard" => client.expect_close("it was removed"),
            _ => {}
        }
    }

    fn resize(&mut self, name: &'static str) {
        let size = self.sizes.get_mut(name).expect("its size is known");
        *size += MIB;
        let size = *size;
        self.ctl(&["resize", name, &size.to_string()]);
        assert_eq!(self.line.over_unix(name).export.size, size, "{name}");
    }

    fn limit(&mut self, name: &str) {
        match self.random.below(3) {
            0 => self.ctl(&["limit", name, "--off"]),
            1 => self.ctl(&["limit", name, "--set", "iops=3000", "--set", "write_bytes=200M"]),
            _ => self.ctl(&["limit", name, "--set", "bytes=300M"]),
        };
    }

    fn weigh(&mut self, name: &str) {
        let weight = ["off", "1", "3", "1000"][self.random.below(4) as usize];
        let told = self.ctl(&["limit", name, "--weight", weight, "--json"]).stdout;
        let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(told["weight"].as_u64(), weight.parse().ok(), "{told}");
    }

    fn snapshot(&mut self, how: &str) {
        let control = format!("unix:{}", self.line.path("control").display());
        let node = self.node(&format!("vm1@s{}", self.changes));
        run(&["image", how, &node, "--control", &control]);
        self.snapshots.push(node);
        if self.snapshots.len() > SNAPSHOTS {
            run(&["image", "rm", &self.snapshots.remove(0), "--control", &control]);
        }
    }

    fn reload(&mut self) {
        let (new, file) = (self.path("fleet.new"), self.path("fleet.toml"));
        std::fs::write(&new, configured(&self.house, self.changes)).unwrap();
        std::fs::rename(new, file).unwrap();
        self.ctl(&["reload"]);
    }

    fn hand_over(&mut self) {
        self.line.shards = self.random.between(1, 3) as usize;
        let Self { line, pins, .. } = self;
        let before = pins.starting(|| line.succeed());
        self.earlier.push(before);
    }

    /// What `ringnbd top` asks for.
    fn figures(&self) -> serde_json::Value {
        let mut control = UnixStream::connect(self.line.path("control")).unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        control.write_all(b"GET /api/v1/figures HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        control.read_to_string(&mut answer).unwrap();
        let (_head, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// What the descriptors of the process that serves are, and KiB of its memory.
    fn takes(&self) -> (Vec<String>, u64) {
        let of = format!("/proc/{}", self.line.child.id());
        let status = std::fs::read_to_string(format!("{of}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let resident = resident.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        // One may be gone before it is read.
        let name = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.unwrap().path()).ok();
        let files = std::fs::read_dir(format!("{of}/fd")).unwrap().filter_map(name);
        let files = files.map(|path| path.display().to_string());
        // A pack is opened when something of it is read, and kept among a bounded number.
        let mut files: Vec<_> = files.filter(|path| !path.contains("/packs/")).collect();
        files.sort();
        (files, resident)
    }
}

/// The configuration: what it says of one export, and whether there is another, changes with `number`.
fn configured(house: &tempfile::TempDir, number: usize) -> String {
    let path = |name: &str| house.path().join(name).display().to_string();
    let rates = if number % 2 == 1 { "limit = { iops = 5000 }\n" } else { "" };
    let mut text = format!(
        "[[export]]\nname = \"raw\"\nuri = \"file:{}\"\ndescription = \"{number}\"\n{rates}\
         [[export]]\nname = \"secure\"\nuri = \"file:{}\"\ntls = \"required\"\n\
         [[export]]\nname = \"over\"\nuri = \"overlay:{}?base={}\"\n\
         [[export]]\nuri = \"store:{}\"\n\
         [[export]]\nname = \"{PROBE}\"\nuri = \"file:{}\"\n",
        path("raw"),
        path("secure"),
        path("over.d"),
        path("base"),
        path("store"),
        path(PROBE),
    );
    if number % 3 == 1 {
        text += "[[export]]\nname = \"more\"\nuri = \"null:1M\"\n";
    }
    text
}

/// A table of how long the slowest request beside each kind of change took.
fn print(pauses: &mut BTreeMap<Change, Vec<Duration>>) {
    for (change, pauses) in pauses {
        pauses.sort_unstable();
        let at = |part: f64| pauses[((pauses.len() - 1) as f64 * part).round() as usize];
        println!(
            "{change:?}: {} times; the slowest request beside one: {:?} in the middle, {:?} at 90 %, {:?} at 99 %, {:?} at most",
            pauses.len(),
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        );
    }
}

/// Makes changes in an order that is drawn; gives the time of the slowest request beside each, and what the probe saw.
fn live(
    fleet: &mut Fleet,
    steps: usize,
    (seen, probe): (&[Seen], &fleet_probe::Seen),
    all_go_on: &dyn Fn(),
) -> (BTreeMap<Change, Vec<Duration>>, Table<Change>) {
    let (mut pauses, mut round): (BTreeMap<_, Vec<_>>, Vec<Change>) = Default::default();
    let mut table = Table::default();
    for _ in 0..steps {
        if round.is_empty() {
            round = ROUND.to_vec();
        }
        let change = round.swap_remove(fleet.random.below(round.len() as u64) as usize);
        seen.iter().for_each(|seen| seen.longest_ns.store(0, Ordering::Relaxed));
        let reads = probe.beside(all_go_on, || match change {
            Change::Nothing => probe.nothing(all_go_on),
            change => fleet.change(change),
        });
        table.note(change, reads);
        // Whatever began beside it has ended.
        let before: Vec<_> = seen.iter().map(|seen| seen.requests.load(Ordering::Relaxed)).collect();
        wait_until("all clients to go on", || {
            all_go_on();
            seen.iter().zip(&before).all(|(seen, before)| seen.requests.load(Ordering::Relaxed) > before + 1)
        });
        let longest = seen.iter().map(|seen| seen.longest_ns.load(Ordering::Relaxed)).max();
        pauses.entry(change).or_default().push(Duration::from_nanos(longest.expect("there are clients")));
    }
    (pauses, table)
}

/// The same changes over and over, but for those that leave something: nothing is kept of them.
///
/// Each disk is resized, limited and weighed in each round. The first growth of a file since the process began
/// keeps the descriptors of the smaller export for as long as that has clients, here the verifiers: where the
/// disk was drawn, about each tenth seed had the first growth between the two counts.
fn nothing_is_kept(fleet: &mut Fleet) {
    let repeat = |fleet: &mut Fleet| {
        for _ in 0..REPEATS {
            fleet.change(Change::Add);
            fleet.change(Change::Reload);
            RESIZED.into_iter().for_each(|name| fleet.resize(name));
            for name in LIMITED {
                fleet.limit(name);
                fleet.weigh(name);
            }
            while !fleet.extras().is_empty() {
                fleet.change(Change::Remove);
            }
        }
    };
    // The first time there is something to grow.
    repeat(fleet);
    let (files, memory) = fleet.takes();
    repeat(fleet);
    let mut last = Vec::new();
    let given_back = catch_unwind(AssertUnwindSafe(|| {
        wait_until("descriptors to be given back", || {
            last = fleet.takes().0;
            last.len() <= files.len()
        });
    }));
    assert!(given_back.is_ok(), "descriptors are kept: before {files:#?}, now {last:#?}");
    let (files, files_now, memory_now) = (files.len(), last.len(), fleet.takes().1);
    println!(
        "{files} descriptors and {memory} KiB before {REPEATS} rounds of changes, {files_now} and {memory_now} after"
    );
    assert!(memory_now < memory + 4096, "memory is kept: {memory} KiB, then {memory_now}");
}

/// Shards keep no slot and no buffer of clients that ask for nothing, beside what they have had before there were clients.
fn nothing_is_under_way(fleet: &Fleet) {
    let mut shards = serde_json::Value::Null;
    let kept = |shard: &serde_json::Value| {
        let buffers = shard[BUFFERS].as_u64().unwrap();
        shard["in_flight"] != 0 || shard["unsent"] != 0 || buffers > fleet.buffers_at_first
    };
    let given_back = catch_unwind(AssertUnwindSafe(|| {
        wait_until("slots and buffers to be given back", || {
            shards = fleet.figures()["shards"].take();
            !shards.as_array().unwrap().iter().any(kept)
        });
    }));
    assert!(given_back.is_ok(), "requests are kept: {shards:#}");
    let connections: u64 =
        shards.as_array().unwrap().iter().map(|shard| shard["connections"].as_u64().unwrap()).sum();
    println!("{connections} connections at rest, no slot and no buffer in use");
}

/// `RINGNBD_FLEET_STEPS` makes it a campaign.
#[test]
fn changes_in_any_order_go_unnoticed() {
    let steps = std::env::var("RINGNBD_FLEET_STEPS").map_or(30, |number| number.parse().expect("a number"));
    let seed = std::env::var("RINGNBD_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("RINGNBD_SEED={seed}");
    let mut fleet = Fleet::start(seed);
    let tunnel = crate::support::tls::tunnel(&fleet.line.path("nbd.sock"), fleet.house.path());
    let secure = negotiated(Connection::over_unix(UnixStream::connect(&tunnel).unwrap()), "secure");
    let clients = [
        (fleet.line.over_unix("raw"), ("raw", 0, 0)),
        (fleet.line.over_tcp("raw"), ("raw", 8 * MIB, 0)),
        (secure, ("secure", 4096, 0)),
        (fleet.line.over_unix("over"), ("over", MIB, 9)),
        (fleet.line.over_tcp("vm1"), ("vm1", 0, 7)),
        (fleet.line.over_unix("vm1"), ("vm1", 16 * MIB, 7)),
    ];
    let with_seed = clients.into_iter().zip(seed..);
    let mut verifiers: Vec<_> =
        with_seed.map(|((client, of), seed)| Verifier::new(client, of, seed)).collect();
    let seen: Vec<_> = verifiers.iter().map(|_| Seen::default()).collect();
    let (is_over, probe) = (AtomicBool::new(false), fleet_probe::Seen::default());
    std::thread::scope(|scope| {
        let is_over = &is_over;
        let _ends_them = Ending(is_over);
        let all = verifiers.iter_mut().zip(&seen);
        let threads: Vec<_> =
            all.map(|(verifier, seen)| scope.spawn(move || verifier.verify(seen, is_over))).collect();
        let all_go_on = || assert!(!threads.iter().any(|thread| thread.is_finished()), "a client has ended");
        let client = fleet.line.over_unix(PROBE);
        let (mut pauses, mut table) = probe.during(client, |probe_goes_on| {
            live(&mut fleet, steps, (&seen, &probe), &|| {
                all_go_on();
                probe_goes_on();
            })
        });
        print(&mut pauses);
        table.print();
        nothing_is_kept(&mut fleet);
        all_go_on();
        is_over.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    nothing_is_under_way(&fleet);
    let moved: usize = (0..fleet.earlier.len()).map(|process| moved_by(&fleet.line, process)).sum();
    println!("{moved} connections moved in {} hand-overs", fleet.earlier.len());
    println!("{} requests", seen.iter().map(|seen| seen.requests.load(Ordering::Relaxed)).sum::<u64>());
    compare(fleet, verifiers);
}

/// Ends all, and looks at the disks.
fn compare(mut fleet: Fleet, verifiers: Vec<Verifier>) {
    let pictures: Vec<_> = verifiers.into_iter().map(|of| (of.export, of.start, of.picture)).collect();
    for mut process in std::mem::take(&mut fleet.earlier) {
        assert!(ended(&mut process).success());
    }
    let Fleet { line, house, .. } = fleet;
    line.stop();
    let path = |name: &str| house.path().join(name).display().to_string();
    run(&["store", "check", &path("store")]);
    run(&["image", "snapshot", &format!("{}/vm1@end", path("store"))]);
    run(&["image", "export", &format!("{}/vm1@end", path("store")), &path("vm1")]);
    for (export, start, picture) in pictures.iter().filter(|(export, ..)| *export != "over") {
        let disk = std::fs::File::open(path(export)).unwrap();
        let mut found = vec![0; picture.len()];
        std::os::unix::fs::FileExt::read_exact_at(&disk, &mut found, *start).unwrap();
        assert!(found == *picture, "{export}, behind the server's back");
    }
}
