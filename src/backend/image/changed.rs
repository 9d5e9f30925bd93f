//! What of an image has changed since one of its snapshots.
//!
//! The layers that the image has open are asked themselves, so what was answered counts at once, flushed or
//! not. What else there is never changes: layers of a branch that a rollback left, and sets of records. It is
//! read once, by a helper thread, and kept as a set until the catalogue of the store changes.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::chain::Chain;
use super::plans::{ChangePlans, KeptPlan};
use super::served_store::SinceError;
use super::source::Missing;
use super::store::Blocks;
use crate::backend::context::ShardContext;
use crate::block::{BlockError, ByteRange, NumberedExtent};
use crate::store::catalog::LayerId;
use crate::store::map::{BlockState, Lookup};

impl Chain {
    /// Extents as of [`Chain::extents`], with 1 for what has changed since a snapshot, and 0 for the
    /// rest.
    pub(super) async fn changed(
        &self,
        range: ByteRange,
        plan: &KeptPlan,
        limit: usize,
        context: &ShardContext,
    ) -> Result<Vec<NumberedExtent>, BlockError> {
        let look = |rest: ByteRange| {
            let (end, changed) = self.known_change(rest.offset()..rest.end(), plan)?;
            let part = ByteRange::new(rest.offset(), end - rest.offset()).expect("a part of the range");
            Ok((part, changed.into()))
        };
        self.numbered(range, limit, context, look).await
    }

    /// Whether the first byte of a range has changed, and the end of a part for which that holds.
    fn known_change(&self, range: Range<u64>, plan: &KeptPlan) -> Result<(u64, bool), Missing> {
        let (is_other, mut end) = plan.other.run(range.start, range.end);
        if is_other {
            return Ok((end, true));
        }
        for index in &plan.live {
            let layer = &self.layers[*index];
            let until = end.min(layer.visible);
            if until <= range.start {
                continue;
            }
            let part = ByteRange::new(range.start, until - range.start).expect("a part of the range");
            let Blocks { start, length } = self.store.touched(part);
            match layer.map.borrow().lookup(start, length) {
                Lookup::Load(node) => return Err(Missing::Node { layer: *index, node }),
                Lookup::Run(run) => {
                    let until = until.min(run.end() * self.store.block());
                    if run.state != BlockState::Absent {
                        return Ok((until, true));
                    }
                    end = until;
                }
            }
        }
        Ok((end, false))
    }

    /// Where the changes since a snapshot are found.
    pub(super) async fn plan(
        &self,
        since: &Arc<str>,
        client: u32,
        plans: &ChangePlans,
        context: &ShardContext,
    ) -> Result<Rc<KeptPlan>, BlockError> {
        let open: Vec<Option<LayerId>> = self.layers.iter().map(|layer| layer.id).collect();
        let counter = self.store.change_counter();
        if let Some(kept) = plans.get(since).filter(|kept| kept.counter == counter && kept.open == open) {
            return Ok(kept);
        }
        let ids: Vec<LayerId> = open.iter().copied().flatten().collect();
        let (store, asked) = (Arc::clone(&self.store), (Arc::clone(since), ids));
        let key = Arc::as_ptr(&self.store) as usize;
        let found = context.helpers.run(key, client, move || store.changes_since(&asked.1, &asked.0)).await;
        let (live, other) = match found {
            Ok(Ok(found)) => found,
            // It was removed, or never there: a client that asks for it gets no answer instead of a wrong
            // one.
            Ok(Err(SinceError::Gone)) => return Err(BlockError::Invalid),
            Ok(Err(SinceError::Failed(why))) => {
                tracing::error!(snapshot = %since, %why, "what has changed since a snapshot cannot be told");
                return Err(BlockError::Io);
            }
            Err(_panicked) => return Err(BlockError::Io),
        };
        let place = |layer: LayerId| open.iter().position(|open| *open == Some(layer));
        let live = live.into_iter().filter_map(place).collect();
        let plan = Rc::new(KeptPlan { counter, open, live, other });
        plans.keep(since, &plan);
        Ok(plan)
    }
}
