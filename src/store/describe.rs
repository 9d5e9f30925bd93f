//! What is told of a store, its images and its snapshots, in the form that programs are given it. Its keys
//! are part of the interface.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::catalog::{
    CatalogView, ChainNode, ChunkCompression, ImageRefusal, LayerRow, ListedNode, NodeName, SpaceFigures,
    listing,
};
use super::error::StoreError;
use super::maps::LayerMaps;
use super::open_store::{OpenStore, StoreUsage, now_s};
use super::push_notes::{PushLag, PushNotes};
use super::ratio::SpaceRatio;

/// Layers that are missing, of which so many are named.
const MISSING: usize = 8;
/// Snapshots of an image, or clones of a snapshot, that a brief description names.
const BRIEF: usize = 100;

/// An image or a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    pub name: String,
    /// `image` or `snapshot`.
    pub kind: String,
    pub uuid: String,
    pub size: u64,
    pub used: u64,
    pub unique: u64,
    pub shared: u64,
    /// Bytes that it has for each byte that comes back when it is removed; none if none does.
    #[serde(default)]
    pub ratio: Option<SpaceRatio>,
    /// These four are estimates as far as packs are concerned: `store gc` counts them.
    #[serde(default)]
    pub estimated: bool,
    pub depth: usize,
    /// Of a snapshot: when it was pushed to the store's tier, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<u64>,
    /// Of an image that has a snapshot on the tier: what the loss of the host would cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<PushLag>,
    /// Seconds since 1970.
    pub created: u64,
    /// The snapshot that an image was cloned from.
    pub origin: Option<String>,
    /// Of a snapshot: what was cloned from it.
    pub clones: Vec<String>,
    /// Of an image: its snapshots, oldest first.
    pub snapshots: Vec<String>,
    pub base: Option<String>,
    /// The layer that takes the writes of an image.
    pub head: Option<String>,
    pub held: bool,
    /// Of a snapshot: it has no contents, only which parts of the disk have changed.
    #[serde(default)]
    pub changes_only: bool,
    pub quota: Option<u64>,
    pub pairs: BTreeMap<String, String>,
}

/// Several of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescriptions {
    pub store: PathBuf,
    pub nodes: Vec<NodeDescription>,
    /// Layers whose files are missing: what they take counts as nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// An image or a snapshot, without more names than a reader needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct BriefNode {
    #[serde(flatten)]
    pub node: NodeDescription,
    pub snapshot_count: usize,
    pub clone_count: usize,
}

/// The beginning of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FirstNodes {
    pub nodes: Vec<BriefNode>,
    /// All that the store has.
    pub images: usize,
    pub snapshots: usize,
    pub missing: Vec<String>,
}

impl BriefNode {
    fn of(mut node: NodeDescription) -> Self {
        let (snapshot_count, clone_count) = (node.snapshots.len(), node.clones.len());
        node.snapshots.truncate(BRIEF);
        node.clones.truncate(BRIEF);
        Self { node, snapshot_count, clone_count }
    }
}

/// A store as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreDescription {
    pub store: PathBuf,
    pub uuid: String,
    pub created: u64,
    pub generation: u64,
    pub images: usize,
    pub snapshots: usize,
    pub layers: usize,
    pub bases: usize,
    /// Bytes of all images.
    pub size: u64,
    /// Bytes that data takes on the disk, and maps.
    pub used: u64,
    pub maps: u64,
    /// Bytes of all packs.
    #[serde(default)]
    pub packs: u64,
    /// Bytes that disks have in packs. Contents of several images or snapshots count once.
    #[serde(default)]
    pub packed: u64,
    /// Bytes of packs that something needs; the rest is garbage.
    #[serde(default)]
    pub needed: u64,
    /// Bytes that disks have in packs for each byte that these take; none without any.
    #[serde(default)]
    pub ratio: Option<SpaceRatio>,
    /// These three are estimates: `store gc` counts them.
    #[serde(default)]
    pub estimated: bool,
    /// How what comes into packs is compressed: `none`, `lz4` or `zstd`.
    #[serde(default)]
    pub compression: String,
    /// What waits to be removed for good.
    pub lost: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

fn name_of(line: &ListedNode<'_>) -> NodeName {
    NodeName { image: line.image.name.clone(), snapshot: line.snapshot.map(|row| row.name.clone()) }
}

