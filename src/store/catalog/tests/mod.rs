//! The catalogue against a naive model, and cut at any step.

mod cut;
mod model;
mod simulated;

use uuid::Uuid;

use super::*;
use crate::random::Random;

/// Uuids of a seed.
pub(crate) struct Seeded(Random);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    pub(crate) fn uuid(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        self.0.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// Calls with a minter at second `now_s`.
    pub(crate) fn minting<T>(&mut self, now_s: u64, call: impl FnOnce(&mut Minter<'_>) -> T) -> T {
        call(&mut Minter { now_s, uuid: &mut || self.uuid() })
    }
}

pub(crate) fn name(text: &str) -> StoreName {
    text.parse().unwrap()
}

fn empty(id: ImageId, of: &str, size: u64) -> NewImage {
    NewImage { id, name: name(of), size, beginning: Beginning::Empty }
}

/// A view, and the changes that led to it.
struct Catalog {
    view: CatalogView,
    seeded: Seeded,
    now_s: u64,
}

impl Catalog {
    fn new() -> Self {
        Self { view: CatalogView::default(), seeded: Seeded::new(1), now_s: 100 }
    }

    fn decide(
        &mut self,
        call: impl FnOnce(&CatalogView, &mut Minter<'_>) -> Result<CatalogChange, ImageRefusal>,
    ) -> Result<CatalogChange, ImageRefusal> {
        self.now_s += 1;
        let change = self.seeded.minting(self.now_s, |minter| call(&self.view, minter))?;
        self.view.apply(&change);
        Ok(change)
    }

    fn create(&mut self, of: &str, size: u64) -> Result<CatalogChange, ImageRefusal> {
        let id = ImageId(self.seeded.uuid());
        self.decide(|view, minter| create(view, minter, empty(id, of, size)))
    }

    fn write(&mut self, of: &str) -> LayerId {
        let layer = LayerId(self.seeded.uuid());
        let id = self.view.image(&name(of)).unwrap().id;
        self.decide(|view, minter| adopt_head(view, minter, id, layer)).unwrap();
        layer
    }

    fn snapshot(&mut self, nodes: &[(&str, &str)]) -> Result<CatalogChange, ImageRefusal> {
        let group: Vec<NewSnapshot> = nodes
            .iter()
            .map(|(image, snapshot)| NewSnapshot {
                image: name(image),
                snapshot: name(snapshot),
                next_head: None,
                is_changes_only: false,
            })
            .collect();
        self.decide(|view, minter| take_snapshots(view, minter, &group))
    }

    fn clone_of(&mut self, from: (&str, &str), names: &[&str]) -> Result<CatalogChange, ImageRefusal> {
        let names: Vec<StoreName> = names.iter().map(|text| name(text)).collect();
        self.decide(|view, minter| make_clones(view, minter, (&name(from.0), &name(from.1)), &names))
    }

    fn remove(&mut self, node: &str) -> Result<CatalogChange, ImageRefusal> {
        self.decide(|view, _| remove(view, &node.parse().unwrap(), false))
    }
}

#[test]
fn a_layer_in_the_middle_stays_until_what_is_above_it_goes() {
    let mut catalog = Catalog::new();
    catalog.create("vm1", 1 << 20).unwrap();
    let first = catalog.write("vm1");
    catalog.snapshot(&[("vm1", "monday")]).unwrap();
    let second = catalog.write("vm1");
    catalog.snapshot(&[("vm1", "tuesday")]).unwrap();
    catalog.clone_of(("vm1", "tuesday"), &["vm2"]).unwrap();

    let change = catalog.remove("vm1@monday").unwrap();
    assert_eq!(change.released_layers().count(), 0, "the clone reads it");
    let refusal = catalog.remove("vm1@tuesday").unwrap_err();
    assert_eq!(
        refusal,
        ImageRefusal::HasClones { name: "vm1@tuesday".to_owned(), clones: vec!["vm2".to_owned()] }
    );
    let refusal = catalog.remove("vm1").unwrap_err();
    assert!(matches!(refusal, ImageRefusal::HasClones { .. }), "{refusal}");
    catalog.remove("vm2").unwrap();
    let refusal = catalog.remove("vm1").unwrap_err();
    assert!(refusal.to_string().contains("vm1@tuesday"), "{refusal}");
    let change = catalog.remove("vm1@tuesday").unwrap();
    assert_eq!(change.released_layers().count(), 0, "the image stands on it");
    let change = catalog.remove("vm1").unwrap();
    let mut released: Vec<LayerId> = change.released_layers().collect();
    released.sort();
    let mut both = [first, second];
    both.sort();
    assert_eq!(released, both);
    assert_eq!(catalog.view, CatalogView::default());
}

#[test]
fn a_group_is_taken_whole_or_not_at_all() {
    let mut catalog = Catalog::new();
    catalog.create("a", 512).unwrap();
    catalog.create("b", 512).unwrap();
    catalog.snapshot(&[("b", "one")]).unwrap();
    let before = catalog.view.clone();
    for (group, word) in [
        (&[("a", "one"), ("b", "one")][..], "exists already"),
        (&[("a", "one"), ("c", "one")], "no image \"c\""),
        (&[("a", "one"), ("a", "two")], "named twice"),
    ] {
        let refusal = catalog.snapshot(group).unwrap_err().to_string();
        assert!(refusal.contains(word), "{refusal}");
    }
    assert_eq!(catalog.view, before);
    let change = catalog.snapshot(&[("a", "two"), ("b", "two")]).unwrap();
    assert_eq!(change.snapshots.len(), 2);
}

#[test]
fn no_read_has_more_than_eight_sealed_layers_to_look_at() {
    let mut catalog = Catalog::new();
    catalog.create("vm", 512).unwrap();
    for number in 0..8 {
        catalog.write("vm");
        catalog.snapshot(&[("vm", &format!("s{number}"))]).unwrap();
    }
    // One that was not written since adds no layer.
    catalog.snapshot(&[("vm", "again")]).unwrap();
    catalog.write("vm");
    assert_eq!(catalog.snapshot(&[("vm", "s8")]).unwrap_err(), ImageRefusal::TooDeep(name("vm")));
    let chain = |catalog: &Catalog| {
        let row = catalog.view.image(&name("vm")).unwrap();
        (row.below, catalog.view.chain(row.below).0.iter().map(|row| row.id).collect::<Vec<_>>())
    };
    let (below, layers) = chain(&catalog);
    assert_eq!(mergeable(&catalog.view, below), [], "a snapshot stands on each");
    let all = |pair: &[LayerId]| MergePair { upper: pair[0], lower: pair[1] };
    let refused = finish_merge(&catalog.view, all(&layers[3..]), LayerId(Uuid::nil()), u64::MAX);
    assert_eq!(refused, Err(ImageRefusal::NotMergeable(layers[4])));
    catalog.remove("vm@s3").unwrap();
    catalog.remove("vm@s5").unwrap();
    // The newest layer is that of `s7`.
    let pairs = [all(&layers[1..]), all(&layers[3..])];
    assert_eq!(mergeable(&catalog.view, below), pairs);
    let bytes = |id: LayerId| if id == layers[2] { 10 } else { 6 };
    assert_eq!(cheapest_merge(&catalog.view, below, &bytes), Some(pairs[1]));
    let merged = LayerId(catalog.seeded.uuid());
    let change = catalog.decide(|view, _| finish_merge(view, pairs[1], merged, u64::MAX)).unwrap();
    let released: std::collections::BTreeSet<LayerId> = change.released_layers().collect();
    assert_eq!(released, [layers[3], layers[4]].into());
    assert_eq!(chain(&catalog).1[3], merged);
    assert!(!is_full(&catalog.view, &name("vm")).unwrap());
    catalog.snapshot(&[("vm", "s8")]).unwrap();
}

#[test]
fn ten_thousand_clones_are_one_change() {
    let mut catalog = Catalog::new();
    catalog.create("golden", 1 << 30).unwrap();
    catalog.write("golden");
    catalog.snapshot(&[("golden", "1")]).unwrap();
    let names: Vec<String> = (0..10_000).map(|number| format!("vm{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let change = catalog.clone_of(("golden", "1"), &names).unwrap();
    assert_eq!((change.images.len(), change.layers.len()), (10_000, 0));
    assert_eq!(
        catalog.view.clones_of(catalog.view.image(&name("vm7")).unwrap().origin.unwrap()).len(),
        10_000
    );
    let twice = ["again", "again"];
    assert!(matches!(catalog.clone_of(("golden", "1"), &twice), Err(ImageRefusal::Twice(_))));
    assert!(matches!(catalog.clone_of(("golden", "1"), &["vm3"]), Err(ImageRefusal::Exists(_))));
}

#[test]
fn the_tree_and_its_columns() {
    let mut catalog = Catalog::new();
    catalog.create("golden", 1 << 20).unwrap();
    let sealed = catalog.write("golden");
    catalog.snapshot(&[("golden", "1")]).unwrap();
    catalog.clone_of(("golden", "1"), &["vm1", "vm2"]).unwrap();
    let own = catalog.write("vm1");
    catalog.create("alone", 512).unwrap();
    let used = |layer: LayerId| if layer == sealed { 1000 } else { u64::from(layer == own) * 10 };
    let figures = SpaceFigures { layer: &used, contents: &|_| None };
    let lines: Vec<_> = listing(&catalog.view, &figures)
        .iter()
        .map(|line| {
            let of = line.snapshot.map_or(line.image.name.to_string(), |row| row.name.to_string());
            (line.level, of, line.space.used, line.space.unique, line.space.shared, line.space.depth)
        })
        .collect();
    let line =
        |level, of: &str, used, unique, shared, depth| (level, of.to_owned(), used, unique, shared, depth);
    assert_eq!(
        lines,
        [
            line(0, "alone", 0, 0, 0, 0),
            line(0, "golden", 1000, 0, 1000, 1),
            line(1, "1", 1000, 0, 1000, 1),
            line(2, "vm1", 1010, 10, 1000, 2),
            line(2, "vm2", 1000, 0, 1000, 1),
        ]
    );
}

#[test]
fn what_is_in_use_or_held_stays() {
    let mut catalog = Catalog::new();
    catalog.create("vm", 1024).unwrap();
    catalog.snapshot(&[("vm", "a")]).unwrap();
    catalog.write("vm");
    let back = |view: &CatalogView, forced| roll_back(view, &name("vm"), &name("a"), true, forced);
    assert_eq!(back(&catalog.view, false), Err(ImageRefusal::InUse(name("vm"))));
    assert_eq!(back(&catalog.view, true).unwrap().released_layers().count(), 1);
    assert!(matches!(resize(&catalog.view, &name("vm"), 512, false), Err(ImageRefusal::Shrinks { .. })));
    for size in [0, 511, LARGEST_IMAGE + 512, u64::MAX] {
        assert_eq!(resize(&catalog.view, &name("vm"), size, true), Err(ImageRefusal::Size(size)));
    }
    let mut row = catalog.view.image(&name("vm")).unwrap().clone();
    row.is_held = true;
    catalog
        .decide(|view, _| {
            let mut draft = super::draft::Draft::new(view);
            draft.set_image(row);
            Ok(draft.finish())
        })
        .unwrap();
    assert_eq!(remove(&catalog.view, &"vm".parse().unwrap(), true), Err(ImageRefusal::Held("vm".to_owned())));
}
