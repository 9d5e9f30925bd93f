//! What rustls tells of the keys of TLS 1.2 at the end of a handshake. Its key log has only the secret that
//! they are made of, and not all that it takes to make them; and no other keys follow them.

use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

use crate::tls::record::key_block::KeyBlock;
use crate::tls::record::traffic_key::TrafficKey;
use crate::tls::suite::CipherSuite;

/// The keys of what is received and of what is sealed; none if they are of another cipher.
pub(in crate::tls) fn block_keys(secrets: &ExtractedSecrets) -> Option<[TrafficKey; 2]> {
    let ExtractedSecrets { tx, rx } = secrets;
    Some([key(rx)?, key(tx)?])
}

/// A key, and the number of its next record: the handshake ended with one.
fn key((sequence, secrets): &(u64, ConnectionTrafficSecrets)) -> Option<TrafficKey> {
    let (suite, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (CipherSuite::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (CipherSuite::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (CipherSuite::ChaCha20Poly1305, key, iv),
        _ => return None,
    };
    let block = KeyBlock::new(suite, key.as_ref(), iv.as_ref().try_into().ok()?)?;
    Some(TrafficKey::of_block(block).at(*sequence, 0))
}
