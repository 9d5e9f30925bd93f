//! Handshakes and records of anybody, for fuzzing: whatever comes, whole and in pieces it comes to the same.

use super::arbitrary_talk::{Sides, use_talk};
use super::handshake::TlsStep;
use super::record::error::RecordError;
use super::record::header::RECORD_HEADER_BYTES;
use super::record::key_block::KeyBlock;
use super::record::receive::{Opened, RecordReceiver};
use super::record::traffic_key::TrafficKey;
use super::secret::Secret;
use super::suite::CipherSuite;
use super::version::TlsVersion;

/// Bytes inside of one record at most, which is more than there may be.
const LONGEST_INSIDE: usize = (1 << 14) + 300;

/// Of each version.
const KEYS: [fn() -> TrafficKey; 2] = [key, key_12];

/// Uses `data` as what a peer sends. The first byte says whether as a handshake with a server or with a
/// client, or as records, and how long the pieces are; or what happens to bytes on their way between two
/// sides that keep to the rules.
pub fn use_arbitrary(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else { return };
    let piece = usize::from(how >> 3) + 1;
    let sides = Sides::of(how & 4 != 0);
    match how & 7 {
        0 => {
            // A kept input may know the key; its answer is made of random numbers, and of one length.
            let (whole, pieces) = (handshake(sides, data, usize::MAX), handshake(sides, data, piece));
            assert_eq!((whole.0.len(), &whole.1), (pieces.0.len(), &pieces.1));
            assert!(whole.0.len() < 1000, "an answer of {} bytes", whole.0.len());
        }
        // Signatures are not of one length.
        4 => assert_eq!(handshake(sides, data, usize::MAX).1, handshake(sides, data, piece).1),
        1 => KEYS.into_iter().for_each(|key| records(data, piece, key)),
        // No mutation makes a tag, so the insides of records are what is fuzzed: each has a length before it.
        2 => KEYS.into_iter().for_each(|key| records(&sealed(data, key()), piece, key)),
        3 | 7 => use_talk(sides, data),
        // With a shared key, and with certificates.
        5 | 6 => {
            let sides = Sides::of(how & 7 == 6);
            assert_eq!(connected(sides, data, usize::MAX), connected(sides, data, piece));
        }
        _ => unreachable!("three bits"),
    }
}

/// What a server answered, and how it ended.
fn handshake(sides: &Sides, data: &[u8], piece: usize) -> (Vec<u8>, Option<String>) {
    let mut handshake = sides.accept();
    let mut output = Vec::new();
    for mut input in data.chunks(piece) {
        loop {
            let step = handshake.feed(&mut input);
            output.extend(handshake.take_output());
            match step {
                Ok(TlsStep::Need) => break,
                Ok(TlsStep::Send | TlsStep::Heard) => {}
                Ok(TlsStep::Done(_)) => panic!("a session without the key"),
                Err(error) => return (output, Some(error.to_string())),
            }
        }
    }
    (output, None)
}

/// How a client ended whose server says this.
fn connected(sides: &Sides, data: &[u8], piece: usize) -> Option<String> {
    let mut handshake = sides.connect();
    for mut input in data.chunks(piece) {
        loop {
            handshake.take_output();
            match handshake.feed(&mut input) {
                Ok(TlsStep::Need) => break,
                Ok(TlsStep::Send | TlsStep::Heard) => {}
                Ok(TlsStep::Done(_)) => panic!("a session without the key"),
                Err(error) => return Some(error.to_string()),
            }
        }
    }
    None
}

fn key() -> TrafficKey {
    TrafficKey::new(Secret::new(CipherSuite::ChaCha20Poly1305, &[7; 32]))
}

/// One of TLS 1.2, with a nonce in each record.
fn key_12() -> TrafficKey {
    let block = KeyBlock::new(CipherSuite::Aes128Gcm, &[7; 16], [7; 12]);
    TrafficKey::of_block(block.expect("it is as long"))
}

