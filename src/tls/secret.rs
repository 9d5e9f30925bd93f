//! Secrets and what is derived of them (RFC 8446, 7.1).

use std::fmt;

use aws_lc_rs::{hkdf, hmac};
use zeroize::Zeroizing;

use super::suite::CipherSuite;

/// Bytes of the longest hash.
pub(in crate::tls) const LONGEST: usize = 48;

/// A secret of a cipher suite, as long as its hash. It is wiped when it is dropped, and never printed.
#[derive(Clone)]
pub(in crate::tls) struct Secret {
    suite: CipherSuite,
    bytes: Zeroizing<[u8; LONGEST]>,
}

/// How many bytes are wanted.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Secret {
    /// # Panics
    /// When there are not as many bytes as the hash has.
    pub(in crate::tls) fn new(suite: CipherSuite, secret: &[u8]) -> Self {
        let mut bytes = Zeroizing::new([0; LONGEST]);
        bytes[..suite.hash_length()].copy_from_slice(secret);
        Self { suite, bytes }
    }

    /// `HKDF-Extract`. Without a salt it is as many zeroes as the hash has.
    pub(in crate::tls) fn extract(suite: CipherSuite, salt: Option<&Self>, input: &[u8]) -> Self {
        let zeroes = [0; LONGEST];
        let salt = salt.map_or(&zeroes[..suite.hash_length()], Self::bytes);
        let extracted = hmac::sign(&hmac::Key::new(suite.hmac(), salt), input);
        Self::new(suite, extracted.as_ref())
    }

    /// The same bytes for another suite, which has the same hash.
    pub(in crate::tls) fn of_suite(&self, suite: CipherSuite) -> Self {
        Self::new(suite, &self.bytes[..suite.hash_length()])
    }

    pub(in crate::tls) fn suite(&self) -> CipherSuite {
        self.suite
    }

    pub(in crate::tls) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.suite.hash_length()]
    }

    /// `HKDF-Expand-Label`.
    pub(in crate::tls) fn expand(&self, label: &str, context: &[u8], output: &mut [u8]) {
        let length = (output.len() as u16).to_be_bytes();
        let label_length = [(b"tls13 ".len() + label.len()) as u8];
        let context_length = [context.len() as u8];
        let info = [&length[..], &label_length, b"tls13 ", label.as_bytes(), &context_length, context];
        let key = hkdf::Prk::new_less_safe(self.suite.hkdf(), self.bytes());
        let material = key.expand(&info, Length(output.len())).expect("keys and hashes are short");
        material.fill(output).expect("it is as long as was said");
    }

    /// `Derive-Secret`, of a transcript that is hashed already.
    pub(in crate::tls) fn derive(&self, label: &str, transcript_hash: &[u8]) -> Self {
        let mut bytes = Zeroizing::new([0; LONGEST]);
        self.expand(label, transcript_hash, &mut bytes[..self.suite.hash_length()]);
        Self { suite: self.suite, bytes }
    }

    /// The traffic secret after a key update (7.2).
    pub(in crate::tls) fn next(&self) -> Self {
        self.derive("traffic upd", &[])
    }

    /// The key of `verify_data` and of binders (4.4.4).
    pub(in crate::tls) fn finished_key(&self) -> hmac::Key {
        hmac::Key::new(self.suite.hmac(), self.derive("finished", &[]).bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({:?})", self.suite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        hex.chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// The trace of RFC 8448, section 3: a handshake without a shared key.
    #[test]
    fn the_schedule_is_that_of_the_published_trace() {
        let suite = CipherSuite::Aes128Gcm;
        let early = Secret::extract(suite, None, &[0; 32]);
        assert_eq!(early.bytes(), bytes("33ad0a1c607ec03b09e6cd9893680ce210adf300aa1f2660e1b22e10f170f92a"));
        let empty = aws_lc_rs::digest::digest(suite.digest(), b"");
        let salt = early.derive("derived", empty.as_ref());
        assert_eq!(salt.bytes(), bytes("6f2615a108c702c5678f54fc9dbab69716c076189c48250cebeac3576c3611ba"));
        let shared = bytes("8bd4054fb55b9d63fdfbacf9f04b9f0d35e6d63f537563efd46272900f89492d");
        let handshake = Secret::extract(suite, Some(&salt), &shared);
        assert_eq!(
            handshake.bytes(),
            bytes("1dc826e93606aa6fdc0aadc12f741b01046aa6b99f691ed221a9f0ca043fbeac")
        );
        let transcript = bytes("860c06edc07858ee8e78f0e7428c58edd6b43f2ca3e6e95f02ed063cf0e1cad8");
        let server = handshake.derive("s hs traffic", &transcript);
        assert_eq!(server.bytes(), bytes("b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38"));
        let (mut key, mut iv) = ([0; 16], [0; 12]);
        server.expand("key", &[], &mut key);
        server.expand("iv", &[], &mut iv);
        assert_eq!(key[..], bytes("3fce516009c21727d0f2e4e86ee403bc"));
        assert_eq!(iv[..], bytes("5d313eb2671276ee13000b30"));
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new(CipherSuite::ChaCha20Poly1305, &[0xab; 32]);
        assert_eq!(format!("{secret:?}"), "Secret(ChaCha20Poly1305)");
    }
}
