//! Transmission statements T33, T34, T42: how a connection ends, by the client's will and by the server's.

use std::time::Duration;

use rustix::process::Signal;

use crate::common::assert_same;
use crate::support::image::{Image, pattern};
use crate::support::peer::Peer;
use crate::support::raw::{Connection, MODES, Mode, Request, spoken};
use crate::support::server::{Options, Server};
use crate::support::wait_until;
use crate::support::wire::*;

#[test]
fn t33_disconnect_finishes_what_is_outstanding() {
    let image = Image::sparse(4 * MIB);
    let server = Server::serve(&[format!("fault:delay.write=150ms:file:{}", image.path.display())]);
    for (seed, mode) in spoken(MODES).into_iter().enumerate() {
        let mut client = Connection::attach(&server, "", mode);
        let mut in_flight: Vec<Request> = (0..32u64)
            .map(|index| {
                Request::write(index * 65536, pattern(seed as u64, index * 65536, 65536)).cookie(index)
            })
            .collect();
        let mut bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(mode)).collect();
        bytes.extend(Request::disconnect().cookie(999).encode(mode));
        // The client must not send anything after DISC; if it does, it is not obeyed.
        bytes.extend(Request::zeroes(0, 4 * MIB).cookie(1000).encode(mode));
        client.send(&bytes);
        while !in_flight.is_empty() {
            assert_eq!(client.next_reply(&mut in_flight).1.error, 0);
        }
        client.expect_close("DISC, which has no reply");
        assert_same(&image.read(0, 2 << 20), &pattern(seed as u64, 0, 2 << 20), "the outstanding writes");
    }
}

/// A client that fetches its replies late gets all of them, though DISC has come by then.
#[test]
fn t33_requests_before_disconnect_are_answered() {
    let server = Server::serve(&["disk=mem:4M"]);
    for mode in spoken(MODES) {
        let mut client = Connection::attach(&server, "disk", mode);
        let data = pattern(7, 0, 1 << 20);
        client.write(0, &data);
        let mut in_flight: Vec<Request> = (0..8).map(|cookie| Request::read(0, MIB).cookie(cookie)).collect();
        let mut bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(mode)).collect();
        bytes.extend(Request::disconnect().cookie(99).encode(mode));
        client.send(&bytes);
        // No socket holds 8 MiB: replies wait for room while the server comes to DISC.
        std::thread::sleep(Duration::from_millis(50));
        while !in_flight.is_empty() {
            assert_same(&client.next_reply(&mut in_flight).1.data, &data, "a READ before DISC");
        }
        client.expect_close("DISC, which has no reply");
    }
}

#[test]
fn t33_disconnect_alone_closes() {
    let server = Server::serve(&["mem:1M"]);
    for mode in spoken(MODES) {
        let mut client = Connection::attach(&server, "", mode);
        client.disconnect();
        let mut client = Connection::attach(&server, "", mode);
        client.expect_alive();
        client.send_in_pieces(&Request::disconnect().encode(mode), 1);
        client.expect_close("DISC");
    }
    assert_eq!(server.complaints(), Vec::<String>::new(), "a disconnect is no error");
}

#[test]
fn t33_half_closed_client_gets_its_replies() {
    let server = Server::serve(&["fault:delay=100ms:mem:1M"]);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    let mut in_flight: Vec<Request> =
        (0..8).map(|i| Request::write(i * 4096, vec![1; 4096]).cookie(i)).collect();
    in_flight.iter().for_each(|request| client.send(&request.encode(Mode::Simple)));
    client.end_of_requests();
    // Not to lose acknowledged writes is all that is required; the server may also drop a connection that ended without
    // DISC. It must not hang.
    while !in_flight.is_empty() && !client.closes_before_a_byte() {
        client.next_reply(&mut in_flight);
    }
    client.drain_to_close("the client is gone");
}

/// What takes many steps goes on for a client that only sends no more.
#[test]
fn t33_half_closed_client_gets_the_reply_to_a_long_request() {
    // The document has no half of a connection: it lets a server drop a client that sends no more.
    Peer::only_ours("answer a client that has closed its half");
    let image = Image::sparse(3 * GIB);
    let server = Server::serve(&[&format!("file:{}", image.path.display())]);
    for mode in spoken(MODES) {
        let mut client = Connection::attach(&server, "", mode);
        let mut in_flight: Vec<Request> = (0..4).map(|i| Request::trim(0, 3 * GIB).cookie(i)).collect();
        in_flight.iter().for_each(|request| client.send(&request.encode(mode)));
        client.end_of_requests();
        while !in_flight.is_empty() {
            let reply = client.next_reply(&mut in_flight);
            assert_eq!(reply.1.error, 0, "{mode:?}");
        }
    }
}

/// A server with `--shutdown MODE`, and a first page that takes its time to read.
fn slow_first_page(image: &Image, shutdown: &str) -> Server {
    let export = format!("fault:delay.read=1200ms,range=0+4096:file:{}", image.path.display());
    Options::new().export(export).args(["--shutdown", shutdown]).start()
}

