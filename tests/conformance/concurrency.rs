//! Transmission statements T31, T32, T41, T43: many requests at once, slow ones, slow clients, overlapping ones.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Disks, assert_same};
use crate::requests::Dice;
use crate::support::image::pattern;
use crate::support::peer::Peer;
use crate::support::raw::{Connection, MODES, Mode, Request, spoken};
use crate::support::reply::is_past_the_end;
use crate::support::server::{Options, Server};
use crate::support::wire::*;

#[test]
fn t31_slow_read_does_not_block_a_fast_one() {
    let server = Server::serve(&["fault:delay.read=700ms,range=0+4096:mem:1M"]);
    for mode in spoken(MODES) {
        let mut client = Connection::attach(&server, "", mode);
        client.write(0, &pattern(1, 0, 65536));
        let mut in_flight = vec![Request::read(0, 4096).cookie(1)];
        in_flight.extend((2..20).map(|cookie| Request::read(cookie * 2048, 2048).cookie(cookie)));
        in_flight.push(Request::write(900 * KIB, vec![1; 4096]).cookie(100));
        in_flight.push(Request::flush().cookie(101));
        in_flight.push(Request::zeroes(900 * KIB, 4096).cookie(102));
        let bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(mode)).collect();
        client.send(&bytes);
        let total = in_flight.len();
        for answered in 1..=total {
            let (request, reply) = client.next_reply(&mut in_flight);
            assert_eq!(reply.error, 0);
            assert_eq!(
                request.cookie == 1,
                answered == total,
                "{mode:?}: the slow read is last, not number {answered}"
            );
            if request.kind == NBD_CMD_READ {
                let expected = pattern(1, request.offset, request.length as usize);
                assert_same(&reply.data, &expected, "each reply has its own data");
            }
        }
    }
}

#[test]
fn t31_slow_connection_does_not_block_another() {
    let server = Server::serve(&["slow=fault:delay.read=700ms:mem:1M", "fast=mem:1M"]);
    let mut slow = Connection::attach(&server, "slow", Mode::Simple);
    let read = Request::read(0, 512);
    slow.send_request(&read);
    let mut fast = Connection::attach(&server, "fast", Mode::Simple);
    fast.read(0, 4096);
    // The slow reply has not come yet: a write behind the slow read overtakes it on its own connection.
    let write = Request::write(4096, vec![1; 512]).cookie(2);
    slow.send_request(&write);
    let mut in_flight = vec![read, write];
    assert_eq!(slow.next_reply(&mut in_flight).0.cookie, 2);
    assert_eq!(slow.next_reply(&mut in_flight).1.error, 0);
}

#[test]
fn t32_a_thousand_requests_in_flight() {
    const DEPTH: u64 = 1024;
    let server = Server::serve(&["fault:delay.read=300ms:mem:8M"]);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    client.write(0, &pattern(1, 0, 8 << 20));
    let mut in_flight: Vec<Request> = (0..DEPTH).map(|i| Request::read(i * 4096, 4096).cookie(i)).collect();
    // Reads first, then quick writes: at 1,024 in flight the server may stop reading, before that it may not.
    let bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(Mode::Simple)).collect();
    client.send(&bytes);
    while !in_flight.is_empty() {
        let (request, reply) = client.next_reply(&mut in_flight);
        assert_eq!(reply.error, 0);
        assert_same(&reply.data, &pattern(1, request.offset, 4096), "a read among a thousand");
    }
    client.expect_alive();
}

#[test]
fn t32_a_thousand_really_are_in_flight() {
    // 1,023 slow reads and a fast one behind them: it can only come first if the server took in all the others.
    let server = Server::serve(&["fault:delay.read=900ms,range=0+4096:mem:1M"]);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    let mut in_flight: Vec<Request> = (0..1023).map(|cookie| Request::read(0, 512).cookie(cookie)).collect();
    in_flight.push(Request::read(65536, 512).cookie(5000));
    let bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(Mode::Simple)).collect();
    client.send(&bytes);
    assert_eq!(client.next_reply(&mut in_flight).0.cookie, 5000, "the fast read comes first");
    while !in_flight.is_empty() {
        client.next_reply(&mut in_flight);
    }
}

#[test]
fn t32_slow_reader_does_not_stall_others() {
    let server = Options::new().export("mem:8M").tcp("127.0.0.1:0").start();
    let mut slow = vec![
        Connection::attach(&server, "", Mode::Simple),
        Connection::attach_tcp(&server, "", Mode::Structured),
        Connection::attach(&server, "", Mode::Extended),
    ];
    let model = pattern(2, 0, 8 << 20);
    slow[0].write(0, &model);
    let reads: Vec<Request> = (0..100).map(|i| Request::read(i % 7 * MIB, MIB).cookie(i)).collect();
    for client in &mut slow {
        // 100 MiB of answers that nobody reads, more than the server's memory.
        let bytes: Vec<u8> = reads.iter().flat_map(|request| request.encode(client.mode)).collect();
        client.send(&bytes);
    }
    for mode in spoken(MODES) {
        let mut brisk = Connection::attach(&server, "", mode);
        for round in 0..50 {
            let offset = 7 * MIB + round * 4096;
            brisk.write(offset, &pattern(3, offset, 4096));
            assert_same(&brisk.read(offset, 4096), &pattern(3, offset, 4096), "beside stalled connections");
        }
        brisk.flush();
    }
    for client in &mut slow {
        let mut in_flight = reads.clone();
        while !in_flight.is_empty() {
            let (request, reply) = client.next_reply(&mut in_flight);
            assert_same(&reply.data, &model[request.offset as usize..][..1 << 20], "a late read");
        }
    }
}

