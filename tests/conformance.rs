//! Byte-by-byte conformance: every statement of what a correct NBD server does is a test whose name begins with the
//! statement's id. The tests speak to the real binary over a socket and share no code with it.

mod support;

#[path = "conformance/handshake.rs"]
mod handshake;
