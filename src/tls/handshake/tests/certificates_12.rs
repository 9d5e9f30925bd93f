//! Handshakes of TLS 1.2, and records behind them, with rustls as the client.

use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};

use super::certificates::{client_of, part, read, shake, written};
use super::*;
use crate::identity::TlsIdentity;
use crate::tls::record::header::RECORD_DATA_BYTES;
use crate::tls::version::TlsVersion;

/// What a server of an authority is made of.
struct Made {
    authority: TestAuthority,
    server: (String, String),
}

impl Made {
    fn new() -> Self {
        let authority = TestAuthority::new("an authority");
        let server = authority.sign(&["server"], ExtendedKeyUsagePurpose::ServerAuth, 1);
        Self { authority, server }
    }

    fn acceptor(&self, allows_tls_12: bool) -> Arc<TlsAcceptor> {
        let (certificate, key) = &self.server;
        let material = TlsMaterial {
            certificate: Some((certificate.as_bytes(), key.as_bytes())),
            client_authorities: Some(self.authority.pem.as_bytes()),
            shared_keys: Some(PSK),
            allows_tls_12,
            ..TlsMaterial::default()
        };
        Arc::new(TlsAcceptor::new(&material).unwrap())
    }
}

#[test]
fn sessions_of_each_cipher_carry_data_of_any_length() {
    let made = Made::new();
    let acceptor = made.acceptor(true);
    let own = made.authority.sign(&["vm1"], ExtendedKeyUsagePurpose::ClientAuth, 2);
    for (code, suite, own, piece) in [
        (0xc02b, CipherSuite::Aes128Gcm, None, usize::MAX),
        (0xc02c, CipherSuite::Aes256Gcm, Some(&own), 1),
        (0xcca9, CipherSuite::ChaCha20Poly1305, Some(&own), 333),
    ] {
        let mut client = client_of(&made.authority.pem, own, |of| of == code, &[&TLS12]);
        let mut server = TlsHandshake::new(Arc::clone(&acceptor), NOW);
        let (mut session, mut received) = shake(&mut server, &mut client, piece).unwrap();
        assert_eq!((session.version, session.suite), (TlsVersion::Tls12, suite));
        assert_eq!(matches!(session.identity, TlsIdentity::Certificate(_)), own.is_some());
        let (mut expected, mut got) = (Vec::<u8>::new(), Vec::new());
        for length in [0, 1, 16, RECORD_DATA_BYTES - 1, RECORD_DATA_BYTES, RECORD_DATA_BYTES + 1, 40_000] {
            let data: Vec<u8> = (0..length).map(|number| number as u8).collect();
            received.extend(written(&mut client, &data));
            expected.extend(&data);
            got.extend(opened(&mut session, &mut received));
            let mut sent = Vec::new();
            session.append(&data, &mut sent);
            assert!(read(&mut client, &sent) == data, "{suite:?}, {length} bytes");
        }
        assert!(got == expected, "{suite:?}");
        assert_eq!((session.sealer.key_updates(), session.receiver.key_updates()), (0, 0));
        part(&mut session, &mut client);
    }
}

#[test]
fn who_has_both_versions_gets_the_later_one() {
    let made = Made::new();
    let acceptor = made.acceptor(true);
    let mut client = client_of(&made.authority.pem, None, |_| true, &[&TLS12, &TLS13]);
    let mut server = TlsHandshake::new(acceptor, NOW);
    let (session, _) = shake(&mut server, &mut client, 100).unwrap();
    assert_eq!((session.version, session.suite), (TlsVersion::Tls13, CipherSuite::Aes128Gcm));
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn it_is_refused_unless_it_is_asked_for() {
    let made = Made::new();
    let mut client = client_of(&made.authority.pem, None, |_| true, &[&TLS12]);
    let mut server = TlsHandshake::new(made.acceptor(false), NOW);
    let error = shake(&mut server, &mut client, 100).unwrap_err();
    assert!(error.is_of_version() && !error.is_of_offers());
    let sentence = error.to_string();
    assert!(
        sentence.starts_with("the client does not offer TLS 1.3; with --tls-min-version 1.2"),
        "{sentence}"
    );
    assert!(!made.acceptor(true).is_made_of_the_same_as(&made.acceptor(false)));
}

/// A ClientHello without the extension is one of a program of before 2015, or of somebody in between.
#[test]
fn the_extended_master_secret_is_required() {
    let made = Made::new();
    let mut client = client_of(&made.authority.pem, None, |_| true, &[&TLS12]);
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    // Its type, 23, and no bytes: another type, which means nothing.
    let places: Vec<_> = (0..=hello.len() - 4).filter(|at| hello[*at..*at + 4] == [0, 23, 0, 0]).collect();
    assert_eq!(places.len(), 1, "random bytes that look like it: run it again");
    hello[places[0]] = 0x5a;
    let mut server = TlsHandshake::new(made.acceptor(true), NOW);
    let (output, end, _) = feed(&mut server, &hello, 100);
    let error = end.unwrap_err();
    assert!(error.is_of_offers(), "{error}");
    assert!(error.to_string().contains("extended master secret"), "{error}");
    assert_eq!(output[..7], [21, 3, 3, 0, 2, 2, 40], "handshake_failure");
}

/// Those without forward secrecy, and with CBC, are not there at all.
#[test]
fn the_suites_are_those_with_ephemeral_keys_and_aead() {
    let codes = |oldest| {
        let provider = crate::tls::acceptor::provider(oldest);
        provider.cipher_suites.iter().map(|suite| u16::from(suite.suite())).collect::<Vec<_>>()
    };
    assert_eq!(codes(TlsVersion::Tls13), [0x1301, 0x1302, 0x1303]);
    let mut both = codes(TlsVersion::Tls12);
    let preferred = both.iter().map(|code| CipherSuite::of(*code).or(CipherSuite::of_12(*code)).unwrap());
    let preferred: Vec<_> = preferred.collect();
    assert_eq!(preferred, CipherSuite::ALL.map(|suite| [suite; 3]).concat());
    both.sort_unstable();
    assert_eq!(both, [0x1301, 0x1302, 0x1303, 0xc02b, 0xc02c, 0xc02f, 0xc030, 0xcca8, 0xcca9]);
}
