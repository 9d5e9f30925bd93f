//! Records that are right, and all kinds that are not. Odd ones are made here, with the cipher alone.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
use proptest::prelude::*;

use super::error::RecordError;
use super::header::RECORD_HEADER_BYTES;
use super::receive::{Opened, RecordReceiver};
use super::seal::RecordSealer;
use super::traffic_key::RECORD_TRAILER_BYTES;
use crate::tls::alert::Alert;
use crate::tls::secret::Secret;
use crate::tls::suite::CipherSuite;

fn secret(suite: CipherSuite) -> Secret {
    Secret::new(suite, &vec![7; suite.hash_length()])
}

fn pair(suite: CipherSuite) -> (RecordSealer, RecordReceiver) {
    (RecordSealer::new(secret(suite)), RecordReceiver::new(secret(suite)))
}

/// A record whose inside is `inner`: data, type, padding. RFC 8446, 5.2 and 5.3, written down once more.
fn record(secret: &Secret, sequence: u64, inner: &[u8]) -> Vec<u8> {
    let (mut key, mut nonce) = (vec![0; secret.suite().cipher().key_len()], [0; 12]);
    secret.expand("key", &[], &mut key);
    secret.expand("iv", &[], &mut nonce);
    let number = u128::from(sequence).to_be_bytes();
    (0..12).for_each(|index| nonce[index] ^= number[4 + index]);
    let key = LessSafeKey::new(UnboundKey::new(secret.suite().cipher(), &key).unwrap());
    let length = (inner.len() + 16) as u16;
    let header = [23, 3, 3, (length >> 8) as u8, length as u8];
    let mut body = inner.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, Aad::from(header), &mut body).unwrap();
    [&header[..], &body].concat()
}

/// All data of a stream that comes in pieces, and how it ended.
pub(super) fn receive<'a>(
    receiver: &mut RecordReceiver,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Result<Opened, RecordError>) {
    let (mut held, mut data) = (Vec::new(), Vec::new());
    let mut last = Ok(Opened::Need(RECORD_HEADER_BYTES));
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            last = receiver.open(&mut held);
            match &last {
                Ok(Opened::Record { length, data: place }) => {
                    data.extend_from_slice(&held[place.clone()]);
                    held.drain(..*length);
                }
                Ok(Opened::Need(bytes)) => {
                    assert!(*bytes > held.len(), "what is there is not enough");
                    break;
                }
                Ok(Opened::Closed { length }) => {
                    held.drain(..*length);
                    if *length == 0 || held.is_empty() {
                        break;
                    }
                }
                Err(_) => return (data, last),
            }
        }
    }
    (data, last)
}

fn error_of(records: &[Vec<u8>]) -> RecordError {
    let mut receiver = RecordReceiver::new(secret(CipherSuite::Aes128Gcm));
    receive(&mut receiver, [records.concat().as_slice()]).1.expect_err("it is wrong")
}

fn made(sequence: u64, inner: &[u8]) -> Vec<u8> {
    record(&secret(CipherSuite::Aes128Gcm), sequence, inner)
}

#[test]
fn each_suite_opens_what_it_sealed() {
    for suite in CipherSuite::ALL {
        let (mut sealer, mut receiver) = pair(suite);
        let data: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        let mut sent = Vec::new();
        sealer.append(&data, &mut sent);
        assert_eq!(sent.len(), data.len() + 7 * (RECORD_HEADER_BYTES + RECORD_TRAILER_BYTES));
        assert_eq!(receive(&mut receiver, [sent.as_slice()]).0, data);
    }
}

#[test]
fn a_sealed_record_is_the_one_of_the_document() {
    for suite in CipherSuite::ALL {
        let mut sealer = RecordSealer::new(secret(suite));
        for (sequence, data) in [&b"hello"[..], b"", &[9; 16384]].into_iter().enumerate() {
            let (mut header, mut trailer, mut body) = ([0; 5], [0; 17], data.to_vec());
            sealer.seal(&mut header, &mut body, &mut trailer);
            let expected = record(&secret(suite), sequence as u64, &[data, &[23]].concat());
            assert_eq!([&header[..], &body, &trailer].concat(), expected);
        }
    }
}

