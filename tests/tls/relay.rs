//! What `ringnbd attach nbds://…` gives the kernel: the end of a pair of sockets, behind which a relay encrypts.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ringnbd::internal::client::{Timeouts, enter_relayed};
use ringnbd::internal::nbd::session::ReplyMode;

use super::{SIZE, Served};
use crate::support::image::pattern;
use crate::support::wait_until;

/// As the kernel does it: requests of 28 bytes, simple replies.
struct Plain(UnixStream);

impl Plain {
    fn connect(uri: &str) -> Self {
        let (socket, transmission) =
            enter_relayed(&uri.parse().unwrap(), (ReplyMode::Simple, false), Timeouts::default(), |_| Ok(()))
                .expect("connect");
        assert_eq!(transmission.export.size, SIZE);
        let stream = UnixStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(stream)
    }

    fn ask(&self, kind: u16, cookie: u64, offset: u64, length: u32) {
        let header = [
            &0x2560_9513_u32.to_be_bytes()[..],
            &[0, 0],
            &kind.to_be_bytes(),
            &cookie.to_be_bytes(),
            &offset.to_be_bytes(),
            &length.to_be_bytes(),
        ];
        (&self.0).write_all(&header.concat()).unwrap();
    }

    /// The cookie and the data of the next reply, which is no error.
    fn answer(&self, data: usize) -> (u64, Vec<u8>) {
        let mut reply = vec![0; 16 + data];
        (&self.0).read_exact(&mut reply).unwrap();
        assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "no error");
        (u64::from_be_bytes(reply[8..16].try_into().unwrap()), reply.split_off(16))
    }
}

/// Whole and cut requests, both ways at once, while keys are renewed under them.
fn moves_bytes(with_key: bool) {
    let served = Served::start();
    for uri in served.uris(with_key) {
        let plain = Plain::connect(&uri);
        let bytes = pattern(2, 4096, 4 << 20);
        plain.ask(1, 1, 4096, 4 << 20);
        bytes.chunks(70_001).for_each(|piece| (&plain.0).write_all(piece).unwrap());
        assert_eq!(plain.answer(0).0, 1);
        assert!(served.image.read(4096, 4 << 20) == bytes);
        // More reads under way than any buffer between here and there has room for.
        std::thread::scope(|scope| {
            scope.spawn(|| (0..64).for_each(|cookie| plain.ask(0, cookie, 0, 1 << 20)));
            for _ in 0..64 {
                let (_, data) = plain.answer(1 << 20);
                assert!(data[4096..] == bytes[..(1 << 20) - 4096], "wrong bytes");
            }
        });
    }
    served.assert_secured(with_key);
    served.assert_all_is_well();
}

#[test]
fn the_relay_moves_bytes_with_certificates() {
    moves_bytes(false);
}

#[test]
fn the_relay_moves_bytes_with_a_shared_key() {
    moves_bytes(true);
}

/// Whoever ends, the other side notices.
#[test]
fn an_end_is_passed_on() {
    let mut served = Served::start();
    let [uri, _] = served.uris(false);
    let [first, second] = [Plain::connect(&uri), Plain::connect(&uri)];
    let connections = || served.metric("ringnbd_connections{shard=\"0\"} ");
    wait_until("both", || connections() == 2);
    drop(first);
    wait_until("the end of the first one", || connections() == 1);
    assert_eq!(served.metric("ringnbd_tls_record_errors_total"), 0, "it said goodbye");
    served.server.crash();
    assert_eq!((&second.0).read(&mut [0]).unwrap(), 0, "the kernel is to notice");
}
