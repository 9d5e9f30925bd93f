//! Handshakes in memory: with certificates, where rustls is the client; and with shared keys, where the
//! client is written down in `shared_key_client`. Other programs are the clients of the tests of the server.

mod certificates;
mod certificates_12;
mod shared_key;
mod shared_key_client;

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rcgen::ExtendedKeyUsagePurpose;

use super::*;
use crate::tls::acceptor::{TlsMaterial, TlsSetupError};
use crate::tls::record::receive::Opened;
use crate::tls::suite::CipherSuite;
use crate::tls::test_authority::TestAuthority;

/// The time at which the certificates of these tests are good: 2025, in the middle of the year.
const NOW: Duration = Duration::from_secs(1_750_000_000);
const PSK: &[u8] = b"vm1:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n\
    vm2:1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100";

/// Feeds `bytes` in pieces of `piece`. All output, how it ended, and how many bytes were taken.
fn feed(
    handshake: &mut TlsHandshake,
    bytes: &[u8],
    piece: usize,
) -> (Vec<u8>, Result<Option<Box<TlsSession>>, TlsError>, usize) {
    let (mut output, mut taken) = (Vec::new(), 0);
    for piece in bytes.chunks(piece.max(1)) {
        let mut input = piece;
        loop {
            let step = handshake.feed(&mut input);
            output.extend(handshake.take_output());
            match step {
                Ok(TlsStep::Need) => break,
                Ok(TlsStep::Send | TlsStep::Heard) => {}
                Ok(TlsStep::Done(session)) => {
                    return (output, Ok(Some(session)), taken + piece.len() - input.len());
                }
                Err(error) => return (output, Err(error), taken + piece.len() - input.len()),
            }
        }
        assert!(input.is_empty(), "all is taken before more is wanted");
        taken += piece.len();
    }
    (output, Ok(None), taken)
}

fn with_shared_keys() -> TlsHandshake {
    let material = TlsMaterial { shared_keys: Some(PSK), ..TlsMaterial::default() };
    TlsHandshake::new(Arc::new(TlsAcceptor::new(&material).unwrap()), NOW)
}

#[test]
fn material_that_is_wrong_is_refused_with_a_sentence() {
    let authority = TestAuthority::new("an authority");
    let (certificate, key) = authority.sign(&["server"], ExtendedKeyUsagePurpose::ServerAuth, 1);
    let (_, other_key) = authority.sign(&["server"], ExtendedKeyUsagePurpose::ServerAuth, 1);
    let good = Some((certificate.as_bytes(), key.as_bytes()));
    let none = TlsMaterial::default();
    for (material, start) in [
        (none, "TLS needs a certificate"),
        (
            TlsMaterial { certificate: Some((b"", key.as_bytes())), ..none },
            "the server's certificate cannot be read",
        ),
        (
            TlsMaterial { certificate: Some((certificate.as_bytes(), b"x")), ..none },
            "the server's key cannot be read",
        ),
        (
            TlsMaterial { certificate: Some((certificate.as_bytes(), other_key.as_bytes())), ..none },
            "the server's certificate and its key cannot be used together",
        ),
        (
            TlsMaterial { certificate: good, client_authorities: Some(b""), ..none },
            "the certificates of authorities",
        ),
        (
            TlsMaterial { certificate: good, certificate_is_required: true, ..none },
            "client certificates cannot",
        ),
        (
            TlsMaterial {
                certificate: good,
                client_authorities: Some(authority.pem.as_bytes()),
                revoked: Some(b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"),
                ..none
            },
            "the list of revoked certificates",
        ),
        (TlsMaterial { shared_keys: Some(b"x"), ..none }, "the file of shared keys cannot be used: line 1"),
    ] {
        let error: TlsSetupError = TlsAcceptor::new(&material).unwrap_err();
        assert!(error.to_string().starts_with(start), "{error}");
    }
}

#[test]
fn what_is_no_tls_is_noticed_at_its_first_byte() {
    for bytes in [&b"I"[..], b"IHAVEOPT", &[0x80, 0x2e, 1, 3, 1], b"\x17", b"\x14\x03\x03\x00\x01\x01"] {
        let (output, end, _) = feed(&mut with_shared_keys(), bytes, usize::MAX);
        assert_eq!(end.unwrap_err(), TlsError::NotTls);
        assert_eq!(output, [21, 3, 3, 0, 2, 2, 10]);
    }
}

#[test]
fn what_a_client_can_send_is_bounded() {
    let endless = [22, 3, 1, 0, 1, 1].repeat(200);
    let (_, end, taken) = feed(&mut with_shared_keys(), &endless, 7);
    assert!(end.is_err() && taken <= 65 * 6, "{taken}");
    // A first message that claims 16 MiB, one that claims a little too much, and one of nothing.
    for (length, hello) in [(4, [1, 0xff, 0xff, 0xff]), (4, [1, 0, 0x40, 1])] {
        let (_, end, _) = feed(&mut with_shared_keys(), &[&[22, 3, 1, 0, length][..], &hello].concat(), 100);
        assert_eq!(end.unwrap_err(), TlsError::Malformed("its first message is too long"));
    }
    assert!(feed(&mut with_shared_keys(), &[22, 3, 1, 0, 0], 100).1.is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), piece in 1usize..50) {
        let length = (bytes.len() as u16).to_be_bytes();
        let hello = [&[1, 0, length[0], length[1]][..], &bytes].concat();
        let record = [&[22, 3, 1], &(hello.len() as u16).to_be_bytes()[..], &hello].concat();
        for bytes in [bytes, record] {
            let whole = feed(&mut with_shared_keys(), &bytes, usize::MAX);
            let pieces = feed(&mut with_shared_keys(), &bytes, piece);
            prop_assert_eq!(whole.1.map(|_| ()), pieces.1.map(|_| ()));
            prop_assert_eq!(whole.0, pieces.0);
        }
    }
}

/// Sends data both ways, and renews both keys, over what a handshake came to.
fn opened(session: &mut TlsSession, received: &mut Vec<u8>) -> Vec<u8> {
    let mut data = Vec::new();
    while let Opened::Record { length, data: place } = session.open(received).unwrap() {
        data.extend_from_slice(&received[place]);
        received.drain(..length);
    }
    data
}
