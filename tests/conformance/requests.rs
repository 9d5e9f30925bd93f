//! Transmission statements T10 to T12, T38, T40: FUA everywhere, odd alignment, length zero, great length, CACHE.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::common::{Disks, assert_same};
use crate::support::image::{Image, LoopDevice, pattern};
use crate::support::peer::Peer;
use crate::support::raw::{Connection, MODES, Mode, Request, spoken};
use crate::support::server::{Options, Server};
use crate::support::tls::is_tunnelled;
use crate::support::wire::*;

#[test]
fn t10_fua_is_accepted_on_every_command() {
    let disks = Disks::of(MIB);
    disks.each_filled(16384, &spoken(MODES), |disk, client| {
        if !client.export.has(NBD_FLAG_SEND_FUA) {
            assert_eq!(disk.name, "mem", "FUA is offered wherever there is something to persist");
            return;
        }
        let mut requests = vec![
            Request::read(0, 4096),
            Request::write(0, vec![0x11; 4096]),
            Request::flush(),
            Request::trim(4096, 4096),
            Request::zeroes(8192, 4096),
            Request::zeroes(8192, 4096).flags(NBD_CMD_FLAG_NO_HOLE),
        ];
        if client.export.has(NBD_FLAG_SEND_CACHE) {
            requests.push(Request::cache(0, 4096));
        }
        if client.mode != Mode::Simple && Peer::from_env().has_contexts() {
            requests.push(Request::status(0, 4096));
        }
        for request in requests {
            client.succeed(&request.flags(NBD_CMD_FLAG_FUA));
        }
        assert_same(&client.read(0, 4096), &[0x11; 4096], "the FUA write");
        assert_same(&client.read(8192, 4096), &[0; 4096], "the FUA zeroes");
        client.fail(&Request::new(42, 0, 0).flags(NBD_CMD_FLAG_FUA), NBD_EINVAL);
        client.expect_alive();
    });
}

/// A small generator of reproducible choices.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

const SIZE: usize = 1 << 20;

#[test]
fn t11_odd_offsets_and_lengths() {
    let seed = 20_240_611;
    eprintln!("seed {seed}");
    let disks = Disks::of(SIZE as u64);
    disks.each(&spoken(MODES), |_, client| odd_requests(client, seed));
}

#[test]
fn t11_device_with_sectors_of_4096_bytes() {
    let Some(device) = LoopDevice::with_sectors(Image::sparse(SIZE as u64), 4096) else { return };
    let path = device.path.display();
    let server = Server::serve(&[format!("buffered=file:{path}"), format!("direct=file:{path}?direct=true")]);
    for name in ["buffered", "direct"] {
        for mode in spoken(MODES) {
            eprintln!("-- {name}, {mode:?}");
            let mut client = Connection::attach(&server, name, mode);
            odd_requests(&mut client, 4096);
            // TRIM of what is no whole sector touches no neighbour.
            client.write(0, &pattern(3, 0, 65536));
            for (offset, length) in [(512, 512), (4095, 2), (100, 20_000), (8192, 512)] {
                let error = client.call(&Request::trim(offset, length)).error;
                assert!([0, NBD_EINVAL].contains(&error), "TRIM {offset}+{length} gives {error}");
                let (start, end) = (offset as usize, (offset + length) as usize);
                let (now, before) = (client.read(0, 65536), pattern(3, 0, 65536));
                assert_same(&now[..start], &before[..start], "before a TRIM");
                assert_same(&now[end..], &before[end..], "behind a TRIM");
                client.write(0, &before);
            }
        }
    }
}

