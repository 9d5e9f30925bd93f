//! Which snapshots are on the tier: noted after each push in the file `pushes`, as JSON. What counts is what
//! the tier says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::catalog::{CatalogView, ChainNode, ImageRow, LayerRow, SnapshotKeeps};
use super::directory::{StoreDirectory, below};
use super::error::StoreError;

const NAME: &str = "pushes";
const NEW: &str = "pushes.new";
const MOST_BYTES: u64 = 16 << 20;
/// Snapshots that are remembered: of more, the oldest are forgotten.
const MOST_NOTES: usize = 65_536;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct PushNotes {
    /// When snapshots were pushed, in seconds since 1970.
    snapshots: BTreeMap<Uuid, u64>,
    /// Those that were taken out of the tier: they come there again only when somebody asks for it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    withdrawn: BTreeSet<Uuid>,
}

/// How far an image is ahead of its latest snapshot on the tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushLag {
    /// What its layers have taken since, and what is new in packs: an estimate.
    pub bytes: u64,
    /// Since the snapshot was taken; 0 if nothing has changed.
    pub seconds: u64,
}

fn read(file: File) -> PushNotes {
    let mut bytes = Vec::new();
    let read = file.take(MOST_BYTES).read_to_end(&mut bytes).map(|_| serde_json::from_slice(&bytes));
    // It is a note: the next push writes it anew.
    read.ok().and_then(Result::ok).unwrap_or_default()
}

impl StoreDirectory {
    /// What pushes have noted; nothing if that cannot be read.
    pub(super) fn push_notes(&self) -> PushNotes {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        below(self.root(), NAME, flags, Mode::empty()).map(|file| read(File::from(file))).unwrap_or_default()
    }
}

/// Notes that a snapshot is on the tier.
///
/// # Errors
/// The file's.
pub fn note_push(store: &Path, snapshot: Uuid, pushed_s: u64) -> Result<(), StoreError> {
    change(store, |notes| {
        notes.withdrawn.remove(&snapshot);
        notes.snapshots.insert(snapshot, pushed_s);
        while notes.snapshots.len() > MOST_NOTES
            && let Some(oldest) = notes.snapshots.iter().min_by_key(|(_, pushed_s)| **pushed_s)
        {
            let oldest = *oldest.0;
            notes.snapshots.remove(&oldest);
        }
    })
}

/// Notes that a snapshot was taken out of the tier.
///
/// # Errors
/// The file's.
pub fn note_withdrawal(store: &Path, snapshot: Uuid) -> Result<(), StoreError> {
    change(store, |notes| {
        notes.snapshots.remove(&snapshot);
        notes.withdrawn.insert(snapshot);
        while notes.withdrawn.len() > MOST_NOTES {
            notes.withdrawn.pop_first();
        }
    })
}

fn change(store: &Path, change: impl FnOnce(&mut PushNotes)) -> Result<(), StoreError> {
    let path = store.join(NAME);
    // The server's thread and commands write it, one after the other. Where the file system has no such locks
    // they are trusted not to meet.
    let directory = File::open(store).map_err(StoreError::at("open", store))?;
    let _unlocked = flock(&directory, FlockOperation::LockExclusive);
    let mut notes = File::open(&path).map(read).unwrap_or_default();
    change(&mut notes);
    let new = store.join(NEW);
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&notes).unwrap_or_default())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(StoreError::at("write", &path))
}

/// The store has another tier, or none: nothing was pushed there.
pub(super) fn forget_pushes(store: &Path) -> std::io::Result<()> {
    match fs::remove_file(store.join(NAME)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl PushNotes {
    pub(super) fn pushed_s(&self, snapshot: Uuid) -> Option<u64> {
        self.snapshots.get(&snapshot).copied()
    }

    /// Whether it is known what has become of a snapshot on the tier: it is there, or was taken out of it.
    pub(super) fn is_settled(&self, snapshot: Uuid) -> bool {
        self.snapshots.contains_key(&snapshot) || self.withdrawn.contains(&snapshot)
    }

    /// How far an image is ahead of its latest snapshot on the tier; none without such a snapshot. `taken` is
    /// what a layer takes, with its contents in packs.
    pub(super) fn lag(
        &self,
        view: &CatalogView,
        image: &ImageRow,
        taken: impl Fn(&LayerRow) -> u64,
        now_s: u64,
    ) -> Option<PushLag> {
        let snapshots = view.snapshots_of(image.id);
        let latest = snapshots.into_iter().rev().find(|row| self.pushed_s(row.id.0).is_some())?;
        let (layers, _) = view.image_chain(image);
        let is_its = |row: &LayerRow| latest.below.node == ChainNode::Layer(row.id);
        let above = layers.iter().take_while(|row| !is_its(row)).count();
        // One that is a point within its layer has newer blocks in it too.
        let count = above + usize::from(latest.keeps == SnapshotKeeps::ChangesWithin);
        let newer = layers.into_iter().take(count);
        let bytes = newer.map(taken).fold(0, u64::saturating_add);
        // Without changes it is as new as the image.
        let seconds = if bytes == 0 { 0 } else { now_s.saturating_sub(latest.created_s) };
        Some(PushLag { bytes, seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The server notes pushes while commands note what they have taken out.
    #[test]
    fn notes_of_several_writers_are_all_there() {
        const WRITERS: u128 = 4;
        const NOTES: u128 = 12;
        let directory = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let store = directory.path();
                scope.spawn(move || {
                    for note in 0..NOTES {
                        let snapshot = Uuid::from_u128(writer * NOTES + note);
                        if writer % 2 == 0 {
                            note_push(store, snapshot, 7).unwrap();
                        } else {
                            note_withdrawal(store, snapshot).unwrap();
                        }
                    }
                });
            }
        });
        let notes = read(File::open(directory.path().join(NAME)).unwrap());
        let all = (WRITERS / 2 * NOTES) as usize;
        assert_eq!((notes.snapshots.len(), notes.withdrawn.len()), (all, all));
    }
}
