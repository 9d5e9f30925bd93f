//! Transmission statements T17 to T23: errors of simple reads, and structured and extended reads.
//! Most rules are checked on every reply by `support::check`; here are the situations that put them to the test.

use crate::common::{Disks, assert_same};
use crate::requests::Dice;
use crate::support::check;
use crate::support::image::{Image, pattern};
use crate::support::raw::{CHUNKED, Connection, MODES, Mode, Request, spoken};
use crate::support::server::Server;
use crate::support::wire::*;

/// Reads of [64 KiB, 128 KiB) fail at once; reads elsewhere work.
fn with_bad_range(image: &Image) -> Server {
    Server::serve(&[format!("fault:error.read=EIO@100%,range=65536+65536:file:{}", image.path.display())])
}

#[test]
fn t17_failed_simple_read_has_no_payload() {
    let image = Image::random(MIB, 8);
    let server = with_bad_range(&image);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    // Good and bad, all in flight at once: payload behind an error would put the stream out of step.
    let mut in_flight: Vec<Request> = Vec::new();
    for index in 0..64u64 {
        let offset = if index % 3 == 0 { 65536 + index * 512 } else { 200_000 + index * 4096 };
        in_flight.push(Request::read(offset, 4096 + index * 16).cookie(index));
    }
    let all: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(Mode::Simple)).collect();
    client.send(&all);
    while !in_flight.is_empty() {
        let (request, reply) = client.next_reply(&mut in_flight);
        if request.cookie % 3 == 0 {
            assert_eq!(reply.error, NBD_EIO);
        } else {
            assert_eq!(reply.error, 0);
            assert_same(&reply.data, &pattern(8, request.offset, request.length as usize), "a good read");
        }
    }
    for request in [Request::read(MIB, 512), Request::read(0, 2 * MIB), Request::read(0, 512).flags(1 << 15)]
    {
        client.fail(&request, NBD_EINVAL);
        client.expect_alive();
    }
}

#[test]
fn t18_structured_read_errors_are_chunks() {
    let server = Server::serve(&["mem:1M"]);
    for mode in spoken(CHUNKED) {
        let mut client = Connection::attach(&server, "", mode);
        // `call` refuses a simple reply to a READ.
        for request in [
            Request::read(MIB, 512),
            Request::read(MIB - 512, 1024),
            Request::read(u64::MAX, 512),
            Request::read(0, 512).flags(NBD_CMD_FLAG_NO_HOLE),
            Request::read(0, 512).flags(NBD_CMD_FLAG_REQ_ONE),
            Request::read(0, 512).flags(1 << 15),
            Request::read(MIB, 512).flags(NBD_CMD_FLAG_DF),
        ] {
            let reply = client.fail(&request, NBD_EINVAL);
            assert!(!reply.chunks.is_empty());
            client.expect_alive();
        }
        assert!(client.call(&Request::read(0, 0)).error != NBD_EIO);
    }
}

/// An image with a chequered past: data and holes of all sizes, and what it should read as.
fn chequered(size: u64, seed: u64) -> (Image, Vec<u8>) {
    eprintln!("seed {seed}");
    let image = Image::sparse(size);
    let mut model = vec![0; size as usize];
    let mut dice = Dice(seed);
    let mut at = 0;
    while at < size {
        let length = (4096 << dice.below(6)).min(size - at);
        if dice.below(2) == 0 {
            let data = pattern(seed, at, length as usize);
            image.write(at, &data);
            model[at as usize..(at + length) as usize].copy_from_slice(&data);
        }
        at += length;
    }
    (image, model)
}

#[test]
fn t19_reads_of_data_and_holes() {
    const SIZE: u64 = 4 << 20;
    let (image, model) = chequered(SIZE, 31);
    let path = image.path.display();
    let server = Server::serve(&[format!("file=file:{path}"), format!("direct=file:{path}?direct=true")]);
    for name in ["file", "direct"] {
        for mode in spoken(MODES) {
            let mut client = Connection::attach(&server, name, mode);
            let minimum = u64::from(client.block_sizes()[0]);
            let mut dice = Dice(32);
            for round in 0..200 {
                let offset = dice.below(SIZE / minimum) * minimum;
                let length = (minimum * (1 + dice.below(300_000 / minimum))).min(SIZE - offset);
                eprintln!("-- {name} {mode:?} round {round}: {offset:#x}+{length:#x}");
                let data = client.read(offset, length as usize);
                assert_same(&data, &model[offset as usize..(offset + length) as usize], "a read");
            }
            assert_same(&client.read(0, SIZE as usize), &model, "all at once");
        }
    }
}

