//! The handshake with a key that both ends know, the server's side (RFC 8446, 2.2): `psk_dhe_ke`, with a
//! hash of 256 bits, as external keys have.
//!
//! ```text
//! ClientHello: name, proof of the key ─►
//!                                     ◄─ ServerHello, then encrypted: EncryptedExtensions, Finished
//! encrypted: Finished                 ─►
//! ```

use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::{digest, hmac, rand};
use zeroize::Zeroizing;

use super::client_hello::ClientHello;
use super::error::TlsError;
use crate::identity::TlsIdentity;
use crate::tls::alert::Alert;
use crate::tls::psk_keys::PskKeys;
use crate::tls::record::error::RecordError;
use crate::tls::record::header::{ContentType, RECORD_HEADER_BYTES, RecordHeader};
use crate::tls::record::receive::alert;
use crate::tls::record::seal::RecordSealer;
use crate::tls::record::traffic_key::TrafficKey;
use crate::tls::secret::Secret;
use crate::tls::session::TlsSession;
use crate::tls::suite::CipherSuite;

pub(in crate::tls) const SERVER_HELLO: u8 = 2;
pub(in crate::tls) const ENCRYPTED_EXTENSIONS: u8 = 8;
pub(in crate::tls) const FINISHED: u8 = 20;
/// Bytes of a Finished: a type, a length, and a hash.
const FINISHED_BYTES: usize = 4 + 32;

/// Groups of key exchanges, in the order of preference.
pub(in crate::tls) const GROUPS: [(u16, &agreement::Algorithm); 3] =
    [(0x001d, &agreement::X25519), (0x0017, &agreement::ECDH_P256), (0x0018, &agreement::ECDH_P384)];

/// The suites that a key of 256 bits goes with.
pub(in crate::tls) const SUITES: [CipherSuite; 2] = [CipherSuite::Aes128Gcm, CipherSuite::ChaCha20Poly1305];

/// What is left of the handshake when the server has said everything.
#[derive(Debug)]
pub(super) struct SharedKeyFinish {
    name: Vec<u8>,
    key: TrafficKey,
    /// What the client's Finished has to be.
    expected: Zeroizing<Vec<u8>>,
    /// The client's Finished, as far as it has come.
    finished: Vec<u8>,
    client: Secret,
    server: Secret,
}

/// Answers a ClientHello that offers shared keys: the server's part goes to `output`.
pub(super) fn answer(
    keys: &PskKeys,
    message: &[u8],
    hello: &ClientHello<'_>,
    output: &mut Vec<u8>,
) -> Result<SharedKeyFinish, TlsError> {
    if !hello.offers_tls_13() {
        return Err(TlsError::OldVersion);
    }
    if hello.has_early_data {
        return Err(TlsError::Malformed("it sends data before the handshake has ended"));
    }
    if !hello.offers_fresh_keys() {
        return Err(TlsError::NothingInCommon("way to use a shared key with fresh keys (psk_dhe_ke)"));
    }
    let suite = SUITES.into_iter().find(|suite| hello.offers_suite(suite.code()));
    let suite = suite.ok_or(TlsError::NothingInCommon("cipher suite for shared keys"))?;
    let (early, chosen) = prove(keys, message, hello, suite)?;
    let (shared, group, share) = exchange(hello)?;

    let mut transcript = digest::Context::new(suite.digest());
    transcript.update(message);
    let server_hello = server_hello(hello, suite, chosen, group, share.as_ref())?;
    transcript.update(&server_hello);
    plain_record(ContentType::Handshake, &server_hello, output);
    if !hello.session_id.is_empty() {
        // A client that sends an id wants this for boxes on the way that know TLS 1.2 only (D.4).
        plain_record(ContentType::ChangeCipherSpec, &[1], output);
    }

    let empty = digest::digest(suite.digest(), &[]);
    let handshake = Secret::extract(suite, Some(&early.derive("derived", empty.as_ref())), &shared);
    let hash = so_far(&transcript);
    let client_handshake = handshake.derive("c hs traffic", hash.as_ref());
    let server_handshake = handshake.derive("s hs traffic", hash.as_ref());

    let mut encrypted = vec![ENCRYPTED_EXTENSIONS, 0, 0, 2, 0, 0];
    transcript.update(&encrypted);
    let finished = finished(&server_handshake, &transcript);
    transcript.update(&finished);
    encrypted.extend_from_slice(&finished);
    RecordSealer::new(server_handshake).append_record(ContentType::Handshake, &encrypted, output);

    let zeroes = vec![0; suite.hash_length()];
    let main = Secret::extract(suite, Some(&handshake.derive("derived", empty.as_ref())), &zeroes);
    let hash = so_far(&transcript);
    Ok(SharedKeyFinish {
        name: hello.names[chosen].to_vec(),
        expected: self::finished(&client_handshake, &transcript),
        key: TrafficKey::new(client_handshake),
        finished: Vec::new(),
        client: main.derive("c ap traffic", hash.as_ref()),
        server: main.derive("s ap traffic", hash.as_ref()),
    })
}

/// Checks that the client knows the key whose name it sent. Gives the early secret and the place of the name.
///
/// The first name that is known is taken, else the first. An unknown one goes the same way and fails at the
/// same place as a wrong key.
fn prove(
    keys: &PskKeys,
    message: &[u8],
    hello: &ClientHello<'_>,
    suite: CipherSuite,
) -> Result<(Secret, usize), TlsError> {
    let chosen = hello.names.iter().position(|name| keys.has(name)).unwrap_or(0);
    let key = keys.key_of(hello.names[chosen]);
    let early = Secret::extract(suite, None, &key);
    let empty = digest::digest(suite.digest(), &[]);
    let binder_key = early.derive("ext binder", empty.as_ref()).finished_key();
    let vouched_for = digest::digest(suite.digest(), &message[..hello.binders_at.start]);
    hmac::verify(&binder_key, vouched_for.as_ref(), hello.binders[chosen])
        .map_err(|_| TlsError::WrongSharedKey(hello.names[chosen].escape_ascii().to_string()))?;
    Ok((early, chosen))
}

