//! A client with a shared key, no longer than its tests need. Its messages are written down byte by byte.

use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::{digest, hmac, rand};

use crate::tls::record::header::ContentType;
use crate::tls::record::receive::RecordReceiver;
use crate::tls::record::seal::RecordSealer;
use crate::tls::record::traffic_key::TrafficKey;
use crate::tls::secret::Secret;
use crate::tls::suite::CipherSuite;

pub(super) struct SharedKeyClient {
    key: Vec<u8>,
    own: EphemeralPrivateKey,
    pub(super) hello: Vec<u8>,
}

/// What a hello says; each part can be made wrong.
pub(super) struct Offer<'a> {
    pub(super) names: &'a [&'a [u8]],
    pub(super) suites: &'a [u16],
    pub(super) modes: &'a [u8],
    pub(super) session_id: &'a [u8],
    pub(super) group: u16,
    /// Extensions as they are, before the shared key.
    pub(super) extra: &'a [u8],
    pub(super) behind: &'a [u8],
}

impl Default for Offer<'_> {
    fn default() -> Self {
        const NAMES: &[&[u8]] = &[b"vm1"];
        let (names, suites) = (NAMES, &[0x1302, 0x1303, 0x1301]);
        Self { names, suites, modes: &[0, 1], session_id: &[5; 32], group: 0x1d, extra: &[], behind: &[] }
    }
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat()
}

fn list(data: &[u8]) -> Vec<u8> {
    [&(data.len() as u16).to_be_bytes(), data].concat()
}

fn hash(bytes: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA256, bytes)
}

/// In SHA-256, as all of a shared key's.
fn early(key: &[u8], suite: CipherSuite) -> Secret {
    Secret::extract(suite, None, key)
}

impl SharedKeyClient {
    pub(super) fn new(key: &[u8], offer: &Offer<'_>) -> Self {
        let group = match offer.group {
            0x17 => &agreement::ECDH_P256,
            0x18 => &agreement::ECDH_P384,
            _ => &agreement::X25519,
        };
        let own = EphemeralPrivateKey::generate(group, &rand::SystemRandom::new()).unwrap();
        let public = own.compute_public_key().unwrap();
        let share = [&offer.group.to_be_bytes()[..], &list(public.as_ref())].concat();
        let names: Vec<u8> = offer.names.iter().flat_map(|name| [list(name), vec![0; 4]].concat()).collect();
        let binders = vec![[&[32][..], &[0; 32]].concat(); offer.names.len()].concat();
        let extensions = [
            extension(43, &[2, 3, 4]),
            extension(45, &[&[offer.modes.len() as u8], offer.modes].concat()),
            extension(51, &list(&share)),
            offer.extra.to_vec(),
            extension(41, &[list(&names), list(&binders)].concat()),
            offer.behind.to_vec(),
        ];
        let suites: Vec<u8> = offer.suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
        let mut hello = vec![1, 0, 0, 0, 3, 3];
        hello.extend([0x42; 32]);
        hello.extend([&[offer.session_id.len() as u8], offer.session_id].concat());
        hello.extend([list(&suites), vec![1, 0], list(&extensions.concat())].concat());
        let length = (hello.len() - 4) as u32;
        hello[1..4].copy_from_slice(&length.to_be_bytes()[1..]);
        let vouched_for = hello.len() - offer.behind.len() - 2 - binders.len();
        let binder_key =
            early(key, CipherSuite::Aes128Gcm).derive("ext binder", hash(b"").as_ref()).finished_key();
        let binder = hmac::sign(&binder_key, hash(&hello[..vouched_for]).as_ref());
        for index in 0..offer.names.len() {
            let place = vouched_for + 2 + 33 * index + 1;
            hello[place..place + 32].copy_from_slice(binder.as_ref());
        }
        Self { key: key.to_vec(), own, hello }
    }

    pub(super) fn record(&self) -> Vec<u8> {
        [&[22, 3, 1][..], &list(&self.hello)].concat()
    }

    /// Reads the server's answer. Gives the last message and both ends of the session.
    pub(super) fn finish(self, answer: &[u8]) -> (Vec<u8>, RecordSealer, RecordReceiver, CipherSuite) {
        let mut records = Vec::new();
        let mut rest = answer;
        while !rest.is_empty() {
            let (record, behind) = rest.split_at(5 + usize::from(u16::from_be_bytes([rest[3], rest[4]])));
            records.push(record.to_vec());
            rest = behind;
        }
        assert_eq!(records.iter().map(|record| record[0]).collect::<Vec<_>>(), [22, 20, 23]);
        let server_hello = &records[0][5..];
        assert_eq!(server_hello[..6], [2, 0, 0, server_hello.len() as u8 - 4, 3, 3]);
        assert_eq!(server_hello[38..71], [&[32][..], &[5; 32]].concat());
        let suite = CipherSuite::of(u16::from_be_bytes([server_hello[71], server_hello[72]])).unwrap();
        // No compression; then version, share, chosen name.
        let extensions = &server_hello[76..];
        assert_eq!(extensions[..6], [0, 43, 0, 2, 3, 4]);
        let length = usize::from(u16::from_be_bytes([extensions[12], extensions[13]]));
        let share = &extensions[14..14 + length];
        assert_eq!(extensions[14 + length..14 + length + 4], [0, 41, 0, 2]);
        let group = self.own.algorithm();
        let peer = UnparsedPublicKey::new(group, share);
        let shared = agreement::agree_ephemeral(self.own, peer, (), |shared| Ok(shared.to_vec())).unwrap();

        let empty = hash(b"");
        let early = early(&self.key, suite);
        let handshake = Secret::extract(suite, Some(&early.derive("derived", empty.as_ref())), &shared);
        let mut transcript = [&self.hello, server_hello].concat();
        let client = handshake.derive("c hs traffic", hash(&transcript).as_ref());
        let server = handshake.derive("s hs traffic", hash(&transcript).as_ref());
        let (kind, place) = TrafficKey::new(server.clone()).open(&mut records[2]).unwrap();
        assert_eq!(kind, ContentType::Handshake);
        let messages = &records[2][place];
        assert_eq!(messages[..10], [8, 0, 0, 2, 0, 0, 20, 0, 0, 32]);
        transcript.extend_from_slice(&messages[..6]);
        hmac::verify(&server.finished_key(), hash(&transcript).as_ref(), &messages[10..])
            .expect("its Finished");
        transcript.extend_from_slice(&messages[6..]);
        let proof = hmac::sign(&client.finished_key(), hash(&transcript).as_ref());
        let mut sent = vec![20, 3, 3, 0, 1, 1];
        let finished = [&[20, 0, 0, 32][..], proof.as_ref()].concat();
        RecordSealer::new(client).append_record(ContentType::Handshake, &finished, &mut sent);
        let main = Secret::extract(suite, Some(&handshake.derive("derived", empty.as_ref())), &[0; 32]);
        let sealer = RecordSealer::new(main.derive("c ap traffic", hash(&transcript).as_ref()));
        let receiver = RecordReceiver::new(main.derive("s ap traffic", hash(&transcript).as_ref()));
        (sent, sealer, receiver, suite)
    }
}
