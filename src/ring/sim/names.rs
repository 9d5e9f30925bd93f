//! Names of simulated files, and what a power cut leaves of them.
//!
//! A change of a directory is durable after a sync of that directory. Before that, a power cut loses some of
//! its last changes and keeps those before them, each directory for itself: who syncs one directory knows
//! nothing of another. A rename between two directories is one change of both: kept in both or in neither.

use std::collections::BTreeMap;

use crate::random::Random;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SimNode {
    File(usize),
    Directory(usize),
}

type NameMap = BTreeMap<Vec<u8>, SimNode>;

/// What a name stands for since a change.
type NameSet = (Vec<u8>, Option<SimNode>);

/// A change that a power cut keeps or loses as a whole.
#[derive(Debug, Clone)]
struct NameChange {
    /// Grows with every change of any directory.
    number: u64,
    writer: u64,
    sets: Vec<NameSet>,
    /// The other directory that it changes.
    beside: Option<usize>,
}

#[derive(Debug, Default)]
struct SimDirectory {
    /// What is found now.
    names: NameMap,
    /// What a power cut leaves at least, and the changes since, oldest first.
    durable: NameMap,
    pending: Vec<NameChange>,
    is_removed: bool,
}

/// All directories of a world, by number.
#[derive(Debug, Default)]
pub(super) struct SimDirectories {
    directories: Vec<SimDirectory>,
    /// Changes so far.
    changes: u64,
}

impl SimDirectories {
    /// A new directory without a name.
    pub(super) fn add(&mut self) -> usize {
        self.directories.push(SimDirectory::default());
        self.directories.len() - 1
    }

    /// What a directory holds, in order.
    pub(super) fn list(&self, directory: usize) -> impl Iterator<Item = (&[u8], SimNode)> {
        self.directories[directory].names.iter().map(|(name, node)| (&**name, *node))
    }

    pub(super) fn find(&self, directory: usize, name: &[u8]) -> Option<SimNode> {
        self.directories[directory].names.get(name).copied()
    }

    /// A name that was always there.
    pub(super) fn put(&mut self, directory: usize, name: &[u8], node: SimNode) {
        let SimDirectory { names, durable, .. } = &mut self.directories[directory];
        for map in [names, durable] {
            map.insert(name.to_vec(), node);
        }
    }

    /// Gives a new node its name.
    pub(super) fn insert(
        &mut self,
        writer: u64,
        directory: usize,
        name: &[u8],
        node: SimNode,
    ) -> Result<(), i32> {
        self.may_insert(directory, name)?;
        self.set(writer, directory, vec![(name.to_vec(), Some(node))], None);
        Ok(())
    }

    /// Whether a new node could have this name.
    pub(super) fn may_insert(&self, directory: usize, name: &[u8]) -> Result<(), i32> {
        if self.directories[directory].is_removed {
            return Err(libc::ENOENT);
        }
        if self.find(directory, name).is_some() { Err(libc::EEXIST) } else { Ok(()) }
    }

    pub(super) fn remove(
        &mut self,
        writer: u64,
        directory: usize,
        name: &[u8],
        wants_directory: bool,
    ) -> Result<(), i32> {
        match (self.find(directory, name).ok_or(libc::ENOENT)?, wants_directory) {
            (SimNode::File(_), true) => return Err(libc::ENOTDIR),
            (SimNode::Directory(_), false) => return Err(libc::EISDIR),
            (SimNode::File(_), false) => {}
            (SimNode::Directory(removed), true) => self.retire(removed)?,
        }
        self.set(writer, directory, vec![(name.to_vec(), None)], None);
        Ok(())
    }

