//! Exports of other servers as exports: what comes through, and what happens when the other server dies, hangs or lies.
//!
//! Oracles: the file behind the other server, and what the test wrote.

mod base;
mod command;
mod contexts;
mod copy;
mod cut;
mod far;
mod hostile;
mod instance;
mod proxy;
mod stored_base;

use std::time::{Duration, Instant};

use ringnbd::internal::client::{Client, ClientError, Timeouts};

use crate::support::image::{Image, pattern};
use crate::support::server::{Options, Server};
use far::{Far, Kind};

const SIZE: u64 = 16 << 20;

/// A server whose export `x` is that of another one.
fn near(far: &Far, parameters: &str) -> Server {
    let uri = far.uri();
    let separator = if uri.contains('?') { '&' } else { '?' };
    Options::new().export(format!("x={uri}{separator}{parameters}")).start()
}

fn client(near: &Server) -> Client {
    let contexts = ["base:allocation".to_owned()];
    Client::open(&near.uri("x").parse().unwrap(), &contexts, Timeouts::default()).expect("connect")
}

fn error_of(result: Result<(), ClientError>) -> i32 {
    match result {
        Err(ClientError::Request { error, .. }) => error.errno(),
        other => panic!("an error reply was expected: {other:?}"),
    }
}

/// What a command that ended with a status said on stderr.
#[track_caller]
fn ended(finished: crate::peers::Finished, status: i32) -> String {
    assert_eq!(finished.status.code(), Some(status), "{finished}");
    finished.stderr
}

/// Makes one test of each line's check for each kind of server.
macro_rules! matrix {
    ($($check:ident => $($kind:ident)+;)+) => {$(
        mod $check {
            $(#[test] fn $kind() {
                // `None` is a skip, which has named itself.
                let _ = crate::remote::$check(crate::remote::Kind::$kind);
            })+
        }
    )+};
}

#[allow(non_snake_case, reason = "the names of kinds")]
mod matrix {
    matrix! {
        requests_come_through      => Ringnbd QemuNbd Nbdkit NbdkitSimple NbdServer;
        a_killed_remote_is_awaited => Ringnbd QemuNbd Nbdkit NbdkitSimple NbdkitSlow NbdServer;
        a_loss_is_told_once        => Ringnbd QemuNbd Nbdkit NbdServer;
    }
}

fn requests_come_through(kind: Kind) -> Option<()> {
    let image = Image::sparse(SIZE);
    let far = Far::start(kind, &image)?;
    let near = near(&far, "connections=3");
    let mut client = client(&near);
    let bytes = pattern(1, 1 << 20, 3 << 20);
    client.write_at(1 << 20, &bytes).unwrap();
    assert_eq!(image.read(1 << 20, 3 << 20), bytes, "it is there when it was answered");
    image.write(9 << 20, &pattern(2, 9 << 20, 512));
    let mut read = vec![0; 5 << 20];
    client.read_at(0, &mut read).unwrap();
    assert!(read[1 << 20..4 << 20] == bytes && read[..1 << 20].iter().all(|byte| *byte == 0));
    let mut read = vec![0; 512];
    client.read_at(9 << 20, &mut read).unwrap();
    assert_eq!(read, pattern(2, 9 << 20, 512));
    client.flush().unwrap();
    let context = client.transmission().contexts[0].id;
    let (mut end, mut data) = (0, 0);
    client
        .walk(context, |extent| -> Result<(), ClientError> {
            assert_eq!(extent.offset, end);
            end += extent.length;
            data += if extent.flags == 0 { extent.length } else { 0 };
            Ok(())
        })
        .unwrap();
    assert_eq!(end, SIZE);
    if kind.has_map() {
        assert!(data < 8 << 20, "holes are told: {data}");
    }
    assert!(near.complaints().is_empty(), "{:?}", near.complaints());
    Some(())
}

