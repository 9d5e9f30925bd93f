//! Transmission statements T24 to T26: BLOCK_STATUS.

use rustix::fs::{SeekFrom, seek};

use crate::common::Disks;
use crate::requests::Dice;
use crate::support::image::{Image, pattern};
use crate::support::raw::{CHUNKED, Connection, MODES, Mode, Request, spoken};
use crate::support::server::Server;
use crate::support::wire::*;

#[test]
fn t24_block_status_without_a_context() {
    let server = Server::serve(&["mem:1M"]);
    for mode in spoken(MODES) {
        for select in [false, true] {
            let mut client = Connection::haggling(&server);
            client.choose(mode);
            if select && mode != Mode::Simple {
                client.select("", &[b"x-none:such"]);
            }
            client.go("");
            client.fail(&Request::status(0, 512), NBD_EINVAL);
            client.fail(&Request::status(0, MIB).flags(NBD_CMD_FLAG_REQ_ONE), NBD_EINVAL);
            client.expect_alive();
        }
    }
}

/// Where the file system keeps data, as (start, end), by lseek(2).
fn data_map(image: &Image, size: u64) -> Vec<(u64, u64)> {
    let file = image.open();
    let mut map = Vec::new();
    let mut at = 0;
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(start)).expect("the end of the data");
        map.push((start, at.min(size)));
    }
    map
}

/// The truth for a range: (length, is hole), adjacent pieces merged.
fn truth(map: &[(u64, u64)], from: u64, to: u64) -> Vec<(u64, bool)> {
    let mut pieces: Vec<(u64, bool)> = Vec::new();
    let mut at = from;
    for &(start, end) in map.iter().filter(|&&(start, end)| end > from && start < to) {
        if start > at {
            pieces.push((start - at, true));
        }
        pieces.push((end.min(to) - start.max(at), false));
        at = end.min(to);
    }
    if at < to {
        pieces.push((to - at, true));
    }
    pieces
}

/// Holes and data of `step` bytes in turn.
fn striped(size: u64, step: u64) -> Image {
    let image = Image::sparse(size);
    for offset in (0..size).step_by(2 * step as usize) {
        image.write(offset + step, &vec![0x5a; step as usize]);
    }
    image
}

#[test]
fn t25_extents_tell_the_allocation() {
    const SIZE: u64 = 32 << 20;
    let image = striped(SIZE, 65536);
    let path = image.path.display();
    let server = Server::serve(&[format!("file=file:{path}"), format!("direct=file:{path}?direct=true")]);
    let map = data_map(&image, SIZE);
    for name in ["file", "direct"] {
        for mode in spoken(CHUNKED) {
            let mut client = Connection::attach(&server, name, mode);
            let mut dice = Dice(71);
            let minimum = u64::from(client.block_sizes()[0]);
            let mut ranges = vec![
                (0, SIZE),
                (0, minimum),
                (SIZE - minimum, minimum),
                (65536, 65536),
                (65535 & !511, 1024),
            ];
            for _ in 0..60 {
                let offset = dice.below(SIZE / minimum) * minimum;
                ranges.push((offset, (1 + dice.below(2 << 20) / minimum) * minimum));
            }
            for (offset, length) in ranges {
                let length = length.min(SIZE - offset);
                // The rules of the reply are checked by `extents`; the last extent may reach beyond the request.
                let extents = client.extents(&Request::status(offset, length));
                let reach: u64 = extents.iter().map(|extent| extent.0).sum();
                let told: Vec<(u64, bool)> =
                    extents.iter().map(|&(size, flags)| (size, flags & NBD_STATE_HOLE != 0)).collect();
                assert_eq!(
                    told,
                    truth(&map, offset, offset + reach),
                    "{name} {mode:?} {offset:#x}+{length:#x}"
                );
                for &(_, flags) in &extents {
                    let hole = flags & NBD_STATE_HOLE != 0;
                    assert_eq!(
                        flags & NBD_STATE_ZERO != 0,
                        hole,
                        "a hole of a file reads as zeroes, data need not"
                    );
                    assert_eq!(flags & !3, 0, "reserved flags are zero");
                }
            }
        }
    }
}

#[test]
fn t25_extents_always_lead_to_the_end() {
    let disks = Disks::of(4 * MIB);
    disks.each(&spoken(CHUNKED), |_, client| {
        client.write(MIB, &pattern(1, 0, 65536));
        client.succeed(&Request::trim(MIB + 16384, 16384));
        let mut at = 0;
        let mut steps = 0;
        while at < 4 * MIB {
            let extents = client.extents(&Request::status(at, 4 * MIB - at));
            at += extents.iter().map(|extent| extent.0).sum::<u64>();
            steps += 1;
        }
        assert!(at == 4 * MIB && steps < 1000, "{steps} requests to map 4 MiB");
        // What is said to be zero is zero, and what was written is not said to be.
        let extents = client.extents(&Request::status(MIB, 16384));
        assert_eq!(extents[0].1, 0, "just written: {extents:x?}");
    });
}

