//! Transmission statement T39: extended headers.

use crate::common::{Disks, assert_same};
use crate::support::check;
use crate::support::image::{Image, pattern};
use crate::support::raw::{Connection, Mode, Request};
use crate::support::reply::{Chunk, Message};
use crate::support::server::Server;
use crate::support::wire::*;

#[test]
fn t39_all_replies_are_extended() {
    let disks = Disks::of(MIB);
    // `message` refuses any magic but the extended one; `take_message` compares the offset of each chunk.
    disks.each_filled(65536, &[Mode::Extended], |_, client| {
        for offset in [0, 512, 65536, MIB - 4096] {
            for request in [
                Request::read(offset, 4096),
                Request::write(offset, pattern(1, offset, 4096)),
                Request::trim(offset, 4096),
                Request::zeroes(offset, 4096),
                Request::cache(offset, 4096),
                Request::status(offset, 4096),
                Request::new(66, offset, 4096),
            ] {
                let reply = client.call(&request);
                assert!(!reply.chunks.is_empty());
                assert!(reply.chunks.iter().all(|chunk| chunk.offset == Some(offset)));
            }
        }
        let reply = client.succeed(&Request::flush());
        assert_eq!(reply.chunks.last().map(|chunk| chunk.offset), Some(Some(0)));
        // The offset is echoed even where it makes no sense.
        for offset in [u64::MAX, 1 << 63, MIB] {
            let reply = client.fail(&Request::read(offset, 512), NBD_EINVAL);
            assert_eq!(reply.chunks[0].offset, Some(offset));
            client.call(&Request::write(offset, vec![0; 512]));
            client.call(&Request::new(66, offset, 0));
        }
    });
}

#[test]
fn t39_data_offset_differs_from_the_echo() {
    // A read that comes in several chunks: each says its own place, all echo the request's.
    let image = Image::sparse(4 * MIB);
    image.write(MIB, &pattern(1, MIB, 65536));
    image.write(2 * MIB, &pattern(1, 2 * MIB, 65536));
    let server = Server::serve(&[format!("file:{}", image.path.display())]);
    let mut client = Connection::attach(&server, "", Mode::Extended);
    let reply = client.succeed(&Request::read(4096, 3 * MIB));
    let places: Vec<u64> =
        reply.chunks.iter().filter(|c| c.is_content()).map(|c| be64(&c.payload, 0)).collect();
    assert!(reply.chunks.iter().all(|chunk| chunk.offset == Some(4096)));
    assert!(places.len() > 1, "holes and data come in several chunks: {places:x?}");
    assert_same(&reply.data[(MIB - 4096) as usize..][..65536], &pattern(1, MIB, 65536), "the data");
}

#[test]
fn t39_compact_request_in_extended_mode_closes() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::attach(&server, "", Mode::Extended);
    let mut bytes = Request::read(0, 512).encode(Mode::Simple);
    bytes.extend([0; 4]);
    client.send(&bytes);
    client.expect_close("a compact request in extended mode");
}

/// "The command NBD_CMD_WRITE MUST use the flag": the client of QEMU 10 does not, and sends the payload all the same. Its writes are
/// served, since a server that took the payload for the next requests would lose every such guest.
#[test]
fn t39_write_without_payload_flag_still_has_its_payload() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::attach(&server, "", Mode::Extended);
    for (seed, flags) in [(1, 0), (2, NBD_CMD_FLAG_FUA)] {
        let request = Request::write(0, pattern(seed, 0, 4096));
        client.send(&request.encode_with_flags(Mode::Extended, flags));
        assert_eq!(client.reply_to(&request).error, 0);
        client.expect_alive();
        assert_same(&client.read(0, 4096), &pattern(seed, 0, 4096), "it was written");
        // Refused, it has its payload too, which is not the next request.
        let beyond = Request::write(1 << 20, pattern(seed, 0, 4096));
        client.send(&beyond.encode_with_flags(Mode::Extended, flags));
        assert_eq!(client.reply_to(&beyond).error, NBD_ENOSPC);
        client.expect_alive();
    }
}

