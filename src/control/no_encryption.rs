//! Stands in for `encryption` in a program without TLS.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use tokio_uring::net::TcpStream;

use crate::config::Config;
use crate::control::client_stream::Failure;
use crate::control::handshake_memory::Claim;
use crate::identity::TlsIdentity;
use crate::nbd::server::handshake::TlsMode;
use crate::shard::{LeavingSecure, Secured};

/// There is none.
#[derive(Debug)]
#[cfg(not(feature = "tls"))]
pub(super) enum Encryption {}

/// There is none.
#[derive(Debug)]
#[cfg(not(feature = "tls"))]
pub(super) enum SecureChannel {}

/// There is none.
#[derive(Debug, thiserror::Error)]
#[cfg(not(feature = "tls"))]
pub enum EncryptionError {}

/// There is none.
#[derive(Debug)]
#[cfg(not(feature = "tls"))]
pub(super) enum RenewedTls {}

/// There is none.
#[derive(Debug, Clone)]
#[cfg(not(feature = "tls"))]
pub(super) enum TlsProof {}

impl Encryption {
    pub(super) fn leave(leaving: LeavingSecure) -> (Vec<u8>, Vec<u8>) {
        match leaving {}
    }

    pub(super) fn resume(
        &self,
        _keys: &[u8],
        _received: &[u8],
    ) -> Option<(Box<Secured>, TlsIdentity, TlsProof)> {
        match *self {}
    }

    /// A configuration with TLS is refused before.
    pub(super) fn load(config: &Config) -> Result<Option<Self>, EncryptionError> {
        assert!(config.tls.is_none(), "it is refused");
        Ok(None)
    }

    pub(super) fn start(&mut self) -> std::io::Result<()> {
        match *self {}
    }

    pub(super) fn mode(&self) -> TlsMode {
        match *self {}
    }

    pub(super) async fn read_again(
        &self,
        _open: impl AsyncFn(&Path) -> Result<Option<OwnedFd>, String>,
    ) -> Result<RenewedTls, String> {
        match *self {}
    }

    pub(super) fn still_believes(&self, _identity: &TlsIdentity, _proof: &TlsProof) -> bool {
        match *self {}
    }

    pub(super) fn renew(&self, _renewed: RenewedTls) -> bool {
        match *self {}
    }

    pub(super) fn longest_session(&self) -> Option<Duration> {
        match *self {}
    }

    pub(super) fn is_needed_for(&self, _export: &str) -> bool {
        match *self {}
    }
}

impl SecureChannel {
    pub(in crate::control) async fn begin(
        encryption: &Encryption,
        _stream: &TcpStream,
        _claim: &mut Claim,
    ) -> Result<Self, Failure> {
        match *encryption {}
    }

    pub(in crate::control) fn identity(&self) -> TlsIdentity {
        match *self {}
    }

    pub(in crate::control) fn proof(&self) -> TlsProof {
        match *self {}
    }

    pub(in crate::control) fn kind(&self) -> (usize, usize) {
        match *self {}
    }

    pub(in crate::control) async fn receive(
        &mut self,
        _stream: &TcpStream,
        _claim: &mut Claim,
        _others: usize,
    ) -> Result<Vec<u8>, Failure> {
        match *self {}
    }

    pub(in crate::control) fn seal(&mut self, _data: &[u8]) -> Vec<u8> {
        match *self {}
    }

    pub(in crate::control) fn into_secured(self) -> Secured {
        match self {}
    }
}
