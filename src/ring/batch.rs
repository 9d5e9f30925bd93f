//! The pieces of one vectored send: headers copied in, payloads held by what they are part of.

use std::ops::Range;

use super::buffer::SharedLease;
use super::mapped::MappedRange;

/// Bytes of the shared zero area: payloads of zeroes point there.
pub(super) const ZERO_AREA: usize = 1 << 20;
static ZEROES: [u8; ZERO_AREA] = [0; ZERO_AREA];

/// What follows a header.
#[derive(Debug)]
pub enum Payload {
    /// Nothing.
    Nothing,
    /// Part of a lease.
    Leased {
        /// The memory.
        lease: SharedLease,
        /// Bytes into it.
        start: u32,
        /// Bytes of the part.
        length: u32,
    },
    /// Part of a mapped file.
    Mapped(MappedRange),
    /// Zeroes that need no memory.
    Zeroes(u32),
    /// Bytes of its own.
    Text(Vec<u8>),
}

impl Payload {
    /// Bytes of it.
    pub fn length(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Leased { length, .. } | Self::Zeroes(length) => *length as usize,
            Self::Mapped(mapped) => mapped.length() as usize,
            Self::Text(text) => text.len(),
        }
    }
}

/// A header and its payload.
#[derive(Debug)]
struct Chunk {
    /// Where the header lies in `headers`, all of it.
    header: Range<u32>,
    payload: Payload,
    /// Bytes of header and payload that left with an earlier send, and that are in this batch.
    left: usize,
    here: usize,
}

/// Header bytes and payloads in wire order, at most a fixed number of pieces and of bytes of headers.
///
/// Neither vector grows after construction, so the addresses in `pieces` stay true while the batch lives.
pub struct SendBatch {
    headers: Vec<u8>,
    pieces: Vec<libc::iovec>,
    /// Holders of the payloads, until the send completed.
    chunks: Vec<Chunk>,
    message: libc::msghdr,
    length: usize,
}

impl std::fmt::Debug for SendBatch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SendBatch({} pieces, {} bytes)", self.pieces.len(), self.length)
    }
}

impl SendBatch {
    /// Bytes that chunks of one batch have together at the most; what is longer leaves in several. A send then ends soon, so the memory
    /// of what has left comes back soon, and it shows whether the peer reads.
    pub const MOST_BYTES: usize = 1 << 20;
    /// Pieces that a chunk needs at the most.
    pub const PIECES_PER_CHUNK: usize = 2;

    /// Room for `pieces` pieces and `headers` bytes of headers.
    pub fn with_capacity(pieces: usize, headers: usize) -> Self {
        Self {
            headers: Vec::with_capacity(headers),
            pieces: Vec::with_capacity(pieces),
            chunks: Vec::with_capacity(pieces),
            // SAFETY: all-zero is a valid, empty `msghdr`.
            message: unsafe { std::mem::zeroed() },
            length: 0,
        }
    }