#[test]
fn padding_is_taken_off() {
    for padding in [0, 1, 100, 16384 - 2] {
        let mut receiver = RecordReceiver::new(secret(CipherSuite::Aes128Gcm));
        let inner = [&b"\0x\0"[..2], &[23], &vec![0; padding]].concat();
        assert_eq!(receive(&mut receiver, [made(0, &inner).as_slice()]).0, b"\0x");
    }
}

#[test]
fn lengths_are_bounded() {
    // As long as may be, and a byte longer; with padding that counts as well.
    let longest = [vec![1; 16384], vec![23]].concat();
    let mut receiver = RecordReceiver::new(secret(CipherSuite::Aes128Gcm));
    assert_eq!(receive(&mut receiver, [made(0, &longest).as_slice()]).0.len(), 16384);
    assert_eq!(error_of(&[made(0, &[vec![1; 16385], vec![23]].concat())]), RecordError::TooLong);
    assert_eq!(error_of(&[made(0, &[vec![1; 16384], vec![23, 0]].concat())]), RecordError::TooLong);
    // Only claimed: told at the header.
    assert_eq!(error_of(&[vec![23, 3, 3, 0x41, 1]]), RecordError::TooLong);
    assert_eq!(error_of(&[vec![23, 3, 3, 0, 0]]), RecordError::TooShort);
    assert_eq!(error_of(&[[vec![23, 3, 3, 0, 16], vec![0; 16]].concat()]), RecordError::TooShort);
    assert_eq!(error_of(&[made(0, &[0; 40])]), RecordError::NoType);
}

#[test]
fn other_types_have_no_place() {
    for kind in [20, 21, 22, 24, 0, b'I', 0x80] {
        let error = RecordError::UnexpectedType(kind);
        assert_eq!(error_of(&[vec![kind, 3, 3, 0, 2, 1, 0]]), error, "in plain text");
        assert_eq!(error.alert(), Some(Alert::UNEXPECTED_MESSAGE));
    }
    assert_eq!(error_of(&[made(0, &[1, 20])]), RecordError::UnexpectedType(20));
    assert_eq!(error_of(&[made(0, &[1, 99])]), RecordError::UnexpectedType(99));
}

#[test]
fn what_is_changed_replayed_or_left_out_is_noticed() {
    let data = |sequence| made(sequence, b"data\x17");
    for records in [vec![data(0), data(0)], vec![data(1)], vec![data(1), data(0)], vec![data(0), data(2)]] {
        assert_eq!(error_of(&records), RecordError::Undecipherable);
    }
    let good = data(0);
    for (place, bit) in (0..good.len()).flat_map(|place| (0..8).map(move |bit| (place, bit))) {
        let mut changed = good.clone();
        changed[place] ^= 1 << bit;
        let mut receiver = RecordReceiver::new(secret(CipherSuite::Aes128Gcm));
        let (data, end) = receive(&mut receiver, [changed.as_slice()]);
        // A longer record may still come.
        assert!(data.is_empty() && matches!(end, Err(_) | Ok(Opened::Need(_))), "byte {place}");
    }
}

#[test]
fn key_updates_go_both_ways() {
    for suite in CipherSuite::ALL {
        let (mut sealer, mut receiver) = pair(suite);
        sealer.set_renewal(3);
        let mut sent = Vec::new();
        for number in 0..20_u8 {
            sealer.append(&[number], &mut sent);
        }
        assert_eq!(sealer.key_updates(), 6);
        assert_eq!(receive(&mut receiver, [sent.as_slice()]).0, (0..20).collect::<Vec<_>>());
        assert_eq!(receiver.key_updates(), 6);
        assert!(!receiver.take_answer(), "none was asked for");
    }
}

