//! TLS for a client that says all of NBD itself and cannot encrypt: `ringnbd check`.
//!
//! What stands before TLS, the server's greeting and the client's flags, is passed on as it is. Then the
//! server is asked for TLS, which the client sees nothing of. From there on the relay moves the bytes.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::error::ClientError;
use super::relay;
use super::socket::Link;
use crate::nbd::wire::{NBD_OPT_STARTTLS, NBD_OPTS_MAGIC, NBD_REP_ACK};

/// The server's greeting: two magic numbers and its flags.
const GREETING: usize = 18;
/// A reply to an option, without data: a magic number, the option, the kind, the length.
const OPTION_REPLY: usize = 20;

/// The client's end of a connection over `link`. It ends early if there is no TLS.
///
/// # Errors
/// There is no further socket or thread.
pub(super) fn fronted(link: Link) -> io::Result<OwnedFd> {
    let (given, plain) = UnixStream::pair()?;
    std::thread::Builder::new().name("nbd-front".to_owned()).spawn(move || {
        if let Err(error) = begin(link, plain) {
            tracing::warn!(%error, "no encrypted connection");
        }
    })?;
    Ok(given.into())
}

fn begin(mut link: Link, plain: UnixStream) -> Result<(), ClientError> {
    let mut greeting = [0; GREETING];
    receive(&mut link, &mut greeting)?;
    (&plain).write_all(&greeting)?;
    let mut flags = [0; 4];
    (&plain).read_exact(&mut flags)?;
    let [magic, number] = [&NBD_OPTS_MAGIC.to_be_bytes()[..], &NBD_OPT_STARTTLS.to_be_bytes()];
    link.send(&[&flags[..], magic, number, &0u32.to_be_bytes()].concat())?;
    let mut answer = [0; OPTION_REPLY];
    receive(&mut link, &mut answer)?;
    if answer[12..16] != NBD_REP_ACK.to_be_bytes() {
        return Err(ClientError::Unsupported("the server refuses STARTTLS"));
    }
    link.start_tls()?;
    let (server, secure) = link.into_socket()?;
    let secure = secure.expect("TLS has started");
    Ok(relay::between(plain, server, secure, relay::RelayEnd::OfReplies)?)
}

/// Receives all of it.
fn receive(link: &mut Link, mut buffer: &mut [u8]) -> Result<(), ClientError> {
    while !buffer.is_empty() {
        match link.receive(buffer)? {
            0 => return Err(ClientError::Closed),
            received => buffer = &mut buffer[received..],
        }
    }
    Ok(())
}
