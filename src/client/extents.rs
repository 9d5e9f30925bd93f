//! Extents of an allocation map, joined where they say the same.

/// A run of an export with one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedExtent {
    /// Bytes from the start of the export.
    pub offset: u64,
    /// Bytes, at least 1.
    pub length: u64,
    /// As the meta context defines them.
    pub flags: u64,
}

/// Joins adjacent extents with equal flags. It holds one extent, whatever comes.
#[derive(Debug, Default)]
pub struct Merge {
    open: Option<MappedExtent>,
}

impl Merge {
    /// Takes the next extent; it begins where the last one ended. Gives the one before it, once it is
    /// complete.
    pub fn push(&mut self, next: MappedExtent) -> Option<MappedExtent> {
        match &mut self.open {
            Some(open) if open.flags == next.flags => {
                debug_assert_eq!(open.offset + open.length, next.offset);
                open.length += next.length;
                None
            }
            _ => self.open.replace(next),
        }
    }

    /// The last extent.
    pub fn finish(self) -> Option<MappedExtent> {
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The oracle is the status of each byte.
        #[test]
        fn merging_changes_no_byte_and_leaves_no_equal_neighbours(
            extents in prop::collection::vec((1u64..5, 0u64..3), 0..40),
        ) {
            let mut merge = Merge::default();
            let (mut merged, mut plain, mut offset) = (Vec::new(), Vec::new(), 0);
            for (length, flags) in extents {
                merged.extend(merge.push(MappedExtent { offset, length, flags }));
                plain.extend(vec![flags; length as usize]);
                offset += length;
            }
            merged.extend(merge.finish());
            let mut spread = Vec::new();
            for extent in &merged {
                prop_assert_eq!(extent.offset, spread.len() as u64);
                spread.extend(vec![extent.flags; extent.length as usize]);
            }
            prop_assert_eq!(spread, plain);
            prop_assert!(merged.windows(2).all(|pair| pair[0].flags != pair[1].flags));
        }
    }
}
