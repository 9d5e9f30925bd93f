//! Remotes that lie, byte by byte, and that are slow or fail.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::far::{Far, Kind};
use super::{SIZE, client, error_of, near};
use crate::client::fake::{greeting, reply};
use crate::support::image::{Image, pattern};
use crate::support::server::Options;
use ringnbd::internal::client::{Client, Timeouts};

/// What a remote says instead of a reply to a READ of 512 bytes. It is given the cookie.
type Lie = fn(u64) -> Vec<u8>;

fn chunk(cookie: u64, kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [
        &0x668e_33ef_u32.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &length,
        payload,
    ]
    .concat()
}

fn data(cookie: u64, offset: u64, bytes: usize) -> Vec<u8> {
    chunk(cookie, 1, 1, &[&offset.to_be_bytes()[..], &vec![7; bytes]].concat())
}

const LIES: &[(&str, Lie)] = &[
    ("a wrong magic", |_| vec![0x55; 64]),
    ("an unknown cookie", |cookie| data(cookie ^ 0xff00, 0, 512)),
    ("too much data", |cookie| data(cookie, 0, 4096)),
    ("too little data", |cookie| data(cookie, 0, 511)),
    ("data for elsewhere", |cookie| data(cookie, 1 << 40, 512)),
    ("data that wraps", |cookie| data(cookie, u64::MAX - 10, 512)),
    ("a simple reply", |cookie| {
        [&0x6744_6698_u32.to_be_bytes()[..], &[0; 4], &cookie.to_be_bytes(), &[7; 512]].concat()
    }),
    ("a chunk of 4 GiB", |cookie| {
        let mut bytes = data(cookie, 0, 0);
        bytes[16..20].copy_from_slice(&[0xff; 4]);
        bytes
    }),
    ("an unknown chunk", |cookie| chunk(cookie, 77, 1, &[1, 2, 3])),
    ("extents of a read", |cookie| chunk(cookie, 5, 1, &[0; 12])),
    ("the same answer twice", |cookie| [data(cookie, 0, 512), data(cookie, 0, 512)].concat()),
    ("an error without a value", |cookie| chunk(cookie, 0x8001, 1, &[0; 6])),
    ("nothing", |_| Vec::new()),
];

/// Lies on every connection but each second one in the transmission phase, where it tells the truth: so the request
/// is answered in the end, whatever was said before.
fn serve(listener: &UnixListener, lie: Lie, entered: &AtomicUsize) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        let _ = talk(stream, lie, entered);
    }
}

fn talk(mut stream: UnixStream, lie: Lie, entered: &AtomicUsize) -> std::io::Result<()> {
    stream.write_all(&greeting())?;
    stream.read_exact(&mut [0; 4])?;
    let export = [&[0, 0][..], &SIZE.to_be_bytes(), &[0, 1]].concat();
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let option = u32::from_be_bytes(header[8..12].try_into().unwrap());
        let mut rest = vec![0; u32::from_be_bytes(header[12..].try_into().unwrap()) as usize];
        stream.read_exact(&mut rest)?;
        let answer = match option {
            8 => reply(8, 1, &[]),
            6 | 7 => [reply(option, 3, &export), reply(option, 1, &[])].concat(),
            2 => return Ok(()),
            _ => reply(option, 0x8000_0001, &[]),
        };
        stream.write_all(&answer)?;
        if option == 7 {
            break;
        }
    }
    let lies = entered.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
    loop {
        let mut request = [0; 28];
        stream.read_exact(&mut request)?;
        let cookie = u64::from_be_bytes(request[8..16].try_into().unwrap());
        if request[6..8] == [0, 2] {
            return Ok(());
        }
        if lies {
            stream.write_all(&lie(cookie))?;
            if lie(cookie).is_empty() {
                return Ok(());
            }
        } else {
            stream.write_all(&data(cookie, u64::from_be_bytes(request[16..24].try_into().unwrap()), 512))?;
        }
    }
}

#[test]
fn a_lie_ends_its_connection_and_the_request_is_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut all = Options::new();
    let mut remotes = Vec::new();
    for (index, (what, lie)) in LIES.iter().enumerate() {
        let socket = directory.path().join(index.to_string());
        let listener = UnixListener::bind(&socket).unwrap();
        let entered = Arc::new(AtomicUsize::new(0));
        let (lie, counted) = (*lie, Arc::clone(&entered));
        std::thread::spawn(move || serve(&listener, lie, &counted));
        all = all.export(format!("x{index}=nbd+unix:///x?socket={}&reconnect=60s", socket.display()));
        remotes.push((*what, entered));
    }
    let near = all.start();
    let threads: Vec<_> = remotes
        .into_iter()
        .enumerate()
        .map(|(index, (what, entered))| {
            let uri = near.uri(&format!("x{index}")).parse().unwrap();
            std::thread::spawn(move || {
                let mut client = Client::open(&uri, &[], Timeouts::default()).expect("connect");
                let mut read = [0; 512];
                client.read_at(0, &mut read).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(read, [7; 512], "{what}");
                // What comes behind a reply may be seen only with the next request.
                client.read_at(512, &mut read).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(read, [7; 512], "{what}");
                assert!(entered.load(Ordering::Relaxed) >= 2, "{what} was believed");
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("each request is answered");
    }
}

#[test]
fn a_slow_remote_is_only_slow() {
    let image = Image::random(SIZE, 5);
    let filters = ["--filter=delay", "rdelay=30ms", "wdelay=30ms"];
    let Some(far) = Far::start_with(Kind::Nbdkit, &image, &filters) else { return };
    let near = near(&far, "connections=2");
    let mut client = client(&near);
    let mut read = vec![0; 1 << 20];
    client.read_at(3 << 20, &mut read).unwrap();
    assert!(read == pattern(5, 3 << 20, 1 << 20));
    client.write_at(0, &[9; 4096]).unwrap();
    assert_eq!(image.read(0, 4096), [9; 4096]);
}

#[test]
fn errors_of_a_remote_are_passed_on() {
    let image = Image::sparse(SIZE);
    let filters = [
        "--filter=error",
        "error-pwrite=ENOSPC",
        "error-pwrite-rate=100%",
        "error-pread=EIO",
        "error-pread-rate=100%",
    ];
    let Some(far) = Far::start_with(Kind::Nbdkit, &image, &filters) else { return };
    let near = near(&far, "reconnect=60s");
    let mut client = client(&near);
    assert_eq!(error_of(client.write_at(0, &[9; 4096])), 28);
    assert_eq!(error_of(client.read_at(0, &mut [0; 4096])), 5);
    client.flush().expect("the connection lives");
}
