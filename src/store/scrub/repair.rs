//! Damaged chunks are written again where a good copy of them is found: in another pack, in a layer that is
//! not in packs, in a base, or in a file that the user names. What is written is what was there before, to
//! the bit, and in its place: so nothing else has to change, and an interruption leaves a chunk as it was or
//! good.

use std::collections::BTreeMap;
use std::path::Path;

use super::copies::{CopySource, each_chunk};
use super::scan::{FoundDamage, PackScan};
use crate::store::base::base_differs;
use crate::store::catalog::PackRow;
use crate::store::error::StoreError;
use crate::store::ingest_counts::SPACE;
use crate::store::maps::LayerMaps;
use crate::store::open_store::OpenStore;
use crate::store::pack::{ChunkHash, ChunkHint, ChunkKind};
use crate::store::packs::PackPlace;

/// What is still looked for, by its name: which of what was found.
type WantedCopies = BTreeMap<ChunkHash, Vec<usize>>;

impl<M: LayerMaps> OpenStore<M> {
    /// Writes again what it finds copies of.
    pub(super) fn repair(&self, scan: &mut PackScan<'_>, copies: &[CopySource]) -> Result<(), StoreError> {
        let mut wanted = WantedCopies::new();
        for (number, damage) in scan.found.iter().enumerate() {
            wanted.entry(damage.chunk.hash).or_default().push(number);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let rows: BTreeMap<u64, &PackRow> = self.view()?.packs().map(|row| (row.number, row)).collect();
        for row in rows.values() {
            copies_of_pack(scan, row, &rows, &mut wanted)?;
        }
        // Nodes are in packs only.
        let is_data = |numbers: &Vec<usize>| scan.found[numbers[0]].chunk.kind == ChunkKind::Data;
        let mut left: WantedCopies = wanted.into_iter().filter(|(_, numbers)| is_data(numbers)).collect();
        for source in copies {
            copies_of_file(scan, source, &rows, &mut left)?;
        }
        if left.is_empty() {
            return Ok(());
        }
        for source in self.own_sources()? {
            // A layer that is damaged too is no help, and no reason to end.
            match copies_of_file(scan, &source, &rows, &mut left) {
                Err(StoreError::Named { path, source: error, .. }) => {
                    tracing::warn!(path = %path.display(), %error, "copies of damaged chunks are not looked for here");
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// Layers that have files of data, and bases that are what they were.
    fn own_sources(&self) -> Result<Vec<CopySource>, StoreError> {
        let (view, mut sources) = (self.view()?, Vec::new());
        for row in view.layers().filter(|row| view.contents(row.id).is_none()) {
            let Ok((data, _)) = self.directory.open_layer(row.id) else { continue };
            let path = self.directory.layer_path(row.id).join("data");
            let length = data.metadata().map_or(0, |metadata| metadata.len());
            sources.push(CopySource { path, file: data, length });
        }
        for row in view.bases().filter(|row| matches!(base_differs(row), Ok(None))) {
            sources.extend(CopySource::of_path(Path::new(&row.path)));
        }
        Ok(sources)
    }
}

/// Looks for what is wanted in a pack.
fn copies_of_pack(
    scan: &mut PackScan<'_>,
    row: &PackRow,
    rows: &BTreeMap<u64, &PackRow>,
    wanted: &mut WantedCopies,
) -> Result<(), StoreError> {
    let Ok(pack) = scan.place.open(row.number, row.space) else { return Ok(()) };
    // What it tells of before its footer cannot be read any more is of use too.
    let here = pack.walk().filter_map(Result::ok).filter(|chunk| wanted.contains_key(&chunk.told().hash));
    for chunk in here.collect::<Vec<_>>() {
        let (hash, Ok(contents)) = (chunk.told().hash, pack.read(&chunk)) else { continue };
        restore(scan, rows, &hash, &contents, wanted);
        scan.looked_at(contents.len() as u64)?;
    }
    Ok(())
}

/// Looks for what is wanted in a file.
fn copies_of_file(
    scan: &mut PackScan<'_>,
    source: &CopySource,
    rows: &BTreeMap<u64, &PackRow>,
    wanted: &mut WantedCopies,
) -> Result<(), StoreError> {
    /// What ends the reading of a file.
    enum CopyEnd {
        Io(std::io::Error),
        Told(StoreError),
    }
    impl From<std::io::Error> for CopyEnd {
        fn from(error: std::io::Error) -> Self {
            Self::Io(error)
        }
    }
    let read = each_chunk(&source.file, source.length, SPACE.chunk_bytes, |chunk| {
        let hash = SPACE.hash(ChunkKind::Data, chunk);
        if wanted.contains_key(&hash) {
            restore(scan, rows, &hash, chunk, wanted);
        }
        scan.looked_at(chunk.len() as u64).map_err(CopyEnd::Told)?;
        Ok(!wanted.is_empty())
    });
    read.map_err(|end| match end {
        CopyEnd::Io(error) => StoreError::named("read", &source.path)(error),
        CopyEnd::Told(error) => error,
    })
}

/// Writes all chunks of this name again that are damaged.
fn restore(
    scan: &mut PackScan<'_>,
    rows: &BTreeMap<u64, &PackRow>,
    hash: &ChunkHash,
    contents: &[u8],
    wanted: &mut WantedCopies,
) {
    let numbers = wanted.remove(hash).unwrap_or_default();
    let mut left = Vec::new();
    for number in numbers {
        let damage = &mut scan.found[number];
        match rows.get(&damage.at.pack).map(|row| restored(scan.place, row, damage, contents)) {
            Some(Ok(())) => {
                damage.repaired = true;
                scan.notes.remove(&damage.at);
            }
            Some(Err(error)) => {
                let ChunkHint { pack, slot } = damage.at;
                tracing::warn!(pack, slot, error, "a copy of a damaged chunk was found and is of no use");
                left.push(number);
            }
            None => left.push(number),
        }
    }
    // Another copy may be of more use.
    if !left.is_empty() {
        wanted.insert(*hash, left);
    }
}

/// Writes one chunk again, and looks whether the medium has it now.
fn restored(place: &PackPlace, row: &PackRow, damage: &FoundDamage, contents: &[u8]) -> Result<(), String> {
    let slot = damage.at.slot;
    let pack = place.open_to_restore(row.number, row.space).map_err(|error| error.to_string())?;
    pack.restore(slot, contents).map_err(|error| error.to_string())?;
    let written = place.open_uncached(row.number, row.space).and_then(|pack| pack.verify(&pack.chunk(slot)?));
    written.map_err(|error| error.to_string())
}
