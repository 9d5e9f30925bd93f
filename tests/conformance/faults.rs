//! Transmission statements T16, T35, T36: which errors a client sees, and that no failure is taken for success.

use crate::common::{assert_same, assert_zero};
use crate::support::image::{Image, LoopDevice, SmallFileSystem, pattern};
use crate::support::raw::{Connection, MODES, Mode, Request, spoken};
use crate::support::server::{Options, Server};
use crate::support::tls::cannot_be_asked;
use crate::support::wire::*;

/// errno of the storage, and the error values the protocol allows for it.
const ERRORS: [(&str, &[u32]); 11] = [
    ("EIO", &[NBD_EIO]),
    ("ENOSPC", &[NBD_ENOSPC]),
    ("EDQUOT", &[NBD_ENOSPC]),
    ("EFBIG", &[NBD_ENOSPC]),
    ("EPERM", &[NBD_EPERM]),
    ("ENOMEM", &[NBD_EIO, NBD_EINVAL]),
    ("EOPNOTSUPP", &[NBD_EIO, NBD_EINVAL]),
    ("EOVERFLOW", &[NBD_EIO, NBD_EINVAL]),
    ("EACCES", &[NBD_EPERM, NBD_EIO, NBD_EINVAL]),
    ("ENODEV", &[NBD_EIO, NBD_EINVAL]),
    ("ETIMEDOUT", &[NBD_EIO, NBD_EINVAL]),
];

#[test]
fn t16_errors_are_mapped() {
    let exports: Vec<String> = ERRORS
        .iter()
        .map(|(name, _)| format!("{name}=fault:error={name}@100%,range=4096+4096:mem:1M"))
        .collect();
    let server = Server::serve(&exports);
    for (name, allowed) in ERRORS {
        for mode in spoken(MODES) {
            let mut client = Connection::attach(&server, name, mode);
            for request in [
                Request::read(4096, 4096),
                Request::write(4096, vec![1; 4096]),
                Request::write(4096, vec![1; 4096]).flags(NBD_CMD_FLAG_FUA),
                Request::trim(4096, 4096),
                Request::zeroes(4096, 4096),
            ] {
                let error = client.call(&request).error;
                assert!(
                    allowed.contains(&error),
                    "{name} is told as {error} to {}",
                    crate::support::reply::describe(&request)
                );
                client.expect_alive();
            }
        }
    }
}

#[test]
fn t16_flush_errors_are_told() {
    let server =
        Server::serve(&["a=fault:error.flush=EIO@100%:mem:1M", "b=fault:error.flush=ENOMEM@100%:mem:1M"]);
    for name in ["a", "b"] {
        for mode in spoken(MODES) {
            let mut client = Connection::attach(&server, name, mode);
            client.fail(&Request::flush(), NBD_EIO);
            client.expect_alive();
        }
    }
}

#[test]
fn t35_failed_write_is_never_success() {
    let image = Image::sparse(4 * MIB);
    let path = image.path.display();
    let server = Server::serve(&[
        format!("nospace=fault:error.write=ENOSPC@100%,after=65536:file:{path}"),
        format!("io=fault:error.write=EIO@100%,after=4096:file:{path}"),
    ]);
    for (name, error) in [("nospace", NBD_ENOSPC), ("io", NBD_EIO)] {
        for mode in spoken(MODES) {
            let mut client = Connection::attach(&server, name, mode);
            for flags in [0, NBD_CMD_FLAG_FUA] {
                // The first bytes are written, the rest fails: the whole request does.
                client.fail(&Request::write(0, vec![2; 256 << 10]).flags(flags), error);
                client.expect_alive();
            }
        }
    }
}

#[test]
fn t35_full_file_system() {
    let Some(system) = SmallFileSystem::of(8 * MIB) else { return };
    for query in ["", "?direct=true"] {
        let file = system.mount_point.join("disk.img");
        std::fs::File::create(&file).and_then(|file| file.set_len(64 << 20)).expect("create the image");
        let server = Server::serve(&[format!("file:{}{query}", file.display())]);
        let mut client = Connection::attach(&server, "", Mode::Structured);
        let mut acked = Vec::new();
        let mut refused = 0;
        for index in 0..32u64 {
            let offset = index * MIB;
            let reply = client.call(&Request::write(offset, pattern(1, offset, 700 << 10)));
            match reply.error {
                0 => acked.push(offset),
                NBD_ENOSPC => refused += 1,
                other => panic!("a full disk gives {other}"),
            }
        }
        assert!(!acked.is_empty() && refused > 20, "{} acked, {refused} refused", acked.len());
        // What does not fit in one piece is refused as a whole.
        client.fail(&Request::write(40 * MIB, vec![1; 16 << 20]), NBD_ENOSPC);
        let flushed = client.call(&Request::flush()).error;
        assert!([0, NBD_ENOSPC].contains(&flushed), "FLUSH on a full disk: {flushed}");
        for &offset in &acked {
            assert_same(&client.read(offset, 700 << 10), &pattern(1, offset, 700 << 10), "an acked write");
        }
        // Allocating zeroes needs room as well; punching holes makes some.
        client.fail(&Request::zeroes(32 * MIB, 16 * MIB).flags(NBD_CMD_FLAG_NO_HOLE), NBD_ENOSPC);
        client.succeed(&Request::trim(acked[0], 700 << 10));
        client.flush();
        client.write(50 * MIB, &vec![5; 512 << 10]);
        drop(client);
        drop(server);
        std::fs::remove_file(&file).expect("remove the image");
    }
}

