//! A bucket in a server of S3 from Python's registry, and what fails on the way to it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Store;
use crate::peers::{self, Daemon, Finished};
use crate::python;

/// The server looks whether there is a signature, and not whether it is right.
const HEADERS: &str = "Host: localhost\r\nContent-Length: 0\r\nConnection: close\r\nAuthorization: AWS4-HMAC-SHA256 \
                       Credential=name/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\n";
pub(super) const CREDENTIALS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "name"), ("AWS_SECRET_ACCESS_KEY", "secret")];

pub(super) struct Bucket {
    _server: Daemon,
    port: u16,
}

impl Bucket {
    /// An empty one. `None` after a skip.
    pub(super) fn start() -> Option<Self> {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut command = python::module("moto.server")?;
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let server = Daemon::start(command, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let bucket = Self { _server: server, port };
        assert!(bucket.ask("PUT", "").starts_with(b"HTTP/1.1 200"), "the bucket is made");
        Some(bucket)
    }

    /// The whole answer to a request.
    fn ask(&self, method: &str, key: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "{method} /bucket/{key} HTTP/1.1\r\n{HEADERS}\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    pub(super) fn object(&self, key: &str) -> Vec<u8> {
        let answer = self.ask("GET", key);
        let end = end_of_head(&answer).expect("a head");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{key}: {}", String::from_utf8_lossy(&answer[..end]));
        answer[end..].to_vec()
    }

    pub(super) fn uri(&self) -> String {
        uri("127.0.0.1", self.port, "")
    }
}

/// The address of the tier, or of something in it.
fn uri(host: &str, port: u16, below: &str) -> String {
    format!("s3://bucket/some/where{below}?endpoint=http://{host}:{port}&region=us-east-1")
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// Runs a command that has credentials.
pub(super) fn run(store: &Store, line: &str) -> Finished {
    peers::run(store.command(line).envs(CREDENTIALS))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProxyFault {
    None,
    Late,
    /// 503, with and without the word that means less is to be asked for.
    Unavailable,
    SlowDown,
    /// The connection ends in the middle of the answer.
    Cut,
    /// The answer is complete, and says that it has half of the bytes.
    Short,
    /// A byte of an object is another one.
    Wrong,
    /// It took place, and nobody is told.
    Unanswered,
}

const FAULTS: [ProxyFault; 7] = [
    ProxyFault::Late,
    ProxyFault::Unavailable,
    ProxyFault::SlowDown,
    ProxyFault::Cut,
    ProxyFault::Short,
    ProxyFault::Wrong,
    ProxyFault::Unanswered,
];

/// What is counted of requests.
#[derive(Debug, Default)]
pub(super) struct ProxyCounts {
    pub(super) requests: AtomicU64,
    /// Those for parts of packs, and the bytes of their answers.
    pub(super) pack_gets: AtomicU64,
    pub(super) pack_bytes: AtomicU64,
    /// Paths of packs that were uploaded, each time.
    pub(super) uploads: Mutex<Vec<String>>,
    /// First lines of requests that wait because nothing is answered.
    waiting: Mutex<Vec<String>>,
    by_fault: Mutex<Vec<ProxyFault>>,
}

/// The head and the body of an answer that has all of an object.
type KeptAnswer = (String, Vec<u8>);

struct ProxyState {
    to: u16,
    /// Of 100 requests so many meet a fault.
    rate: AtomicU64,
    random: AtomicU64,
    is_up: AtomicBool,
    /// Requests come, and wait.
    is_silent: AtomicBool,
    /// Why all requests are refused, in a word of S3, if they are.
    denial: Mutex<Option<&'static str>>,
    /// So many of the next answers to whoever makes an object of parts are lost.
    lost_wholes: AtomicU64,
    /// These had been asked for: their parts are not known any more.
    known_wholes: Mutex<Vec<String>>,
    /// What is added to each request, in milliseconds.
    late_ms: AtomicU64,
    /// Packs are answered from here: the bucket's server reads a whole one for each part of it.
    is_keeping: AtomicBool,
    kept: Mutex<BTreeMap<String, Arc<KeptAnswer>>>,
    counts: ProxyCounts,
}

/// Stands before a bucket. Its address is a name, which clients have to look up.
pub(super) struct FaultProxy {
    host: &'static str,
    port: u16,
    state: Arc<ProxyState>,
    listening: Mutex<Option<JoinHandle<()>>>,
}

impl FaultProxy {
    pub(super) fn start(bucket: &Bucket, seed: u64) -> Self {
        Self::start_at(bucket, seed, "localhost")
    }

    /// Clients know it by the name of this host.
    pub(super) fn start_at(bucket: &Bucket, seed: u64, host: &'static str) -> Self {
        println!("seed {seed}");
        let listener =
            TcpListener::bind(if host == "localhost" { "127.0.0.1:0" } else { "0.0.0.0:0" }).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (to, random, is_up) = (bucket.port, AtomicU64::new(seed), AtomicBool::new(true));
        let (rate, is_silent, denial, lost_wholes, known_wholes) = Default::default();
        let (late_ms, is_keeping, kept, counts) = Default::default();
        let state = ProxyState {
            to,
            rate,
            random,
            is_up,
            is_silent,
            denial,
            lost_wholes,
            known_wholes,
            late_ms,
            is_keeping,
            kept,
            counts,
        };
        let state = Arc::new(state);
        let proxy = Self { host, port, state, listening: Mutex::default() };
        proxy.listen(listener);
        proxy
    }

    fn listen(&self, listener: TcpListener) {
        self.state.is_up.store(true, Ordering::SeqCst);
        let state = Arc::clone(&self.state);
        let accept = move || {
            for stream in listener.incoming() {
                if !state.is_up.load(Ordering::SeqCst) {
                    return;
                }
                let (stream, state) = (stream.unwrap(), Arc::clone(&state));
                // A client that went away is its own affair.
                std::thread::spawn(move || drop(state.pass(stream)));
            }
        };
        *self.listening.lock().unwrap() = Some(std::thread::spawn(accept));
    }

    /// Nobody listens from now on.
    pub(super) fn go_away(&self) {
        self.state.is_up.store(false, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        self.listening.lock().unwrap().take().unwrap().join().unwrap();
        assert!(TcpStream::connect(("127.0.0.1", self.port)).is_err(), "the connection is refused");
    }

    pub(super) fn come_back(&self) {
        self.listen(TcpListener::bind(("127.0.0.1", self.port)).unwrap());
    }

    /// Requests have no answer for as long as this is so.
    pub(super) fn be_silent(&self, is_so: bool) {
        self.state.is_silent.store(is_so, Ordering::SeqCst);
    }

    /// How many requests wait now, of those whose first line has this word.
    pub(super) fn waiting(&self, word: &str) -> usize {
        self.state.counts.waiting.lock().unwrap().iter().filter(|line| line.contains(word)).count()
    }

    /// All requests are refused for this reason, or none any more.
    pub(super) fn deny(&self, why: Option<&'static str>) {
        *self.state.denial.lock().unwrap() = why;
    }

    /// The next uploads in parts become objects, and nobody is told.
    pub(super) fn lose_wholes(&self, count: u64) {
        self.state.lost_wholes.store(count, Ordering::SeqCst);
    }

    pub(super) fn lost_wholes(&self) -> u64 {
        self.state.lost_wholes.load(Ordering::SeqCst)
    }

    /// An object store that is fast, and so far away.
    pub(super) fn be_far(&self, late_ms: u64) {
        self.state.late_ms.store(late_ms, Ordering::SeqCst);
        self.state.is_keeping.store(true, Ordering::SeqCst);
    }

    pub(super) fn fail(&self, percent: u64) {
        self.state.rate.store(percent, Ordering::SeqCst);
    }

    /// The address of the tier, or of something in it.
    pub(super) fn uri(&self, below: &str) -> String {
        uri(self.host, self.port, below)
    }

    pub(super) fn counts(&self) -> &ProxyCounts {
        &self.state.counts
    }

    /// Each kind of fault has happened.
    pub(super) fn all_happened(&self) {
        let seen = self.state.counts.by_fault.lock().unwrap();
        for fault in FAULTS {
            assert!(seen.contains(&fault), "{fault:?} did not happen among {} faults", seen.len());
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if self.state.is_up.load(Ordering::SeqCst) {
            self.state.is_up.store(false, Ordering::SeqCst);
            drop(TcpStream::connect(("127.0.0.1", self.port)));
        }
    }
}

/// A request or an answer that says how long its body is.
pub(super) fn read_message(from: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 65_536];
    let head = loop {
        if let Some(end) = end_of_head(&bytes) {
            break end;
        }
        let count = from.read(&mut piece)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&piece[..count]);
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let length = value(&text, "content-length").map_or(0, |value| value.parse().unwrap());
    let mut body = bytes.split_off(head);
    // The answer to HEAD has no body; the other end closes instead.
    while body.len() < length {
        let count = from.read(&mut piece)?;
        if count == 0 {
            break;
        }
        body.extend_from_slice(&piece[..count]);
    }
    Ok((text, body))
}

pub(super) fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// The head with another value of a header.
fn with(head: &str, name: &str, value: &str) -> String {
    let others = without(head, name);
    format!("{}{name}: {value}\r\n\r\n", others.strip_suffix("\r\n").unwrap())
}

fn without(head: &str, name: &str) -> String {
    let others = head.lines().filter(|line| {
        !line.is_empty() && !line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
    });
    others.map(|line| format!("{line}\r\n")).collect::<String>() + "\r\n"
}

const UNAVAILABLE: &str = "503 Service Unavailable";

fn refuse(client: &mut TcpStream, status: &str, code: &str) -> std::io::Result<()> {
    let body = format!("<Error><Code>{code}</Code></Error>");
    let length = body.len();
    write!(client, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

fn took_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl ProxyState {
    fn fault(&self) -> ProxyFault {
        // Xorshift.
        let next = |mut x: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^ (x << 17)
        };
        let random = self.random.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |x| Some(next(x))).unwrap();
        if random % 100 >= self.rate.load(Ordering::SeqCst) {
            return ProxyFault::None;
        }
        FAULTS[(random / 100 % FAULTS.len() as u64) as usize]
    }

    fn ask(&self, head: &str, body: &[u8]) -> std::io::Result<(String, Vec<u8>)> {
        let mut server = TcpStream::connect(("127.0.0.1", self.to))?;
        server.write_all(with(head, "Connection", "close").as_bytes())?;
        server.write_all(body)?;
        read_message(&mut server)
    }

    /// The part of an object that is asked for, which is fetched as a whole once.
    fn part_of_kept(&self, head: &str) -> std::io::Result<(String, Vec<u8>)> {
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let mut kept = self.kept.lock().unwrap();
        if !kept.contains_key(&path) {
            let whole = self.ask(&without(head, "Range"), &[])?;
            assert!(whole.0.starts_with("HTTP/1.1 200"), "{path}: {}", whole.0);
            kept.insert(path.clone(), Arc::new(whole));
        }
        let whole = Arc::clone(&kept[&path]);
        drop(kept);
        let range = value(head, "range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let (start, last) = range.expect("a part is asked for");
        let (start, end) = (start.parse().unwrap(), last.parse::<usize>().unwrap() + 1);
        let part = whole.1[start..end].to_vec();
        let head = whole.0.replacen("200 OK", "206 Partial Content", 1);
        let head = with(&head, "Content-Length", &part.len().to_string());
        let place = format!("bytes {start}-{last}/{}", whole.1.len());
        Ok((with(&head, "Content-Range", &place), part))
    }

    fn wait_while_silent(&self, line: &str) {
        let waiting = || self.counts.waiting.lock().unwrap();
        if !self.is_silent.load(Ordering::SeqCst) {
            return;
        }
        waiting().push(line.to_owned());
        while self.is_silent.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut waiting = waiting();
        let at = waiting.iter().position(|other| other == line).unwrap();
        waiting.swap_remove(at);
    }

    /// Passes one request on.
    fn pass(&self, mut client: TcpStream) -> std::io::Result<()> {
        let (head, body) = read_message(&mut client)?;
        let line = head.lines().next().unwrap().to_owned();
        self.wait_while_silent(&line);
        std::thread::sleep(Duration::from_millis(self.late_ms.load(Ordering::SeqCst)));
        let is_get_of_pack = line.starts_with("GET ") && line.contains(".pack");
        let is_get_of_object = is_get_of_pack || line.starts_with("GET ") && line.contains(".json");
        let is_whole = line.starts_with("POST ") && line.contains("uploadId=");
        let path_of_upload = head.strip_prefix("PUT ").and_then(|rest| rest.split(' ').next());
        let path_of_upload = path_of_upload.filter(|path| path.contains(".pack")).map(str::to_owned);
        self.counts.requests.fetch_add(1, Ordering::SeqCst);
        if is_whole && self.known_wholes.lock().unwrap().contains(&line) {
            return refuse(&mut client, "404 Not Found", "NoSuchUpload");
        }
        let fault = match self.fault() {
            // What is no object has nothing that tells its bytes from others.
            ProxyFault::Wrong | ProxyFault::Short if !is_get_of_object => ProxyFault::None,
            _ if is_whole && took_one(&self.lost_wholes) => {
                self.known_wholes.lock().unwrap().push(line);
                ProxyFault::Unanswered
            }
            fault => fault,
        };
        self.counts.by_fault.lock().unwrap().push(fault);
        if let Some(code) = *self.denial.lock().unwrap() {
            return refuse(&mut client, "403 Forbidden", code);
        }
        match fault {
            ProxyFault::Late => std::thread::sleep(Duration::from_millis(150)),
            ProxyFault::Unavailable => return refuse(&mut client, UNAVAILABLE, "InternalError"),
            ProxyFault::SlowDown => return refuse(&mut client, UNAVAILABLE, "SlowDown"),
            _ => {}
        }
        let (head, mut body) = match is_get_of_pack && self.is_keeping.load(Ordering::SeqCst) {
            true => self.part_of_kept(&head)?,
            false => self.ask(&head, &body)?,
        };
        let mut head = with(&head, "Connection", "close");
        if is_get_of_pack {
            self.counts.pack_gets.fetch_add(1, Ordering::SeqCst);
            self.counts.pack_bytes.fetch_add(body.len() as u64, Ordering::SeqCst);
        }
        if let Some(path) = path_of_upload {
            self.counts.uploads.lock().unwrap().push(path);
        }
        match fault {
            ProxyFault::Unanswered => return Ok(()),
            ProxyFault::Cut => body.truncate(body.len() / 2),
            ProxyFault::Short => {
                body.truncate(body.len() / 2);
                head = with(&head, "Content-Length", &body.len().to_string());
            }
            ProxyFault::Wrong => {
                let middle = body.len() / 2;
                body.get_mut(middle).into_iter().for_each(|byte| *byte ^= 0x40);
            }
            _ => {}
        }
        client.write_all(head.as_bytes())?;
        client.write_all(&body)
    }
}
