//! Records of TLS 1.2 against RFC 5246, 6.2.3.3, RFC 5288 and RFC 7905, written down once more, and all kinds
//! of wrong ones. Handshakes with rustls are the other oracle.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
use proptest::prelude::*;

use super::error::RecordError;
use super::header::RECORD_DATA_BYTES;
use super::key_block::KeyBlock;
use super::receive::{Opened, RecordReceiver};
use super::seal::RecordSealer;
use super::tests::receive;
use super::traffic_key::TrafficKey;
use crate::tls::alert::Alert;
use crate::tls::suite::CipherSuite;

const IV: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const DATA: u8 = 23;

fn key(suite: CipherSuite) -> TrafficKey {
    let block = KeyBlock::new(suite, &vec![7; suite.cipher().key_len()], IV);
    TrafficKey::of_block(block.expect("it is as long as the cipher wants"))
}

fn receiver(suite: CipherSuite) -> RecordReceiver {
    RecordReceiver::of_key(key(suite))
}

/// A record whose nonce is that of `sequence`, as any peer makes it.
fn record(suite: CipherSuite, sequence: u64, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut nonce = IV;
    let number = sequence.to_be_bytes();
    (0..8).for_each(|index| nonce[4 + index] ^= number[index]);
    let explicit = if suite == CipherSuite::ChaCha20Poly1305 { &[][..] } else { &nonce[4..] };
    record_with(suite, (sequence, explicit, nonce), kind, data)
}

fn record_with(
    suite: CipherSuite,
    (sequence, explicit, nonce): (u64, &[u8], [u8; 12]),
    kind: u8,
    data: &[u8],
) -> Vec<u8> {
    let key = vec![7; suite.cipher().key_len()];
    let key = LessSafeKey::new(UnboundKey::new(suite.cipher(), &key).unwrap());
    let length = (data.len() as u16).to_be_bytes();
    let vouched = [&sequence.to_be_bytes()[..], &[kind, 3, 3], &length].concat();
    let mut body = data.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(vouched), &mut body).unwrap();
    let length = ((explicit.len() + body.len()) as u16).to_be_bytes();
    [&[kind, 3, 3][..], &length, explicit, &body].concat()
}

fn error_of(suite: CipherSuite, stream: &[Vec<u8>]) -> RecordError {
    receive(&mut receiver(suite), stream.concat().chunks(usize::MAX)).1.expect_err("it is wrong")
}

#[test]
fn a_sealed_record_is_the_one_of_the_document_and_is_opened_again() {
    for suite in CipherSuite::ALL {
        let (mut sealer, mut receiver) = (RecordSealer::of_key(key(suite)), receiver(suite));
        let lengths = [0, 1, 15, 16, 17, RECORD_DATA_BYTES - 1, RECORD_DATA_BYTES];
        for (sequence, length) in lengths.into_iter().enumerate() {
            let data: Vec<u8> = (0..length).map(|number| number as u8).collect();
            let (mut front, mut trailer) = (vec![0; sealer.front_bytes()], vec![0; sealer.trailer_bytes()]);
            let mut body = data.clone();
            sealer.seal(&mut front, &mut body, &mut trailer);
            let sent = [front, body, trailer].concat();
            assert_eq!(sent, record(suite, sequence as u64, DATA, &data), "{suite:?}, {length} bytes");
            assert_eq!(receive(&mut receiver, sent.chunks(1000)).0, data);
        }
    }
}

/// The nonces of a peer are its own matter: what they are is in its records.
#[test]
fn with_aes_gcm_any_nonce_is_taken() {
    let (suite, explicit) = (CipherSuite::Aes256Gcm, [0xee; 8]);
    let nonce = [&IV[..4], &explicit[..]].concat().try_into().unwrap();
    let stream = record_with(suite, (0, &explicit, nonce), DATA, b"data");
    assert_eq!(receive(&mut receiver(suite), stream.chunks(1)).0, b"data");
}

#[test]
fn lengths_are_bounded() {
    for suite in CipherSuite::ALL {
        let front = RecordSealer::of_key(key(suite)).front_bytes() - 5;
        let longer = record(suite, 0, DATA, &vec![1; RECORD_DATA_BYTES + 1]);
        assert_eq!(error_of(suite, &[longer]), RecordError::TooLong);
        // Only claimed: told at the header.
        assert_eq!(error_of(suite, &[vec![DATA, 3, 3, 0x41, 1]]), RecordError::TooLong);
        let short = front + 15;
        let record = [&[DATA, 3, 3, 0, short as u8][..], &vec![0; short]].concat();
        assert_eq!(error_of(suite, &[record]), RecordError::TooShort);
    }
}