    /// Empties it for the next use; leases go back.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.pieces.clear();
        self.chunks.clear();
        self.length = 0;
    }

    /// Bytes to send.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Pieces that still fit.
    pub fn room(&self) -> usize {
        self.pieces.capacity() - self.pieces.len()
    }

    /// Bytes of headers that still fit.
    pub fn header_room(&self) -> usize {
        self.headers.capacity() - self.headers.len()
    }

    /// Whether another chunk can be pushed, with a header of at most so many bytes.
    pub fn has_room_for_chunk(&self, header: usize) -> bool {
        let has_pieces = self.room() >= Self::PIECES_PER_CHUNK;
        self.length < Self::MOST_BYTES && has_pieces && self.header_room() >= header
    }

    /// Appends a header and its payload, of which the first `left` bytes have left already, up to [`SendBatch::MOST_BYTES`].
    ///
    /// The batch holds the payload until it is cleared; [`SendBatch::take_unsent`] gives back what did not leave.
    pub fn push_chunk(&mut self, header: &[u8], payload: Payload, left: usize) {
        let room = Self::MOST_BYTES.checked_sub(self.length).expect("the caller leaves room");
        let length = header.len() + payload.length();
        let here = (length - left).min(room);
        let start = self.headers.len();
        assert!(header.len() <= self.header_room(), "the caller leaves room");
        self.headers.extend_from_slice(header);
        let header_left = left.min(header.len());
        let header_end = header.len().min(left + here);
        self.push_header_piece(start + header_left..start + header_end);
        let skip = left - header_left;
        let part = skip..skip + here - (header_end - header_left);
        if !part.is_empty() {
            match &payload {
                Payload::Nothing => {}
                Payload::Leased { lease, start, .. } => {
                    let start = *start as usize;
                    self.push_piece(lease.bytes(start + part.start..start + part.end).as_ptr_range());
                }
                Payload::Mapped(mapped) => self.push_iovec(mapped.piece(part)),
                Payload::Zeroes(_) => self.push_piece(ZEROES[..part.len()].as_ptr_range()),
                // Moving the vector does not move its bytes.
                Payload::Text(text) => self.push_piece(text[part].as_ptr_range()),
            }
        }
        let payload = match payload {
            Payload::Leased { length, .. } if canary!(LeaseBackEarly) => Payload::Zeroes(length),
            payload => payload,
        };
        let header = start as u32..(start + header.len()) as u32;
        self.chunks.push(Chunk { header, payload, left, here });
    }

    /// After `sent` bytes have left: gives back chunks that are not complete, in order, each with the bytes of it that have left so far,
    /// and empties the batch. The number of chunks that are complete.
    pub fn take_unsent(&mut self, sent: usize, mut put: impl FnMut(&[u8], Payload, usize)) -> usize {
        let (mut sent, mut complete) = (sent, 0);
        for Chunk { header, payload, left, here } in self.chunks.drain(..) {
            let now = here.min(sent);
            sent -= now;
            let header = &self.headers[header.start as usize..header.end as usize];
            let repeats = canary!(ShortSendRepeated) && now < here;
            let left = if repeats { left } else { left + now };
            if left == header.len() + payload.length() {
                complete += 1;
            } else {
                put(header, payload, left);
            }
        }
        self.clear();
        complete
    }

    /// Whether all of its chunks end in it.
    pub fn is_whole(&self) -> bool {
        // Only the last one can be cut, since the batch is full then.
        self.chunks
            .last()
            .is_none_or(|chunk| chunk.left + chunk.here == chunk.header.len() + chunk.payload.length())
    }

    /// Appends header bytes; directly after other header bytes they share a piece.
    pub fn push_header(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.header_room(), "the caller leaves room");
        let start = self.headers.len();
        self.headers.extend_from_slice(bytes);
        self.push_header_piece(start..start + bytes.len());
    }

    fn push_header_piece(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let address = self.headers[range.start..].as_ptr().cast_mut().cast::<libc::c_void>();
        if let Some(last) = self.pieces.last_mut()
            && last.iov_base.wrapping_byte_add(last.iov_len) == address
        {
            last.iov_len += range.len();
            self.length += range.len();
            return;
        }
        self.push_iovec(libc::iovec { iov_base: address, iov_len: range.len() });
    }

    /// Appends part of a lease; the batch holds it until it is cleared.
    pub fn push_lease(&mut self, lease: SharedLease, range: Range<usize>) {
        self.push_piece(lease.bytes(range.clone()).as_ptr_range());
        let (start, length) = (range.start as u32, range.len() as u32);
        let payload = Payload::Leased { lease, start, length };
        self.chunks.push(Chunk { header: 0..0, payload, left: 0, here: range.len() });
    }

    fn push_piece(&mut self, bytes: Range<*const u8>) {
        let iov_len = bytes.end.addr() - bytes.start.addr();
        self.push_iovec(libc::iovec { iov_base: bytes.start.cast_mut().cast(), iov_len });
    }

    fn push_iovec(&mut self, piece: libc::iovec) {
        assert!(self.room() > 0, "the caller leaves room");
        self.pieces.push(piece);
        self.length += piece.iov_len;
    }

    /// Addresses and lengths of the pieces, for a simulated kernel.
    #[cfg(feature = "sim")]
    pub(super) fn pieces(&self) -> impl Iterator<Item = (*mut u8, usize)> {
        self.pieces.iter().map(|piece| (piece.iov_base.cast(), piece.iov_len))
    }

    /// The message for the kernel; true while the batch is neither changed nor moved out of its box.
    pub(super) fn message(&mut self) -> *const libc::msghdr {
        self.message.msg_iov = self.pieces.as_mut_ptr();
        self.message.msg_iovlen = self.pieces.len() as _;
        &raw const self.message
    }
}

