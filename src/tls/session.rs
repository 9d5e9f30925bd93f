//! What a handshake comes to, on either side.

use rustls::pki_types::CertificateDer;

use super::record::error::RecordError;
use super::record::receive::{Opened, RecordReceiver};
use super::record::seal::RecordSealer;
use super::record::traffic_key::TrafficKey;
use super::secret::Secret;
use super::suite::CipherSuite;
use super::version::TlsVersion;
use crate::identity::TlsIdentity;

/// A secure connection: both ends of its records, and who the peer is.
#[derive(Debug)]
pub struct TlsSession {
    pub version: TlsVersion,
    pub suite: CipherSuite,
    pub identity: TlsIdentity,
    /// Its further certificates, see [`TlsProof`](super::TlsProof).
    pub(in crate::tls) intermediates: Vec<CertificateDer<'static>>,
    pub receiver: RecordReceiver,
    pub sealer: RecordSealer,
}

/// It is made on one thread and used on another.
const _: () = {
    const fn can_be_sent<T: Send>() {}
    can_be_sent::<TlsSession>();
};

impl TlsSession {
    /// The secrets are those of the first records behind the handshake.
    pub(in crate::tls) fn new(identity: TlsIdentity, client: Secret, server: Secret) -> Self {
        Self::of_ends(identity, RecordReceiver::new(client), RecordSealer::new(server))
    }

    /// The client's side of a session.
    pub(in crate::tls) fn of_client(identity: TlsIdentity, client: Secret, server: Secret) -> Self {
        Self::of_ends(identity, RecordReceiver::of_client(server), RecordSealer::new(client))
    }

    /// A session whose keys are what they will ever be: of TLS 1.2, on either side.
    pub(in crate::tls) fn of_keys(identity: TlsIdentity, received: TrafficKey, sealed: TrafficKey) -> Self {
        Self::of_ends(identity, RecordReceiver::of_key(received), RecordSealer::of_key(sealed))
    }

    pub(in crate::tls) fn of_ends(
        identity: TlsIdentity,
        receiver: RecordReceiver,
        sealer: RecordSealer,
    ) -> Self {
        let (version, suite) = (sealer.key().version(), sealer.key().suite());
        Self { version, suite, identity, intermediates: Vec::new(), receiver, sealer }
    }

    /// Its keys are renewed after so many records of ours. With TLS 1.2 it ends when one of them is worn,
    /// which is after as many records of full length, in either direction.
    pub fn set_renewal(&mut self, records: u64) {
        self.sealer.set_renewal(records);
        self.receiver.set_most_records(records);
    }

    /// Opens the record at the front of `received`, in place: [`RecordReceiver::open`].
    ///
    /// # Errors
    /// [`RecordError`]: the stream cannot be followed any further. [`RecordError::WornKey`]: it should not.
    pub fn open(&mut self, received: &mut [u8]) -> Result<Opened, RecordError> {
        if self.sealer.is_worn() || self.receiver.is_worn() {
            return Err(RecordError::WornKey);
        }
        self.receiver.open(received)
    }

    /// Appends a key update if one is due: the peer asked for it, or our key has made its records. Call it
    /// before data is sealed.
    pub fn renew_if_due(&mut self, output: &mut Vec<u8>) {
        if self.receiver.take_answer() || self.sealer.renewal_is_due() {
            self.sealer.renew(output);
        }
    }

    /// Appends data as records, and what is due before them.
    pub fn append(&mut self, data: &[u8], output: &mut Vec<u8>) {
        self.renew_if_due(output);
        self.sealer.append(data, output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::alert::Alert;
    use crate::tls::record::key_block::KeyBlock;

    fn sessions(suite: CipherSuite) -> [TlsSession; 2] {
        let key = || {
            let block = KeyBlock::new(suite, &vec![7; suite.cipher().key_len()], [7; 12]);
            TrafficKey::of_block(block.expect("it is as long as the cipher wants"))
        };
        [(); 2].map(|()| TlsSession::of_keys(TlsIdentity::Anonymous, key(), key()))
    }

    /// Three records' worth of blocks, by whoever makes them: then no more is opened, and what is due is
    /// sealed.
    #[test]
    fn a_worn_key_ends_the_session_in_good_order() {
        for suite in CipherSuite::ALL {
            for is_ours in [true, false] {
                let [mut peer, mut session] = sessions(suite);
                session.set_renewal(3);
                let (mut sealed, mut made) = (0_u32, Vec::new());
                let ended = loop {
                    made.clear();
                    let (from, to) =
                        if is_ours { (&mut session, &mut peer) } else { (&mut peer, &mut session) };
                    from.append(&[5; 4096], &mut made);
                    sealed += 1;
                    let opened = to.open(&mut made);
                    if opened.is_err() || sealed == 100 {
                        break opened.err();
                    }
                    made.clear();
                    peer.append(b"request", &mut made);
                    if let Err(error) = session.open(&mut made) {
                        break Some(error);
                    }
                    made.clear();
                };
                if suite == CipherSuite::ChaCha20Poly1305 {
                    assert_eq!((ended, sealed), (None, 100), "its keys have no limit that is ever reached");
                    continue;
                }
                assert_eq!(ended, Some(RecordError::WornKey), "{suite:?}, {is_ours}");
                // Each has 258 blocks, of 3 * 1024.
                assert_eq!(sealed, 12);
                assert_eq!(RecordError::WornKey.alert(), Some(Alert::CLOSE_NOTIFY));
                made.clear();
                session.append(b"due", &mut made);
                session.sealer.alert(Alert::CLOSE_NOTIFY, &mut made);
                assert!(matches!(peer.open(&mut made), Ok(Opened::Record { .. })));
            }
        }
    }
}
