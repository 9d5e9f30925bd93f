//! A secure connection for the blocking client: TLS between the socket and the bytes of NBD.

use std::time::{SystemTime, UNIX_EPOCH};

pub(super) use super::credentials::Credentials;
use super::uri::NbdUri;
use crate::tls::{Alert, OfferedIdentity, Opened, TlsClientError, TlsClientHandshake, TlsSession, TlsStep};

/// Bytes that are received at once: some records.
const RECEIVE: usize = 256 << 10;

/// Why a connection could not be encrypted: a clause with cause and remedy.
pub(super) type SecureFailure = Box<dyn std::error::Error + Send + Sync>;

/// What a URI says about TLS.
pub(super) fn credentials(uri: &NbdUri) -> Result<Option<Credentials>, SecureFailure> {
    Ok(uri.tls.as_ref().map(|tls| Credentials::load(uri, tls)).transpose()?)
}

/// A TLS handshake that has not ended.
#[derive(Debug)]
pub(super) struct StartingTls(TlsClientHandshake);

impl StartingTls {
    pub(super) fn new(credentials: &Credentials) -> Result<Self, SecureFailure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self(TlsClientHandshake::new(&credentials.connector, &credentials.server, now)?))
    }

    /// The bytes to send, also after an error.
    pub(super) fn take_output(&mut self) -> Vec<u8> {
        self.0.take_output()
    }

    /// What it means that the server closed the connection now.
    pub(super) fn closed(&self) -> SecureFailure {
        TlsClientError::Closed(self.0.offered().clone()).into()
    }

    /// Takes what was received. Gives the secure connection at the end, when its output is sent.
    pub(super) fn feed(&mut self, received: &mut &[u8]) -> Result<Option<Box<SecureStream>>, SecureFailure> {
        match self.0.feed(received)? {
            TlsStep::Need | TlsStep::Send | TlsStep::Heard => Ok(None),
            TlsStep::Done(session) => {
                let offered = self.0.offered().clone();
                Ok(Some(Box::new(SecureStream::new(session, offered, received))))
            }
        }
    }
}

/// Both ends of a secure connection, and what was received and not asked for.
#[derive(Debug)]
pub(super) struct SecureStream {
    session: Box<TlsSession>,
    offered: OfferedIdentity,
    /// Records, of which those before `start` are opened.
    received: Vec<u8>,
    start: usize,
    end: usize,
    /// What is opened and not taken.
    plain: std::ops::Range<usize>,
    sealed: Vec<u8>,
}

impl SecureStream {
    fn new(session: Box<TlsSession>, offered: OfferedIdentity, first: &[u8]) -> Self {
        let mut received = vec![0; RECEIVE.max(first.len())];
        received[..first.len()].copy_from_slice(first);
        Self { session, offered, received, start: 0, end: first.len(), plain: 0..0, sealed: Vec::new() }
    }

    /// Fills the front of `buffer` with what is there; zero bytes are the end. `None`: receive more, into
    /// [`SecureStream::room`].
    pub(super) fn take(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, SecureFailure> {
        while self.plain.is_empty() {
            let opened = self.session.open(&mut self.received[self.start..self.end]);
            match opened.map_err(|error| TlsClientError::of_record(error, &self.offered))? {
                Opened::Record { length, data } => {
                    self.plain = self.start + data.start..self.start + data.end;
                    self.start += length;
                }
                Opened::Closed { .. } => return Ok(Some(0)),
                Opened::Need(_) => {
                    self.received.copy_within(self.start..self.end, 0);
                    (self.start, self.end) = (0, self.end - self.start);
                    return Ok(None);
                }
            }
        }
        let taken = self.plain.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&self.received[self.plain.start..][..taken]);
        self.plain.start += taken;
        Ok(Some(taken))
    }

    /// Where the next bytes of the socket go, which [`SecureStream::filled`] counts. No record is as long.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.received[self.end..]
    }

    pub(super) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
    }

    /// The records that have `data`.
    pub(super) fn seal(&mut self, data: &[u8]) -> Vec<u8> {
        let mut sealed = std::mem::take(&mut self.sealed);
        sealed.clear();
        self.session.append(data, &mut sealed);
        sealed
    }

    /// Gives the memory of [`SecureStream::seal`] back.
    pub(super) fn sent(&mut self, sealed: Vec<u8>) {
        self.sealed = sealed;
    }

    /// The last words.
    pub(super) fn goodbye(&mut self) -> Vec<u8> {
        let mut goodbye = Vec::new();
        self.session.sealer.alert(Alert::CLOSE_NOTIFY, &mut goodbye);
        goodbye
    }

    /// Why the server may have closed the connection before it said anything.
    pub(super) fn closed_early(&self) -> Option<SecureFailure> {
        (self.offered == OfferedIdentity::Nobody).then(|| TlsClientError::ClosedToNobody.into())
    }

    /// For who goes on with records in memory of its own: the session, and what was received and not opened.
    pub(super) fn into_parts(self) -> (Box<TlsSession>, Vec<u8>) {
        let Self { session, received, start, end, .. } = self;
        (session, received[start..end].to_vec())
    }

    /// Whether the server has said something that nobody has taken.
    pub(super) fn has_more(&self) -> bool {
        !self.plain.is_empty()
    }
}
