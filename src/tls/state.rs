//! A session as bytes, for a process that goes on with it.
//!
//! They begin with the cipher suite, which also tells the version of TLS: an earlier program takes a suite of
//! TLS 1.2 for none, and refuses the session.
//!
//! They have the secrets: whoever gets them can read and write what follows. The one that writes them
//! must seal nothing any more once another one has read them, because a nonce is used once.

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::record::key_block::KeyBlock;
use super::record::receive::RecordReceiver;
use super::record::seal::RecordSealer;
use super::record::traffic_key::{KeySource, TrafficKey};
use super::secret::Secret;
use super::session::TlsSession;
use super::suite::CipherSuite;
use super::version::TlsVersion;
use crate::identity::TlsIdentity;

/// Further certificates of a client; more are not kept.
const MOST_CERTIFICATES: usize = 64;
/// Bytes of a certificate, or of the name of a key.
const LONGEST: usize = 64 << 10;
/// From the number of a suite of TLS 1.3 to what stands here for its cipher with TLS 1.2.
const TO_12: u16 = 0x0100;

impl TlsSession {
    /// Its bytes; `None` while a message of the client has come in part, and at its end.
    pub(crate) fn to_state(&self) -> Option<Zeroizing<Vec<u8>>> {
        let (received, idle, updates, answer_is_due) = self.receiver.state()?;
        let sealed = self.sealer.key();
        // As much as is ever needed, so that no copy is left where it grew.
        let chain = self.intermediates.iter().map(|one| one.len() + 4).sum::<usize>();
        let mut bytes = Zeroizing::new(Vec::with_capacity(chain + LONGEST + 512));
        bytes.extend(match self.version {
            TlsVersion::Tls12 => (self.suite.code() - TO_12).to_le_bytes(),
            TlsVersion::Tls13 => self.suite.code().to_le_bytes(),
        });
        write_key(received, &mut bytes);
        bytes.extend(idle.to_le_bytes());
        bytes.extend(updates.to_le_bytes());
        bytes.push(answer_is_due.into());
        write_key(sealed, &mut bytes);
        let (kind, identity): (u8, &[u8]) = match &self.identity {
            TlsIdentity::Anonymous => (0, &[]),
            TlsIdentity::Certificate(der) => (1, der),
            TlsIdentity::SharedKey(name) => (2, name),
        };
        bytes.push(kind);
        write_bytes(identity, &mut bytes);
        bytes.extend((self.intermediates.len() as u32).to_le_bytes());
        self.intermediates.iter().for_each(|one| write_bytes(one, &mut bytes));
        Some(bytes)
    }

    /// The session of such bytes; `None` if they are not such.
    pub(crate) fn of_state(bytes: &[u8]) -> Option<Self> {
        let mut from = StateReader(bytes);
        let code = u16::from_le_bytes(from.array()?);
        let of_12 = || Some((CipherSuite::of(code.checked_add(TO_12)?)?, TlsVersion::Tls12));
        let kind = CipherSuite::of(code).map(|suite| (suite, TlsVersion::Tls13)).or_else(of_12)?;
        let received = from.key(kind)?;
        let idle = u32::from_le_bytes(from.array()?);
        let updates = u64::from_le_bytes(from.array()?);
        let answer_is_due = match from.array()? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let sealed = from.key(kind)?;
        let [kind] = from.array()?;
        let identity = match (kind, from.bytes()?) {
            (0, []) => TlsIdentity::Anonymous,
            (1, der) => TlsIdentity::Certificate(der.to_vec()),
            (2, name) => TlsIdentity::SharedKey(name.to_vec()),
            _ => return None,
        };
        let certificates = u32::from_le_bytes(from.array()?) as usize;
        if certificates > MOST_CERTIFICATES {
            return None;
        }
        let intermediates = (0..certificates)
            .map(|_| Some(CertificateDer::from(from.bytes()?.to_vec())))
            .collect::<Option<_>>()?;
        let receiver = RecordReceiver::of_state(received, idle, updates, answer_is_due);
        let sealer = RecordSealer::of_state(sealed)?;
        let session = Self { intermediates, ..Self::of_ends(identity, receiver, sealer) };
        from.0.is_empty().then_some(session)
    }
}

fn write_key(key: &TrafficKey, to: &mut Vec<u8>) {
    match key.source() {
        KeySource::Secret(secret) => to.extend_from_slice(secret.bytes()),
        KeySource::Block(block) => {
            to.extend_from_slice(block.key());
            to.extend_from_slice(block.iv());
            to.extend(key.blocks().to_le_bytes());
        }
    }
    to.extend(key.records().to_le_bytes());
}

fn write_bytes(bytes: &[u8], to: &mut Vec<u8>) {
    to.extend((bytes.len() as u32).to_le_bytes());
    to.extend_from_slice(bytes);
}

struct StateReader<'a>(&'a [u8]);

