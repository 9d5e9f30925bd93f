//! Interruptions while snapshots are being taken, with real files.

use std::path::PathBuf;

use super::*;
use crate::store::catalog::{LayerId, NodeName};
use crate::store::map::{BlockState, Lookup};
use crate::store::map_files::MapFiles;
use crate::store::map_medium::{load_node, open_map};
use crate::store::pending::attach_new_log;

const SIZE: u64 = 1 << 30;

/// A server that has a store open, with two images that it writes and one that nobody writes.
/// The image whose snapshot keeps changes only.
const OF_CHANGES: &str = "b";

struct Serving {
    house: tempfile::TempDir,
    store: Option<OpenStore<MapFiles>>,
    group: Vec<NewSnapshot>,
}

fn name(text: &str) -> StoreName {
    text.parse().unwrap()
}

impl Serving {
    fn new() -> Self {
        let house = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let store = OpenStore::init(&house.path().join("store"), MapFiles).unwrap();
        let mut serving = Self { house, store: Some(store), group: Vec::new() };
        for image in ["a", "b", "idle"] {
            serving.store().create_empty(&name(image), SIZE).unwrap();
            let mut next_head = None;
            if image != "idle" {
                serving.store().give_head(&name(image)).unwrap();
                next_head = Some(serving.store().make_next_head(&name(image)).unwrap().id);
            }
            serving.group.push(NewSnapshot {
                image: name(image),
                snapshot: name("s"),
                next_head,
                is_changes_only: image == OF_CHANGES,
            });
        }
        serving
    }

    fn store(&mut self) -> &mut OpenStore<MapFiles> {
        self.store.as_mut().unwrap()
    }

    /// It begins a snapshot of all.
    fn begin(&mut self) {
        let group = self.group.clone();
        self.store().begin_snapshots(&group).unwrap();
        assert!(self.store().has_begun(&group).unwrap());
        // Older programs would drop what next heads have, and read what has no contents.
        assert_eq!(self.store().header().incompatible, 2 | 32);
    }

    /// The server is gone, and the next one opens the store.
    fn again(&mut self) {
        self.store = None;
        self.store = Some(OpenStore::open_to_change(&self.path(), MapFiles).unwrap());
    }

    fn path(&self) -> PathBuf {
        self.house.path().join("store")
    }

    /// An image is written, and that is in no record. False where nothing outlives a process.
    fn write(&mut self, layer: LayerId, block: u64) -> bool {
        let (data, map) = self.store().directory.open_layer(layer).unwrap();
        let mut open = open_map(&data, &map).unwrap();
        if attach_new_log(&mut open, &map).is_err() {
            return false;
        }
        while let Some(node) = open.missing(block, 1) {
            load_node(&mut open, &crate::store::map_medium::UnsyncedMap(&map), node).unwrap();
        }
        open.change(block, 1, BlockState::Data);
        true
    }

    /// Whether a layer has a block, after a server has opened it.
    fn has(&mut self, layer: LayerId, block: u64) -> bool {
        let (data, map) = self.store().directory.open_layer(layer).unwrap();
        MapFiles.resize(&data, &map, SIZE).unwrap();
        let mut open = open_map(&data, &map).unwrap();
        loop {
            match open.lookup(block, 1) {
                Lookup::Run(run) => return run.state == BlockState::Data,
                Lookup::Load(node) => {
                    load_node(&mut open, &crate::store::map_medium::UnsyncedMap(&map), node).unwrap();
                }
            }
        }
    }

    fn head(&mut self, image: &str) -> Option<LayerId> {
        self.store().view().unwrap().image(&name(image)).unwrap().head
    }

    /// The images that have the snapshot.
    fn taken(&mut self) -> Vec<String> {
        let view = self.store().view().unwrap();
        let has = |row: &&catalog::ImageRow| {
            let found = view.snapshot(row.id, &name("s"));
            assert!(found.is_none_or(|found| found.is_changes_only() == (row.name.as_str() == OF_CHANGES)));
            found.is_some()
        };
        view.images().filter(has).map(|row| row.name.to_string()).collect()
    }

    fn is_over(&mut self) -> bool {
        let is_clean = self.store().unknown_layers().unwrap().is_empty();
        let of_changes = self.store().view().unwrap().changes_only().next().is_some();
        let older_programs_know_it = self.store().header().incompatible == if of_changes { 32 } else { 0 };
        self.store().view().unwrap().tentative().next().is_none() && is_clean && older_programs_know_it
    }
}