/// Makes a key for this handshake alone. Gives what it shares with the client's, the group, and the public
/// half.
fn exchange(hello: &ClientHello<'_>) -> Result<(Zeroizing<Vec<u8>>, u16, agreement::PublicKey), TlsError> {
    let offered = GROUPS.iter().find_map(|(code, group)| Some((*code, *group, hello.share_of(*code)?)));
    let (code, group, share) = offered
        .ok_or(TlsError::NothingInCommon("key exchange (X25519, P-256, P-384) that it sent a key for"))?;
    let failed = |_| TlsError::Internal("no key for an exchange could be made");
    let own = EphemeralPrivateKey::generate(group, &rand::SystemRandom::new()).map_err(failed)?;
    let public = own.compute_public_key().map_err(failed)?;
    let shared = agreement::agree_ephemeral(
        own,
        UnparsedPublicKey::new(group, share),
        TlsError::Malformed("its key for the exchange is not one"),
        |shared| Ok(Zeroizing::new(shared.to_vec())),
    )?;
    Ok((shared, code, public))
}

fn server_hello(
    hello: &ClientHello<'_>,
    suite: CipherSuite,
    chosen: usize,
    group: u16,
    share: &[u8],
) -> Result<Vec<u8>, TlsError> {
    let mut random = [0; 32];
    rand::fill(&mut random).map_err(|_| TlsError::Internal("the system has no random bytes"))?;
    let mut extensions = vec![0, 43, 0, 2, 3, 4];
    extensions.extend([0, 51]);
    extensions.extend((share.len() as u16 + 4).to_be_bytes());
    extensions.extend(group.to_be_bytes());
    extensions.extend((share.len() as u16).to_be_bytes());
    extensions.extend_from_slice(share);
    extensions.extend([0, 41, 0, 2]);
    extensions.extend((chosen as u16).to_be_bytes());

    let mut message = vec![SERVER_HELLO, 0, 0, 0, 3, 3];
    message.extend(random);
    message.push(hello.session_id.len() as u8);
    message.extend_from_slice(hello.session_id);
    message.extend(suite.code().to_be_bytes());
    message.push(0);
    message.extend((extensions.len() as u16).to_be_bytes());
    message.extend(extensions);
    let length = (message.len() - 4) as u32;
    message[1..4].copy_from_slice(&length.to_be_bytes()[1..]);
    Ok(message)
}

pub(in crate::tls) fn so_far(transcript: &digest::Context) -> digest::Digest {
    transcript.clone().finish()
}

/// The Finished of one end, which vouches for all messages before it.
pub(in crate::tls) fn finished(of: &Secret, transcript: &digest::Context) -> Zeroizing<Vec<u8>> {
    let proof = hmac::sign(&of.finished_key(), so_far(transcript).as_ref());
    let mut message = Zeroizing::new(vec![FINISHED, 0, 0, proof.as_ref().len() as u8]);
    message.extend_from_slice(proof.as_ref());
    message
}

pub(in crate::tls) fn plain_record(kind: ContentType, body: &[u8], output: &mut Vec<u8>) {
    output.extend(RecordHeader { kind, length: body.len() }.bytes());
    output.extend_from_slice(body);
}

impl SharedKeyFinish {
    /// Takes a record of the client. True when the handshake has ended well.
    pub(super) fn take(&mut self, record: &mut [u8]) -> Result<bool, TlsError> {
        let kind = ContentType::of(record[0])?;
        let body = &record[RECORD_HEADER_BYTES..];
        match kind {
            // For the boxes on the way; it means nothing (5).
            ContentType::ChangeCipherSpec if *body == [1] && self.finished.is_empty() => return Ok(false),
            // Of a client that cannot follow; it has no key to encrypt it with.
            ContentType::Alert => return refused(body),
            ContentType::Data => {}
            ContentType::ChangeCipherSpec | ContentType::Handshake => {
                return Err(RecordError::UnexpectedType(kind.code()).into());
            }
        }
        let (kind, place) = self.key.open(record)?;
        let carried = &record[place];
        match kind {
            ContentType::Alert => return refused(carried),
            ContentType::Handshake if !carried.is_empty() => {}
            _ => return Err(TlsError::Malformed("something else came instead of its last message")),
        }
        if self.finished.len() + carried.len() > FINISHED_BYTES {
            return Err(TlsError::WrongFinish);
        }
        self.finished.extend_from_slice(carried);
        if self.finished.len() < FINISHED_BYTES {
            return Ok(false);
        }
        match aws_lc_rs::constant_time::verify_slices_are_equal(&self.finished, &self.expected) {
            Ok(()) => Ok(true),
            Err(_) => Err(TlsError::WrongFinish),
        }
    }

    /// Tells the client that it failed.
    pub(super) fn alert(self, alert: Alert, output: &mut Vec<u8>) {
        RecordSealer::new(self.server).alert(alert, output);
    }

    pub(super) fn session(self) -> TlsSession {
        TlsSession::new(TlsIdentity::SharedKey(self.name), self.client, self.server)
    }
}

/// An alert, which is an end also where it says that the client leaves.
fn refused(body: &[u8]) -> Result<bool, TlsError> {
    match alert(body) {
        Err(RecordError::PeerAlert(alert)) => Err(TlsError::PeerAlert(alert)),
        Err(error) => Err(error.into()),
        Ok(_) => Err(TlsError::PeerAlert(Alert::CLOSE_NOTIFY)),
    }
}