/// With `--shutdown errors`: sends SIGTERM while a slow read is in flight, and sees what becomes of new requests.
fn shutdown_under_load(mode: Mode) {
    let image = Image::random(2 * MIB, 5);
    let mut server = slow_first_page(&image, "errors");
    let mut client = Connection::attach(&server, "", mode);
    let mut idle = Connection::attach(&server, "", mode);
    client.write(MIB, &pattern(6, MIB, 65536));
    let slow = Request::read(0, 4096).cookie(1);
    let marker = Request::flush().cookie(2);
    client.send_request(&slow);
    client.send_request(&marker);
    let mut in_flight = vec![slow, marker];
    assert_eq!(client.next_reply(&mut in_flight).0.cookie, 2);
    server.signal(Signal::TERM);
    // New requests work until the server knows, and are refused with ESHUTDOWN from then on, payload and all.
    let mut cookie = 100;
    wait_until("ESHUTDOWN", || {
        cookie += 1;
        let write = Request::write(MIB + 65536, vec![1; 4096]).cookie(cookie);
        client.send_request(&write);
        in_flight.push(write);
        let (request, reply) = client.next_reply(&mut in_flight);
        assert_eq!(request.cookie, cookie, "the slow read is still in flight");
        assert!([0, NBD_ESHUTDOWN].contains(&reply.error), "a write during shutdown: error {}", reply.error);
        reply.error == NBD_ESHUTDOWN
    });
    for request in [
        Request::read(MIB, 512),
        Request::write(MIB, vec![1; 128 << 10]),
        Request::flush(),
        Request::trim(MIB, 4096),
        Request::zeroes(MIB, 4096),
    ] {
        let request = request.cookie(7);
        client.send_request(&request);
        in_flight.push(request);
        assert_eq!(client.next_reply(&mut in_flight).1.error, NBD_ESHUTDOWN);
    }
    // What was in flight is finished, then the connection closes, the idle one too.
    let (request, reply) = client.next_reply(&mut in_flight);
    assert_eq!(request.cookie, 1);
    match reply.error {
        0 => assert_same(&reply.data, &pattern(5, 0, 4096), "the read in flight"),
        other => assert_eq!(other, NBD_ESHUTDOWN),
    }
    client.drain_to_close("the server's shutdown");
    idle.drain_to_close("the server's shutdown");
    server.stop();
    assert_same(&image.read(MIB, 65536), &pattern(6, MIB, 65536), "an acked write is in the file");
}

/// By default: what has begun is finished, the rest gets no answer, so that a client that reconnects sends it again.
#[test]
fn t34_what_did_not_begin_gets_no_answer() {
    for mode in spoken(MODES) {
        let image = Image::random(2 * MIB, 5);
        let mut server = slow_first_page(&image, "close");
        let mut client = Connection::attach(&server, "", mode);
        let mut idle = Connection::attach(&server, "", mode);
        let mut half = Connection::attach(&server, "", mode);
        let begun = Request { length: 65536, ..Request::write(MIB, vec![1; 30_000]) };
        half.send(&begun.encode(mode));
        let slow = Request::read(0, 4096).cookie(1);
        let marker = Request::flush().cookie(2);
        client.send_request(&slow);
        client.send_request(&marker);
        let mut in_flight = vec![slow, marker];
        assert_eq!(client.next_reply(&mut in_flight).0.cookie, 2);
        server.signal(Signal::TERM);
        // They end although the slow read goes on: both have nothing that began.
        idle.drain_to_close("the server's shutdown");
        half.drain_to_close("the server's shutdown");
        let later = [
            Request::read(MIB, 512),
            Request::write(MIB + 65536, vec![1; 4096]),
            Request::write(MIB + 65536, vec![1; 128 << 10]),
            Request::flush(),
            Request::read(4 * MIB, 512), // beyond the end: an error, at any other time
        ];
        for (request, cookie) in later.into_iter().zip(7..) {
            client.send_request(&request.cookie(cookie));
        }
        let (request, reply) = client.next_reply(&mut in_flight);
        assert_eq!((request.cookie, reply.error), (1, 0), "{mode:?}");
        assert_same(&reply.data, &pattern(5, 0, 4096), "the read in flight");
        let rest = client.drain_to_close("the server's shutdown");
        assert!(rest.is_empty(), "{mode:?}: an answer to what did not begin: {rest:02x?}");
        server.stop();
        assert_same(&image.read(MIB, 512 << 10), &pattern(5, MIB, 512 << 10), "what did not begin");
    }
}

#[test]
fn t34_shutdown_finishes_and_refuses() {
    shutdown_under_load(Mode::Simple);
}

#[test]
fn t34_shutdown_in_structured_mode() {
    shutdown_under_load(Mode::Structured);
}

#[test]
fn t34_shutdown_in_extended_mode() {
    shutdown_under_load(Mode::Extended);
}