impl<'a> StateReader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        if length > LONGEST { None } else { self.take(length) }
    }

    fn key(&mut self, (suite, version): (CipherSuite, TlsVersion)) -> Option<TrafficKey> {
        let (key, blocks) = match version {
            TlsVersion::Tls12 => {
                let (key, iv) = (self.take(suite.cipher().key_len())?, self.array()?);
                (TrafficKey::of_block(KeyBlock::new(suite, key, iv)?), u64::from_le_bytes(self.array()?))
            }
            TlsVersion::Tls13 => (TrafficKey::new(Secret::new(suite, self.take(suite.hash_length())?)), 0),
        };
        Some(key.at(u64::from_le_bytes(self.array()?), blocks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Opened;

    fn session(client: bool, suite: CipherSuite) -> TlsSession {
        let [one, other] = [7, 8].map(|byte| Secret::new(suite, &vec![byte; suite.hash_length()]));
        let identity = TlsIdentity::SharedKey(b"vm1".to_vec());
        match client {
            true => TlsSession::of_client(identity, one, other),
            false => TlsSession::new(identity, one, other),
        }
    }

    fn opened_by(session: &mut TlsSession, mut bytes: Vec<u8>) -> Vec<u8> {
        let (mut rest, mut seen) = (&mut bytes[..], Vec::new());
        while !rest.is_empty() {
            let Ok(Opened::Record { length, data }) = session.open(rest) else { panic!("no record") };
            seen.extend_from_slice(&rest[data]);
            rest = &mut rest[length..];
        }
        seen
    }

    /// The client's end and the server's, with TLS 1.2.
    fn sessions_12(suite: CipherSuite) -> [TlsSession; 2] {
        let key = |byte| {
            let block = KeyBlock::new(suite, &vec![byte; suite.cipher().key_len()], [byte; 12]);
            TrafficKey::of_block(block.expect("it is as long"))
        };
        let of = |received, sealed| TlsSession::of_keys(TlsIdentity::Anonymous, key(received), key(sealed));
        [of(8, 7), of(7, 8)]
    }

    #[test]
    fn a_session_of_tls_1_2_goes_on_elsewhere_and_its_keys_wear_on() {
        for suite in CipherSuite::ALL {
            let [mut client, mut server] = sessions_12(suite);
            for round in 0..50_u8 {
                let mut bytes = Vec::new();
                client.append(&[round; 100], &mut bytes);
                assert_eq!(opened_by(&mut server, bytes), [round; 100]);
                let state = server.to_state().unwrap();
                assert_eq!(state[1], 0x12, "an earlier program knows no such suite");
                server = TlsSession::of_state(&state).unwrap();
                assert_eq!((server.version, server.suite), (TlsVersion::Tls12, suite));
                let mut reply = Vec::new();
                server.append(&[round, 1], &mut reply);
                assert_eq!(opened_by(&mut client, reply), [round, 1]);
            }
            let [sealed, received] = [server.sealer.key(), server.receiver.state().unwrap().0];
            let blocks = if suite.is_gcm() { [50 * 3, 50 * 9] } else { [0, 0] };
            assert_eq!([sealed.blocks(), received.blocks()], blocks, "{suite:?}");
            assert_eq!([sealed.records(), received.records()], [50, 50]);
        }
    }

    #[test]
    fn a_spent_key_of_tls_1_2_is_no_state() {
        let [_, server] = sessions_12(CipherSuite::Aes128Gcm);
        let mut state = server.to_state().unwrap();
        // The blocks of the key that seals, behind the first key and what comes between.
        let place = 2 + (16 + 12 + 8 + 8) + 4 + 8 + 1 + 16 + 12;
        for (blocks, is_one) in [((1_u64 << 34) + (1 << 32) - 1, true), ((1 << 34) + (1 << 32), false)] {
            state[place..place + 8].copy_from_slice(&blocks.to_le_bytes());
            let resumed = TlsSession::of_state(&state);
            assert_eq!(resumed.is_some(), is_one);
            assert!(resumed.is_none_or(|session| session.sealer.is_worn()));
        }
        for length in 0..state.len() {
            assert!(TlsSession::of_state(&state[..length]).is_none(), "{length} bytes");
        }
    }

    /// A client talks to one server after the other, and notices nothing; keys are renewed on both sides.
    #[test]
    fn a_session_goes_on_elsewhere() {
        for suite in CipherSuite::ALL {
            let (mut client, mut server) = (session(true, suite), session(false, suite));
            for round in 0..50_u8 {
                let mut bytes = Vec::new();
                if round % 7 == 0 {
                    client.sealer.renew(&mut bytes);
                }
                client.append(&[round; 100], &mut bytes);
                assert_eq!(opened_by(&mut server, bytes), [round; 100]);
                let state = server.to_state().unwrap();
                server = TlsSession::of_state(&state).unwrap();
                let mut reply = Vec::new();
                if round % 5 == 0 {
                    server.sealer.renew(&mut reply);
                }
                server.append(&[round, 1], &mut reply);
                assert_eq!(opened_by(&mut client, reply), [round, 1]);
                assert_eq!(server.identity, TlsIdentity::SharedKey(b"vm1".to_vec()));
            }
        }
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let state = session(false, CipherSuite::Aes128Gcm).to_state().unwrap();
        for length in 0..state.len() {
            assert!(TlsSession::of_state(&state[..length]).is_none(), "{length} bytes");
        }
        for place in 0..state.len() {
            let mut changed = state.clone();
            changed[place] ^= 0x80;
            // Secrets and numbers may be any; nothing else panics either.
            let _some = TlsSession::of_state(&changed);
        }
        let mut longer = state.to_vec();
        longer.push(0);
        assert!(TlsSession::of_state(&longer).is_none());
        let mut worn = session(false, CipherSuite::Aes128Gcm).to_state().unwrap();
        // The number of the next record that is sealed, behind both secrets.
        let place = 2 + 32 + 8 + 4 + 8 + 1 + 32;
        worn[place..place + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(TlsSession::of_state(&worn).is_none(), "its key has made too many records");
    }
}
