//! The ServerHello, as far as a handshake with a shared key needs it (RFC 8446, 4.1.3).

use super::error::TlsClientError;
use crate::tls::handshake::client_hello::HelloReader;
use crate::tls::handshake::error::TlsError;
use crate::tls::handshake::shared_key::{SERVER_HELLO, SUITES};
use crate::tls::suite::CipherSuite;

const PRE_SHARED_KEY: u16 = 41;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;

/// A ServerHello with this in the place of its random bytes is the request for another ClientHello (4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// What the server chose.
#[derive(Debug)]
pub(super) struct ServerHello<'a> {
    pub(super) suite: CipherSuite,
    /// Group and public key.
    pub(super) share: (u16, &'a [u8]),
    /// Which of the shared keys; `None`: it wants to show a certificate.
    pub(super) chosen: Option<u16>,
}

fn too_short(_: TlsError) -> TlsClientError {
    TlsClientError::Malformed("a length goes beyond the end")
}

impl<'a> ServerHello<'a> {
    /// Reads a whole message, with its header of four bytes, which answers a hello with that session id.
    pub(super) fn parse(message: &'a [u8], session_id: &[u8]) -> Result<Self, TlsClientError> {
        let (header, body) =
            message.split_at_checked(4).ok_or(TlsClientError::Malformed("it is too short"))?;
        if header[0] != SERVER_HELLO {
            return Err(TlsClientError::Malformed("its first message is another one than it has to be"));
        }
        let mut reader = HelloReader(body);
        let _version = reader.bytes(2).map_err(too_short)?;
        if reader.bytes(32).map_err(too_short)? == RETRY {
            return Err(TlsClientError::Malformed("it asks for another hello, though it had everything"));
        }
        let is_echo = reader.short_list().map_err(too_short)? == session_id;
        let suite = reader.u16().map_err(too_short)?;
        let has_compression = reader.bytes(1).map_err(too_short)? != [0];
        if reader.is_empty() {
            return Err(TlsClientError::OldVersion);
        }
        let mut extensions = HelloReader(reader.list().map_err(too_short)?);
        reader.end().map_err(|_| TlsClientError::Malformed("something stands behind its extensions"))?;
        let (mut version, mut share, mut chosen) = (None, None, None);
        while !extensions.is_empty() {
            let kind = extensions.u16().map_err(too_short)?;
            let mut data = HelloReader(extensions.list().map_err(too_short)?);
            let is_first = match kind {
                SUPPORTED_VERSIONS => version.replace(data.u16().map_err(too_short)?).is_none(),
                PRE_SHARED_KEY => chosen.replace(data.u16().map_err(too_short)?).is_none(),
                KEY_SHARE => {
                    let group = data.u16().map_err(too_short)?;
                    share.replace((group, data.list().map_err(too_short)?)).is_none()
                }
                // Of an older version, which says more than that it is one.
                _ if version.is_none() => continue,
                _ => return Err(TlsClientError::Malformed("an extension that was not asked for")),
            };
            data.end().map_err(|_| TlsClientError::Malformed("something stands behind an extension"))?;
            if !is_first {
                return Err(TlsClientError::Malformed("an extension comes twice"));
            }
        }
        if version != Some(0x0304) {
            return Err(TlsClientError::OldVersion);
        }
        if !is_echo || has_compression {
            return Err(TlsClientError::Malformed("its hello answers another one"));
        }
        let suite = SUITES.into_iter().find(|of| of.code() == suite);
        let suite = suite.ok_or(TlsClientError::Malformed("a cipher suite that was not offered"))?;
        let share = share.ok_or(TlsClientError::Malformed("no key for an exchange"))?;
        Ok(Self { suite, share, chosen })
    }
}
