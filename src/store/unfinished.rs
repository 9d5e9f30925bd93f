//! Snapshots of images that are served: begun, taken, and what an interruption leaves between the two.
//!
//! Between the two an image may have been answered for writes to its next head that the catalogue does not
//! lead to yet. No FLUSH is answered for them. So they may be lost when the power fails, and only then:
//! after a kill in the same boot the next head takes over all the same. What it takes over from is made
//! durable before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;

use uuid::Uuid;

use super::catalog::{
    self, CatalogView, ImageId, ImageRefusal, MapPlace, NewSnapshot, StoreName, TentativeRow,
};
use super::error::StoreError;
use super::maps::LayerMaps;
use super::open_store::OpenStore;
use super::pending::this_boot;

/// Whether a next head may have writes that were answered and are still there: since it was made no power
/// has failed.
pub(crate) fn may_have_answered(made: Uuid, now: Option<Uuid>) -> bool {
    !canary!(TentativeDropped) && Some(made) == now
}

fn place(map: &File) -> Option<MapPlace> {
    map.metadata().ok().map(|status| (status.dev(), status.ino()))
}

fn ids(view: &CatalogView, names: &[StoreName]) -> Result<Vec<ImageId>, ImageRefusal> {
    let id = |name: &StoreName| view.image(name).map(|row| row.id);
    names.iter().map(|name| id(name).ok_or_else(|| ImageRefusal::NoImage(name.clone()))).collect()
}

impl<M: LayerMaps> OpenStore<M> {
    /// Notes that snapshots are being taken. Their next heads are durable, and may take over after that.
    ///
    /// # Errors
    /// As of [`OpenStore::record_snapshots`].
    pub fn begin_snapshots(&mut self, group: &[NewSnapshot]) -> Result<(), StoreError> {
        // Without it nobody could tell a kill from a power cut, and what was answered last goes in both.
        self.begin_during(this_boot().unwrap_or_default(), group)
    }

    fn begin_during(&mut self, boot: Uuid, group: &[NewSnapshot]) -> Result<(), StoreError> {
        let mut places = BTreeMap::new();
        for next in group.iter().filter_map(|new| new.next_head) {
            let (_, map) = self.directory.open_layer(next)?;
            places.insert(next, place(&map).unwrap_or_default());
        }
        let change =
            self.decide(|view, minter| catalog::begin_snapshots(view, minter, group, boot, &places))?;
        self.commit(&change).map(drop)
    }

    /// Whether it is noted that these snapshots are being taken.
    ///
    /// # Errors
    /// The catalogue cannot be looked at.
    pub fn has_begun(&self, group: &[NewSnapshot]) -> Result<bool, StoreError> {
        let view = self.view()?;
        Ok(group.iter().all(|new| {
            let row = view.image(&new.image);
            row.is_some_and(|row| view.tentative_of(row.id).any(|begun| begun.next_head == new.next_head))
        }))
    }

    /// Forgets snapshots that were begun: none of their next heads has taken over.
    ///
    /// # Errors
    /// As of [`OpenStore::record_snapshots`].
    pub fn withdraw_snapshots(&mut self, images: &[StoreName]) -> Result<(), StoreError> {
        let change = self.decide(|view, _| Ok(catalog::withdraw(view, &ids(view, images)?)))?;
        if change.is_empty() { Ok(()) } else { self.commit(&change).map(drop) }
    }

    /// Snapshots failed after next heads had taken over: the sealed heads of `durable` are durable, so what
    /// took over from them has done so for good.
    ///
    /// # Errors
    /// As of [`OpenStore::record_snapshots`].
    pub fn go_on_without_snapshots(
        &mut self,
        images: &[StoreName],
        durable: &[StoreName],
    ) -> Result<(), StoreError> {
        let change = self.decide(|view, minter| {
            let (images, durable) = (ids(view, images)?, ids(view, durable)?);
            catalog::go_on_without_snapshots(view, minter, &images, &durable, &[])
        })?;
        self.commit(&change).map(drop)
    }

