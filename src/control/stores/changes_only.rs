//! Snapshots that keep no contents, only which parts have changed.
//!
//! They are taken as all others are. What such a snapshot has stood on becomes one with the next layer of its
//! image, when nobody waits.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::offers::Stores;
use super::perform::{NeedsClosed, PerformError, outcome};
use crate::shard::Removal;
use crate::store::catalog::{NodeName, StoreName};
use crate::store::request::StoreAnswer;

impl Stores {
    /// Takes snapshots, and counts that.
    pub(super) async fn take_snapshots(
        self: &Rc<Self>,
        at: usize,
        nodes: Vec<NodeName>,
        is_changes_only: bool,
    ) -> Result<StoreAnswer, PerformError> {
        let one = &self.all[at];
        let (count, images) = (nodes.len() as u64, images_of(&nodes));
        let result = self.snapshot_in_turn(one, nodes, is_changes_only).await;
        one.snapshots.borrow_mut().count(outcome(&result), count);
        if result.is_ok() {
            // The layer that was sealed just now can take in the one below it, if nobody reads that.
            let marked = one.ask(move |store| store.of_changes_only(images)).await?;
            self.merge_later(at, marked?);
        }
        result
    }

    /// Takes snapshots that keep changes only. Those that are there give their contents up.
    pub(super) async fn keep_changes_only(
        self: &Rc<Self>,
        at: usize,
        nodes: Vec<NodeName>,
    ) -> Result<StoreAnswer, PerformError> {
        let (one, asked) = (&self.all[at], nodes.clone());
        let (there, new) = one.ask(move |store| store.told_apart(asked)).await??;
        if !new.is_empty() {
            self.take_snapshots(at, new, true).await?;
        }
        if !there.is_empty() {
            let needed = NeedsClosed {
                nodes: there.clone(),
                what: "made a snapshot that keeps changes only",
                is_forced: false,
            };
            // No snapshot is opened until it is done.
            let _turn = one.turn.lock().await;
            one.can_be_closed(&needed).await?;
            for node in &needed.nodes {
                one.close(node, Removal::WhenUnused, (&self.plane, self.collector())).await?;
            }
            let images = images_of(&there);
            one.ask(move |store| store.give_up_contents(&there)).await??;
            self.merge_later(at, images);
        }
        Ok(one.ask(move |store| store.describe_some(&nodes)).await?.map(StoreAnswer::Nodes)?)
    }
}

fn images_of(nodes: &[NodeName]) -> BTreeSet<StoreName> {
    nodes.iter().map(|node| node.image.clone()).collect()
}
