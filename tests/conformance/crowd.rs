//! More of T11, T30, T32, T34, T43: many clients at once, stalled ones, small ones side by side.

use rustix::process::Signal;

use crate::common::{Disks, assert_same};
use crate::requests::Dice;
use crate::support::image::pattern;
use crate::support::raw::{Connection, MODES, Mode, Request, spoken};
use crate::support::server::{Options, Server};
use crate::support::wire::*;

/// Each owner has every OWNERS-th slot of this many bytes, so that neighbours share blocks of 4 KiB.
const SLOT: u64 = 512;
const SLOTS: u64 = 64;
const OWNERS: u64 = 4;

/// Rewrites the owner's slots many times, a few at once, and returns what they hold at the end. Half of the owners write
/// whole slots, which O_DIRECT takes as they are; the others write 300 bytes, which it does not.
fn own_slots(mut client: Connection, owner: u64, granularity: u64) -> Vec<(u64, Vec<u8>)> {
    let slot = SLOT.next_multiple_of(granularity);
    let part = if owner.is_multiple_of(2) || granularity > 1 { slot } else { 300 };
    let mut dice = Dice(owner);
    let mut last: Vec<(u64, Vec<u8>)> =
        (0..SLOTS).map(|index| ((index * OWNERS + owner) * slot, vec![0; part as usize])).collect();
    for round in 0..120u64 {
        // Never two writes to the same slot at once: which of them came last could not be told.
        let mut in_flight: Vec<Request> = Vec::new();
        let first = dice.below(SLOTS - 8) as usize;
        for (index, (offset, content)) in last.iter_mut().enumerate().skip(first).take(8) {
            let request = match dice.below(8) {
                0 => Request::zeroes(*offset, part),
                _ => Request::write(*offset, pattern(owner * 1000 + round, *offset, part as usize)),
            };
            *content =
                if request.kind == NBD_CMD_WRITE { request.payload.clone() } else { vec![0; part as usize] };
            in_flight.push(request.cookie(index as u64));
        }
        let bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(client.mode)).collect();
        client.send(&bytes);
        while !in_flight.is_empty() {
            assert_eq!(client.next_reply(&mut in_flight).1.error, 0);
        }
    }
    last
}

#[test]
fn t11_neighbouring_small_writes_do_not_undo_each_other() {
    let disks = Disks::with(MIB, Options::new().shards(2).memory("160M"));
    for disk in &disks.disks {
        let mut probe = Connection::attach(&disks.server, disk.name, Mode::Simple);
        let granularity = u64::from(probe.block_sizes()[0]);
        eprintln!("-- {}, blocks of {granularity}", disk.name);
        let owned: Vec<_> = std::thread::scope(|scope| {
            let owners: Vec<_> = (0..OWNERS)
                .map(|owner| {
                    let mode = MODES[owner as usize % 3];
                    let client = Connection::attach(&disks.server, disk.name, mode);
                    scope.spawn(move || own_slots(client, owner, granularity))
                })
                .collect();
            owners.into_iter().flat_map(|owner| owner.join().expect("an owner")).collect()
        });
        for (offset, content) in owned {
            assert_same(
                &probe.read(offset, content.len()),
                &content,
                &format!("{}: slot at {offset:#x}", disk.name),
            );
        }
    }
}

#[test]
fn t32_stalled_writers_do_not_stall_others() {
    let server = Server::serve(&["mem:64M"]);
    // More memory than the server has is promised to payloads that do not come.
    let mut stalled = Vec::new();
    for mode in spoken(MODES).into_iter().cycle().take(6) {
        let mut client = Connection::attach(&server, "", mode);
        let request = Request { length: 32 << 20, ..Request::write(0, vec![1; 5000]) };
        client.send(&request.encode(mode));
        stalled.push(client);
    }
    for mode in spoken(MODES) {
        let mut brisk = Connection::attach(&server, "", mode);
        for round in 0..20u64 {
            let offset = 40 * MIB + round * 65536;
            brisk.write(offset, &pattern(round, offset, 65536));
            assert_same(&brisk.read(offset, 65536), &pattern(round, offset, 65536), "beside stalled writers");
        }
    }
    // The stalled ones are served when they go on.
    for client in &mut stalled {
        client.send(&vec![1; (32 << 20) - 5000]);
        let request = Request { length: 32 << 20, ..Request::write(0, vec![1; 5000]) };
        assert_eq!(client.reply_to(&request).error, 0);
    }
}

#[test]
fn t32_great_requests_of_many_connections_make_progress() {
    const LENGTH: usize = 20 << 20;
    let server = Server::serve(&["mem:64M"]);
    let data = pattern(1, 0, LENGTH);
    // 8 writers of 20 MiB each at once, and as many readers: several times the server's memory.
    std::thread::scope(|scope| {
        for index in 0..8 {
            let mut client = Connection::attach(&server, "", MODES[index % 3]);
            let data = &data;
            scope.spawn(move || {
                client.write(0, data);
                assert_same(&client.read(0, LENGTH), data, "all write the same");
            });
        }
    });
}

