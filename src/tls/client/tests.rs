//! Handshakes in memory with this server's own half, which other programs' clients have tried; and with what
//! no server sends. Real servers of others are in the tests of the client.

use std::sync::Arc;

use proptest::prelude::*;
use rcgen::ExtendedKeyUsagePurpose;

use super::*;
use crate::identity::TlsIdentity;
use crate::tls::acceptor::{TlsAcceptor, TlsMaterial};
use crate::tls::connector::{ConnectorError, ServerTrust};
use crate::tls::handshake::TlsHandshake;
use crate::tls::handshake::error::TlsError;
use crate::tls::record::receive::Opened;
use crate::tls::test_authority::TestAuthority;
use crate::tls::version::TlsVersion;

/// The time at which the certificates of these tests are good.
const NOW: Duration = Duration::from_secs(1_750_000_000);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const KEYS: &[u8] = b"vm1:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n\
    vm2:1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100";

fn pair((certificate, key): &(String, String)) -> (&[u8], &[u8]) {
    (certificate.as_bytes(), key.as_bytes())
}

fn trusting(authority: &TestAuthority, own: Option<&(String, String)>) -> TlsConnector {
    trusting_but(authority, None, own)
}

fn trusting_but(
    authority: &TestAuthority,
    revoked: Option<&str>,
    own: Option<&(String, String)>,
) -> TlsConnector {
    let authorities = authority.pem.as_bytes();
    let revoked = revoked.map(str::as_bytes);
    let trust = ServerTrust::Authorities { authorities, are_of_system: false, revoked };
    TlsConnector::with_certificates(trust, own.map(pair), TlsVersion::Tls13).unwrap()
}

fn acceptor(material: TlsMaterial<'_>) -> Arc<TlsAcceptor> {
    Arc::new(TlsAcceptor::new(&material).unwrap())
}

type Ended = (Result<Box<TlsSession>, TlsClientError>, Option<Result<Box<TlsSession>, TlsError>>);

/// Both ends, each fed in pieces, until neither has anything to say: how they ended.
fn shake(client: &mut TlsClientHandshake, server: &mut TlsHandshake, piece: usize) -> Ended {
    let (mut to_client, mut to_server) = (Vec::new(), client.take_output());
    let (mut of_client, mut of_server) = (None, None);
    for _ in 0..10_000 {
        let mut input = &to_server[..to_server.len().min(piece)];
        let offered = input.len();
        if of_server.is_none() {
            match server.feed(&mut input) {
                Ok(TlsStep::Done(session)) => of_server = Some(Ok(session)),
                Ok(_) => {}
                Err(error) => of_server = Some(Err(error)),
            }
            to_client.extend(server.take_output());
        }
        to_server.drain(..offered - input.len());
        let mut input = &to_client[..to_client.len().min(piece)];
        let offered = input.len();
        if of_client.is_none() {
            match client.feed(&mut input) {
                Ok(TlsStep::Done(session)) => of_client = Some(Ok(session)),
                Ok(_) => {}
                Err(error) => of_client = Some(Err(error)),
            }
            to_server.extend(client.take_output());
        }
        to_client.drain(..offered - input.len());
        if (of_server.is_some() || to_server.is_empty())
            && let Some(ended) = of_client.take()
        {
            return (ended, of_server);
        }
    }
    panic!("no end: {of_client:?}, {of_server:?}");
}

fn opened(session: &mut TlsSession, received: &mut Vec<u8>) -> Vec<u8> {
    let mut data = Vec::new();
    while let Opened::Record { length, data: place } = session.open(received).unwrap() {
        data.extend_from_slice(&received[place]);
        received.drain(..length);
    }
    data
}

/// Data both ways, with renewals of both keys after three records.
fn talk(client: &mut TlsSession, server: &mut TlsSession) {
    client.sealer.set_renewal(3);
    server.sealer.set_renewal(3);
    for round in 0..20_usize {
        let data = vec![round as u8; 1 + 9000 * (round % 4)];
        for is_up in [true, false] {
            let (from, to) = if is_up { (&mut *client, &mut *server) } else { (&mut *server, &mut *client) };
            let mut sent = Vec::new();
            from.append(&data, &mut sent);
            assert_eq!(opened(to, &mut sent), data);
        }
    }
    assert!(client.sealer.key_updates() > 5 && client.receiver.key_updates() > 5);
}

