//! Change tracking of a store: what has changed since a snapshot, and that this stays known.

use std::sync::Arc;

use super::catalog::{
    Below, CatalogChange, ChainNode, ImageId, ImageRefusal, ImageRow, LayerId, MergePair, NodeName,
    RecordAnchor, RecordHead, SnapshotId, SnapshotKeeps, SnapshotRow, StoreName,
};
pub(crate) use super::change_walk::OtherChanges;
use super::change_walk::{ChangeFiles, ChangeWalk};
use super::changed::{ChainDifference, ChangeRecord, ChangeTrace, ChangedSet, TraceStart, extent};
use super::collection_bug::{CollectionBug, is_planted};
use super::error::StoreError;
use super::maps::LayerMaps;
use super::open_store::OpenStore;

/// Snapshots of an image that are offered to clients by name, the newest ones.
const MOST_OFFERED: usize = 1000;

/// Where the changes of an image that is open are found.
#[derive(Debug)]
pub(crate) struct ChangePlan {
    /// Layers of the image whose maps are open and may still change.
    pub(crate) live: Vec<LayerId>,
    /// All else.
    pub(crate) rest: ChangeFiles,
}

impl TraceStart {
    fn of_image(row: &ImageRow) -> Self {
        let head = row.head.map(|head| Below { node: ChainNode::Layer(head), bytes: row.size });
        Self { size: row.size, from: head.unwrap_or(row.below), within: None }
    }
}

impl<M: LayerMaps> OpenStore<M> {
    pub(super) fn point(&self, node: &NodeName) -> Result<TraceStart, StoreError> {
        let image = self.image(&node.image)?;
        match &node.snapshot {
            None => Ok(TraceStart::of_image(image)),
            Some(name) => Ok(TraceStart::of_snapshot(self.snapshot_row(&node.image, name)?)),
        }
    }

    pub(super) fn snapshot_row(
        &self,
        image: &StoreName,
        name: &StoreName,
    ) -> Result<&SnapshotRow, StoreError> {
        let row = self.view()?.snapshot(self.image(image)?.id, name);
        Ok(row.ok_or_else(|| ImageRefusal::NoSnapshot { image: image.clone(), snapshot: name.clone() })?)
    }

    fn trace(&self, point: TraceStart) -> Result<Option<ChangeTrace>, StoreError> {
        Ok(ChangeTrace::of(self.view()?, point, &self.records))
    }

    /// The snapshots of which changes can be told, for whoever opens this image or snapshot.
    ///
    /// # Errors
    /// It is gone, or the catalogue cannot be read.
    pub(crate) fn tracked_snapshots(&self, node: &NodeName) -> Result<Vec<Arc<str>>, StoreError> {
        let own = self.trace(self.point(node)?)?;
        let rows = self.view()?.snapshots_of(self.image(&node.image)?.id);
        let (mut found, newest) = (Vec::new(), rows.len().saturating_sub(MOST_OFFERED));
        for row in &rows[newest..] {
            let trace = self.trace(TraceStart::of_snapshot(row))?;
            let is_known = own.as_ref().zip(trace).is_some_and(|(own, it)| own.difference(&it).is_some());
            if is_known && node.snapshot.as_ref() != Some(&row.name) {
                found.push(row.name.as_str().into());
            }
        }
        Ok(found)
    }

    /// Where to find what differs between an open image or snapshot and a snapshot of it. `open` are the
    /// layers that it has open, newest first; the catalogue need not know the first ones yet.
    ///
    /// # Errors
    /// A sentence; the snapshot is gone, or the changes cannot be known.
    pub(crate) fn plan_changes(
        &self,
        node: &NodeName,
        open: &[LayerId],
        since: &StoreName,
    ) -> Result<ChangePlan, StoreError> {
        let since = TraceStart::of_snapshot(self.snapshot_row(&node.image, since)?);
        let mut own = self.point(node)?;
        let view = self.view()?;
        let known = open.iter().position(|layer| view.layer(*layer).is_some());
        let new = &open[..known.unwrap_or(open.len())];
        match known.map(|known| ChainNode::Layer(open[known])) {
            Some(top) if top != own.from.node => {
                (own.from, own.within) = (Below { node: top, bytes: own.size }, None);
            }
            Some(_) => {}
            // It has none but what the catalogue does not know.
            None if new.is_empty() => {}
            None => own.from = self.image(&node.image)?.below,
        }
        let unknown = || StoreError::ChangesUnknown(node.to_string());
        let own_trace = self.trace(own)?.ok_or_else(unknown)?.under(new.iter().copied());
        let since_trace = self.trace(since)?.ok_or_else(unknown)?;
        let difference = own_trace.difference(&since_trace).ok_or_else(unknown)?;
        self.plan(&own_trace, &since_trace, difference, open, own.size.max(since.size))
    }

