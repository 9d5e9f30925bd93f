//! A client of TLS that says all it has to say and listens to the end: with a certificate, with a shared key, or with neither.

use std::io::{Read, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ringnbd::internal::tls::{
    Alert, Opened, ServerTrust, TlsClientHandshake, TlsConnector, TlsSession, TlsStep, TlsVersion,
};

use crate::support::wire::{NBD_OPT_STARTTLS, NBD_REP_ACK, be32, option};

/// What a client proves its identity with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    Nothing,
    /// `NAME-cert.pem` with its key.
    Certificate(&'static str),
    /// A name of `keys.psk`.
    SharedKey(&'static str),
}

/// What a server says behind TLS.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) data: Vec<u8>,
    /// Lengths of its records, which anybody on the way sees.
    pub(crate) records: Vec<usize>,
}

fn connector(proof: Proof, dir: &Path) -> TlsConnector {
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let own = match proof {
        Proof::Nothing => None,
        Proof::Certificate(name) => {
            Some((read(&format!("{name}-cert.pem")), read(&format!("{name}-key.pem"))))
        }
        Proof::SharedKey(name) => {
            return TlsConnector::with_shared_key(&read("keys.psk"), Some(name)).unwrap();
        }
    };
    let authorities = read("ca-cert.pem");
    let trust = ServerTrust::Authorities { authorities: &authorities, are_of_system: false, revoked: None };
    let own = own.as_ref().map(|(certificate, key)| (&certificate[..], &key[..]));
    TlsConnector::with_certificates(trust, own, TlsVersion::Tls13).unwrap()
}

/// The session, and what came behind the handshake.
fn shake_hands(stream: &mut (impl Read + Write), proof: Proof, dir: &Path) -> (TlsSession, Vec<u8>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut handshake = TlsClientHandshake::new(&connector(proof, dir), "localhost", now).unwrap();
    let mut received = Vec::new();
    loop {
        let mut input = &received[..];
        let step = handshake.feed(&mut input).unwrap();
        let taken = received.len() - input.len();
        received.drain(..taken);
        stream.write_all(&handshake.take_output()).unwrap();
        match step {
            TlsStep::Done(session) => return (*session, received),
            TlsStep::Send | TlsStep::Heard => {}
            TlsStep::Need => {
                let mut bytes = [0; 4096];
                let count = stream.read(&mut bytes).unwrap();
                assert!(count > 0, "the server left within the handshake");
                received.extend_from_slice(&bytes[..count]);
            }
        }
    }
}

/// Encrypts behind the greeting, says `options` and goodbye, and gives all that comes back.
pub(crate) fn said_behind_tls(
    stream: &mut (impl Read + Write),
    (proof, dir): (Proof, &Path),
    options: &[u8],
) -> Said {
    stream.write_all(&option(NBD_OPT_STARTTLS, &[])).unwrap();
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(be32(&reply, 12), NBD_REP_ACK);
    let (mut session, mut received) = shake_hands(stream, proof, dir);
    let mut sent = Vec::new();
    session.append(options, &mut sent);
    session.sealer.alert(Alert::CLOSE_NOTIFY, &mut sent);
    stream.write_all(&sent).unwrap();
    // A reset is a close: the server may leave without having read all.
    match stream.read_to_end(&mut received) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    let mut said = Said { data: Vec::new(), records: Vec::new() };
    while !received.is_empty() {
        let length = match session.open(&mut received).unwrap() {
            Opened::Record { length, data } => {
                said.data.extend_from_slice(&received[data]);
                length
            }
            Opened::Closed { length } => length,
            Opened::Need(_) => panic!("the server left within a record"),
        };
        said.records.push(length);
        received.drain(..length);
    }
    said
}
