//! The server's end of its attacher: the process that makes disks of this machine's kernel of its exports.
//!
//! ```text
//! ringnbd serve ──► ringnbd attacher      started first, as the broker: only root may attach, the server need not be root
//!       │  socketpair, its standard input │
//!     is up                               │
//!       ├── Attach {uri, …}, … ─────────► ├──► ringnbd attach --foreground URI      a supervisor for each device
//!     stops                               │
//!       ├── Stop ───────────────────────► ├── detaches what nobody uses
//!       │ ◄──────────────────────── Done ─┤
//!       ╳ killed ───────────────────────► ╳ ends the supervisors, and leaves the devices to the next server
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::config::AttachConfig;
use crate::control::Served;
use crate::sys::{self, WatchedDescriptor};

/// The name of the hidden sub-command.
pub(crate) const ATTACHER: &str = "attacher";
/// The program, as the kernel knows it: its name could lead to another program by now.
const PROGRAM: &str = "/proc/self/exe";
/// More than any message has: the name of an export, and its URI, all of it escaped.
const MESSAGE_BYTES: usize = 64 << 10;
/// How long devices may take to be detached.
const DETACH_TIME: Duration = Duration::from_secs(30);

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AttacherMessage {
    /// Attach an export, and see to it that it stays attached.
    Attach(Box<AttachOrder>),
    /// Detach all that nobody uses, and say so.
    Stop,
}

/// An export to attach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttachOrder {
    pub(crate) uri: String,
    /// What the export had when the server before this one ended is gone.
    pub(crate) is_volatile: bool,
    pub(crate) how: AttachConfig,
}

/// The attacher of a server.
#[derive(Debug)]
pub(super) struct Attacher {
    socket: OwnedFd,
    watched: Option<WatchedDescriptor>,
}

impl Attacher {
    /// Starts the process, which does nothing as yet. It ends when the server does.
    pub(super) fn start(shows_errors: bool) -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        sys::close_on_exec_from(3)?;
        let mut command = Command::new(PROGRAM);
        command.arg(ATTACHER).env_clear().current_dir("/").stdin(theirs).stdout(Stdio::null());
        command.stderr(if shows_errors { Stdio::inherit() } else { Stdio::null() });
        // It is not waited for: its socket says when it ends.
        let _child = command.spawn()?;
        Ok(Self { socket: ours, watched: None })
    }

    /// Watches for its answer; inside the runtime.
    pub(super) fn watch(&mut self) -> io::Result<()> {
        self.watched = Some(WatchedDescriptor::begin(self.socket.try_clone()?)?);
        Ok(())
    }

    /// Has exports attached, now that clients can reach them.
    pub(super) fn attach(
        &self,
        orders: &[AttachConfig],
        served: &[Served],
        is_volatile: impl Fn(&str) -> bool,
    ) {
        for how in orders {
            let uris = served.iter().find(|served| served.name == how.export).map(|served| &served.uris);
            let Some(uri) = uris.and_then(|uris| best_of(uris)) else {
                tracing::error!(export = how.export, "cannot be attached: the server listens nowhere");
                continue;
            };
            let order = AttachOrder { uri, is_volatile: is_volatile(&how.export), how: how.clone() };
            if self.tell(&AttacherMessage::Attach(Box::new(order))).is_err() {
                tracing::error!("the process that attaches exports has ended: restart the server");
            }
        }
    }

    /// Has all devices detached that nobody uses, while the server still answers their requests.
    pub(super) async fn release(&mut self) {
        let Some(watched) = self.watched.take() else { return };
        if self.tell(&AttacherMessage::Stop).is_err() {
            return;
        }
        if timeout(DETACH_TIME, watched.readable()).await.is_err() {
            tracing::warn!("devices were not detached in time: their requests wait for the next server");
        }
    }

    fn tell(&self, message: &AttacherMessage) -> io::Result<()> {
        let bytes = serde_json::to_vec(message).expect("a message is texts and numbers");
        send(&self.socket, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(())
    }
}

/// A unix socket keeps its URI from one start to the next; a port may be any free one.
fn best_of(uris: &[String]) -> Option<String> {
    uris.iter().find(|uri| uri.starts_with("nbd+unix:")).or(uris.first()).cloned()
}

/// Signals that a terminal, or a manager of services, sends to all processes of a service do not end an
/// attacher and its supervisors: the devices are needed until the server has stopped.
pub(crate) fn ignore_signals() {
    sys::ignore_signals(&[libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP]);
}

/// The attacher's next message; `None` is the end of the server, or nothing that a server says.
pub(crate) fn next_message(socket: &impl AsFd) -> Option<AttacherMessage> {
    let mut bytes = vec![0; MESSAGE_BYTES];
    let (length, _) = rustix::io::retry_on_intr(|| recv(socket, &mut bytes[..], RecvFlags::empty())).ok()?;
    serde_json::from_slice(&bytes[..length]).ok()
}

/// The attacher has done what it was told last.
pub(crate) fn tell_done(socket: &impl AsFd) {
    // A server that does not listen is one that ends.
    let _gone = send(socket, b"done", SendFlags::NOSIGNAL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_socket_comes_first() {
        let uris = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let unix = "nbd+unix:///a?socket=/s".to_owned();
        assert_eq!(best_of(&uris(&["nbd://h/a", &unix])), Some(unix));
        assert_eq!(best_of(&uris(&["nbd://h/a", "nbd://i/a"])), Some("nbd://h/a".into()));
        assert_eq!(best_of(&[]), None);
    }

    #[test]
    fn what_is_said_is_understood_and_nonsense_is_the_end() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let attacher = Attacher { socket: ours, watched: None };
        let how: AttachConfig = "a=b=/dev/nbd7".parse().unwrap();
        let uri = format!("nbd://h/{}", "%20".repeat(4096));
        let order = AttachOrder { uri, is_volatile: true, how };
        for message in [AttacherMessage::Attach(Box::new(order)), AttacherMessage::Stop] {
            attacher.tell(&message).unwrap();
            assert_eq!(next_message(&theirs), Some(message));
        }
        for nonsense in [&b"x"[..], b"\"Go\"", b"{}"] {
            send(&attacher.socket, nonsense, SendFlags::NOSIGNAL).unwrap();
            assert_eq!(next_message(&theirs), None);
        }
        drop(attacher);
        assert_eq!(next_message(&theirs), None);
    }
}