#[test]
fn t34_shutdown_closes_idle_connections() {
    let mut server = Server::serve(&["mem:1M"]);
    let mut clients = MODES.map(|mode| Connection::attach(&server, "", mode));
    let mut haggling = Connection::haggling(&server);
    server.signal(Signal::TERM);
    for client in &mut clients {
        client.expect_close("the server's shutdown");
    }
    haggling.drain_to_close("the server's shutdown");
    server.stop();
}

/// A client that has sent more than the server had read gets every reply that the server counts as sent, and then the end of the stream. A
/// socket that is closed with bytes unread would take back what is on its way.
#[test]
fn t34_over_tcp_each_reply_that_was_sent_arrives() {
    const LENGTH: usize = 64 << 10;
    let mut server = Options::new().export("mem:1M").tcp("127.0.0.1:0").args(["-v"]).start();
    // Little room at this end: what the server has sent waits at its end.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("set SO_RCVBUF");
    socket.connect(&server.tcp_address().into()).expect("connect");
    let mut client = Connection::over_tcp(socket.into());
    client.greet(MODERN);
    client.choose(Mode::Simple);
    client.go("");
    client.write(0, &pattern(9, 0, LENGTH));
    let mut sender = client.twin();
    sender.patience(Duration::from_secs(60));
    let requests: Vec<u8> = (0..1000)
        .flat_map(|cookie| Request::read(0, LENGTH as u64).cookie(cookie).encode(Mode::Simple))
        .collect();
    let sending = std::thread::spawn(move || while sender.try_send(&requests).is_ok() {});
    client.receive(16, "the begin of a reply");
    server.signal(Signal::TERM);
    let (mut received, mut bytes) = (16, vec![0; LENGTH]);
    loop {
        match client.read_some(&mut bytes) {
            Ok(0) => break,
            Ok(length) => received += length,
            Err(error) => panic!("after {received} bytes of replies: {error}"),
        }
    }
    client.hang_up();
    sending.join().expect("the sender does not panic");
    server.stop();
    let log = server.log();
    let end = log.iter().find(|line| line["message"] == "connection closed").expect("it is logged");
    let (replies, rest) = (received / (16 + LENGTH), received % (16 + LENGTH));
    // The write is one of them.
    assert_eq!((end["requests"].as_u64(), rest), (Some(replies as u64 + 1), 0), "{end}");
}

#[test]
fn t34_interrupt_is_graceful_too() {
    let mut server = Server::serve(&["mem:1M"]);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    client.write(0, &[1; 4096]);
    server.signal(Signal::INT);
    client.expect_close("the server's shutdown");
    server.stop();
}

#[test]
fn t34_second_signal_exits_at_once() {
    let mut server = Server::serve(&["fault:delay.read=20s:mem:1M"]);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    let slow = Request::read(0, 512).cookie(1);
    let marker = Request::flush().cookie(2);
    client.send_request(&slow);
    client.send_request(&marker);
    assert_eq!(client.next_reply(&mut vec![slow, marker]).0.cookie, 2);
    server.signal(Signal::TERM);
    // Once new connections are refused, the first signal was understood.
    wait_until("the server to stop accepting", || {
        !server.socket().exists() || std::os::unix::net::UnixStream::connect(server.socket()).is_err()
    });
    assert!(server.is_running(), "the slow read is waited for");
    let before = std::time::Instant::now();
    server.signal(Signal::TERM);
    server.wait();
    assert!(
        before.elapsed().as_secs() < 8,
        "at once, neither after the slow read nor at the limit of a shutdown"
    );
    client.drain_to_close("the second signal");
    server.crash(); // settles: its exit status was its own affair
}

#[test]
fn t42_export_that_goes_away_is_told_as_shutdown() {
    // Removal of a single export needs the admin API; the end of the whole server takes every export away.
    let mut server = Server::serve(&["slow=fault:delay.read=1200ms:mem:1M", "x=mem:1M"]);
    let mut keeper = Connection::attach(&server, "slow", Mode::Simple);
    let slow = Request::read(0, 512).cookie(1);
    let marker = Request::flush().cookie(2);
    keeper.send_request(&slow);
    keeper.send_request(&marker);
    assert_eq!(keeper.next_reply(&mut vec![slow.clone(), marker]).0.cookie, 2);
    for mode in spoken(MODES) {
        let mut client = Connection::attach(&server, "x", mode);
        if mode == Mode::Simple {
            server.signal(Signal::TERM);
        }
        // Success, then ESHUTDOWN, then the end: never EIO.
        let mut told = Vec::new();
        while client.try_send(&Request::write(0, vec![1; 4096]).encode(mode)).is_ok() {
            if client.closes_before_a_byte() {
                break;
            }
            let error = client.reply_to(&Request::write(0, vec![1; 4096])).error;
            if told.last() != Some(&error) {
                told.push(error);
            }
        }
        assert!(
            [&[0, NBD_ESHUTDOWN][..], &[NBD_ESHUTDOWN], &[0], &[]].contains(&&told[..]),
            "{mode:?}: a sequence of errors {told:?}"
        );
        if mode == Mode::Simple {
            break; // the server accepts no more
        }
    }
    keeper.reply_to(&slow);
    server.stop();
}
