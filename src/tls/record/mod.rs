//! Records of TLS 1.3: what a secure connection is made of behind its handshake (RFC 8446, 5).
//!
//! Both ends work where the bytes lie: [`RecordReceiver`] opens in the buffer that was received into,
//! [`RecordSealer`] seals a payload where it stands. Neither keeps any of the data.

pub(in crate::tls) mod error;
pub(in crate::tls) mod header;
mod messages;
pub(in crate::tls) mod receive;
pub(in crate::tls) mod seal;
#[cfg(test)]
mod tests;
pub(in crate::tls) mod traffic_key;
