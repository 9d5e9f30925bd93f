//! A reply as it is queued: its chunks, each a header and its payload; and how an answer becomes one.

use crate::block::BlockError;
use crate::nbd::server::reply::{HeaderBytes, ReplyTo, allocation_run};
use crate::nbd::session::ReplyMode;
use crate::ring::{Lease, Payload};
use crate::shard::request::answer::{Answer, Described, ReadPart};

/// One chunk of a reply.
#[derive(Debug)]
pub(crate) struct ReplyChunk {
    pub(crate) header: HeaderBytes,
    pub(crate) payload: Payload,
}

/// All chunks of a reply.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The usual case.
    One(ReplyChunk),
    /// Sparse reads, errors half-way, several meta contexts.
    Many(Vec<ReplyChunk>),
}

impl Reply {
    /// A header alone.
    pub(crate) fn header(header: HeaderBytes) -> Self {
        Self::One(ReplyChunk { header, payload: Payload::Nothing })
    }

    /// An error with its text.
    pub(crate) fn error((header, text): (HeaderBytes, Vec<u8>)) -> Self {
        Self::One(ReplyChunk::with_text(header, text))
    }
}

impl Reply {
    /// What carries an answer to its client.
    pub(crate) fn of(answer: Answer, to: &ReplyTo) -> Self {
        match answer {
            Answer::Done => Self::header(to.success()),
            Answer::Data(payload) => {
                let header = to.data(to.offset, payload.length() as u32, true);
                Self::One(ReplyChunk { header, payload })
            }
            Answer::Parts { parts, failure } => Self::of_parts(parts, failure, to),
            Answer::Extents { found, .. } if to.mode != ReplyMode::Extended && !fit_into_32_bits(&found) => {
                let reason = "the status does not fit into 32 bits; ask with extended headers";
                Self::error(to.error(BlockError::Invalid, reason, None))
            }
            Answer::Extents { found, lease } => Self::of_extents(&found, lease, to),
            Answer::Failed(error) => Self::error(to.error(error, &error.to_string(), None)),
        }
    }

    /// A chunk for each part; of a failed read in simple mode the error alone.
    fn of_parts(parts: Vec<ReadPart>, failure: Option<BlockError>, to: &ReplyTo) -> Self {
        let (mut at, mut left) = (to.offset, parts.len() + usize::from(failure.is_some()));
        let mut chunks = Vec::with_capacity(left);
        for ReadPart { length, data } in parts {
            left -= 1;
            match data {
                _ if to.mode == ReplyMode::Simple && failure.is_some() => {}
                None => {
                    let header = to.hole(at, length, left == 0);
                    chunks.push(ReplyChunk { header, payload: Payload::Nothing });
                }
                Some(lease) => {
                    let header = to.data(at, length, left == 0);
                    chunks.push(ReplyChunk { header, payload: Payload::Leased { lease, start: 0, length } });
                }
            }
            at += u64::from(length);
        }
        if let Some(error) = failure {
            let (header, text) = to.error(error, &format!("{error} at offset {at}"), Some(at));
            chunks.push(ReplyChunk::with_text(header, text));
        }
        Self::Many(chunks)
    }

    /// A chunk for each map, written into the lease one behind the other.
    fn of_extents(found: &[(u32, Described)], mut lease: Lease, to: &ReplyTo) -> Self {
        let (mut start, whole) = (0, lease.capacity());
        let mut written = Vec::with_capacity(found.len());
        for (index, (context, described)) in found.iter().enumerate() {
            let done = index + 1 == found.len();
            let bytes = lease.bytes_mut(start..whole);
            let (header, length) = match described {
                Described::Allocation(extents) => {
                    to.status(*context, extents.iter().map(allocation_run), done, bytes)
                }
                Described::Numbers(runs) => {
                    to.status(*context, runs.iter().map(|run| (run.length, run.number)), done, bytes)
                }
            };
            written.push((header, start as u32, length as u32));
            start += length;
        }
        // Shared once nothing is written into it any more.
        let lease = lease.freeze();
        let chunk = |(header, start, length)| {
            let payload = Payload::Leased { lease: lease.clone(), start, length };
            ReplyChunk { header, payload }
        };
        Self::Many(written.into_iter().map(chunk).collect())
    }
}

