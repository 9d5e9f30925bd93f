//! A snapshot of a store as a tier is told of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::catalog::NodeName;
use super::pushing::{NeededBytes, NeededPack, PackedSnapshot};
use crate::tier::keys::PackKey;
use crate::tier::push::{PackSource, SnapshotPush};
use crate::tier::records::{RecordPack, RecordRoot, TierSpace};
use crate::tier::{PackBytes, PackUpload};

/// Packs by their files.
pub struct PackFiles(BTreeMap<PackKey, PathBuf>);

impl PackSource for PackFiles {
    fn open(&self, pack: &PackKey) -> io::Result<Option<Box<dyn PackBytes>>> {
        // The same pack under a further name is the same file.
        let first = PackKey { upload: 0, ..*pack };
        let Some(path) = self.0.get(&first) else { return Ok(None) };
        Ok(Some(Box::new(PackUpload::new(File::open(path)?)?)))
    }
}

/// What a pack is called on the tier.
fn key(of: &PackedSnapshot, pack: &NeededPack) -> PackKey {
    match pack.from {
        NeededBytes::Here(_) => PackKey { store: of.store, number: pack.number, upload: 0 },
        NeededBytes::Tier { store, number, upload, .. } => PackKey { store, number, upload },
    }
}

/// The files of packs that this store has written.
#[must_use]
pub fn pack_files(of: &PackedSnapshot) -> PackFiles {
    let paths = of.packs.iter().filter_map(|pack| match &pack.from {
        NeededBytes::Here(path) => Some((key(of, pack), path.clone())),
        NeededBytes::Tier { .. } => None,
    });
    PackFiles(paths.collect())
}

/// What has to be in the tier for a snapshot.
#[must_use]
pub fn push_plan(node: &NodeName, of: &PackedSnapshot) -> SnapshotPush {
    let record = |pack: &NeededPack| RecordPack {
        footer_offset: pack.footer_offset,
        chunks: pack.chunks.into(),
        local: matches!(pack.from, NeededBytes::Tier { .. }).then_some(pack.number),
        ..RecordPack::new(key(of, pack), pack.bytes)
    };
    let root = of.root.as_ref().and_then(|(hash, number, slot)| {
        let pack = of.packs.iter().find(|pack| pack.number == *number)?;
        Some(RecordRoot::Node { hash: hash.clone(), pack: key(of, pack), slot: *slot })
    });
    let root = root.unwrap_or(RecordRoot::Zeroes);
    let (chunk_bytes, domain) = (of.chunk_bytes, of.domain);
    let packs = of.packs.iter().map(record);
    SnapshotPush {
        image: node.image.to_string(),
        snapshot: node.snapshot.as_ref().map(ToString::to_string).unwrap_or_default(),
        uuid: of.uuid,
        created_s: of.created_s,
        size: of.size,
        space: TierSpace { algorithm: "blake3".to_owned(), chunk_bytes, domain },
        root,
        packs: packs.collect(),
    }
}
