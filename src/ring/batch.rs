//! The pieces of one vectored send: headers copied in, payloads held by their leases.

use std::ops::Range;

use super::buffer::SharedLease;
use super::mapped::MappedRange;

/// Bytes of the shared zero area: payloads of zeroes point there.
pub(super) const ZERO_AREA: usize = 1 << 20;
static ZEROES: [u8; ZERO_AREA] = [0; ZERO_AREA];

/// Header bytes and leased payloads in wire order, at most a fixed number of pieces and of bytes of headers.
///
/// Neither vector grows after construction, so the addresses in `pieces` stay true while the batch lives.
pub struct SendBatch {
    headers: Vec<u8>,
    pieces: Vec<libc::iovec>,
    /// Holders of the payloads, until the send completed.
    leases: Vec<SharedLease>,
    /// Holders of mapped payloads.
    mapped: Vec<MappedRange>,
    /// Payloads that own their bytes (block status, error texts).
    texts: Vec<Vec<u8>>,
    message: libc::msghdr,
    length: usize,
}

impl std::fmt::Debug for SendBatch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SendBatch({} pieces, {} bytes)", self.pieces.len(), self.length)
    }
}

impl SendBatch {
    /// Room for `pieces` pieces and `headers` bytes of headers.
    pub fn with_capacity(pieces: usize, headers: usize) -> Self {
        Self {
            headers: Vec::with_capacity(headers),
            pieces: Vec::with_capacity(pieces),
            leases: Vec::with_capacity(pieces),
            mapped: Vec::new(),
            texts: Vec::new(),
            // SAFETY: all-zero is a valid, empty `msghdr`.
            message: unsafe { std::mem::zeroed() },
            length: 0,
        }
    }

    /// Empties it for the next use; leases go back.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.pieces.clear();
        self.leases.clear();
        self.mapped.clear();
        self.texts.clear();
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

    /// Appends header bytes; directly after other header bytes they share a piece.
    pub fn push_header(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.header_room() && self.room() > 0, "the caller leaves room");
        let start = self.headers.len();
        self.headers.extend_from_slice(bytes);
        let address = self.headers[start..].as_ptr().cast_mut().cast::<libc::c_void>();
        self.length += bytes.len();
        if let Some(last) = self.pieces.last_mut()
            && last.iov_base.wrapping_byte_add(last.iov_len) == address
        {
            last.iov_len += bytes.len();
            return;
        }
        self.pieces.push(libc::iovec { iov_base: address, iov_len: bytes.len() });
    }

    /// Appends part of a lease; the batch holds it until it is cleared.
    pub fn push_lease(&mut self, lease: SharedLease, range: Range<usize>) {
        self.push_piece(lease.bytes(range).as_ptr_range());
        if !canary!(LeaseBackEarly) {
            self.leases.push(lease);
        }
    }

    /// Appends part of a mapped file.
    pub fn push_mapped(&mut self, mapped: MappedRange) {
        assert!(self.room() > 0, "the caller leaves room");
        let piece = mapped.piece();
        self.pieces.push(piece);
        self.length += piece.iov_len;
        self.mapped.push(mapped);
    }

    /// Appends bytes that the batch then owns.
    pub fn push_text(&mut self, text: Vec<u8>) {
        // Moving the vector does not move its bytes.
        self.push_piece(text.as_ptr_range());
        self.texts.push(text);
    }

    /// Pieces that so many zeroes need.
    pub const fn pieces_of_zeroes(length: usize) -> usize {
        length.div_ceil(ZERO_AREA)
    }

    /// Appends zeroes.
    pub fn push_zeroes(&mut self, mut length: usize) {
        while length > 0 {
            let piece = length.min(ZERO_AREA);
            self.push_piece(ZEROES[..piece].as_ptr_range());
            length -= piece;
        }
    }

    fn push_piece(&mut self, bytes: Range<*const u8>) {
        assert!(self.room() > 0, "the caller leaves room");
        let iov_len = bytes.end.addr() - bytes.start.addr();
        self.pieces.push(libc::iovec { iov_base: bytes.start.cast_mut().cast(), iov_len });
        self.length += iov_len;
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
        let pool = BufferPool::new(48 << 20).unwrap();
        let mut lease = pool.lend(10, 0).unwrap();
        lease.bytes_mut(0..3).copy_from_slice(b"abc");
        let mut batch = SendBatch::with_capacity(8, 64);
        batch.push_header(b"1");
        batch.push_header(b"2");
        batch.push_lease(lease.freeze(), 1..3);
        batch.push_header(b"3");
        batch.push_text(b"text".to_vec());
        batch.push_zeroes(2);
        assert_eq!(content(&batch), b"12bc3text\0\0");
        assert_eq!(batch.pieces.len(), 5);
        assert_eq!(batch.length(), 11);
        batch.clear();
        assert_eq!(pool.free_bytes(), pool.total_bytes());
    }
}
