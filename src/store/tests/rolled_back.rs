//! What is known of an image that was rolled back and flattened, when the snapshot is gone that both of its
//! ways have in common.
//!
//! Oracle: the disks as arrays.

use super::*;
use crate::store::base::look_at_base;

impl Life {
    /// An image on a file, so that a flattened one does not end where its snapshots do.
    pub(super) fn on_base(blocks: u64) -> Self {
        let mut life = Self::begin(blocks);
        life.store.remove(&node(None), false).unwrap();
        let path = life.house.path().join("base");
        std::fs::write(&path, vec![9; (blocks * MAP_BLOCK) as usize]).unwrap();
        life.store.create_on_base(&vm(), None, look_at_base(&path).unwrap()).unwrap();
        life.disk = vec![(9, 0); blocks as usize];
        life
    }

    /// Blocks that are said to differ.
    fn told(&self, one: &StoreName, other: &StoreName) -> BTreeSet<usize> {
        let mut blocks = BTreeSet::new();
        let told = self.store.differences(&node(Some(one)), &node(Some(other)), &mut |part| {
            blocks.extend((part.start / MAP_BLOCK) as usize..part.end.div_ceil(MAP_BLOCK) as usize);
            Ok(())
        });
        told.unwrap();
        blocks
    }

    fn all_is_told(&self, one: usize, other: usize) {
        let ((one, disk), (other, of_other)) = (&self.snapshots[one], &self.snapshots[other]);
        let told = self.told(one, other);
        let differ = (0..disk.len()).filter(|block| disk[*block] != of_other[*block]);
        assert!(differ.clone().all(|block| told.contains(&block)), "{one} and {other}: {told:?}");
        assert!(differ.count() > 0 && told.len() < disk.len() / 2, "{told:?}");
    }
}

const fn written(start: u64) -> Step {
    Step::Write { start, blocks: 3, zero: false }
}

#[test]
fn what_differs_from_a_way_not_taken_is_told_when_the_fork_is_gone() {
    // Whether the fork goes before the image is flattened, or after that.
    for is_late in [true, false] {
        let mut life = Life::on_base(256);
        // The fork, a way not taken, and another one.
        for start in [10, 30] {
            life.take(&written(start));
            life.take(&Step::Snapshot);
        }
        life.take(&Step::RollBack(0));
        life.take(&written(50));
        if is_late {
            life.flatten();
            life.take(&Step::Remove(0));
        } else {
            life.take(&Step::Remove(0));
            life.flatten();
        }
        assert!(life.was_flattened);
        life.take(&written(70));
        life.take(&Step::Mark);
        life.all_is_told(1, 0);
        life.take(&written(90));
        life.take(&Step::Snapshot);
        life.all_is_told(2, 0);
        let life = life.reopen();
        life.all_is_told(1, 0);
        assert_eq!(life.store.check().unwrap(), Vec::<String>::new());
        assert_eq!(life.store.tracked_snapshots(&node(None)).unwrap().len(), 3);
    }
}

/// An image was flattened and rolled back to a snapshot from before that, and this snapshot goes while
/// nothing stands on it but the image.
fn rolled_back_behind_a_flattening(is_written_before: bool, is_merged: bool) {
    let mut life = Life::on_base(256);
    if is_written_before {
        life.take(&written(100));
    }
    life.take(&Step::Snapshot);
    life.take(&written(10));
    life.flatten();
    assert!(life.was_flattened);
    life.take(&written(30));
    life.take(&Step::Snapshot);
    life.take(&Step::RollBack(0));
    life.take(&Step::Remove(0));
    life.take(&written(50));
    life.take(&Step::Mark);
    life.all_is_told(1, 0);
    if is_merged {
        life.take(&written(70));
        life.take(&Step::Mark);
        life.merge();
        life.all_is_told(2, 0);
    }
    let mut life = life.reopen();
    life.all_is_told(1, 0);
    life.check();
    // The other way keeps changes only from now on, and what is left of the first one is flattened.
    life.take(&Step::GiveUp(0));
    life.flatten();
    life.take(&written(90));
    life.take(&Step::Snapshot);
    let last = life.snapshots.len() - 1;
    life.all_is_told(last, 0);
    let life = life.reopen();
    life.all_is_told(last, 1);
    life.check();
    assert_eq!(life.store.check().unwrap(), Vec::<String>::new());
}

#[test]
fn a_snapshot_from_before_a_flattening_may_go_when_only_its_image_stands_on_it() {
    rolled_back_behind_a_flattening(false, false);
    rolled_back_behind_a_flattening(true, false);
    rolled_back_behind_a_flattening(true, true);
}
