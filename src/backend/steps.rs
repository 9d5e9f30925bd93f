//! Long ranges in short steps, so that no request holds up others for long.

use crate::block::ByteRange;

/// A range in parts of at most `step` bytes, which end at multiples of `step` in the file.
pub(super) fn steps(range: ByteRange, step: u64) -> impl Iterator<Item = ByteRange> {
    let mut offset = range.offset();
    std::iter::from_fn(move || {
        let length = (step - offset % step).min(range.end() - offset);
        let part = ByteRange::new(offset, length).filter(|part| !part.is_empty())?;
        offset = part.end();
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(offset: u64, length: u64) -> ByteRange {
        ByteRange::new(offset, length).unwrap()
    }

    #[test]
    fn steps_end_at_multiples() {
        let parts: Vec<_> = steps(range(100, 300), 128).collect();
        assert_eq!(parts, [range(100, 28), range(128, 128), range(256, 128), range(384, 16)]);
        assert_eq!(steps(range(7, 0), 128).count(), 0);
    }

    proptest! {
        #[test]
        fn steps_cover_the_range_in_order(offset in 0..10_000_u64, length in 0..10_000_u64, step in 1..3_000_u64) {
            let whole = range(offset, length);
            let mut at = offset;
            for part in steps(whole, step) {
                prop_assert_eq!(part.offset(), at);
                prop_assert!(part.length() <= step && !part.is_empty());
                at = part.end();
            }
            prop_assert_eq!(at, whole.end());
        }
    }
}
