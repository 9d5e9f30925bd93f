//! The old process: what it offers, and how its connections leave.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use super::departed::DepartedConnection;
use super::message::{HandoverMessage, NEWEST, OLDEST, OfferedExport};
use super::offer::OfferedListener;
use super::secure_state::SecureState;
use super::socket::{HandoverError, HandoverSocket};
use crate::backend::{ExportId, PassedExport};
use crate::control::Encryption;
use crate::control::listen::accept::Accepting;
use crate::control::live::Live;
use crate::control::plane::Plane;
use crate::control::stores::Stores;
use crate::shard::{ConnectionTls, LeavingConnection, Settlement, TakesTls};

/// The new process has so long to start, between two messages.
const START_TIME: Duration = Duration::from_secs(120);
/// What is under way on a connection has so long to end. One that is not ready then stays here.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// A client has so long to fetch its replies. All others wait meanwhile, and it is served by this process if
/// it does not.
const CLIENT_PATIENCE: Duration = Duration::from_millis(500);
/// The times of a hand-over.
pub(super) const PATIENCES: [Duration; 2] = [PATIENCE, CLIENT_PATIENCE];
/// From the first connection that is held to COMMIT: beyond it all go on here.
pub(super) const MOVE_TIME: Duration = Duration::from_secs(8);
/// From this version on stores are offered.
const WITH_STORES: u16 = 2;
/// From this version on connections of TLS 1.2 go along. They stay with this process otherwise.
const WITH_TLS_12: u16 = 3;
/// A new process says little.
const LONGEST: usize = 4 << 20;

/// What begins hand-overs, one at a time.
pub(in crate::control) struct Handovers {
    pub(super) plane: Rc<Plane>,
    pub(super) stores: Rc<Stores>,
    pub(super) accepting: watch::Sender<Accepting>,
    /// What changes exports, once the server has started.
    pub(in crate::control) live: RefCell<Option<Rc<Live>>>,
    /// Empty when the server ends.
    pub(in crate::control) listeners: RefCell<Vec<OfferedListener>>,
    /// Where those go that only have to be carried out.
    pub(super) ready: UnboundedSender<Leaver>,
    is_busy: Rc<Cell<bool>>,
}

/// A new process that has started and waits for connections.
pub(in crate::control) struct Leaver {
    socket: HandoverSocket,
    pub(in crate::control) process: u32,
    /// The exports that it takes, and by which numbers it knows them.
    exports: HashMap<ExportId, u32>,
    takes: TakesTls,
    /// The files of the sockets that it takes.
    pub(in crate::control) files: Vec<PathBuf>,
    /// Connections whose store was given up, and which go with the others.
    departed: Arc<Vec<DepartedConnection>>,
    /// No export changes until its outcome is told.
    pub(in crate::control) has_turn: bool,
    /// Whoever gave them up hears whether they have moved.
    pub(in crate::control) outcome: Option<oneshot::Sender<bool>>,
    /// Other hand-overs may begin when it is dropped.
    _busy: Option<Busy>,
}

