//! What differs between two points in time, read from the maps of the layers between them.

use std::fs::File;
use std::ops::Range;

use super::changed::ChangedSet;
use super::map_medium::MapFileError;
use super::map_reader::MapReader;

/// What differs, part by part.
#[derive(Debug)]
pub(crate) struct ChangeWalk {
    maps: Vec<(MapReader, u64)>,
    sets: Vec<ChangedSet>,
    /// What only one of the two sees.
    hidden: [Range<u64>; 2],
    /// Bytes of the larger of the two.
    size: u64,
}

/// The same, before the maps were read: whoever holds a lock gives it back first.
#[derive(Debug)]
pub(crate) struct ChangeFiles {
    /// Maps, and bytes of each that are seen from above.
    pub(crate) maps: Vec<(File, u64)>,
    pub(crate) sets: Vec<ChangedSet>,
    pub(crate) hidden: [Range<u64>; 2],
    pub(crate) size: u64,
}

/// What differs as far as it does not change any more.
#[derive(Debug)]
pub(crate) struct OtherChanges {
    set: ChangedSet,
    hidden: [Range<u64>; 2],
}

impl OtherChanges {
    /// Whether the byte at a place is among it, and the end of a part for which that holds.
    pub(crate) fn run(&self, at: u64, end: u64) -> (bool, u64) {
        let (is_in, mut until) = self.set.run(at, end);
        for hidden in self.hidden.iter().filter(|hidden| !hidden.is_empty() && at < hidden.end && !is_in) {
            if hidden.contains(&at) {
                return (true, until.min(hidden.end));
            }
            until = until.min(hidden.start);
        }
        (is_in, until)
    }
}

impl ChangeFiles {
    /// Reads all of it.
    pub(crate) fn read(self) -> Result<OtherChanges, MapFileError> {
        let ChangeFiles { maps, sets, hidden, size } = self;
        let mut set =
            ChangeFiles { maps, sets: Vec::new(), hidden: [0..0, 0..0], size }.walk()?.into_set()?;
        sets.iter().for_each(|more| set.add(more));
        Ok(OtherChanges { set, hidden })
    }

    /// Opens the maps.
    pub(crate) fn walk(self) -> Result<ChangeWalk, MapFileError> {
        let open = |(file, visible)| Ok((MapReader::open(file)?, visible));
        let maps = self.maps.into_iter().map(open).collect::<Result<_, MapFileError>>()?;
        Ok(ChangeWalk { maps, sets: self.sets, hidden: self.hidden, size: self.size })
    }
}

impl ChangeWalk {
    /// Whether the byte at a place differs, and the end of a part for which that holds. The next part may be
    /// the same.
    pub(crate) fn part(&mut self, at: u64) -> Result<(bool, u64), MapFileError> {
        let mut end = self.size;
        for hidden in &self.hidden {
            if hidden.contains(&at) {
                return Ok((true, hidden.end));
            }
            if hidden.start > at && !hidden.is_empty() {
                end = end.min(hidden.start);
            }
        }
        for set in &self.sets {
            let (is_in, until) = set.run(at, end);
            if is_in {
                return Ok((true, until));
            }
            end = end.min(until);
        }
        for (map, visible) in &mut self.maps {
            let visible = (*visible).min(map.size());
            if at < visible {
                let (state, until) = map.state_at(at, end.min(visible))?;
                if !state.is_absent() {
                    return Ok((true, until));
                }
                end = end.min(until);
            }
        }
        Ok((false, end))
    }

    /// The next part from a place on that differs.
    pub(crate) fn next(&mut self, mut at: u64) -> Result<Option<Range<u64>>, MapFileError> {
        let mut found: Option<Range<u64>> = None;
        while at < self.size {
            let (differs, end) = self.part(at)?;
            match &mut found {
                None if differs => found = Some(at..end),
                Some(found) if differs => found.end = end,
                Some(_) => break,
                None => {}
            }
            at = end;
        }
        Ok(found)
    }

    /// All of it as a set.
    pub(crate) fn into_set(mut self) -> Result<ChangedSet, MapFileError> {
        let (mut set, mut at) = (ChangedSet::default(), 0);
        while let Some(part) = self.next(at)? {
            at = part.end;
            set.insert(part);
        }
        Ok(set)
    }
}