#[test]
fn sessions_with_certificates() {
    let authority = TestAuthority::new("an authority");
    let (server, own) = (authority.server(), authority.client());
    let acceptor = acceptor(TlsMaterial {
        certificate: Some(pair(&server)),
        client_authorities: Some(authority.pem.as_bytes()),
        shared_keys: Some(KEYS),
        ..TlsMaterial::default()
    });
    for (own, name, piece) in
        [(None, "server", 100_000), (Some(&own), "SERVER", 1), (Some(&own), "192.0.2.1", 333)]
    {
        let connector = trusting(&authority, own);
        assert_eq!(connector.has_identity(), own.is_some());
        let mut client = TlsClientHandshake::new(&connector, name, NOW).unwrap();
        let mut server = TlsHandshake::new(Arc::clone(&acceptor), NOW);
        let (client, server) = shake(&mut client, &mut server, piece);
        let (mut client, mut server) = (client.unwrap(), server.expect("an end").unwrap());
        assert_eq!(client.suite, server.suite);
        assert!(matches!(client.identity, TlsIdentity::Certificate(_)));
        assert_eq!(matches!(server.identity, TlsIdentity::Certificate(_)), own.is_some());
        talk(&mut client, &mut server);
    }
}

#[test]
fn sessions_with_a_shared_key() {
    let acceptor = acceptor(TlsMaterial { shared_keys: Some(KEYS), ..TlsMaterial::default() });
    for (name, piece) in [("vm1", 100_000), ("vm2", 1), ("vm1", 61)] {
        let connector = TlsConnector::with_shared_key(KEYS, Some(name)).unwrap();
        let mut client = TlsClientHandshake::new(&connector, "", NOW).unwrap();
        let mut server = TlsHandshake::new(Arc::clone(&acceptor), NOW);
        let (client, server) = shake(&mut client, &mut server, piece);
        let (mut client, mut server) = (client.unwrap(), server.expect("an end").unwrap());
        assert_eq!(client.identity, TlsIdentity::SharedKey(name.into()));
        assert_eq!((client.suite, &client.identity), (server.suite, &server.identity));
        talk(&mut client, &mut server);
    }
}

#[test]
fn each_wrong_server_is_told_in_a_sentence() {
    let (authority, stranger) = (TestAuthority::new("an authority"), TestAuthority::new("a stranger"));
    let namesake = TestAuthority::new("an authority");
    let purpose = ExtendedKeyUsagePurpose::ServerAuth;
    let good = authority.server();
    let revoked = authority.revoking_all();
    let plain = || trusting(&authority, None);
    for (server, connector, name, now, words) in [
        (&good, trusting(&stranger, None), "server", NOW, "of an authority that is not trusted here"),
        (&stranger.server(), plain(), "server", NOW, "of an authority that is not trusted here"),
        (&namesake.server(), plain(), "server", NOW, "of an authority that is not trusted here"),
        (&good, plain(), "server", NOW + YEAR, "has expired"),
        (&good, plain(), "server", NOW - YEAR, "is not valid yet"),
        (&good, plain(), "other", NOW, "not for other, but for"),
        (&good, plain(), "192.0.2.2", NOW, "not for 192.0.2.2, but for"),
        (&authority.client(), plain(), "vm1", NOW, "not one for servers"),
        (&authority.sign(&[], purpose, 1), plain(), "server", NOW, "no name at all"),
        (&good, trusting_but(&authority, Some(&revoked), None), "server", NOW, "was revoked"),
    ] {
        let acceptor = acceptor(TlsMaterial { certificate: Some(pair(server)), ..TlsMaterial::default() });
        let mut client = TlsClientHandshake::new(&connector, name, now).unwrap();
        let (client, server) = shake(&mut client, &mut TlsHandshake::new(acceptor, NOW), 1000);
        let error = client.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(matches!(server, Some(Err(TlsError::PeerAlert(_)))), "the server is told: {server:?}");
    }
    let connector = TlsConnector::with_certificates(ServerTrust::Anybody, None, TlsVersion::Tls13).unwrap();
    let certificate = stranger.server();
    let acceptor = acceptor(TlsMaterial { certificate: Some(pair(&certificate)), ..TlsMaterial::default() });
    let mut client = TlsClientHandshake::new(&connector, "other", NOW + YEAR).unwrap();
    assert!(shake(&mut client, &mut TlsHandshake::new(acceptor, NOW), 1000).0.is_ok(), "anybody will do");
    let error = TlsClientHandshake::new(&connector, "a b", NOW).unwrap_err();
    assert!(error.to_string().contains("give the server's name by tls-hostname"), "{error}");
}

