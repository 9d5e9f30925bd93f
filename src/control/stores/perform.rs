//! What the control socket asks for: done by the store's thread, once no client is in the way.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;

use super::offers::Stores;
use super::one::OneStore;
use crate::backend::{SealFailure, SnapshotError};
use crate::shard::Removal;
use crate::stats::SnapshotOutcome;
use crate::store::catalog::{NodeName, StoreName};
use crate::store::error::StoreError;
use crate::store::request::{StoreAnswer, StoreRequest};

/// How long clients that have left are waited for, whose connections may not be gone yet.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often room is made for a snapshot that others take away.
const TRIES: usize = 3;
/// Between two looks for them.
const PAUSE: Duration = Duration::from_millis(10);

/// Why a request is not carried out; each says what to do instead.
#[derive(Debug, thiserror::Error)]
pub(in crate::control) enum PerformError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("this server has no store {0} open: write the directory of one that it serves")]
    NoStore(String),
    #[error("this server has no store open, or several: write which one, as in store=/srv/store")]
    WhichStore,
    #[error(
        "{node} has clients ({clients}) and cannot be {what} while it has: disconnect them first{remedy}"
    )]
    InUse { node: NodeName, clients: usize, what: &'static str, remedy: &'static str },
    #[error(
        "{node} is the export \"{export}\" of this server's command line or configuration, so it cannot be {what}: serve the \
         whole store (store:DIRECTORY) instead, or stop the server first"
    )]
    Fixed { node: NodeName, export: String, what: &'static str },
    #[error(
        "there is an export \"{0}\" already, and the image would be one of the same name: choose another"
    )]
    NameTaken(String),
    #[error("{0} cannot be snapshotted: {1}")]
    Seal(StoreName, SealFailure),
    #[error(
        "the new size of {image} is recorded, and its clients do not get it yet: {why}; ask once more, or it has that size \
         when it is opened the next time"
    )]
    NotGrown { image: StoreName, why: &'static str },
    #[error("{0}")]
    Record(SnapshotError),
    #[error("the server ended before it was done: look whether it was")]
    Ended,
}

impl PerformError {
    pub(in crate::control) fn status(&self) -> StatusCode {
        match self {
            // Somebody gave it up, or there was nothing to give up.
            Self::Store(StoreError::Interrupted) => StatusCode::CONFLICT,
            // Some of it was done.
            Self::Store(StoreError::RemovedPartly { source, .. }) if source.is_refusal() => {
                StatusCode::FAILED_DEPENDENCY
            }
            Self::Store(error) if !error.is_refusal() => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Record(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotGrown { .. } | Self::Ended => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoStore(_) | Self::WhichStore => StatusCode::NOT_FOUND,
            _ => StatusCode::CONFLICT,
        }
    }
}

/// How a snapshot is counted.
pub(super) fn outcome<T>(result: &Result<T, PerformError>) -> SnapshotOutcome {
    match result {
        Ok(_) => SnapshotOutcome::Taken,
        Err(PerformError::Store(error)) if error.is_refusal() => SnapshotOutcome::Refused,
        Err(_) => SnapshotOutcome::Failed,
    }
}

/// Images and snapshots that a request needs closed, and what becomes of them.
pub(super) struct NeedsClosed {
    pub(super) nodes: Vec<NodeName>,
    pub(super) what: &'static str,
    /// Their clients are disconnected.
    pub(super) is_forced: bool,
}

impl Stores {
    /// The store at a path; without one, the only store.
    fn at(&self, path: Option<&Path>) -> Result<usize, PerformError> {
        match (path, &self.all[..]) {
            (None, [_]) => Ok(0),
            (None, _) => Err(PerformError::WhichStore),
            (Some(path), all) => {
                let found = all.iter().position(|one| one.of.store.path() == path);
                found.ok_or_else(|| PerformError::NoStore(path.display().to_string()))
            }
        }
    }

    /// Carries a request out, to the end: whoever asked may leave before.
    ///
    /// # Errors
    /// [`PerformError`].
    pub(in crate::control) async fn perform(
        self: &Rc<Self>,
        path: Option<PathBuf>,
        request: StoreRequest,
    ) -> Result<StoreAnswer, PerformError> {
        let stores = Rc::clone(self);
        let task = tokio_uring::spawn(async move { stores.carry_out(path.as_deref(), request).await });
        match task.await {
            Ok(done) => done,
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            Err(_cancelled) => Err(PerformError::Ended),
        }
    }

