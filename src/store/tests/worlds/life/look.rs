//! What a store has, compared with what it must have.

use std::collections::BTreeSet;
use std::path::Path;

use super::super::disk::{Disk, Disks};
use super::{Doubt, MARK, Store, World, node};
use crate::store::catalog::ImageRefusal;
use crate::store::copy::MAP_BLOCK;
use crate::store::error::StoreError;
use crate::store::export::RawOutput;

impl World {
    /// Every image and snapshot is there with its contents, and nothing else.
    pub(super) fn look(&mut self) {
        self.power.set_looked_at(true);
        self.look_at_disks();
        self.look_at_readings();
        let wrong = self.store().check().unwrap();
        self.power.set_looked_at(false);
        assert_eq!(wrong, Vec::<String>::new());
    }

    fn look_at_disks(&mut self) {
        let doubt = std::mem::take(&mut self.doubt);
        let store = self.store.as_ref().expect("the store is open");
        let view = store.view().unwrap();
        let mut names: Vec<String> = Vec::new();
        for image in view.images() {
            names.push(image.name.to_string());
            names
                .extend(view.snapshots_of(image.id).iter().map(|row| format!("{}@{}", image.name, row.name)));
        }
        names.sort();
        let mut found: Vec<(String, FoundDisk)> = Vec::new();
        for of in &names {
            found.push((of.clone(), look_at(store, &names, of)));
        }
        for of in found.iter().filter(|(_, disk)| matches!(disk, FoundDisk::Changes(_))).map(|(of, _)| of) {
            let is_mark = of.split_once('@').is_some_and(|(_, name)| name.starts_with(MARK));
            assert!(is_mark || self.given_up.contains(of), "{of} has lost its contents");
        }
        let mut why = Vec::new();
        let after = if let Doubt::Disks(disks) = &doubt { Some(disks.clone()) } else { None };
        for candidate in std::iter::once(self.disks.clone()).chain(after) {
            match self.fits(&found, &candidate, &doubt) {
                Ok(disks) => {
                    self.disks = disks;
                    return;
                }
                Err(error) => why.push(error),
            }
        }
        panic!("neither as before nor as after: {why:?}");
    }

    fn fits(
        &mut self,
        found: &[(String, FoundDisk)],
        candidate: &Disks,
        doubt: &Doubt,
    ) -> Result<Disks, String> {
        if !found.iter().map(|(of, _)| of).eq(candidate.keys()) {
            let found: Vec<_> = found.iter().map(|(of, _)| of).collect();
            return Err(format!("{found:?} instead of {:?}", candidate.keys()));
        }
        let mut disks = Disks::new();
        for (of, found) in found {
            let doubtful = match doubt {
                Doubt::Blocks { image, blocks, number } if image == of => Some((blocks, *number)),
                _ => None,
            };
            let disk = match found {
                FoundDisk::Contents(bytes) => self.contents.found(bytes, &candidate[of], doubtful),
                // What it had is not there any more; it is kept here to be compared with.
                FoundDisk::Changes(_) => Ok(candidate[of].clone()),
            };
            disks.insert(of.clone(), disk.map_err(|error| format!("{of}: {error}"))?);
        }
        for (of, found) in found {
            let FoundDisk::Changes(changes) = found else { continue };
            changes
                .iter()
                .try_for_each(|(other, told)| all_is_told((of, &disks[of]), (other, &disks[other]), told))?;
        }
        Ok(disks)
    }
}

/// What is found of an image or a snapshot.
enum FoundDisk {
    Contents(Vec<u8>),
    /// It keeps changes only: blocks that are said to differ, for each other one of the image.
    Changes(Vec<(String, BTreeSet<usize>)>),
}

fn look_at(store: &Store, names: &[String], of: &str) -> FoundDisk {
    let mut bytes = Vec::new();
    let mut out = RawOutput::Stream(&mut bytes);
    let read = store.export_raw(&node(of), (Path::new("out"), &mut out), &mut |_| Ok(()));
    match read {
        Ok(()) => return FoundDisk::Contents(bytes),
        Err(StoreError::Refused(ImageRefusal::ChangesOnly(_))) => {}
        Err(error) => panic!("{of}: {error}"),
    }
    let image = of.split('@').next().unwrap();
    let others = names.iter().filter(|other| *other != of && other.split('@').next() == Some(image));
    let told = others.map(|other| {
        let mut blocks = BTreeSet::new();
        let told = store.differences(&node(of), &node(other), &mut |part| {
            blocks.extend((part.start / MAP_BLOCK) as usize..part.end.div_ceil(MAP_BLOCK) as usize);
            Ok(())
        });
        told.unwrap_or_else(|error| panic!("{of} and {other}: {error}"));
        (other.clone(), blocks)
    });
    FoundDisk::Changes(told.collect())
}

/// B1: what differs is told.
fn all_is_told(
    (of, disk): (&str, &Disk),
    (other, of_other): (&str, &Disk),
    told: &BTreeSet<usize>,
) -> Result<(), String> {
    let blocks = 0..disk.len().max(of_other.len());
    match blocks.into_iter().find(|block| disk.get(*block) != of_other.get(*block) && !told.contains(block)) {
        None => Ok(()),
        Some(block) => Err(format!("{of} and {other} differ in block {block}, which is not told")),
    }
}
