//! A server that ends leaves its clients to the next one: by somebody who keeps descriptors meanwhile, such
//! as the service manager.
//!
//! ```text
//! asked to stop   connections are held, as for another process; stores are closed (part)
//! stops           as without them: what could not be held is served to its end
//! at the end      the state is written, and all of it is given away (keep)
//! ```
//!
//! From [`Handovers::part`] on nobody reads of these connections before the next process does. If anything
//! fails, or nobody starts, they are closed.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::socket_cookie;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::kept_state::KeptStateWriter;
use super::leave::{Handovers, MOVE_TIME, PATIENCE, of_leaving, on_thread, quiesce, settle};
use super::lend::{HANDSHAKE_TIME, offered};
use super::message::{HandoverMessage, OfferedExport};
use super::offer::OfferedListener;
use super::socket::HandoverError;
use crate::backend::{ExportId, PassedExport};
use crate::control::catalogue::Entry;
use crate::control::keeper::{KeepDescriptors, SOCKETS, STATE, name_of_file};
use crate::control::listen::accept::Accepting;
use crate::control::stores::Lending;
use crate::shard::{LeavingConnection, Settlement, TakesTls};

/// What is done to stores has so long to end, all in all.
const RESERVE_TIME: Duration = Duration::from_secs(10);
/// What is under way on a connection has so long to end, and its client to fetch its replies. One that is not
/// ready then is closed, so it has more time than in a hand-over, where it goes on.
const QUIET_TIME: Duration = Duration::from_secs(10);
/// Descriptors of one message; the kernel takes one more than this, at most.
const AT_ONCE: usize = 250;
/// Descriptors that are kept, at most. The next process is told all their names in one text, which may have
/// 128 KiB; and the manager compares each new one with all that it has.
const MOST_KEPT: usize = 4096;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// Connections that no shard has any more, for the next process.
pub(in crate::control) struct Parting {
    keeper: Arc<dyn KeepDescriptors>,
    /// Exports that go with their files.
    exports: Vec<(Rc<Entry>, Vec<LeavingConnection>)>,
    /// Images, whose stores are closed.
    images: Vec<(OfferedExport, Vec<LeavingConnection>)>,
    listeners: Vec<OfferedListener>,
}

impl Handovers {
    /// Has connections ready for the next process. None if there are none. No client is accepted from now on.
    pub(in crate::control) async fn part(
        &self,
        keeper: &Arc<dyn KeepDescriptors>,
        takes: TakesTls,
    ) -> Option<Parting> {
        if keeper.room() == 0 || !self.plane.has_clients() || self.be_busy() {
            return None;
        }
        self.accepting.send_replace(Accepting::NotNow);
        let live = self.live.borrow().clone();
        let _turn = match &live {
            Some(live) => Some(timeout(PATIENCE, live.turn.lock()).await.ok()?),
            None => None,
        };
        // Who is late connects again.
        let _late = timeout(HANDSHAKE_TIME, self.plane.no_handshakes()).await;
        let mut stores = self.reserve_all().await;
        let exports: Vec<_> = self.plane.catalogue().iter().filter(|entry| can_go(entry)).cloned().collect();
        let images: Vec<Vec<_>> = stores.iter().map(|store| store.entries(&self.stores)).collect();
        let ids = exports.iter().flat_map(|entry| entry.with_former());
        let ids = ids.chain(images.iter().flatten().map(|entry| entry.id)).collect();
        let leaving = match quiesce(&self.plane, ids, takes, [QUIET_TIME; 2]).await {
            Ok(leaving) => leaving,
            Err(error) => {
                tracing::warn!(reason = %error, "no connection is kept: clients connect again");
                settle(&self.plane, Settlement::Stay).await;
                return None;
            }
        };
        let mut by_export: HashMap<ExportId, Vec<LeavingConnection>> = HashMap::new();
        leaving.into_iter().for_each(|one| by_export.entry(one.export).or_default().push(one));
        let are_ready = |entries: &Vec<Rc<Entry>>| {
            let ready = |entry: &Rc<Entry>| by_export.get(&entry.id).map_or(0, Vec::len);
            entries.iter().all(|entry| ready(entry) >= entry.clients())
        };
        let are_ready: Vec<bool> = images.iter().map(are_ready).collect();
        settle(&self.plane, Settlement::Moved).await;
        let mut of = |ids: &[ExportId]| -> Vec<LeavingConnection> {
            ids.iter().filter_map(|id| by_export.remove(id)).flatten().collect()
        };
        let mut closed = Vec::new();
        for ((store, entries), are_ready) in stores.iter_mut().zip(images).zip(are_ready) {
            let taken = entries.iter().map(|entry| (offered(entry), of(&[entry.id]))).collect();
            closed.extend(self.close(store, (entries, are_ready), taken).await);
        }
        let exports = exports.into_iter().map(|entry| {
            let connections = of(&entry.with_former());
            (entry, connections)
        });
        let exports = exports.filter(|(_, connections)| !connections.is_empty()).collect();
        let listeners = self.listeners.take().into_iter().filter(|listener| !listener.is_inherited);
        let (keeper, listeners) = (Arc::clone(keeper), listeners.collect());
        let parting = Parting { keeper, exports, images: closed, listeners };
        (parting.connections() > 0).then_some(parting)
    }

