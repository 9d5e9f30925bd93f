//! The payload of a BLOCK_STATUS, which names contexts.

use alloc::vec::Vec;

use crate::session::Session;
use crate::vocabulary::{BlockError, ByteRange};

/// The longest filter of a BLOCK_STATUS payload: 64-bit length and the ids.
pub(super) const LONGEST_FILTER: u32 = 8 + 4 * 1024;

/// The contexts and the length that the payload of a BLOCK_STATUS names: "64 bits, effect length; n * 32
/// bits, list of metacontext ids".
///
/// # Errors
/// `Invalid` for an unknown or repeated id, or a range beyond the export.
pub fn parse_filter(
    payload: &[u8],
    offset: u64,
    session: &Session,
) -> Result<(ByteRange, Vec<u32>), BlockError> {
    let (length, ids) = payload.split_first_chunk::<8>().ok_or(BlockError::Invalid)?;
    let length = u64::from_be_bytes(*length);
    let ids: Vec<u32> = ids.as_chunks::<4>().0.iter().map(|id| u32::from_be_bytes(*id)).collect();
    let known = |id: &u32| session.contexts.iter().any(|context| context.id == *id);
    let repeated = |index: usize| ids[..index].contains(&ids[index]);
    if ids.is_empty() || !ids.iter().all(known) || (0..ids.len()).any(repeated) {
        return Err(BlockError::Invalid);
    }
    let range =
        ByteRange::new(offset, length).filter(|range| range.is_within(session.size) && !range.is_empty());
    let aligned =
        |range: &ByteRange| !session.enforce_alignment || range.is_aligned(session.block_sizes.minimum);
    Ok((range.filter(aligned).ok_or(BlockError::Invalid)?, ids))
}