    fn plan(
        &self,
        first: &ChangeTrace,
        second: &ChangeTrace,
        difference: ChainDifference,
        open: &[LayerId],
        size: u64,
    ) -> Result<ChangePlan, StoreError> {
        let ChainDifference { first: of_first, second: of_second, hidden } = difference;
        let rest = ChangeFiles { maps: Vec::new(), sets: Vec::new(), hidden, size };
        let mut plan = ChangePlan { live: Vec::new(), rest };
        let mut record = None;
        for step in first.steps[..of_first].iter().chain(&second.steps[..of_second]) {
            if let Some(part) = step.part {
                if record.as_ref().is_none_or(|record: &ChangeRecord| record.layer != step.layer) {
                    record = Some(self.directory.change_record(step.layer)?);
                }
                let set = record.as_ref().and_then(|record| record.part(part)).cloned();
                plan.rest.sets.push(set.ok_or(StoreError::ChangesUnknown(step.layer.to_string()))?);
            } else if open.contains(&step.layer) {
                plan.live.push(step.layer);
            } else {
                plan.rest.maps.push((self.directory.open_map(step.layer)?, step.visible));
            }
        }
        Ok(plan)
    }

    /// What differs between two images or snapshots that nobody has open.
    ///
    /// # Errors
    /// A sentence; it cannot be known.
    pub(crate) fn changes_between(&self, a: &NodeName, b: &NodeName) -> Result<ChangeFiles, StoreError> {
        self.files_between(self.point(a)?, self.point(b)?)?
            .ok_or_else(|| StoreError::Unrelated(a.to_string(), b.to_string()))
    }

    fn files_between(&self, a: TraceStart, b: TraceStart) -> Result<Option<ChangeFiles>, StoreError> {
        let (Some(first), Some(second)) = (self.trace(a)?, self.trace(b)?) else { return Ok(None) };
        let Some(difference) = first.difference(&second) else { return Ok(None) };
        Ok(Some(self.plan(&first, &second, difference, &[], a.size.max(b.size))?.rest))
    }

    /// To be called before an image gets a layer under its head that holds all it had from below, and before
    /// the catalogue names that layer: otherwise it is not known any more what has changed since the image's
    /// snapshots.
    ///
    /// # Errors
    /// A sentence: the layer must not take the place.
    pub fn keep_changes(&mut self, image: &StoreName, taken_in: LayerId) -> Result<(), StoreError> {
        let row = self.image(image)?.clone();
        let now = TraceStart { size: row.size, from: row.below, within: None };
        let anchor = match row.since.and_then(|since| self.view().ok()?.snapshot_by_id(since).cloned()) {
            Some(since) => Some(since),
            None => self.related(now, row.id, taken_in, |_| true)?,
        };
        anchor.map_or(Ok(()), |anchor| self.record(taken_in, now, &anchor))
    }

    /// The newest snapshot of an image that has history in common with a point in time, and none of a layer
    /// that is to be anchored to it. An image that was rolled back has some that are not before the point.
    fn related(
        &self,
        point: TraceStart,
        image: ImageId,
        layer: LayerId,
        stays: impl Fn(SnapshotId) -> bool,
    ) -> Result<Option<SnapshotRow>, StoreError> {
        let Some(own) = self.trace(point)? else { return Ok(None) };
        for row in self.view()?.snapshots_of(image).into_iter().rev().filter(|row| stays(row.id)) {
            let Some(trace) = self.trace(TraceStart::of_snapshot(row))? else { continue };
            if own.difference(&trace).is_some() && trace.steps.iter().all(|step| step.layer != layer) {
                return Ok(Some(row.clone()));
            }
        }
        Ok(None)
    }

