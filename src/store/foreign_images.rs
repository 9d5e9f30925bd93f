//! Images that begin with a snapshot which another store has written.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::catalog::{self, ForeignSnapshot, ImageId, LayerId, NewForeignImage, StoreName};
use super::collection_pins::CollectionPins;
use super::error::StoreError;
use super::foreign::{ForeignPacks, RangeSource, TierLimits, TierSources, is_of_network, open_source};
use super::layer_place::LayerPlace;
use super::maps::{LayerDescription, LayerMaps};
use super::open_store::{OpenStore, now_s, random_uuid};
use super::push_notes::note_push;
use super::tier_record::TierSnapshot;
use super::tier_setting::tier_of;
use crate::tier::uri::TierUri;

impl<M: LayerMaps> OpenStore<M> {
    /// Where bytes come from that other stores have written.
    pub(crate) fn set_range_source(&self, source: Arc<dyn RangeSource>, limits: TierLimits) {
        self.directory.foreign.set_limits(limits);
        self.directory.foreign.set_source(source);
    }

    /// An image that begins with a snapshot of another store. It can be used at once: its bytes come when
    /// they are read.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn clone_foreign(
        &mut self,
        name: &StoreName,
        from: &ForeignSnapshot,
    ) -> Result<(), StoreError> {
        let (id, layer) = (ImageId(random_uuid()), LayerId(random_uuid()));
        let (own, next_pack) = (self.header().store, self.last_reserved() + 1);
        let new = NewForeignImage { name, from, id, layer, own, next_pack };
        let change = self.decide(|view, minter| catalog::clone_foreign(view, minter, &new))?;
        self.directory.make_packs(own)?;
        let made = self.make_foreign_layer(&new);
        if made.is_err() {
            // What cannot be removed is found, and moved to lost/, the next time.
            let _removed = self.directory.remove_layer(layer);
        }
        made?;
        self.commit(&change)?;
        self.directory.remove_data(layer)
    }

    /// Notes which packs other stores have written.
    pub(super) fn follow_foreign(&self) -> Result<(), StoreError> {
        let view = self.view()?;
        if view.foreign_packs().next().is_some() {
            self.directory.foreign.follow(view);
            if let Some(place) = self.directory.packs(self.header().store)? {
                place.find_caches(view);
            }
            if !self.directory.foreign.has_source() {
                self.open_tiers()?;
            }
        }
        Ok(())
    }

    /// Packs that other stores have written and this one reads: who wrote each, and its number there.
    ///
    /// # Errors
    /// A change of the catalogue failed before.
    pub fn packs_of_tiers(&self) -> Result<BTreeSet<(Uuid, u64)>, StoreError> {
        Ok(self.view()?.foreign_packs().map(|row| (row.origin.store, row.origin.number)).collect())
    }

    /// Packs that other stores have written.
    pub(crate) fn foreign_packs(&self) -> Arc<ForeignPacks> {
        Arc::clone(&self.directory.foreign)
    }

    /// What a collection of packs leaves alone, for those who read contents.
    pub(crate) fn collection_pins(&self) -> Arc<CollectionPins> {
        Arc::clone(&self.directory.pins)
    }

    /// Opens the tiers that the store has packs of.
    pub(super) fn open_tiers(&self) -> Result<(), StoreError> {
        let known = self.directory.tiers()?;
        if !known.tiers.is_empty() {
            self.set_range_source(Arc::new(TierSources::open(&known.tiers)), known.limits());
        }
        Ok(())
    }

    /// Whether bytes of its images come over the network.
    ///
    /// # Errors
    /// It cannot be read what its tiers are.
    pub(crate) fn fetches(&self) -> Result<bool, StoreError> {
        let has_source = self.directory.foreign.has_source();
        Ok(has_source && self.directory.tiers()?.tiers.values().any(|address| is_of_network(address)))
    }

    /// Whether a tier is one that the store has opened.
    pub(super) fn has_tier(&self, from: &TierSnapshot) -> Result<bool, StoreError> {
        let known = self.directory.tiers()?;
        Ok(self.directory.foreign.has_source() && known.tiers.get(&from.tier) == Some(&from.address))
    }

    /// Images that begin with a snapshot of a tier. Whoever asks has noted there that it is needed.
    ///
    /// # Errors
    /// A sentence: then those before it are made.
    pub(crate) fn clone_from_tier(
        &mut self,
        from: &TierSnapshot,
        names: &[StoreName],
    ) -> Result<(), StoreError> {
        let snapshot = from.foreign()?;
        open_source(&from.address).map_err(StoreError::Tier)?;
        let mut known = self.directory.tiers()?;
        let has_trace = from.boot_trace.as_ref().is_some_and(|trace| known.note(trace));
        let is_new = known.tiers.insert(from.tier, from.address.clone()).as_ref() != Some(&from.address);
        if is_new || has_trace {
            self.directory.keep_tiers(&known)?;
        }
        if is_new {
            self.open_tiers()?;
        }
        for name in names {
            self.clone_foreign(name, &snapshot)?;
            self.note_clone(name, from);
        }
        Ok(())
    }

    /// What an image began as is on the tier, if that is the store's own: nobody has to push it there.
    fn note_clone(&self, name: &StoreName, from: &TierSnapshot) {
        let same = |address: String| address.parse().ok() == from.address.parse::<TierUri>().ok();
        if !tier_of(self.path()).ok().flatten().is_some_and(same) {
            return;
        }
        let rows = self.view().ok().and_then(|view| Some(view.snapshots_of(view.image(name)?.id)));
        for row in rows.unwrap_or_default() {
            if let Err(error) = note_push(self.path(), row.id.0, now_s()) {
                tracing::warn!(image = %name, %error, "`image ls` does not show that it is on the tier");
            }
        }
    }

    /// The layer has no blocks of its own: all that is read of it is in packs.
    fn make_foreign_layer(&self, new: &NewForeignImage<'_>) -> Result<(), StoreError> {
        let (layer, size) = (new.layer, new.from.root.size);
        let files = self.directory.begin_layer(layer, 0)?;
        let description = LayerDescription {
            store: self.header().store,
            image: new.id.0,
            layer: layer.0,
            parent: None,
            name: new.name.to_string(),
            created_s: now_s(),
            size,
            place: LayerPlace::default(),
        };
        let written = self.maps.create(&files.map, &description, &[]);
        written.map_err(|why| StoreError::Map { layer, what: "made", why })?;
        files.finish()
    }
}
