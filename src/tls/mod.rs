//! TLS without I/O: bytes in, bytes and values out, no socket and no clock.
//!
//! A [`TlsHandshake`] is fed with what a client sends and ends in a [`TlsSession`]: who the client is, and
//! both ends of its records. [`TlsClientHandshake`] is the same for the other side. Handshakes with
//! certificates are those of rustls. It has none with a key that both ends know, so that one is ours
//! (`handshake::shared_key`, `client::shared_key`), on the primitives that rustls uses too: the libraries
//! that have it want perl to be built (OpenSSL), or `unsafe` callbacks for every byte and secret (s2n-tls).
//! The ClientHello tells which of them it is. There are no tickets, no early data and no renegotiation.
//!
//! TLS 1.3 is spoken, and 1.2 where it is asked for: the document of NBD wants it, and clients of today do
//! not need it. It is spoken with certificates, ephemeral keys, AEAD ciphers and the extended master secret
//! alone. Its keys cannot be renewed, so a session ends before a key with AES-GCM is worn.
//!
//! Records are always ours (`record`). The server opens and seals them in its own buffers, renews keys, and
//! can give a connection away with its keys, which a library that owns the stream does not allow.
#![forbid(unsafe_code)]

mod acceptor;
mod alert;
mod arbitrary;
mod arbitrary_talk;
mod authority;
mod client;
mod connector;
mod handshake;
mod proof;
mod psk_keys;
mod record;
mod secret;
mod session;
#[cfg(feature = "sim")]
mod simulated;
mod state;
mod suite;
#[cfg(test)]
mod test_authority;
mod version;

pub use crate::identity::TlsIdentity;
pub use acceptor::{TlsAcceptor, TlsMaterial, TlsSetupError};
pub use alert::Alert;
pub use arbitrary::use_arbitrary;
pub use authority::{AuthorityError, AuthorityOrder, MadeFile, make_authority};
pub use client::TlsClientHandshake;
pub use client::error::{OfferedIdentity, TlsClientError};
pub use connector::{ConnectorError, ServerTrust, TlsConnector};
pub use handshake::error::TlsError;
pub use handshake::{TLS_HANDSHAKE_BYTES, TlsHandshake, TlsStep};
pub(crate) use proof::TlsProof;
pub use psk_keys::PskError;
pub use record::error::RecordError;
pub use record::header::{RECORD_DATA_BYTES, RECORD_HEADER_BYTES};
pub use record::receive::{Opened, RecordReceiver};
pub use record::seal::{RENEWAL_RECORDS, RecordSealer};
pub(crate) use record::traffic_key::RECORD_MORE_BYTES;
pub use record::traffic_key::{RECORD_FRONT_BYTES, RECORD_TRAILER_BYTES};
pub use session::TlsSession;
pub use suite::CipherSuite;
pub use version::TlsVersion;
