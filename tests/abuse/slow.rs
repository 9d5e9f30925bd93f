//! Clients that are slow: they read or write a byte now and then.

use std::time::Duration;

use crate::siege::{Again, HOARD, Siege};
use crate::support::image::pattern;
use crate::support::raw::{Connection, MODES, Mode, Request};
use crate::support::wire::*;

/// Between two bytes of all slow clients: they are slow, not busy.
const PAUSE: Duration = Duration::from_millis(20);

/// A connection over TCP with the smallest windows that the kernel gives.
fn narrow(siege: &Siege, mode: Mode) -> Connection {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("set SO_RCVBUF");
    socket.connect(&siege.server.tcp_address().into()).expect("connect");
    let mut client = Connection::over_tcp(socket.into());
    client.greet(MODERN);
    client.choose(mode);
    client.go(HOARD);
    client
}

/// So many clients that ask for much and read a byte of it now and then.
fn slow_readers(count: usize, length: u64) {
    let mut siege = Siege::lay();
    siege.endure(
        &format!("{count} readers of one byte at a time, 64 × {} KiB each", length / KIB),
        |siege| {
            let mut clients: Vec<Connection> = (0..count)
                .map(|index| match index % 2 {
                    0 => narrow(siege, MODES[index % 3]),
                    _ => Connection::attach(&siege.server, HOARD, MODES[index % 3]),
                })
                .collect();
            for client in &mut clients {
                let reads =
                    (0..64).flat_map(|cookie| Request::read(0, length).cookie(cookie).encode(client.mode));
                let bytes: Vec<u8> = reads.collect();
                client.send(&bytes);
                client.patience(Duration::from_millis(1));
            }
            Again::and_again(move || {
                for client in &mut clients {
                    // Not every one was answered yet, or is still connected.
                    let _ = client.read_some(&mut [0]);
                }
                std::thread::sleep(PAUSE);
            })
        },
    );
}

#[test]
fn readers_of_one_byte_at_a_time() {
    slow_readers(48, 4 * KIB);
}

#[test]
fn readers_of_much_one_byte_at_a_time() {
    slow_readers(48, 64 * KIB);
}

#[test]
fn writers_of_one_byte_at_a_time() {
    let mut siege = Siege::lay();
    siege.endure("200 writers of one byte at a time", |siege| {
        let mut clients: Vec<Connection> =
            (0..200).map(|index| Connection::attach(&siege.server, "", MODES[index % 3])).collect();
        let mut at = 0;
        Again::and_again(move || {
            // Headers, payloads, and the next headers: each byte arrives alone.
            for client in &mut clients {
                let bytes = Request::write(GIB, pattern(1, GIB, 64)).encode(client.mode);
                client.send(&bytes[at % bytes.len()..][..1]);
            }
            at += 1;
            std::thread::sleep(PAUSE);
        })
    });
}