/// Whether descriptors of a structured reply have room for all numbers. Those of another server may be wider.
fn fit_into_32_bits(found: &[(u32, Described)]) -> bool {
    found.iter().all(|(_, described)| match described {
        Described::Allocation(_) => true,
        Described::Numbers(runs) => runs.iter().all(|run| u32::try_from(run.number).is_ok()),
    })
}

impl ReplyChunk {
    pub(crate) fn with_text(header: HeaderBytes, text: Vec<u8>) -> Self {
        let payload = if text.is_empty() { Payload::Nothing } else { Payload::Text(text) };
        Self { header, payload }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::NumberedExtent;
    use crate::nbd::server::request::Cookie;
    use crate::ring::{Ring, RingOptions};

    /// Of each structured chunk its type, whether it is the last, and the bytes behind its header.
    fn chunks(reply: Reply) -> Vec<(u16, bool, usize)> {
        let chunks = match reply {
            Reply::One(chunk) => vec![chunk],
            Reply::Many(chunks) => chunks,
        };
        let read = |ReplyChunk { header, payload }: ReplyChunk| {
            let bytes = header.as_bytes();
            assert_eq!(bytes[..4], [0x66, 0x8e, 0x33, 0xef]);
            (u16::from_be_bytes([bytes[6], bytes[7]]), bytes[5] == 1, payload.length())
        };
        chunks.into_iter().map(read).collect()
    }

    #[test]
    fn a_status_wider_than_its_descriptors_is_an_error() {
        let (_ring, pool) = Ring::new(&RingOptions::small()).unwrap();
        let answer = |number| {
            let found = vec![(1, Described::Numbers(vec![NumberedExtent { length: 512, number }]))];
            Answer::Extents { found, lease: pool.lend(4096).unwrap() }
        };
        let to = |mode| ReplyTo { mode, cookie: Cookie(7), offset: 0, chunked: true };
        let largest = chunks(Reply::of(answer(0xffff_ffff), &to(ReplyMode::Structured)));
        assert_eq!(largest, [(5, true, 12)]);
        let [(kind, true, _)] = chunks(Reply::of(answer(1 << 32), &to(ReplyMode::Structured)))[..] else {
            panic!("one chunk")
        };
        assert_eq!(kind, 0x8001);
        let Reply::Many(wide) = Reply::of(answer(1 << 32), &to(ReplyMode::Extended)) else {
            panic!("a list of chunks")
        };
        assert_eq!((wide.len(), wide[0].payload.length()), (1, 24));
    }

    #[test]
    fn a_read_that_fails_tells_what_is_good_where_the_form_allows_it() {
        let (_ring, pool) = Ring::new(&RingOptions::small()).unwrap();
        let answer = || {
            let part = |length, hole: bool| {
                let lease = pool.lend(4096).unwrap().freeze();
                ReadPart { length, data: (!hole).then_some(lease) }
            };
            let parts = vec![part(4096, false), part(8192, true), part(512, false)];
            Answer::Parts { parts, failure: Some(BlockError::Io) }
        };
        let to = |mode| ReplyTo { mode, cookie: Cookie(7), offset: 1 << 20, chunked: true };
        let found = chunks(Reply::of(answer(), &to(ReplyMode::Structured)));
        assert_eq!(found[..3], [(1, false, 4096), (2, false, 0), (1, false, 512)]);
        let text = format!("{} at offset {}", BlockError::Io, (1 << 20) + 4096 + 8192 + 512);
        assert_eq!(found[3..], [(0x8002, true, 4 + 2 + text.len() + 8)]);
        let Reply::Many(simple) = Reply::of(answer(), &to(ReplyMode::Simple)) else { panic!("one chunk") };
        assert_eq!((simple.len(), simple[0].payload.length()), (1, 0));
        assert_eq!(simple[0].header.as_bytes()[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5]);
    }
}
