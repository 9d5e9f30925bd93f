//! Stands in for `secure` in a program without TLS.

use super::uri::NbdUri;

/// Why a connection could not be encrypted: a clause with cause and remedy.
#[cfg(not(feature = "tls"))]
pub(super) type SecureFailure = Box<dyn std::error::Error + Send + Sync>;

/// There are none.
#[derive(Debug)]
#[cfg(not(feature = "tls"))]
pub(super) enum Credentials {}

/// There is none.
#[derive(Debug)]
#[cfg(not(feature = "tls"))]
pub(super) enum StartingTls {}

/// There is none.
#[derive(Debug)]
#[cfg(not(feature = "tls"))]
pub(super) enum SecureStream {}

pub(super) fn credentials(uri: &NbdUri) -> Result<Option<Credentials>, SecureFailure> {
    match uri.tls {
        None => Ok(None),
        Some(_) => Err("this program was built without TLS; build it with the feature `tls`".into()),
    }
}

impl StartingTls {
    pub(super) fn new(credentials: &Credentials) -> Result<Self, SecureFailure> {
        match *credentials {}
    }

    pub(super) fn take_output(&mut self) -> Vec<u8> {
        match *self {}
    }

    pub(super) fn closed(&self) -> SecureFailure {
        match *self {}
    }

    pub(super) fn feed(&mut self, _received: &mut &[u8]) -> Result<Option<Box<SecureStream>>, SecureFailure> {
        match *self {}
    }
}

impl SecureStream {
    pub(super) fn take(&mut self, _buffer: &mut [u8]) -> Result<Option<usize>, SecureFailure> {
        match *self {}
    }

    pub(super) fn room(&mut self) -> &mut [u8] {
        match *self {}
    }

    pub(super) fn filled(&mut self, _bytes: usize) {
        match *self {}
    }

    pub(super) fn seal(&mut self, _data: &[u8]) -> Vec<u8> {
        match *self {}
    }

    pub(super) fn sent(&mut self, _sealed: Vec<u8>) {
        match *self {}
    }

    pub(super) fn goodbye(&mut self) -> Vec<u8> {
        match *self {}
    }

    pub(super) fn closed_early(&self) -> Option<SecureFailure> {
        match *self {}
    }

    pub(super) fn has_more(&self) -> bool {
        match *self {}
    }
}