#[test]
fn t19_holes_travel_as_holes() {
    let image = Image::sparse(16 * MIB);
    image.write(4 * MIB, &pattern(1, 0, 1 << 20));
    let server = Server::serve(&[format!("file:{}", image.path.display())]);
    for mode in spoken(CHUNKED) {
        let mut client = Connection::attach(&server, "", mode);
        let reply = client.succeed(&Request::read(0, 16 * MIB));
        let bytes: usize = reply.chunks.iter().map(|chunk| chunk.payload.len()).sum();
        assert!(bytes < 3 << 20, "{bytes} bytes sent for 1 MiB of data in 16 MiB of hole");
        assert_same(&reply.data[4 << 20..5 << 20], &pattern(1, 0, 1 << 20), "the data");
    }
}

#[test]
fn t19_reads_after_writes_and_trims_on_every_disk() {
    let disks = Disks::of(4 * MIB);
    disks.each_filled(1 << 20, &spoken(MODES), |_, client| {
        client.succeed(&Request::zeroes(65536, 65536));
        let mut model = pattern(1, 0, 1 << 20);
        model[65536..131_072].fill(0);
        assert_same(&client.read(0, 1 << 20), &model, "data around zeroes");
        client.write(65536 + 4096, &[0x3c; 4096]);
        model[69_632..73_728].fill(0x3c);
        assert_same(&client.read(0, 1 << 20), &model, "a write into the zeroes");
        assert_same(&client.read(MIB, 3 << 20), &vec![0; 3 << 20], "never written");
    });
}

#[test]
fn t20_df_gives_one_content_chunk() {
    const SIZE: u64 = 4 << 20;
    let (image, model) = chequered(SIZE, 41);
    let path = image.path.display();
    let server = Server::serve(&[format!("file=file:{path}"), format!("direct=file:{path}?direct=true")]);
    for name in ["file", "direct"] {
        for mode in spoken(CHUNKED) {
            let mut client = Connection::attach(&server, name, mode);
            assert!(client.export.has(NBD_FLAG_SEND_DF), "DF is offered in {mode:?}");
            for offset in (0..SIZE).step_by(65536) {
                let reply = client.succeed(&Request::read(offset, 65536).flags(NBD_CMD_FLAG_DF));
                let range = offset as usize..offset as usize + 65536;
                assert_same(&reply.data, &model[range.clone()], "a DF read");
                let mixed = model[range.clone()].iter().any(|&byte| byte != 0);
                let hole = reply.chunks.iter().any(|chunk| chunk.kind == NBD_REPLY_TYPE_OFFSET_HOLE);
                assert!(!(mixed && hole), "data in a hole");
            }
            for length in [65537 / 4096 * 4096, MIB, SIZE] {
                let reply = client.call(&Request::read(0, length).flags(NBD_CMD_FLAG_DF));
                match reply.error {
                    0 => assert_same(&reply.data, &model[..length as usize], "a long DF read"),
                    NBD_EOVERFLOW => {
                        assert!(!reply.chunks.iter().any(crate::support::reply::Chunk::is_content))
                    }
                    other => panic!("error {other}"),
                }
            }
            client.expect_alive();
        }
    }
}

#[test]
fn t20_df_is_not_offered_with_simple_replies() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    assert!(!client.export.has(NBD_FLAG_SEND_DF));
    client.fail(&Request::read(0, 512).flags(NBD_CMD_FLAG_DF), NBD_EINVAL);
    client.expect_alive();
}