/// A hand-over goes on.
pub(super) struct Busy(Rc<Cell<bool>>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// All that is offered.
struct Offers {
    exports: Vec<(Vec<ExportId>, OfferedExport, Vec<OwnedFd>)>,
    listeners: Vec<(HandoverMessage, OwnedFd)>,
    stores: Vec<String>,
}

/// A new process, and where it can be told more.
pub(super) struct NewProcess {
    pub(super) socket: HandoverSocket,
    process: u32,
    /// In which both speak.
    pub(super) version: u16,
    /// What the numbers of exports stand for: each for an export, and for those that it follows.
    ids: Vec<Vec<ExportId>>,
}

impl NewProcess {
    /// How many exports it was told of.
    pub(super) fn exports(&self) -> usize {
        self.ids.len()
    }
}

/// What a new process wants, by numbers.
pub(super) enum Wish {
    /// It has started and takes these.
    Start { exports: Vec<u32>, listeners: Vec<u32>, takes: TakesTls },
    /// It needs these stores to start.
    Stores { stores: Vec<u32>, takes: TakesTls },
}

impl Handovers {
    pub(in crate::control) fn new(
        stores: &Rc<Stores>,
        accepting: &watch::Sender<Accepting>,
        ready: UnboundedSender<Leaver>,
    ) -> Rc<Self> {
        let (plane, stores, accepting) = (Rc::clone(&stores.plane), Rc::clone(stores), accepting.clone());
        let (live, listeners, is_busy) = (RefCell::default(), RefCell::default(), Rc::default());
        Rc::new(Self { plane, stores, accepting, live, listeners, ready, is_busy })
    }

    /// Begins one with whoever asks by this connection, once it is not HTTP any more. False while there is
    /// another one.
    pub(in crate::control) fn begin(self: &Rc<Self>, upgrade: OnUpgrade) -> bool {
        if self.plane.is_stopping() || self.is_busy.replace(true) {
            return false;
        }
        let (this, busy) = (Rc::clone(self), Busy(Rc::clone(&self.is_busy)));
        tokio_uring::spawn(async move {
            if let Err(error) = this.introduce(upgrade, busy).await {
                tracing::warn!(reason = %error, "a hand-over did not come about, going on");
            }
        });
        true
    }

    /// No hand-over begins from now on. True if one goes on.
    pub(super) fn be_busy(&self) -> bool {
        self.is_busy.replace(true)
    }

    /// Tells a new process what there is, and waits until it has started.
    async fn introduce(&self, upgrade: OnUpgrade, busy: Busy) -> Result<(), HandoverError> {
        let other = |error: &dyn std::fmt::Display| HandoverError::Other(error.to_string());
        let upgraded = upgrade.await.map_err(|error| other(&error))?;
        let parts = upgraded.downcast::<TokioIo<UnixStream>>();
        let parts = parts.map_err(|_| HandoverError::OutOfOrder("a connection that is no unix socket"))?;
        if !parts.read_buf.is_empty() {
            return Err(HandoverError::OutOfOrder("something before it was asked"));
        }
        let stream = parts.io.into_inner().into_std().map_err(HandoverError::Io)?;
        let socket = HandoverSocket::new(stream, START_TIME).map_err(HandoverError::Io)?;
        let offers = self.offers().map_err(HandoverError::Io)?;
        let ids: Vec<_> = offers.exports.iter().map(|(ids, ..)| ids.clone()).collect();
        let (socket, (process, version), wish) = on_thread(move || converse(socket, offers)).await??;
        let new = NewProcess { socket, process, version, ids };
        match wish {
            Wish::Start { exports, listeners, takes } => {
                let mut leaver = self.leaver(new, (exports, listeners, takes), Arc::default())?;
                leaver._busy = Some(busy);
                drop(self.ready.send(leaver));
                Ok(())
            }
            Wish::Stores { stores, takes } => {
                let _busy = busy;
                self.with_stores(new, &stores, takes).await
            }
        }
    }

    /// A new process that has started, and what it takes.
    pub(super) fn leaver(
        &self,
        new: NewProcess,
        (exports, listeners, takes): (Vec<u32>, Vec<u32>, TakesTls),
        departed: Arc<Vec<DepartedConnection>>,
    ) -> Result<Leaver, HandoverError> {
        let NewProcess { socket, process, version: _, ids } = new;
        if let Some(left) = departed.iter().find(|connection| !exports.contains(&connection.export())) {
            return Err(HandoverError::Other(format!("the new process does not serve {}", left.name)));
        }
        let is_here = |number: &u32| (*number as usize) < ids.len();
        let here = exports.into_iter().filter(is_here);
        let of = |number: u32| ids[number as usize].iter().map(move |id| (*id, number));
        let exports = here.flat_map(of).collect();
        let offered = self.listeners.borrow();
        let taken = listeners.iter().filter_map(|number| offered.get(*number as usize));
        let files = taken.filter_map(|listener| listener.file.clone()).collect();
        let (has_turn, outcome, _busy) = (false, None, None);
        Ok(Leaver { socket, process, exports, takes, files, departed, has_turn, outcome, _busy })
    }

    fn offers(&self) -> std::io::Result<Offers> {
        let mut exports = Vec::new();
        for entry in self.plane.catalogue().iter() {
            let (Some(export), Some(wanted)) = (entry.export(), entry.wanted()) else { continue };
            let Some(PassedExport { files, has_lost_writes }) = export.to_pass()? else { continue };
            let (purposes, files) = files.into_iter().unzip();
            let (name, uri) = (entry.info.name.clone(), wanted.uri.to_string());
            let (read_only, size) = (wanted.read_only, entry.size());
            let offered = OfferedExport { name, uri, read_only, size, has_lost_writes, purposes };
            exports.push((entry.with_former(), offered, files));
        }
        let listener = |listener: &OfferedListener| {
            let &OfferedListener { purpose, is_inherited, .. } = listener;
            Ok((HandoverMessage::Listener { purpose, is_inherited }, listener.socket.try_clone()?))
        };
        let listeners = self.listeners.borrow().iter().map(listener).collect::<std::io::Result<_>>()?;
        let stores = self.stores.lendable().iter().map(|path| path.display().to_string()).collect();
        Ok(Offers { exports, listeners, stores })
    }
}

/// Runs what blocks on a thread of its own.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, HandoverError> {
    let (answer, answered) = oneshot::channel();
    let thread = std::thread::Builder::new().name("handover".into());
    let thread = thread.spawn(move || drop(answer.send(work())));
    thread.map_err(HandoverError::Io)?;
    answered.await.map_err(|_panicked| HandoverError::Other("its thread failed".to_owned()))
}