/// Records that have `data` inside.
fn sealed(data: &[u8], mut key: TrafficKey) -> Vec<u8> {
    let (mut sent, mut rest) = (Vec::new(), data);
    while let [high, low, behind @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])) % LONGEST_INSIDE;
        let (inside, behind) = behind.split_at(length.min(behind.len()));
        key.seal_inside(inside, &mut sent);
        rest = behind;
        // What a key update looks like: the next record has the next key.
        let is_update = inside.starts_with(&[24, 0, 0, 1]) && inside.get(5) == Some(&22) && inside.len() == 6;
        if is_update && key.version() == TlsVersion::Tls13 {
            key.renew();
        }
    }
    sent
}

fn records(sent: &[u8], piece: usize, key: fn() -> TrafficKey) {
    let (whole, pieces) = (received(sent, usize::MAX, key()), received(sent, piece, key()));
    assert_eq!(whole, pieces);
    assert!(whole.0.len() <= sent.len());
}

/// The data of records, and what was wrong with them.
fn received(sent: &[u8], piece: usize, key: TrafficKey) -> (Vec<u8>, Option<RecordError>) {
    let mut receiver = RecordReceiver::of_key(key);
    let (mut held, mut data) = (Vec::new(), Vec::new());
    for piece in sent.chunks(piece) {
        held.extend_from_slice(piece);
        loop {
            match receiver.open(&mut held) {
                Ok(Opened::Record { length, data: place }) => {
                    assert!(place.end <= length && length <= held.len());
                    data.extend_from_slice(&held[place]);
                    held.drain(..length);
                }
                Ok(Opened::Need(bytes)) => {
                    assert!(bytes > held.len() && bytes <= RECORD_HEADER_BYTES + LONGEST_INSIDE);
                    break;
                }
                // What stands behind a goodbye is told by the next call.
                Ok(Opened::Closed { length }) => {
                    held.drain(..length);
                    if held.is_empty() {
                        break;
                    }
                }
                Err(error) => return (data, Some(error)),
            }
        }
    }
    (data, None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The whole handshake, and the front of what is said behind it.
    #[test]
    fn every_byte_is_changed_in_turn() {
        for (place, side) in (0..900_u16).flat_map(|place| [(place, 0), (place, 1)]) {
            let [high, low] = place.to_be_bytes();
            for mask in [1, 0x80] {
                use_arbitrary(&[3, high, low, mask, side, 255, 0, 7]);
            }
        }
    }

    /// The same with certificates on both sides, of every seventh byte: each of them is a pair of signatures.
    #[test]
    fn bytes_are_changed_beside_certificates() {
        for place in (0..3000_u16).step_by(7) {
            let [high, low] = place.to_be_bytes();
            use_arbitrary(&[7, high, low, 1, (place % 2) as u8, 255, 0, 7]);
        }
        use_arbitrary(&[7, 0, 0, 0, 0, 5]);
    }

    proptest! {
        #[test]
        fn nothing_is_too_odd(how in any::<u8>(), data in proptest::collection::vec(any::<u8>(), 0..300)) {
            use_arbitrary(&[&[how], &data[..]].concat());
        }

        #[test]
        fn bytes_that_are_cut_and_changed(data in proptest::collection::vec(any::<u8>(), 4..80)) {
            use_arbitrary(&[&[3], &data[..]].concat());
            // Nothing is changed.
            use_arbitrary(&[&[3, 0, 0, 0, 0], &data[4..]].concat());
            use_arbitrary(&[&[7, 0, 0, 0, 0], &data[4..]].concat());
        }

        #[test]
        fn odd_insides_in_a_row(
            how in 0u8..32,
            insides in proptest::collection::vec(
                prop_oneof![
                    Just(vec![24, 0, 0, 1, 1, 22]),
                    Just(vec![1, 0, 21]),
                    Just(vec![24, 22]),
                    Just(vec![24, 0, 0, 1, 0, 22, 0, 0]),
                    proptest::collection::vec(0u8..25, 0..8),
                    (0usize..17_000).prop_map(|length| [vec![1; length], vec![23]].concat()),
                ],
                0..10,
            ),
        ) {
            let mut data = vec![how << 3 | 2];
            for inside in insides {
                data.extend((inside.len() as u16).to_be_bytes());
                data.extend(inside);
            }
            use_arbitrary(&data);
        }
    }
}