#[test]
fn a_request_is_answered_once() {
    let first = secret(CipherSuite::Aes128Gcm);
    let (second, third) = (first.next(), first.next().next());
    let mut receiver = RecordReceiver::new(first.clone());
    let records = [
        record(&first, 0, b"\x18\0\0\x01\x01\x16"),
        record(&second, 0, b"\x18\0\0\x01\x01\x16\0\0"),
        record(&third, 0, b"data\x17"),
    ];
    assert_eq!(receive(&mut receiver, [records.concat().as_slice()]).0, b"data");
    assert!(receiver.take_answer() && !receiver.take_answer());
    // The old key is no longer one.
    let old = record(&first, 1, b"data\x17");
    assert_eq!(receive(&mut receiver, [old.as_slice()]).1, Err(RecordError::Undecipherable));
}

#[test]
fn messages_come_in_parts_but_alone() {
    let first = secret(CipherSuite::Aes128Gcm);
    let mut receiver = RecordReceiver::new(first.clone());
    let parts = [
        made(0, b"\x18\x16"),
        made(1, b"\0\0\x01\x16"),
        made(2, b"\0\x16"),
        record(&first.next(), 0, b"x\x17"),
    ];
    assert_eq!(receive(&mut receiver, [parts.concat().as_slice()]).0, b"x");
    for wrong in [
        vec![made(0, b"\x18\0\x16"), made(1, b"x\x17")],
        vec![made(0, b"\x18\0\x16"), made(1, b"\x01\0\x15")],
        vec![made(0, b"\x18\0\0\x01\0\x18\x16")],
        vec![made(0, b"\x18\0\0\x01\x02\x16")],
        vec![made(0, b"\x18\0\0\x02\0\x16")],
        vec![made(0, b"\x16")],
        vec![made(0, b"\x02\x15")],
        vec![made(0, b"\x15")],
        vec![made(0, b"\x02\0\0\x15")],
    ] {
        assert!(matches!(error_of(&wrong), RecordError::Malformed(_)), "{wrong:?}");
    }
    // ClientHello, NewSessionTicket, Finished.
    for message in [1, 4, 20] {
        assert_eq!(error_of(&[made(0, &[message, 0, 0, 0, 22])]), RecordError::UnexpectedMessage(message));
    }
}

#[test]
fn nothing_cannot_be_sent_for_ever() {
    let nothing = |count: u64| (0..count).map(|sequence| made(sequence, b"\x17")).collect::<Vec<_>>();
    let mut receiver = RecordReceiver::new(secret(CipherSuite::Aes128Gcm));
    let records = [nothing(32), vec![made(32, b"x\x17")], vec![made(33, b"\x17")]].concat();
    assert_eq!(receive(&mut receiver, [records.concat().as_slice()]).0, b"x");
    assert_eq!(error_of(&nothing(33)), RecordError::TooManyIdle(32));
    let mut key = secret(CipherSuite::Aes128Gcm);
    let mut updates = Vec::new();
    for _ in 0..33 {
        updates.push(record(&key, 0, b"\x18\0\0\x01\x01\x16"));
        key = key.next();
    }
    assert_eq!(error_of(&updates), RecordError::TooManyIdle(32));
}

#[test]
fn an_end_is_told() {
    let (mut sealer, mut receiver) = pair(CipherSuite::ChaCha20Poly1305);
    let mut sent = Vec::new();
    sealer.append(b"last", &mut sent);
    sealer.alert(Alert::CLOSE_NOTIFY, &mut sent);
    let (data, end) = receive(&mut receiver, [sent.as_slice()]);
    assert_eq!((data.as_slice(), end), (&b"last"[..], Ok(Opened::Closed { length: 24 })));
    assert_eq!(receiver.open(&mut []), Ok(Opened::Closed { length: 0 }), "it is told again");
    sent.clear();
    sealer.append(b"more", &mut sent);
    assert_eq!(receiver.open(&mut sent), Err(RecordError::BehindClose));
    // user_canceled says nothing, bad_record_mac is an end.
    assert_eq!(
        error_of(&[made(0, b"\x01\x5a\x15"), made(1, b"\x02\x14\x15")]),
        RecordError::PeerAlert(Alert(20))
    );
    assert_eq!(RecordError::PeerAlert(Alert(20)).alert(), None, "an alert is not answered with one");
}