    /// A directory loses its name.
    fn retire(&mut self, directory: usize) -> Result<(), i32> {
        let SimDirectory { names, is_removed, .. } = &mut self.directories[directory];
        if !names.is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        *is_removed = true;
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        writer: u64,
        from: (usize, &[u8]),
        to: (usize, &[u8]),
    ) -> Result<(), i32> {
        let node = self.find(from.0, from.1).ok_or(libc::ENOENT)?;
        if self.directories[to.0].is_removed {
            return Err(libc::ENOENT);
        }
        if matches!(node, SimNode::Directory(moved) if self.is_within(to.0, moved)) {
            return Err(libc::EINVAL);
        }
        match (self.find(to.0, to.1), node) {
            (Some(there), _) if there == node => return Ok(()),
            (Some(SimNode::Directory(_)), SimNode::File(_)) => return Err(libc::EISDIR),
            (Some(SimNode::File(_)), SimNode::Directory(_)) => return Err(libc::ENOTDIR),
            (Some(SimNode::Directory(replaced)), _) => self.retire(replaced)?,
            (Some(SimNode::File(_)) | None, _) => {}
        }
        let (gone, there) = ((from.1.to_vec(), None), (to.1.to_vec(), Some(node)));
        match from.0 == to.0 {
            true => self.set(writer, from.0, vec![gone, there], None),
            false => self.set(writer, from.0, vec![gone], Some((to.0, vec![there]))),
        }
        Ok(())
    }

    /// Whether a directory is another one, or stands somewhere below it.
    fn is_within(&self, directory: usize, outer: usize) -> bool {
        directory == outer
            || self.list(outer).any(|(_, node)| match node {
                SimNode::Directory(inner) => self.is_within(directory, inner),
                SimNode::File(_) => false,
            })
    }

    fn set(
        &mut self,
        writer: u64,
        directory: usize,
        sets: Vec<NameSet>,
        other: Option<(usize, Vec<NameSet>)>,
    ) {
        self.changes += 1;
        let number = self.changes;
        let mut push = |place: usize, sets, beside| {
            let directory = &mut self.directories[place];
            let change = NameChange { number, writer, sets, beside };
            change.apply(&mut directory.names);
            directory.pending.push(change);
        };
        match other {
            None => push(directory, sets, None),
            Some((beside, theirs)) => {
                push(directory, sets, Some(beside));
                push(beside, theirs, Some(directory));
            }
        }
    }

    /// Makes durable what the chosen writers changed in a directory, with all that was changed there before.
    pub(super) fn harden(&mut self, directory: usize, mut chosen: impl FnMut(u64) -> bool) {
        let pending = &self.directories[directory].pending;
        let Some(last) = pending.iter().rfind(|change| chosen(change.writer)) else { return };
        let mut through = vec![(directory, last.number)];
        while let Some((directory, number)) = through.pop() {
            let SimDirectory { durable, pending, .. } = &mut self.directories[directory];
            let count = pending.partition_point(|change| change.number <= number);
            for change in pending.drain(..count) {
                change.apply(durable);
                // A rename is durable in both directories, and so is what came before it there.
                through.extend(change.beside.map(|beside| (beside, change.number)));
            }
        }
    }

    /// The power fails: of what is not durable each directory keeps the first changes.
    pub(super) fn power_cut(&mut self, random: &mut Random) {
        if self.directories.iter().all(|directory| directory.pending.is_empty()) {
            return;
        }
        let kept = self.kept(random);
        for (directory, last) in self.directories.iter_mut().zip(kept) {
            for change in directory.pending.drain(..).take_while(|change| change.number <= last) {
                change.apply(&mut directory.durable);
            }
            directory.names.clone_from(&directory.durable);
            directory.is_removed = false;
        }
    }

    /// The last change that each directory keeps.
    fn kept(&self, random: &mut Random) -> Vec<u64> {
        let luck = random.pick(&[0.0, 0.5, 0.9, 1.0]);
        let some = |directory: &SimDirectory, random: &mut Random| {
            let kept = directory.pending.iter().take_while(|_| random.chance(luck)).last();
            kept.map_or(0, |change| change.number)
        };
        let mut kept: Vec<u64> = self.directories.iter().map(|directory| some(directory, random)).collect();
        // A rename that one directory loses is lost in the other one, with what came after it.
        let renames = || {
            let all = self.directories.iter().enumerate();
            all.flat_map(|(place, directory)| {
                let beside = move |change: &NameChange| Some((place, change.beside?, change.number));
                directory.pending.iter().filter_map(beside)
            })
        };
        while let Some((_, other, number)) =
            renames().find(|(place, other, number)| kept[*place] < *number && *number <= kept[*other])
        {
            kept[other] = number - 1;
        }
        kept
    }
}

