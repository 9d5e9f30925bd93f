//! Connections without a handshake, for the simulation: a world is made of its seed alone, and a handshake is
//! made of true random numbers.

use super::record::key_block::KeyBlock;
use super::record::traffic_key::TrafficKey;
use super::secret::{LONGEST, Secret};
use super::session::TlsSession;
use super::suite::CipherSuite;
use super::version::TlsVersion;
use crate::identity::TlsIdentity;

impl TlsSession {
    /// The client's end and the server's, out of what both would have agreed on: the secrets of the client's
    /// records and of the server's, as long as the longest hash.
    pub fn simulated(
        (version, suite): (TlsVersion, CipherSuite),
        client: [u8; LONGEST],
        server: [u8; LONGEST],
    ) -> (Self, Self) {
        if version == TlsVersion::Tls12 {
            return Self::simulated_12(suite, &client, &server);
        }
        let secret = |bytes: &[u8; LONGEST]| Secret::new(suite, &bytes[..suite.hash_length()]);
        let of_client = Self::of_client(TlsIdentity::Anonymous, secret(&client), secret(&server));
        (of_client, Self::new(TlsIdentity::Anonymous, secret(&client), secret(&server)))
    }

    /// Keys and what nonces are made of are cut out of the same bytes.
    fn simulated_12(suite: CipherSuite, client: &[u8; LONGEST], server: &[u8; LONGEST]) -> (Self, Self) {
        let key = |bytes: &[u8; LONGEST]| {
            let (key, rest) = bytes.split_at(suite.cipher().key_len());
            let iv = rest[..12].try_into().expect("they are as many");
            TrafficKey::of_block(KeyBlock::new(suite, key, iv).expect("it is as long"))
        };
        let session = |received, sealed| Self::of_keys(TlsIdentity::Anonymous, key(received), key(sealed));
        (session(server, client), session(client, server))
    }
}
