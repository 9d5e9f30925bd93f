//! What the tasks of the control plane share.

use std::cell::{Cell, OnceCell, Ref, RefCell, RefMut};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::Encryption;
use super::catalogue::{Catalogue, Entry};
use super::events::{EventKind, Events};
use super::handshake_memory::HandshakeMemory;
use super::placement;
use super::sessions::Sessions;
use super::tenants::Tenants;
use crate::backend::{ExportId, HomeTask};
use crate::config::Limits;
use crate::nbd::server::handshake::{HandshakeLimits, TlsMode};
use crate::nbd::session::ExportInfo;
use crate::rights::{Asker, Rights};
use crate::shard::{Dismissal, NewConnection, Removal, ShardHandle};
use crate::stats::prometheus::ClientCounts;
use crate::stats::{Interval, TlsFailure};

/// The control plane's state, on its one thread.
#[derive(Debug)]
pub(super) struct Plane {
    catalogue: RefCell<Catalogue>,
    pub(super) limits: Arc<Limits>,
    shards: Vec<ShardHandle>,
    /// By shard: it panicked.
    failed: Box<[Cell<bool>]>,
    /// One for each connection of the whole server.
    permits: Arc<Semaphore>,
    /// One for each handshake.
    handshake_permits: Arc<Semaphore>,
    pub(super) handshake_memory: HandshakeMemory,
    stopping: Cell<bool>,
    /// Handshakes that go on.
    handshakes: Cell<usize>,
    no_handshakes: Notify,
    counts: Cell<ClientCounts>,
    /// Those of the exports that say something about it.
    rights: OnceCell<Rights>,
    /// Those that the shards have.
    pub(super) sessions: Sessions,
    /// `None`: no client can have TLS.
    pub(super) encryption: Option<Encryption>,
    /// Exports that share rates.
    pub(super) tenants: Tenants,
    /// What happens, for those who follow it.
    pub(super) events: Rc<Events>,
    /// For exports that came later: whether they can only be had with TLS.
    later_tls: RefCell<HashMap<String, bool>>,
}

/// A client's places.
pub(super) struct Permit {
    /// Among the connections.
    pub(super) connection: OwnedSemaphorePermit,
    /// Among those whose socket is an open file.
    pub(super) handshake: OwnedSemaphorePermit,
}

/// A permit; says so when it is not there at once.
async fn acquire(permits: &Arc<Semaphore>, wait: impl FnOnce()) -> OwnedSemaphorePermit {
    if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
        return permit;
    }
    wait();
    Arc::clone(permits).acquire_owned().await.expect("the semaphore is never closed")
}

/// Counts a handshake while it exists.
pub(super) struct HandshakeGuard(Rc<Plane>);

