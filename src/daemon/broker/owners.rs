//! Whose the socket files were that a server takes over. It makes them its user's before it has the clients,
//! when it still may, and cannot give them back when the hand-over fails. The broker can.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use crate::control::ownership;

/// More than a server has.
const MOST: usize = 256;

/// Sockets, each with its user and its group.
#[derive(Debug, Default)]
pub(super) struct SocketOwners(Vec<(OwnedFd, u32, u32)>);

impl SocketOwners {
    /// Notes whose a socket is, by its file and not by its name. What is no socket is left alone.
    pub(super) fn note(&mut self, path: &Path) {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else { return };
        let Ok(status) = rustix::fs::fstat(&file) else { return };
        if FileType::from_raw_mode(status.st_mode) == FileType::Socket && self.0.len() < MOST {
            self.0.push((file, status.st_uid, status.st_gid));
        }
    }

    /// The server has the clients: the sockets stay as they are.
    pub(super) fn settle(&mut self) {
        self.0.clear();
    }

    /// The server has ended before that: whoever had them before goes on with them.
    pub(super) fn give_back(self) {
        for (file, user, group) in self.0 {
            // A broker that is not root has changed nothing, and need not.
            let _as_it_is = ownership::hand_over(&file, (Some(user), group));
        }
    }
}
