//! The handshake with a key that both ends know, the client's side (RFC 8446, 2.2): `psk_dhe_ke`, with a hash
//! of 256 bits. The server's side is `handshake::shared_key`.
//!
//! It sends a key for each exchange that it knows, so that no server has to ask for another hello.

use std::fmt;

use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::{digest, hmac, rand};
use zeroize::Zeroizing;

use super::error::{OfferedIdentity, TlsClientError};
use super::server_hello::ServerHello;
use crate::identity::TlsIdentity;
use crate::tls::alert::Alert;
use crate::tls::connector::SharedKey;
use crate::tls::handshake::shared_key::{
    ENCRYPTED_EXTENSIONS, FINISHED, GROUPS, SUITES, finished, plain_record, so_far,
};
use crate::tls::record::error::RecordError;
use crate::tls::record::header::{ContentType, RECORD_HEADER_BYTES};
use crate::tls::record::receive::alert;
use crate::tls::record::seal::RecordSealer;
use crate::tls::record::traffic_key::TrafficKey;
use crate::tls::secret::Secret;
use crate::tls::session::TlsSession;
use crate::tls::suite::CipherSuite;

/// Bytes of the messages that a server sends.
const MOST_MESSAGE_BYTES: usize = 16 << 10;
const BINDER_BYTES: usize = 32;

/// A handshake that has not ended.
pub(super) struct ConnectingSharedKey {
    name: Vec<u8>,
    /// All suites have the same hash, so there is one of these.
    early: Secret,
    /// The ClientHello, and its session id.
    hello: Vec<u8>,
    session_id: [u8; 32],
    own: Vec<(u16, EphemeralPrivateKey)>,
    /// Messages that have not come as a whole.
    messages: Vec<u8>,
    encrypted: Option<EncryptedPart>,
}

/// What is known once the server has chosen.
struct EncryptedPart {
    suite: CipherSuite,
    transcript: digest::Context,
    handshake: Secret,
    client: Secret,
    server: Secret,
    key: TrafficKey,
    has_extensions: bool,
}

fn list(data: &[u8]) -> Vec<u8> {
    [&(data.len() as u16).to_be_bytes(), data].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &list(data)].concat()
}

fn random() -> Result<[u8; 32], TlsClientError> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| TlsClientError::Internal("the system has no random bytes"))?;
    Ok(bytes)
}

impl ConnectingSharedKey {
    /// Its first message goes to `output`.
    pub(super) fn new(shared: &SharedKey, output: &mut Vec<u8>) -> Result<Self, TlsClientError> {
        let failed = |_| TlsClientError::Internal("no key for an exchange could be made");
        let (mut own, mut shares) = (Vec::new(), Vec::new());
        for (code, group) in GROUPS {
            let key = EphemeralPrivateKey::generate(group, &rand::SystemRandom::new()).map_err(failed)?;
            let public = key.compute_public_key().map_err(failed)?;
            shares.extend(code.to_be_bytes());
            shares.extend(list(public.as_ref()));
            own.push((code, key));
        }
        let session_id = random()?;
        let early = Secret::extract(SUITES[0], None, &shared.key);
        let hello = client_hello(&shared.name, &session_id, &shares, &early)?;
        plain_record(ContentType::Handshake, &hello, output);
        let name = shared.name.clone();
        Ok(Self { name, early, hello, session_id, own, messages: Vec::new(), encrypted: None })
    }

    pub(super) fn offered(&self) -> OfferedIdentity {
        OfferedIdentity::SharedKey(self.name.escape_ascii().to_string())
    }

