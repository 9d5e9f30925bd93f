//! Two hosts and a bucket, each in a network of its own. The hosts are killed again and again.
//!
//! Host A writes, checkpoints and pushes by itself, and is killed while it writes, makes a checkpoint, takes
//! blocks into packs, or pushes. Host B clones what A has pushed, writes, and pushes that; its server and its
//! push are killed too. Meanwhile B boots a guest from a disk of A's, of which nothing is here, and pushes what
//! the guest wrote. A proxy before the bucket fails some of the requests. Oracle: the bytes that the test wrote
//! by the time of each snapshot. A third host reads every snapshot whose push was acknowledged, from a store
//! that is new.
//!
//! `RINGNBD_SEED` is the seed, and `RINGNBD_TIER_KILLS` how often A is killed.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use ringnbd::internal::random::Random;

use super::Store;
use super::bucket::{Bucket, CREDENTIALS, FaultProxy};
use super::online::{SIZE, client, read};
use crate::guest::{self, Guest};
use crate::peers::{self, Finished};
use crate::support::image::{Image, disk_dir, pattern};
use crate::support::server::{Options, Server};
use crate::support::wait_until;

const KILLS: u64 = 8;
/// Where the proxy is, for all hosts.
const BUCKET: &str = "10.99.0.1";
/// Requests of 100 that fail.
const FAULTS: u64 = 8;

/// The guest's disk, and a file of it that the guest copies.
const DISK: u64 = 48 << 20;
const DATA: usize = 6 << 20;

const SWITCH_ROOT: &str = "
mount -t ext4 /dev/vda /mnt || poweroff -f
exec switch_root /mnt /sbin/init
";

/// First process of the guest.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox cat /data > /copy && /bin/busybox sync && /bin/busybox mount -o remount,ro / && echo guest: copied
/bin/busybox poweroff -f
";

/// A network beside that of the test, which is there as long as its process.
struct Network(Child);

impl Drop for Network {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn ip(line: &str) {
    peers::run(Command::new("ip").args(line.split(' '))).ok();
}

/// A network for this thread and the programs that it starts. `None` after a skip.
fn enter_own_network() -> Option<()> {
    let can = || Command::new("unshare").args(["-n", "ip", "link", "add", "dummy0", "type", "veth"]).status();
    let can = can().is_ok_and(|status| status.success());
    peers::or_skip(can.then_some(()), "network of its own with veth devices (iproute2)")?;
    // SAFETY: it changes the network of this thread, and nothing else.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", std::io::Error::last_os_error());
    ip("link set lo up");
    ip(&format!("address add {BUCKET}/32 dev lo"));
    Some(())
}

impl Network {
    /// A host that reaches the bucket through a cable of its own.
    fn host(number: u8) -> Self {
        let mut holder = Command::new("setpriv");
        holder.args(["--pdeathsig", "KILL", "--", "unshare", "-n", "sleep", "infinity"]);
        let network = Self(holder.stdin(Stdio::null()).spawn().unwrap());
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        wait_until("it has a network", || of(&network.0.id().to_string()) != of("thread-self"));
        let (near, far) = (format!("host{number}"), format!("far{number}"));
        ip(&format!("link add {near} type veth peer name {far}"));
        ip(&format!("link set {far} netns {}", network.0.id()));
        ip(&format!("address add 10.99.{number}.1/24 dev {near}"));
        ip(&format!("link set {near} up"));
        for line in [
            "link set lo up".to_owned(),
            format!("address add 10.99.{number}.2/24 dev {far}"),
            format!("link set {far} up"),
            format!("route add {BUCKET} via 10.99.{number}.1"),
        ] {
            peers::run(network.within(Command::new("ip").args(line.split(' ')))).ok();
        }
        network
    }

    fn entrance(&self) -> Vec<String> {
        ["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.0.id()), "--".to_owned()].into()
    }

    /// A command on this host.
    fn within<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(ToOwned::to_owned).collect();
        let entrance = self.entrance();
        *command = Command::new(&entrance[0]);
        command.args(&entrance[1..]).args(words).envs(CREDENTIALS)
    }