/// Random reads, writes and zeroes at odd places, compared with a model. A server that advertised a minimum block gets
/// to refuse what is not aligned to it, since GO asked for the block sizes.
fn odd_requests(client: &mut Connection, seed: u64) {
    let mut dice = Dice(seed);
    let minimum = u64::from(client.export.block_size.map_or(1, |sizes| sizes[0]));
    let mut model = pattern(9, 0, SIZE);
    client.write(0, &model);
    for round in 0..150u64 {
        let mut offset = dice.below(SIZE as u64 - 1);
        let mut length = (1 + dice.below(20_000)).min(SIZE as u64 - offset);
        if round % 2 == 0 {
            offset -= offset % minimum;
            length = length.next_multiple_of(minimum).min(SIZE as u64 - offset);
        }
        let aligned = offset.is_multiple_of(minimum) && length.is_multiple_of(minimum);
        let range = offset as usize..(offset + length) as usize;
        let write = Request::write(offset, pattern(round + 10, offset, length as usize));
        let request = match dice.below(4) {
            0 => Request::read(offset, length),
            1 => Request::zeroes(offset, length),
            2 => Request::zeroes(offset, length).flags(NBD_CMD_FLAG_NO_HOLE),
            _ => write,
        };
        eprintln!("-- round {round}: {}", crate::support::reply::describe(&request));
        if !aligned {
            // GO asked for the block sizes, so a server with a minimum is owed whole blocks.
            client.fail(&request, NBD_EINVAL);
            client.fail(&Request::trim(offset, length), NBD_EINVAL);
            continue;
        }
        let reply = client.succeed(&request);
        match request.kind {
            NBD_CMD_READ => assert_same(&reply.data, &model[range], "a read"),
            NBD_CMD_WRITE => model[range].copy_from_slice(&request.payload),
            _ => model[range].fill(0),
        }
    }
    assert_same(&client.read(0, SIZE), &model, "the whole disk");
}

#[test]
fn t11_one_byte_at_the_very_end() {
    let server = Server::serve(&["mem:1000001"]);
    let image = Image::sparse(1_000_001);
    let path = image.path.display();
    let files = Server::serve(&[format!("a=file:{path}"), format!("b=file:{path}?direct=true")]);
    for (server, name) in [(&server, ""), (&files, "a"), (&files, "b")] {
        let mut client = Connection::attach(server, name, Mode::Simple);
        let last = client.export.size - 1;
        if client.block_sizes()[0] > 1 {
            continue; // the size was rounded to whole blocks (H14)
        }
        client.write(last, &[0x77]);
        assert_eq!(client.read(last, 1), [0x77]);
        assert_eq!(client.read(last - 511, 512)[511], 0x77);
        client.succeed(&Request::zeroes(last, 1));
        assert_eq!(client.read(last, 1), [0]);
        client.fail(&Request::read(last, 2), NBD_EINVAL);
        client.fail(&Request::write(last, vec![1, 2]), NBD_ENOSPC);
    }
    drop(files);
    assert_eq!(image.open().metadata().expect("stat").len(), 1_000_001, "the file keeps its length");
}

#[test]
fn t12_zero_length_requests_do_not_disconnect() {
    let disks = Disks::of(MIB);
    disks.each_filled(4096, &spoken(MODES), |_, client| {
        let kinds = [NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_CACHE, NBD_CMD_WRITE_ZEROES];
        for offset in [0, 512, MIB - 512, MIB, MIB + 512, u64::MAX] {
            for kind in kinds {
                let reply = client.call(&Request::new(kind, offset, 0));
                assert!(
                    [0, NBD_EINVAL, NBD_ENOSPC].contains(&reply.error),
                    "command {kind}: {}",
                    reply.error
                );
                client.expect_alive();
            }
            // Unspecified too; here even success has nothing to describe, so only the connection counts.
            client.send_request(&Request::status(offset, 0).cookie(12));
            loop {
                match client.message() {
                    crate::support::reply::Message::Chunk(chunk) if !chunk.is_done() => {}
                    _ => break,
                }
            }
            client.expect_alive();
        }
        assert_same(&client.read(0, 4096), &pattern(1, 0, 4096), "after requests of nothing");
    });
}