    /// To be called before two layers side by side become one, and before the catalogue names that one. It
    /// does nothing unless there are points in time within, or one of them has a record: what is in a map
    /// is not lost by merging.
    ///
    /// # Errors
    /// A sentence: they must not become one.
    pub fn keep_changes_of_merged(&mut self, pair: MergePair, into: LayerId) -> Result<(), StoreError> {
        let view = self.view()?;
        let [upper, lower] = pair.rows(view)?;
        let (upper_bytes, below) = (upper.below.bytes, lower.below);
        let cuts = [
            // What the upper one hides of the lower one, and that one of what is below it.
            upper_bytes..lower.size,
            below.bytes..extent(view, below.node),
        ];
        let marks: Vec<SnapshotId> = view
            .marks_on(lower.id)
            .filter(|row| row.keeps == SnapshotKeeps::Changes)
            .map(|row| row.id)
            .collect();
        let is_recorded = [pair.upper, pair.lower].iter().any(|layer| self.records.contains_key(layer));
        if marks.is_empty() && !is_recorded {
            return Ok(());
        }
        let mut record = self.parts_of(pair.upper)?;
        record.set.insert(cuts[0].clone());
        if is_planted(CollectionBug::MarkForgotten) && !marks.is_empty() {
            record.set = ChangedSet::default();
        }
        for mark in marks {
            record.points.push((mark, std::mem::take(&mut record.set)));
        }
        let ChangeRecord { anchor, points, set, .. } = self.parts_of(pair.lower)?;
        for (point, set) in points {
            record.set.add(&set);
            record.points.push((point, std::mem::take(&mut record.set)));
        }
        record.set.add(&set);
        if anchor.is_none() {
            record.set.insert(cuts[1].clone());
        }
        (record.layer, record.anchor) = (into, anchor);
        let view = self.view()?;
        record.forget_points(|point| view.snapshot_by_id(point).is_none() && !self.is_anchor(point));
        match record.anchor.is_none() && record.points.is_empty() {
            true => Ok(()),
            false => self.write_record(&record),
        }
    }

    /// Whether a record goes on at a point within another layer.
    fn is_anchor(&self, point: SnapshotId) -> bool {
        let is_it = |anchor| matches!(anchor, RecordAnchor::Point { id, .. } if id == point);
        self.records.values().flatten().any(|head| head.anchor.is_some_and(is_it))
    }

    /// The record of a layer, or what its record would be: all of its map in one part.
    fn parts_of(&self, layer: LayerId) -> Result<ChangeRecord, StoreError> {
        if self.records.contains_key(&layer) {
            return self.directory.change_record(layer);
        }
        let maps = vec![(self.directory.open_map(layer)?, u64::MAX)];
        let files = ChangeFiles { maps, sets: Vec::new(), hidden: [0..0, 0..0], size: u64::MAX };
        let set = self.as_set(layer, files)?;
        Ok(ChangeRecord { layer, anchor: None, points: Vec::new(), set })
    }

    /// A snapshot goes: records that are anchored to it are anchored to the one before it from then on, to
    /// one that came after it if there is none, or to where it was if none has anything in common with it.
    pub(super) fn fold_changes(&mut self, change: &CatalogChange) -> Result<(), StoreError> {
        for (gone, before) in change.folded() {
            let anchor = Some(RecordAnchor::Snapshot(gone));
            let is_anchor =
                |head: &Option<RecordHead>| head.as_ref().is_some_and(|head| head.anchor == anchor);
            let anchored: Vec<LayerId> = self
                .records
                .iter()
                .filter(|(layer, head)| is_anchor(head) && change.keeps_layer(**layer))
                .map(|(layer, _)| *layer)
                .collect();
            let view = self.view()?;
            let before = before.and_then(|before| view.snapshot_by_id(before)).cloned();
            let Some(gone) = view.snapshot_by_id(gone).cloned() else { continue };
            let (at, stays) =
                (TraceStart::of_snapshot(&gone), |id| change.folded().all(|(gone, _)| gone != id));
            for layer in anchored {
                let anchor = match &before {
                    Some(before) => Some(before.clone()),
                    None => self.related(at, gone.image, layer, stays)?,
                };
                match anchor {
                    Some(anchor) => self.record(layer, at, &anchor)?,
                    None => self.count_from_where_it_was(layer, &gone, change)?,
                }
            }
        }
        Ok(())
    }

