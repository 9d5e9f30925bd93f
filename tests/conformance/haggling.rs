//! Handshake statements H30 to H34: limits, time, shutdown, old clients.

use std::net::TcpStream;

use rustix::process::Signal;

use crate::support::raw::{Connection, Request};
use crate::support::server::{Options, Server};
use crate::support::tls::{cannot_be_asked, is_tunnelled};
use crate::support::wait_until;
use crate::support::wire::*;

#[test]
fn h30_shutdown_while_haggling() {
    // A slow read on another connection keeps the server in its shutdown for a while.
    let mut server = Options::new().export("x=mem:1M").export("slow=fault:delay.read=1500ms:mem:1M").start();
    let mut busy = Connection::haggling(&server);
    busy.go("slow");
    let mut haggler = Connection::haggling(&server);
    haggler.expect_in_step();
    let read = Request::read(0, 512);
    busy.send_request(&read);
    // A reply to a second, quick request shows that the first has arrived.
    busy.send_request(&Request::flush().cookie(5));
    assert_eq!(busy.next_reply(&mut vec![read.clone(), Request::flush().cookie(5)]).0.kind, NBD_CMD_FLUSH);
    server.signal(Signal::TERM);
    // LIST works until the server knows, and is refused from then on.
    wait_until("LIST to be refused", || {
        let kind = haggler.ask(NBD_OPT_LIST, b"").last().expect("a reply").kind;
        assert!(kind == NBD_REP_ACK || kind == NBD_REP_ERR_SHUTDOWN, "LIST during shutdown: {kind:#x}");
        kind == NBD_REP_ERR_SHUTDOWN
    });
    for number in [NBD_OPT_GO, NBD_OPT_INFO] {
        haggler.expect_only(number, &info_data(b"x", &[]), NBD_REP_ERR_SHUTDOWN);
    }
    for number in [NBD_OPT_STRUCTURED_REPLY, NBD_OPT_EXTENDED_HEADERS, NBD_OPT_STARTTLS, 0x0765_4321] {
        haggler.expect_only(number, b"", NBD_REP_ERR_SHUTDOWN);
    }
    haggler.expect_only(NBD_OPT_ABORT, b"", NBD_REP_ACK);
    haggler.expect_close("ABORT during shutdown");
    assert_eq!(busy.reply_to(&read).error, 0, "the request in flight is finished");
    server.stop();
}

#[test]
fn h31_unfinished_handshake_is_dropped() {
    let server = Options::new().export("mem:1M").args(["--handshake-timeout", "300ms"]).start();
    let mut silent = Connection::open(&server);
    silent.read_greeting();
    let mut half = Connection::open(&server);
    half.read_greeting();
    half.send(&MODERN.to_be_bytes()[..3]);
    let mut option_begun = Connection::haggling(&server);
    option_begun.send(&option_claiming(NBD_OPT_LIST, 100, b"")[..10]);
    let mut data_missing = Connection::haggling(&server);
    data_missing.send(&option_claiming(0x0765_4321, 100, b"some"));
    for client in [&mut silent, &mut half, &mut option_begun, &mut data_missing] {
        client.expect_close("the handshake timeout");
    }
    Connection::attach(&server, "", crate::support::raw::Mode::Simple).expect_alive();
}

#[test]
fn h31_a_talkative_client_is_dropped_too() {
    let server = Options::new().export("mem:1M").args(["--handshake-timeout", "500ms"]).start();
    let mut client = Connection::haggling(&server);
    // One option after the other without end: the limit is for the handshake, not for a pause in it.
    wait_until("the server to drop a client that never comes to GO", || {
        let mut bytes = [0; 4096];
        client.try_send(&option(NBD_OPT_LIST, b"")).is_err()
            || matches!(client.read_some(&mut bytes), Ok(0) | Err(_))
    });
}

#[test]
fn h31_transmission_has_no_handshake_timeout() {
    let server =
        Options::new().export("fault:delay.read=900ms:mem:1M").args(["--handshake-timeout", "300ms"]).start();
    let mut client = Connection::attach(&server, "", crate::support::raw::Mode::Simple);
    client.read(0, 512);
    client.expect_alive();
}