    fn run(&self, store: &Store, line: &str) -> Finished {
        peers::run(self.within(&mut store.command(line)))
    }

    fn serve(&self, store: &Store, parameters: &str) -> Server {
        let control = format!("unix:{}", store.directory().join("control").display());
        let mut options = Options::new()
            .memory("128M")
            .export(format!("store:{}{parameters}", store.path().display()))
            .args(["--control", &control, "--sandbox", "on"]);
        options.wrapper = self.entrance();
        CREDENTIALS.iter().fold(options, |options, (name, value)| options.env(name, value)).start()
    }
}

/// What the test knows of snapshots, by their names on the tier.
type Known = BTreeMap<String, Vec<u8>>;

/// Writes to an image what nobody has written before.
fn write_some(server: &Server, image: &str, bytes: &mut [u8], random: &mut Random) {
    let mut writer = client(server, image);
    for _ in 0..random.between(1, 6) {
        let length = random.between(1, 60) as usize * 4096;
        let at = random.below((SIZE - length) as u64 / 4096) as usize * 4096;
        let new = pattern(random.number(), 0, length);
        writer.write_at(at as u64, &new).unwrap();
        bytes[at..at + length].copy_from_slice(&new);
    }
    writer.flush().unwrap();
}

/// Snapshots of A's image whose push was acknowledged.
fn acknowledged(store: &Store) -> Vec<String> {
    let list = store.json("image ls STORE");
    let nodes = list["nodes"].as_array().unwrap().iter();
    let pushed = nodes.filter(|node| node["pushed"].is_u64());
    let names = pushed.map(|node| node["name"].as_str().unwrap().to_owned());
    names.filter(|name| name.starts_with("vm@")).collect()
}

/// A file system that a guest boots from, with a file of these bytes. `None` after a skip.
fn disk(data: &[u8]) -> Option<Image> {
    use std::os::unix::fs::PermissionsExt;
    let (root, tree) = (peers::debian_root()?, disk_dir());
    let at = |path: &str| tree.path().join(path);
    ["bin", "sbin", "dev", "proc"]
        .into_iter()
        .for_each(|directory| std::fs::create_dir(at(directory)).unwrap());
    std::fs::copy(guest::busybox(&root), at("bin/busybox")).unwrap();
    std::fs::write(at("data"), data).unwrap();
    std::fs::write(at("sbin/init"), INIT).unwrap();
    std::fs::set_permissions(at("sbin/init"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let image = Image::sparse(DISK);
    let (tree, path) = (tree.path().display().to_string(), image.path.display().to_string());
    peers::system("mke2fs", &["-q", "-t", "ext4", "-d", &tree, &path]);
    Some(image)
}

/// Host B boots a guest from a snapshot of which nothing is here, and pushes what it wrote. `None` after a
/// skip.
fn boot_a_clone((network, store): (&Network, &Store), uri: &str) -> Option<()> {
    let line = format!("image clone {uri} STORE/booted");
    wait_until(&line, || {
        network.run(store, &line).status.success() || store.names().contains(&"booted".into())
    });
    let server = network.serve(store, "");
    let socket = server.socket().display().to_string();
    let disk = format!("driver=nbd,server.type=unix,server.path={socket},export=booted,cache.direct=on");
    let modules = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"];
    let console = Guest::new(SWITCH_ROOT).modules(&modules).disk(&disk).run()?.ok();
    assert!(console.contains("guest: copied"), "{console}\n{}", server.stderr());
    network.run(store, "image checkpoint STORE/booted@mine").ok();
    let line = "image push STORE/booted@mine";
    wait_until(line, || network.run(store, line).status.success());
    Some(())
}

/// What a third host reads of a snapshot, in a file.
fn exported(network: &Network, uri: &str) -> Store {
    let new = Store::init();
    network.run(&new, &format!("image clone {uri} STORE/x")).ok();
    network.run(&new, "image export STORE/x DIR/out.raw").ok();
    new
}

/// What host A is in the middle of when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KilledIn {
    Write,
    Checkpoint,
    /// A server takes blocks into packs by itself.
    Ingest,
    Push,
}

/// In turn. Pushes take longest.
const KILLED_IN: [KilledIn; 5] =
    [KilledIn::Push, KilledIn::Write, KilledIn::Checkpoint, KilledIn::Push, KilledIn::Ingest];

/// A write, by its place.
type PlannedWrite = (usize, Vec<u8>);

fn planned(random: &mut Random) -> PlannedWrite {
    let length = random.between(1, 60) as usize * 4096;
    let at = random.below((SIZE - length) as u64 / 4096) as usize * 4096;
    (at, pattern(random.number(), 0, length))
}

/// Bytes that a server has written so far, to whatever file.
fn written(server: &Server) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", server.pid())).unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")?.trim().parse().ok()).unwrap_or_default()
}

