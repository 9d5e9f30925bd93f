//! Handshakes of TLS that are begun and not ended, and those that break the rules of TLS on the way.
//!
//!     RINGNBD_TLS_HANDSHAKES=10000 cargo test --test abuse tls -- --nocapture      as many as there are descriptors for

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use ringnbd::internal::tls::rustls::version::{TLS12, TLS13};
use ringnbd::internal::tls::rustls::{self, ClientConnection};

use crate::good::{REGION, SEED};
use crate::siege::Siege;
use crate::support::image::pattern;
use crate::support::raw::{Connection, Mode, Request};
use crate::support::tls::{client, start_tls, start_tls_speaking, write_files};
use crate::support::wire::*;
use crate::support::{PATIENCE, wait_until};

/// Bytes that a handshake is charged, beside what it sends: twice `HANDSHAKE_CLAIM` of the server.
const CHARGED: u64 = 16 << 10;

/// A server for clients with and without TLS.
fn lay(more: &[&str]) -> (Siege, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    let path = dir.path().to_str().unwrap();
    let fixed = ["--tls", path, "--tls-mode", "selective"];
    let siege = Siege::with(|options| options.args(fixed.iter().chain(more).copied()));
    (siege, dir)
}

/// A client that was told to begin its handshake.
fn begin(siege: &Siege) -> UnixStream {
    let mut socket = UnixStream::connect(siege.server.socket()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.read_exact(&mut [0; 18]).unwrap();
    socket.write_all(&[&MODERN.to_be_bytes()[..], &option(NBD_OPT_STARTTLS, b"")].concat()).unwrap();
    socket.read_exact(&mut [0; 20]).unwrap();
    socket
}

fn hello(dir: &Path) -> (ClientConnection, Vec<u8>) {
    let mut tls = client(dir);
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    (tls, hello)
}

/// A handshake goes on as it should, next to all others.
fn expect_service(siege: &Siege, dir: &Path) {
    let mut socket = UnixStream::connect(siege.server.socket()).unwrap();
    socket.read_exact(&mut [0; 18]).unwrap();
    start_tls(&mut socket, &MODERN.to_be_bytes(), dir).unwrap();
}

/// Ends of handshakes: all that failed, by the metrics.
fn failures(siege: &Siege) -> u64 {
    siege.metric("ringnbd_tls_failures_total{")
}

#[test]
fn half_handshakes_end_by_themselves() {
    let count = std::env::var("RINGNBD_TLS_HANDSHAKES").map_or(500, |count| count.parse().expect("a number"));
    let places = (count + 100).to_string();
    let (mut siege, dir) = lay(&["--handshake-timeout", "5s", "--max-connections", &places]);
    siege.expect_connections(count);
    siege.endure(&format!("{count} half handshakes of TLS"), |siege| {
        let mut clients = Vec::new();
        for index in 0..count {
            let mut socket = begin(siege);
            let (_, hello) = hello(dir.path());
            let half = &hello[..hello.len() / 2];
            let sent = match index % 5 {
                0 => &[][..],
                1 => &hello[..3],
                2 => half,
                3 => &hello,
                // It goes on very slowly: a byte now, and nothing more.
                _ => &hello[..hello.len() - 1],
            };
            // The server may be waiting for memory.
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.write_all(sent).unwrap();
            clients.push(socket);
            if index % 100 == 0 {
                siege.look();
            }
        }
        Connection::attach(&siege.server, "", Mode::Simple).expect_alive();
        siege.good_client_goes_on();
        for socket in &mut clients {
            // What came of the handshake, and then the end.
            let _reset = socket.read_to_end(&mut Vec::new());
        }
        expect_service(siege, dir.path());
        clients
    });
    wait_until("all are counted", || failures(&siege) == count);
    assert_eq!(siege.metric("ringnbd_tls_failures_total{reason=\"timed_out\"}"), count);
}

/// What a handshake takes at its longest, beside what each connection takes, is what it is charged, or less.
#[test]
fn a_handshake_takes_no_more_than_it_is_charged() {
    const MANY: usize = 600;
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    let path = dir.path().to_str().unwrap();
    // All of them have room at once.
    let fixed = ["--tls", path, "--tls-mode", "selective", "--handshake-timeout", "60s"];
    // Each time a new server: memory that was freed would be used again.
    let taken = |many: usize, open: &dyn Fn(&Siege) -> UnixStream| {
        let siege = Siege::with(|options| options.memory("512M").args(fixed));
        // What is made once.
        for _ in 0..20 {
            expect_service(&siege, dir.path());
        }
        let _first: Vec<_> = (0..20).map(|_| open(&siege)).collect();
        let before = siege.anonymous();
        let all: Vec<_> = (0..many).map(|_| open(&siege)).collect();
        // What was sent last is read by then.
        expect_service(&siege, dir.path());
        let taken = siege.anonymous().saturating_sub(before) / many as u64;
        drop(all);
        taken
    };
    let plain = taken(MANY, &begin);
    let with_tls = taken(MANY, &|siege| {
        let mut socket = begin(siege);
        let (_, hello) = hello(dir.path());
        socket.write_all(&hello).unwrap();
        // The server has done its part, and waits for the client's.
        socket.read_exact(&mut [0; 5]).unwrap();
        socket
    });
    // The longest ClientHello, but for its end.
    let long = [&[22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb][..], &[0; 16_000]].concat();
    let with_long_hello = taken(150, &|siege| {
        let mut socket = begin(siege);
        socket.write_all(&long).unwrap();
        socket
    });
    println!(
        "-- a handshake takes {plain} bytes before TLS, {with_tls} bytes within it, {with_long_hello} bytes with a long hello; \
         it is charged {CHARGED}, and 4 x what it sends"
    );
    // The address sanitizer keeps what was freed.
    let is_sanitized = std::env::var_os("ASAN_OPTIONS").is_some();
    assert!(is_sanitized || with_tls.saturating_sub(plain) <= CHARGED, "{with_tls} bytes");
    let charged = 4 * long.len() as u64;
    assert!(is_sanitized || with_long_hello.saturating_sub(plain) <= charged, "{with_long_hello} bytes");
}

/// A small generator: which bytes are spoiled.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides
    }
}

