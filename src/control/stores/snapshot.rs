//! Snapshots of images, of which some are open and written meanwhile.
//!
//! The store's thread makes the files of their next heads, the homes of the images go one step together
//! ([`seal_group`]), and the store's thread notes that before and records all of it afterwards, each as one
//! change. An image that is not open is sealed by the store's thread.

use std::rc::Rc;

use super::offers::Stores;
use super::one::OneStore;
use super::perform::PerformError;
use crate::backend::{
    HomeTask, ImageHandle, NextHead, OpenError, RecordOutcome, SealFailure, SealMember, SnapshotError,
    SnapshotRecord, seal_group, sealing,
};
use crate::control::catalogue::Entry;
use crate::shard::Removal;
use crate::store::catalog::{LayerId, NewSnapshot, NodeName, StoreName};
use crate::store::error::StoreError;
use crate::store::map_files::MapFiles;
use crate::store::open_store::OpenStore;
use crate::store::request::{StoreAnswer, StoreRequest};

/// An image of the group that is open, by its place there.
struct OpenMember {
    index: usize,
    entry: Rc<Entry>,
    handle: ImageHandle,
}

/// What the store's thread has prepared.
struct PreparedGroup {
    group: Vec<NewSnapshot>,
    /// In the order of the members that are open.
    heads: Vec<NextHead>,
}

/// The changes of the catalogue.
struct GroupRecord<'a> {
    one: &'a OneStore,
    group: Vec<NewSnapshot>,
    /// The members that are open, by their places in the group.
    open: Vec<usize>,
    /// The last change was the one at the end.
    is_over: bool,
}

/// What the store's thread says of a change.
fn outcome(asked: Result<Result<(), StoreError>, StoreError>) -> RecordOutcome {
    match asked {
        Ok(Ok(())) => RecordOutcome::Recorded,
        Ok(Err(error)) if error.is_refusal() => RecordOutcome::Refused(error.to_string()),
        Ok(Err(error)) | Err(error) => RecordOutcome::Unknown(error.to_string()),
    }
}

impl GroupRecord<'_> {
    fn images(&self) -> Vec<StoreName> {
        self.group.iter().map(|new| new.image.clone()).collect()
    }
}

impl SnapshotRecord for GroupRecord<'_> {
    async fn begin(&mut self) -> RecordOutcome {
        let group = self.group.clone();
        outcome(self.one.ask(move |store| store.begin_snapshots(&group)).await)
    }

    async fn record(&mut self) -> RecordOutcome {
        let group = self.group.clone();
        self.is_over = true;
        outcome(self.one.ask(move |store| store.record_snapshots(&group)).await)
    }

    async fn withdraw(&mut self) {
        let images = self.images();
        let withdrawn = outcome(self.one.ask(move |store| store.withdraw_snapshots(&images)).await);
        if let RecordOutcome::Refused(error) | RecordOutcome::Unknown(error) = withdrawn {
            let what = "a snapshot that failed stays in the catalogue as one that is being taken: \
                        its images have no other one until they were closed";
            tracing::warn!(error, "{what}");
        }
    }

    async fn go_on_without(&mut self, settled: &[usize]) -> RecordOutcome {
        let (images, open) = (self.images(), &self.open);
        let durable: Vec<_> = settled.iter().map(|place| images[open[*place]].clone()).collect();
        outcome(self.one.ask(move |store| store.go_on_without_snapshots(&images, &durable)).await)
    }

    async fn read_again(&mut self) -> RecordOutcome {
        // The thread reads the catalogue again before it does the next job.
        let (group, is_over) = (self.group.clone(), self.is_over);
        let look = move |store: &mut OpenStore<MapFiles>| match is_over {
            true => has_all(store, &group),
            false => store.has_begun(&group),
        };
        match self.one.ask(look).await {
            Ok(Ok(true)) => RecordOutcome::Recorded,
            Ok(Ok(false)) => RecordOutcome::Refused("the change did not take place".to_owned()),
            Ok(Err(error)) | Err(error) => RecordOutcome::Unknown(error.to_string()),
        }
    }
}

/// Whether the catalogue has the next heads of a group.
fn has_all(store: &OpenStore<MapFiles>, group: &[NewSnapshot]) -> Result<bool, StoreError> {
    let view = store.view()?;
    Ok(group.iter().all(|new| {
        let row = view.image(&new.image);
        row.is_some_and(|row| row.head == new.next_head && view.snapshot(row.id, &new.snapshot).is_some())
    }))
}

