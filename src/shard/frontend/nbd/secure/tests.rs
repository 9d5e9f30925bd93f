//! What a client opens is what was to be said, in as few records as can be.

use proptest::prelude::*;

use super::*;
use crate::nbd::server::reply::ReplyTo;
use crate::nbd::server::request::Cookie;
use crate::nbd::session::ReplyMode;
use crate::ring::{BufferPool, Ring, RingOptions};
use crate::tls::{CipherSuite, Opened};

/// Both ends of a connection, and what is on its way.
struct Talk {
    client: TlsSession,
    secure: Secure,
    pool: BufferPool,
    _ring: Ring,
    sent: Vec<u8>,
    /// Requests that were ended.
    ended: Vec<RequestId>,
}

impl Talk {
    fn new(version: TlsVersion, suite: CipherSuite) -> Self {
        let (client, server) = TlsSession::simulated((version, suite), [1; 48], [2; 48]);
        let secured = Secured { session: server, received: Vec::new() };
        let (ring, pool) = Ring::new(&RingOptions::small()).unwrap();
        let secure = Secure::new(secured, &Rc::default());
        Self { client, secure, pool, _ring: ring, sent: Vec::new(), ended: Vec::new() }
    }

    /// A reply with so many bytes of data; gives what a client without TLS would get.
    fn reply(&mut self, request: u32, length: u32) -> Vec<u8> {
        let cookie = Cookie(request.into());
        let to = ReplyTo { mode: ReplyMode::Simple, cookie, offset: 0, chunked: false };
        let header = if length == 0 { to.success() } else { to.data(0, length, true) };
        let payload = match length {
            0 => Payload::Nothing,
            _ => {
                let mut lease = self.pool.lend(length as usize).unwrap();
                let bytes = lease.bytes_mut(0..length as usize);
                bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at as u32 + request) as u8);
                Payload::Leased { lease: lease.freeze(), start: 0, length }
            }
        };
        let plain = [header.as_bytes(), &bytes_of(&payload)].concat();
        self.put(|secure, put| secure.seal_chunk(header.as_bytes(), payload, Some(RequestId(request)), put));
        plain
    }

    fn turn_ends(&mut self) {
        self.put(|secure, put| secure.seal_tail(put));
    }

    fn put(&mut self, seal: impl FnOnce(&mut Secure, PutPart<'_>)) {
        let (sent, ended) = (&mut self.sent, &mut self.ended);
        seal(&mut self.secure, &mut |ReplyChunk { header, payload }, ends| {
            assert!(!header.as_bytes().is_empty() || payload.length() > 0, "a part is never empty");
            sent.extend_from_slice(header.as_bytes());
            sent.extend(bytes_of(&payload));
            ended.extend(ends);
        });
    }

    /// What the client opens, and in how many records.
    fn heard(&mut self) -> (Vec<u8>, usize) {
        let (mut heard, mut records, mut rest) = (Vec::new(), 0, &mut self.sent[..]);
        while !rest.is_empty() {
            let Opened::Record { length, data } = self.client.open(rest).unwrap() else {
                panic!("no record")
            };
            heard.extend_from_slice(&rest[data]);
            rest = &mut rest[length..];
            records += 1;
        }
        self.sent.clear();
        (heard, records)
    }
}

fn bytes_of(payload: &Payload) -> Vec<u8> {
    match payload {
        Payload::Leased { lease, start, length } => {
            lease.bytes(*start as usize..(start + length) as usize).to_vec()
        }
        Payload::Text(text) => text.clone(),
        _ => Vec::new(),
    }
}

/// All that can be spoken.
fn spoken() -> impl Iterator<Item = (TlsVersion, CipherSuite)> {
    TlsVersion::ALL.into_iter().flat_map(|version| CipherSuite::ALL.map(|suite| (version, suite)))
}

#[test]
fn replies_to_small_reads_that_leave_together_are_a_record_each_and_one_more() {
    for (version, suite) in spoken() {
        let mut talk = Talk::new(version, suite);
        for count in [1_u32, 2, 32] {
            let plain: Vec<u8> = (0..count).flat_map(|request| talk.reply(request, 4096)).collect();
            talk.turn_ends();
            let (heard, records) = talk.heard();
            assert!(heard == plain, "{version} {suite:?}");
            assert_eq!(records, count as usize + 1, "{version} {suite:?}, {count} replies");
            assert!(std::mem::take(&mut talk.ended).into_iter().eq((0..count).map(RequestId)));
        }
    }
}

/// What is longer than a record, or does not fit into one with a header, has records of its own.
#[test]
fn headers_go_with_what_has_room_for_them() {
    let mut talk = Talk::new(TlsVersion::Tls13, CipherSuite::Aes128Gcm);
    for (length, records) in
        [(16_384 - 17, 2), (16_384 - 16, 2), (16_384 - 15, 3), (16_384, 3), (16_385, 4), (0, 2), (1, 2)]
    {
        // The second reply is a header alone, which nothing follows.
        let plain = [talk.reply(7, length), talk.reply(8, 0)].concat();
        talk.turn_ends();
        assert_eq!(talk.heard(), (plain, records), "{length} bytes and a header");
    }
}

#[test]
fn what_is_not_sealed_when_the_client_is_gone_ends_its_request() {
    let mut talk = Talk::new(TlsVersion::Tls13, CipherSuite::Aes128Gcm);
    talk.reply(3, 4096);
    assert_eq!((talk.secure.forget_tail(), talk.ended.len()), (Some(RequestId(3)), 0));
    assert_eq!(talk.secure.forget_tail(), None);
    talk.turn_ends();
    assert_eq!(talk.heard().1, 1, "its header has been queued before");
}

proptest! {
    #[test]
    fn whatever_leaves_together_a_client_hears_the_same(
        kind in 0_usize..6,
        renewal in 1_u64..5,
        replies in proptest::collection::vec(
            (prop_oneof![Just(0_u32), Just(4096), Just(512), 1_u32..40_000, 16_360_u32..16_390], any::<bool>()),
            1..20,
        ),
    ) {
        let (version, suite) = spoken().nth(kind).unwrap();
        let mut talk = Talk::new(version, suite);
        if version == TlsVersion::Tls13 {
            talk.secure.session.sealer.set_renewal(renewal);
        }
        let count = replies.len() as u32;
        let last = replies.len() - 1;
        let mut expected = Vec::new();
        for (request, (length, turn_ends)) in replies.into_iter().enumerate() {
            expected.extend(talk.reply(request as u32, length));
            if turn_ends || request == last {
                talk.turn_ends();
                prop_assert!(talk.heard().0 == expected);
                expected.clear();
            }
        }
        prop_assert!(talk.ended.iter().copied().eq((0..count).map(RequestId)), "each ends, in order");
    }
}