/// Takes a stream of records apart.
fn records(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while stream.len() >= 5 {
        let length = 5 + usize::from(u16::from_be_bytes([stream[3], stream[4]]));
        let (record, rest) = stream.split_at(length.min(stream.len()));
        records.push(record.to_vec());
        stream = rest;
    }
    records
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3][..], &(body.len() as u16).to_be_bytes(), body].concat()
}

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// What is done to the records of a flight; none if nothing is.
fn spoiled(mut flight: Vec<Vec<u8>>, dice: &mut Dice) -> Vec<u8> {
    let at = dice.throw(flight.len());
    match dice.throw(10) {
        0 => {
            let byte = dice.throw(flight[at].len());
            flight[at][byte] ^= 1 << dice.throw(8);
        }
        1 => {
            let length = dice.throw(flight[at].len());
            flight[at].truncate(length);
            flight.truncate(at + 1);
        }
        2 => flight.insert(at, flight[at].clone()),
        3 => flight.insert(at, record([HANDSHAKE, DATA, ALERT, 0, 99][dice.throw(5)], b"")),
        4 => flight[at][3..5].copy_from_slice(&[0xff, 0xff]),
        5 => flight[at][0] = [CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, DATA, 24, 0][dice.throw(6)],
        6 => flight.insert(at, option(NBD_OPT_LIST, b"")),
        7 => flight.insert(at, record(ALERT, &[dice.throw(3) as u8, dice.throw(120) as u8])),
        8 => {
            // A message in many records, with something that does not belong there in between.
            let whole = flight.remove(at);
            let (kind, body) = (whole[0], &whole[5..]);
            for (index, byte) in
                body.chunks(1 + dice.throw(40)).enumerate().collect::<Vec<_>>().into_iter().rev()
            {
                flight.insert(at, record(kind, byte));
                if index == 1 {
                    flight.insert(at, record([CHANGE_CIPHER_SPEC, ALERT, DATA][dice.throw(3)], &[1]));
                }
            }
        }
        _ => flight.insert(at, record(DATA, &vec![dice.throw(256) as u8; dice.throw(17_000)])),
    }
    flight.concat()
}