impl Stores {
    /// Takes snapshots. The caller has the turn of the store.
    pub(super) async fn snapshot(
        &self,
        one: &OneStore,
        nodes: Vec<NodeName>,
        is_changes_only: bool,
    ) -> Result<StoreAnswer, PerformError> {
        let mut members = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let image = NodeName { image: node.image.clone(), snapshot: None };
            match self.open_entry(one, &image) {
                Some(entry) if entry.is_in_use() || one.of.fixed.contains_key(&image) => {
                    let handle = entry.export().and_then(|export| export.image());
                    members.extend(handle.map(|handle| OpenMember { index, entry, handle }));
                }
                _ => one.close(&image, Removal::WhenUnused, (&self.plane, self.collector())).await?,
            }
        }
        if members.is_empty() {
            let request = StoreRequest::Snapshot { nodes, changes_only: is_changes_only };
            return Ok(one.ask(move |store| store.perform_served(&request)).await??);
        }
        let handles: Vec<_> = members.iter().map(|member| (member.index, member.handle.clone())).collect();
        let wanted = (nodes.clone(), is_changes_only);
        let prepared = one.ask(move |store| prepare(store, wanted, &handles)).await?;
        let PreparedGroup { group, heads } = prepared?;
        let made: Vec<LayerId> = group.iter().filter_map(|new| new.next_head).collect();
        let open = members.iter().map(|member| member.index).collect();
        let mut record = GroupRecord { one, group, open, is_over: false };
        let sealed = match self.members(&members, heads) {
            Ok(sealed) => seal_group(sealed, &mut record).await,
            Err(error) => Err(error),
        };
        match sealed {
            Ok(pauses) => {
                one.snapshots.borrow_mut().add_pauses(&pauses);
                let longest_us = pauses.iter().max().map_or(0, |pause| pause.as_micros() as u64);
                tracing::info!(images = nodes.len(), longest_us, "a snapshot was taken of images in use");
            }
            Err(SnapshotError::Image(place, failure)) => {
                one.ask(move |store| discard(store, &made)).await?;
                let index = members.get(place).map_or(0, |member| member.index);
                return Err(PerformError::Seal(nodes[index].image.clone(), failure));
            }
            Err(error @ SnapshotError::Refused(_)) => {
                one.ask(move |store| discard(store, &made)).await?;
                return Err(PerformError::Record(error));
            }
            Err(error @ SnapshotError::Unknown(_)) => return Err(PerformError::Record(error)),
        }
        Ok(one.ask(move |store| store.describe_some(&nodes)).await?.map(StoreAnswer::Nodes)?)
    }

    /// The export of an image, if its files are open.
    fn open_entry(&self, one: &OneStore, image: &NodeName) -> Option<Rc<Entry>> {
        let fixed = one.of.fixed.get(image).and_then(|name| self.plane.find(name));
        fixed.or_else(|| one.entry(image)).filter(|entry| entry.export().is_some())
    }

    /// Sends each image's home its task.
    fn members(
        &self,
        members: &[OpenMember],
        heads: Vec<NextHead>,
    ) -> Result<Vec<SealMember>, SnapshotError> {
        let mut sealed = Vec::with_capacity(members.len());
        for (place, (OpenMember { entry, .. }, head)) in members.iter().zip(heads).enumerate() {
            let (member, task) = sealing(head);
            if !self.plane.visit(entry, HomeTask::Seal(task)) {
                return Err(SnapshotError::Image(place, SealFailure::Gone));
            }
            sealed.push(member);
        }
        Ok(sealed)
    }
}

/// Makes the next heads of images that are open, and what is needed of the others.
fn prepare(
    store: &mut OpenStore<MapFiles>,
    (nodes, is_changes_only): (Vec<NodeName>, bool),
    open: &[(usize, ImageHandle)],
) -> Result<PreparedGroup, StoreError> {
    let mut group = NewSnapshot::group(nodes, is_changes_only)?;
    store.expect_snapshots(&group)?;
    let mut heads = Vec::with_capacity(open.len());
    let made = (|| {
        for (index, handle) in open {
            let files = store.make_next_head(&group[*index].image)?;
            group[*index].next_head = Some(files.id);
            heads.push(handle.next_head(files).map_err(of_opening)?);
        }
        let others = group.iter().filter(|new| new.next_head.is_none());
        others.map(|new| &new.image).try_for_each(|image| store.prepare_seal(image))
    })();
    if let Err(error) = made {
        let made: Vec<LayerId> = group.iter().filter_map(|new| new.next_head).collect();
        discard(store, &made);
        return Err(error);
    }
    Ok(PreparedGroup { group, heads })
}

fn of_opening(error: OpenError) -> StoreError {
    match error {
        OpenError::Store(error) => error,
        error => StoreError::NoNextHead(error.to_string()),
    }
}

/// What cannot be removed goes to `lost/` when the store is opened again.
fn discard(store: &OpenStore<MapFiles>, made: &[LayerId]) {
    for layer in made {
        // A head that the catalogue has is one, whatever became of its image's home.
        if store.view().is_ok_and(|view| view.layer(*layer).is_some() || view.is_next_head(*layer)) {
            continue;
        }
        if let Err(error) = store.discard_next_head(*layer) {
            tracing::warn!(%error, "the files of a head that is not needed stay until the store is opened again");
        }
    }
}