#[test]
fn t12_flush_with_offset_and_length_does_not_disconnect() {
    let server = Server::serve(&["mem:1M"]);
    for mode in spoken(MODES) {
        let mut client = Connection::attach(&server, "", mode);
        let reply = client.call(&Request::new(NBD_CMD_FLUSH, 512, 512));
        assert!([0, NBD_EINVAL].contains(&reply.error), "error {}", reply.error);
        client.expect_alive();
    }
}

#[test]
fn t38_largest_requests_are_served() {
    let disks = Disks::of(40 * MIB);
    const LENGTH: usize = 32 << 20;
    let data = pattern(5, 4096, LENGTH);
    disks.each(&[Mode::Simple, Mode::Extended], |_, client| {
        client.write(4096, &data);
        assert_same(&client.read(4096, LENGTH), &data, "32 MiB");
        client.write(MIB, &vec![0; LENGTH]);
    });
}

/// A pattern that comes again after a prime number of bytes: making one of tens of megabytes takes a debug build seconds.
fn long_pattern(seed: u64, length: usize) -> Vec<u8> {
    const PERIOD: usize = 1_000_003;
    let mut bytes = pattern(seed, 0, PERIOD).repeat(length.div_ceil(PERIOD));
    bytes.truncate(length);
    bytes
}

/// The maximum that is advertised follows memory and `--max-request`, and each request of so many bytes is served.
#[test]
fn t38_the_advertised_maximum_is_served() {
    Peer::only_ours("be given so much memory and no more");
    for (memory, flag, maximum) in [
        ("128M", None, 64 * MIB),
        ("107M", None, 32 * MIB),
        ("48M", Some("1M"), MIB),
        ("144M", Some("48M"), 48 * MIB),
    ] {
        let options = Options::new().export("mem:100M").shards(1).memory(memory);
        let options = options.args(flag.iter().flat_map(|size| ["--max-request", *size]));
        let server = options.start();
        for mode in spoken(MODES) {
            let mut client = Connection::attach(&server, "", mode);
            assert_eq!(u64::from(client.block_sizes()[2]), maximum, "{memory}, {flag:?}");
            let data = long_pattern(mode as u64, maximum as usize);
            client.write(512, &data);
            assert_same(&client.read(512, maximum as usize), &data, "as long as it may be");
            let reply = client.call(&Request::read(0, maximum + 512));
            assert!([NBD_EINVAL, NBD_EOVERFLOW].contains(&reply.error), "error {}", reply.error);
            client.expect_alive();
        }
    }
}

/// One client sends the longest request there is slowly: those of a few MiB go on beside it.
#[test]
fn t32_requests_of_a_few_mib_go_on_beside_a_slow_long_one() {
    const LENGTH: usize = 2 << 20;
    Peer::only_ours("be given so much memory and no more");
    // With TLS a part of it is kept for records of which a part has come.
    let memory = if is_tunnelled() { "144M" } else { "128M" };
    let server = Options::new().export("mem:100M").shards(1).memory(memory).start();
    let mut slow = Connection::attach(&server, "", Mode::Simple);
    let claimed = Request { length: 64 * MIB, ..Request::write(0, vec![1; 1 << 20]) };
    slow.send(&claimed.encode(Mode::Simple));
    let mut writers: Vec<Connection> =
        (0..6).map(|index| Connection::attach(&server, "", MODES[index % 3])).collect();
    // All of them have their memory before the first is answered.
    let requests: Vec<Request> =
        (0..6).map(|index| Request::write(64 * MIB + index * LENGTH as u64, vec![2; LENGTH])).collect();
    let halves = |client: &Connection, request: &Request| {
        let bytes = request.encode(client.mode);
        let rest = bytes.len() / 2;
        (bytes[..rest].to_vec(), bytes[rest..].to_vec())
    };
    for (client, request) in writers.iter_mut().zip(&requests) {
        let (first, _) = halves(client, request);
        client.send(&first);
    }
    for (client, request) in writers.iter_mut().zip(&requests) {
        let (_, second) = halves(client, request);
        client.send(&second);
        assert_eq!(client.reply_to(request).error, 0);
    }
    slow.send(&vec![1; 63 << 20]);
    assert_eq!(slow.reply_to(&claimed).error, 0);
}

