//! Handshake statements H6 to H15: LIST, INFO, GO, EXPORT_NAME.

use crate::common::Disks;
use crate::support::image::{Image, pattern};
use crate::support::raw::{Connection, MODES, Mode, Request, spoken};
use crate::support::server::Server;
use crate::support::tls::cannot_be_asked;
use crate::support::wire::*;

const INFO_AND_GO: [u32; 2] = [NBD_OPT_INFO, NBD_OPT_GO];

#[test]
fn h06_list_with_data_is_invalid() {
    let server = Server::serve(&["a=mem:1M", "b=mem:1M"]);
    let mut client = Connection::haggling(&server);
    for data in [&b"x"[..], b"four", &[0; 4096]] {
        client.expect_only(NBD_OPT_LIST, data, NBD_REP_ERR_INVALID);
        client.expect_in_step();
    }
    assert_eq!(client.ask(NBD_OPT_LIST, b"").len(), 3);
}

#[test]
fn h07_list_names_every_export() {
    let names = ["", "a", "a b", "größe", "x".repeat(200).leak()];
    let exports: Vec<String> = names.iter().map(|name| format!("{name}=mem:1M")).collect();
    let server = Server::serve(&exports);
    let mut client = Connection::haggling(&server);
    let replies = client.ask(NBD_OPT_LIST, b"");
    let (last, entries) = replies.split_last().expect("a reply");
    assert_eq!(last.kind, NBD_REP_ACK);
    let mut listed: Vec<String> = Vec::new();
    for entry in entries {
        assert_eq!(entry.kind, NBD_REP_SERVER);
        let length = be32(&entry.data, 0) as usize;
        assert!(length <= entry.data.len() - 4, "the name's length is inside the reply: {entry:02x?}");
        let (name, description) = entry.data[4..].split_at(length);
        listed.push(String::from_utf8(name.to_vec()).expect("a name is UTF-8"));
        assert!(std::str::from_utf8(description).is_ok(), "a description is UTF-8");
    }
    listed.sort();
    let mut expected = names.map(str::to_owned).to_vec();
    expected.sort();
    assert_eq!(listed, expected);
    // Each listed name can be asked for.
    for name in &listed {
        Connection::decode_info(&client.ask(NBD_OPT_INFO, &info_data(name.as_bytes(), &[])));
    }
}

/// INFO or GO data with freely chosen length fields.
fn crooked(name_length: u32, name: &[u8], count: u16, rest: &[u8]) -> Vec<u8> {
    [&name_length.to_be_bytes()[..], name, &count.to_be_bytes(), rest].concat()
}

#[test]
fn h08_malformed_info_and_go() {
    let server = Server::serve(&["disk=mem:1M"]);
    let mut client = Connection::haggling(&server);
    let bad = [
        ("one byte more than there is", crooked(5, b"disk", 0, b"")),
        ("the whole option", crooked(10, b"disk", 0, b"")),
        ("2^31 bytes", crooked(0x8000_0000, b"disk", 0, b"")),
        ("2^32-1 bytes", crooked(u32::MAX, b"disk", 0, b"")),
        ("2^32-2 bytes, so that +6 wraps", crooked(u32::MAX - 5, b"disk", 0, b"")),
        ("name too short", crooked(3, b"disk", 0, b"")),
        ("trailing bytes", crooked(4, b"disk", 0, b"xx")),
        ("one trailing byte", crooked(4, b"disk", 0, b"x")),
        ("half an information request", crooked(4, b"disk", 1, b"\0")),
        ("one and a half", crooked(4, b"disk", 1, b"\0\x03\0")),
        ("fewer requests than counted", crooked(4, b"disk", 3, b"\0\x01\0\x02")),
        ("more requests than counted", crooked(4, b"disk", 1, b"\0\x01\0\x02")),
        ("65535 requests counted", crooked(4, b"disk", u16::MAX, b"")),
        ("no data at all", Vec::new()),
        ("half a length", vec![0, 0]),
        ("only a length", vec![0; 4]),
        ("half a count", vec![0; 5]),
    ];
    for (what, data) in &bad {
        client.renew_for_peers(&server);
        for number in INFO_AND_GO {
            eprintln!("-- {what}");
            client.expect_only(number, data, NBD_REP_ERR_INVALID);
            client.expect_in_step();
        }
    }
    client.go("disk");
    client.expect_alive();
}

#[test]
fn h09_bad_names() {
    let server = Server::serve(&["disk=mem:1M"]);
    let mut client = Connection::haggling(&server);
    let bad: [&[u8]; 6] = [b"di\0sk", b"disk\0", b"\0", b"\xff\xfe", b"disk\xc3", b"\xed\xa0\x80"];
    for name in bad {
        for number in INFO_AND_GO {
            client.expect_only(number, &info_data(name, &[]), NBD_REP_ERR_INVALID);
        }
        client.expect_in_step();
        let mut other = Connection::haggling(&server);
        other.send_option(NBD_OPT_EXPORT_NAME, name);
        other.expect_close("EXPORT_NAME with a bad name");
    }
    // The longest legal name is merely unknown.
    for number in INFO_AND_GO {
        client.expect_only(number, &info_data(&[b'n'; 4096], &[]), NBD_REP_ERR_UNKNOWN);
    }
    client.expect_in_step();
}