    /// Takes, or forgets, what was begun of images of which none is open. What cannot be taken is told, and
    /// stays until its image is opened.
    ///
    /// # Errors
    /// The catalogue's.
    pub fn finish_left_snapshots(&mut self) -> Result<(), StoreError> {
        let groups: BTreeSet<Uuid> = self.view()?.tentative().map(|row| row.group).collect();
        for group in groups {
            let rows: Vec<TentativeRow> =
                self.view()?.tentative().filter(|row| row.group == group).cloned().collect();
            if let Err(error) = self.finish(&rows) {
                if self.view().is_err() {
                    return Err(error);
                }
                let what = "a snapshot that was being taken when its server ended is not finished: \
                            its images are tried again when they are opened";
                tracing::warn!(%error, "{what}");
            }
        }
        Ok(())
    }

    /// The same of one image that is not open, without its snapshot: other images of the group may be open.
    ///
    /// # Errors
    /// It cannot be done, so the image must not be opened.
    pub(crate) fn finish_left_snapshot(&mut self, image: &StoreName) -> Result<(), StoreError> {
        let (id, view) = (self.image(image)?.id, self.view()?);
        let groups: BTreeSet<Uuid> = view.tentative_of(id).map(|row| row.group).collect();
        let rows = view.tentative().filter(|row| groups.contains(&row.group));
        let rows: Vec<TentativeRow> = rows.cloned().collect();
        match rows.is_empty() {
            true => Ok(()),
            false => self.go_on(&rows, |row| row.image == id),
        }
    }

    fn finish(&mut self, rows: &[TentativeRow]) -> Result<(), StoreError> {
        let mut group = Vec::new();
        for row in rows.iter().filter(|row| self.may_take_over(row)) {
            let image = self.view()?.image_by_id(row.image).map(|image| image.name.clone());
            let new = row.snapshot.clone().zip(image);
            group.extend(new.map(|(snapshot, image)| NewSnapshot {
                image,
                snapshot,
                next_head: row.next_head,
                is_changes_only: row.is_changes_only,
            }));
        }
        if group.len() < rows.len() {
            return self.go_on(rows, |_| true);
        }
        group.iter().try_for_each(|new| self.prepare_seal(&new.image))?;
        self.record_snapshots(&group)?;
        tracing::info!(images = group.len(), "a snapshot was taken that a server had begun which ended");
        Ok(())
    }

    /// Finishes some rows of a group without their snapshots: next heads take over for good, or go.
    fn go_on(
        &mut self,
        rows: &[TentativeRow],
        wanted: impl Fn(&TentativeRow) -> bool,
    ) -> Result<(), StoreError> {
        let mut kept = Vec::new();
        for row in rows.iter().filter(|row| wanted(row) && self.may_take_over(row)) {
            if let Some(image) = self.view()?.image_by_id(row.image).map(|image| image.name.clone()) {
                self.prepare_seal(&image)?;
                kept.push(row.image);
            }
        }
        let gone: Vec<ImageId> = rows.iter().filter(|row| wanted(row)).map(|row| row.image).collect();
        let all: Vec<ImageId> = rows.iter().map(|row| row.image).collect();
        let change =
            self.decide(|view, minter| catalog::go_on_without_snapshots(view, minter, &all, &kept, &gone))?;
        self.commit(&change).map(drop)
    }

    /// Whether the next head may have writes that were answered, and the image is as it was.
    fn may_take_over(&self, row: &TentativeRow) -> bool {
        let Ok(view) = self.view() else { return false };
        let is_same = view.image_by_id(row.image).is_some_and(|image| image.head == row.head);
        let is_there = row.next_head.is_none_or(|next| {
            let files = self.directory.open_layer(next);
            view.layer(next).is_none() && files.is_ok_and(|(_, map)| place(&map) == Some(row.place))
        });
        is_same && is_there && may_have_answered(row.boot, this_boot())
    }
}

#[cfg(test)]
mod tests;