#[test]
fn t35_file_size_limit() {
    // A write across the limit is short first and EFBIG next, with SIGXFSZ on the way; a server lives through both.
    for query in ["", "?direct=true"] {
        let image = Image::sparse(4 * MIB);
        let server = Options::new()
            .export(format!("file:{}{query}", image.path.display()))
            .file_size_limit(MIB)
            .start();
        for mode in spoken(MODES) {
            let mut client = Connection::attach(&server, "", mode);
            client.write(0, &pattern(1, 0, 65536));
            client.fail(&Request::write(MIB - 8192, vec![1; 65536]), NBD_ENOSPC);
            client.fail(&Request::write(2 * MIB, vec![1; 4096]), NBD_ENOSPC);
            client.fail(&Request::write(2 * MIB, vec![1; 4096]).flags(NBD_CMD_FLAG_FUA), NBD_ENOSPC);
            assert_same(&client.read(0, 65536), &pattern(1, 0, 65536), "below the limit");
            client.expect_alive();
        }
    }
}

#[test]
fn t36_short_file_gives_an_error() {
    for query in ["", "?direct=true"] {
        let image = Image::random(2 * MIB, 9);
        let server = Server::serve(&[format!("file:{}{query}", image.path.display())]);
        let mut clients = MODES.map(|mode| Connection::attach(&server, "", mode));
        for client in &mut clients {
            assert_same(&client.read(0, 2 << 20), &pattern(9, 0, 2 << 20), "before");
        }
        // Someone else cuts the file: what is gone is no hole, and reading it no zeroes.
        image.open().set_len(MIB).expect("truncate");
        for client in &mut clients {
            eprintln!("-- {query} {:?}", client.mode);
            client.fail(&Request::read(MIB, 4096), NBD_EIO);
            client.fail(&Request::read(MIB + 65536, 65536), NBD_EIO);
            client.fail(&Request::read(2 * MIB - 512, 512), NBD_EIO);
            client.fail(&Request::read(MIB - 4096, 8192), NBD_EIO);
            client.fail(&Request::read(0, 2 * MIB), NBD_EIO);
            if client.mode != Mode::Simple {
                client.fail(&Request::read(MIB, 4096).flags(NBD_CMD_FLAG_DF), NBD_EIO);
                client.fail(&Request::read(MIB - 4096, 8192).flags(NBD_CMD_FLAG_DF), NBD_EIO);
            }
            assert_same(&client.read(MIB - 4096, 4096), &pattern(9, MIB - 4096, 4096), "what is left");
        }
        // Not to a block boundary either.
        image.open().set_len(100_000).expect("truncate");
        for client in &mut clients {
            client.fail(&Request::read(98_304, 4096), NBD_EIO);
            assert_same(&client.read(0, 98_304), &pattern(9, 0, 98_304), "what is left");
        }
        // And when the file is whole again, so is the export.
        image.open().set_len(2 * MIB).expect("extend");
        for client in &mut clients {
            assert_zero(&client.read(MIB, 1 << 20), "the file as it is now");
        }
    }
}

#[test]
fn t36_sparse_read_of_a_short_file_invents_nothing() {
    // Nothing was read before the file was cut, so the server knows nothing of it: for the kernel, what lies beyond the
    // end of a file is a hole, but a hole of the export it is not.
    for query in ["", "?direct=true"] {
        for mode in spoken(MODES) {
            let image = Image::random(4 * MIB, 9);
            let server = Server::serve(&[format!("file:{}{query}", image.path.display())]);
            let mut client = Connection::attach(&server, "", mode);
            image.open().set_len(MIB + 100).expect("truncate");
            for (offset, length) in
                [(2 * MIB, MIB), (MIB, 65536), (MIB - 65536, 131_072), (3 * MIB, 4096), (0, 4 * MIB)]
            {
                eprintln!("-- {query} {mode:?} {offset:#x}+{length:#x}");
                let reply = client.call(&Request::read(offset, length));
                assert_eq!(
                    reply.error,
                    NBD_EIO,
                    "reading {offset:#x}+{length:#x} of a file that ends at {:#x}",
                    MIB + 100
                );
                let end = MIB + 100;
                for chunk in reply.chunks.iter().filter(|chunk| chunk.is_content()) {
                    let start = be64(&chunk.payload, 0);
                    let hole = chunk.kind == NBD_REPLY_TYPE_OFFSET_HOLE;
                    let size = if hole {
                        u64::from(be32(&chunk.payload, 8))
                    } else {
                        chunk.payload.len() as u64 - 8
                    };
                    let told =
                        start + size <= end || reply.error_offset.is_some_and(|at| at <= end.max(start));
                    assert!(
                        told,
                        "content {start:#x}+{size:#x} beyond the end of the file, and no error says so"
                    );
                }
            }
            assert_same(&client.read(0, 1 << 20), &pattern(9, 0, 1 << 20), "what is left");
        }
    }
}

