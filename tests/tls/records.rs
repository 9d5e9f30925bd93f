//! Clients that break the rules of TLS, and those that keep them in odd ways. The client is rustls, and what it makes is changed on
//! the way.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use ringnbd::internal::tls::rustls::{self, AlertDescription, ClientConnection};

use super::{SIZE, Served};
use crate::support::image::pattern;
use crate::support::raw::{Mode, Request};
use crate::support::tls::start_tls;
use crate::support::wire::*;
use crate::support::{PATIENCE, wait_until};

/// A client in the transmission phase, with simple replies.
pub(super) struct Client {
    socket: UnixStream,
    tls: ClientConnection,
}

pub(super) fn connect(served: &Served) -> UnixStream {
    let mut socket = UnixStream::connect(served.server.socket()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting).unwrap();
    socket
}

impl Client {
    pub(super) fn open(served: &Served) -> Self {
        Self::try_open(served, served.files.path()).unwrap()
    }

    /// With the authority and the certificate of a directory.
    pub(super) fn try_open(served: &Served, dir: &Path) -> std::io::Result<Self> {
        let mut socket = connect(served);
        let tls = start_tls(&mut socket, &MODERN.to_be_bytes(), dir)?;
        let mut client = Self { socket, tls };
        // With TLS 1.3 a client hears only now that its certificate was refused, and if the server has closed already, by
        // the failure of its write.
        let records = client.records(&option(NBD_OPT_EXPORT_NAME, b""));
        client.socket.write_all(&records)?;
        let mut told = [0; 10];
        rustls::Stream::new(&mut client.tls, &mut client.socket).read_exact(&mut told)?;
        assert_eq!(told[..8], SIZE.to_be_bytes());
        Ok(client)
    }

