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
