//! Exports that come and go while the server runs.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::catalogue::Entry;
use super::host::{AddExport, ChangeError, RemoveExport};
use super::listen::endpoint::Endpoint;
use super::observe::collector::Collector;
use super::observers::Observers;
use super::plane::Plane;
use super::served::{info_of, served};
use crate::shard::Removal;

/// Between two tries to tell a shard whose mailbox is full.
const PAUSE: Duration = Duration::from_millis(1);

/// Serves one more export.
pub(super) fn add(plane: &Plane, observers: &Observers, endpoints: &[Endpoint], request: AddExport) {
    let AddExport { name, description, source, export, answer } = request;
    let info = info_of((&name, &description), &source, &export, &plane.limits);
    let added = plane.catalogue_mut().add(info, export, source);
    answer(match added {
        None => Err(ChangeError::NameTaken(name)),
        Some(entry) => {
            observers.added(&entry);
            tracing::info!(export = name, source = entry.source, "export added");
            Ok(served(&entry, endpoints))
        }
    });
}

/// Removes an export: no client finds it from now on, and a task sees to it that the shards give it up.
pub(super) fn remove(plane: &Rc<Plane>, collector: Option<Rc<Collector>>, request: RemoveExport) {
    let RemoveExport { name, how, answer } = request;
    let removed = plane.catalogue_mut().remove(&name);
    let Some(entry) = removed else { return answer(Err(ChangeError::NoSuchExport(name))) };
    tracing::info!(export = name, ?how, "export removed");
    let answer = match how {
        Removal::AtOnce => Some(answer),
        Removal::WhenUnused => {
            answer(Ok(()));
            None
        }
    };
    let plane = Rc::clone(plane);
    tokio_uring::spawn(async move {
        retire(&plane, collector, &entry, how).await;
        // Its files are closed when the last handshake that chose it has ended.
        drop(entry);
        if let Some(answer) = answer {
            answer(Ok(()));
        }
    });
}

/// The second phase: every shard gives the export up; then its index can be used again.
async fn retire(plane: &Plane, collector: Option<Rc<Collector>>, entry: &Entry, how: Removal) {
    let mut given_up = Vec::new();
    for shard in 0..plane.shard_count() {
        while !plane.has_failed(shard) && !plane.is_stopping() {
            let (done, given) = oneshot::channel();
            let done = move || {
                // The receiver is gone when the server ends.
                let _ended = done.send(());
            };
            if plane.remove_from(shard, entry.id, how, done) {
                given_up.push(given);
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    for given in given_up {
        // A shard that ends before has given up everything.
        let _ended = given.await;
    }
    if let Some(collector) = collector {
        collector.removed(entry.index()).await;
    }
    plane.catalogue_mut().release(entry.id);
}
