//! Records: what a secure connection is made of behind its handshake (RFC 8446, 5, and RFC 5246, 6.2).
//!
//! Both ends work where the bytes lie: [`RecordReceiver`] opens in the buffer that was received into,
//! [`RecordSealer`] seals a payload where it stands. Neither keeps any of the data.

pub(in crate::tls) mod error;
pub(in crate::tls) mod header;
pub(in crate::tls) mod key_block;
mod messages;
pub(in crate::tls) mod receive;
pub(in crate::tls) mod seal;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_12;
pub(in crate::tls) mod traffic_key;
