//! Snapshots of a store that somebody else has the lock of.
//!
//! The oracle is whoever has the lock.

use std::ops::Range;

use super::*;
use crate::store::catalog::CatalogExcerpt;
use crate::store::export::NodePart;
use crate::store::request::{StoreAnswer, StoreRequest};

/// What is told of one or two snapshots, as it comes over a socket.
fn told(store: &mut OpenStore<MapFiles>, node: &NodeName, other: Option<&NodeName>) -> CatalogExcerpt {
    let request = StoreRequest::Layers { node: node.clone(), other: other.cloned() };
    let StoreAnswer::Layers(excerpt) = store.perform_served(&request).unwrap() else {
        panic!("another answer")
    };
    serde_json::from_str(&serde_json::to_string(&excerpt).unwrap()).unwrap()
}

fn reader(path: &Path, told: &CatalogExcerpt) -> OpenStore<MapFiles> {
    OpenStore::open_to_read(path, MapFiles, told).unwrap()
}

fn parts(store: &OpenStore<MapFiles>, node: &NodeName) -> Vec<NodePart> {
    let mut parts = Vec::new();
    store
        .map(node, &mut |part| {
            parts.push(part);
            Ok(())
        })
        .unwrap();
    parts
}

fn differences(
    store: &OpenStore<MapFiles>,
    a: &NodeName,
    b: &NodeName,
) -> Result<Vec<Range<u64>>, StoreError> {
    let mut parts = Vec::new();
    store.differences(a, b, &mut |part| {
        parts.push(part);
        Ok(())
    })?;
    Ok(parts)
}

impl Life {
    /// Whoever reads is told the same.
    pub(super) fn check_readers(&mut self) {
        let path = self.path();
        let StoreAnswer::Layers(all) = self.store.perform_served(&StoreRequest::Sealed).unwrap() else {
            panic!("another answer")
        };
        let all = reader(&path, &all);
        let sealed = self.store.view().unwrap().layers().filter(|row| row.is_sealed).count();
        assert_eq!(all.view().unwrap().counts().layers, sealed);
        assert_eq!([all.check().unwrap(), all.check_maps().unwrap()], [Vec::<String>::new(), Vec::new()]);
        let nodes: Vec<NodeName> = self.snapshots.iter().map(|(name, _)| node(Some(name))).take(6).collect();
        let marks = self.marks.clone();
        for a in &nodes {
            let alone = told(&mut self.store, a, None);
            let reading = reader(&path, &alone);
            if a.snapshot.as_ref().is_none_or(|name| !marks.contains(name)) {
                assert!(read(&reading, a) == read(&self.store, a), "{a} has other contents for readers");
                assert_eq!(parts(&reading, a), parts(&self.store, a));
            }
            assert_eq!(reading.size_of(a).unwrap(), self.store.size_of(a).unwrap());
            for b in &nodes {
                let reading = reader(&path, &told(&mut self.store, a, Some(b)));
                let expected = differences(&self.store, a, b).unwrap();
                assert_eq!(differences(&reading, a, b).unwrap(), expected, "{a} and {b}");
            }
        }
    }

    /// A delta as whoever reads writes it.
    pub(super) fn delta_of_reader(&mut self, from: Option<&NodeName>, to: &NodeName) -> Vec<u8> {
        let told = told(&mut self.store, to, from);
        delta(&reader(&self.path(), &told), from, to).unwrap()
    }
}

fn three_snapshots() -> (Life, Vec<NodeName>) {
    let mut life = Life::begin(1024);
    for start in [0, 300, 600] {
        life.take(&Step::Write { start, blocks: 400, zero: false });
        life.take(&Step::Snapshot);
    }
    let nodes = life.snapshots.iter().map(|(name, _)| node(Some(name))).collect();
    (life, nodes)
}

#[test]
fn layers_that_went_are_noticed_and_those_that_are_open_are_read_on() {
    let (mut life, nodes) = three_snapshots();
    let path = life.path();
    let expected = read(&life.store, &nodes[2]);
    let early = told(&mut life.store, &nodes[2], None);
    let reading = reader(&path, &early);
    let mut found = Vec::new();
    let mut out: RawOutput<'_, &mut Vec<u8>> = RawOutput::Stream(&mut found);
    let mut calls = 0;
    let store = &mut life.store;
    reading
        .export_raw(&nodes[2], (Path::new("out"), &mut out), &mut |_| {
            calls += 1;
            if calls == 1 {
                store.remove(&node(None), true)?;
            }
            Ok(())
        })
        .unwrap();
    assert!(calls > 2 && found == expected, "files without a name are read on");
    assert!(store.directory.layer_names().unwrap().is_empty());
    // What was told before is of no use any more.
    let gone = reader(&path, &early).map(&nodes[2], &mut |_| Ok(())).unwrap_err();
    assert!(gone.is_gone() && gone.to_string().contains("not on the disk"), "{gone}");
    let request = StoreRequest::Layers { node: nodes[2].clone(), other: None };
    let refused = store.perform_served(&request).unwrap_err();
    assert!(refused.is_refusal() && !refused.is_gone(), "{refused}");
}

#[test]
fn readers_see_snapshots_alone_and_change_nothing() {
    let (mut life, nodes) = three_snapshots();
    let image = StoreRequest::Layers { node: nodes[0].clone(), other: Some(node(None)) };
    let refused = life.store.perform_served(&image).unwrap_err();
    assert!(refused.is_refusal() && refused.to_string().contains("take a snapshot"), "{refused}");
    let path = life.path();
    let excerpt = told(&mut life.store, &nodes[0], None);
    let mut reading = reader(&path, &excerpt);
    let counts = reading.view().unwrap().counts();
    assert_eq!((counts.images, counts.snapshots, counts.layers), (1, 1, 1), "what is not needed is not told");
    reading.size_of(&nodes[1]).unwrap_err();
    // It has no lock, and so it has no say.
    reading.create_empty(&"new".parse().unwrap(), 512).unwrap_err();
    reading.remove(&nodes[0], false).unwrap_err();
    life.check();
}

/// Whatever a server says, it is the store's rows or a sentence.
#[test]
fn rows_that_were_changed_on_the_way_are_refused() {
    let (mut life, nodes) = three_snapshots();
    let text = serde_json::to_string(&told(&mut life.store, &nodes[2], Some(&nodes[0]))).unwrap();
    let mut refused = 0;
    for at in 0..text.len() {
        let mut changed = text.clone().into_bytes();
        changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
        let Ok(excerpt) = serde_json::from_slice::<CatalogExcerpt>(&changed) else { continue };
        refused += 1;
        let found = OpenStore::open_to_read(&life.path(), MapFiles, &excerpt).unwrap_err();
        assert!(matches!(found, StoreError::Catalog { .. }), "byte {at}: {found}");
    }
    assert!(refused > 1000, "{refused} of {} bytes", text.len());
}