#[test]
fn t32_client_that_writes_without_reading() {
    let server = Server::serve(&["mem:8M"]);
    // Ours takes in 1,024. The document has no number, and 128 is that of the statement.
    let count: u64 = Peer::ours_or(1024, 128);
    for mode in spoken(MODES) {
        let mut client = Connection::attach(&server, "", mode);
        let mut in_flight: Vec<Request> = (0..count)
            .map(|i| Request::write(i * 8192 % (8 << 20), pattern(4, i * 8192, 8192)).cookie(i))
            .collect();
        // `send` fails if the server stops reading because its replies are not fetched.
        for request in &in_flight {
            client.send(&request.encode(mode));
        }
        while !in_flight.is_empty() {
            assert_eq!(client.next_reply(&mut in_flight).1.error, 0);
        }
        let length = count as usize * 8192;
        assert_same(&client.read(0, length), &pattern(4, 0, length), "all writes arrived");
    }
}

#[test]
fn t32_client_that_leaves_with_requests_in_flight() {
    let server = Options::new().export("fault:delay=20ms:mem:8M").tcp("127.0.0.1:0").start();
    for round in 0..30u64 {
        let mode = MODES[(round % 3) as usize];
        let mut client = match round % 2 {
            0 => Connection::attach(&server, "", mode),
            _ => Connection::attach_tcp(&server, "", mode),
        };
        client.reset_on_close();
        for cookie in 0..64 {
            let request = match cookie % 3 {
                0 => Request::read(cookie * 4096, 65536),
                1 => Request::write(cookie * 4096, vec![9; 65536]),
                _ => Request::flush(),
            };
            let bytes = request.cookie(cookie).encode(mode);
            let keep = if cookie == 63 { bytes.len() / 2 } else { bytes.len() };
            client.send(&bytes[..keep]);
        }
    }
    Connection::attach(&server, "", Mode::Simple).expect_alive();
}

/// Eight bytes that say who wrote them, when, and where they belong.
fn signed(writer: u64, sequence: u64, offset: u64, length: usize) -> Vec<u8> {
    let words = (0..length as u64 / 8).map(|word| (writer << 56) | (sequence << 32) | (offset / 8 + word));
    words.flat_map(u64::to_be_bytes).collect()
}

const ARENA: u64 = 256 << 10;
const WRITERS: u64 = 3;
const ROUNDS: u64 = 250;

fn write_signed(mut client: Connection, writer: u64) {
    let mut dice = Dice(writer);
    let mut in_flight: Vec<Request> = Vec::new();
    for sequence in 1..=ROUNDS {
        let offset = dice.below(ARENA / 512) * 512;
        let length = (512 * (1 + dice.below(40))).min(ARENA - offset) as usize;
        let request = Request::write(offset, signed(writer, sequence, offset, length)).cookie(sequence);
        client.send_request(&request);
        in_flight.push(request);
        if in_flight.len() == 16 {
            assert_eq!(client.next_reply(&mut in_flight).1.error, 0);
        }
    }
    while !in_flight.is_empty() {
        assert_eq!(client.next_reply(&mut in_flight).1.error, 0);
    }
}

/// Each word is zero or was written to this very place by one of the writers: never another request's bytes.
#[track_caller]
fn assert_signed(data: &[u8], offset: u64) {
    for (index, word) in data.chunks(8).enumerate() {
        let word = be64(word, 0);
        let place = offset + index as u64 * 8;
        let (writer, sequence) = (word >> 56, word >> 32 & 0xff_ffff);
        let legal = word == 0 || (1..=WRITERS).contains(&writer) && (1..=ROUNDS).contains(&sequence);
        let in_place = word == 0 || word & 0xffff_ffff == place / 8;
        assert!(
            legal && in_place,
            "at {place:#x}: word {word:#018x} belongs to {:#x}",
            (word & 0xffff_ffff) * 8
        );
    }
}

