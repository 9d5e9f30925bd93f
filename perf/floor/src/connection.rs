//! One connection: bytes become requests, replies become one message.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::ptr;

/// The longest read there is memory for.
pub const LONGEST_READ: usize = 4096;
/// Bytes before the data of a simple reply.
pub const HEADER: usize = 16;

const REQUEST: usize = 28;
const REQUEST_MAGIC: [u8; 4] = 0x2560_9513_u32.to_be_bytes();
const REPLY_MAGIC: [u8; 4] = 0x6744_6698_u32.to_be_bytes();
const EIO: [u8; 4] = 5_u32.to_be_bytes();
const COMMAND_READ: u16 = 0;
const COMMAND_DISCONNECT: u16 = 2;
/// Replies of one message: the kernel takes 1,024 pieces.
const REPLIES: usize = 512;

pub struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
    filled: usize,
    parsed: usize,
    /// Slots whose replies wait for the next message, and their headers; in the same order the data, if there is any.
    pub queued: Vec<usize>,
    headers: Vec<[u8; HEADER]>,
    data: Vec<(*mut u8, usize)>,
    /// Those of the message that is being sent.
    pub sending: Vec<usize>,
    sending_headers: Vec<[u8; HEADER]>,
    pieces: Vec<libc::iovec>,
    message: libc::msghdr,
    pub is_sending: bool,
    pub receiving: bool,
    pub reading: usize,
    /// It is on the list of those that have replies.
    pub listed: bool,
    pub closing: bool,
}

pub struct Request {
    pub is_read: bool,
    pub is_disconnect: bool,
    pub cookie: [u8; 8],
    pub offset: u64,
    pub length: usize,
}

impl Connection {
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            buffer: vec![0; 64 << 10],
            filled: 0,
            parsed: 0,
            queued: Vec::with_capacity(REPLIES),
            headers: Vec::with_capacity(REPLIES),
            data: Vec::with_capacity(REPLIES),
            sending: Vec::with_capacity(REPLIES),
            sending_headers: Vec::with_capacity(REPLIES),
            pieces: Vec::with_capacity(2 * REPLIES),
            // SAFETY: all-zero is a valid, empty `msghdr`.
            message: unsafe { std::mem::zeroed() },
            is_sending: false,
            receiving: false,
            reading: 0,
            listed: false,
            closing: false,
        }
    }

    /// Where the next bytes go.
    pub fn room(&mut self) -> (*mut u8, usize) {
        self.buffer.copy_within(self.parsed..self.filled, 0);
        self.filled -= std::mem::take(&mut self.parsed);
        let room = &mut self.buffer[self.filled..];
        (room.as_mut_ptr(), room.len())
    }

    pub fn received(&mut self, length: usize) {
        self.filled += length;
    }

    /// The next whole request; one without its magic is no read.
    pub fn next(&mut self) -> Option<Request> {
        let bytes = self.buffer[self.parsed..self.filled].first_chunk::<REQUEST>()?;
        self.parsed += REQUEST;
        let command = u16::from_be_bytes([bytes[6], bytes[7]]);
        let is_request = bytes[..4] == REQUEST_MAGIC;
        let part = |start: usize| -> [u8; 8] { bytes[start..start + 8].try_into().expect("eight bytes") };
        Some(Request {
            is_read: is_request && command == COMMAND_READ,
            is_disconnect: is_request && command == COMMAND_DISCONNECT,
            cookie: part(8),
            offset: u64::from_be_bytes(part(16)),
            length: u32::from_be_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]) as usize,
        })
    }

    /// Queues a reply; without data it is an error.
    pub fn reply(&mut self, slot: usize, cookie: [u8; 8], data: *mut u8, length: usize) {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&REPLY_MAGIC);
        if length == 0 {
            header[4..8].copy_from_slice(&EIO);
        }
        header[8..].copy_from_slice(&cookie);
        self.queued.push(slot);
        self.headers.push(header);
        self.data.push((data, length));
    }

    /// All replies that fit, as one message; it stays true until the send has ended.
    pub fn message(&mut self) -> *const libc::msghdr {
        self.is_sending = true;
        let count = self.queued.len().min(REPLIES);
        self.sending.extend(self.queued.drain(..count));
        self.sending_headers.clear();
        self.sending_headers.extend(self.headers.drain(..count));
        self.pieces.clear();
        for (header, (data, length)) in self.sending_headers.iter_mut().zip(self.data.drain(..count)) {
            self.pieces.push(libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: HEADER });
            self.pieces.push(libc::iovec { iov_base: data.cast(), iov_len: length });
        }
        self.message.msg_iov = self.pieces.as_mut_ptr();
        self.message.msg_iovlen = self.pieces.len() as _;
        ptr::addr_of!(self.message)
    }

    /// Whether the kernel still works on something of it.
    pub fn is_busy(&self) -> bool {
        self.is_sending || self.receiving || self.reading > 0
    }

    pub fn shut_down(&self) {
        let _gone_already = self.stream.shutdown(Shutdown::Both);
    }
}
