//! rustls is the client, and so the oracle of records and key updates as well.

use std::io::{Read, Write};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use super::*;
use crate::identity::TlsIdentity;

#[derive(Debug)]
struct At(Duration);

impl rustls::time_provider::TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0))
    }
}

/// A client that believes `authority`, and has a certificate or none.
fn client(authority: &str, own: Option<&(String, String)>, suite: Option<CipherSuite>) -> ClientConnection {
    client_of(authority, own, |code| suite.is_none_or(|suite| code == suite.code()), &[&TLS13])
}

/// The same with suites by their numbers, and of these versions.
pub(super) fn client_of(
    authority: &str,
    own: Option<&(String, String)>,
    suites: impl Fn(u16) -> bool,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|of| suites(of.suite().into()));
    let builder = ClientConfig::builder_with_details(Arc::new(provider), Arc::new(At(NOW)))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain =
                CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    ClientConnection::new(Arc::new(config), ServerName::try_from("server").unwrap()).unwrap()
}

/// Both ends until the server has a session or an error. What the client sent behind its handshake is left.
pub(super) fn shake(
    server: &mut TlsHandshake,
    client: &mut ClientConnection,
    piece: usize,
) -> Result<(Box<TlsSession>, Vec<u8>), TlsError> {
    let mut early = true;
    for _ in 0..10 {
        if !client.is_handshaking() && std::mem::take(&mut early) {
            client.writer().write_all(b"first").unwrap();
        }
        let mut sent = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sent).unwrap();
        }
        let (output, end, taken) = feed(server, &sent, piece);
        let mut output = output.as_slice();
        while !output.is_empty() {
            client.read_tls(&mut output).unwrap();
            // An error of the client is one of the server, by an alert.
            let _error = client.process_new_packets();
        }
        if let Some(session) = end? {
            return Ok((session, sent[taken..].to_vec()));
        }
    }
    panic!("no end");
}

pub(super) fn read(client: &mut ClientConnection, mut sent: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while !sent.is_empty() {
        client.read_tls(&mut sent).unwrap();
        client.process_new_packets().unwrap();
        let _until_empty = client.reader().read_to_end(&mut data);
    }
    data
}

/// Each says that it sends no more, and the other one hears it.
pub(super) fn part(session: &mut TlsSession, client: &mut ClientConnection) {
    let mut goodbye = Vec::new();
    session.sealer.alert(crate::tls::Alert::CLOSE_NOTIFY, &mut goodbye);
    client.read_tls(&mut goodbye.as_slice()).unwrap();
    assert!(client.process_new_packets().unwrap().peer_has_closed());
    client.send_close_notify();
    assert!(matches!(session.open(&mut written(client, b"")), Ok(Opened::Closed { .. })));
}

pub(super) fn written(client: &mut ClientConnection, data: &[u8]) -> Vec<u8> {
    client.writer().write_all(data).unwrap();
    let mut sent = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut sent).unwrap();
    }
    sent
}

#[test]
fn sessions_of_each_suite_carry_data_and_renew_keys() {
    let authority = TestAuthority::new("an authority");
    let (certificate, key) = authority.sign(&["server"], ExtendedKeyUsagePurpose::ServerAuth, 1);
    let own = authority.sign(&["vm1"], ExtendedKeyUsagePurpose::ClientAuth, 2);
    let material = TlsMaterial {
        certificate: Some((certificate.as_bytes(), key.as_bytes())),
        client_authorities: Some(authority.pem.as_bytes()),
        shared_keys: Some(PSK),
        ..TlsMaterial::default()
    };
    let acceptor = Arc::new(TlsAcceptor::new(&material).unwrap());
    for (suite, own, piece) in [
        (CipherSuite::Aes128Gcm, None, usize::MAX),
        (CipherSuite::Aes256Gcm, Some(&own), 1),
        (CipherSuite::ChaCha20Poly1305, Some(&own), 333),
    ] {
        let mut client = client(&authority.pem, own, Some(suite));
        let mut server = TlsHandshake::new(Arc::clone(&acceptor), NOW);
        let (mut session, mut received) = shake(&mut server, &mut client, piece).unwrap();
        assert_eq!(session.suite, suite);
        let der = own.map(|(pem, _)| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec());
        assert_eq!(session.identity, der.map_or(TlsIdentity::Anonymous, TlsIdentity::Certificate));
        session.sealer.set_renewal(2);
        let mut expected = b"first".to_vec();
        let mut got = Vec::new();
        for round in 0..20_usize {
            let data = vec![round as u8; 10_000 * (round % 4) + 1];
            received.extend(written(&mut client, &data));
            expected.extend(&data);
            if round % 3 == 0 {
                client.refresh_traffic_keys().unwrap();
            }
            got.extend(opened(&mut session, &mut received));
            let mut sent = Vec::new();
            session.append(&data, &mut sent);
            assert_eq!(read(&mut client, &sent), data);
        }
        received.extend(written(&mut client, b""));
        got.extend(opened(&mut session, &mut received));
        assert_eq!(got, expected);
        assert_eq!(session.receiver.key_updates(), 7);
        assert!(session.sealer.key_updates() > 10);
        part(&mut session, &mut client);
    }
}