/// From HELLO to what the new process wants; which one it is, and the version that both speak.
fn converse(
    socket: HandoverSocket,
    offers: Offers,
) -> Result<(HandoverSocket, (u32, u16), Wish), HandoverError> {
    let (process, version) = match socket.receive_plain(LONGEST)? {
        HandoverMessage::Hello { oldest, newest, process } if newest.min(NEWEST) >= oldest.max(OLDEST) => {
            (process, newest.min(NEWEST))
        }
        HandoverMessage::Hello { oldest, newest, .. } => {
            let error = HandoverError::Version(oldest, newest, OLDEST, NEWEST);
            socket.send(&HandoverMessage::GivenUp(error.to_string()), &[])?;
            return Err(error);
        }
        other => return Err(HandoverError::OutOfOrder(other.kind())),
    };
    socket.send(&HandoverMessage::Welcome { version, process: std::process::id() }, &[])?;
    for (_, offered, files) in offers.exports {
        socket.send(&HandoverMessage::Export(offered), &files)?;
    }
    for (listener, file) in offers.listeners {
        socket.send(&listener, &[file])?;
    }
    if version >= WITH_STORES {
        for path in offers.stores {
            socket.send(&HandoverMessage::Store { path }, &[])?;
        }
    }
    socket.send(&HandoverMessage::Offered, &[])?;
    let wish = next_wish(&socket, version)?;
    Ok((socket, (process, version), wish))
}

/// What a new process says when it was told enough.
pub(super) fn next_wish(socket: &HandoverSocket, version: u16) -> Result<Wish, HandoverError> {
    let takes = |with_tls| match with_tls {
        false => TakesTls::NONE,
        true if version < WITH_TLS_12 => TakesTls(ConnectionTls::Tls13),
        true => TakesTls::ALL,
    };
    match socket.receive_plain(LONGEST)? {
        HandoverMessage::Prepared { exports, listeners, with_tls } => {
            socket.set_patience(MOVE_TIME).map_err(HandoverError::Io)?;
            Ok(Wish::Start { exports, listeners, takes: takes(with_tls) })
        }
        HandoverMessage::Claim { stores, with_tls } => Ok(Wish::Stores { stores, takes: takes(with_tls) }),
        other => Err(HandoverError::OutOfOrder(other.kind())),
    }
}

/// Moves the connections, as many as are ready; gives their number. Nothing has changed if it fails. No
/// client is accepted meanwhile.
pub(in crate::control) async fn carry_out(plane: &Plane, leaver: Leaver) -> Result<usize, HandoverError> {
    let moved =
        timeout(MOVE_TIME, offer_connections(plane, leaver)).await.unwrap_or(Err(HandoverError::Late));
    settle(plane, if moved.is_ok() { Settlement::Moved } else { Settlement::Stay }).await;
    moved
}