    /// All stores that nothing is done to.
    async fn reserve_all(&self) -> Vec<Lending<'_>> {
        let deadline = Instant::now() + RESERVE_TIME;
        let mut stores = Vec::new();
        for at in 0..self.stores.lendable().len() {
            let reserved = timeout_at(deadline, self.stores.reserve(at)).await;
            match reserved.unwrap_or_else(|_| Err("something goes on in a store for too long".to_owned())) {
                Ok(store) => stores.push(store),
                Err(reason) => tracing::warn!(reason, "clients of a store connect again"),
            }
        }
        stores
    }

    /// Closes a store whose clients have left the shards, so that all that was answered is durable: what a
    /// client was told is there for it in the next process too. Gives nothing if that fails.
    async fn close(
        &self,
        store: &mut Lending<'_>,
        (entries, are_ready): (Vec<Rc<Entry>>, bool),
        taken: Vec<(OfferedExport, Vec<LeavingConnection>)>,
    ) -> Vec<(OfferedExport, Vec<LeavingConnection>)> {
        let gone = async {
            while entries.iter().any(|entry| entry.clients() > 0) {
                sleep(PAUSE).await;
            }
        };
        let closed = if are_ready && timeout(MOVE_TIME, gone).await.is_ok() {
            drop(entries);
            store.lend(&self.stores).await
        } else {
            Err("a request of one of them hangs, or its reply is not fetched".to_owned())
        };
        if let Err(reason) = closed {
            tracing::warn!(reason, "clients of a store connect again");
            return Vec::new();
        }
        taken.into_iter().filter(|(_, connections)| !connections.is_empty()).collect()
    }
}

/// Whether another process can go on with an export by its files alone.
fn can_go(entry: &Rc<Entry>) -> bool {
    let can = |export: &crate::backend::Export| !export.is_image() && export.why_it_stays().is_none();
    entry.wanted().is_some() && entry.export().is_some_and(|export| can(export))
}

/// All that is given away. It may go to another thread.
struct Luggage {
    exports: Vec<(OfferedExport, Vec<OwnedFd>)>,
    listeners: Vec<(HandoverMessage, OwnedFd)>,
    images: Vec<OfferedExport>,
    connections: Vec<(HandoverMessage, OwnedFd)>,
}

impl Parting {
    fn connections(&self) -> usize {
        let of_exports = self.exports.iter().map(|(_, connections)| connections.len());
        of_exports.chain(self.images.iter().map(|(_, connections)| connections.len())).sum()
    }

    /// The files of sockets that the next process has.
    pub(in crate::control) fn files(&self) -> Vec<PathBuf> {
        self.listeners.iter().filter_map(|listener| listener.file.clone()).collect()
    }

