//! Clients that take what the server lends and give nothing back: replies that are never read, payloads that never come.

use std::time::Duration;

use crate::siege::{HOARD, Siege};
use crate::support::raw::{Connection, MODES, Mode, Request};
use crate::support::wait_until;
use crate::support::wire::*;

/// Sends the same bytes until the server takes no more for a moment, and says how many times it took them.
fn fill(client: &mut Connection, bytes: &[u8], most: usize) -> usize {
    client.patience(Duration::from_millis(100));
    (0..most).take_while(|_| client.try_send(bytes).is_ok()).count()
}

/// Many connections that send `requests` as long as they are taken, and read nothing.
#[track_caller]
fn unread(name: &str, export: &str, connections: usize, requests: impl Fn(u64) -> Request) {
    let mut siege = Siege::lay();
    siege.endure(&format!("{connections} clients that pipeline {name} and never read"), |siege| {
        let mut clients: Vec<Connection> = Vec::new();
        for index in 0..connections {
            let mut client = Connection::attach(&siege.server, export, MODES[index % 3]);
            let bytes: Vec<u8> = (0..64).flat_map(|cookie| requests(cookie).encode(client.mode)).collect();
            fill(&mut client, &bytes, 4 << 20 >> bytes.len().ilog2());
            siege.look();
            clients.push(client);
        }
        siege.good_client_goes_on();
        clients
    });
}

#[test]
fn writes_whose_replies_nobody_reads() {
    unread("writes", "", 16, |cookie| Request::write(GIB + cookie * 4096, vec![1; 4096]).cookie(cookie));
}

#[test]
fn small_writes_whose_replies_nobody_reads() {
    unread("writes of 16 bytes", "", 16, |cookie| {
        Request::write(GIB + cookie * 16, vec![1; 16]).cookie(cookie)
    });
}

#[test]
fn reads_whose_replies_nobody_reads() {
    unread("reads of 4 KiB", HOARD, 16, |cookie| Request::read(cookie * 4096, 4096).cookie(cookie));
}

#[test]
fn reads_of_a_cached_file_whose_replies_nobody_reads() {
    unread("reads of a cached file", "", 16, |cookie| Request::read(cookie * 4096, 4096).cookie(cookie));
}

#[test]
fn long_reads_whose_replies_nobody_reads() {
    unread("reads of 1 MiB", HOARD, 64, |cookie| Request::read(0, MIB).cookie(cookie));
}

/// Zeroes need no memory, so what is used up here is the room for replies.
#[test]
fn more_replies_than_there_is_room_for() {
    const EACH: u64 = 1024;
    let mut siege = Siege::with(|options| options.export("nothing=null:1G"));
    siege.endure("100 clients that ask for 1,024 × 64 KiB of zeroes and never read", |siege| {
        let clients: Vec<Connection> = (0..100)
            .map(|index| {
                let mut client = Connection::attach(&siege.server, "nothing", MODES[index % 3]);
                let reads = (0..EACH)
                    .flat_map(|cookie| Request::read(0, 64 * KIB).cookie(cookie).encode(client.mode));
                client.send(&reads.collect::<Vec<u8>>());
                client
            })
            .collect();
        wait_until("the room for replies to be used up", || siege.unsent() > 48_000);
        siege.good_client_goes_on();
        clients
    });
    assert!(siege.server.complaints().is_empty(), "nobody had to go");
}

#[test]
fn payloads_that_never_come() {
    let mut siege = Siege::lay();
    siege.endure("64 clients that announce a write of 1 MiB and stall", |siege| {
        let clients: Vec<Connection> = (0..64)
            .map(|index| {
                let mut client = Connection::attach(&siege.server, "", MODES[index % 3]);
                let request = Request { length: MIB, ..Request::write(GIB, vec![1; 100]) };
                client.send(&request.encode(client.mode));
                client
            })
            .collect();
        siege.good_client_goes_on();
        clients
    });
}

/// So many that the memory is theirs but for the last quarter, of which each may have a little.
fn hoarders(siege: &Siege, count: usize, reads: u64) -> Vec<Connection> {
    let hoard = |index: usize| {
        let mut client = Connection::attach(&siege.server, HOARD, MODES[index % 3]);
        let reads =
            (0..reads).flat_map(|cookie| Request::read(0, 64 * KIB).cookie(cookie).encode(client.mode));
        let bytes: Vec<u8> = reads.collect();
        client.send(&bytes);
        client
    };
    (0..count).map(hoard).collect()
}

#[test]
fn more_hoarders_than_there_is_memory_for() {
    let mut siege = Siege::lay();
    siege.endure("500 clients that ask for 16 × 64 KiB and never read", |siege| hoarders(siege, 500, 16));
    assert!(siege.server.complaints().is_empty(), "nobody had to go");
}

#[test]
fn hoarders_make_room_for_those_who_need_much() {
    let mut siege = Siege::lay();
    siege.endure("25 clients that ask for 64 × 64 KiB and never read, until one wants 1 MiB", |siege| {
        let hoarders = hoarders(siege, 25, 64);
        // Its answer comes when those who finished nothing for ten seconds are gone.
        let mut patient = Connection::attach(&siege.server, HOARD, Mode::Simple);
        assert_eq!(patient.read(MIB, 1 << 20), vec![0; 1 << 20]);
        hoarders
    });
    let complaints = siege.server.complaints();
    assert!(complaints.iter().any(|line| line.contains("others waited for memory")), "{complaints:?}");
}
