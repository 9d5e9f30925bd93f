//! An export is given up by all shards.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::catalogue::Entry;
use super::observe::collector::Collector;
use super::plane::Plane;
use crate::shard::Removal;

/// Between two tries to tell a shard whose mailbox is full.
const PAUSE: Duration = Duration::from_millis(1);

/// The second phase: every shard gives the export up; then its index can be used again.
pub(super) async fn retire(plane: &Plane, collector: Option<&Rc<Collector>>, entry: &Entry, how: Removal) {
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
