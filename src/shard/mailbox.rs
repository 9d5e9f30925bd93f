//! What the control plane tells a shard.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Export, ExportId, HomeTask};
use crate::identity::PeerIdentity;
use crate::nbd::session::Session;
use crate::shard::admission::gate::ExportLimits;
use crate::shard::frontend::nbd::{LeavingSecure, Secured};
use crate::shard::takes_tls::TakesTls;
use crate::stats::Interval;

/// A connection after its handshake, on its way to the shard that owns it from then on.
pub struct NewConnection {
    /// Its number, by which the log lines of its beginning and its end belong together.
    pub number: u64,
    /// The socket.
    pub socket: OwnedFd,
    /// It is one of TCP, which takes back what has not arrived when it is closed in the wrong way.
    pub over_tcp: bool,
    /// Which export.
    pub id: ExportId,
    /// The export: the shard's first connection of it opens its device there.
    pub export: Arc<Export>,
    /// What holds its requests back.
    pub limits: Arc<ExportLimits>,
    /// What was negotiated.
    pub session: Session,
    /// Bytes that the client sent behind the handshake.
    pub leftover: Vec<u8>,
    /// With TLS: its keys. `leftover` is what was opened, then.
    pub secure: Option<Box<Secured>>,
    /// Who.
    pub peer: PeerIdentity,
    /// Dropped when the connection is gone.
    pub permit: Box<dyn Any + Send>,
    /// Dropped when the descriptor is closed: from then on the socket is known to the shard's ring only.
    pub socket_permit: Box<dyn Any + Send>,
}

impl NewConnection {
    /// No shard takes it: its client sees the end at once, whoever has the socket open as well.
    pub(crate) fn hang_up(self) {
        let _already = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }
}

/// What becomes of the connections of an export that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// They go on; the export is gone with the last of them.
    WhenUnused,
    /// They end: what has begun is answered, the rest is not.
    AtOnce,
    /// They end when nothing of them is under way: what has begun is answered, and what comes after it is
    /// answered with ESHUTDOWN.
    WithErrors,
    /// They are cut off: what has begun is not answered.
    CutOff,
}

/// Why the control plane wants a connection to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dismissal {
    /// It has lasted as long as it may: what has begun is answered, the rest is not.
    TooOld,
    /// Its client would be refused now: what has begun is answered, and the next request is refused.
    Unwelcome,
    /// Its client wants to connect again, because the export has become larger: what has begun is answered,
    /// the rest is not.
    Grown,
}

/// One message.
pub(super) enum Message {
    /// Own this connection from now on.
    Connect(Box<NewConnection>),
    /// Hand over what was recorded.
    Collect(Collect),
    /// Give an export up.
    Remove(Box<Remove>),
    /// End connections, by their numbers in ascending order.
    Dismiss(Vec<u64>, Dismissal),
    /// Cut a connection off.
    EndConnection(EndConnection),
    /// Do something as the home of an image.
    Home(Box<HomeVisit>),
    /// Have connections ready for another process.
    Depart(Departing),
    /// What has become of them: the other process has them, or they go on here.
    Settle(Settlement),
}

/// Connections that another process is to serve. They are held until a [`Settlement`].
pub(super) struct Departing {
    /// Those of these exports.
    pub(super) exports: Vec<ExportId>,
    /// Those with TLS too, or some of them.
    pub(super) takes: TakesTls,
    /// What is under way has so long to end. A connection that is not ready then goes on here.
    pub(super) patience: Duration,
    /// So long may a client take to fetch its replies, while all others wait.
    pub(super) client_patience: Duration,
    /// Takes those that are ready, on the shard's thread: it must not wait.
    pub(super) answer: Box<dyn FnOnce(Vec<LeavingConnection>) + Send>,
}

/// A connection that another process can serve.
#[derive(Debug)]
pub(crate) struct LeavingConnection {
    /// Its number in the log.
    pub(crate) number: u64,
    pub(crate) export: ExportId,
    pub(crate) socket: OwnedFd,
    pub(crate) session: Session,
    /// With TLS.
    pub(crate) secure: Option<LeavingSecure>,
    /// What came and was not acted on: it begins with a header.
    pub(crate) input: Vec<u8>,
}

/// What has become of connections that were ready for another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// The other process has them.
    Moved,
    /// They go on here.
    Stay,
}

/// Something to do for an image here, at its home, whether it is open or not.
pub(crate) struct HomeVisit {
    pub(crate) id: ExportId,
    pub(crate) export: Arc<Export>,
    pub(crate) task: HomeTask,
}

/// Who needs an export's device.
pub(crate) enum Visitor {
    Connection(NewConnection),
    Home(Box<HomeVisit>),
}

impl Visitor {
    /// The export whose device it needs.
    pub(crate) fn export(&self) -> (ExportId, &Arc<Export>) {
        match self {
            Self::Connection(new) => (new.id, &new.export),
            Self::Home(visit) => (visit.id, &visit.export),
        }
    }
}

/// An export to give up: no further connection of it comes.
pub(super) struct Remove {
    pub(super) id: ExportId,
    /// What becomes of its connections.
    pub(super) how: Removal,
    pub(super) done: Done,
}

/// A connection to cut off, by the time of its shard's clock at which it came.
pub(super) struct EndConnection {
    pub(super) since_ns: u64,
    /// Hears whether there was one. On the shard's thread: it must not wait.
    pub(super) answer: Box<dyn FnOnce(bool) + Send>,
}

/// Called on the shard's thread when it has nothing of an export any more: no connection, no device, no
/// count. It must not wait.
pub(super) type Done = Box<dyn FnOnce() + Send>;

/// A question for what a shard recorded since the last one.
pub(super) struct Collect {
    /// An interval to go on with; its memory is used again.
    pub(super) spare: Option<Box<Interval>>,
    /// List the connections too.
    pub(super) connections: bool,
    /// Takes the answer, on the shard's thread: it must not wait.
    pub(super) answer: Box<dyn FnOnce(Box<Interval>) + Send>,
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::nbd::session::{ReplyMode, Session};

    /// A connection of a client that is gone.
    pub(crate) fn new_connection(id: ExportId, export: &Arc<Export>) -> NewConnection {
        let (_client, server) = UnixStream::pair().unwrap();
        let facts = export.facts();
        NewConnection {
            number: 1,
            socket: server.into(),
            over_tcp: false,
            id,
            export: Arc::clone(export),
            limits: Arc::default(),
            session: Session {
                reply_mode: ReplyMode::Simple,
                transmission_flags: 0,
                size: facts.size,
                block_sizes: facts.block_sizes,
                enforce_alignment: false,
                contexts: Vec::new(),
            },
            leftover: Vec::new(),
            secure: None,
            peer: Default::default(),
            permit: Box::new(()),
            socket_permit: Box::new(()),
        }
    }
}
