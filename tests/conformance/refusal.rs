//! Transmission statements T1 to T9: requests that must be refused, and how.

use crate::common::{Disks, assert_same};
use crate::support::image::{Image, pattern};
use crate::support::raw::{Connection, MODES, Mode, Request, spoken};
use crate::support::server::{Options, Server};
use crate::support::wire::*;

#[test]
fn t01_bad_magic_closes_without_a_reply() {
    let server = Server::serve(&["mem:1M"]);
    for mode in spoken(MODES) {
        let other = if mode == Mode::Extended { NBD_REQUEST_MAGIC } else { NBD_EXTENDED_REQUEST_MAGIC };
        let right = if mode == Mode::Extended { NBD_EXTENDED_REQUEST_MAGIC } else { NBD_REQUEST_MAGIC };
        for magic in [0, u32::MAX, other, right ^ 1, right.swap_bytes(), NBD_SIMPLE_REPLY_MAGIC] {
            eprintln!("-- {mode:?}, {magic:#x}");
            let mut client = Connection::attach(&server, "", mode);
            client.expect_alive();
            let mut bytes = Request::read(0, 512).encode(mode);
            bytes[..4].copy_from_slice(&magic.to_be_bytes());
            // A good request behind it is not to be found by guessing.
            bytes.extend(Request::read(0, 512).encode(mode));
            client.send(&bytes);
            client.expect_close("a request with a bad magic");
        }
    }
    Connection::attach(&server, "", Mode::Simple).expect_alive();
}

#[test]
fn t02_cookie_is_echoed() {
    let server = Server::serve(&["mem:1M"]);
    for mode in spoken(MODES) {
        let mut client = Connection::attach(&server, "", mode);
        for cookie in [0, u64::MAX, 1, 1 << 63, 0x0102_0304_0506_0708, u64::from(NBD_REQUEST_MAGIC) << 32] {
            for request in [
                Request::read(0, 512),
                Request::write(512, vec![1; 512]),
                Request::flush(),
                Request::trim(0, 512),
                Request::new(99, 0, 0),
                Request::read(MIB, 512),
                Request::write(MIB, vec![1; 512]),
            ] {
                client.call(&request.cookie(cookie)); // asserts the cookie
            }
        }
    }
}

#[test]
fn t02_duplicate_cookies_in_flight() {
    use crate::support::reply::Message;
    let server = Server::serve(&["fault:delay.read=30ms,range=0+4096:mem:1M"]);
    for mode in spoken(MODES) {
        let mut client = Connection::attach(&server, "", mode);
        client.write(0, &pattern(3, 0, 65536));
        let offsets: Vec<u64> = (0..16).map(|i| i * 4096).collect();
        for &offset in &offsets {
            client.send_request(&Request::read(offset, 4096).cookie(7));
        }
        let mut seen = Vec::new();
        let mut finished = 0;
        while finished < offsets.len() {
            let data = match client.message() {
                Message::Simple { error, cookie } => {
                    assert_eq!((error, cookie), (0, 7));
                    finished += 1;
                    client.receive(4096, "data")
                }
                Message::Chunk(chunk) => {
                    assert_eq!(chunk.cookie, 7);
                    assert!(!chunk.is_error() && chunk.kind != NBD_REPLY_TYPE_OFFSET_HOLE);
                    finished += usize::from(chunk.is_done());
                    if !chunk.is_content() {
                        continue;
                    }
                    assert!(
                        chunk.offset.is_none_or(|echo| echo == be64(&chunk.payload, 0)),
                        "offset of its request"
                    );
                    chunk.payload[8..].to_vec()
                }
            };
            let which = offsets.iter().position(|&offset| data == pattern(3, offset, 4096));
            seen.push(which.expect("the data of one of the requests"));
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..16).collect::<Vec<_>>(), "each request is answered once, {mode:?}");
        client.expect_alive();
    }
}

#[test]
fn t03_write_past_the_end() {
    let disks = Disks::of(MIB);
    disks.each_filled(65536, &spoken(MODES), |disk, client| {
        for (offset, length) in [
            (MIB, 512),
            (MIB - 512, 1024),
            (MIB - 512, 65536),
            (MIB + 4096, 4096),
            (0, MIB as usize + 512),
            (1 << 40, 512),
            (1 << 63, 512),
        ] {
            for flags in [0, NBD_CMD_FLAG_FUA] {
                client.fail(&Request::write(offset, vec![0xbb; length]).flags(flags), NBD_ENOSPC);
                client.expect_alive();
            }
        }
        assert_same(&client.read(0, 65536), &pattern(1, 0, 65536), "a refused write changes nothing");
        assert_eq!(client.read(MIB - 512, 512), vec![0; 512], "nor at the end");
        if let crate::common::Medium::File(image) = &disk.medium {
            assert_eq!(image.open().metadata().expect("stat").len(), MIB, "the file does not grow");
        }
    });
}