#[test]
fn t21_error_in_the_middle_of_a_read() {
    let image = Image::random(4 * MIB, 51);
    let path = image.path.display();
    let server = Server::serve(&[
        format!("range=fault:error.read=EIO@100%,range=65536+65536:file:{path}"),
        format!("after=fault:error.read=EIO@100%,after=65536:file:{path}"),
    ]);
    for name in ["range", "after"] {
        for mode in spoken(MODES) {
            let mut client = Connection::attach(&server, name, mode);
            for (offset, length) in [(0, MIB), (4096, 256 << 10), (0, 2 * MIB), (65536, 131_072)] {
                for flags in if mode == Mode::Simple { &[0][..] } else { &[0, NBD_CMD_FLAG_DF] } {
                    let request = Request::read(offset, length).flags(*flags);
                    let reply = client.call(&request);
                    assert_eq!(reply.error, NBD_EIO, "{name}, {mode:?}: {offset:#x}+{length:#x}");
                    if name == "range" {
                        // Whatever came before a located error is right; `check` saw to the order.
                        if let Some(at) = reply.error_offset {
                            assert!((offset..offset + length).contains(&at));
                        }
                    }
                    let good = client.call(&Request::read(2 * MIB, 512).cookie(4));
                    assert!(name == "after" || good.error == 0, "a good read afterwards: {}", good.error);
                }
            }
            client.flush();
        }
    }
}

#[test]
fn t22_error_chunks_are_well_formed() {
    let image = Image::random(MIB, 8);
    let server = with_bad_range(&image);
    for mode in spoken(CHUNKED) {
        let mut client = Connection::attach(&server, "", mode);
        let failing = [
            (Request::read(65536, 4096), NBD_EIO),
            (Request::read(MIB, 512), NBD_EINVAL),
            (Request::write(MIB, vec![0; 512]), NBD_ENOSPC),
            (Request::zeroes(MIB, 512), NBD_ENOSPC),
            (Request::trim(MIB, 512), NBD_EINVAL),
            (Request::status(MIB, 512), NBD_EINVAL),
            (Request::new(77, 0, 0), NBD_EINVAL),
        ];
        for (request, error) in failing {
            // Numbers in host order would be other numbers: 5 would read as 0x05000000.
            let reply = client.fail(&request, error);
            for chunk in reply.chunks.iter().filter(|chunk| chunk.is_error()) {
                let (_, message, _) = check::error_chunk(chunk);
                assert!(!message.is_empty(), "an error chunk explains itself: {chunk:02x?}");
            }
            client.expect_alive();
        }
    }
}

#[test]
fn t23_content_precedes_the_error_that_covers_it() {
    let image = Image::random(4 * MIB, 61);
    let model = pattern(61, 0, 4 << 20);
    let path = image.path.display();
    for fault in [
        "error.read=EIO@100%,after=4096",
        "error.read=EIO@100%,range=1048576+4096",
        "error.read=EIO@30%,seed=5",
    ] {
        let server = Server::serve(&[format!("fault:{fault}:file:{path}")]);
        for mode in spoken(CHUNKED) {
            let mut client = Connection::attach(&server, "", mode);
            let mut in_flight: Vec<Request> =
                (0..32u64).map(|index| Request::read(index * 65536, 1 << 20).cookie(index)).collect();
            in_flight.iter().for_each(|request| client.send(&request.encode(mode)));
            while !in_flight.is_empty() {
                // `check::reply` looks at the order of content and errors.
                let (request, reply) = client.next_reply(&mut in_flight);
                if reply.error == 0 {
                    let start = request.offset as usize;
                    assert_same(&reply.data, &model[start..start + (1 << 20)], fault);
                } else if let Some(located) = reply.error_offset {
                    // Content in front of the error is valid.
                    for chunk in reply.chunks.iter().filter(|c| c.kind == NBD_REPLY_TYPE_OFFSET_DATA) {
                        let start = be64(&chunk.payload, 0);
                        let valid =
                            located.saturating_sub(start).min(chunk.payload.len() as u64 - 8) as usize;
                        assert_same(
                            &chunk.payload[8..8 + valid],
                            &model[start as usize..start as usize + valid],
                            "content before an error",
                        );
                    }
                }
            }
        }
    }
}