/// Goes through a handshake, and spoils its first flight or its second.
fn break_one(siege: &Siege, dir: &Path, dice: &mut Dice) {
    let mut socket = begin(siege);
    let (mut tls, hello) = hello(dir);
    let early = dice.throw(2) == 0;
    let first = if early { spoiled(records(&hello), dice) } else { hello };
    // The server may have closed it already, here and below.
    let _closed = socket.write_all(&first);
    if !early {
        while tls.is_handshaking() && !tls.wants_write() {
            tls.read_tls(&mut socket).expect("the server's flight");
            tls.process_new_packets().expect("it is a good one");
        }
        let mut second = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut second).unwrap();
        }
        let _closed = socket.write_all(&spoiled(records(&second), dice));
    }
    let _rest = until_the_end(socket);
}

/// Says that no more comes, and gives what the server says up to the end of the connection.
fn until_the_end(mut socket: UnixStream) -> Vec<u8> {
    let _closed = socket.shutdown(Shutdown::Write);
    let mut rest = Vec::new();
    let ended = socket.read_to_end(&mut rest);
    let is_reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
    assert!(
        ended.as_ref().is_ok() || ended.as_ref().is_err_and(is_reset),
        "the server did not close it: {ended:?}"
    );
    rest
}

fn seed() -> u64 {
    let seed = std::env::var("RINGNBD_SEED").map_or_else(
        |_| std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1,
        |seed| seed.parse().expect("a number"),
    );
    println!("RINGNBD_SEED={seed}");
    seed
}

/// Truncated, changed, repeated, empty, oversized, interleaved records, of wrong types, plain text, in either flight: each ends its
/// connection and is counted, and nothing is left.
#[test]
fn handshakes_that_break_the_rules() {
    const MANY: u64 = 400;
    let seed = seed();
    let (mut siege, dir) = lay(&["--handshake-timeout", "20s"]);
    siege.endure(&format!("{MANY} handshakes of TLS that break its rules"), |siege| {
        let mut dice = Dice(seed);
        for _ in 0..MANY {
            break_one(siege, dir.path(), &mut dice);
        }
        expect_service(siege, dir.path());
    });
    // A record that may stand where it does spoils nothing.
    let ended = || failures(&siege) + siege.metric("ringnbd_tls_sessions_total{");
    wait_until("each is counted", || ended() == MANY + 1);
    let of = |reason: &str| siege.metric(&format!("ringnbd_tls_failures_total{{reason=\"{reason}\"}}"));
    let reasons = [
        "not_tls",
        "malformed",
        "gone",
        "client",
        "certificate",
        "old_version",
        "nothing_in_common",
        "shared_key",
    ];
    let counts = reasons.map(|reason| (reason, of(reason)));
    println!("-- {counts:?}");
    assert!(of("not_tls") > 0 && of("malformed") > 0, "{counts:?}");
    assert_eq!((of("internal"), of("timed_out")), (0, 0), "none is a fault of ours, and none hangs");
    assert!(failures(&siege) > MANY / 2, "{counts:?}");
}

