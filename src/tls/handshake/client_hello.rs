//! The ClientHello, as far as a handshake with a shared key needs it (RFC 8446, 4.1.2 and 4.2).

use std::ops::Range;

use super::error::TlsError;

const PRE_SHARED_KEY: u16 = 41;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;
const PSK_KEY_EXCHANGE_MODES: u16 = 45;
const KEY_SHARE: u16 = 51;

/// Extensions in one hello. Clients send some twenty.
const MOST_EXTENSIONS: usize = 64;
/// Names of shared keys in one hello. Clients send one.
const MOST_NAMES: usize = 8;

/// What a client offers. Its parts are those of the message.
#[derive(Debug, Default)]
pub(super) struct ClientHello<'a> {
    pub(super) session_id: &'a [u8],
    suites: &'a [u8],
    /// The lists in the extensions, each without its length.
    versions: &'a [u8],
    modes: &'a [u8],
    pub(super) has_early_data: bool,
    /// Group and public key.
    shares: Vec<(u16, &'a [u8])>,
    /// Names of shared keys. Each has a binder.
    pub(super) names: Vec<&'a [u8]>,
    pub(super) binders: Vec<&'a [u8]>,
    /// Where the binders stand in the message, with their length; they vouch for what is before it.
    pub(super) binders_at: Range<usize>,
}

/// Takes values off the front of a message.
pub(in crate::tls) struct HelloReader<'a>(pub(in crate::tls) &'a [u8]);

const TOO_SHORT: TlsError = TlsError::Malformed("a length goes beyond the end");

impl<'a> HelloReader<'a> {
    pub(in crate::tls) fn bytes(&mut self, length: usize) -> Result<&'a [u8], TlsError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(in crate::tls) fn u16(&mut self) -> Result<u16, TlsError> {
        self.bytes(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A length of one byte and as many bytes.
    pub(in crate::tls) fn short_list(&mut self) -> Result<&'a [u8], TlsError> {
        let length = self.bytes(1)?[0];
        self.bytes(usize::from(length))
    }

    /// A length of two bytes and as many bytes.
    pub(in crate::tls) fn list(&mut self) -> Result<&'a [u8], TlsError> {
        let length = self.u16()?;
        self.bytes(usize::from(length))
    }

    pub(in crate::tls) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(in crate::tls) fn end(self) -> Result<(), TlsError> {
        if self.is_empty() { Ok(()) } else { Err(TlsError::Malformed("something stands behind a list")) }
    }
}

impl<'a> ClientHello<'a> {
    /// Reads a whole message, with its header of four bytes.
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, TlsError> {
        let mut hello = Self::default();
        let mut reader = HelloReader(message.get(4..).ok_or(TOO_SHORT)?);
        let _version_and_random = reader.bytes(2 + 32)?;
        hello.session_id = reader.short_list()?;
        if hello.session_id.len() > 32 {
            return Err(TlsError::Malformed("a session id of more than 32 bytes"));
        }
        hello.suites = reader.list()?;
        if reader.short_list()? != [0] {
            return Err(TlsError::Malformed("compression"));
        }
        if reader.is_empty() {
            return Err(TlsError::OldVersion);
        }
        let mut extensions = HelloReader(reader.list()?);
        reader.end()?;
        let mut seen = Vec::new();
        while !extensions.is_empty() {
            let (kind, data) = (extensions.u16()?, extensions.list()?);
            if seen.contains(&kind) || seen.len() == MOST_EXTENSIONS {
                return Err(TlsError::Malformed("an extension comes twice, or there are too many"));
            }
            seen.push(kind);
            if kind == PRE_SHARED_KEY && !extensions.is_empty() {
                // What stands behind the binders is not vouched for.
                return Err(TlsError::Malformed("the shared key is not the last extension"));
            }
            hello.extension(kind, data, message.len())?;
        }
        Ok(hello)
    }

    fn extension(&mut self, kind: u16, data: &'a [u8], message_length: usize) -> Result<(), TlsError> {
        let mut reader = HelloReader(data);
        match kind {
            SUPPORTED_VERSIONS => self.versions = reader.short_list()?,
            PSK_KEY_EXCHANGE_MODES => self.modes = reader.short_list()?,
            EARLY_DATA => self.has_early_data = true,
            KEY_SHARE => self.shares = shares(reader.list()?)?,
            PRE_SHARED_KEY => {
                let (mut names, before) = (HelloReader(reader.list()?), reader.0.len());
                while !names.is_empty() {
                    self.names.push(names.list()?);
                    let _age_of_a_ticket = names.bytes(4)?;
                    if self.names.len() > MOST_NAMES {
                        return Err(TlsError::Malformed("too many shared keys are offered"));
                    }
                }
                self.binders_at = message_length - before..message_length;
                let mut binders = HelloReader(reader.list()?);
                while !binders.is_empty() {
                    self.binders.push(binders.short_list()?);
                    if self.binders.len() > MOST_NAMES {
                        break;
                    }
                }
                if self.names.is_empty() || self.names.len() != self.binders.len() {
                    return Err(TlsError::Malformed("shared keys and binders do not match"));
                }
            }
            _ => return Ok(()),
        }
        reader.end()
    }

    pub(super) fn offers_tls_13(&self) -> bool {
        self.versions.chunks_exact(2).any(|version| version == [3, 4])
    }

    /// Whether a shared key may go with a fresh key exchange (`psk_dhe_ke`), so that a stolen one opens no
    /// old recording.
    pub(super) fn offers_fresh_keys(&self) -> bool {
        self.modes.contains(&1)
    }

    pub(super) fn offers_suite(&self, code: u16) -> bool {
        self.suites.chunks_exact(2).any(|suite| suite == code.to_be_bytes())
    }

    pub(super) fn share_of(&self, group: u16) -> Option<&'a [u8]> {
        self.shares.iter().find(|(of, _)| *of == group).map(|(_, share)| *share)
    }
}

fn shares(list: &[u8]) -> Result<Vec<(u16, &[u8])>, TlsError> {
    let mut reader = HelloReader(list);
    let mut shares = Vec::new();
    while !reader.is_empty() {
        let share = (reader.u16()?, reader.list()?);
        if shares.len() == MOST_EXTENSIONS {
            return Err(TlsError::Malformed("too many keys are offered"));
        }
        shares.push(share);
    }
    Ok(shares)
}
