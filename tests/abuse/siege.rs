//! A server under abuse: what it holds before, during and after, and how a good client fares beside it.

use std::cell::Cell;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::good::{Good, REGION, SEED};
use crate::http::Address;
use crate::support::image::{Image, pattern};
use crate::support::raw::{Connection, Mode};
use crate::support::server::{Options, Server};
use crate::support::wire::*;
use crate::support::{PATIENCE, wait_until};

/// Memory of the server beside `--memory`: program, stacks, histograms, bookkeeping of connections and requests.
const BESIDE_THE_CAP: u64 = 24 * MIB;
/// The same of each connection beyond a thousand.
const BY_CONNECTION: u64 = 3 * KIB;
/// Bytes of its disk: holes, but for what the good client works on.
pub(crate) const DISK: u64 = 8 * GIB;
/// The export whose reads always take buffer memory: those of a file in the page cache take none. Its first bytes are no hole.
pub(crate) const HOARD: &str = "hoard";
/// The good client must get so much done while an abuse holds on.
const PROGRESS: u64 = 100;
/// Its speed is taken over at least so long.
const SPAN: Duration = Duration::from_millis(150);
/// The share of its speed that it keeps, if that is asserted.
const SPEED_KEPT: f64 = 0.8;

/// Whether speeds are asserted and everything takes longer.
pub(crate) fn figures_wanted() -> bool {
    std::env::var("RINGNBD_ABUSE_FIGURES").as_deref() == Ok("1")
}

/// What a server holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    /// Connections, table slots, replies, buffer memory, receive buffers, ring operations: by shard.
    shards: Vec<[u64; 6]>,
}

pub(crate) struct Siege {
    pub(crate) server: Server,
    admin: Address,
    _image: Image,
    memory: u64,
    before: Holdings,
    good: Good,
    most_anonymous: Cell<u64>,
}

impl Siege {
    /// So many connections will be open.
    pub(crate) fn expect_connections(&mut self, count: u64) {
        self.memory += count.saturating_sub(1000) * BY_CONNECTION;
    }

    /// A server with one shard and 80 MiB, on a unix socket and a TCP port.
    #[track_caller]
    pub(crate) fn lay() -> Self {
        Self::with(|options| options)
    }

    #[track_caller]
    pub(crate) fn with(more: impl FnOnce(Options) -> Options) -> Self {
        let image = Image::sparse(DISK);
        image.write(0, &pattern(SEED, 0, REGION as usize));
        let options = Options::new().export(format!("file:{}", image.path.display()));
        let options = options.export(format!("{HOARD}=mem:64M")).shards(1);
        let options = options.memory("80M").tcp("127.0.0.1:0").args(["--admin", "127.0.0.1:0"]);
        let server = more(options).start();
        let admin = Address::of(&server);
        let none = Holdings { descriptors: 0, shards: Vec::new() };
        let (good, most_anonymous) = (Good::default(), Cell::new(0));
        let mut siege =
            Self { server, admin, _image: image, memory: 80 * MIB, before: none, good, most_anonymous };
        // What is made once, at the first request, is no leak.
        let mut first = Connection::attach(&siege.server, "", Mode::Structured);
        first.read(0, 65536);
        first.disconnect();
        let mut first = Connection::attach(&siege.server, HOARD, Mode::Simple);
        first.write(0, &pattern(SEED, 0, REGION as usize));
        first.disconnect();
        wait_until("the first client to be gone", || siege.shards().iter().all(|shard| shard[..3] == [0; 3]));
        siege.before = siege.holdings();
        siege
    }

    fn shards(&self) -> Vec<[u64; 6]> {
        let answer = self.admin.get("/api/v1/server");
        let server: Value = serde_json::from_str(&answer.body).expect("JSON");
        let gauge =
            |shard: &Value, name: &str| shard[name].as_u64().unwrap_or_else(|| panic!("no {name}: {server}"));
        let names = [
            "connections",
            "in_flight",
            "unsent",
            "buffer_memory_used_bytes",
            "receive_buffers_available",
            "ring_operations",
        ];
        let shards = server["shards"].as_array().expect("shards").iter();
        shards.map(|shard| names.map(|name| gauge(shard, name))).collect()
    }

    fn holdings(&self) -> Holdings {
        let shards = self.shards();
        let listed = std::fs::read_dir(format!("/proc/{}/fd", self.server.pid())).expect("list descriptors");
        Holdings { descriptors: listed.count(), shards }
    }

