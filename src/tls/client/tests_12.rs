//! The client with servers of TLS 1.2: rustls, and this server.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS12;
use rustls::{ServerConfig, ServerConnection};

use super::*;
use crate::tls::connector::ServerTrust;
use crate::tls::record::header::RECORD_DATA_BYTES;
use crate::tls::record::receive::Opened;
use crate::tls::suite::CipherSuite;
use crate::tls::test_authority::TestAuthority;
use crate::tls::version::TlsVersion;

/// The time at which the certificates of these tests are good.
const NOW: Duration = Duration::from_secs(1_750_000_000);

fn connector(authority: &TestAuthority, oldest: TlsVersion) -> TlsConnector {
    let authorities = authority.pem.as_bytes();
    let trust = ServerTrust::Authorities { authorities, are_of_system: false, revoked: None };
    TlsConnector::with_certificates(trust, None, oldest).unwrap()
}

/// A server of TLS 1.2 with one suite.
fn server(authority: &TestAuthority, code: u16) -> ServerConnection {
    let (certificate, key) = authority.server();
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| u16::from(suite.suite()) == code);
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    ServerConnection::new(Arc::new(config)).unwrap()
}

/// Both ends, until the client has ended: how, and what the server said behind the handshake.
fn shake(
    client: &mut TlsClientHandshake,
    server: &mut ServerConnection,
) -> Result<(Box<TlsSession>, Vec<u8>), TlsClientError> {
    for _ in 0..10 {
        let to_server = client.take_output();
        let mut to_server = to_server.as_slice();
        while !to_server.is_empty() {
            server.read_tls(&mut to_server).unwrap();
            let _it_tells_the_client = server.process_new_packets();
        }
        let said = written(server, b"");
        let mut input = said.as_slice();
        loop {
            match client.feed(&mut input)? {
                TlsStep::Done(session) => return Ok((session, input.to_vec())),
                TlsStep::Send => break,
                TlsStep::Need if input.is_empty() => break,
                _ => {}
            }
        }
    }
    panic!("no end")
}

fn written(server: &mut ServerConnection, data: &[u8]) -> Vec<u8> {
    server.writer().write_all(data).unwrap();
    let mut sent = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut sent).unwrap();
    }
    sent
}

#[test]
fn sessions_of_each_cipher_carry_data_of_any_length() {
    let authority = TestAuthority::new("an authority");
    let connector = connector(&authority, TlsVersion::Tls12);
    for (code, suite) in [
        (0xc02b, CipherSuite::Aes128Gcm),
        (0xc02c, CipherSuite::Aes256Gcm),
        (0xcca9, CipherSuite::ChaCha20Poly1305),
    ] {
        let mut server = server(&authority, code);
        let mut client = TlsClientHandshake::new(&connector, "server", NOW).unwrap();
        let (mut session, mut received) = shake(&mut client, &mut server).unwrap();
        assert_eq!((session.version, session.suite), (TlsVersion::Tls12, suite));
        for length in [1, 16, RECORD_DATA_BYTES, RECORD_DATA_BYTES + 1] {
            let data: Vec<u8> = (0..length).map(|number| number as u8).collect();
            received.extend(written(&mut server, &data));
            let mut got = Vec::new();
            while let Opened::Record { length, data } = session.open(&mut received).unwrap() {
                got.extend_from_slice(&received[data]);
                received.drain(..length);
            }
            assert_eq!(got, data);
            let (mut sent, mut heard) = (Vec::new(), Vec::new());
            session.append(&data, &mut sent);
            let mut sent = sent.as_slice();
            while !sent.is_empty() {
                server.read_tls(&mut sent).unwrap();
                server.process_new_packets().unwrap();
                let _until_empty = server.reader().read_to_end(&mut heard);
            }
            assert_eq!(heard, data);
        }
    }
}

#[test]
fn such_a_server_is_refused_unless_it_is_asked_for() {
    let authority = TestAuthority::new("an authority");
    let mut server = server(&authority, 0xc02b);
    let connector = connector(&authority, TlsVersion::Tls13);
    let mut client = TlsClientHandshake::new(&connector, "server", NOW).unwrap();
    let sentence = shake(&mut client, &mut server).unwrap_err().to_string();
    assert!(
        sentence.contains("does not speak TLS 1.3; tls-min-version=1.2 in the URI allows 1.2"),
        "{sentence}"
    );
}