#[test]
fn t41_reads_beside_overlapping_writes() {
    let disks = Disks::with(ARENA * 2, Options::new().shards(2).memory("160M"));
    for disk in &disks.disks {
        eprintln!("-- {}", disk.name);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (1..=WRITERS)
                .map(|writer| {
                    let mode = MODES[writer as usize % 3];
                    let client = Connection::attach(&disks.server, disk.name, mode);
                    scope.spawn(move || write_signed(client, writer))
                })
                .collect();
            for mode in [Mode::Simple, Mode::Extended] {
                let mut client = Connection::attach(&disks.server, disk.name, mode);
                let done = &done;
                scope.spawn(move || {
                    let mut dice = Dice(mode as u64 + 77);
                    let mut in_flight: Vec<Request> = Vec::new();
                    let mut cookie = 0;
                    while !done.load(Ordering::Relaxed) {
                        let offset = dice.below(ARENA / 512) * 512;
                        let length = (512 * (1 + dice.below(100))).min(ARENA - offset);
                        cookie += 1;
                        let request = Request::read(offset, length).cookie(cookie);
                        client.send_request(&request);
                        in_flight.push(request);
                        if in_flight.len() >= 8 {
                            let (request, reply) = client.next_reply(&mut in_flight);
                            assert_signed(&reply.data, request.offset);
                        }
                    }
                    while !in_flight.is_empty() {
                        let (request, reply) = client.next_reply(&mut in_flight);
                        assert_signed(&reply.data, request.offset);
                    }
                });
            }
            let outcomes: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            outcomes.into_iter().for_each(|outcome| outcome.expect("a writer"));
        });
        let mut client = Connection::attach(&disks.server, disk.name, Mode::Structured);
        assert_signed(&client.read(0, ARENA as usize), 0);
        // Nothing was written beyond the arena.
        crate::common::assert_zero(&client.read(ARENA, ARENA as usize), "beyond the writes");
    }
}

#[test]
fn t43_replies_stay_whole() {
    let disks = Disks::of(4 * MIB);
    let model = pattern(1, 0, 2 << 20);
    let has_contexts = Peer::from_env().has_contexts();
    disks.each_filled(2 << 20, &spoken(MODES), |_, client| {
        // A mixed bag in one burst: headers, data and errors must not cut into each other. The client checks every
        // header, every cookie, every byte, and that DONE comes last.
        let mut dice = Dice(5);
        let mut in_flight: Vec<Request> = (0..600u64)
            .map(|cookie| {
                let offset = dice.below(1 << 20) / 512 * 512;
                let request = match dice.below(8) {
                    0 => Request::write(2 * MIB + cookie * 512, vec![cookie as u8; 512]),
                    1 => Request::flush(),
                    2 => Request::read(4 * MIB, 512),
                    3 => Request::new(88, 0, 0),
                    4 => Request::write(4 * MIB, vec![1; 5000]),
                    5 => Request::status(offset, 65536),
                    _ => Request::read(offset, 512 << dice.below(9)),
                };
                request.cookie(cookie)
            })
            .collect();
        let mut writer = client.twin();
        let bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(client.mode)).collect();
        std::thread::scope(|scope| {
            scope.spawn(move || writer.send_in_pieces(&bytes, 1000));
            while !in_flight.is_empty() {
                let (request, reply) = client.next_reply(&mut in_flight);
                let expected = match request.kind {
                    NBD_CMD_READ if request.offset == 4 * MIB => NBD_EINVAL,
                    NBD_CMD_WRITE if request.offset == 4 * MIB && is_past_the_end(reply.error) => reply.error,
                    NBD_CMD_WRITE if request.offset == 4 * MIB => NBD_ENOSPC,
                    NBD_CMD_BLOCK_STATUS if client.mode == Mode::Simple || !has_contexts => NBD_EINVAL,
                    88 => NBD_EINVAL,
                    _ => 0,
                };
                assert_eq!(reply.error, expected, "{}", crate::support::reply::describe(&request));
                if request.kind == NBD_CMD_READ && expected == 0 {
                    let data = &model[request.offset as usize..][..request.length as usize];
                    assert_same(&reply.data, data, "data in a burst");
                }
            }
        });
        client.expect_alive();
    });
}

#[test]
fn t43_requests_and_payloads_in_tiny_pieces() {
    let server = Options::new().export("mem:1M").tcp("127.0.0.1:0").start();
    for mode in spoken(MODES) {
        for mut client in [Connection::attach(&server, "", mode), Connection::attach_tcp(&server, "", mode)] {
            let write = Request::write(1000, pattern(7, 1000, 777)).cookie(1);
            let read = Request::read(1000, 777).cookie(2);
            let header = if mode == Mode::Extended { 32 } else { 28 };
            // Header split at every byte, payload in ever other pieces.
            for split in 1..=header + 3 {
                let bytes = write.encode(mode);
                client.send(&bytes[..split]);
                std::thread::yield_now();
                client.send_in_pieces(&bytes[split..], 1 + split * 5);
                assert_eq!(client.reply_to(&write).error, 0);
                let bytes = read.encode(mode);
                let split = split.min(bytes.len());
                client.send(&bytes[..split]);
                std::thread::yield_now();
                client.send(&bytes[split..]);
                assert_same(&client.reply_to(&read).data, &write.payload, "what was written");
                client.succeed(&Request::zeroes(0, 65536));
            }
            // A refused write in pieces, and the next request in the same segment as its last bytes.
            let mut bytes = Request::write(MIB, vec![3; 3000]).cookie(8).encode(mode);
            bytes.extend(read.encode(mode));
            client.send_in_pieces(&bytes, 700);
            let mut in_flight = vec![Request::write(MIB, vec![3; 3000]).cookie(8), read];
            while !in_flight.is_empty() {
                client.next_reply(&mut in_flight);
            }
        }
    }
}
