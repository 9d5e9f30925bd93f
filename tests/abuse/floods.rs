//! Clients that ask for what they cannot have, as fast as they can.

use crate::siege::{Again, Siege, figures_wanted};
use crate::support::raw::{Connection, MODES, Mode, Request};
use crate::support::reply::Message;
use crate::support::wire::*;

/// Lengths about which one may be wrong.
const LONG: [u64; 8] = [
    32 * MIB + 512,
    (1 << 31) - 512,
    1 << 31,
    u32::MAX as u64 - 511,
    u32::MAX as u64,
    1 << 32,
    1 << 63,
    u64::MAX,
];

/// Reads a reply that brings no data; its error.
fn error_of_reply(client: &mut Connection) -> u32 {
    let mut error = 0;
    loop {
        match client.message() {
            Message::Simple { error, .. } => return error,
            Message::Chunk(chunk) => {
                assert!(!chunk.is_content(), "content for a length beyond all limits");
                if chunk.is_error() {
                    error = be32(&chunk.payload, 0);
                }
                if chunk.is_done() {
                    return error;
                }
            }
        }
    }
}

/// Asks for lengths that begin at an offset, and checks that what cannot be is refused.
fn ask_for(client: &mut Connection, kinds: &[u16], offset: u64) {
    let is_extended = client.mode == Mode::Extended;
    for kind in kinds {
        for length in LONG.into_iter().filter(|length| is_extended || *length >> 32 == 0) {
            client.send_request(&Request::new(*kind, offset, length));
            let error = error_of_reply(client);
            let fits = offset.checked_add(length).is_some_and(|end| end <= crate::siege::DISK);
            let carries = *kind == NBD_CMD_READ;
            assert!(error != 0 || (fits && !carries), "{kind} of {length:#x} bytes succeeded");
        }
    }
    client.expect_alive();
}

const WITHOUT_PAYLOAD: [u16; 5] =
    [NBD_CMD_READ, NBD_CMD_TRIM, NBD_CMD_CACHE, NBD_CMD_WRITE_ZEROES, NBD_CMD_BLOCK_STATUS];

#[test]
fn lengths_of_four_gib_and_more() {
    let mut siege = Siege::lay();
    siege.endure_busy("lengths of 4 GiB and more", 1, |siege| {
        let door = siege.door();
        let mut round = 0;
        Again::and_again(move || {
            let mode = MODES[round % 3];
            round += 1;
            let mut client = door.attach(mode);
            ask_for(&mut client, &WITHOUT_PAYLOAD, crate::siege::DISK - 4 * KIB);
            // A payload of nearly 4 GiB: it is refused, what comes of it is skipped, and the client leaves in its midst.
            let claimed = Request { length: u64::from(u32::MAX), ..Request::write(GIB, vec![1; 100_000]) };
            let _refused = client.try_send(&claimed.encode(mode));
        })
    });
}

/// The disk has them, so the kernel prefetches them, lets them go, and zeroes them, on a thread of its own: two are busy, it and the client.
#[test]
fn gigabytes_that_the_disk_has() {
    let mut siege = Siege::lay();
    siege.endure_busy("CACHE, TRIM and WRITE_ZEROES of gigabytes", 2, |siege| {
        let mut client = siege.door().attach(Mode::Extended);
        // Not what the good client works on.
        Again::and_again(move || ask_for(&mut client, &WITHOUT_PAYLOAD[1..], GIB))
    });
}

#[test]
fn payloads_of_four_gib() {
    let mut siege = Siege::lay();
    siege.endure_busy("refused payloads of 4 GiB, as fast as they are taken", 1, |siege| {
        let door = siege.door();
        let mut client = None;
        let (piece, mut left) = (vec![1; 1 << 20], 0);
        Again::and_again(move || {
            let client = client.get_or_insert_with(|| door.attach(Mode::Simple));
            if left == 0 {
                left = u64::from(u32::MAX);
                client
                    .send(&Request { length: left, ..Request::write(GIB, Vec::new()) }.encode(Mode::Simple));
            }
            let now = left.min(MIB);
            client.send(&piece[..now as usize]);
            left -= now;
            if left == 0 {
                assert_ne!(error_of_reply(client), 0);
            }
        })
    });
}

#[test]
fn options_of_four_gib() {
    let mut siege = Siege::lay();
    siege.endure_busy("options that claim 4 GiB", 1, |siege| {
        let door = siege.door();
        Again::and_again(move || {
            let numbers =
                [NBD_OPT_EXPORT_NAME, NBD_OPT_GO, NBD_OPT_INFO, NBD_OPT_LIST, NBD_OPT_SET_META_CONTEXT, 99];
            for number in numbers {
                let mut client = door.open();
                client.greet(MODERN);
                // It may close at once, or skip until its limit is reached.
                for bytes in [&option_claiming(number, u32::MAX, &[1; 1000]), &vec![2; 100_000]] {
                    let _closed = client.try_send(bytes);
                }
            }
        })
    });
}

#[test]
fn errors_without_end() {
    let mut siege = Siege::lay();
    siege.endure_busy("3 clients that are refused without end", 3, |siege| {
        let flood = |mode| {
            let mut client = Connection::attach(&siege.server, "", mode);
            Again::and_again(move || {
                let mut in_flight: Vec<Request> = (0..256)
                    .map(|cookie| match cookie % 4 {
                        0 => Request::read(1 << 60, 512),
                        1 => Request::write(1 << 60, vec![1; 512]),
                        2 => Request::trim(0, 4096).flags(1 << 14),
                        _ => Request::new(77, 0, 0),
                    })
                    .zip(0..)
                    .map(|(request, cookie)| request.cookie(cookie))
                    .collect();
                let bytes: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(mode)).collect();
                client.send(&bytes);
                while !in_flight.is_empty() {
                    assert_ne!(client.next_reply(&mut in_flight).1.error, 0);
                }
            })
        };
        MODES.map(flood)
    });
}

#[test]
fn options_by_the_million() {
    // One handshake has at most 1,024.
    const AT_ONCE: usize = 1000;
    let handshakes = if figures_wanted() { 1000 } else { 50 };
    let mut siege = Siege::lay();
    siege.endure_busy(&format!("{} options", handshakes * AT_ONCE), 1, |siege| {
        let door = siege.door();
        let haggle = move || {
            let mut client = door.open();
            client.greet(MODERN);
            let options: Vec<u8> = (0..AT_ONCE)
                .flat_map(|index| match index % 4 {
                    0 => option(NBD_OPT_LIST, b""),
                    1 => option(NBD_OPT_INFO, &info_data(b"", &[NBD_INFO_BLOCK_SIZE])),
                    2 => option(NBD_OPT_INFO, &info_data(b"nothing of this name", &[])),
                    _ => option(0x1234_5678, &[7; 100]),
                })
                .collect();
            let mut twin = client.twin();
            std::thread::scope(|scope| {
                scope.spawn(move || twin.send(&options));
                let mut finals = 0;
                while finals < AT_ONCE {
                    let kind = client.option_reply().kind;
                    finals += usize::from(kind == NBD_REP_ACK || kind & NBD_REP_FLAG_ERROR != 0);
                }
            });
        };
        for _ in 0..handshakes {
            haggle();
        }
        Again::and_again(haggle)
    });
}
