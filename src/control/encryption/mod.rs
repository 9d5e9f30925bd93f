//! TLS on the control plane: what the server proves its identity with, and how a client's handshake goes.
//!
//! Files are read before the sandbox is entered, and again by a
//! reload: `renewal`. The mathematics of a handshake is done by a few threads of
//! its own, so that the thread that accepts waits for none of it. What is left of a handshake is its keys,
//! which go to the shard with the connection.

mod files;
mod renewal;
mod secure_channel;
mod workers;

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, TlsConfig, TlsPolicy};
use crate::identity::TlsIdentity;
use crate::nbd::server::handshake::TlsMode;
use crate::shard::{LeavingSecure, Secured};
use crate::tls::{TlsAcceptor, TlsProof, TlsSession};

pub(crate) use files::EncryptionError;
pub(super) use secure_channel::SecureChannel;
use workers::Workers;

/// What a server needs for handshakes of TLS.
#[derive(Debug)]
pub(super) struct Encryption {
    /// Its paths are absolute.
    config: TlsConfig,
    /// For the clients that come; a reload brings another one.
    acceptor: RefCell<Arc<TlsAcceptor>>,
    /// Exports that only clients with TLS find.
    hidden: HashSet<String>,
    workers: Option<Workers>,
}

impl Encryption {
    /// Reads what the configuration names; `None` if that is nothing.
    ///
    /// # Errors
    /// [`EncryptionError`].
    pub(super) fn load(config: &Config) -> Result<Option<Self>, EncryptionError> {
        let Some(tls) = &config.tls else { return Ok(None) };
        let acceptor = RefCell::new(Arc::new(files::load(tls, |path| File::open(path))?));
        let hidden = config.exports.iter().filter(|export| export.requires_tls);
        let hidden = hidden.map(|export| export.name.clone()).collect();
        Ok(Some(Self { config: tls.clone().with_absolute_paths(), acceptor, hidden, workers: None }))
    }

    /// Starts its threads, which may do what the calling thread may.
    ///
    /// # Errors
    /// There are no threads.
    pub(super) fn start(&mut self) -> std::io::Result<()> {
        self.workers = Some(Workers::start()?);
        Ok(())
    }

    /// What another process is told of a connection: its keys, and bytes that are not opened.
    pub(super) fn leave(leaving: LeavingSecure) -> (Vec<u8>, Vec<u8>) {
        let LeavingSecure { mut keys, received } = leaving;
        (std::mem::take(&mut *keys), received)
    }

    /// A connection of another process goes on here; none if the keys are none. What its client was believed
    /// for is what it would be believed for here.
    pub(super) fn resume(
        &self,
        keys: &[u8],
        received: &[u8],
    ) -> Option<(Box<Secured>, TlsIdentity, TlsProof)> {
        let mut session = TlsSession::of_state(keys)?;
        session.set_renewal(self.config.renew_after);
        let proof = self.acceptor.borrow().proof_of(&session);
        let identity = session.identity.clone();
        Some((Box::new(Secured { session, received: received.to_vec() }), identity, proof))
    }

    /// What the protocol makes of it.
    pub(super) fn mode(&self) -> TlsMode {
        match self.config.mode {
            TlsPolicy::Off => TlsMode::Off,
            TlsPolicy::Selective => TlsMode::Selective,
            TlsPolicy::Required => TlsMode::Required,
        }
    }

    /// How long a session goes on.
    pub(super) fn longest_session(&self) -> Option<Duration> {
        self.config.max_session
    }

    /// Whether an export can only be had with TLS.
    pub(super) fn is_needed_for(&self, export: &str) -> bool {
        self.config.mode == TlsPolicy::Required || self.hidden.contains(export)
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;
    use crate::config::OldestTls;
    use crate::tls::{CipherSuite, TlsMaterial, TlsVersion};

    /// Its keys wear as those of a session that begins here.
    #[test]
    fn a_session_that_goes_on_here_does_so_by_the_configuration() {
        let material = TlsMaterial {
            shared_keys: Some(b"vm1:00112233445566778899aabbccddeeff\n"),
            ..TlsMaterial::default()
        };
        let acceptor = TlsAcceptor::new(&material).unwrap();
        let config = TlsConfig {
            mode: TlsPolicy::Required,
            oldest: OldestTls::Tls13,
            certificate: None,
            client_authorities: None,
            revoked: None,
            shared_keys: None,
            renew_after: 3,
            max_session: None,
        };
        let acceptor = RefCell::new(Arc::new(acceptor));
        let encryption = Encryption { config, acceptor, hidden: HashSet::new(), workers: None };
        for version in TlsVersion::ALL {
            let (_, server) = TlsSession::simulated((version, CipherSuite::Aes128Gcm), [1; 48], [2; 48]);
            let keys = server.to_state().unwrap();
            let (mut secured, ..) = encryption.resume(&keys, b"").unwrap();
            (0..4).for_each(|_| secured.session.append(&[7; 16 << 10], &mut Vec::new()));
            let sealer = &secured.session.sealer;
            let wears = (sealer.key_updates(), sealer.is_worn());
            assert_eq!(wears, if version == TlsVersion::Tls13 { (1, false) } else { (0, true) });
        }
    }
}
