//! The key of one direction with TLS 1.2, which its handshake cuts out of a key block (RFC 5246, 6.3). No
//! other key follows it.

use std::fmt;

use aws_lc_rs::aead::NONCE_LEN;
use zeroize::Zeroizing;

use crate::tls::suite::CipherSuite;

/// Bytes of the longest key.
const LONGEST_KEY: usize = 32;

/// A key, and what its nonces are made of. It is wiped when it is dropped, and never printed.
#[derive(Clone)]
pub(in crate::tls) struct KeyBlock {
    suite: CipherSuite,
    key: Zeroizing<[u8; LONGEST_KEY]>,
    iv: Zeroizing<[u8; NONCE_LEN]>,
}

impl KeyBlock {
    /// `None` if the key is not as long as the cipher wants.
    pub(in crate::tls) fn new(suite: CipherSuite, key: &[u8], iv: [u8; NONCE_LEN]) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; LONGEST_KEY]);
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        let is_right = key.len() == suite.cipher().key_len();
        is_right.then_some(Self { suite, key: bytes, iv: Zeroizing::new(iv) })
    }

    pub(in crate::tls) fn suite(&self) -> CipherSuite {
        self.suite
    }

    pub(in crate::tls) fn key(&self) -> &[u8] {
        &self.key[..self.suite.cipher().key_len()]
    }

    pub(in crate::tls) fn iv(&self) -> &[u8; NONCE_LEN] {
        &self.iv
    }
}

impl fmt::Debug for KeyBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyBlock({:?})", self.suite)
    }
}
