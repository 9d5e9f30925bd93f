//! What is told of a connection with TLS.

/// What is told of a connection with TLS. It is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SecureState {
    pub(super) keys: Vec<u8>,
    /// Bytes that are not opened.
    pub(super) received: Vec<u8>,
}

impl std::fmt::Debug for SecureState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecureState({} bytes not opened)", self.received.len())
    }
}

impl Drop for SecureState {
    fn drop(&mut self) {
        wipe(&mut self.keys);
    }
}

/// Overwrites what may have been keys.
pub(super) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // As if somebody looked at it.
    std::hint::black_box(bytes);
}