#[test]
fn t04_other_requests_past_the_end() {
    let disks = Disks::of(MIB);
    disks.each_filled(4096, &spoken(MODES), |_, client| {
        for (offset, length) in
            [(MIB, 512), (MIB - 512, 1024), (MIB + 4096, 4096), (0, MIB + 512), (1 << 62, 512)]
        {
            client.fail(&Request::zeroes(offset, length), NBD_ENOSPC);
            client.fail(&Request::zeroes(offset, length).flags(NBD_CMD_FLAG_NO_HOLE), NBD_ENOSPC);
            client.fail(&Request::read(offset, length), NBD_EINVAL);
            client.fail(&Request::trim(offset, length), NBD_EINVAL);
            client.fail(&Request::cache(offset, length), NBD_EINVAL);
            client.fail(&Request::status(offset, length), NBD_EINVAL);
        }
        assert_same(&client.read(0, 4096), &pattern(1, 0, 4096), "after refused requests");
        client.expect_alive();
    });
}

#[test]
fn t05_offset_plus_length_never_wraps() {
    let disks = Disks::of(MIB);
    disks.each_filled(4096, &spoken(MODES), |_, client| {
        let mut ranges = vec![(u64::MAX, 512), (u64::MAX - 511, 512), (u64::MAX - 511, 1024), (u64::MAX, 1)];
        ranges.extend([(1 << 63, 1 << 31), (u64::MAX - 0x7fff_ffff, 0x8000_0000), (u64::MAX, 0xffff_ffff)]);
        for &(offset, length) in &ranges {
            client.fail(&Request::read(offset, length), NBD_EINVAL);
            client.fail(&Request::trim(offset, length), NBD_EINVAL);
            client.fail(&Request::cache(offset, length), NBD_EINVAL);
            client.fail_past_the_end(&Request::zeroes(offset, length));
            client.fail(&Request::status(offset, length), NBD_EINVAL);
            if length <= 4096 {
                client.fail_past_the_end(&Request::write(offset, vec![1; length as usize]));
            }
        }
        if client.mode == Mode::Extended {
            for (offset, length) in [(512, u64::MAX), (0, u64::MAX), (u64::MAX, u64::MAX), (1 << 63, 1 << 63)]
            {
                client.fail(&Request::trim(offset, length), NBD_EINVAL);
                client.fail_past_the_end(&Request::zeroes(offset, length));
                client.fail(&Request::status(offset, length), NBD_EINVAL);
                client.fail(&Request::cache(offset, length), NBD_EINVAL);
            }
        }
        client.expect_alive();
        assert_same(&client.read(0, 4096), &pattern(1, 0, 4096), "after refused requests");
    });
}

#[test]
fn t05_huge_extended_read_is_refused() {
    let server = Server::serve(&["mem:1M"]);
    for (offset, length) in [(512, u64::MAX), (0, u64::MAX), (0, 1 << 32), (u64::MAX, 1 << 33)] {
        let mut client = Connection::attach(&server, "", Mode::Extended);
        // Not through `call`, which would make room for the data.
        client.send_request(&Request::read(offset, length).cookie(9));
        let crate::support::reply::Message::Chunk(chunk) = client.message() else { panic!("a chunk") };
        assert!(chunk.is_error() && chunk.is_done(), "{chunk:02x?}");
        assert_eq!(be32(&chunk.payload, 0), NBD_EINVAL);
        client.expect_alive();
    }
}

#[test]
fn t06_read_only_export_refuses_writes() {
    let image = Image::random(MIB, 4);
    let path = image.path.display();
    let by_export = Server::serve(&[format!("file:{path}?readonly=true")]);
    assert_read_only(&by_export, "");
    let by_flag = Options::new().export(format!("file:{path}")).read_only().start();
    assert_read_only(&by_flag, "");
    assert_same(&image.read(0, MIB as usize), &pattern(4, 0, MIB as usize), "the image");
}