    async fn carry_out(
        self: &Rc<Self>,
        path: Option<&Path>,
        request: StoreRequest,
    ) -> Result<StoreAnswer, PerformError> {
        let at = self.at(path)?;
        let one = &self.all[at];
        self.names_are_free(one, &request).await?;
        if let StoreRequest::Checkpoint { node } = request {
            return self.checkpoint(at, node).await;
        }
        if let StoreRequest::Ingest { pause } = request {
            return Ok(StoreAnswer::Ingest(self.pause_ingest(at, pause)));
        }
        if let StoreRequest::Push { pause, rate } = request {
            return Ok(StoreAnswer::Push(self.control_pushes(at, pause, rate)));
        }
        if let StoreRequest::Gc { grace } = request {
            return self.collect(at, grace).await;
        }
        if let StoreRequest::Flatten { image, stop } = request {
            return self.flatten_some(at, image, stop).await.map(StoreAnswer::Flattened);
        }
        let Some(needed) = one.needs_closed(&request) else {
            return Ok(one.ask(move |store| store.perform_served(&request)).await??);
        };
        if let StoreRequest::Snapshot { nodes, changes_only } = request {
            return match changes_only {
                true => self.keep_changes_only(at, nodes).await,
                false => self.take_snapshots(at, nodes, false).await,
            };
        }
        if let StoreRequest::Resize { image, size, .. } = &request
            && let Some(grown) = self.grow_in_use(one, image, *size).await?
        {
            return Ok(grown);
        }
        // No image is opened until it is done.
        let _turn = one.turn.lock().await;
        one.can_be_closed(&needed).await?;
        let how = if needed.is_forced { Removal::AtOnce } else { Removal::WhenUnused };
        for node in &needed.nodes {
            one.close(node, how, (&self.plane, self.collector())).await?;
        }
        let asked = request.clone();
        let done = one.ask(move |store| store.perform_served(&request)).await?;
        self.merge_when_idle(at, &asked);
        Ok(done?)
    }

    /// Takes snapshots once each image can have one more layer. Clients may come meanwhile.
    pub(super) async fn snapshot_in_turn(
        &self,
        one: &OneStore,
        nodes: Vec<NodeName>,
        is_changes_only: bool,
    ) -> Result<StoreAnswer, PerformError> {
        let images: BTreeSet<StoreName> = nodes.iter().map(|node| node.image.clone()).collect();
        for _ in 0..TRIES {
            self.make_room(one, &images).await?;
            let _turn = one.turn.lock().await;
            let mut has_room = true;
            for image in &images {
                has_room &= !one.needs_merge(image).await?;
            }
            // Others may have taken snapshots since.
            if has_room {
                return self.snapshot(one, nodes, is_changes_only).await;
            }
        }
        let _turn = one.turn.lock().await;
        self.snapshot(one, nodes, is_changes_only).await
    }