/// Tells all shards what has become of their connections.
pub(super) async fn settle(plane: &Plane, settlement: Settlement) {
    for shard in 0..plane.shard_count() {
        // A mailbox that is full is emptied within a turn.
        let told = async {
            while !plane.has_failed(shard) && !plane.shards()[shard].settle(settlement) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(MOVE_TIME, told).await.is_err() {
            tracing::error!(shard, "a shard does not answer: its connections hang");
        }
    }
}

/// Up to COMMIT, which is said when there is nothing left to wait for.
async fn offer_connections(plane: &Plane, leaver: Leaver) -> Result<usize, HandoverError> {
    let Leaver { socket, exports, takes, departed, _busy, .. } = leaver;
    let leaving = quiesce(plane, exports.keys().copied().collect(), takes, PATIENCES).await?;
    let count = leaving.len() + departed.len();
    // It ends the conversation when this is given up early.
    let _ended = EndOnDrop(socket.twin().map_err(HandoverError::Io)?);
    let socket = on_thread(move || transfer(socket, &exports, leaving, &departed)).await??;
    socket.send(&HandoverMessage::Commit, &[])?;
    Ok(count)
}

/// All connections of these exports that are ready, of all shards.
pub(super) async fn quiesce(
    plane: &Plane,
    exports: Vec<ExportId>,
    takes: TakesTls,
    patiences: [Duration; 2],
) -> Result<Vec<LeavingConnection>, HandoverError> {
    let mut answers = Vec::new();
    for shard in (0..plane.shard_count()).filter(|shard| !plane.has_failed(*shard)) {
        let (answer, answered) = oneshot::channel();
        // Nobody hears it when this was given up.
        let tell = move |leaving| drop(answer.send(leaving));
        if !plane.shards()[shard].depart((exports.clone(), takes), patiences, tell) {
            return Err(HandoverError::Shard);
        }
        answers.push(answered);
    }
    let mut leaving = Vec::new();
    for answered in answers {
        leaving.extend(answered.await.map_err(|_dropped| HandoverError::Shard)?);
    }
    Ok(leaving)
}

/// Sends connections and waits for READY.
fn transfer(
    socket: HandoverSocket,
    exports: &HashMap<ExportId, u32>,
    leaving: Vec<LeavingConnection>,
    departed: &[DepartedConnection],
) -> Result<HandoverSocket, HandoverError> {
    let connections = (leaving.len() + departed.len()) as u32;
    for connection in leaving {
        let export = exports[&connection.export];
        let (message, descriptor) = of_leaving(connection, export);
        socket.send(&message, &[descriptor])?;
    }
    for DepartedConnection { message, socket: descriptor, .. } in departed {
        socket.send(message, std::slice::from_ref(descriptor))?;
    }
    socket.send(&HandoverMessage::AllSent { connections }, &[])?;
    match socket.receive_plain(LONGEST)? {
        HandoverMessage::Ready => Ok(socket),
        other => Err(HandoverError::OutOfOrder(other.kind())),
    }
}

/// What is said of a connection, and its socket. The keys of one with TLS are not used here any more.
pub(super) fn of_leaving(connection: LeavingConnection, export: u32) -> (HandoverMessage, OwnedFd) {
    let LeavingConnection { number, export: _, socket, session, secure, input } = connection;
    tracing::debug!(connection = number, input = input.len(), "offered to the new process");
    let secure = secure.map(Encryption::leave).map(|(keys, received)| SecureState { keys, received });
    (HandoverMessage::Connection { export, session, secure, input }, socket)
}

/// Ends a connection when it is dropped, whoever waits for it.
pub(super) struct EndOnDrop(pub(super) std::os::unix::net::UnixStream);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        // What was sent still arrives.
        let _ended = self.0.shutdown(std::net::Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that knows no TLS 1.2 gets no such connection, whatever else it takes.
    #[test]
    fn what_is_taken_is_what_is_known() {
        use ConnectionTls as C;
        for (version, with_tls, taken) in [
            (1, false, &[C::None][..]),
            (3, false, &[C::None]),
            (2, true, &[C::None, C::Tls13]),
            (3, true, &[C::None, C::Tls13, C::Tls12]),
        ] {
            let (this, other) = std::os::unix::net::UnixStream::pair().unwrap();
            let [this, other] = [this, other].map(|end| HandoverSocket::new(end, PATIENCE).unwrap());
            let messages = [
                HandoverMessage::Claim { stores: vec![0], with_tls },
                HandoverMessage::Prepared { exports: Vec::new(), listeners: Vec::new(), with_tls },
            ];
            for message in messages {
                other.send(&message, &[]).unwrap();
                let takes = match next_wish(&this, version).unwrap() {
                    Wish::Start { takes, .. } | Wish::Stores { takes, .. } => takes,
                };
                for one in [C::None, C::Tls13, C::Tls12] {
                    assert_eq!(takes.takes(one), taken.contains(&one), "version {version}, {one:?}");
                }
            }
        }
    }
}