#[test]
fn t32_hundreds_of_connections() {
    let server = Options::new().export("mem:1M").shards(2).memory("160M").start();
    let mut clients: Vec<Connection> =
        (0..300).map(|index| Connection::attach(&server, "", MODES[index % 3])).collect();
    let before = server.resident();
    for (index, client) in clients.iter_mut().enumerate() {
        client.send_request(&Request::write(index as u64 * 512, vec![index as u8; 512]));
    }
    for (index, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.reply_to(&Request::write(index as u64 * 512, Vec::new())).error, 0);
    }
    for index in (0..300).rev() {
        assert_eq!(clients[299 - index].read(index as u64 * 512, 512), vec![index as u8; 512]);
    }
    assert!(server.resident().saturating_sub(before) < 64 * MIB, "idle connections hold no buffers");
}

/// Sends `requests` without ever reading a reply until the server stops taking them, and returns how much that cost it.
#[track_caller]
fn cost_of_unread(server: &Server, client: &mut Connection, requests: &[u8], times: usize) -> u64 {
    let before = server.resident();
    client.patience(std::time::Duration::from_millis(1500));
    let mut sent = 0;
    while sent < times && client.try_send(requests).is_ok() {
        sent += 1;
    }
    eprintln!("-- {sent} of {times} bursts were taken");
    // The server is not stuck: it serves others.
    Connection::attach(server, "", Mode::Structured).expect_alive();
    eprintln!("-- {} KiB more", server.resident().saturating_sub(before) / 1024);
    server.resident().saturating_sub(before)
}

#[test]
fn t32_unread_errors_are_bounded() {
    let server = Server::serve(&["mem:1M"]);
    for mode in spoken(MODES) {
        let mut client = Connection::attach(&server, "", mode);
        let burst: Vec<u8> =
            (0..1000).flat_map(|c| Request::read(2 * MIB, 512).cookie(c).encode(mode)).collect();
        let cost = cost_of_unread(&server, &mut client, &burst, 2000);
        assert!(cost < 64 * MIB, "{mode:?}: {cost} bytes for errors that nobody reads");
    }
}

#[test]
fn t34_shutdown_with_a_client_that_does_not_read() {
    let mut server = Server::serve(&["mem:8M"]);
    let mut clients = MODES.map(|mode| Connection::attach(&server, "", mode));
    clients[0].write(0, &vec![1; 4 << 20]); // data: holes would be told in a few bytes
    for client in &mut clients {
        let reads = (0..20).flat_map(|cookie| Request::read(0, 4 * MIB).cookie(cookie).encode(client.mode));
        let bytes: Vec<u8> = reads.collect();
        client.send(&bytes);
        // One whole reply shows that the rest is under way.
        client.receive(4096, "the begin of a reply");
    }
    server.signal(Signal::TERM);
    server.stop(); // within a bounded time, whatever the clients do
}

#[test]
fn t34_shutdown_in_the_middle_of_a_payload() {
    let mut server = Server::serve(&["mem:8M"]);
    let mut clients = MODES.map(|mode| Connection::attach(&server, "", mode));
    for client in &mut clients {
        let request = Request { length: MIB, ..Request::write(0, vec![1; 5000]) };
        client.send(&request.encode(client.mode));
    }
    let mut half_a_header = Connection::attach(&server, "", Mode::Simple);
    half_a_header.send(&Request::read(0, 512).encode(Mode::Simple)[..20]);
    server.signal(Signal::TERM);
    server.stop();
}

#[test]
fn t43_replies_to_a_dripping_reader() {
    let server = Options::new().export("mem:4M").tcp("127.0.0.1:0").start();
    Connection::attach(&server, "", Mode::Simple).write(0, &pattern(3, 0, 4 << 20));
    for mode in spoken(MODES) {
        // A small window and reads of odd sizes: the server's sends are cut at every place.
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("set SO_RCVBUF");
        socket.connect(&server.tcp_address().into()).expect("connect");
        let mut client = Connection::over_tcp(socket.into());
        client.greet(MODERN);
        client.choose(mode);
        client.go("");
        let mut in_flight: Vec<Request> = (0..200u64)
            .map(|cookie| match cookie % 4 {
                0 => Request::read(cookie * 4096, 100_000).cookie(cookie),
                1 => Request::read(cookie * 16, 16).cookie(cookie),
                2 => Request::flush().cookie(cookie),
                _ => Request::read(4 * MIB, 1).cookie(cookie),
            })
            .collect();
        let bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(mode)).collect();
        client.send(&bytes);
        let model = pattern(3, 0, 4 << 20);
        while !in_flight.is_empty() {
            let (request, reply) = client.next_reply(&mut in_flight);
            assert_eq!(reply.error, if request.offset == 4 * MIB { NBD_EINVAL } else { 0 });
            if request.kind == NBD_CMD_READ && reply.error == 0 {
                let range = request.offset as usize..(request.offset + request.length) as usize;
                assert_same(&reply.data, &model[range], "a dripping read");
            }
        }
    }
}
