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
    Nothing,
    /// Part of a lease.
    Leased {
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
    /// Bytes of header and payload: sent earlier, and in this batch.
    left: u32,
    here: u32,
    tag: u32,
}

impl Chunk {
    /// Bytes of header and payload.
    fn length(&self) -> usize {
        self.header.len() + self.payload.length()
    }
}

/// A chunk that was not sent as a whole.
#[derive(Debug)]
pub struct Unsent<'a> {
    /// All of its header.
    pub header: &'a [u8],
    /// All of its payload.
    pub payload: Payload,
    /// Bytes of both that were sent so far.
    pub left: u32,
    /// What it was pushed with.
    pub tag: u32,
}

/// Header bytes and payloads in wire order, at most a fixed number of pieces and of bytes of headers.
///
/// Neither vector grows after construction, so the addresses in `pieces` stay valid while the batch lives.
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
    /// The most bytes that the chunks of one batch have together; longer chunks are sent in several batches.
    /// A send then ends soon, so its memory comes back soon, and the shard sees soon whether the peer reads.
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
        !self.is_full() && has_pieces && self.header_room() >= header
    }

    /// Appends a header and its payload up to [`SendBatch::MOST_BYTES`].
    ///
    /// The batch holds the payload until it is cleared; [`SendBatch::take_sent`] tells by `tag` what has left
    /// and gives back what did not.
    #[inline]
    pub fn push_chunk(&mut self, header: &[u8], payload: Payload, left: u32, tag: u32) {
        let start = self.headers.len();
        assert!(header.len() <= self.header_room(), "the caller leaves room");
        self.headers.extend_from_slice(header);
        self.push_with_header(start..start + header.len(), payload, left, tag);
    }

    /// As `push_chunk`, for the first `length` bytes of a header of fixed size, of which nothing has been
    /// sent. Copying all `N` bytes is cheaper than copying `length`.
    #[inline]
    pub fn push_fixed<const N: usize>(
        &mut self,
        header: &[u8; N],
        length: usize,
        payload: Payload,
        tag: u32,
    ) {
        let start = self.headers.len();
        assert!(N <= self.header_room() && length <= N, "the caller leaves room");
        self.headers.extend_from_slice(header);
        self.headers.truncate(start + length);
        self.push_with_header(start..start + length, payload, 0, tag);
    }

    #[inline]
    fn push_with_header(&mut self, header: Range<usize>, payload: Payload, left: u32, tag: u32) {
        let room = Self::MOST_BYTES.checked_sub(self.length).expect("the caller leaves room");
        let length = header.len() + payload.length();
        if left == 0 && length <= room {
            self.push_header_piece(header.clone());
            self.push_payload_piece(&payload, 0..payload.length());
            self.hold(header, payload, 0, length, tag);
        } else {
            self.push_part(header, payload, left, (length - left as usize).min(room), tag);
        }
    }

    /// Moves all chunks of another batch here, which must have room for them. None of them may have been
    /// sent.
    pub fn append(&mut self, other: &mut Self) {
        let put =
            |Unsent { header, payload, left, tag }: Unsent<'_>| self.push_chunk(header, payload, left, tag);
        other.take_sent(0, |_tag| unreachable!("no chunk is empty"), put);
    }

    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Whether it has as many bytes as one may have.
    pub fn is_full(&self) -> bool {
        self.length >= Self::MOST_BYTES
    }

    /// Keeps a payload, and what is known of its chunk, until the batch is cleared.
    #[inline]
    fn hold(&mut self, header: Range<usize>, payload: Payload, left: u32, here: usize, tag: u32) {
        let payload = match payload {
            Payload::Leased { length, .. } if canary!(LeaseBackEarly) => Payload::Zeroes(length),
            payload => payload,
        };
        let header = header.start as u32..header.end as u32;
        self.chunks.push(Chunk { header, payload, left, here: here as u32, tag });
    }

    /// Appends the `here` bytes of a chunk that follow the first `left`.
    fn push_part(&mut self, header: Range<usize>, payload: Payload, left: u32, here: usize, tag: u32) {
        let start = header.start;
        let left_before = left as usize;
        let header_left = left_before.min(header.len());
        let header_end = header.len().min(left_before + here);
        self.push_header_piece(start + header_left..start + header_end);
        let skip = left_before - header_left;
        self.push_payload_piece(&payload, skip..skip + here - (header_end - header_left));
        self.hold(header, payload, left, here, tag);
    }

    /// Appends part of a payload.
    #[inline]
    fn push_payload_piece(&mut self, payload: &Payload, part: Range<usize>) {
        if part.is_empty() {
            return;
        }
        match payload {
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

    /// Empties the batch after `sent` bytes were sent. Calls `complete` with the tag of each chunk that is
    /// complete and `put` with each other chunk, in order.
    #[inline]
    pub fn take_sent(&mut self, sent: usize, mut complete: impl FnMut(u32), mut put: impl FnMut(Unsent<'_>)) {
        if sent == self.length && self.is_whole() {
            self.chunks.drain(..).for_each(|chunk| complete(chunk.tag));
            return self.clear();
        }
        let mut sent = sent;
        for chunk in self.chunks.drain(..) {
            let now = (chunk.here as usize).min(sent) as u32;
            sent -= now as usize;
            let repeats = canary!(ShortSendRepeated) && now < chunk.here;
            let left = if repeats { chunk.left } else { chunk.left + now };
            if left as usize == chunk.length() {
                complete(chunk.tag);
            } else {
                let header = &self.headers[chunk.header.start as usize..chunk.header.end as usize];
                put(Unsent { header, payload: chunk.payload, left, tag: chunk.tag });
            }
        }
        self.clear();
    }

    /// Whether all of its chunks end in it.
    pub fn is_whole(&self) -> bool {
        // Only the last one can be cut, since the batch is full then.
        let ends = |chunk: &Chunk| chunk.left as usize + chunk.here as usize == chunk.length();
        self.chunks.last().is_none_or(ends)
    }

    /// Appends header bytes; directly after other header bytes they share a piece.
    pub fn push_header(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.header_room(), "the caller leaves room");
        let start = self.headers.len();
        self.headers.extend_from_slice(bytes);
        self.push_header_piece(start..start + bytes.len());
    }

    /// All header bytes, to be changed where they lie before they are sent.
    pub fn headers_mut(&mut self) -> &mut [u8] {
        &mut self.headers
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
        self.chunks.push(Chunk { header: 0..0, payload, left: 0, here: length, tag: 0 });
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

    /// The message for the kernel; valid while the batch is neither changed nor moved out of its box.
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
        let mut lease = pool.lend(10).unwrap();
        lease.bytes_mut(0..3).copy_from_slice(b"abc");
        let mut batch = SendBatch::with_capacity(8, 64);
        batch.push_header(b"0");
        batch.push_chunk(b"1", Payload::Nothing, 0, 1);
        batch.push_chunk(b"2", Payload::Leased { lease: lease.freeze(), start: 1, length: 2 }, 0, 2);
        batch.push_chunk(b"3", Payload::Text(b"text".to_vec()), 0, 3);
        batch.push_chunk(b"4", Payload::Zeroes(2), 0, 4);
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
            batch.push_chunk(b"header", payload, from, 7);
            assert!(!batch.has_room_for_chunk(6) || batch.is_whole());
            let sent = batch.length();
            sends.push(sent);
            let mut complete = None;
            let put = |unsent: Unsent<'_>| {
                assert_eq!((unsent.header, unsent.tag), (&b"header"[..], 7));
                left = Some((unsent.left, unsent.payload));
            };
            batch.take_sent(sent, |tag| complete = Some(tag), put);
            assert_eq!(complete, left.is_none().then_some(7));
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
            let mut queue: std::collections::VecDeque<(Vec<u8>, Vec<u8>, u32, u32)> = Default::default();
            for (index, (header, payload)) in chunks.iter().enumerate() {
                queue.push_back((text(index, header + 1), text(index + 7, *payload), 0, index as u32));
            }
            let all: Vec<u8> =
                queue.iter().flat_map(|(header, payload, ..)| [header.clone(), payload.clone()].concat()).collect();
            let (mut out, mut complete, total) = (Vec::new(), Vec::new(), queue.len());
            let mut batch = SendBatch::with_capacity(12, 100);
            for sent in sends {
                while batch.has_room_for_chunk(21) && let Some((header, payload, left, tag)) = queue.pop_front() {
                    batch.push_chunk(&header, Payload::Text(payload), left, tag);
                }
                let sent = sent.min(batch.length());
                out.extend_from_slice(&content(&batch)[..sent]);
                let mut back = Vec::new();
                batch.take_sent(sent, |tag| complete.push(tag), |Unsent { header, payload, left, tag }| {
                    let Payload::Text(payload) = payload else { panic!("all are texts") };
                    back.push((header.to_vec(), payload, left, tag));
                });
                back.into_iter().rev().for_each(|chunk| queue.push_front(chunk));
            }
            prop_assert_eq!(&out[..], &all[..out.len()]);
            prop_assert_eq!(complete.len() + queue.len(), total);
            prop_assert!(complete.iter().copied().eq(0..complete.len() as u32), "in order, once each");
        }
    }
}