#[test]
fn h09_overlong_name() {
    let server = Server::serve(&["disk=mem:1M"]);
    for number in INFO_AND_GO {
        for length in [4097, 5000, 65536] {
            let mut client = Connection::haggling(&server);
            client.send_option(number, &info_data(&vec![b'n'; length], &[]));
            // An error or an end; what must not happen is a crash, a success, or a stream out of step.
            if let Some(reply) = client.option_reply_or_close() {
                assert_ne!(reply.kind & NBD_REP_FLAG_ERROR, 0, "an error, not {reply:02x?}");
                client.expect_in_step();
            }
        }
    }
    for length in [4097, 65536, 1 << 20] {
        let mut client = Connection::haggling(&server);
        client.try_send(&option(NBD_OPT_EXPORT_NAME, &vec![b'n'; length])).ok();
        client.expect_close("EXPORT_NAME with an overlong name");
    }
    Connection::haggling(&server).expect_in_step();
}

#[test]
fn h10_one_info_export_whatever_is_requested() {
    let server = Server::serve(&["disk=mem:3M"]);
    let lists: [&[u16]; 7] = [
        &[],
        &[NBD_INFO_EXPORT],
        &[NBD_INFO_BLOCK_SIZE],
        &[NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE],
        &[NBD_INFO_EXPORT, NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE],
        &[0x1234, 0xffff, 4],
        &[0x1234, NBD_INFO_BLOCK_SIZE, 0x8000],
    ];
    for requests in lists {
        for number in INFO_AND_GO {
            let mut client = Connection::haggling(&server);
            let replies = client.ask(number, &info_data(b"disk", requests));
            // decode_info refuses unknown types and counts INFO_EXPORT; here: each type once.
            let export = Connection::decode_info(&replies);
            let mut types: Vec<u16> = replies[..replies.len() - 1].iter().map(|r| be16(&r.data, 0)).collect();
            types.sort_unstable();
            let count = types.len();
            types.dedup();
            assert_eq!(types.len(), count, "an information type came twice: {replies:02x?}");
            assert_eq!(export.size, 3 * MIB);
            if requests.contains(&NBD_INFO_BLOCK_SIZE) {
                assert!(export.block_size.is_some(), "block sizes were asked for");
            }
            assert!(export.name.is_none_or(|name| name == b"disk"), "the canonical name");
            if number == NBD_OPT_INFO {
                client.expect_in_step();
            }
        }
    }
}

#[test]
fn h11_unknown_export() {
    let server = Server::serve(&["disk=mem:1M"]);
    let mut client = Connection::haggling(&server);
    for name in ["", "disk2", "dis", "DISK", "disk/", "/disk", " disk", "disk?", "%64isk"] {
        for number in INFO_AND_GO {
            client.expect_only(
                number,
                &info_data(name.as_bytes(), &[NBD_INFO_BLOCK_SIZE]),
                NBD_REP_ERR_UNKNOWN,
            );
        }
        let mut other = Connection::haggling(&server);
        other.send_option(NBD_OPT_EXPORT_NAME, name.as_bytes());
        other.expect_close("EXPORT_NAME of an unknown export");
    }
    client.expect_in_step();
    client.go("disk");
    client.expect_alive();
}

#[test]
fn h12_info_then_go_say_the_same() {
    let disks = Disks::of(MIB);
    let lists: [&[u16]; 3] = [
        &[],
        &[NBD_INFO_BLOCK_SIZE],
        &[NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE, NBD_INFO_EXPORT],
    ];
    for disk in &disks.disks {
        // Without and with a metadata context selected.
        for (mode, select) in
            spoken(MODES).into_iter().flat_map(|mode| [(mode, false), (mode, mode != Mode::Simple)])
        {
            for requests in lists {
                let mut client = Connection::haggling(&disks.server);
                client.choose(mode);
                if select {
                    client.select(disk.name, &[b"base:allocation"]);
                }
                let data = info_data(disk.name.as_bytes(), requests);
                let sorted = |mut replies: Vec<crate::support::handshake::OptionReply>| {
                    replies.iter_mut().for_each(|reply| reply.option = 0);
                    replies.sort_by(|a, b| (a.kind, &a.data).cmp(&(b.kind, &b.data)));
                    replies
                };
                let info = sorted(client.ask(NBD_OPT_INFO, &data));
                assert_eq!(
                    info,
                    sorted(client.ask(NBD_OPT_INFO, &data)),
                    "INFO twice, {} {mode:?}",
                    disk.name
                );
                assert_eq!(
                    info,
                    sorted(client.ask(NBD_OPT_GO, &data)),
                    "INFO then GO, {} {mode:?}",
                    disk.name
                );
                client.export.size = MIB;
                client.expect_alive();
            }
        }
    }
}

