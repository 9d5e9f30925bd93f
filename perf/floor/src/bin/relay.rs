//! The least that any server between a client and another server can cost: bytes are carried on and nobody looks at them.
//!
//! `relay FROM TO` takes connections at a unix socket, one after the other, and connects each with another unix socket. One thread
//! waits for both in turn by `poll`, as the shard of a server does. It is measured by `perf/remote` and nothing else.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};

/// More than any request or reply of a client that has one under way.
const MOST_BYTES: usize = 1 << 20;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, from, to] = arguments.as_slice() else {
        eprintln!("usage: relay FROM TO");
        std::process::exit(2);
    };
    for client in UnixListener::bind(from)?.incoming() {
        // A client that goes in the middle is no concern of the next one.
        if let Err(error) = carry(client?, UnixStream::connect(to)?) {
            eprintln!("relay: {error}");
        }
    }
    Ok(())
}

/// Until one of them has ended.
fn carry(mut client: UnixStream, mut server: UnixStream) -> io::Result<()> {
    let mut bytes = vec![0; MOST_BYTES];
    let wait = |socket: &UnixStream| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut waits = [wait(&client), wait(&server)];
    loop {
        // SAFETY: two of them, which live longer than the call.
        if unsafe { libc::poll(waits.as_mut_ptr(), 2, -1) } < 0 {
            return Err(io::Error::last_os_error());
        }
        for (index, waited) in waits.iter().enumerate() {
            if waited.revents == 0 {
                continue;
            }
            let (one, other) = if index == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
            let count = one.read(&mut bytes)?;
            if count == 0 {
                return Ok(());
            }
            other.write_all(&bytes[..count])?;
        }
    }
}
