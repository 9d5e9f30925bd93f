//! Exports that come and go while the server runs.

use std::rc::Rc;

use super::events::EventKind;
use super::host::{AddExport, ChangeError, RemoveExport};
use super::listen::endpoint::Endpoint;
use super::observe::collector::Collector;
use super::observers::Observers;
use super::plane::Plane;
use super::retire::retire;
use super::served::{added_view, info_of, served};
use crate::shard::Removal;
use serde_json::json;

/// Serves one more export.
pub(super) fn add(plane: &Plane, observers: &Observers, endpoints: &[Endpoint], request: AddExport) {
    let AddExport { name, description, source, export, answer } = request;
    let info = info_of((&name, &description), &source, &export, &plane.limits);
    let added = plane.catalogue_mut().add(info, export, source);
    answer(match added {
        None => Err(ChangeError::NameTaken(name)),
        Some(entry) => {
            observers.added(&entry);
            plane.events.tell(EventKind::ExportAdded, added_view(&entry));
            tracing::info!(export = name, source = entry.source, "export added");
            Ok(served(&entry, endpoints, plane.needs_tls(&entry.info.name)))
        }
    });
}

/// Removes an export: no client finds it from now on, and a task sees to it that the shards give it up.
pub(super) fn remove(plane: &Rc<Plane>, collector: Option<Rc<Collector>>, request: RemoveExport) {
    let RemoveExport { name, how, answer } = request;
    let removed = plane.catalogue_mut().remove(&name);
    let Some(entry) = removed else { return answer(Err(ChangeError::NoSuchExport(name))) };
    plane.events.tell(EventKind::ExportRemoved, json!({ "export": name }));
    tracing::info!(export = name, ?how, "export removed");
    let answer = match how {
        Removal::AtOnce | Removal::CutOff => Some(answer),
        Removal::WhenUnused | Removal::WithErrors => {
            answer(Ok(()));
            None
        }
    };
    let plane = Rc::clone(plane);
    tokio_uring::spawn(async move {
        retire(&plane, collector.as_ref(), &entry, how).await;
        // Its files are closed when the last handshake that chose it has ended.
        drop(entry);
        if let Some(answer) = answer {
            answer(Ok(()));
        }
    });
}
