//! The service manager's store of descriptors (`FileDescriptorStoreMax=`): it keeps them while no process of
//! the service runs, and passes them to the next one as it passes sockets.
//!
//! systemd says by `$FDSTORE` how many it keeps, from version 254 on; earlier ones keep them too, and a unit
//! can set the variable itself.

use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::notify::connected_to_manager;
use crate::control::KeepDescriptors;

/// Descriptors of one message: the kernel's limit.
const AT_ONCE: usize = 253;
/// The manager hears, and answers, within this time.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way to the store of this service.
#[derive(Debug)]
pub(super) struct ManagerStore {
    socket: UnixDatagram,
    room: usize,
    memory: File,
    /// For the next question whether all was heard. A process that is confined cannot make a pair.
    pair: Mutex<Option<(UnixStream, UnixStream)>>,
}

impl ManagerStore {
    /// None if there is no manager, or no use for it. `may_keep`: this process may leave something there.
    /// `has_kept`: there is something of an earlier one.
    pub(super) fn from_environment(may_keep: bool, has_kept: bool) -> Option<Self> {
        let wanted = std::env::var("FDSTORE").ok().and_then(|text| text.parse().ok());
        let room = wanted.filter(|_| may_keep).unwrap_or(0);
        if room == 0 && !has_kept {
            return None;
        }
        let made = || -> io::Result<(File, (UnixStream, UnixStream))> {
            let memory = rustix::fs::memfd_create("ringnbd-state", MemfdFlags::CLOEXEC)?;
            Ok((memory.into(), UnixStream::pair()?))
        };
        let socket = connected_to_manager()?;
        let prepared = socket.set_write_timeout(Some(PATIENCE)).and_then(|()| made());
        match prepared {
            Ok((memory, pair)) => Some(Self { socket, room, memory, pair: Mutex::new(Some(pair)) }),
            Err(error) => {
                tracing::warn!(reason = %error, "a restart will end connections: they cannot be kept");
                None
            }
        }
    }

    fn say(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        loop {
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            let bytes = [IoSlice::new(text.as_bytes())];
            match sendmsg(&self.socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    }
}

impl KeepDescriptors for ManagerStore {
    fn room(&self) -> usize {
        self.room
    }

    fn memory(&self) -> &File {
        &self.memory
    }

    fn keep(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        // The next process wants to know of connections that have ended meanwhile, too.
        self.say(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), descriptors)
    }

    fn forget(&self, name: &str) -> io::Result<()> {
        self.say(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
    }

    fn settle(&self) -> io::Result<()> {
        let prepared = self.pair.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((mut ours, theirs)) = prepared else { return Err(io::Error::from(Errno::NOBUFS)) };
        ours.set_read_timeout(Some(PATIENCE))?;
        self.say("BARRIER=1", &[theirs.as_fd()])?;
        drop(theirs);
        // The manager closes it when it comes to it.
        let ended = ours.read(&mut [0]);
        *self.pair.lock().unwrap_or_else(PoisonError::into_inner) = UnixStream::pair().ok();
        ended.map(drop)
    }
}