/// Host A, and what it has written.
struct Writer<'a> {
    network: &'a Network,
    store: Store,
    bytes: Vec<u8>,
    /// A write that was not answered.
    unanswered: Option<PlannedWrite>,
    known: Known,
    /// A snapshot that may be there, and what it has then.
    pending: Option<(String, Vec<u8>)>,
    snapshots: u64,
    /// Kills before all was pushed, and those in the middle of each thing.
    cut: u64,
    cut_in: BTreeMap<&'static str, u64>,
}

impl Writer<'_> {
    /// What was answered before the kill is there. Each sector of what was not has its old bytes or the new ones.
    fn come_back(&mut self, server: &Server) {
        let found = read(server, "vm");
        if let Some((at, new)) = self.unanswered.take() {
            for (index, sector) in new.chunks(512).enumerate() {
                let range = at + index * 512..at + index * 512 + sector.len();
                if found[range.clone()] == *sector {
                    self.bytes[range].copy_from_slice(sector);
                }
            }
        }
        assert!(found == self.bytes, "what was answered before the kill is there");
        let Some((node, bytes)) = self.pending.take() else { return };
        if self.store.names().contains(&node) {
            self.network.run(&self.store, &format!("image checkpoint STORE/{node}")).ok();
            self.known.insert(node, bytes);
        }
    }

    fn next_node(&mut self) -> String {
        self.snapshots += 1;
        format!("vm@s{}", self.snapshots)
    }

    /// Serves, writes, checkpoints and pushes, and is killed at any step.
    fn live_and_die(&mut self, proxy: &FaultProxy, random: &mut Random, killed_in: KilledIn) {
        let ingest = if killed_in == KilledIn::Ingest { "&ingest=0s" } else { "" };
        let mut server = self.network.serve(&self.store, &format!("?push=0s&push-rate=4M{ingest}"));
        self.come_back(&server);
        match killed_in {
            KilledIn::Write => self.die_writing(&mut server, random),
            KilledIn::Checkpoint => self.die_in_a_checkpoint(&mut server, random),
            KilledIn::Ingest => {
                write_some(&server, "vm", &mut self.bytes, random);
                let (node, begun) = (self.next_node(), written(&server));
                self.network.run(&self.store, &format!("image snapshot STORE/{node}")).ok();
                self.pending = Some((node.clone(), self.bytes.clone()));
                self.known.insert(node.clone(), self.bytes.clone());
                let most = begun + random.below(256 << 10);
                let is_pushed = |store: &Store| acknowledged(store).contains(&node);
                wait_until("it ingests", || written(&server) >= most || is_pushed(&self.store));
                server.crash();
            }
            KilledIn::Push => self.die_pushing(&mut server, proxy, random),
        }
        let there = acknowledged(&self.store);
        if let Some((node, bytes)) = self.pending.clone().filter(|(node, _)| there.contains(node)) {
            self.known.insert(node, bytes);
        }
        let there = there.len();
        println!("killed in a {killed_in:?} with {there} of {} snapshots on the tier", self.snapshots);
        self.cut += u64::from(killed_in == KilledIn::Push && there < self.known.len());
    }

    /// After so many answers, with one more write on its way.
    fn die_writing(&mut self, server: &mut Server, random: &mut Random) {
        let writes: Vec<_> = (0..40).map(|_| planned(random)).collect();
        let (answered, last) = (AtomicU64::new(0), random.between(1, 20));
        std::thread::scope(|scope| {
            let mut writer = client(server, "vm");
            let (writes, answered) = (&writes, &answered);
            scope.spawn(move || {
                for (at, new) in writes {
                    if writer.write_at(*at as u64, new).is_err() {
                        return;
                    }
                    answered.fetch_add(1, SeqCst);
                }
            });
            wait_until("it writes", || answered.load(SeqCst) >= last);
            server.crash();
        });
        let answered = answered.load(SeqCst) as usize;
        for (at, new) in &writes[..answered] {
            self.bytes[*at..at + new.len()].copy_from_slice(new);
        }
        self.unanswered = writes.into_iter().nth(answered);
        *self.cut_in.entry("write").or_default() += u64::from(self.unanswered.is_some());
    }

    fn die_in_a_checkpoint(&mut self, server: &mut Server, random: &mut Random) {
        write_some(server, "vm", &mut self.bytes, random);
        let (node, begun) = (self.next_node(), written(server));
        let mut command = self.store.command(&format!("image checkpoint STORE/{node}"));
        let mut asks =
            self.network.within(&mut command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let most = begun + random.below(512 << 10);
        wait_until("a checkpoint", || written(server) >= most || asks.try_wait().unwrap().is_some());
        server.crash();
        let is_made = asks.wait().unwrap().success();
        self.pending = Some((node, self.bytes.clone()));
        *self.cut_in.entry("checkpoint").or_default() += u64::from(!is_made);
    }

    fn die_pushing(&mut self, server: &mut Server, proxy: &FaultProxy, random: &mut Random) {
        for _ in 0..random.between(1, 2) {
            write_some(server, "vm", &mut self.bytes, random);
            let node = self.next_node();
            self.network.run(&self.store, &format!("image checkpoint STORE/{node}")).ok();
            self.known.insert(node, self.bytes.clone());
        }
        // It is about to write something else.
        let mut after = self.bytes.clone();
        write_some(server, "vm", &mut after, random);
        self.bytes = after;
        let requests = || proxy.counts().requests.load(SeqCst);
        let (begun, steps) = (requests(), random.below(40));
        let all = |store: &Store| store.json("store push STORE")["queue"] == 0;
        wait_until("it pushes", || requests() >= begun + steps || all(&self.store));
        server.crash();
    }
}