/// What is done to records behind the handshake; `foreign` is one of another connection.
fn spoiled_requests(mut flight: Vec<Vec<u8>>, foreign: Vec<u8>, dice: &mut Dice) -> Vec<u8> {
    let at = dice.throw(flight.len());
    match dice.throw(5) {
        0 => flight.rotate_left(at),
        1 => drop(flight.remove(at)),
        2 => flight.insert(at, foreign),
        _ => return spoiled(flight, dice),
    }
    flight.concat()
}

/// Bytes of each read.
const READ: u64 = 4096;

/// Asks for some reads behind a handshake, and spoils the records of that. Every answer is one to a request that was sent, and none
/// comes twice.
fn break_records(siege: &Siege, dir: &Path, dice: &mut Dice, foreign: &mut Vec<u8>) {
    let mut socket = UnixStream::connect(siege.server.socket()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.read_exact(&mut [0; 18]).unwrap();
    let version = [&TLS12, &TLS13][dice.throw(2)];
    let mut tls = start_tls_speaking(&mut socket, &MODERN.to_be_bytes(), dir, version).unwrap();
    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
    stream.write_all(&option(NBD_OPT_EXPORT_NAME, b"")).unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    let mut flight = Vec::new();
    for number in 0..1 + dice.throw(6) as u64 {
        let request = Request::read(number * READ, READ).cookie(number);
        tls.writer().write_all(&request.encode(Mode::Simple)).unwrap();
        let mut record = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut record).unwrap();
        }
        flight.push(record);
    }
    let last = flight.last().expect("there is one").clone();
    let sent = spoiled_requests(flight, std::mem::replace(foreign, last), dice);
    // The server may have closed it already.
    let _closed = socket.write_all(&sent);
    let received = until_the_end(socket);
    let (mut rest, mut answers) = (&received[..], Vec::new());
    while !rest.is_empty() {
        tls.read_tls(&mut rest).unwrap();
        let state = tls.process_new_packets();
        // What came before an alert is there too.
        let _more_to_come = tls.reader().read_to_end(&mut answers);
        match state {
            Ok(_) => {}
            Err(rustls::Error::AlertReceived(_)) => break,
            Err(error) => panic!("{version:?}: {error}"),
        }
    }
    expect_reads(&answers);
}

#[track_caller]
fn expect_reads(answers: &[u8]) {
    let disk = pattern(SEED, 0, REGION as usize);
    let mut seen = BTreeSet::new();
    for answer in answers.chunks(16 + READ as usize) {
        assert_eq!(
            (answer.len(), be32(answer, 0)),
            (16 + READ as usize, NBD_SIMPLE_REPLY_MAGIC),
            "a whole answer"
        );
        let number = u64::from_be_bytes(answer[8..16].try_into().unwrap());
        assert!(be32(answer, 4) == 0 && seen.insert(number), "the answer to {number}: {answer:?}");
        let data = &disk[(number * READ) as usize..][..READ as usize];
        assert!(&answer[16..] == data, "the data of {number}");
    }
}

/// The same behind the handshake, of TLS 1.3 and 1.2: also in another order, left out, and of another connection.
#[test]
fn records_that_break_the_rules() {
    const MANY: u64 = 400;
    let seed = seed();
    let (mut siege, dir) = lay(&["--tls-min-version", "1.2"]);
    siege.endure(&format!("{MANY} sessions of TLS that break its rules"), |siege| {
        let (mut dice, mut foreign) = (Dice(seed), record(DATA, &[1; 60]));
        for _ in 0..MANY {
            break_records(siege, dir.path(), &mut dice, &mut foreign);
        }
        expect_service(siege, dir.path());
    });
    let errors = siege.metric("ringnbd_tls_record_errors_total");
    println!("-- {errors} of them were told");
    assert!(errors > MANY / 2, "{errors}");
    for version in ["1.2", "1.3"] {
        let sessions = siege.metric(&format!("ringnbd_tls_sessions_total{{version=\"{version}\""));
        assert!(sessions > MANY / 4, "{sessions} of {version}");
    }
}