fn description(view: &CatalogView, line: &ListedNode<'_>, is_exact: bool) -> NodeDescription {
    let (image, space) = (line.image, line.space);
    let (created, base) = match line.snapshot {
        Some(row) => (row.created_s, view.chain(row.below).1),
        None => (image.created_s, view.image_chain(image).1),
    };
    let clones = line.snapshot.map(|row| view.clones_of(row.id)).unwrap_or_default();
    let snapshots = if line.snapshot.is_some() { Vec::new() } else { view.snapshots_of(image.id) };
    let own = line.snapshot.is_none();
    NodeDescription {
        name: name_of(line).to_string(),
        kind: if own { "image" } else { "snapshot" }.to_owned(),
        uuid: line.snapshot.map_or_else(|| image.id.to_string(), |row| row.id.to_string()),
        size: line.snapshot.map_or(image.size, |row| row.size),
        used: space.used,
        unique: space.unique,
        shared: space.shared,
        ratio: SpaceRatio::of(space.used, space.unique).filter(|_| !space.is_unknown),
        estimated: space.is_unknown || space.is_packed && !is_exact,
        depth: space.depth,
        pushed: None,
        lag: None,
        created,
        origin: if own { view.origin_name(image.origin) } else { None },
        clones: clones.iter().map(|image| image.name.to_string()).collect(),
        snapshots: snapshots.iter().map(|row| view.full_name(row)).collect(),
        base: match base {
            ChainNode::Base(id) => view.base(id).map(|row| row.path.clone()),
            ChainNode::Nothing | ChainNode::Layer(_) => None,
        },
        head: image.head.filter(|_| own).map(|id| id.to_string()),
        held: line.snapshot.map_or(image.is_held, |row| row.is_held),
        changes_only: line.snapshot.is_some_and(|row| row.is_changes_only()),
        quota: image.quota.filter(|_| own),
        pairs: if own { image.pairs.clone() } else { BTreeMap::new() },
    }
}

fn missing(usage: StoreUsage) -> Vec<String> {
    usage.missing.into_iter().take(MISSING).collect()
}

