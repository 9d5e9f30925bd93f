//! Reads that leave holes out.

use crate::backend::{Device, ShardContext};
use crate::block::{ByteRange, Extent};
use crate::exec::side_by_side;
use crate::ring::Lease;
use crate::shard::request::Peer;
use crate::shard::request::answer::{Answer, ReadPart};

/// Reads at least this long leave holes out; for shorter ones asking costs more than sending zeroes.
const SPARSE_READ: u64 = 32 << 10;
/// Holes shorter than this are data: a part of their own would cost as much.
const SMALLEST_HOLE: u64 = 4096;
/// The most extents of one read that are looked at; what is beyond is data.
const MOST_EXTENTS: usize = 64;
/// Reads of one sparse read that run side by side.
const PARTS_AT_ONCE: usize = 16;

/// Whether the holes of a range are looked for when it is read in parts.
#[inline(always)]
pub(crate) fn is_worth_it(range: ByteRange, device: &Device) -> bool {
    range.length() >= SPARSE_READ && !device.is_known_data(range)
}

/// Reads a range and leaves its holes out; gives the memory back when there are none.
pub(crate) async fn read(
    range: ByteRange,
    lease: Lease,
    peer: &Peer,
    context: &ShardContext,
) -> Result<Answer, Lease> {
    let extents = peer.device.holes_for_read(range, MOST_EXTENTS, peer.client, context).await;
    let pieces = extents.map(|extents| pieces(range, &extents));
    match pieces.filter(|pieces| pieces.iter().any(|(_, hole)| *hole)) {
        Some(pieces) => Ok(read_pieces(range, &pieces, lease, peer, context).await),
        None => Err(lease),
    }
}

/// The runs of a read, true for holes: neighbours merged, holes too small to matter counted as data, nothing
/// left out.
fn pieces(range: ByteRange, extents: &[Extent]) -> Vec<(u64, bool)> {
    let mut pieces: Vec<(u64, bool)> = Vec::with_capacity(extents.len() + 1);
    let told: u64 = extents.iter().map(|extent| extent.length).sum();
    let rest = Extent { length: range.length() - told, hole: false, zero: false };
    for extent in extents.iter().chain(std::iter::once(&rest)) {
        let after_hole = matches!(pieces.last(), Some((_, true))) && canary!(HoleTooLong);
        let hole = (extent.zero && extent.length >= SMALLEST_HOLE) || after_hole;
        match pieces.last_mut() {
            _ if extent.length == 0 => {}
            Some(last) if last.1 == hole => last.0 += extent.length,
            _ => pieces.push((extent.length, hole)),
        }
    }
    pieces
}

/// Reads the data of a range side by side, each run into its own part of the lease.
async fn read_pieces(
    range: ByteRange,
    pieces: &[(u64, bool)],
    lease: Lease,
    peer: &Peer,
    context: &ShardContext,
) -> Answer {
    let (mut offset, mut rest) = (range.offset(), lease);
    let mut data = Vec::with_capacity(pieces.len());
    for (length, hole) in pieces {
        let (part, after) = rest.split_at(*length as usize);
        rest = after;
        if !hole {
            data.push((ByteRange::new(offset, *length).expect("within the request"), part));
        }
        offset += length;
    }
    let reads = data.into_iter().map(|(part, lease)| peer.device.read(part, lease, 0, peer.client, context));
    let mut results = side_by_side(reads, PARTS_AT_ONCE).await.into_iter();
    let mut parts = Vec::with_capacity(pieces.len());
    for (length, hole) in pieces {
        let length = *length as u32;
        if *hole {
            parts.push(ReadPart { length, data: None });
            continue;
        }
        let (lease, result) = results.next().expect("each run was read");
        let good = result.map_or_else(|failure| failure.good as u32, |()| length);
        if good > 0 {
            parts.push(ReadPart { length: good, data: Some(lease.freeze()) });
        }
        if let Err(failure) = result {
            return Answer::Parts { parts, failure: Some(failure.error) };
        }
    }
    Answer::Parts { parts, failure: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_holes_are_data_and_the_untold_rest_too() {
        let hole = |length| Extent { length, hole: true, zero: true };
        let data = |length| Extent { length, hole: false, zero: false };
        let range = ByteRange::new(0, 100_000).unwrap();
        let extents = [hole(8192), data(4096), hole(512), data(4096), hole(40_000), data(1000)];
        let expected = [(8192, true), (4096 + 512 + 4096, false), (40_000, true), (100_000 - 56_896, false)];
        assert_eq!(pieces(range, &extents), expected);
    }
}
