//! Connections without a handshake, for the simulation: a world is made of its seed alone, and a handshake is
//! made of true random numbers.

use super::secret::{LONGEST, Secret};
use super::session::TlsSession;
use super::suite::CipherSuite;
use crate::identity::TlsIdentity;

impl TlsSession {
    /// The client's end and the server's, out of what both would have agreed on: the secrets of the client's
    /// records and of the server's, as long as the longest hash.
    pub fn simulated(suite: CipherSuite, client: [u8; LONGEST], server: [u8; LONGEST]) -> (Self, Self) {
        let secret = |bytes: &[u8; LONGEST]| Secret::new(suite, &bytes[..suite.hash_length()]);
        let of_client = Self::of_client(TlsIdentity::Anonymous, secret(&client), secret(&server));
        (of_client, Self::new(TlsIdentity::Anonymous, secret(&client), secret(&server)))
    }
}
