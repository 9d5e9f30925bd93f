//! Images that become larger while clients use them.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::offers::Stores;
use super::one::OneStore;
use super::perform::PerformError;
use crate::backend::{GrowOutcome, GrowTask, HomeTask};
use crate::control::catalogue::Entry;
use crate::control::growth;
use crate::control::plane::Plane;
use crate::store::catalog::{LayerId, NodeName, StoreName};
use crate::store::request::StoreAnswer;

/// How often a home is asked that has something else to do.
const TRIES: usize = 5;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(100);

impl Stores {
    /// Gives an image a larger size that clients use, or that is an export of its own. None: it is not used
    /// here, or not written, or it would become smaller.
    pub(super) async fn grow_in_use(
        &self,
        one: &OneStore,
        image: &StoreName,
        size: u64,
    ) -> Result<Option<StoreAnswer>, PerformError> {
        let _turn = one.turn.lock().await;
        let node = NodeName { image: image.clone(), snapshot: None };
        let fixed = one.of.fixed.get(&node).and_then(|name| self.plane.find(name));
        let is_fixed = fixed.is_some();
        let found = fixed.or_else(|| one.entry(&node)).filter(|entry| is_fixed || entry.is_in_use());
        let is_written = |entry: &Rc<Entry>| {
            entry.export().and_then(|export| export.image()).is_some_and(|image| image.is_written())
        };
        let Some(entry) = found.filter(is_written).filter(|entry| entry.size() <= size) else {
            return Ok(None);
        };
        let name = image.clone();
        let head = one.ask(move |store| store.grow_served(&name, size)).await??;
        let grown = match head {
            Some(head) => grow(&self.plane, &entry, head, size).await,
            None => Err("it has no head"),
        };
        if let Err(why) = grown {
            return Err(PerformError::NotGrown { image: image.clone(), why });
        }
        let renewed = growth::tell_clients(&self.plane, &entry);
        tracing::info!(%image, size, renewed, "an image in use has become larger");
        Ok(Some(StoreAnswer::Nodes(one.ask(move |store| store.describe_some(&[node])).await??)))
    }
}

/// Has the home of an image go on with a larger size; why it does not.
async fn grow(plane: &Plane, entry: &Entry, head: LayerId, size: u64) -> Result<(), &'static str> {
    for _ in 0..TRIES {
        let (told, outcome) = oneshot::channel();
        let task = GrowTask::new(head, size, move |outcome| drop(told.send(outcome)));
        // A shard without room for the message drops the task.
        let _sent = plane.visit(entry, HomeTask::Grow(task));
        match outcome.await {
            Ok(GrowOutcome::Larger) => return Ok(()),
            Ok(GrowOutcome::OtherHead) => return Err("an earlier snapshot of it failed"),
            Ok(GrowOutcome::NotDurable) => return Err("the disk failed: see the server's log"),
            Ok(GrowOutcome::Busy) | Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    Err("the shard that serves it has too much to do, or has ended")
}