    /// Gives all of it away: how many connections. The others are closed.
    pub(in crate::control) async fn keep(self) -> Result<usize, HandoverError> {
        let (keeper, wanted) = (Arc::clone(&self.keeper), self.connections());
        let luggage = self.pack().map_err(HandoverError::Io)?;
        let kept = luggage.connections.len();
        if kept < wanted {
            let closed = wanted - kept;
            let room = keeper.room();
            tracing::warn!(closed, room, "not all connections can be kept: raise FileDescriptorStoreMax=");
        }
        on_thread(move || {
            let written = luggage.give(&*keeper);
            if written.is_err() {
                // What is half there is nothing.
                keeper.memory().set_len(0)?;
            }
            written
        })
        .await?
        .map_err(HandoverError::Io)?;
        Ok(kept)
    }

    /// As much as there is room for.
    fn pack(self) -> io::Result<Luggage> {
        // One is the state's.
        let room = self.keeper.room().min(MOST_KEPT).saturating_sub(1);
        let mut luggage = Luggage { exports: vec![], listeners: vec![], images: vec![], connections: vec![] };
        let Some(mut room) = room.checked_sub(self.listeners.len()) else { return Ok(luggage) };
        for OfferedListener { purpose, is_inherited, socket, .. } in self.listeners {
            luggage.listeners.push((HandoverMessage::Listener { purpose, is_inherited }, socket));
        }
        let mut take = |room: &mut usize, connections: Vec<LeavingConnection>, number: usize| {
            let fitting = connections.len().min(*room);
            *room -= fitting;
            let fitting = connections.into_iter().take(fitting);
            luggage.connections.extend(fitting.map(|connection| of_leaving(connection, number as u32)));
        };
        for (entry, connections) in self.exports {
            let (Some(export), Some(wanted)) = (entry.export(), entry.wanted()) else { continue };
            let Some(PassedExport { files, has_lost_writes }) = export.to_pass()? else { continue };
            let Some(left) = room.checked_sub(files.len()).filter(|left| *left > 0) else { continue };
            room = left;
            take(&mut room, connections, luggage.exports.len());
            let (purposes, files) = files.into_iter().unzip();
            let (name, uri) = (entry.info.name.clone(), wanted.uri.to_string());
            let (read_only, size) = (wanted.read_only, entry.size());
            let offered = OfferedExport { name, uri, read_only, size, has_lost_writes, purposes };
            luggage.exports.push((offered, files));
        }
        for (offered, connections) in self.images {
            take(&mut room, connections, luggage.exports.len() + luggage.images.len());
            luggage.images.push(offered);
        }
        Ok(luggage)
    }
}

impl Luggage {
    /// Writes the state, and has all descriptors kept. The state is the last one: without it the others are
    /// nothing.
    fn give(self, keeper: &dyn KeepDescriptors) -> io::Result<()> {
        let mut state = KeptStateWriter::begin(keeper.memory())?;
        let mut place = 0;
        for (offered, files) in self.exports {
            let first = place;
            for file in &files {
                keeper.keep(&name_of_file(place), &[file.as_fd()])?;
                place += 1;
            }
            let places: Vec<_> = (first..place).map(u64::from).collect();
            state.put(&HandoverMessage::Export(offered), &places)?;
        }
        let mut sockets = Vec::new();
        for (message, socket) in self.listeners {
            state.put(&message, &[socket_cookie(&socket)?])?;
            sockets.push(socket);
        }
        state.put(&HandoverMessage::Offered, &[])?;
        for offered in self.images {
            state.put(&HandoverMessage::Export(offered), &[])?;
        }
        state.put(&HandoverMessage::Released, &[])?;
        let connections = self.connections.len() as u32;
        for (message, socket) in self.connections {
            state.put(&message, &[socket_cookie(&socket)?])?;
            sockets.push(socket);
        }
        state.put(&HandoverMessage::AllSent { connections }, &[])?;
        let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        sockets.chunks(AT_ONCE).try_for_each(|some| keeper.keep(SOCKETS, some))?;
        keeper.keep(STATE, &[keeper.memory().as_fd()])?;
        if let Err(error) = keeper.settle() {
            // It may have all of it nevertheless.
            tracing::warn!(reason = %error, "it is not known whether connections are kept");
        }
        Ok(())
    }
}