#[test]
fn after_a_kill_next_heads_take_over_with_all_that_was_answered() {
    let mut serving = Serving::new();
    let (old, next) = (serving.head("a").unwrap(), serving.group[0].next_head.unwrap());
    let outlives = serving.write(old, 7);
    serving.begin();
    serving.write(next, 8);
    serving.again();
    assert_eq!(serving.taken(), ["a", "b", "idle"]);
    assert_eq!((serving.head("a"), serving.head("b")), (Some(next), serving.group[1].next_head));
    assert!(serving.is_over());
    if outlives {
        assert!(serving.has(next, 8), "a write was answered");
        assert!(!serving.has(next, 7));
        let (data, map) = serving.store().directory.open_layer(old).unwrap();
        let mut open = open_map(&data, &map).unwrap();
        let files = crate::store::map_medium::UnsyncedMap(&map);
        while let Lookup::Load(node) = open.lookup(7, 1) {
            load_node(&mut open, &files, node).unwrap();
        }
        let Lookup::Run(run) = open.lookup(7, 1) else { panic!("it is loaded") };
        assert_eq!(run.state, BlockState::Data, "the sealed layer is durable");
    }
}

#[test]
fn after_a_power_cut_the_old_heads_go_on() {
    let mut serving = Serving::new();
    let (old, next) = (serving.head("a"), serving.group[0].next_head.unwrap());
    let group = serving.group.clone();
    serving.store().begin_during(Uuid::from_u128(1), &group).unwrap();
    serving.again();
    assert_eq!((serving.taken(), serving.head("a")), (vec![], old));
    assert!(serving.is_over());
    assert_eq!(serving.store().lost().unwrap(), 2, "both next heads");
    assert!(serving.store().directory.open_layer(next).is_err());
    // What was begun in vain keeps nobody from another one.
    serving.store().snapshot(vec!["a@s".parse().unwrap()]).unwrap();
    assert_eq!(serving.taken(), ["a"]);
}

/// A copy of a store may lack what the first one had not synced.
#[test]
fn in_a_copy_of_the_files_the_old_heads_go_on() {
    let mut serving = Serving::new();
    let old = serving.head("a");
    serving.begin();
    let next = serving.group[0].next_head.unwrap();
    let map = serving.store().directory.layer_path(next).join("map");
    std::fs::copy(&map, map.with_extension("copy")).unwrap();
    std::fs::rename(map.with_extension("copy"), &map).unwrap();
    serving.again();
    assert_eq!((serving.taken(), serving.head("a")), (vec![], old));
    assert_eq!(serving.head("b"), serving.group[1].next_head, "it may have been written");
    assert!(serving.is_over());
}

#[test]
fn what_failed_half_way_is_finished_when_its_image_is_opened() {
    let mut serving = Serving::new();
    serving.begin();
    let images: Vec<StoreName> = serving.group.iter().map(|new| new.image.clone()).collect();
    serving.store().go_on_without_snapshots(&images, &[name("b")]).unwrap();
    assert_eq!(serving.head("b"), serving.group[1].next_head);
    assert_ne!(serving.head("a"), serving.group[0].next_head);
    let again = vec![NewSnapshot { next_head: None, ..serving.group[0].clone() }];
    let refused = serving.store().expect_snapshots(&again).unwrap_err();
    assert!(refused.is_refusal() && refused.to_string().contains("half-way"), "{refused}");
    serving.store().finish_left_snapshot(&name("a")).unwrap();
    assert_eq!(serving.head("a"), serving.group[0].next_head);
    assert!(serving.taken().is_empty() && serving.is_over());
    let node: NodeName = "a".parse().unwrap();
    assert_eq!(serving.store().shape(&node).unwrap().layers.len(), 2);
    serving.again();
    assert!(serving.is_over());
}

#[test]
fn what_is_withdrawn_leaves_nothing() {
    let mut serving = Serving::new();
    let old = serving.head("a");
    serving.begin();
    let images: Vec<StoreName> = serving.group.iter().map(|new| new.image.clone()).collect();
    serving.store().withdraw_snapshots(&images).unwrap();
    for next in serving.group.clone().iter().filter_map(|new| new.next_head) {
        serving.store().discard_next_head(next).unwrap();
    }
    assert_eq!((serving.taken(), serving.head("a")), (vec![], old));
    assert!(serving.is_over());
}
