//! How a probe reaches the server: by its address, or as a new process for each connection.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::ToSocketAddrs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::client::uri::{NbdUri, ServerAddress};
use crate::client::{self, Timeouts};

/// How long a server may take to end once its client is gone.
const GRACE: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The server of a run.
#[derive(Debug, Clone)]
pub(crate) enum Dialer {
    /// It listens.
    Address(ServerAddress),
    /// It listens, and wants TLS: what the probe says is encrypted below it.
    Secure(NbdUri),
    /// It is started for each connection, with the client on its standard input and output.
    Command(Vec<OsString>),
}

/// A process that serves one connection; it ends with it.
#[derive(Debug)]
pub(super) struct ServerProcess(Child);

impl ServerProcess {
    /// Ends it as `kill -9` does, with all that it has started.
    pub(super) fn kill(&mut self) {
        kill_group(&mut self.0);
    }
}

/// Kills a process that has a group of its own, and its group. Gives when it is gone.
pub(super) fn kill_group(child: &mut Child) {
    let group = rustix::process::Pid::from_child(child);
    if matches!(child.try_wait(), Ok(None)) {
        let _it_may_have_ended = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _it_is_gone = child.wait();
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let end = Instant::now() + GRACE;
        while Instant::now() < end {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let _it_has_ended_meanwhile = self.0.kill();
        let _nothing_is_left = self.0.wait();
    }
}

impl Dialer {
    /// Whether its connections are encrypted, which a client that is too old for STARTTLS cannot have.
    pub(super) fn is_secure(&self) -> bool {
        matches!(self, Self::Secure(_))
    }

    /// A new connection, and the process behind it if it is one.
    pub(super) fn dial(&self, timeout: Duration) -> io::Result<(Socket, Option<ServerProcess>)> {
        match self {
            Self::Address(address) => connect(address, timeout).map(|socket| (socket, None)),
            Self::Secure(uri) => {
                let timeouts = Timeouts { connect: timeout, handshake: timeout, silence: timeout };
                let socket = client::fronted(uri, timeouts).map_err(io::Error::other)?;
                Ok((Socket::from(socket), None))
            }
            Self::Command(words) => {
                let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
                let output = theirs.try_clone()?;
                let (program, arguments) =
                    words.split_first().ok_or_else(|| io::Error::other("no command"))?;
                let child = Command::new(program)
                    .args(arguments)
                    .stdin(Stdio::from(OwnedFd::from(theirs)))
                    .stdout(Stdio::from(OwnedFd::from(output)))
                    .process_group(0)
                    .spawn()?;
                Ok((ours, Some(ServerProcess(child))))
            }
        }
    }
}

fn connect(address: &ServerAddress, timeout: Duration) -> io::Result<Socket> {
    let mut last = io::Error::other("the name has no address");
    for candidate in addresses(address)? {
        let socket = Socket::new(candidate.domain(), Type::STREAM, None)?;
        match socket.connect_timeout(&candidate, timeout) {
            Ok(()) => {
                if candidate.domain() != Domain::UNIX {
                    socket.set_tcp_nodelay(true)?;
                }
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn addresses(address: &ServerAddress) -> io::Result<Vec<SockAddr>> {
    match address {
        ServerAddress::Unix(path) => Ok(vec![SockAddr::unix(path)?]),
        ServerAddress::Abstract(name) => {
            Ok(vec![SockAddr::unix(OsStr::from_bytes(&[b"\0", &name[..]].concat()))?])
        }
        ServerAddress::Tcp { host, port } => {
            Ok((host.as_str(), *port).to_socket_addrs()?.map(SockAddr::from).collect())
        }
    }
}
