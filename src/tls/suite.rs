//! The cipher suites that are spoken: all of TLS 1.3 but for CCM (RFC 8446, B.4), and those of TLS 1.2 that
//! have the same ciphers and forward secrecy (RFC 5289, RFC 7905).

use aws_lc_rs::{aead, digest, hkdf, hmac};

/// A cipher and the hash that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CipherSuite {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl CipherSuite {
    /// In the order of preference: most machines have instructions for AES.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    pub(in crate::tls) fn of(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.code() == code)
    }

    /// The same of a suite of TLS 1.2, with a certificate of either kind: ECDSA, RSA.
    pub(in crate::tls) fn of_12(code: u16) -> Option<Self> {
        match code {
            0xc02b | 0xc02f => Some(Self::Aes128Gcm),
            0xc02c | 0xc030 => Some(Self::Aes256Gcm),
            0xcca9 | 0xcca8 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    pub(in crate::tls) const fn is_gcm(self) -> bool {
        matches!(self, Self::Aes128Gcm | Self::Aes256Gcm)
    }

    pub(in crate::tls) const fn code(self) -> u16 {
        match self {
            Self::Aes128Gcm => 0x1301,
            Self::Aes256Gcm => 0x1302,
            Self::ChaCha20Poly1305 => 0x1303,
        }
    }

    pub(in crate::tls) fn cipher(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    pub(in crate::tls) fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Aes256Gcm => hkdf::HKDF_SHA384,
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => hkdf::HKDF_SHA256,
        }
    }

    pub(in crate::tls) fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Aes256Gcm => hmac::HMAC_SHA384,
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => hmac::HMAC_SHA256,
        }
    }

    pub(in crate::tls) fn digest(self) -> &'static digest::Algorithm {
        self.hmac().digest_algorithm()
    }

    /// Bytes of a hash, and so of every secret.
    pub(in crate::tls) fn hash_length(self) -> usize {
        self.digest().output_len()
    }
}