    /// Takes one whole record, and what is to be answered goes to `output`. Gives the session at the end.
    pub(super) fn take(
        &mut self,
        record: &mut [u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<TlsSession>, TlsClientError> {
        let (kind, carried) = self.open(record)?;
        match kind {
            // For the boxes on the way; it means nothing (5).
            ContentType::ChangeCipherSpec if *carried == [1] => return Ok(None),
            ContentType::Alert => return Err(self.refused(carried)),
            ContentType::Handshake if !carried.is_empty() => self.messages.extend_from_slice(carried),
            ContentType::Handshake | ContentType::ChangeCipherSpec | ContentType::Data => {
                return Err(TlsClientError::Record(RecordError::UnexpectedType(kind.code())));
            }
        }
        while let Some(message) = self.next_message()? {
            if let Some(session) = self.message(&message, output)? {
                return Ok(Some(session));
            }
        }
        Ok(None)
    }

    /// What a record carries, decrypted as soon as that can be.
    fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<(ContentType, &'a [u8]), TlsClientError> {
        let kind = ContentType::of(record[0]).map_err(|_| TlsClientError::NotTls)?;
        match &mut self.encrypted {
            Some(encrypted) if kind == ContentType::Data => {
                let (kind, place) = encrypted.key.open(record).map_err(TlsClientError::Record)?;
                // In plain text only.
                if kind == ContentType::ChangeCipherSpec {
                    return Err(TlsClientError::Record(RecordError::UnexpectedType(kind.code())));
                }
                Ok((kind, &record[place]))
            }
            Some(_) if kind == ContentType::Handshake => {
                Err(TlsClientError::Record(RecordError::UnexpectedType(kind.code())))
            }
            _ => Ok((kind, &record[RECORD_HEADER_BYTES..])),
        }
    }

    /// An alert is an end also where it says that the server leaves.
    fn refused(&self, body: &[u8]) -> TlsClientError {
        let alert = match alert(body) {
            Err(RecordError::PeerAlert(alert)) => alert,
            Err(error) => return TlsClientError::Record(error),
            Ok(_) => Alert::CLOSE_NOTIFY,
        };
        TlsClientError::PeerAlert { alert, offered: self.offered() }
    }

    /// The next message that is whole.
    fn next_message(&mut self) -> Result<Option<Vec<u8>>, TlsClientError> {
        let &[_, high, middle, low, ..] = self.messages.as_slice() else { return Ok(None) };
        let length = 4 + u32::from_be_bytes([0, high, middle, low]) as usize;
        if length > MOST_MESSAGE_BYTES {
            return Err(TlsClientError::TooMuch("a message may have"));
        }
        if self.messages.len() < length {
            return Ok(None);
        }
        let rest = self.messages.split_off(length);
        Ok(Some(std::mem::replace(&mut self.messages, rest)))
    }

    fn message(
        &mut self,
        message: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<TlsSession>, TlsClientError> {
        let Some(encrypted) = &mut self.encrypted else {
            self.encrypted = Some(self.hello(message)?);
            return self.ends_here().map(|()| None);
        };
        match (message[0], encrypted.has_extensions) {
            (ENCRYPTED_EXTENSIONS, false) => {
                encrypted.has_extensions = true;
                encrypted.transcript.update(message);
                Ok(None)
            }
            (FINISHED, true) => {
                let session = encrypted.finish(message, &self.name, output)?;
                self.ends_here().map(|()| Some(session))
            }
            _ => Err(TlsClientError::Malformed("a message that has no place there")),
        }
    }

    /// "Handshake messages MUST NOT span key changes."
    fn ends_here(&self) -> Result<(), TlsClientError> {
        match self.messages.is_empty() {
            true => Ok(()),
            false => Err(TlsClientError::Malformed("something stands behind the last message of a key")),
        }
    }

    /// Takes the ServerHello: from here on all is encrypted.
    fn hello(&mut self, message: &[u8]) -> Result<EncryptedPart, TlsClientError> {
        let hello = ServerHello::parse(message, &self.session_id)?;
        match hello.chosen {
            None => return Err(TlsClientError::SharedKeyIgnored(self.name.escape_ascii().to_string())),
            Some(0) => {}
            Some(_) => return Err(TlsClientError::Malformed("it chose a shared key that was not offered")),
        }
        let (group, share) = hello.share;
        let place = self.own.iter().position(|(code, _)| *code == group);
        let place = place.ok_or(TlsClientError::Malformed("an exchange that was not offered"))?;
        let (_, own) = self.own.swap_remove(place);
        self.own.clear();
        let peer = UnparsedPublicKey::new(own.algorithm(), share);
        let shared = agreement::agree_ephemeral(
            own,
            peer,
            TlsClientError::Malformed("its key for the exchange is not one"),
            |shared| Ok(Zeroizing::new(shared.to_vec())),
        )?;
        let suite = hello.suite;
        let mut transcript = digest::Context::new(suite.digest());
        transcript.update(&self.hello);
        transcript.update(message);
        let empty = digest::digest(suite.digest(), &[]);
        let early = self.early.of_suite(suite);
        let handshake = Secret::extract(suite, Some(&early.derive("derived", empty.as_ref())), &shared);
        let hash = so_far(&transcript);
        let server = handshake.derive("s hs traffic", hash.as_ref());
        Ok(EncryptedPart {
            suite,
            client: handshake.derive("c hs traffic", hash.as_ref()),
            key: TrafficKey::new(server.clone()),
            server,
            transcript,
            handshake,
            has_extensions: false,
        })
    }

    /// Tells the server that it failed: in plain text if there is no key yet.
    pub(super) fn alert(self, alert: Alert, output: &mut Vec<u8>) {
        match self.encrypted {
            Some(encrypted) => RecordSealer::new(encrypted.client).alert(alert, output),
            None => plain_record(ContentType::Alert, &alert.bytes(), output),
        }
    }
}

impl EncryptedPart {
    /// Takes the server's Finished, and answers with the client's.
    fn finish(
        &mut self,
        message: &[u8],
        name: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<TlsSession, TlsClientError> {
        let expected = finished(&self.server, &self.transcript);
        aws_lc_rs::constant_time::verify_slices_are_equal(message, &expected)
            .map_err(|_| TlsClientError::WrongFinish)?;
        self.transcript.update(message);
        let proof = finished(&self.client, &self.transcript);
        // For boxes on the way that know TLS 1.2 only (D.4).
        plain_record(ContentType::ChangeCipherSpec, &[1], output);
        RecordSealer::new(self.client.clone()).append_record(ContentType::Handshake, &proof, output);

        let empty = digest::digest(self.suite.digest(), &[]);
        let zeroes = vec![0; self.suite.hash_length()];
        let derived = self.handshake.derive("derived", empty.as_ref());
        let main = Secret::extract(self.suite, Some(&derived), &zeroes);
        let hash = so_far(&self.transcript);
        let (client, server) =
            (main.derive("c ap traffic", hash.as_ref()), main.derive("s ap traffic", hash.as_ref()));
        Ok(TlsSession::of_client(TlsIdentity::SharedKey(name.to_vec()), client, server))
    }
}

/// The ClientHello. The proof of the key comes last, and vouches for all before it.
fn client_hello(
    name: &[u8],
    session_id: &[u8; 32],
    shares: &[u8],
    early: &Secret,
) -> Result<Vec<u8>, TlsClientError> {
    let groups: Vec<u8> = GROUPS.iter().flat_map(|(code, _)| code.to_be_bytes()).collect();
    let suites: Vec<u8> = SUITES.iter().flat_map(|suite| suite.code().to_be_bytes()).collect();
    // Behind the name: the age of a ticket, which it is not.
    let names = list(&[&list(name), &[0; 4][..]].concat());
    let binders = list(&[&[BINDER_BYTES as u8][..], &[0; BINDER_BYTES]].concat());
    let extensions = [
        extension(10, &list(&groups)),
        extension(43, &[2, 3, 4]),
        // With fresh keys only, so that a stolen key opens no old recording.
        extension(45, &[1, 1]),
        extension(51, &list(shares)),
        extension(41, &[names, binders.clone()].concat()),
    ];
    let mut message = vec![1, 0, 0, 0, 3, 3];
    message.extend(random()?);
    message.push(session_id.len() as u8);
    message.extend(session_id);
    message.extend(list(&suites));
    message.extend([1, 0]);
    message.extend(list(&extensions.concat()));
    let length = (message.len() - 4) as u32;
    message[1..4].copy_from_slice(&length.to_be_bytes()[1..]);

    let vouched_for = message.len() - binders.len();
    let suite = early.suite();
    let empty = digest::digest(suite.digest(), &[]);
    let key = early.derive("ext binder", empty.as_ref()).finished_key();
    let hash = digest::digest(suite.digest(), &message[..vouched_for]);
    let binder = hmac::sign(&key, hash.as_ref());
    let place = message.len() - BINDER_BYTES;
    message[place..].copy_from_slice(binder.as_ref());
    Ok(message)
}

/// Without keys.
impl fmt::Debug for ConnectingSharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectingSharedKey").finish_non_exhaustive()
    }
}