    /// Data as records.
    fn records(&mut self, data: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(data).unwrap();
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records).unwrap();
        }
        records
    }

    pub(super) fn send(&mut self, data: &[u8]) {
        let records = self.records(data);
        self.socket.write_all(&records).unwrap();
    }

    fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        rustls::Stream::new(&mut self.tls, &mut self.socket).read_exact(&mut data).unwrap();
        data
    }

    /// One request and its reply: the error, and so many bytes of data.
    fn ask(&mut self, request: &Request, data: usize) -> (u32, Vec<u8>) {
        self.send(&request.encode(Mode::Simple));
        self.answer(data)
    }

    pub(super) fn answer(&mut self, data: usize) -> (u32, Vec<u8>) {
        let header = self.receive(16);
        let error = u32::from_be_bytes(header[4..8].try_into().unwrap());
        (error, if error == 0 { self.receive(data) } else { Vec::new() })
    }

    pub(super) fn expect_alive(&mut self) {
        assert_eq!(self.ask(&Request::read(0, 512), 512).0, 0);
    }

    /// What the server tells at the end: nothing is wrong, or an alert. Bytes before it are skipped.
    pub(super) fn end(&mut self) -> Result<(), AlertDescription> {
        let mut bytes = [0; 4096];
        loop {
            match self.tls.process_new_packets() {
                Ok(state) if state.peer_has_closed() => {
                    assert_eq!(self.socket.read(&mut bytes).unwrap_or(0), 0, "nothing comes behind it");
                    return Ok(());
                }
                Ok(_) => while self.tls.reader().read(&mut bytes).is_ok_and(|count| count > 0) {},
                Err(rustls::Error::AlertReceived(alert)) => return Err(alert),
                Err(error) => panic!("{error}"),
            }
            match self.tls.read_tls(&mut self.socket) {
                Ok(0) => panic!("the end came without a word"),
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Truncated, changed, replayed, oversized, of another type, in plain text: the client is told, and nobody else notices.
#[test]
fn wrong_records_end_their_connection_with_an_alert() {
    let served = Served::start();
    let mut other = Client::open(&served);
    let request = Request::read(4096, 512).encode(Mode::Simple);
    type Spoil = fn(Vec<u8>) -> Vec<u8>;
    let cases: [(&str, AlertDescription, Spoil); 8] = [
        ("a changed byte", AlertDescription::BadRecordMac, |mut record| {
            record[20] ^= 1;
            record
        }),
        ("a changed length", AlertDescription::BadRecordMac, |mut record| {
            record[4] -= 1;
            record
        }),
        ("a replay", AlertDescription::BadRecordMac, |record| [record.clone(), record].concat()),
        ("too long", AlertDescription::RecordOverflow, |mut record| {
            record[3..5].copy_from_slice(&17_000_u16.to_be_bytes());
            record
        }),
        ("too short", AlertDescription::DecodeError, |_| vec![23, 3, 3, 0, 1, 0]),
        ("another type", AlertDescription::UnexpectedMessage, |mut record| {
            record[0] = 22;
            record
        }),
        ("no type", AlertDescription::UnexpectedMessage, |mut record| {
            record[0] = 99;
            record
        }),
        ("plain text", AlertDescription::UnexpectedMessage, |_| Request::read(0, 512).encode(Mode::Simple)),
    ];
    for (index, (what, alert, spoil)) in cases.into_iter().enumerate() {
        let mut client = Client::open(&served);
        let records = spoil(client.records(&request));
        client.socket.write_all(&records).unwrap();
        assert_eq!(client.end(), Err(alert), "{what}");
        other.expect_alive();
        wait_until("the error is counted", || {
            served.metric("ringnbd_tls_record_errors_total") == index as u64 + 1
        });
    }
}

/// What is sent behind STARTTLS in plain text is neither an option nor TLS.
#[test]
fn h25_plain_text_behind_starttls_is_not_looked_at() {
    let served = Served::start();
    for injected in [option(NBD_OPT_EXPORT_NAME, b""), vec![22, 3, 1, 0, 5], vec![0]] {
        let mut socket = connect(&served);
        let mut bytes = MODERN.to_be_bytes().to_vec();
        bytes.extend(option(5, b""));
        bytes.extend(injected);
        socket.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        let _reset = socket.read_to_end(&mut answer);
        assert_eq!(answer, b"", "not even the reply to STARTTLS");
    }
    Client::open(&served).expect_alive();
}

/// The payload of a refused WRITE passes by, through records, and the session goes on.
#[test]
fn t07_a_refused_write_is_skipped() {
    let served = Served::start();
    let mut client = Client::open(&served);
    for length in [1, 4096, 100_000] {
        let (error, _) = client.ask(&Request::write(SIZE, pattern(1, 0, length)), 0);
        assert_ne!(error, 0);
        client.expect_alive();
    }
}

/// What has begun is answered, then the client is told that no more comes.
#[test]
fn t33_an_end_is_told() {
    let served = Served::start();
    let mut client = Client::open(&served);
    let data = pattern(7, 0, 1 << 20);
    let mut requests = Request::write(0, data.clone()).encode(Mode::Simple);
    requests.extend(Request::disconnect().encode(Mode::Simple));
    client.send(&requests);
    assert_eq!(client.answer(0).0, 0);
    assert_eq!(client.end(), Ok(()));
    assert!(served.image.read(0, data.len()) == data, "it was written");
    // A client that says goodbye in its own way is told as well.
    let mut client = Client::open(&served);
    client.tls.send_close_notify();
    let goodbye = client.records(b"");
    client.socket.write_all(&goodbye).unwrap();
    assert_eq!(client.end(), Ok(()));
    // So is one whose goodbye comes in two pieces.
    let mut client = Client::open(&served);
    let mut requests = client.records(&Request::read(0, 512).encode(Mode::Simple));
    client.tls.send_close_notify();
    let goodbye = client.records(b"");
    let (front, rest) = goodbye.split_at(goodbye.len() / 2);
    requests.extend(front);
    client.socket.write_all(&requests).unwrap();
    assert_eq!(client.answer(512).0, 0);
    client.socket.write_all(rest).unwrap();
    assert_eq!(client.end(), Ok(()));
    // A server that stops tells those that are idle.
    let mut client = Client::open(&served);
    client.expect_alive();
    served.server.signal(rustix::process::Signal::TERM);
    assert_eq!(client.end(), Ok(()));
}

/// Records of any size, in pieces of any size.
#[test]
fn how_bytes_are_cut_makes_no_difference() {
    let served = Served::start();
    let mut client = Client::open(&served);
    let mut at = 0;
    for (record, piece, length) in [
        (1, 1, 300),
        (7, 3, 5000),
        (1000, 16_406, 70_000),
        (16_384, 1000, 200_000),
        (16_384, 1 << 20, 3 << 20),
    ] {
        let data = pattern(at, 0, length);
        let request = Request::write(at, data.clone()).encode(Mode::Simple);
        let records: Vec<u8> = request.chunks(record).flat_map(|part| client.records(part)).collect();
        for part in records.chunks(piece) {
            client.socket.write_all(part).unwrap();
        }
        assert_eq!(client.answer(0).0, 0);
        let (error, read) = client.ask(&Request::read(at, length as u64), length);
        assert!(error == 0 && read == data, "{record} {piece} {length}");
        assert!(served.image.read(at, length) == data, "{record} {piece} {length}");
        at += 4 << 20;
    }
}

/// More clients with half a record than there are receive buffers, and then more than may be kept: the oldest of them go.
#[test]
fn half_records_stop_nobody() {
    const CROWD: usize = 260;
    let served = Served::start();
    let mut good = Client::open(&served);
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut client = Client::open(&served);
        let record = client.records(&[0x25; 16_384]);
        client.socket.write_all(&record[..record.len() - 1]).unwrap();
        crowd.push(client);
        good.expect_alive();
    }
    let evicted = || {
        served
            .server
            .log()
            .iter()
            .filter(|line| line["reason"].as_str().is_some_and(|it| it.starts_with("evicted")))
            .count()
    };
    wait_until("some are evicted", || evicted() > 0);
    assert!(evicted() < CROWD / 2, "{} are gone", evicted());
    good.expect_alive();
    // The last one is among those that stayed: the rest of its record is no NBD.
    drop(crowd);
    good.expect_alive();
}

/// A handshake that stops takes a place for as long as it may, and no longer.
#[test]
fn half_handshakes_end_by_themselves() {
    let served = Served::with("mode = \"required\"", "[server]\nhandshake-timeout = \"1s\"\n");
    let mut hello = Vec::new();
    crate::support::tls::client(served.files.path()).write_tls(&mut hello).unwrap();
    let garbage =
        [22_u8, 3, 1, 0, 200].into_iter().chain((0..200).map(|byte| byte as u8)).collect::<Vec<_>>();
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("half", hello[..100].to_vec()),
        ("all", hello.clone()),
        ("garbage", garbage),
    ] {
        let mut socket = connect(&served);
        let mut start = MODERN.to_be_bytes().to_vec();
        start.extend(option(5, b""));
        socket.write_all(&start).unwrap();
        let mut reply = [0; 20];
        socket.read_exact(&mut reply).unwrap();
        socket.write_all(&bytes).unwrap();
        let mut rest = Vec::new();
        let _reset = socket.read_to_end(&mut rest);
        assert_eq!(rest.is_empty(), what == "nothing" || what == "half", "{what}");
    }
    let mut early = connect(&served);
    early.shutdown(Shutdown::Write).unwrap();
    let _reset = early.read_to_end(&mut Vec::new());
    Client::open(&served).expect_alive();
    wait_until("they are counted", || served.metric("ringnbd_tls_failures_total{reason=\"timed_out\"}") == 3);
}