impl NameChange {
    fn apply(&self, names: &mut NameMap) {
        for (name, node) in &self.sets {
            match node {
                Some(node) => names.insert(name.clone(), *node),
                None => names.remove(name),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What is done, by small numbers: a directory and a name in it.
    #[derive(Debug, Clone, Copy)]
    enum Deed {
        NewFile(u8, u8),
        NewDirectory(u8, u8),
        Remove(u8, u8, bool),
        Rename((u8, u8), (u8, u8)),
        Sync(u8),
    }

    fn deeds() -> impl Strategy<Value = Vec<Deed>> {
        let place = || (0..4_u8, 0..3_u8);
        let deed = prop_oneof![
            3 => place().prop_map(|(directory, name)| Deed::NewFile(directory, name)),
            3 => place().prop_map(|(directory, name)| Deed::NewDirectory(directory, name)),
            2 => (place(), any::<bool>()).prop_map(|((directory, name), kind)| {
                Deed::Remove(directory, name, kind)
            }),
            4 => (place(), place()).prop_map(|(from, to)| Deed::Rename(from, to)),
            2 => (0..4_u8).prop_map(Deed::Sync),
        ];
        prop::collection::vec(deed, 1..10)
    }

    /// What stands where: all that a power cut could leave is one of these.
    type Tree = BTreeMap<(usize, u8), SimNode>;

    /// One change as the oracle sees it: of the whole tree at once.
    #[derive(Debug, Clone)]
    struct Step {
        sets: Vec<((usize, u8), Option<SimNode>)>,
        is_durable: bool,
    }

    impl Step {
        fn touches(&self, directory: usize) -> bool {
            self.sets.iter().any(|((place, _), _)| *place == directory)
        }
    }

    /// Keeps the whole history, and finds what a power cut may leave by trying all parts of it.
    #[derive(Debug, Default)]
    struct Naive {
        tree: Tree,
        steps: Vec<Step>,
    }

    impl Naive {
        fn apply(&mut self, sets: Vec<((usize, u8), Option<SimNode>)>) {
            let step = Step { sets, is_durable: false };
            replay(&mut self.tree, &step);
            self.steps.push(step);
        }

        fn sync(&mut self, directory: usize) {
            if let Some(last) = self.steps.iter().rposition(|step| step.touches(directory)) {
                self.harden_with(last);
            }
        }

        /// A step that is durable brings all before it in each directory that it touches.
        fn harden_with(&mut self, index: usize) {
            self.steps[index].is_durable = true;
            for earlier in 0..index {
                let shares =
                    self.steps[index].sets.iter().any(|((place, _), _)| self.steps[earlier].touches(*place));
                if shares && !self.steps[earlier].is_durable {
                    self.harden_with(earlier);
                }
            }
        }

        /// All trees that a power cut may leave.
        fn outcomes(&self) -> BTreeSet<Tree> {
            let count = self.steps.len();
            let is_allowed = |kept: u32| {
                (0..count).all(|index| {
                    let step = &self.steps[index];
                    let is_kept = kept >> index & 1 == 1;
                    let mut earlier = self.steps[..index].iter().enumerate();
                    let mut in_order = || {
                        earlier.all(|(before, other)| {
                            let shares = step.sets.iter().any(|((place, _), _)| other.touches(*place));
                            !shares || kept >> before & 1 == 1
                        })
                    };
                    if is_kept { in_order() } else { !step.is_durable }
                })
            };
            let tree = |kept: u32| {
                let mut tree = Tree::new();
                let steps = self.steps.iter().enumerate();
                steps.filter(|(index, _)| kept >> index & 1 == 1).for_each(|(_, step)| {
                    replay(&mut tree, step);
                });
                tree
            };
            (0..1_u32 << count).filter(|kept| is_allowed(*kept)).map(tree).collect()
        }
    }

    fn replay(tree: &mut Tree, step: &Step) {
        for (place, node) in &step.sets {
            match node {
                Some(node) => tree.insert(*place, *node),
                None => tree.remove(place),
            };
        }
    }

    fn tree_of(model: &SimDirectories) -> Tree {
        let directories = 0..model.directories.len();
        let list = |directory| model.list(directory).map(move |(name, node)| ((directory, name[0]), node));
        directories.flat_map(list).collect()
    }

    /// Does one thing in both. The oracle is told of what the model did not refuse.
    fn act(deed: Deed, writer: u64, model: &mut SimDirectories, naive: &mut Naive) {
        // Directories that do not exist yet are the first one.
        let existing = |number: u8, model: &SimDirectories| {
            let number = usize::from(number);
            if number < model.directories.len() { number } else { 0 }
        };
        match deed {
            Deed::NewFile(directory, name) => {
                let (place, node) = (existing(directory, model), SimNode::File(writer as usize));
                if model.insert(writer, place, &[name], node).is_ok() {
                    naive.apply(vec![((place, name), Some(node))]);
                }
            }
            Deed::NewDirectory(directory, name) => {
                let place = existing(directory, model);
                if model.may_insert(place, &[name]).is_ok() {
                    let node = SimNode::Directory(model.add());
                    model.insert(writer, place, &[name], node).unwrap();
                    naive.apply(vec![((place, name), Some(node))]);
                }
            }
            Deed::Remove(directory, name, wants_directory) => {
                let place = existing(directory, model);
                if model.remove(writer, place, &[name], wants_directory).is_ok() {
                    naive.apply(vec![((place, name), None)]);
                }
            }
            Deed::Rename(from, to) => {
                let (old, new) = ((existing(from.0, model), from.1), (existing(to.0, model), to.1));
                let moved = model.find(old.0, &[old.1]);
                let before = tree_of(model);
                if model.rename(writer, (old.0, &[old.1]), (new.0, &[new.1])).is_ok()
                    && before != tree_of(model)
                {
                    naive.apply(vec![(old, None), (new, moved)]);
                }
            }
            Deed::Sync(directory) => {
                let place = existing(directory, model);
                model.harden(place, |_| true);
                naive.sync(place);
            }
        }
    }

    proptest! {
        #[test]
        fn a_power_cut_leaves_what_the_rules_allow(deeds in deeds(), seed in any::<u64>()) {
            let (mut model, mut naive) = (SimDirectories::default(), Naive::default());
            model.add();
            for (writer, deed) in deeds.into_iter().enumerate() {
                act(deed, writer as u64, &mut model, &mut naive);
                prop_assert_eq!(tree_of(&model), naive.tree.clone());
            }
            model.power_cut(&mut Random::new(seed));
            let left = tree_of(&model);
            prop_assert!(naive.outcomes().contains(&left), "{left:?} of {naive:?}");
            // Nothing is left over that another one could lose.
            model.power_cut(&mut Random::new(seed ^ 1));
            prop_assert_eq!(tree_of(&model), left);
        }
    }

    /// Each of the outcomes that the rules allow comes about.
    #[test]
    fn everything_that_may_be_lost_is_lost_in_some_world() {
        let deeds = [
            Deed::NewDirectory(0, 0),
            Deed::Sync(0),
            Deed::NewFile(0, 1),
            Deed::Rename((0, 1), (1, 1)),
            Deed::NewFile(1, 2),
            Deed::Remove(1, 1, false),
        ];
        let (mut found, mut allowed) = (BTreeSet::new(), BTreeSet::new());
        for seed in 0..300 {
            let (mut model, mut naive) = (SimDirectories::default(), Naive::default());
            model.add();
            for (writer, deed) in deeds.into_iter().enumerate() {
                act(deed, writer as u64, &mut model, &mut naive);
            }
            model.power_cut(&mut Random::new(seed));
            found.insert(tree_of(&model));
            allowed = naive.outcomes();
        }
        assert_eq!(found, allowed);
        // The file in neither place, in the first, in the second, there beside another, and gone again.
        assert_eq!(found.len(), 5);
    }
}