/// What a server says of a client comes behind the client's handshake, as an alert.
#[test]
fn each_refusal_of_a_server_is_told_in_a_sentence() {
    let (authority, stranger) = (TestAuthority::new("an authority"), TestAuthority::new("a stranger"));
    let server = authority.server();
    let revoked = authority.revoking_all();
    let strange = stranger.client();
    let own = authority.client();
    for (own, now, revoked, words) in [
        (None, NOW, None, "requires a certificate of the client"),
        (Some(&strange), NOW, None, "an authority that it does not know"),
        (Some(&own), NOW + YEAR, None, "has expired"),
        (Some(&own), NOW, Some(revoked.as_bytes()), "was revoked"),
    ] {
        let acceptor = acceptor(TlsMaterial {
            certificate: Some(pair(&server)),
            client_authorities: Some(authority.pem.as_bytes()),
            certificate_is_required: true,
            revoked,
            ..TlsMaterial::default()
        });
        let mut client = TlsClientHandshake::new(&trusting(&authority, own), "server", NOW).unwrap();
        let offered = client.offered().clone();
        let mut to_server = client.take_output();
        let mut server = TlsHandshake::new(acceptor, now);
        let mut session = None;
        // Until the server has refused, and the client has read why.
        let error = loop {
            let refused = server.feed(&mut to_server.as_slice());
            let output = server.take_output();
            if refused.is_err() {
                let mut session: Box<TlsSession> = session.expect("the client is content");
                break session.open(&mut output.clone()).unwrap_err();
            }
            to_server.clear();
            let mut input = output.as_slice();
            while !input.is_empty() || session.is_none() {
                match client.feed(&mut input).unwrap() {
                    TlsStep::Send | TlsStep::Heard => to_server.extend(client.take_output()),
                    TlsStep::Need => break,
                    TlsStep::Done(done) => session = Some(done),
                }
            }
        };
        let error = TlsClientError::of_record(error, &offered).to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn keys_that_do_not_fit() {
    let authority = TestAuthority::new("an authority");
    let certificate = authority.server();
    let with_keys = || acceptor(TlsMaterial { shared_keys: Some(KEYS), ..TlsMaterial::default() });
    let with_certificate =
        || acceptor(TlsMaterial { certificate: Some(pair(&certificate)), ..TlsMaterial::default() });
    let other = b"vm1:ff0102030405060708090a0b0c0d0e0f\nvm9:ff0102030405060708090a0b0c0d0e0f";
    let key = |name| TlsConnector::with_shared_key(other, Some(name)).unwrap();
    for (connector, acceptor, words) in [
        (key("vm1"), with_keys(), "no shared key of the name \"vm1\", or another one"),
        (key("vm9"), with_keys(), "no shared key of the name \"vm9\", or another one"),
        (key("vm1"), with_certificate(), "no shared key of the name \"vm1\""),
        (trusting(&authority, None), with_keys(), "shared keys (give one by tls-psk-file)"),
    ] {
        let mut client = TlsClientHandshake::new(&connector, "server", NOW).unwrap();
        let (client, _) = shake(&mut client, &mut TlsHandshake::new(acceptor, NOW), 1000);
        let error = client.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let error = |keys: &[u8], name| TlsConnector::with_shared_key(keys, name).unwrap_err();
    assert!(matches!(error(KEYS, None), ConnectorError::WhichName));
    assert!(matches!(error(KEYS, Some("vm3")), ConnectorError::UnknownName(_)));
    assert!(matches!(error(b"vm1", None), ConnectorError::SharedKeys(_)));
    assert!(TlsConnector::with_shared_key(&other[..36], None).is_ok(), "the only one");
}

#[test]
fn material_that_is_wrong_is_refused_with_a_sentence() {
    let authority = TestAuthority::new("an authority");
    let (own, another) = (authority.client(), authority.client());
    let authorities = authority.pem.as_bytes();
    let good = ServerTrust::Authorities { authorities, are_of_system: false, revoked: None };
    let bad = |authorities, revoked| ServerTrust::Authorities { authorities, are_of_system: false, revoked };
    for (trust, own, start) in [
        (bad(b"", None), None, "the certificates of authorities"),
        (
            bad(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None),
            None,
            "the certificates of",
        ),
        (bad(authorities, Some(b"x")), None, "the list of revoked"),
        (good, Some((&b""[..], own.1.as_bytes())), "the client's certificate cannot be read"),
        (good, Some((own.0.as_bytes(), &b"x"[..])), "the client's key cannot be read"),
        (good, Some((own.0.as_bytes(), another.1.as_bytes())), "the client's certificate and its key"),
    ] {
        let error = TlsConnector::with_certificates(trust, own, TlsVersion::Tls13).unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
    }
}

/// A client with the key of `vm1`, and all that a server answers to it.
fn begun() -> (TlsClientHandshake, Vec<u8>) {
    let connector = TlsConnector::with_shared_key(KEYS, Some("vm1")).unwrap();
    let mut client = TlsClientHandshake::new(&connector, "", NOW).unwrap();
    let material = TlsMaterial { shared_keys: Some(KEYS), ..TlsMaterial::default() };
    let mut server = TlsHandshake::new(acceptor(material), NOW);
    assert!(matches!(server.feed(&mut client.take_output().as_slice()), Ok(TlsStep::Heard)));
    assert!(matches!(server.feed(&mut &[][..]), Ok(TlsStep::Send)));
    (client, server.take_output())
}

/// How a client ends that is told `answer`; none if it waits for more.
fn told(client: &mut TlsClientHandshake, answer: &[u8], piece: usize) -> Option<Result<(), TlsClientError>> {
    for mut input in answer.chunks(piece) {
        loop {
            match client.feed(&mut input) {
                Ok(TlsStep::Need) => break,
                Ok(TlsStep::Send | TlsStep::Heard) => drop(client.take_output()),
                Ok(TlsStep::Done(_)) => return Some(Ok(())),
                Err(error) => return Some(Err(error)),
            }
        }
    }
    None
}

#[test]
fn every_changed_byte_of_an_answer_is_noticed() {
    let (mut client, answer) = begun();
    assert_eq!(told(&mut client, &answer, 7), Some(Ok(())));
    for place in 0..answer.len() {
        let (mut client, mut answer) = begun();
        answer[place] ^= 0x40;
        let end = told(&mut client, &answer, usize::MAX);
        // The version of a record means nothing, and a longer one may still come.
        assert!(!matches!(end, Some(Ok(()))) || answer[place] ^ 0x40 == 3, "byte {place}: {end:?}");
    }
    for end in 0..answer.len() {
        let (mut client, answer) = begun();
        assert_eq!(told(&mut client, &answer[..end], 50), None, "{end} bytes are not all");
    }
}

#[test]
fn what_is_no_tls_is_noticed() {
    for bytes in [&b"NBDMAGICIHAVEOPT"[..], b"HTTP/1.1 400 Bad Request\r\n"] {
        assert_eq!(told(&mut begun().0, bytes, 1000), Some(Err(TlsClientError::NotTls)));
    }
    // A ServerHello of TLS 1.2, and the request for another hello.
    let hello = |random: [u8; 32], tail: &[u8]| {
        let body = [&[3, 3][..], &random, &[0, 0x13, 1, 0], tail].concat();
        let message = [&[2, 0, 0, body.len() as u8][..], &body].concat();
        [&[22, 3, 3, 0, message.len() as u8][..], &message].concat()
    };
    for tail in [&[][..], &[0, 0], &[0, 5, 0xff, 1, 0, 1, 0]] {
        assert_eq!(told(&mut begun().0, &hello([1; 32], tail), 1000), Some(Err(TlsClientError::OldVersion)));
    }
    let endless = [20, 3, 3, 0, 1, 1].repeat(100);
    assert_eq!(told(&mut begun().0, &endless, 1000), Some(Err(TlsClientError::TooMuch("64 records"))));
    let long = [&[22, 3, 3, 0, 4][..], &[2, 0xff, 0xff, 0xff]].concat();
    assert!(matches!(told(&mut begun().0, &long, 1000), Some(Err(TlsClientError::TooMuch(_)))));
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        kept in 0usize..200,
        piece in 1usize..50,
    ) {
        let length = (bytes.len() as u16).to_be_bytes();
        let (mut client, answer) = begun();
        let answer = &answer[..kept.min(answer.len())];
        let _any_end = told(&mut client, &[answer, &[22, 3, 3], &length, &bytes].concat(), piece);
        let connector = TlsConnector::with_certificates(ServerTrust::Anybody, None, TlsVersion::Tls13).unwrap();
        let mut client = TlsClientHandshake::new(&connector, "server", NOW).unwrap();
        client.take_output();
        let _any_end = told(&mut client, &[&[22, 3, 3], &length[..], &bytes].concat(), piece);
    }
}