fn a_killed_remote_is_awaited(kind: Kind) -> Option<()> {
    let image = Image::sparse(SIZE);
    let mut far = Far::start(kind, &image)?;
    let near = near(&far, "reconnect=60s&connections=2");
    let uri = near.uri("x").parse().unwrap();
    let threads: Vec<_> = (0..4_u64)
        .map(|thread| {
            let mut client = Client::open(&uri, &[], Timeouts::default()).expect("connect");
            std::thread::spawn(move || {
                let base = thread * (SIZE / 4);
                for round in 0..40 {
                    let at = base + round % 8 * (64 << 10);
                    let bytes = pattern(thread << 8 | round, at, 64 << 10);
                    client.write_at(at, &bytes).expect("a write is sent again");
                    let mut read = vec![0; 64 << 10];
                    client.read_at(at, &mut read).expect("a read is sent again");
                    assert!(read == bytes, "round {round} at {at}");
                }
            })
        })
        .collect();
    for _ in 0..2 {
        far.restart()?;
    }
    for thread in threads {
        thread.join().expect("no error, no wrong byte");
    }
    for thread in 0..4_u64 {
        for slot in 0..8 {
            let at = thread * (SIZE / 4) + slot * (64 << 10);
            assert!(image.read(at, 64 << 10) == pattern(thread << 8 | (32 + slot), at, 64 << 10));
        }
    }
    Some(())
}

/// What was answered before a crash of the remote and not flushed may be lost: each client's next FLUSH says so.
fn a_loss_is_told_once(kind: Kind) -> Option<()> {
    let image = Image::sparse(SIZE);
    let mut far = Far::start(kind, &image)?;
    let near = near(&far, "reconnect=60s");
    let (mut writer, mut idle) = (client(&near), client(&near));
    writer.write_at(0, &[1; 4096]).unwrap();
    far.restart()?;
    // After this the connection stands again.
    writer.read_at(0, &mut [0; 4096]).unwrap();
    let mut newcomer = client(&near);
    newcomer.flush().expect("it saw nothing answered");
    assert_eq!(error_of(writer.flush()), 5);
    writer.flush().expect("it has been told");
    assert_eq!(error_of(idle.flush()), 5);
    idle.flush().expect("it has been told");
    far.restart()?;
    writer.read_at(0, &mut [0; 4096]).unwrap();
    writer.flush().expect("nothing was unflushed");
    Some(())
}

#[test]
fn requests_fail_after_the_delay_and_succeed_again_later() {
    let image = Image::sparse(SIZE);
    let mut far = Far::start(Kind::Ringnbd, &image).unwrap();
    let near = near(&far, "reconnect=300ms");
    let mut client = client(&near);
    client.write_at(0, &[3; 512]).unwrap();
    far.kill();
    assert_eq!(error_of(client.read_at(0, &mut [0; 512])), 5);
    assert_eq!(error_of(client.read_at(0, &mut [0; 512])), 5, "at once, until there is a connection again");
    far.start_again().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut read = [0; 512];
    while client.read_at(0, &mut read).is_err() {
        assert!(Instant::now() < deadline, "it does not connect again");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(read, [3; 512]);
}

#[test]
fn another_disk_in_its_place_is_not_taken() {
    let image = Image::sparse(SIZE);
    let mut far = Far::start(Kind::Ringnbd, &image).unwrap();
    let near = near(&far, "reconnect=60s");
    let mut client = client(&near);
    client.write_at(0, &[3; 512]).unwrap();
    far.kill();
    image.open().set_len(SIZE / 2).unwrap();
    far.start_again().unwrap();
    assert_eq!(error_of(client.read_at(0, &mut [0; 512])), 5);
    // Another thread writes the log.
    crate::support::wait_until("the log says so", || near.stderr().contains("restore its size"));
}

#[test]
fn a_remote_that_is_not_there_is_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none");
    let uri = format!("x=nbd+unix:///a?socket={}", socket.display());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    command.args(["serve", &uri, "--unix"]).arg(directory.path().join("s"));
    let finished = crate::peers::run(&mut command);
    let told = ended(finished, 2);
    assert!(told.contains("is the server running there"), "{told}");
}

#[test]
fn a_remote_is_waited_for_at_the_start() {
    let image = Image::sparse(SIZE);
    let mut far = Far::start(Kind::Ringnbd, &image).unwrap();
    far.kill();
    let uri = format!("x={}&open-timeout=30s", far.uri());
    let starting = std::thread::spawn(move || Options::new().export(uri).start());
    std::thread::sleep(Duration::from_millis(300));
    far.start_again().unwrap();
    let near = starting.join().expect("it starts");
    client(&near).read_at(0, &mut [0; 512]).unwrap();
}