#[test]
fn t25_zero_means_zero() {
    let disks = Disks::of(4 * MIB);
    disks.each(&spoken(CHUNKED), |_, client| {
        client.write(0, &pattern(1, 0, 2 << 20));
        client.succeed(&Request::zeroes(65536, 131_072));
        client.succeed(&Request::zeroes(MIB, 65536).flags(NBD_CMD_FLAG_NO_HOLE));
        client.succeed(&Request::trim(MIB + 262_144, 65536));
        let mut at = 0;
        while at < 4 * MIB {
            for (length, flags) in client.extents(&Request::status(at, 4 * MIB - at)) {
                if flags & NBD_STATE_ZERO != 0 {
                    crate::common::assert_zero(
                        &client.read(at, length as usize),
                        "an extent with STATE_ZERO",
                    );
                }
                at += length;
            }
        }
    });
}

#[test]
fn t25_many_extents() {
    // 4,096 stripes of 4 KiB: more than fits one small reply buffer.
    const SIZE: u64 = 32 << 20;
    let image = striped(SIZE, 4096);
    let map = data_map(&image, SIZE);
    let server = Server::serve(&[format!("file:{}", image.path.display())]);
    for mode in spoken(CHUNKED) {
        let mut client = Connection::attach(&server, "", mode);
        let mut told = Vec::new();
        let mut at = 0;
        while at < SIZE {
            for (length, flags) in client.extents(&Request::status(at, SIZE - at)) {
                told.push((length, flags & NBD_STATE_HOLE != 0));
                at += length;
            }
        }
        // Where one reply ends and the next begins, equal neighbours may meet; none do here, each stripe is whole.
        assert_eq!(told, truth(&map, 0, SIZE), "{mode:?}");
    }
}

#[test]
fn t25_lengths_beyond_32_bits() {
    const SIZE: u64 = 6 << 30;
    let image = Image::sparse(SIZE);
    image.write(5 * GIB, &pattern(1, 0, 65536));
    let server = Server::serve(&[format!("file:{}", image.path.display())]);
    let mut client = Connection::attach(&server, "", Mode::Structured);
    let extents = client.extents(&Request::status(0, 0xffff_fe00));
    assert!(extents[0].0 <= u64::from(u32::MAX) && extents[0].0 >= GIB, "32-bit extents: {extents:x?}");
    let mut client = Connection::attach(&server, "", Mode::Extended);
    let extents = client.extents(&Request::status(0, SIZE));
    let hole = NBD_STATE_HOLE | NBD_STATE_ZERO;
    assert_eq!(extents, [(5 * GIB, hole), (65536, 0), (GIB - 65536, hole)]);
}

#[test]
fn t25_status_follows_writes_and_trims() {
    let image = Image::sparse(4 * MIB);
    let server = Server::serve(&[format!("file:{}", image.path.display())]);
    let hole = NBD_STATE_HOLE | NBD_STATE_ZERO;
    for mode in spoken(CHUNKED) {
        let mut client = Connection::attach(&server, "", mode);
        client.write(MIB, &pattern(1, 0, 65536));
        let extents = client.extents(&Request::status(0, 4 * MIB));
        assert_eq!(extents, [(MIB, hole), (65536, 0), (3 * MIB - 65536, hole)], "after a write");
        client.succeed(&Request::trim(MIB, 65536));
        assert_eq!(client.extents(&Request::status(0, 4 * MIB)), [(4 * MIB, hole)], "TRIM punches");
    }
}

#[test]
fn t26_req_one() {
    const SIZE: u64 = 4 << 20;
    let image = striped(SIZE, 65536);
    let server = Server::serve(&[format!("file:{}", image.path.display())]);
    for mode in spoken(CHUNKED) {
        let mut client = Connection::attach(&server, "", mode);
        for (offset, length) in
            [(0, SIZE), (0, 512), (0, 65536), (4096, 4096), (SIZE - 512, 512), (65536, SIZE - 65536)]
        {
            let request = Request::status(offset, length).flags(NBD_CMD_FLAG_REQ_ONE);
            let extents = client.extents(&request); // checks for one extent within the request
            let boundary = 65536 - offset % 65536;
            assert_eq!(extents[0].0, length.min(boundary), "{offset:#x}+{length:#x}");
        }
    }
    let disks = Disks::of(MIB);
    disks.each_filled(65536, &spoken(CHUNKED), |_, client| {
        for (offset, length) in [(0, MIB), (0, 4096), (61_440, 8192), (MIB - 4096, 4096)] {
            client.extents(&Request::status(offset, length).flags(NBD_CMD_FLAG_REQ_ONE));
        }
    });
}