    /// A snapshot goes that a record is anchored to, and none has anything in common with it. An image may
    /// have: it was rolled back to that snapshot. So the record goes on where the snapshot was.
    fn count_from_where_it_was(
        &mut self,
        layer: LayerId,
        gone: &SnapshotRow,
        change: &CatalogChange,
    ) -> Result<(), StoreError> {
        let bytes = gone.size.min(gone.below.bytes);
        let anchor = match gone.below.node {
            ChainNode::Base(id) => RecordAnchor::Base { id, bytes },
            ChainNode::Layer(stands_on) if change.keeps_layer(stands_on) => {
                self.keep_point(stands_on, gone)?;
                RecordAnchor::Point { id: gone.id, bytes }
            }
            // Nobody stands there any more.
            ChainNode::Nothing | ChainNode::Layer(_) => return Ok(()),
        };
        let record = ChangeRecord { anchor: Some(anchor), ..self.directory.change_record(layer)? };
        self.write_record(&record)
    }

    /// A snapshot becomes a point within the layer that it stands on, above all that this layer has.
    fn keep_point(&mut self, layer: LayerId, gone: &SnapshotRow) -> Result<(), StoreError> {
        let mut record = self.parts_of(layer)?;
        if record.points.iter().any(|(id, _)| *id == gone.id) {
            return Ok(());
        }
        let view = self.view()?;
        if record.anchor.is_none()
            && record.points.is_empty()
            && let Some(row) = view.layer(layer)
        {
            record.set.insert(row.below.bytes..extent(view, row.below.node));
        }
        record.points.insert(0, (gone.id, ChangedSet::default()));
        self.write_record(&record)
    }

    /// Writes a record for a layer that has the contents of a point in time, added to the one that it has.
    fn record(&mut self, layer: LayerId, of: TraceStart, anchor: &SnapshotRow) -> Result<(), StoreError> {
        let Some(files) = self.files_between(of, TraceStart::of_snapshot(anchor))? else { return Ok(()) };
        let (anchor, mut set) = (Some(RecordAnchor::Snapshot(anchor.id)), self.as_set(layer, files)?);
        let mut points = Vec::new();
        if self.records.contains_key(&layer) {
            let before = self.directory.change_record(layer)?;
            set.add(&before.set);
            points = before.points;
        }
        self.write_record(&ChangeRecord { layer, anchor, points, set })
    }

    fn as_set(&self, layer: LayerId, files: ChangeFiles) -> Result<ChangedSet, StoreError> {
        let set = files.walk().and_then(ChangeWalk::into_set);
        set.map_err(|error| StoreError::Map {
            layer,
            what: "compared with a snapshot",
            why: error.to_string(),
        })
    }

    fn write_record(&mut self, record: &ChangeRecord) -> Result<(), StoreError> {
        self.directory.write_change_record(record)?;
        self.records.insert(record.layer, Some(record.head()));
        Ok(())
    }

    /// Removes records of layers that are not there, or never came to be.
    pub(super) fn remove_unknown_records(&mut self) -> Result<(), StoreError> {
        let view = self.view()?;
        let is_known = |layer: &LayerId, head: &Option<RecordHead>| {
            // A record with points tells of them, whatever became of its anchor.
            let is_of_use = head.as_ref().is_none_or(|head| {
                !head.points.is_empty()
                    || head
                        .anchor
                        .is_none_or(|anchor| TraceStart::of_anchor(view, &self.records, anchor).is_some())
            });
            view.layer(*layer).is_some() && is_of_use
        };
        let unknown = self.records.iter().filter(|(layer, head)| !is_known(layer, head));
        let unknown: Vec<LayerId> = unknown.map(|(layer, _)| *layer).collect();
        unknown.into_iter().try_for_each(|layer| self.forget_changes(layer))
    }

    /// A layer is gone, and its record with it.
    pub(super) fn forget_changes(&mut self, layer: LayerId) -> Result<(), StoreError> {
        match self.records.remove(&layer) {
            Some(_) => self.directory.remove_change_record(layer),
            None => Ok(()),
        }
    }
}
