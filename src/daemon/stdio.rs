//! What the standard streams are: the socket of the one client of `--stdio`, the journal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::net::SocketType;

/// The standard input is not the socket of a client.
#[derive(Debug, thiserror::Error)]
#[error(
    "--stdio needs a connected stream socket as standard input, as inetd, libnbd and systemd's Accept=yes give it; \
     to listen, use --unix or --tcp"
)]
pub(crate) struct NoClient;

/// The socket of the client on fd 0, as a descriptor of our own.
pub(crate) fn client() -> Result<OwnedFd, NoClient> {
    let stdin = io::stdin();
    let kind = rustix::net::sockopt::socket_type(&stdin).map_err(|_| NoClient)?;
    let listens = rustix::net::sockopt::socket_acceptconn(&stdin).unwrap_or(false);
    if kind != SocketType::STREAM || listens {
        return Err(NoClient);
    }
    // The process that started us may have left it non-blocking. The ring waits by itself and must never see
    // EAGAIN.
    let flags = rustix::fs::fcntl_getfl(&stdin).map_err(|_| NoClient)?;
    rustix::fs::fcntl_setfl(&stdin, flags - OFlags::NONBLOCK).map_err(|_| NoClient)?;
    stdin.as_fd().try_clone_to_owned().map_err(|_| NoClient)
}

/// Whether the standard error goes to the client, as inetd has it: then nothing may be written there.
pub(crate) fn stderr_is_the_client() -> bool {
    let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    match (rustix::fs::fstat(io::stdin()), rustix::fs::fstat(io::stderr())) {
        (Ok(stdin), Ok(stderr)) => identity(stdin) == identity(stderr),
        _ => false,
    }
}

/// Whether the standard error goes to the journal of systemd. `JOURNAL_STREAM` is inherited by processes
/// whose streams go elsewhere, so its value is compared.
pub(crate) fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}
