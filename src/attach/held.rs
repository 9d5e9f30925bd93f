//! Whether the kernel took a connection that it was offered.
//!
//! It says that all went well when it drops one (nbs#5386). A socket without descriptors is gone at once,
//! unless the kernel holds it: so the descriptor is closed, and the socket is looked for.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;

/// A socket by its number, and where sockets of its kind are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SocketNumber(u64);

/// The column of the inode in each list.
const LISTS: [(&str, usize); 3] =
    [("/proc/self/net/tcp", 9), ("/proc/self/net/tcp6", 9), ("/proc/self/net/unix", 6)];

impl SocketNumber {
    /// Closes the descriptor, which must be the only one.
    pub(super) fn of_closed(socket: OwnedFd) -> rustix::io::Result<Self> {
        Ok(Self(rustix::fs::fstat(&socket)?.st_ino))
    }

    /// Whether there still is such a socket; `None` when the lists cannot be read.
    pub(super) fn is_there(self) -> Option<bool> {
        let mut could_read = false;
        for (path, column) in LISTS {
            let Ok(list) = fs::File::open(path) else { continue };
            could_read = true;
            let mut lines = BufReader::new(list).split(b'\n').map_while(Result::ok);
            if lines.any(|line| inode(&String::from_utf8_lossy(&line), column) == Some(self.0)) {
                return Some(true);
            }
        }
        could_read.then_some(false)
    }
}

fn inode(line: &str, column: usize) -> Option<u64> {
    line.split_whitespace().nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A second descriptor stands for the kernel's reference.
    #[test]
    fn a_socket_is_there_while_somebody_holds_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (unix, _other_end) = UnixStream::pair().unwrap();
        let tcp = TcpStream::connect(address).unwrap();
        let _accepted = listener.accept().unwrap();
        for socket in [OwnedFd::from(unix), OwnedFd::from(tcp)] {
            let holder = socket.try_clone().unwrap();
            let number = SocketNumber::of_closed(socket).unwrap();
            assert_eq!(number.is_there(), Some(true));
            drop(holder);
            assert_eq!(number.is_there(), Some(false));
        }
    }
}