/// Host B takes the latest snapshot that is there, writes to it, and pushes that. Its server is killed behind the
/// writes, and its push in the middle.
fn write_a_clone(
    (network, store): (&Network, &Store),
    (uri, name): (&str, &str),
    mut bytes: Vec<u8>,
    (proxy, random): (&FaultProxy, &mut Random),
) -> Vec<u8> {
    let line = format!("image clone {uri} STORE/{name}");
    wait_until(&line, || network.run(store, &line).status.success() || store.names().contains(&name.into()));
    let mut server = network.serve(store, "");
    assert!(read(&server, name) == bytes, "{uri} as it was");
    write_some(&server, name, &mut bytes, random);
    server.crash();
    let server = network.serve(store, "");
    assert!(read(&server, name) == bytes, "what B wrote before its kill is there");
    network.run(store, &format!("image checkpoint STORE/{name}@mine")).ok();
    drop(server);
    let line = format!("image push STORE/{name}@mine");
    let requests = || proxy.counts().requests.load(SeqCst);
    let last = requests() + random.below(30);
    let mut command = store.command(&line);
    let mut pushes =
        network.within(&mut command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("B pushes", || requests() >= last || pushes.try_wait().unwrap().is_some());
    let _it_may_have_ended = pushes.kill();
    println!("killed B's push: {}", pushes.wait().unwrap());
    wait_until(&line, || network.run(store, &line).status.success());
    bytes
}

#[test]
fn what_was_pushed_by_hosts_that_are_killed_is_there() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = number("RINGNBD_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("RINGNBD_SEED={seed}");
    let mut random = Random::new(seed);
    if enter_own_network().is_none() {
        return;
    }
    let Some(bucket) = Bucket::start() else { return };
    let proxy = FaultProxy::start_at(&bucket, seed | 1, BUCKET);
    let (a, b, third) = (Network::host(1), Network::host(2), Network::host(3));
    let mut one = Writer {
        network: &a,
        store: Store::init(),
        bytes: vec![0; SIZE],
        unanswered: None,
        known: Known::new(),
        pending: None,
        snapshots: 0,
        cut: 0,
        cut_in: BTreeMap::new(),
    };
    let (other, booted, mut of_clones) = (Store::init(), Store::init(), Known::new());
    for (network, store) in [(&a, &one.store), (&b, &other), (&b, &booted)] {
        network.run(store, &format!("store tier STORE {}", proxy.uri(""))).ok();
    }
    one.store.run(&format!("image create STORE/vm {SIZE}")).ok();
    let data = pattern(seed, 0, DATA);
    let disk = disk(&data);
    if let Some(disk) = &disk {
        one.store.run(&format!("image create STORE/os --from {}", disk.path.display())).ok();
        one.store.run("image checkpoint STORE/os@v1").ok();
        a.run(&one.store, "image push STORE/os@v1").ok();
    }
    proxy.fail(FAULTS);
    let has_booted = std::thread::scope(|scope| {
        let (b, booted, from) = (&b, &booted, proxy.uri("/os@v1"));
        let guest = scope.spawn(move || disk.and_then(|_| boot_a_clone((b, booted), &from)).is_some());
        for round in 0..number("RINGNBD_TIER_KILLS").unwrap_or(KILLS) {
            one.live_and_die(&proxy, &mut random, KILLED_IN[round as usize % KILLED_IN.len()]);
            let there = acknowledged(&one.store);
            if let Some(latest) = there.last().filter(|_| round % 3 == 2) {
                let (name, bytes) = (format!("b{round}"), one.known[latest].clone());
                let from = (proxy.uri(&format!("/{latest}")), name.clone());
                let bytes = write_a_clone((b, &other), (&from.0, &from.1), bytes, (&proxy, &mut random));
                of_clones.insert(format!("{name}@mine"), bytes);
            }
        }
        guest.join().unwrap()
    });
    println!("{} kills with pushes left, in the middle: {:?}", one.cut, one.cut_in);
    assert!(one.cut > 0, "some kill was in the middle of a push");
    // A comes back, and brings what is left.
    let server = a.serve(&one.store, "?push=0s");
    one.come_back(&server);
    wait_until("all of it is pushed", || acknowledged(&one.store).len() == one.known.len());
    drop(server);
    proxy.fail(0);
    for _ in 0..2 {
        b.run(&other, "store gc STORE --tier --grace 0s").ok();
    }
    b.run(&other, "store check STORE --tier").ok();
    for (node, bytes) in one.known.iter().chain(&of_clones) {
        let new = exported(&third, &proxy.uri(&format!("/{node}")));
        assert!(std::fs::read(new.directory().join("out.raw")).unwrap() == *bytes, "{node}");
    }
    if has_booted {
        let new = exported(&third, &proxy.uri("/booted@mine"));
        let [disk, copy] = ["out.raw", "copy"].map(|name| new.directory().join(name).display().to_string());
        peers::system("debugfs", &["-R", &format!("dump /copy {copy}"), &disk]);
        assert!(std::fs::read(copy).unwrap() == data, "what the guest wrote is there");
    }
}