#[test]
fn t36_status_of_a_short_file_invents_nothing() {
    let image = Image::random(2 * MIB, 9);
    let server = Server::serve(&[format!("file:{}", image.path.display())]);
    for mode in [Mode::Structured, Mode::Extended] {
        image.write(0, &pattern(9, 0, 2 << 20));
        let mut client = Connection::attach(&server, "", mode);
        image.open().set_len(MIB).expect("truncate");
        let request = Request::status(MIB, MIB);
        let reply = client.call(&request);
        if reply.error == 0 {
            let contexts = crate::support::check::statuses(&request, &reply.chunks, &client.export);
            let zero = contexts.values().flatten().any(|&(_, flags)| flags & NBD_STATE_ZERO != 0);
            assert!(!zero, "what is not there is said to read as zeroes: {contexts:x?}");
        }
        client.expect_alive();
    }
}

/// Replies that wait for their client are in the page cache only. What of them is gone when there is room to send is an error, and
/// neither an end of the connection nor zeroes.
#[test]
fn t35_a_file_that_is_cut_under_queued_replies_gives_errors() {
    if cannot_be_asked("a reply is sealed when it is queued: what becomes of the file then is no matter") {
        return;
    }
    const SIZE: u64 = 256 << 10;
    let image = Image::random(SIZE, 3);
    let last = SIZE - 4096;
    let server = Options::new()
        .export(format!("a={}", image.path.display()))
        .export("slow=fault:delay.read=50ms:mem:1M")
        .shards(1)
        .start();
    for mode in spoken(MODES) {
        // TCP buffers may take in all replies, and then none is queued.
        let mut client = Connection::attach_unix(&server, "a", mode);
        let mut other = Connection::attach(&server, "slow", mode);
        assert_same(&client.read(last, 4096), &image.read(last, 4096), "before the cut");
        let mut in_flight: Vec<_> =
            (0..768).map(|cookie| Request::read(last, 4096).cookie(0x7000 + cookie)).collect();
        let requests: Vec<u8> = in_flight.iter().flat_map(|request| request.encode(mode)).collect();
        client.send(&requests);
        // The shard takes them in before this, sends as much as the socket holds, and copies the rest of a reply of which a part has left:
        // that waits in vain for so long.
        other.read(0, 512);
        let whole = image.read(last, 4096);
        image.open().set_len(SIZE - 4000).expect("cut the file");
        let mut errors = 0;
        while !in_flight.is_empty() {
            let (request, reply) = client.next_reply(&mut in_flight);
            match reply.error {
                0 => assert_same(&reply.data, &whole, &crate::support::reply::describe(&request)),
                error => {
                    assert_eq!(error, NBD_EIO);
                    errors += 1;
                }
            }
        }
        assert!(errors > 0, "all replies had left before the cut");
        client.expect_alive();
        image.write(last, &whole);
    }
}

/// A block device that gets smaller keeps its pages in the page cache: they are no data of its any more.
#[test]
fn t35_a_block_device_that_gets_smaller_gives_errors() {
    const SIZE: u64 = 256 << 10;
    let Some(device) = LoopDevice::over(Image::random(SIZE, 4)) else { return };
    let last = SIZE - 4096;
    let server =
        Options::new().export(format!("a=file:{}?readonly=true", device.path.display())).shards(1).start();
    for mode in spoken(MODES) {
        let mut client = Connection::attach(&server, "a", mode);
        let whole = device.image.read(last, 4096);
        assert_same(&client.read(last, 4096), &whole, "before");
        device.resize(last + 512);
        assert_same(&client.read(last, 512), &whole[..512], "what is left");
        for (offset, length) in [(last, 4096), (last + 512, 512), (last, 513)] {
            assert_eq!(
                client.call(&Request::read(offset, length)).error,
                NBD_EIO,
                "{length} bytes at {offset}"
            );
        }
        client.expect_alive();
        device.image.write(last, &whole);
        device.resize(SIZE);
    }
}