#[test]
fn t06_read_only_memory() {
    assert_read_only(&Options::new().export("m=mem:1M").read_only().start(), "m");
}

fn assert_read_only(server: &Server, name: &str) {
    for mode in spoken(MODES) {
        let mut client = Connection::attach(server, name, mode);
        assert!(client.export.has(NBD_FLAG_READ_ONLY), "flags {:#x}", client.export.flags);
        for length in [512, 4096, 1 << 20] {
            for flags in [0, NBD_CMD_FLAG_FUA] {
                client.fail(&Request::write(0, vec![0xcc; length]).flags(flags), NBD_EPERM);
                client.expect_alive();
            }
        }
        for request in [Request::trim(0, 4096), Request::zeroes(0, 4096)] {
            client.fail(&request, NBD_EPERM);
        }
        client.fail(&Request::zeroes(4096, 4096).flags(NBD_CMD_FLAG_NO_HOLE), NBD_EPERM);
        if client.export.has(NBD_FLAG_SEND_FLUSH) {
            client.flush();
        }
        client.expect_alive();
    }
}

#[test]
fn t08_unknown_command() {
    let server = Server::serve(&["mem:1M"]);
    for mode in spoken(MODES) {
        let mut client = Connection::attach(&server, "", mode);
        for kind in [NBD_CMD_RESIZE, 9, 10, 0x00ff, 0x0100, 0x7fff, 0x8000, u16::MAX] {
            for (offset, length) in [(0, 0), (0, 512), (u64::MAX, 0xffff_ffff)] {
                client.fail(&Request::new(kind, offset, length), NBD_EINVAL);
            }
            client.expect_alive();
        }
    }
}

/// Which flags a command may carry, given what the server advertised.
fn allowed(kind: u16, client: &Connection) -> u16 {
    let when = |condition: bool, flag: u16| if condition { flag } else { 0 };
    let export = &client.export;
    let extended = client.mode == Mode::Extended;
    when(export.has(NBD_FLAG_SEND_FUA), NBD_CMD_FLAG_FUA)
        | match kind {
            NBD_CMD_READ => when(export.has(NBD_FLAG_SEND_DF), NBD_CMD_FLAG_DF),
            NBD_CMD_WRITE => when(extended, NBD_CMD_FLAG_PAYLOAD_LEN),
            NBD_CMD_WRITE_ZEROES => {
                NBD_CMD_FLAG_NO_HOLE | when(export.has(NBD_FLAG_SEND_FAST_ZERO), NBD_CMD_FLAG_FAST_ZERO)
            }
            NBD_CMD_BLOCK_STATUS => {
                let payload = export.has(NBD_FLAG_BLOCK_STATUS_PAYLOAD);
                NBD_CMD_FLAG_REQ_ONE | when(payload, NBD_CMD_FLAG_PAYLOAD_LEN)
            }
            _ => 0,
        }
}

#[test]
fn t09_wrong_flag_is_invalid() {
    let disks = Disks::of(MIB);
    disks.each_filled(4096, &spoken(MODES), |_, client| {
        for kind in NBD_CMD_READ..=NBD_CMD_BLOCK_STATUS {
            for bit in (0..16).map(|shift| 1 << shift) {
                if kind == NBD_CMD_DISC || allowed(kind, client) & bit != 0 {
                    continue;
                }
                eprintln!("-- command {kind}, flag {bit:#x}");
                let length = if kind == NBD_CMD_FLUSH { 0 } else { 4096 };
                let mut request = Request::new(kind, 0, length);
                let mut flags = bit;
                // In extended mode PAYLOAD_LEN says that `length` bytes follow, whatever the command.
                if kind == NBD_CMD_WRITE || (bit == NBD_CMD_FLAG_PAYLOAD_LEN && client.mode == Mode::Extended)
                {
                    request.payload = vec![0xdd; length as usize];
                    flags |= if client.mode == Mode::Extended { NBD_CMD_FLAG_PAYLOAD_LEN } else { 0 };
                }
                client.send(&request.encode_with_flags(client.mode, flags));
                let reply = client.reply_to(&request);
                assert_eq!(reply.error, NBD_EINVAL, "command {kind} with flag {bit:#x}");
                client.expect_alive();
            }
        }
        assert_same(&client.read(0, 4096), &pattern(1, 0, 4096), "a refused request changes nothing");
    });
}
