//! What a handshake comes to, on either side.

use rustls::pki_types::CertificateDer;

use super::record::error::RecordError;
use super::record::receive::{Opened, RecordReceiver};
use super::record::seal::RecordSealer;
use super::secret::Secret;
use super::suite::CipherSuite;
use crate::identity::TlsIdentity;

/// A secure connection: both ends of its records, and who the peer is.
#[derive(Debug)]
pub struct TlsSession {
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
        let suite = server.suite();
        Self {
            suite,
            identity,
            intermediates: Vec::new(),
            receiver: RecordReceiver::new(client),
            sealer: RecordSealer::new(server),
        }
    }

    /// The client's side of a session.
    pub(in crate::tls) fn of_client(identity: TlsIdentity, client: Secret, server: Secret) -> Self {
        let (receiver, sealer) = (RecordReceiver::of_client(server), RecordSealer::new(client));
        Self { suite: sealer.suite(), identity, receiver, sealer }
    }

    /// Opens the record at the front of `received`, in place: [`RecordReceiver::open`].
    ///
    /// # Errors
    /// [`RecordError`]: the stream cannot be followed any further.
    pub fn open(&mut self, received: &mut [u8]) -> Result<Opened, RecordError> {
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