#[test]
fn h13_zeroes_only_after_export_name() {
    let server = Server::serve(&["disk=mem:1M"]);
    for flags in [MODERN, NBD_FLAG_C_FIXED_NEWSTYLE, 0, NBD_FLAG_C_NO_ZEROES] {
        if flags & NBD_FLAG_C_FIXED_NEWSTYLE == 0 && cannot_be_asked("such an old client has no STARTTLS") {
            continue;
        }
        if flags & NBD_FLAG_C_FIXED_NEWSTYLE != 0 {
            let mut client = Connection::open(&server);
            client.greet(flags);
            client.go("disk");
            client.expect_alive(); // zero bytes would stand where its reply's magic belongs
        }
        for pipelined in [false, true] {
            let mut client = Connection::open(&server);
            client.greet(flags);
            let read = Request::read(0, 512);
            let mut bytes = option(NBD_OPT_EXPORT_NAME, b"disk");
            if pipelined {
                bytes.extend(read.encode(Mode::Simple));
            }
            client.send(&bytes);
            let reply = client.receive(10, "size and flags");
            assert_eq!(be64(&reply, 0), MIB);
            assert_eq!(be16(&reply, 8) & NBD_FLAG_HAS_FLAGS, NBD_FLAG_HAS_FLAGS);
            if flags & NBD_FLAG_C_NO_ZEROES == 0 {
                assert_eq!(client.receive(124, "the reserved zeroes"), [0; 124]);
            }
            if !pipelined {
                client.send_request(&read);
            }
            assert_eq!(client.reply_to(&read).error, 0);
        }
    }
}

#[test]
fn h14_block_sizes_obey_the_limits() {
    let odd = Image::sparse(MIB + 511);
    let tiny = Image::sparse(100);
    let path = odd.path.display();
    let server = Server::serve(&[
        format!("odd=file:{path}"),
        format!("odd-direct=file:{path}?direct=true"),
        format!("tiny=file:{}", tiny.path.display()),
        "odd-mem=mem:1000001".to_owned(),
        "null=null:1T".to_owned(),
    ]);
    for name in ["odd", "odd-direct", "tiny", "odd-mem", "null"] {
        assert_sizes(&server, name);
    }
    let disks = Disks::of(3 * MIB);
    for disk in &disks.disks {
        assert_eq!(assert_sizes(&disks.server, disk.name), 3 * MIB);
    }
}

#[track_caller]
fn assert_sizes(server: &Server, name: &str) -> u64 {
    let client = Connection::attach(server, name, Mode::Simple);
    let [minimum, preferred, maximum] = client.export.block_size.expect("INFO_BLOCK_SIZE was asked for");
    eprintln!("-- {name}: {minimum} / {preferred} / {maximum}, {} bytes", client.export.size);
    assert!(minimum.is_power_of_two() && minimum <= 65536, "minimum {minimum}");
    assert!(preferred.is_power_of_two() && preferred >= minimum.max(512), "preferred {preferred}");
    assert!(maximum >= preferred && maximum >= 1 << 20, "maximum payload {maximum}");
    assert!(maximum >= 32 << 20, "at least 32 MiB by default, not {maximum}");
    assert_eq!(client.export.size % u64::from(minimum), 0, "the size is whole blocks");
    client.export.size
}

#[test]
fn h15_client_that_did_not_ask_for_block_sizes() {
    let disks = Disks::of(MIB);
    for disk in &disks.disks {
        eprintln!("-- {}", disk.name);
        Connection::attach(&disks.server, disk.name, Mode::Simple).write(0, &pattern(1, 0, 16384));
        let mut client = Connection::haggling(&disks.server);
        let replies = client.ask(NBD_OPT_GO, &info_data(disk.name.as_bytes(), &[]));
        let last = replies.last().expect("a reply").kind;
        if last == NBD_REP_ERR_BLOCK_SIZE_REQD {
            let told = |reply: &crate::support::handshake::OptionReply| {
                reply.kind == NBD_REP_INFO && be16(&reply.data, 0) == NBD_INFO_BLOCK_SIZE
            };
            assert!(replies.iter().any(told), "BLOCK_SIZE_REQD comes with INFO_BLOCK_SIZE: {replies:02x?}");
            client.go(disk.name);
            client.expect_alive();
            continue;
        }
        client.export = Connection::decode_info(&replies);
        // It may do as it likes: served, or refused without harm.
        let mut expected = pattern(1, 0, 16384);
        for (offset, length) in [(1, 3), (511, 2), (4095, 4098), (8192, 1)] {
            let reply = client.call(&Request::write(offset, vec![0xee; length]));
            assert!([0, NBD_EINVAL].contains(&reply.error), "an unaligned write gives {}", reply.error);
            if reply.error == 0 {
                expected[offset as usize..offset as usize + length].fill(0xee);
            }
            let reply = client.call(&Request::read(offset, length as u64));
            assert!([0, NBD_EINVAL].contains(&reply.error), "an unaligned read gives {}", reply.error);
        }
        crate::common::assert_same(&client.read(0, 16384), &expected, "after unaligned writes");
    }
}