#[test]
fn t39_stray_payload_is_consumed() {
    let server = Server::serve(&["mem:8M"]);
    let mut client = Connection::attach(&server, "", Mode::Extended);
    client.write(0, &pattern(1, 0, 65536));
    let payloads = [1, 8, 512, 4096, 100_000, 1 << 20];
    for kind in [NBD_CMD_READ, NBD_CMD_FLUSH, NBD_CMD_TRIM, NBD_CMD_CACHE, NBD_CMD_WRITE_ZEROES, 66] {
        for length in payloads {
            // The payload is made of perfect requests, which must not be found in it.
            let mut payload = Request::zeroes(0, 65536).encode(Mode::Extended).repeat(length / 32 + 1);
            payload.truncate(length);
            let request = Request { payload, ..Request::new(kind, 0, length as u64) };
            client.send(&request.encode_with_flags(Mode::Extended, NBD_CMD_FLAG_PAYLOAD_LEN));
            assert_eq!(client.reply_to(&request).error, NBD_EINVAL, "command {kind} with {length} bytes");
            client.expect_alive();
        }
    }
    assert_same(&client.read(0, 65536), &pattern(1, 0, 65536), "no payload was obeyed");
}

#[test]
fn t39_stray_payload_in_pieces_with_requests_behind() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::attach(&server, "", Mode::Extended);
    let stray = Request { payload: vec![7; 3000], ..Request::new(NBD_CMD_READ, 0, 3000) }.cookie(1);
    let read = Request::read(0, 512).cookie(2);
    let mut bytes = stray.encode_with_flags(Mode::Extended, NBD_CMD_FLAG_PAYLOAD_LEN);
    bytes.extend(read.encode(Mode::Extended));
    client.send_in_pieces(&bytes, 333);
    let mut in_flight = vec![stray, read];
    for _ in 0..2 {
        let (request, reply) = client.next_reply(&mut in_flight);
        assert_eq!(reply.error, if request.cookie == 1 { NBD_EINVAL } else { 0 });
    }
}

#[test]
fn t39_flag_block_status_payload_only_after_extended_headers() {
    let server = Server::serve(&["mem:1M"]);
    for mode in [Mode::Simple, Mode::Structured] {
        let client = Connection::attach(&server, "", mode);
        assert!(!client.export.has(NBD_FLAG_BLOCK_STATUS_PAYLOAD), "{mode:?}: {:#x}", client.export.flags);
    }
    let client = Connection::attach(&server, "", Mode::Extended);
    assert!(client.export.has(NBD_FLAG_BLOCK_STATUS_PAYLOAD), "with a context: {:#x}", client.export.flags);
}

/// BLOCK_STATUS with a payload: effect length and context ids, framed as the header claims.
fn filter(offset: u64, effect: u64, ids: &[u32]) -> Request {
    let mut payload = effect.to_be_bytes().to_vec();
    ids.iter().for_each(|id| payload.extend(id.to_be_bytes()));
    Request { payload: payload.clone(), ..Request::status(offset, payload.len() as u64) }
}

fn send_filter(client: &mut Connection, request: &Request, flags: u16) {
    client.send(&request.encode_with_flags(Mode::Extended, flags | NBD_CMD_FLAG_PAYLOAD_LEN));
}

#[test]
fn t39_block_status_filter() {
    let disks = Disks::of(MIB);
    disks.each_filled(65536, &[Mode::Extended], |_, client| {
        let id = client.export.allocation_id();
        for flags in [0, NBD_CMD_FLAG_REQ_ONE] {
            let request = filter(0, MIB, &[id]);
            send_filter(client, &request, flags);
            let reply = client.reply_to(&request);
            assert_eq!(reply.error, 0, "a filter for the context that was selected");
            // The header's length is that of the payload: judge the extents by the effect length.
            let asked = Request::status(0, MIB).flags(flags);
            let contexts = check::statuses(&asked, &reply.chunks, &client.export);
            assert_eq!(contexts.keys().copied().collect::<Vec<_>>(), [id]);
        }
        // No ids, no chunk.
        let request = filter(0, MIB, &[]);
        send_filter(client, &request, 0);
        let reply = client.reply_to(&request);
        assert!(
            reply.error == NBD_EINVAL || check::statuses(&request, &reply.chunks, &client.export).is_empty()
        );
        client.expect_alive();
    });
}