impl Plane {
    pub(super) fn new(
        catalogue: Catalogue,
        limits: Arc<Limits>,
        shards: Vec<ShardHandle>,
        connections: usize,
        encryption: Option<Encryption>,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(connections));
        let handshake_permits = Arc::new(Semaphore::new(limits.handshakes));
        let failed = shards.iter().map(|_| Cell::new(false)).collect();
        let handshake_memory = HandshakeMemory::new(limits.handshake_memory);
        let (stopping, handshakes) = (Cell::new(false), Cell::new(0));
        let (no_handshakes, counts) = (Notify::new(), Cell::default());
        Self {
            catalogue: RefCell::new(catalogue),
            limits,
            shards,
            failed,
            permits,
            handshake_permits,
            handshake_memory,
            stopping,
            handshakes,
            no_handshakes,
            counts,
            rights: OnceCell::new(),
            sessions: Sessions::default(),
            encryption,
            tenants: Tenants::default(),
            events: Rc::default(),
            later_tls: RefCell::default(),
        }
    }

    /// Tells that exports have rights; `example` are those of one of them.
    pub(super) fn set_has_rights(&self, example: &Rights) {
        let _first = self.rights.set(example.clone());
    }

    /// Whether any export has rights of its own.
    pub(super) fn has_rights(&self) -> bool {
        self.rights.get().is_some()
    }

    /// Decides about an export that is not there, as it would about one that is hidden: for a client both
    /// are the same.
    pub(super) fn decide_on_nothing(&self, asker: &Asker) {
        if let Some(rights) = self.rights.get() {
            std::hint::black_box(rights.decide(asker));
        }
    }

    /// A client asked for an export that it may not use.
    pub(super) fn count_refusal(&self) {
        self.count(|counts| counts.refusals += 1);
    }

    /// A decision was not written down, because there were too many of one client.
    pub(super) fn count_unwritten_audit(&self) {
        self.count(|counts| counts.audit_lines_dropped += 1);
    }

    /// What clients are told of TLS.
    pub(super) fn tls_mode(&self) -> TlsMode {
        self.encryption.as_ref().map_or(TlsMode::Off, Encryption::mode)
    }

    /// Whether an export can only be had with TLS.
    pub(super) fn needs_tls(&self, export: &str) -> bool {
        let Some(encryption) = &self.encryption else { return false };
        match self.later_tls.borrow().get(export) {
            Some(is_needed) => *is_needed || encryption.mode() == TlsMode::Required,
            None => encryption.is_needed_for(export),
        }
    }

    /// Says whether an export that comes can only be had with TLS.
    pub(super) fn set_needs_tls(&self, export: &str, is_needed: bool) {
        if self.encryption.is_some() {
            self.later_tls.borrow_mut().insert(export.to_owned(), is_needed);
        }
    }

    /// Forgets what was said of an export that is gone.
    pub(super) fn forget_tls(&self, export: &str) {
        self.later_tls.borrow_mut().remove(export);
    }

    /// Has a shard cut a connection off; see [`ShardHandle::end_connection`].
    pub(super) fn end_connection(
        &self,
        shard: usize,
        since_ns: u64,
        answer: impl FnOnce(bool) + Send + 'static,
    ) -> bool {
        self.shards.get(shard).is_some_and(|shard| shard.end_connection(since_ns, answer))
    }

    /// How long a session with TLS goes on.
    pub(super) fn longest_session(&self) -> Option<Duration> {
        self.encryption.as_ref()?.longest_session()
    }

    /// Counts the end of a handshake of TLS: the places of its version and of its cipher, or why it failed.
    pub(super) fn count_tls(&self, ended: Result<(usize, usize), TlsFailure>) {
        self.count(|counts| match ended {
            Ok((version, cipher)) => counts.tls.sessions[version][cipher] += 1,
            Err(failure) => counts.tls.failures[failure as usize] += 1,
        });
    }

    /// What is served.
    pub(super) fn catalogue(&self) -> Ref<'_, Catalogue> {
        self.catalogue.borrow()
    }

    /// To change what is served.
    pub(super) fn catalogue_mut(&self) -> RefMut<'_, Catalogue> {
        self.catalogue.borrow_mut()
    }

    /// The export of a name.
    pub(super) fn find(&self, name: &str) -> Option<Rc<Entry>> {
        self.catalogue().find(name).cloned()
    }

    /// The limits of a handshake.
    pub(super) fn handshake_limits(&self) -> HandshakeLimits {
        HandshakeLimits {
            option_length: self.limits.option_length,
            options: self.limits.options,
            bytes: self.limits.handshake_bytes,
        }
    }

    /// Bytes of the answer about an export, or (`None`) about all of them.
    pub(super) fn answer_bytes(&self, export: Option<&ExportInfo>) -> usize {
        // Headers, sizes and flags, meta contexts.
        const BESIDE_TEXTS: usize = 256;
        // A header, an id and a name for each.
        const CONTEXT: usize = 24;
        let bytes = |export: &ExportInfo| {
            let contexts = export.contexts.iter().map(|context| context.name_length() + CONTEXT);
            export.name.len() + export.description.len() + BESIDE_TEXTS + contexts.sum::<usize>()
        };
        export.map_or_else(|| self.catalogue().iter().map(|entry| bytes(&entry.info)).sum(), bytes)
    }

    /// Room for one more connection; waits until there is.
    pub(super) async fn permit(&self) -> Permit {
        let handshake = acquire(&self.handshake_permits, || {
            let limit = self.limits.handshakes;
            tracing::warn!(
                limit,
                "too many handshakes at once, further clients wait: raise the limit of open files"
            );
        });
        let handshake = handshake.await;
        let connection = acquire(&self.permits, || {
            let limit = self.limits.connections;
            tracing::warn!(
                limit,
                "the connection limit is reached, further clients wait: raise --max-connections"
            );
        });
        Permit { connection: connection.await, handshake }
    }

    /// Waits until a permit that was given out comes back, its connection gone.
    pub(super) async fn returned(&self) {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
    }

    /// Whether a client is served, or in its handshake.
    pub(super) fn has_clients(&self) -> bool {
        self.sessions.is_any() || self.handshakes.get() > 0
    }

    /// Waits until there was a client and none is left, neither served nor in its handshake.
    pub(super) async fn last_is_gone(&self) {
        loop {
            self.sessions.last_is_gone().await;
            self.no_handshakes().await;
            if !self.sessions.is_any() {
                return;
            }
        }
    }

    /// A shard has ended by itself: it gets nothing any more.
    pub(super) fn note_failure(&self, shard: usize) {
        self.failed[shard].set(true);
        self.events.tell(EventKind::ShardFailed, serde_json::json!({ "shard": shard }));
    }

    /// Whether a shard has failed.
    pub(super) fn has_failed(&self, shard: usize) -> bool {
        self.failed[shard].get()
    }

    /// Shards that failed.
    pub(super) fn failures(&self) -> usize {
        self.failed.iter().filter(|failed| failed.get()).count()
    }

    /// Offers a connection to the shards, the least loaded first.
    ///
    /// # Errors
    /// Gives it back when every shard is full or gone.
    pub(super) fn place(&self, mut negotiated: Box<NewConnection>) -> Result<usize, Box<NewConnection>> {
        let connections: Vec<_> = self.shards.iter().map(ShardHandle::connections).collect();
        let entry = self.catalogue.borrow().at(negotiated.id.index as usize).cloned();
        if let Some(entry) = &entry
            && entry.home().is_some_and(|home| self.has_failed(home))
        {
            entry.leave_home();
        }
        let home = entry.as_ref().and_then(|entry| entry.home());
        for shard in placement::preference(&connections, home) {
            if self.has_failed(shard) {
                continue;
            }
            match self.shards[shard].connect(*negotiated) {
                Ok(()) => {
                    self.count(|counts| counts.attachments += 1);
                    if let Some(entry) = &entry {
                        entry.placed(shard);
                    }
                    return Ok(shard);
                }
                Err(back) => negotiated = back,
            }
        }
        Err(negotiated)
    }

    /// The shard that serves an image, or that will; none when all have failed.
    fn home_of(&self, entry: &Entry) -> Option<usize> {
        if entry.home().is_some_and(|home| self.has_failed(home)) {
            entry.leave_home();
        }
        let connections: Vec<_> = self.shards.iter().map(ShardHandle::connections).collect();
        let mut preferred = placement::preference(&connections, entry.home()).into_iter();
        let home = preferred.find(|shard| !self.has_failed(*shard))?;
        entry.placed(home);
        Some(home)
    }

    /// Has something done for an image by its home, which may be one from now on; see [`ShardHandle::visit`].
    pub(super) fn visit(&self, entry: &Entry, task: HomeTask) -> bool {
        let export = entry.export().expect("it is open");
        let Some(home) = self.home_of(entry) else { return false };
        self.shards[home].visit(entry.id, Arc::clone(export), task)
    }

    /// Clients since the start.
    pub(super) fn counts(&self) -> ClientCounts {
        self.counts.get()
    }

    fn count(&self, one: impl FnOnce(&mut ClientCounts)) {
        let mut counts = self.counts.get();
        one(&mut counts);
        self.counts.set(counts);
    }

    /// All shards, the failed ones among them.
    pub(super) fn shards(&self) -> &[ShardHandle] {
        &self.shards
    }

    /// How many shards there are.
    pub(super) fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Asks a shard what it recorded; see [`ShardHandle::collect`].
    pub(super) fn collect(
        &self,
        shard: usize,
        spare: Option<Box<Interval>>,
        connections: bool,
        answer: impl FnOnce(Box<Interval>) + Send + 'static,
    ) -> bool {
        self.shards[shard].collect(spare, connections, answer)
    }

    /// Has a shard give an export up; see [`ShardHandle::remove`].
    pub(super) fn remove_from(
        &self,
        shard: usize,
        id: ExportId,
        how: Removal,
        done: impl FnOnce() + Send + 'static,
    ) -> bool {
        self.shards[shard].remove(id, how, done)
    }

    /// Ends sessions of a shard, by their numbers in ascending order; see [`ShardHandle::dismiss`].
    pub(super) fn dismiss(&self, shard: usize, numbers: Vec<u64>, why: Dismissal) -> bool {
        numbers.is_empty() || self.shards[shard].dismiss(numbers, why)
    }

    /// Has all shards look at the rates of exports again.
    pub(super) fn rates_changed(&self) {
        self.shards.iter().for_each(ShardHandle::rates_changed);
    }

    /// Counts sessions that are ended.
    pub(super) fn count_ended(&self, why: Dismissal, sessions: usize) {
        self.count(|counts| match why {
            Dismissal::TooOld => counts.old_sessions += sessions as u64,
            Dismissal::Unwelcome => counts.unwelcome_sessions += sessions as u64,
            Dismissal::Grown => counts.grown_sessions += sessions as u64,
        });
    }

    /// Whether the server is stopping, so that handshakes are refused.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Refuses handshakes from now on and asks every shard to finish.
    pub(super) fn stop(&self) {
        if !self.stopping.replace(true) {
            self.events.tell(EventKind::Stopping, serde_json::Value::Null);
        }
        self.shards.iter().for_each(ShardHandle::shutdown);
    }

    /// Asks every shard to end at once.
    pub(super) fn cut_off(&self) {
        self.shards.iter().for_each(ShardHandle::cut_off);
    }

    /// Counts one more handshake.
    pub(super) fn begin_handshake(self: &Rc<Self>) -> HandshakeGuard {
        self.handshakes.set(self.handshakes.get() + 1);
        self.count(|counts| counts.handshakes += 1);
        HandshakeGuard(Rc::clone(self))
    }

    /// Waits until no handshake goes on.
    pub(super) async fn no_handshakes(&self) {
        while self.handshakes.get() > 0 {
            self.no_handshakes.notified().await;
        }
    }
}

impl Drop for HandshakeGuard {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get() - 1);
        if self.0.handshakes.get() == 0 {
            self.0.no_handshakes.notify_one();
        }
    }
}