#[test]
fn what_is_changed_replayed_or_left_out_is_noticed() {
    for suite in CipherSuite::ALL {
        let data = |sequence| record(suite, sequence, DATA, b"data");
        for stream in [vec![data(0), data(0)], vec![data(1)], vec![data(0), data(2)]] {
            assert_eq!(error_of(suite, &stream), RecordError::Undecipherable);
        }
        let good = data(0);
        for (place, bit) in (0..good.len()).flat_map(|place| (0..8).map(move |bit| (place, bit))) {
            let mut changed = good.clone();
            changed[place] ^= 1 << bit;
            let (data, end) = receive(&mut receiver(suite), changed.chunks(usize::MAX));
            // A longer record may still come.
            assert!(data.is_empty() && matches!(end, Err(_) | Ok(Opened::Need(_))), "byte {place}");
        }
        for length in 0..good.len() {
            let (data, end) = receive(&mut receiver(suite), good[..length].chunks(3));
            assert!(data.is_empty() && matches!(end, Ok(Opened::Need(_))), "{length} bytes");
        }
    }
}

#[test]
fn types_are_vouched_for_and_some_have_no_place() {
    let suite = CipherSuite::Aes128Gcm;
    let mut of_another_type = record(suite, 0, 21, b"\x01\0");
    of_another_type[0] = DATA;
    assert_eq!(error_of(suite, &[of_another_type]), RecordError::Undecipherable);
    for kind in [20, 24, 0, b'I', 0x80] {
        assert_eq!(error_of(suite, &[record(suite, 0, kind, b"\x01")]), RecordError::UnexpectedType(kind));
    }
    // HelloRequest, ClientHello: another handshake. A key update is a thing of TLS 1.3.
    for message in [0, 1] {
        let error = error_of(suite, &[record(suite, 0, 22, &[message, 0, 0, 0])]);
        assert_eq!(error, RecordError::Renegotiation);
        assert_eq!(error.alert().map(Alert::bytes), Some([1, 100]), "a warning, by its document");
    }
    let key_update = record(suite, 0, 22, &[24, 0, 0, 1, 0]);
    assert_eq!(error_of(suite, &[key_update]), RecordError::UnexpectedMessage(24));
    assert!(matches!(error_of(suite, &[record(suite, 0, 22, b"")]), RecordError::Malformed(_)));
}

#[test]
fn nothing_cannot_be_sent_for_ever() {
    let suite = CipherSuite::ChaCha20Poly1305;
    let nothing: Vec<_> = (0..33).map(|sequence| record(suite, sequence, DATA, b"")).collect();
    assert_eq!(error_of(suite, &nothing), RecordError::TooManyIdle(32));
}

#[test]
fn an_end_is_told() {
    for suite in CipherSuite::ALL {
        let (mut sealer, mut receiver) = (RecordSealer::of_key(key(suite)), receiver(suite));
        let mut sent = Vec::new();
        sealer.append(b"last", &mut sent);
        sealer.alert(Alert::CLOSE_NOTIFY, &mut sent);
        let (data, end) = receive(&mut receiver, sent.chunks(7));
        assert!(data == b"last" && matches!(end, Ok(Opened::Closed { .. })));
        let more = record(suite, 2, DATA, b"more");
        assert_eq!(receive(&mut receiver, more.chunks(100)).1, Err(RecordError::BehindClose));
        let refused = record(suite, 0, 21, &[2, 20]);
        assert_eq!(error_of(suite, &[refused]), RecordError::PeerAlert(Alert::BAD_RECORD_MAC));
    }
}

proptest! {
    #[test]
    fn pieces_give_what_the_whole_gives(
        parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..20),
        piece in 1_usize..2000,
        suite in 0_usize..3,
        noise in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let suite = CipherSuite::ALL[suite];
        let mut sealer = RecordSealer::of_key(key(suite));
        let mut sent = Vec::new();
        parts.iter().for_each(|part| sealer.append(part, &mut sent));
        sent.extend(&noise);
        let whole = receive(&mut receiver(suite), sent.chunks(usize::MAX));
        let pieces = receive(&mut receiver(suite), sent.chunks(piece));
        prop_assert_eq!(&whole.0, &parts.concat(), "noise behind it gives no data");
        prop_assert_eq!(&pieces.0, &whole.0);
        prop_assert_eq!(pieces.1.is_err(), whole.1.is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        kind in 20_u8..25,
        suite in 0_usize..3,
        inner in any::<bool>(),
    ) {
        let suite = CipherSuite::ALL[suite];
        let stream = if inner { record(suite, 0, kind, &bytes) } else { bytes };
        let (_data, _end) = receive(&mut receiver(suite), stream.chunks(usize::MAX));
    }
}
