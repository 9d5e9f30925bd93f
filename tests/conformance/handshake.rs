//! Handshake statements H1 to H5: greeting, client flags, unknown options, ABORT.

use crate::support::peer::Peer;
use crate::support::raw::Connection;
use crate::support::server::{Options, Server};
use crate::support::wire::*;

#[test]
fn h01_unknown_client_flags_close() {
    let server = Server::serve(&["mem:1M"]);
    for bit in 2..32 {
        let mut client = Connection::open(&server);
        client.greet(MODERN | 1 << bit);
        client.expect_close(&format!("client flag bit {bit}"));
    }
    let mut client = Connection::open(&server);
    client.read_greeting();
    // An option right behind the bad flags is not answered either.
    let bytes = [&u32::MAX.to_be_bytes()[..], &option(NBD_OPT_LIST, b"")].concat();
    client.send(&bytes);
    client.expect_close("all client flags");
}

#[test]
fn h01_known_client_flags_are_welcome() {
    let server = Server::serve(&["mem:1M"]);
    for flags in [MODERN, NBD_FLAG_C_FIXED_NEWSTYLE] {
        let mut client = Connection::open(&server);
        assert_eq!(client.greet(flags), NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
        client.expect_in_step();
    }
}

#[test]
fn h01_client_flags_may_come_byte_by_byte() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::open(&server);
    client.read_greeting();
    client.send_in_pieces(&MODERN.to_be_bytes(), 1);
    client.expect_in_step();
}

#[test]
fn h02_unknown_option_is_unsupported() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.expect_only(0x0765_4321, b"data", NBD_REP_ERR_UNSUP);
    for number in [0, NBD_OPT_PEEK_EXPORT, 12, 0x7fff_ffff, 0x8000_0001, u32::MAX] {
        client.renew_for_peers(&server);
        for length in [0, 1, 4, 4096, 8192] {
            client.expect_only(number, &vec![0x4e; length], NBD_REP_ERR_UNSUP);
        }
    }
    client.expect_in_step();
    client.go("");
    client.expect_alive();
}

#[test]
fn h02_option_data_is_not_parsed_as_options() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    // The data of an unknown option is a perfect ABORT: it must not be obeyed.
    client.expect_only(0x0765_4321, &option(NBD_OPT_ABORT, b""), NBD_REP_ERR_UNSUP);
    client.expect_in_step();
}

#[test]
fn h02_option_split_at_every_byte() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    let bytes = option(0x0765_4321, b"data");
    for split in 1..bytes.len() {
        let (first, second) = bytes.split_at(split);
        client.send(first);
        std::thread::yield_now();
        client.send(second);
        let replies = client.replies_to(0x0765_4321);
        assert_eq!((replies.len(), replies[0].kind), (1, NBD_REP_ERR_UNSUP), "split at {split}");
    }
    client.send_in_pieces(&bytes, 1);
    assert_eq!(client.replies_to(0x0765_4321).len(), 1);
    client.expect_in_step();
}

#[test]
fn h02_pipelined_options_are_answered_in_order() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    // A client must wait for each reply, but a server that reads ahead must not lose or reorder.
    let numbers: Vec<u32> = (100..Peer::ours_or(164, 116)).collect();
    let bytes: Vec<u8> =
        numbers.iter().flat_map(|&number| option(number, &vec![7; number as usize])).collect();
    client.send(&bytes);
    for number in numbers {
        let replies = client.replies_to(number);
        assert_eq!((replies.len(), replies[0].kind), (1, NBD_REP_ERR_UNSUP));
    }
    client.expect_in_step();
}

#[test]
fn h02_wrong_option_magic_closes() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    let mut bytes = option(NBD_OPT_LIST, b"");
    bytes[0] ^= 0x01;
    client.send(&bytes);
    client.expect_close("an option whose magic is wrong");
}

#[test]
fn h02_requests_behind_go_in_one_send() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::open(&server);
    client.read_greeting();
    let request = crate::support::raw::Request::read(4096, 512);
    let write = crate::support::raw::Request::write(4096, vec![0x5a; 512]).cookie(77);
    let mode = client.mode;
    let everything = [
        MODERN.to_be_bytes().to_vec(),
        option(0x0765_4321, b"data"),
        option(NBD_OPT_GO, &info_data(b"", &[])),
        write.encode(mode),
        request.encode(mode),
    ]
    .concat();
    client.send(&everything);
    assert_eq!(client.replies_to(0x0765_4321)[0].kind, NBD_REP_ERR_UNSUP);
    Connection::decode_info(&client.replies_to(NBD_OPT_GO));
    let mut in_flight = vec![write, request];
    while !in_flight.is_empty() {
        assert_eq!(client.next_reply(&mut in_flight).1.error, 0);
    }
    assert_eq!(client.read(4096, 512), vec![0x5a; 512]);
}

#[test]
fn h03_abort_is_acked() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.expect_only(NBD_OPT_ABORT, b"", NBD_REP_ACK);
    client.expect_close("ABORT");
}

#[test]
fn h03_abort_with_data_is_acked() {
    let server = Server::serve(&["mem:1M"]);
    for length in [1, 100, 4096] {
        let mut client = Connection::haggling(&server);
        client.expect_only(NBD_OPT_ABORT, &vec![0xaa; length], NBD_REP_ACK);
        client.expect_close("ABORT with data");
    }
}

#[test]
fn h03_nothing_is_answered_after_abort() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.send(&[option(NBD_OPT_ABORT, b""), option(NBD_OPT_LIST, b"")].concat());
    assert_eq!(client.replies_to(NBD_OPT_ABORT)[0].kind, NBD_REP_ACK);
    client.expect_close("ABORT with an option behind it");
}

#[test]
fn h03_abort_after_other_options() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.ask(NBD_OPT_LIST, b"");
    client.ask(NBD_OPT_STRUCTURED_REPLY, b"");
    client.ask(NBD_OPT_INFO, &info_data(b"", &[]));
    client.expect_only(NBD_OPT_ABORT, b"", NBD_REP_ACK);
    client.expect_close("ABORT");
}

#[test]
fn h05_abort_and_close_at_once_is_no_error() {
    let server = Options::new().export("mem:1M").tcp("127.0.0.1:0").start();
    for round in 0..20 {
        let mut client =
            if round % 2 == 0 { Connection::open(&server) } else { Connection::open_tcp(&server) };
        if round % 4 < 2 {
            // The greeting stays unread, so closing resets the connection.
            client.send(&[MODERN.to_be_bytes().to_vec(), option(NBD_OPT_ABORT, b"")].concat());
        } else {
            client.greet(MODERN);
            client.send_option(NBD_OPT_ABORT, b"");
        }
    }
    let mut client = Connection::haggling(&server);
    client.expect_only(NBD_OPT_ABORT, b"", NBD_REP_ACK);
    client.expect_close("ABORT");
    assert_eq!(server.complaints(), Vec::<String>::new(), "ABORT and close is a normal end");
}