    /// New names of images are no names of other exports, if they become exports.
    async fn names_are_free(&self, one: &OneStore, request: &StoreRequest) -> Result<(), PerformError> {
        let new: Vec<&StoreName> = match request {
            StoreRequest::Create { image, .. } => vec![image],
            StoreRequest::Clone { to, .. } | StoreRequest::CloneFromTier { to, .. } => to.iter().collect(),
            StoreRequest::Rename { node: NodeName { snapshot: None, .. }, to } => vec![&to.image],
            StoreRequest::Import { delta, .. } if delta.from.is_none() => vec![&delta.image],
            _ => return Ok(()),
        };
        if one.of.all.is_none() {
            return Ok(());
        }
        let own = |name: &StoreName| {
            let node = NodeName { image: name.clone(), snapshot: None };
            one.entry(&node).is_some()
        };
        let is_taken = |name: &&&StoreName| !own(name) && self.plane.find(name.as_str()).is_some();
        if let Some(name) = new.iter().find(is_taken) {
            return Err(PerformError::NameTaken(name.to_string()));
        }
        for other in self.all.iter().filter(|other| other.of.all.is_some()) {
            if std::sync::Arc::ptr_eq(&other.of.store, &one.of.store) {
                continue;
            }
            let names: BTreeSet<StoreName> = new.iter().map(|name| (*name).clone()).collect();
            let taken = other.ask(move |store| {
                let view = store.view()?;
                Ok::<_, StoreError>(names.into_iter().find(|name| view.image(name).is_some()))
            });
            if let Some(name) = taken.await?? {
                return Err(PerformError::NameTaken(name.to_string()));
            }
        }
        Ok(())
    }
}

impl OneStore {
    /// What has to be closed for a request; none for one that disturbs no client.
    fn needs_closed(&self, request: &StoreRequest) -> Option<NeedsClosed> {
        let image = |name: &StoreName| NodeName { image: name.clone(), snapshot: None };
        let needed = |nodes, what| NeedsClosed { nodes, what, is_forced: false };
        // An image with all of its snapshots that are exports.
        let whole = |name: &StoreName| {
            let fixed = self.of.fixed.keys().filter(|node| node.image == *name).cloned();
            let own =
                std::iter::once(image(name)).chain(self.entries_of(name).into_iter().map(|(node, _)| node));
            own.chain(fixed).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        let either = |node: &NodeName| match node.snapshot {
            Some(_) => vec![node.clone()],
            None => whole(&node.image),
        };
        match request {
            StoreRequest::Images
            | StoreRequest::Image { .. }
            | StoreRequest::Layers { .. }
            | StoreRequest::Create { .. }
            | StoreRequest::Clone { .. }
            | StoreRequest::CloneFromTier { .. }
            // It goes on while clients do.
            | StoreRequest::Checkpoint { .. }
            | StoreRequest::Sealed
            // It is never open in the server by another file.
            | StoreRequest::Rebase { .. }
            // Images go on while they are flattened, which is done elsewhere.
            | StoreRequest::Flatten { .. }
            | StoreRequest::Store
            | StoreRequest::Ingest { .. }
            | StoreRequest::Push { .. }
            | StoreRequest::Import { complete: false, .. }
            | StoreRequest::Gc { .. } => None,
            // Images go on while they are snapshotted.
            StoreRequest::Snapshot { .. } => Some(needed(Vec::new(), "snapshotted")),
            StoreRequest::Remove { nodes, .. } => {
                Some(needed(nodes.iter().flat_map(either).collect(), "removed"))
            }
            StoreRequest::Rename { node, .. } => Some(needed(either(node), "renamed")),
            // One that becomes larger while it is used has been taken care of.
            StoreRequest::Resize { image: name, shrink: true, .. } => {
                Some(needed(vec![image(name)], "made smaller"))
            }
            StoreRequest::Resize { image: name, .. } => Some(needed(vec![image(name)], "resized")),
            StoreRequest::Import { delta, complete: true } => {
                Some(needed(vec![image(&delta.image)], "changed by a delta"))
            }
            StoreRequest::Rollback { node, force } => {
                Some(NeedsClosed { nodes: vec![image(&node.image)], what: "rolled back", is_forced: *force })
            }
        }
    }

    /// Waits a moment for clients that have just left.
    pub(super) async fn can_be_closed(&self, needed: &NeedsClosed) -> Result<(), PerformError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.may_be_closed(needed) {
                Err(PerformError::InUse { .. }) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// Whether no client has what is to be closed.
    fn may_be_closed(&self, needed: &NeedsClosed) -> Result<(), PerformError> {
        let NeedsClosed { nodes, what, is_forced } = needed;
        for node in nodes {
            if let Some(export) = self.of.fixed.get(node) {
                return Err(PerformError::Fixed { node: node.clone(), export: export.clone(), what });
            }
            if let Some(entry) = self.entry(node)
                && entry.is_in_use()
                && !is_forced
            {
                let remedy = match *what {
                    "rolled back" => ", or write --force",
                    "made smaller" => "; it can become larger while they stay",
                    _ => "",
                };
                let clients = entry.clients();
                return Err(PerformError::InUse { node: node.clone(), clients, what, remedy });
            }
        }
        Ok(())
    }
}