impl<M: LayerMaps> OpenStore<M> {
    fn lines<'a>(&self, view: &'a CatalogView, usage: &StoreUsage) -> Vec<ListedNode<'a>> {
        let contents = |layer| self.packed_space(layer);
        listing(view, &SpaceFigures { layer: &|layer| usage.of(layer), contents: &contents })
    }

    /// A line, with what is known of its tier.
    fn described(
        &self,
        view: &CatalogView,
        line: &ListedNode<'_>,
        (usage, is_exact, notes): (&StoreUsage, bool, &PushNotes),
    ) -> NodeDescription {
        let mut found = description(view, line, is_exact);
        let taken = |row: &LayerRow| {
            let packed = view.contents(row.id).and_then(|_| self.packed_space(row.id));
            usage.of(row.id).saturating_add(packed.map_or(0, |space| space.own_data))
        };
        match line.snapshot {
            Some(row) => found.pushed = notes.pushed_s(row.id.0),
            None => found.lag = notes.lag(view, line.image, taken, now_s()),
        }
        found
    }

    /// All images and snapshots, as a tree.
    ///
    /// # Errors
    /// A change of the catalogue failed before.
    pub fn describe_all(&self) -> Result<NodeDescriptions, StoreError> {
        let (view, usage, is_exact) = (self.view()?, self.usage()?, self.packed_store()?.is_exact);
        let notes = self.directory.push_notes();
        let lines = self.lines(view, &usage);
        let nodes = lines.iter().map(|line| self.described(view, line, (&usage, is_exact, &notes))).collect();
        Ok(NodeDescriptions { store: self.path().to_owned(), nodes, missing: missing(usage) })
    }

    /// The first images and snapshots of the tree, and how many there are.
    ///
    /// # Errors
    /// A change of the catalogue failed before.
    pub(crate) fn describe_first(&self, most: usize) -> Result<FirstNodes, StoreError> {
        let (view, usage, is_exact) = (self.view()?, self.usage()?, self.packed_store()?.is_exact);
        let notes = self.directory.push_notes();
        let counts = view.counts();
        let lines = self.lines(view, &usage);
        let nodes = lines
            .iter()
            .take(most)
            .map(|line| BriefNode::of(self.described(view, line, (&usage, is_exact, &notes))))
            .collect();
        Ok(FirstNodes { nodes, images: counts.images, snapshots: counts.snapshots, missing: missing(usage) })
    }

    /// Some of them, in the order in which they are named. What is not there is left out.
    ///
    /// # Errors
    /// A change of the catalogue failed before.
    pub fn describe_some(&self, nodes: &[NodeName]) -> Result<NodeDescriptions, StoreError> {
        let (view, usage, is_exact) = (self.view()?, self.usage()?, self.packed_store()?.is_exact);
        let notes = self.directory.push_notes();
        let lines = self.lines(view, &usage);
        let by_name: BTreeMap<NodeName, &ListedNode<'_>> =
            lines.iter().map(|line| (name_of(line), line)).collect();
        let found = nodes.iter().filter_map(|node| by_name.get(node));
        let nodes = found.map(|line| self.described(view, line, (&usage, is_exact, &notes))).collect();
        Ok(NodeDescriptions { store: self.path().to_owned(), nodes, missing: Vec::new() })
    }

    /// One of them.
    ///
    /// # Errors
    /// It is not there.
    pub fn describe(&self, node: &NodeName) -> Result<NodeDescription, StoreError> {
        let found = self.describe_some(std::slice::from_ref(node))?.nodes.pop();
        found.map_or_else(|| Err(self.no_such(node)), Ok)
    }

    fn no_such(&self, node: &NodeName) -> StoreError {
        let (image, snapshot) = (node.image.clone(), node.snapshot.clone());
        match (snapshot, self.view().map(|view| view.image(&image).is_some())) {
            (Some(snapshot), Ok(true)) => ImageRefusal::NoSnapshot { image, snapshot }.into(),
            _ => ImageRefusal::NoImage(image).into(),
        }
    }

    /// The store as a whole.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn describe_store(&self) -> Result<StoreDescription, StoreError> {
        let (view, header, usage) = (self.view()?, self.header(), self.usage()?);
        let (counts, packed) = (view.counts(), self.packed_store()?);
        Ok(StoreDescription {
            store: self.path().to_owned(),
            uuid: header.store.to_string(),
            created: header.created_s,
            generation: header.generation,
            images: counts.images,
            snapshots: counts.snapshots,
            layers: counts.layers,
            bases: counts.bases,
            size: view.images().map(|image| image.size).fold(0, u64::saturating_add),
            used: usage.data.values().sum::<u64>().saturating_add(usage.packs),
            maps: usage.maps,
            packs: usage.packs,
            packed: packed.data,
            needed: packed.needed,
            ratio: SpaceRatio::of(packed.data, packed.needed),
            estimated: !packed.is_exact,
            compression: match header.compression() {
                ChunkCompression::None => "none",
                ChunkCompression::Lz4 => "lz4",
                ChunkCompression::Zstd => "zstd",
            }
            .to_owned(),
            lost: self.lost()?,
            missing: missing(usage),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalog::StoreName;
    use super::super::map_files::MapFiles;
    use super::*;

    #[test]
    fn a_brief_list_is_the_beginning_of_the_whole_one() {
        let house = tempfile::tempdir().unwrap();
        let mut store = OpenStore::init(&house.path().join("store"), MapFiles).unwrap();
        store.create_empty(&"golden".parse().unwrap(), 512).unwrap();
        store.snapshot(vec!["golden@v1".parse().unwrap()]).unwrap();
        let names: Vec<StoreName> = (0..150).map(|number| format!("vm{number}").parse().unwrap()).collect();
        store.clone_images("golden@v1".parse().unwrap(), &names).unwrap();
        let (all, first) = (store.describe_all().unwrap().nodes, store.describe_first(5).unwrap());
        assert_eq!((first.images, first.snapshots, first.nodes.len()), (151, 1, 5));
        for (brief, whole) in first.nodes.iter().zip(all.iter().cloned()) {
            assert_eq!(
                (brief.snapshot_count, brief.clone_count),
                (whole.snapshots.len(), whole.clones.len())
            );
            let clones = whole.clones.iter().take(BRIEF).cloned().collect();
            assert_eq!(brief.node, NodeDescription { clones, ..whole });
        }
        assert_eq!((first.nodes[1].clone_count, first.nodes[1].node.clones.len()), (150, BRIEF));
        assert_eq!(store.describe_first(usize::MAX).unwrap().nodes.len(), all.len());
    }
}
