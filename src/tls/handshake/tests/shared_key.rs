//! Handshakes with a shared key, and every way in which they fail.

use super::shared_key_client::{Offer, SharedKeyClient};
use super::*;
use crate::identity::TlsIdentity;
use crate::tls::record::error::RecordError;

/// The key of `vm1` in [`PSK`].
fn key() -> Vec<u8> {
    (0..32).collect()
}

fn error_of(key: &[u8], offer: &Offer<'_>) -> (Vec<u8>, TlsError) {
    let (output, end, _) = feed(&mut with_shared_keys(), &SharedKeyClient::new(key, offer).record(), 50);
    (output, end.unwrap_err())
}

#[test]
fn a_session_carries_data_both_ways() {
    for (suites, group, chosen) in [
        (&[0x1302, 0x1303, 0x1301][..], 0x1d, CipherSuite::Aes128Gcm),
        (&[0x1303], 0x17, CipherSuite::ChaCha20Poly1305),
        (&[0x0a0a, 0x1301], 0x18, CipherSuite::Aes128Gcm),
    ] {
        for piece in [1, 60, usize::MAX] {
            let mut server = with_shared_keys();
            let client = SharedKeyClient::new(&key(), &Offer { suites, group, ..Offer::default() });
            let (output, end, _) = feed(&mut server, &client.record(), piece);
            assert!(end.unwrap().is_none());
            let (mut sent, mut sealer, mut receiver, suite) = client.finish(&output);
            assert_eq!(suite, chosen);
            let handshake = sent.len();
            sealer.append(b"first", &mut sent);
            let (output, end, taken) = feed(&mut server, &sent, piece);
            let mut session = end.unwrap().expect("a session");
            // What follows the handshake is left alone, but for what came in the same piece.
            assert!(output.is_empty() && taken == handshake);
            assert_eq!(
                (session.suite, &session.identity),
                (chosen, &TlsIdentity::SharedKey(b"vm1".to_vec()))
            );
            assert_eq!(opened(&mut session, &mut sent[taken..].to_vec()), b"first");
            let mut answer = Vec::new();
            session.append(b"answer", &mut answer);
            assert!(matches!(receiver.open(&mut answer), Ok(Opened::Record { data, .. }) if data == (5..11)));
            assert_eq!(answer[5..11], *b"answer");
        }
    }
}

#[test]
fn the_first_name_that_is_known_is_taken() {
    let client = SharedKeyClient::new(&key(), &Offer { names: &[b"nobody", b"vm1"], ..Offer::default() });
    let mut server = with_shared_keys();
    let (output, _, _) = feed(&mut server, &client.record(), 100);
    let (sent, ..) = client.finish(&output);
    let session = feed(&mut server, &sent, 100).1.unwrap().expect("a session");
    assert_eq!(session.identity, TlsIdentity::SharedKey(b"vm1".to_vec()));
}

#[test]
fn an_unknown_name_looks_like_a_wrong_key() {
    let (wrong, error) = error_of(&[7; 32], &Offer::default());
    assert_eq!(error, TlsError::WrongSharedKey("vm1".to_owned()));
    let (unknown, error) = error_of(&key(), &Offer { names: &[b"no\n"], ..Offer::default() });
    assert_eq!(error, TlsError::WrongSharedKey("no\\n".to_owned()));
    let (another, _) = error_of(&key(), &Offer { names: &[b"vm2"], ..Offer::default() });
    let alert = [21, 3, 3, 0, 2, 2, 51];
    assert_eq!([wrong, unknown, another], [alert, alert, alert]);
}

#[test]
fn a_hello_that_cannot_be_answered_is_refused() {
    let extension = |kind: u8| vec![0, kind, 0, 0];
    for (offer, alert) in [
        (Offer { suites: &[0x1302], ..Offer::default() }, 40),
        (Offer { suites: &[], ..Offer::default() }, 40),
        (Offer { modes: &[0], ..Offer::default() }, 40),
        (Offer { modes: &[], ..Offer::default() }, 40),
        (Offer { group: 0x1e, ..Offer::default() }, 40),
        (Offer { extra: &extension(42), ..Offer::default() }, 47),
        (Offer { extra: &extension(43), ..Offer::default() }, 47),
        (Offer { behind: &extension(99), ..Offer::default() }, 47),
        (Offer { session_id: &[1; 33], ..Offer::default() }, 47),
        (Offer { extra: &[0, 99, 0, 1], ..Offer::default() }, 47),
        (Offer { names: &[&b"a"[..]; 9], ..Offer::default() }, 47),
        (Offer { extra: &(100..200).flat_map(extension).collect::<Vec<_>>(), ..Offer::default() }, 47),
    ] {
        assert_eq!(error_of(&key(), &offer).0, [21, 3, 3, 0, 2, 2, alert]);
    }
    // TLS 1.2 only: the extension of versions is another one.
    let mut hello = SharedKeyClient::new(&key(), &Offer::default()).record();
    let place = hello.windows(5).position(|bytes| bytes == [0, 43, 0, 3, 2]).unwrap();
    hello[place + 1] = 98;
    let (output, end, _) = feed(&mut with_shared_keys(), &hello, 1000);
    assert_eq!((output, end.unwrap_err()), (vec![21, 3, 3, 0, 2, 2, 70], TlsError::OldVersion));
}

#[test]
fn every_changed_byte_of_a_hello_is_noticed() {
    let client = SharedKeyClient::new(&key(), &Offer::default());
    let record = client.record();
    for place in 5..record.len() {
        let mut changed = record.clone();
        changed[place] ^= 0x10;
        let (_, end, _) = feed(&mut with_shared_keys(), &changed, usize::MAX);
        assert!(end.is_err() || matches!(end, Ok(None)) && changed[6..9] != record[6..9], "byte {place}");
    }
}

#[test]
fn a_wrong_last_message_is_refused_with_an_encrypted_alert() {
    let start = || {
        let mut server = with_shared_keys();
        let client = SharedKeyClient::new(&key(), &Offer::default());
        let (output, _, _) = feed(&mut server, &client.record(), 100);
        let (sent, sealer, receiver, _) = client.finish(&output);
        (server, sent, sealer, receiver)
    };
    let (_, sent, ..) = start();
    for place in 0..sent.len() {
        let (mut server, mut sent, _, mut receiver) = start();
        sent[place] ^= 0x40;
        let (mut output, end, _) = feed(&mut server, &sent, usize::MAX);
        match end {
            Err(_) => assert!(receiver.open(&mut output).is_err(), "an alert that the client can read"),
            // A longer record may still come; and the version of a header means nothing.
            Ok(end) => {
                assert!([3, 4, 9, 10].contains(&place) || end.is_some() && [1, 2].contains(&place), "{place}")
            }
        }
    }
    // Data before the handshake has ended, plain text, and a client that gives up.
    let (mut server, _, mut sealer, _) = start();
    let mut early = Vec::new();
    sealer.append(b"data", &mut early);
    assert_eq!(feed(&mut server, &early, 10).1.unwrap_err(), RecordError::Undecipherable.into());
    let (mut server, ..) = start();
    assert_eq!(
        feed(&mut server, b"\x16\x03\x03\0\x01\0", 10).1.unwrap_err(),
        RecordError::UnexpectedType(22).into()
    );
    let (mut server, ..) = start();
    let (output, end, _) = feed(&mut server, b"\x15\x03\x03\0\x02\x02\x33", 10);
    assert!(output.is_empty() && end.unwrap_err().to_string().contains("another key of this name"));
}