#[test]
fn clients_are_believed_by_their_authority_only() {
    let (authority, stranger) = (TestAuthority::new("an authority"), TestAuthority::new("a stranger"));
    let (certificate, key) = authority.sign(&["server"], ExtendedKeyUsagePurpose::ServerAuth, 1);
    let revoked = authority.revoking(3);
    let material = TlsMaterial {
        certificate: Some((certificate.as_bytes(), key.as_bytes())),
        client_authorities: Some(authority.pem.as_bytes()),
        revoked: Some(revoked.as_bytes()),
        certificate_is_required: true,
        ..TlsMaterial::default()
    };
    let acceptor = Arc::new(TlsAcceptor::new(&material).unwrap());
    let outcome = |own: Option<&(String, String)>, now| {
        let mut client = client(&authority.pem, own, None);
        let mut server = TlsHandshake::new(Arc::clone(&acceptor), now);
        shake(&mut server, &mut client, usize::MAX).map(|_| ()).map_err(|error| error.to_string())
    };
    let purpose = || ExtendedKeyUsagePurpose::ClientAuth;
    let good = authority.sign(&["vm1"], purpose(), 2);
    assert_eq!(outcome(Some(&good), NOW), Ok(()));
    let later = NOW + Duration::from_secs(365 * 86_400);
    for (own, now, reason) in [
        (None, NOW, "the client has no certificate, which this server requires"),
        (Some(authority.sign(&["vm1"], purpose(), 3)), NOW, "the client's certificate was revoked"),
        (Some(stranger.sign(&["vm1"], purpose(), 2)), NOW, "the client's certificate is of an authority"),
        (Some(good.clone()), later, "the client's certificate has expired"),
        (
            Some(authority.sign(&["vm1"], ExtendedKeyUsagePurpose::ServerAuth, 2)),
            NOW,
            "the handshake with certificates",
        ),
    ] {
        let error = outcome(own.as_ref(), now).unwrap_err();
        assert!(error.starts_with(reason), "{error}");
    }
}

#[test]
fn a_client_that_does_not_believe_the_server_says_so() {
    let (authority, stranger) = (TestAuthority::new("an authority"), TestAuthority::new("a stranger"));
    let (certificate, key) = authority.sign(&["server"], ExtendedKeyUsagePurpose::ServerAuth, 1);
    let certificate = Some((certificate.as_bytes(), key.as_bytes()));
    let acceptor = TlsAcceptor::new(&TlsMaterial { certificate, ..TlsMaterial::default() }).unwrap();
    let mut server = TlsHandshake::new(Arc::new(acceptor), NOW);
    let mut client = client(&stranger.pem, None, None);
    let error = shake(&mut server, &mut client, usize::MAX).unwrap_err().to_string();
    assert!(
        error.contains("unknown_ca") && error.contains("does not trust the server's certificate"),
        "{error}"
    );
}

#[test]
fn a_server_with_shared_keys_alone_says_so() {
    let authority = TestAuthority::new("an authority");
    let mut client = client(&authority.pem, None, None);
    assert_eq!(shake(&mut with_shared_keys(), &mut client, 9).unwrap_err(), TlsError::NoSharedKey);
}

/// A client is judged again by what it was believed for: with an authority in between, and after its
/// list or its key has changed.
#[test]
fn who_was_believed_once_is_judged_again() {
    let (authority, stranger) = (TestAuthority::new("an authority"), TestAuthority::new("a stranger"));
    let (certificate, key) = authority.sign(&["server"], ExtendedKeyUsagePurpose::ServerAuth, 1);
    let between = authority.below("in between");
    let (own, own_key) = between.sign(&["vm1"], ExtendedKeyUsagePurpose::ClientAuth, 2);
    let chain = (own + &between.pem, own_key);
    let acceptor = |authority: &TestAuthority, keys: &'static [u8]| {
        let material = TlsMaterial {
            certificate: Some((certificate.as_bytes(), key.as_bytes())),
            client_authorities: Some(authority.pem.as_bytes()),
            shared_keys: Some(keys),
            ..TlsMaterial::default()
        };
        Arc::new(TlsAcceptor::new(&material).unwrap())
    };
    let first = acceptor(&authority, PSK);
    let session = |own: Option<&(String, String)>| {
        let mut client = client(&authority.pem, own, None);
        let mut server = TlsHandshake::new(Arc::clone(&first), NOW);
        let (session, _) = shake(&mut server, &mut client, usize::MAX).unwrap();
        let proof = first.proof_of(&session);
        (session.identity, proof)
    };
    let (identity, proof) = session(Some(&chain));
    assert!(first.still_believes(&identity, &proof, NOW));
    assert!(
        !first.still_believes(&identity, &proof, NOW + Duration::from_secs(365 * 86_400)),
        "it has expired"
    );
    assert!(!acceptor(&stranger, PSK).still_believes(&identity, &proof, NOW));
    let (anonymous, nothing) = session(None);
    assert!(acceptor(&stranger, PSK).still_believes(&anonymous, &nothing, NOW));
    let only_keys = TlsMaterial { shared_keys: Some(PSK), ..TlsMaterial::default() };
    let only_keys = TlsAcceptor::new(&only_keys).unwrap();
    assert!(!only_keys.still_believes(&anonymous, &nothing, NOW));
    assert!(!only_keys.still_believes(&identity, &proof, NOW));
    assert!(
        !only_keys.is_made_of_the_same_as(&first) && acceptor(&authority, PSK).is_made_of_the_same_as(&first)
    );

    let mut server = TlsHandshake::new(Arc::clone(&first), NOW);
    let client = super::shared_key_client::SharedKeyClient::new(
        &(0..32).collect::<Vec<_>>(),
        &super::shared_key_client::Offer::default(),
    );
    let (output, ..) = feed(&mut server, &client.record(), usize::MAX);
    let (sent, ..) = client.finish(&output);
    let session = feed(&mut server, &sent, usize::MAX).1.unwrap().expect("a session");
    let (identity, proof) = (session.identity.clone(), first.proof_of(&session));
    assert!(only_keys.still_believes(&identity, &proof, NOW));
    for keys in [
        &b"vm2:1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100"[..],
        b"vm1:1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100",
    ] {
        assert!(!acceptor(&authority, keys).still_believes(&identity, &proof, NOW));
    }
}
