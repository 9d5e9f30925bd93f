//! What of a store a snapshot needs elsewhere: its root, and the packs that have its chunks.

use std::collections::BTreeMap;
use std::path::PathBuf;

use uuid::Uuid;

use super::catalog::{ForeignRow, NodeName, PackOrigin, PackRow};
use super::chunk_set::ChunkSet;
use super::contents_error::ContentsError;
use super::error::StoreError;
use super::ingest_counts::SPACE;
use super::manifest::{ManifestEntry, ManifestError, ManifestRoot, ReachedChunk, ReachedNode};
use super::maps::LayerMaps;
use super::open_store::OpenStore;
use super::packs::{PackPlace, pack_failure};

/// A pack that a snapshot needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededPack {
    pub number: u64,
    pub bytes: u64,
    pub chunks: u32,
    /// Where its footer begins.
    pub footer_offset: u64,
    pub from: NeededBytes,
}

/// Where the bytes of a pack are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NeededBytes {
    /// In a file of the store.
    Here(PathBuf),
    /// On a tier, where another store has put it. These are its names there.
    Tier { tier: Uuid, store: Uuid, number: u64, upload: u32 },
}

/// A snapshot whose contents are all in packs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedSnapshot {
    pub store: Uuid,
    pub uuid: Uuid,
    pub created_s: u64,
    pub size: u64,
    pub chunk_bytes: u32,
    pub domain: Uuid,
    /// The topmost node of its manifest, in hexadecimal, and the pack and slot that have it; none if all of
    /// it reads as zeroes.
    pub root: Option<(String, u64, u32)>,
    pub packs: Vec<NeededPack>,
}

/// A manifest, gone through.
struct NeededWalk<'a> {
    node: &'a NodeName,
    place: &'a PackPlace,
    /// Packs of other stores.
    foreign: BTreeMap<u64, ForeignRow>,
    needed: ChunkSet,
    count: u64,
}

impl NeededBytes {
    const fn of(row: &ForeignRow) -> Self {
        let PackOrigin { store, number } = row.origin;
        Self::Tier { tier: row.tier, store, number, upload: row.upload }
    }
}

fn unreadable(node: &NodeName, why: impl std::fmt::Display) -> StoreError {
    StoreError::Unreadable { node: node.to_string(), why: why.to_string() }
}

impl NeededWalk<'_> {
    /// Finds all names of a manifest.
    fn reach(&mut self, root: &ManifestRoot) -> Result<(), StoreError> {
        let of = self.node;
        let unreachable = |error: ManifestError<ContentsError>| unreadable(of, ContentsError::from(error));
        let shelf = self.place.shelf(root.space);
        let mut to_visit: Vec<ReachedNode> =
            ReachedNode::top(root).map_err(unreachable)?.into_iter().collect();
        self.count += to_visit.iter().filter(|node| self.needed.insert(&node.chunk.hash)).count() as u64;
        while let Some(node) = to_visit.pop() {
            let bytes = shelf.read(&node.chunk).map_err(|error| unreadable(of, error))?;
            for reached in node.below(&bytes).map_err(unreachable)? {
                let hash = match &reached {
                    ReachedChunk::Node(node) => node.chunk.hash,
                    ReachedChunk::Data(chunk) => chunk.hash,
                };
                if self.needed.insert(&hash) {
                    self.count += 1;
                    if let ReachedChunk::Node(node) = reached {
                        to_visit.push(node);
                    }
                }
            }
        }
        Ok(())
    }

    /// The packs that have them, the latest ones first: a chunk may be in several.
    fn packs(
        &mut self,
        mut rows: Vec<PackRow>,
        top: &ManifestEntry,
        found: &mut PackedSnapshot,
    ) -> Result<(), StoreError> {
        rows.sort_by_key(|row| std::cmp::Reverse(row.number));
        for row in rows {
            if self.count == 0 {
                break;
            }
            let path = self.place.path_of(row.number);
            let foreign = self.foreign.get(&row.number);
            let opened = self.place.open(row.number, row.space).map_err(pack_failure(path.clone()))?;
            let mut alive = 0;
            for chunk in opened.chunks() {
                let chunk = chunk.map_err(pack_failure(path.clone()))?;
                alive += u64::from(self.needed.remove(&chunk.hash));
            }
            if let ManifestEntry::Named(chunk) = top
                && found.root.is_none()
            {
                let hint = chunk.hint.filter(|hint| hint.pack == row.number).map(|hint| hint.slot);
                let located = opened.find(&chunk.hash, hint).map_err(pack_failure(path.clone()))?;
                found.root = located.map(|at| (chunk.hash.to_string(), row.number, at.slot()));
            }
            self.count -= alive;
            if alive > 0 {
                let from = foreign.map_or(NeededBytes::Here(path), NeededBytes::of);
                let (footer_offset, chunks) = (opened.footer_offset(), opened.count());
                let (number, bytes) = (row.number, row.bytes);
                found.packs.push(NeededPack { number, bytes, chunks, footer_offset, from });
            }
        }
        if self.count == 0 {
            return Ok(());
        }
        Err(unreadable(self.node, format_args!("{} of its chunks are in no pack of the store", self.count)))
    }
}

impl<M: LayerMaps> OpenStore<M> {
    /// How contents of stores are cut and named: bytes of a chunk, and the domain.
    #[must_use]
    pub const fn chunk_space() -> (u32, Uuid) {
        (SPACE.chunk_bytes, SPACE.domain)
    }

    /// What has to be where the snapshot is to be read.
    ///
    /// # Errors
    /// Not all of it is in packs; packs cannot be read.
    pub fn packed_snapshot(&self, node: &NodeName) -> Result<PackedSnapshot, StoreError> {
        let shape = self.shape(node)?;
        let Some(name) = &node.snapshot else { return Err(StoreError::NotPacked(node.to_string())) };
        let row = self.snapshot_row(&node.image, name)?;
        let contents = shape.contents.filter(|_| shape.layers.is_empty() && shape.base.is_none());
        let root = match contents {
            Some(contents) => contents.root,
            // Nothing was ever written.
            None if shape.layers.is_empty() && shape.base.is_none() => {
                ManifestRoot::zeroes(SPACE, shape.size)
            }
            None => return Err(StoreError::NotPacked(node.to_string())),
        };
        // What lies behind an end that was moved and came back reads as zeroes, which the manifest does not
        // say.
        let is_cut = contents.is_some_and(|contents| contents.visible < shape.size.min(contents.root.size));
        if is_cut || root.space != SPACE {
            return Err(StoreError::NotPacked(node.to_string()));
        }
        let (chunk_bytes, domain) = (root.space.chunk_bytes, root.space.domain);
        let mut found = PackedSnapshot {
            store: self.header().store,
            uuid: row.id.0,
            created_s: row.created_s,
            size: shape.size,
            chunk_bytes,
            domain,
            root: None,
            packs: Vec::new(),
        };
        match root.top {
            ManifestEntry::Zero => return Ok(found),
            ManifestEntry::Base => return Err(StoreError::NotPacked(node.to_string())),
            ManifestEntry::Named(_) => {}
        }
        let place = self.pack_place()?;
        let foreign = self.view()?.foreign_packs().map(|row| (row.number, row.clone())).collect();
        let mut walk = NeededWalk { node, place: &place, foreign, needed: ChunkSet::default(), count: 0 };
        walk.reach(&root)?;
        walk.packs(self.view()?.packs().cloned().collect(), &root.top, &mut found)?;
        Ok(found)
    }
}
