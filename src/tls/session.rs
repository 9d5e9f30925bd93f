//! What a handshake comes to.

use std::fmt;

use super::record::error::RecordError;
use super::record::receive::{Opened, RecordReceiver};
use super::record::seal::RecordSealer;
use super::secret::Secret;
use super::suite::CipherSuite;

/// Who the client proved to be.
#[derive(Clone, PartialEq, Eq)]
pub enum TlsIdentity {
    /// It has no certificate.
    Anonymous,
    /// The certificate of the client, in DER. An authority that is believed signed it.
    Certificate(Vec<u8>),
    /// The name of a key that both know.
    SharedKey(Vec<u8>),
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Certificate(der) => write!(f, "Certificate({} bytes)", der.len()),
            Self::SharedKey(name) => write!(f, "SharedKey({})", name.escape_ascii()),
        }
    }
}

/// A secure connection: both ends of its records, and who the client is.
#[derive(Debug)]
pub struct TlsSession {
    pub suite: CipherSuite,
    pub identity: TlsIdentity,
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
        Self { suite, identity, receiver: RecordReceiver::new(client), sealer: RecordSealer::new(server) }
    }

    /// Opens the record at the front of `received`, in place: [`RecordReceiver::open`].
    ///
    /// # Errors
    /// [`RecordError`]: the stream cannot be followed any further.
    pub fn open(&mut self, received: &mut [u8]) -> Result<Opened, RecordError> {
        self.receiver.open(received)
    }

    /// Appends a key update if one is due: the client asked for it, or our key has made its records. Call it
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