#[test]
fn t39_bad_block_status_filter() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::attach(&server, "", Mode::Extended);
    let id = client.export.allocation_id();
    let raw =
        |payload: Vec<u8>| Request { payload: payload.clone(), ..Request::status(0, payload.len() as u64) };
    let bad = [
        ("a duplicate id", filter(0, MIB, &[id, id])),
        ("an unknown id", filter(0, MIB, &[id ^ 0x5555])),
        ("a known and an unknown id", filter(0, MIB, &[id, 0xffff_ffff])),
        ("thousands of ids", filter(0, MIB, &(1000..6000).collect::<Vec<u32>>())),
        ("half an id", raw([&MIB.to_be_bytes()[..], &[0, 0]].concat())),
        ("an id and a half", raw([&MIB.to_be_bytes()[..], &id.to_be_bytes(), &[0, 0]].concat())),
        ("half an effect length", raw(vec![0; 4])),
        ("one byte", raw(vec![0])),
        ("an effect past the end", filter(0, MIB + 512, &[id])),
        ("an effect that wraps", filter(512, u64::MAX, &[id])),
        ("an offset past the end", filter(MIB, 512, &[id])),
    ];
    for (what, request) in &bad {
        eprintln!("-- {what}");
        send_filter(&mut client, request, 0);
        // Not `reply_to`: its length rules are those of a request without payload.
        match client.message() {
            Message::Chunk(chunk) => {
                assert!(chunk.is_error() && chunk.is_done(), "{what}: {chunk:02x?}");
                assert_eq!(check::error_chunk(&chunk).0, NBD_EINVAL, "{what}");
            }
            other @ Message::Simple { .. } => panic!("{other:?}"),
        }
        client.expect_alive();
    }
    let request = filter(0, MIB, &[id]);
    send_filter(&mut client, &request, 0);
    assert_eq!(client.reply_to(&request).error, 0, "a good one afterwards");
}

#[test]
fn t39_filter_without_a_context_is_invalid() {
    let server = Server::serve(&["mem:1M"]);
    let mut client = Connection::haggling(&server);
    client.choose(Mode::Extended);
    client.go("");
    let request = filter(0, MIB, &[0]);
    send_filter(&mut client, &request, 0);
    assert_eq!(client.reply_to(&request).error, NBD_EINVAL);
    client.expect_alive();
}

#[test]
fn t39_64_bit_lengths() {
    const SIZE: u64 = 6 << 30;
    let disks = Disks::of(SIZE);
    disks.each(&[Mode::Extended], |disk, client| {
        client.write(5 * GIB, &pattern(1, 5 * GIB, 4096));
        client.write(SIZE - 4096, &pattern(1, SIZE - 4096, 4096));
        // Beyond 2^32 the length must not be cut: 5 GiB + 4096 would be 1 GiB + 4096.
        let length = 5 * GIB + 4096;
        let mut sum = 0;
        for (size, _) in client.extents(&Request::status(0, length)) {
            sum += size;
        }
        assert!(sum > 0 && sum <= SIZE);
        client.call(&Request::cache(0, length));
        client.succeed(&Request::zeroes(0, length));
        assert_same(&client.read(5 * GIB, 4096), &[0; 4096], "within the zeroes");
        let kept = pattern(1, SIZE - 4096, 4096);
        assert_same(&client.read(SIZE - 4096, 4096), &kept, "behind the zeroes");
        client.succeed(&Request::trim(0, length));
        assert_same(&client.read(SIZE - 4096, 4096), &kept, disk.name);
        client.fail_past_the_end(&Request::zeroes(0, SIZE + 512));
        client.fail(&Request::trim(0, SIZE + 512), NBD_EINVAL);
        client.fail(&Request::trim(0, (1 << 32) * 7), NBD_EINVAL);
    });
}

#[test]
fn t39_oversize_payload_is_refused_or_dropped() {
    let server = Server::serve(&["mem:1M"]);
    Connection::attach(&server, "", Mode::Extended).expect_alive();
    let before = server.resident();
    for kind in [NBD_CMD_WRITE, NBD_CMD_READ, NBD_CMD_BLOCK_STATUS, 66] {
        for length in [1 << 30, 1 << 32, u64::MAX, u64::MAX - 31] {
            let mut client = Connection::attach(&server, "", Mode::Extended);
            let request = Request { length, payload: vec![1; 65536], ..Request::new(kind, 0, 0) };
            // "A server SHOULD initiate hard disconnect"; swallowing it all would be endless.
            client.try_send(&request.encode_with_flags(Mode::Extended, NBD_CMD_FLAG_PAYLOAD_LEN)).ok();
            if !client.closes_before_a_byte() {
                let Message::Chunk(Chunk {
                    kind: NBD_REPLY_TYPE_ERROR | NBD_REPLY_TYPE_ERROR_OFFSET, ..
                }) = client.message()
                else {
                    panic!("an error or the end")
                };
            }
        }
    }
    assert!(server.resident().saturating_sub(before) < 100 * MIB, "memory for payloads that never come");
    Connection::attach(&server, "", Mode::Extended).expect_alive();
}