    /// The sum of all samples of the metrics that begin with this.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.admin.get("/metrics").body;
        let samples = text.lines().filter(|line| line.starts_with(name));
        samples
            .map(|line| line.rsplit(' ').next().and_then(|it| it.parse::<u64>().ok()).expect("a number"))
            .sum()
    }

    /// Anonymous memory of the server in bytes.
    pub(crate) fn anonymous(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.server.pid())).expect("read /proc");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("an RssAnon line");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
    }

    /// The good client goes on: waits until it got something done, and looks at the server's memory.
    #[track_caller]
    pub(crate) fn good_client_goes_on(&self) {
        let begin = Instant::now();
        let from = self.good.done.load(Ordering::Relaxed);
        while self.good.done.load(Ordering::Relaxed) < from + PROGRESS || begin.elapsed() < SPAN {
            if begin.elapsed() > PATIENCE {
                // The server is not asked to end in order: it could not, and this is what is to be told.
                let done = self.good.done.load(Ordering::Relaxed) - from;
                panic!("the good client got {done} answers in {PATIENCE:?}: {:?}", self.holdings());
            }
            self.look();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Takes note of the server's memory.
    pub(crate) fn look(&self) {
        self.most_anonymous.set(self.most_anonymous.get().max(self.anonymous()));
    }

    /// Lets `abuse` happen beside a good client, and looks at what is left of it. What it returns goes on until it is dropped; the good
    /// client's speed is taken meanwhile.
    #[track_caller]
    pub(crate) fn endure<T>(&mut self, name: &str, abuse: impl FnOnce(&Siege) -> T) {
        self.endure_busy(name, 0, abuse);
    }

    /// As [`Siege::endure`], for abuse that keeps so many clients busy: the good client's speed is compared to the one that it has beside
    /// as many good ones, because busy clients share the processors.
    #[track_caller]
    pub(crate) fn endure_busy<T>(&mut self, name: &str, busy: usize, abuse: impl FnOnce(&Siege) -> T) {
        let (server, good, rivals) = (&self.server, &self.good, Good::default());
        let attach = || Connection::attach(server, "", Mode::Simple);
        let (alone, fair, beside) = std::thread::scope(|scope| {
            let client = attach();
            let worker = scope.spawn(|| good.work(client));
            let (stop, stop_rivals) = (StopWhenDropped(good), StopWhenDropped(&rivals));
            let siege = &*self;
            siege.good_client_goes_on(); // warms up
            let alone = siege.speed();
            for rival in (0..busy).map(|_| attach()) {
                scope.spawn(|| rivals.work(rival));
            }
            let fair = if busy > 0 { siege.speed() } else { alone };
            drop(stop_rivals);
            let goes_on = abuse(siege);
            let beside = siege.speed();
            drop(goes_on);
            drop(stop);
            worker.join().expect("the good client is content");
            (alone, fair, beside)
        });
        let most = self.most_anonymous.get();
        let kept = beside / fair;
        println!(
            "-- {name}: good client {alone:.0}/s alone, {fair:.0}/s beside {busy} good ones, {beside:.0}/s beside this ({kept:.2}); {:.1} MiB of memory at most",
            most as f64 / MIB as f64,
        );
        // The address sanitizer keeps what was freed.
        let is_sanitized = std::env::var_os("ASAN_OPTIONS").is_some();
        assert!(is_sanitized || most < self.memory + BESIDE_THE_CAP, "{name}: {most} bytes of memory");
        assert!(!figures_wanted() || kept >= SPEED_KEPT, "{name}: the good client lost too much speed");
        self.expect_nothing_left(name);
    }

    /// Answers of the good client by second: of several spans the best, in which the machine did the least of other things.
    #[track_caller]
    fn speed(&self) -> f64 {
        let span = || {
            let (begin, from) = (Instant::now(), self.good.done.load(Ordering::Relaxed));
            self.good_client_goes_on();
            (self.good.done.load(Ordering::Relaxed) - from) as f64 / begin.elapsed().as_secs_f64()
        };
        let spans = if figures_wanted() { 12 } else { 1 };
        (0..spans).map(|_| span()).fold(0.0, f64::max)
    }

    /// Connections in transmission.
    pub(crate) fn connections(&self) -> u64 {
        self.shards().iter().map(|shard| shard[0]).sum()
    }

    /// Requests whose reply is not out.
    pub(crate) fn unsent(&self) -> u64 {
        self.shards().iter().map(|shard| shard[2]).sum()
    }

    /// Where other threads find the server.
    pub(crate) fn door(&self) -> Door {
        Door(self.server.socket())
    }

    #[track_caller]
    fn expect_nothing_left(&self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.holdings();
            // The question that was asked before may have had its socket still.
            if now.shards == self.before.shards && now.descriptors <= self.before.descriptors {
                return;
            }
            assert!(Instant::now() < deadline, "{name} left something: {now:?}, before: {:?}", self.before);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Ends the good client, also when the test fails.
struct StopWhenDropped<'a>(&'a Good);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Where a server is.
#[derive(Clone)]
pub(crate) struct Door(PathBuf);

impl Door {
    /// A connection on which nothing was said yet.
    #[track_caller]
    pub(crate) fn open(&self) -> Connection {
        Connection::over_unix(UnixStream::connect(&self.0).expect("connect"))
    }

    /// A connection in transmission.
    #[track_caller]
    pub(crate) fn attach(&self, mode: Mode) -> Connection {
        let mut client = self.open();
        client.greet(MODERN);
        client.choose(mode);
        client.go("");
        client
    }
}

/// Does something again and again, on a thread of its own, until it is dropped.
pub(crate) struct Again {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Again {
    pub(crate) fn and_again(mut step: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            while !stopped.load(Ordering::Relaxed) {
                step();
            }
        };
        Self { stop, thread: Some(std::thread::spawn(work)) }
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("once").join();
        assert!(ended.is_ok() || std::thread::panicking(), "the abuser failed");
    }
}