/// Clients keep all memory for long requests in use, and one needs all of it at once: it gets its turn.
#[test]
fn t32_the_longest_request_gets_its_turn_beside_steady_ones() {
    const LENGTH: u64 = 16 * MIB;
    Peer::only_ours("be given so much memory and no more");
    let server = Options::new().export("mem:100M").shards(1).memory("128M").start();
    let mut long = Connection::attach(&server, "", Mode::Simple);
    let is_over = AtomicBool::new(false);
    /// Also when the test fails.
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let (begun, steady) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for mode in [Mode::Simple, Mode::Structured, Mode::Extended, Mode::Simple] {
            let mut client = Connection::attach(&server, "", mode);
            let (begun, is_over) = (begun.clone(), &is_over);
            scope.spawn(move || {
                let read = Request::read(0, LENGTH);
                client.send_request(&read);
                for _ in 0.. {
                    // There is always one that waits.
                    let done = is_over.load(Relaxed);
                    if !done {
                        client.send_request(&read);
                    }
                    assert_eq!(client.reply_to(&read).error, 0);
                    let _nobody_counts = begun.send(());
                    if done {
                        break;
                    }
                }
            });
        }
        steady.iter().take(8).for_each(drop);
        let _ends = Ends(&is_over);
        let longest = Request::read(0, 64 * MIB);
        long.send_request(&longest);
        assert_eq!(long.reply_to(&longest).error, 0);
        // Four times as much as it needs are 16, and some had begun or come while it is sent.
        let before = steady.try_iter().count();
        assert!(before <= 64, "{before} shorter requests were answered before it");
    });
}

#[test]
fn t38_oversize_read_is_an_error() {
    let server = Server::serve(&["null=null:16G", "mem=mem:16G"]);
    for name in ["null", "mem"] {
        for mode in spoken(MODES) {
            let mut client = Connection::attach(&server, name, mode);
            client.expect_alive();
            let before = server.resident();
            let maximum = u64::from(client.block_sizes()[2]);
            for length in [maximum + 512, 2 * maximum, GIB, 0xffff_fe00, 0xffff_ffff] {
                if mode == Mode::Simple {
                    client.send_request(&Request::read(0, length).cookie(3));
                    let message = client.message();
                    let crate::support::reply::Message::Simple { error, cookie: 3 } = message else {
                        panic!("{message:?}")
                    };
                    assert!([NBD_EINVAL, NBD_EOVERFLOW].contains(&error), "error {error}");
                } else {
                    // Chunked modes may serve it in pieces: read until DONE, whatever comes.
                    client.send_request(&Request::read(0, length).cookie(3));
                    while !matches!(client.message(), crate::support::reply::Message::Chunk(c) if c.is_done())
                    {
                    }
                }
                client.expect_alive();
            }
            let grown = server.resident().saturating_sub(before);
            assert!(grown < 100 * MIB, "{grown} bytes for reads that were refused");
        }
    }
}

#[test]
fn t38_oversize_write_is_consumed_or_dropped() {
    let server = Server::serve(&["mem:80M"]);
    for mode in spoken(MODES) {
        let mut client = Connection::attach(&server, "", mode);
        let maximum = client.block_sizes()[2] as usize;
        assert_ne!(maximum, u32::MAX as usize, "PEER CANNOT: be asked for more than it takes");
        let before = server.resident();
        let request = Request::write(0, vec![0x55; maximum + 512]);
        if client.try_send(&request.encode(mode)).is_err() || client.closes_before_a_byte() {
            // Beyond 32 MiB it may be taken for an attack; up to there it may not.
            assert!(maximum >= 32 << 20, "a write of {maximum}+512 bytes must not disconnect");
        } else {
            assert!([NBD_EINVAL, NBD_EOVERFLOW].contains(&client.reply_to(&request).error));
            client.expect_alive();
        }
        let mut witness = Connection::attach(&server, "", mode);
        assert_same(&witness.read(0, 4096), &[0; 4096], "a refused write changes nothing");
        let grown = server.resident().saturating_sub(before);
        assert!(grown < 100 * MIB, "{grown} bytes for a refused write");
    }
}