proptest! {
    #[test]
    fn pieces_give_what_the_whole_gives(
        parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..20),
        mut cuts in proptest::collection::vec(0usize..8000, 0..30),
        renewal in 1u64..6,
        noise in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let (mut sealer, mut whole) = pair(CipherSuite::Aes256Gcm);
        let mut pieces = RecordReceiver::new(secret(CipherSuite::Aes256Gcm));
        sealer.set_renewal(renewal);
        let mut sent = Vec::new();
        parts.iter().for_each(|part| sealer.append(part, &mut sent));
        let data = parts.concat();
        let expected = receive(&mut whole, [sent.as_slice()]);
        prop_assert_eq!(&expected.0, &data);
        sent.extend(&noise);
        cuts.retain(|cut| *cut < sent.len());
        cuts.extend([0, sent.len()]);
        cuts.sort_unstable();
        let in_pieces = receive(&mut pieces, cuts.windows(2).map(|pair| &sent[pair[0]..pair[1]]));
        prop_assert_eq!(&in_pieces.0, &data, "noise behind it gives no data");
        // And byte by byte, with the same end.
        let mut bytes = RecordReceiver::new(secret(CipherSuite::Aes256Gcm));
        let in_bytes = receive(&mut bytes, sent.chunks(1));
        prop_assert_eq!(in_bytes.0, data);
        prop_assert_eq!(in_bytes.1.is_err(), in_pieces.1.is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), inner in any::<bool>()) {
        let bytes = if inner { made(0, &bytes) } else { bytes };
        let mut receiver = RecordReceiver::new(secret(CipherSuite::Aes128Gcm));
        let (_data, _end) = receive(&mut receiver, [bytes.as_slice()]);
    }
}

/// A server may give tickets, in any number of records, beside its key updates.
#[test]
fn tickets_are_skipped_by_clients_only() {
    let secret = || secret(CipherSuite::Aes128Gcm);
    let ticket = |length: u32| [&[4][..], &length.to_be_bytes()[1..], &vec![0; length as usize]].concat();
    let inside = |bytes: &[u8]| [bytes, &[22]].concat();
    let two = [ticket(300), ticket(0)].concat();
    let stream = [
        record(&secret(), 0, &inside(&two)),
        record(&secret(), 1, &inside(&two[..7])),
        record(&secret(), 2, &inside(&[&two[7..], &two[..3]].concat())),
        record(&secret(), 3, &inside(&[&two[3..], &[24, 0, 0, 1, 0]].concat())),
        record(&secret().next(), 0, b"data\x17"),
    ]
    .concat();
    for piece in [1, 100, 10_000] {
        let mut receiver = RecordReceiver::of_client(secret());
        assert_eq!(receive(&mut receiver, stream.chunks(piece)).0, b"data");
        assert_eq!(receiver.key_updates(), 1);
    }
    let of_a_client = receive(&mut RecordReceiver::new(secret()), [&stream[..]]).1;
    assert_eq!(of_a_client, Err(RecordError::UnexpectedMessage(4)));
    let data_amid = [record(&secret(), 0, &inside(&two[..9])), record(&secret(), 1, b"data\x17")].concat();
    let end = receive(&mut RecordReceiver::of_client(secret()), [&data_amid[..]]).1;
    assert!(matches!(end, Err(RecordError::Malformed(_))));
    let long = record(&secret(), 0, &inside(&[4, 1, 0, 1]));
    let end = receive(&mut RecordReceiver::of_client(secret()), [&long[..]]).1;
    assert_eq!(end, Err(RecordError::Malformed("a ticket is too long")));
    let other = record(&secret(), 0, &inside(&[2, 0, 0, 0]));
    let end = receive(&mut RecordReceiver::of_client(secret()), [&other[..]]).1;
    assert_eq!(end, Err(RecordError::UnexpectedMessage(2)));
}
