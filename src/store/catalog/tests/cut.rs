//! The database below the catalogue: cuts at every step, and bytes that somebody has changed.

use uuid::Uuid;

use super::simulated::SimulatedDisk;
use super::{Seeded, empty, name};
use crate::random::Random;
use crate::store::catalog::*;

/// Transactions on a catalogue that is there. After each the view is noted.
type Story = fn(&mut StoreCatalog, &mut Vec<CatalogView>) -> Result<(), CatalogError>;

/// Notes the view after a transaction, and then commits it.
struct Steps<'a> {
    views: &'a mut Vec<CatalogView>,
    seeded: Seeded,
}

impl<'a> Steps<'a> {
    fn new(views: &'a mut Vec<CatalogView>) -> Self {
        Self { views, seeded: Seeded::new(7) }
    }

    fn step(
        &mut self,
        catalog: &mut StoreCatalog,
        call: impl FnOnce(&CatalogView, &mut Minter<'_>) -> CatalogChange,
    ) -> Result<(), CatalogError> {
        let change = self.seeded.minting(5, |minter| Ok::<_, CatalogError>(call(catalog.view()?, minter)))?;
        let mut next = catalog.view()?.clone();
        next.apply(&change);
        self.views.push(next);
        catalog.commit(&change)
    }
}

/// A few transactions of most kinds.
fn story(catalog: &mut StoreCatalog, views: &mut Vec<CatalogView>) -> Result<(), CatalogError> {
    let mut steps = Steps::new(views);
    let id = ImageId(Uuid::from_u128(1));
    steps.step(catalog, |view, minter| create(view, minter, empty(id, "golden", 1 << 20)).unwrap())?;
    let layer = LayerId(Uuid::from_u128(2));
    steps.step(catalog, |view, minter| adopt_head(view, minter, id, layer).unwrap())?;
    let new =
        NewSnapshot { image: name("golden"), snapshot: name("1"), next_head: None, is_changes_only: false };
    steps.step(catalog, |view, minter| take_snapshots(view, minter, std::slice::from_ref(&new)).unwrap())?;
    let names: Vec<StoreName> = (0..150).map(|number| name(&format!("vm{number}"))).collect();
    steps.step(catalog, |view, minter| {
        make_clones(view, minter, (&name("golden"), &name("1")), &names).unwrap()
    })?;
    for number in 0..3 {
        let node = format!("vm{number}").parse().unwrap();
        steps.step(catalog, |view, _| remove(view, &node, false).unwrap())?;
    }
    steps.step(catalog, |view, _| rename(view, &"vm9".parse().unwrap(), &name("other")).unwrap())
}

/// Below clones two layers become one, and a clone gets a layer of its own.
fn story_of_chains(catalog: &mut StoreCatalog, views: &mut Vec<CatalogView>) -> Result<(), CatalogError> {
    let mut steps = Steps::new(views);
    let id = ImageId(Uuid::from_u128(1));
    let layer = |number| LayerId(Uuid::from_u128(number));
    steps.step(catalog, |view, minter| create(view, minter, empty(id, "golden", 1 << 20)).unwrap())?;
    for (number, of) in [(2, "1"), (3, "2")] {
        steps.step(catalog, |view, minter| adopt_head(view, minter, id, layer(number)).unwrap())?;
        let new = NewSnapshot {
            image: name("golden"),
            snapshot: name(of),
            next_head: None,
            is_changes_only: false,
        };
        steps.step(catalog, |view, minter| {
            take_snapshots(view, minter, std::slice::from_ref(&new)).unwrap()
        })?;
    }
    let names: Vec<StoreName> = (0..100).map(|number| name(&format!("vm{number}"))).collect();
    steps.step(catalog, |view, minter| {
        make_clones(view, minter, (&name("golden"), &name("2")), &names).unwrap()
    })?;
    steps.step(catalog, |view, _| remove(view, &"golden@1".parse().unwrap(), false).unwrap())?;
    let pair = MergePair { upper: layer(3), lower: layer(2) };
    steps.step(catalog, |view, _| finish_merge(view, pair, layer(4), u64::MAX).unwrap())?;
    let clone = catalog.view()?.image(&name("vm7")).unwrap().clone();
    assert_eq!(clone.below.node, ChainNode::Layer(layer(4)));
    let flat = Some((layer(5), clone.size));
    steps.step(catalog, |view, minter| finish_flatten(view, minter, clone.id, clone.below, flat).unwrap())
}

fn fresh() -> SimulatedDisk {
    let disk = SimulatedDisk::default();
    drop(StoreCatalog::create(disk.clone(), Uuid::from_u128(9), 1).unwrap());
    SimulatedDisk::holding(disk.bytes())
}

/// C2, of the catalogue: a cut at any step leaves the state before a transaction or the one after it.
#[test]
fn a_cut_leaves_the_old_or_the_new_state() {
    cut_everywhere(story);
}

#[test]
fn a_cut_leaves_a_chain_as_it_was_or_shorter() {
    cut_everywhere(story_of_chains);
}

fn cut_everywhere(story: Story) {
    let start = fresh();
    let whole = SimulatedDisk::holding(start.bytes());
    let mut views = vec![CatalogView::default()];
    story(&mut StoreCatalog::open(whole.clone()).unwrap(), &mut views).unwrap();
    let steps = whole.steps();
    assert!(steps > 40, "{steps} steps");
    for cut in 0..steps {
        let disk = SimulatedDisk::holding(start.bytes());
        disk.cut_at(cut);
        let mut done = vec![CatalogView::default()];
        let ended = StoreCatalog::open(disk.clone()).and_then(|mut catalog| {
            let ended = story(&mut catalog, &mut done);
            if ended.is_err() {
                assert!(matches!(catalog.view(), Err(CatalogError::Doubtful)), "an unknown outcome is told");
            }
            ended
        });
        for seed in 0..4 {
            let mut random = Random::new(cut * 1000 + seed);
            let after = StoreCatalog::open(disk.after_the_cut(&mut random));
            let after = after.unwrap_or_else(|error| panic!("cut {cut}, seed {seed}: {error}"));
            let view = after.view().unwrap();
            // The last one was under way; the one before it was answered.
            let at_least = if ended.is_ok() { done.len() - 1 } else { done.len().saturating_sub(2) };
            assert!(
                done[at_least..].contains(view),
                "cut {cut}, seed {seed}, after {} changes",
                done.len() - 1
            );
        }
    }
}

/// L2: an unknown version or feature gives a sentence.
#[test]
fn what_is_no_catalogue_gives_a_sentence() {
    let sentence = |bytes| StoreCatalog::open(SimulatedDisk::holding(bytes)).unwrap_err().to_string();
    let empty = sentence(Vec::new());
    assert!(empty.contains("empty"), "{empty}");
    for bytes in [vec![0; 100], vec![0; 200_000], b"not a database, but text".repeat(500)] {
        sentence(bytes);
    }
    let database = SimulatedDisk::default();
    let other = redb::Builder::new().create_with_backend(database.clone()).unwrap();
    drop(other);
    let foreign = sentence(database.bytes());
    assert!(foreign.contains("not the catalogue of a store"), "{foreign}");
    let mut short = fresh().bytes();
    short.truncate(short.len() / 2);
    sentence(short);
}

/// L3: opens with the right rows, or gives an error. Never a panic that leaves the call.
#[test]
fn l3_flipped_bits_give_the_right_rows_or_an_error() {
    let disk = fresh();
    let mut views = Vec::new();
    story(&mut StoreCatalog::open(disk.clone()).unwrap(), &mut views).unwrap();
    let (bytes, expected) = (disk.bytes(), views.last().unwrap());
    let mut random = Random::new(3);
    for _ in 0..200 {
        let mut changed = bytes.clone();
        let at = random.below(changed.len() as u64) as usize;
        changed[at] ^= 1 << random.below(8);
        match StoreCatalog::open(SimulatedDisk::holding(changed)) {
            // A flip in the newest commit slot may bring back the one before, as a cut does.
            Ok(catalog) => {
                assert!(views[views.len() - 2..].contains(catalog.view().unwrap()), "byte {at}");
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(!expected.counts().eq(&RowCounts::default()));
}