#[test]
fn t38_huge_write_header_is_not_allocated() {
    let server = Server::serve(&["null:64G"]);
    Connection::attach(&server, "", Mode::Simple).expect_alive();
    let before = server.resident();
    let mut clients = Vec::new();
    for mode in spoken(MODES) {
        for length in [0x4000_0000, 0xffff_fe00, 0xffff_ffff] {
            let mut client = Connection::attach(&server, "", mode);
            let request = Request { length, ..Request::write(0, vec![1; 4096]) };
            client.send(&request.encode(mode));
            clients.push(client);
        }
    }
    Connection::attach(&server, "", Mode::Simple).expect_alive();
    let grown = server.resident().saturating_sub(before);
    assert!(grown < 100 * MIB, "{} begun huge writes cost {grown} bytes", clients.len());
}

/// The kernel reads no more than its read-ahead for one question, so a server has to ask again and again.
#[test]
fn t40_all_that_cache_names_comes_into_the_page_cache() {
    const SIZE: u64 = 64 * MIB;
    // "There is no guarantee of an actual performance gain", and there may be "a limit on how much can be
    // cached at once".
    Peer::only_ours("promise that CACHE brings all that it names");
    let image = Image::random(SIZE, 1);
    let file = image.open();
    file.sync_all().expect("write the image back");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("drop the image's pages");
    let cached = || {
        let arguments = ["--bytes", "--noheadings", "--output", "RES"];
        let output = Command::new("fincore").args(arguments).arg(&image.path).output().expect("run fincore");
        String::from_utf8_lossy(&output.stdout).trim().parse::<u64>().expect("fincore tells bytes")
    };
    if cached() > MIB {
        // A file system whose only place is the page cache.
        return;
    }
    let server = Server::serve(&[format!("file:{}", image.path.display())]);
    let mut client = Connection::attach(&server, "", Mode::Structured);
    if !client.export.has(NBD_FLAG_SEND_CACHE) {
        return;
    }
    assert_eq!(client.call(&Request::cache(0, SIZE)).error, 0);
    // The answer comes when the disk was asked.
    let give_up = Instant::now() + Duration::from_secs(60);
    while cached() < SIZE {
        assert!(Instant::now() < give_up, "{} of {SIZE} bytes are in the page cache", cached());
    }
}

#[test]
fn t40_cache_takes_no_flag_but_fua() {
    let disks = Disks::of(MIB);
    disks.each_filled(65536, &spoken(MODES), |_, client| {
        let offered = client.export.has(NBD_FLAG_SEND_CACHE);
        for (offset, length) in [(0, 4096), (0, MIB), (4096, 65536), (MIB - 512, 512)] {
            let reply = client.call(&Request::cache(offset, length));
            assert!(reply.error == 0 || reply.error == NBD_EINVAL, "CACHE gives {}", reply.error);
            for bit in 1..16 {
                let mut request = Request::cache(offset, length);
                if bit == 5 && client.mode == Mode::Extended {
                    request.payload = vec![0; length as usize];
                }
                client.send(&request.encode_with_flags(client.mode, 1 << bit));
                assert_eq!(client.reply_to(&request).error, NBD_EINVAL, "CACHE with flag bit {bit}");
            }
            if offered && client.export.has(NBD_FLAG_SEND_FUA) {
                let plain = client.call(&Request::cache(offset, length)).error;
                let fua = client.call(&Request::cache(offset, length).flags(NBD_CMD_FLAG_FUA)).error;
                assert_eq!(plain, fua, "FUA makes no difference");
            }
        }
        assert_same(&client.read(0, 65536), &pattern(1, 0, 65536), "CACHE never changes data");
    });
}