#[test]
fn h31_silent_connections_make_no_noise() {
    // A handshake of TLS on a machine that is busy takes longer than one without.
    let timeout = if is_tunnelled() { "2s" } else { "200ms" };
    let server =
        Options::new().export("mem:1M").tcp("127.0.0.1:0").args(["--handshake-timeout", timeout]).start();
    for _ in 0..10 {
        drop(Connection::open(&server));
        drop(TcpStream::connect(server.tcp_address()).expect("connect"));
    }
    let mut timed_out = Connection::open_tcp(&server);
    timed_out.read_greeting();
    timed_out.expect_close("the handshake timeout");
    Connection::haggling(&server).expect_in_step();
    assert_eq!(server.complaints(), Vec::<String>::new(), "port scanners and health checks are no errors");
}

#[test]
fn h32_huge_option_is_not_allocated() {
    let server = Server::serve(&["mem:1M"]);
    Connection::attach(&server, "", crate::support::raw::Mode::Simple).expect_alive();
    let before = server.resident();
    let mut clients = Vec::new();
    for number in (1..=11).chain([0x0765_4321]) {
        for claimed in [u32::MAX, 0x8000_0000, 0x7fff_ffff, 64 << 20] {
            let mut client = Connection::haggling(&server);
            client.send(&option_claiming(number, claimed, b""));
            // The server may refuse, drop or wait for more; whatever it does, sending goes nowhere near 4 GiB.
            client.try_send(&vec![0x41; 65536]).ok();
            clients.push(client);
        }
    }
    Connection::attach(&server, "", crate::support::raw::Mode::Simple).expect_alive();
    let grown = server.resident().saturating_sub(before);
    assert!(grown < 32 * MIB, "{} half-sent huge options cost {grown} bytes", clients.len());
}

#[test]
fn h33_tcp_nodelay_is_set() {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let server = Options::new().export("mem:1M").tcp("127.0.0.1:0").start();
    let stream = TcpStream::connect(server.tcp_address()).expect("connect");
    let here = stream.local_addr().expect("a local address");
    let mut client = Connection::over_tcp(stream);
    client.greet(MODERN);
    client.expect_in_step();
    // Fetch duplicates of the server's sockets, find ours by its peer address, and ask the kernel.
    let pidfd =
        pidfd_open(Pid::from_raw(server.pid() as i32).expect("a pid"), PidfdFlags::empty()).expect("pidfd");
    let mut found = 0;
    for entry in std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("list descriptors") {
        let number = entry.expect("an entry").file_name().to_string_lossy().parse().expect("a number");
        let Ok(descriptor) = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()) else { continue };
        let stream = TcpStream::from(descriptor);
        if stream.peer_addr().is_ok_and(|address| address == here) {
            found += 1;
            assert!(stream.nodelay().expect("getsockopt"), "TCP_NODELAY is set on the accepted socket");
        }
    }
    assert!(found > 0, "the server holds no socket to {here}");
}

#[test]
fn h34_old_client_with_another_option() {
    if cannot_be_asked("such an old client has no STARTTLS") {
        return;
    }
    let server = Server::serve(&["mem:1M"]);
    for flags in [0, NBD_FLAG_C_NO_ZEROES] {
        for number in [0x0765_4321, NBD_OPT_LIST, NBD_OPT_STRUCTURED_REPLY] {
            let mut client = Connection::open(&server);
            client.greet(flags);
            // With data, all of these are errors whether or not the server honours fixed newstyle anyway.
            let replies = client.ask(number, b"sixteen bytes of");
            assert_eq!(replies.len(), 1, "{replies:02x?}");
            assert_ne!(
                replies[0].kind & NBD_REP_FLAG_ERROR,
                0,
                "an error for option {number}: {replies:02x?}"
            );
            client.send_option(NBD_OPT_EXPORT_NAME, b"");
            let zeroes = if flags & NBD_FLAG_C_NO_ZEROES == 0 { 124 } else { 0 };
            let reply = client.receive(10 + zeroes, "the reply to EXPORT_NAME");
            assert_eq!(be64(&reply, 0), MIB);
            client.export.size = MIB;
            client.expect_alive();
        }
    }
}