#[cfg(test)]
mod tests {
    use super::super::buffer::BufferPool;
    use super::*;
    use proptest::prelude::*;

    fn content(batch: &SendBatch) -> Vec<u8> {
        let mut all = Vec::new();
        for piece in &batch.pieces {
            // SAFETY: the batch keeps every piece alive.
            all.extend_from_slice(unsafe {
                std::slice::from_raw_parts(piece.iov_base.cast(), piece.iov_len)
            });
        }
        all
    }

    #[test]
    fn pieces_keep_their_order_and_adjacent_headers_share_one() {
        let pool = BufferPool::new(48 << 20, 32 << 20).unwrap();
        let mut lease = pool.lend(10, 0).unwrap();
        lease.bytes_mut(0..3).copy_from_slice(b"abc");
        let mut batch = SendBatch::with_capacity(8, 64);
        batch.push_header(b"0");
        batch.push_chunk(b"1", Payload::Nothing, 0);
        batch.push_chunk(b"2", Payload::Leased { lease: lease.freeze(), start: 1, length: 2 }, 0);
        batch.push_chunk(b"3", Payload::Text(b"text".to_vec()), 0);
        batch.push_chunk(b"4", Payload::Zeroes(2), 0);
        assert_eq!(content(&batch), b"012bc3text4\0\0");
        assert_eq!(batch.pieces.len(), 6);
        assert_eq!(batch.length(), 13);
        batch.clear();
        assert_eq!(pool.free_bytes(), pool.total_bytes());
    }

    #[test]
    fn what_is_too_long_leaves_in_several_batches() {
        let mut batch = SendBatch::with_capacity(4, 64);
        let length = 2 * SendBatch::MOST_BYTES as u32;
        let (mut left, mut sends) = (Some((0, Payload::Zeroes(length))), Vec::new());
        while let Some((from, payload)) = left.take() {
            batch.push_chunk(b"header", payload, from);
            assert!(!batch.has_room_for_chunk(6) || batch.is_whole());
            let sent = batch.length();
            sends.push(sent);
            batch.take_unsent(sent, |header, payload, gone| {
                assert_eq!(header, b"header");
                left = Some((gone, payload));
            });
        }
        assert_eq!(sends, [1 << 20, 1 << 20, 6]);
    }

    proptest! {
        /// Oracle: all bytes in a row, of which each send takes some from the front.
        #[test]
        fn nothing_is_lost_or_sent_twice(
            chunks in prop::collection::vec((0usize..20, 0usize..50), 1..20),
            sends in prop::collection::vec(0usize..200, 1..50),
        ) {
            let text = |index: usize, length: usize| {
                (0..length).map(|at| (index * 31 + at) as u8).collect::<Vec<u8>>()
            };
            let mut queue: std::collections::VecDeque<(Vec<u8>, Vec<u8>, usize)> = Default::default();
            for (index, (header, payload)) in chunks.iter().enumerate() {
                queue.push_back((text(index, header + 1), text(index + 7, *payload), 0));
            }
            let all: Vec<u8> =
                queue.iter().flat_map(|(header, payload, _)| [header.clone(), payload.clone()].concat()).collect();
            let (mut out, total) = (Vec::new(), queue.len());
            let mut complete = 0;
            let mut batch = SendBatch::with_capacity(12, 100);
            for sent in sends {
                while batch.has_room_for_chunk(21) && let Some((header, payload, left)) = queue.pop_front() {
                    batch.push_chunk(&header, Payload::Text(payload), left);
                }
                let sent = sent.min(batch.length());
                out.extend_from_slice(&content(&batch)[..sent]);
                let mut back = Vec::new();
                complete += batch.take_unsent(sent, |header, payload, left| {
                    let Payload::Text(payload) = payload else { panic!("all are texts") };
                    back.push((header.to_vec(), payload, left));
                });
                back.into_iter().rev().for_each(|chunk| queue.push_front(chunk));
            }
            prop_assert_eq!(&out[..], &all[..out.len()]);
            prop_assert_eq!(complete + queue.len(), total);
        }
    }
}
