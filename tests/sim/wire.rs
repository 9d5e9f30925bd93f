//! Requests and replies as bytes, written from the protocol document for these tests: nothing of the server's own code is used.

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISC: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const CACHE: u16 = 5;
pub(crate) const WRITE_ZEROES: u16 = 6;
pub(crate) const BLOCK_STATUS: u16 = 7;

pub(crate) const FUA: u16 = 1;
pub(crate) const NO_HOLE: u16 = 2;
pub(crate) const DF: u16 = 4;
pub(crate) const REQ_ONE: u16 = 8;
pub(crate) const FAST_ZERO: u16 = 16;
pub(crate) const PAYLOAD_LEN: u16 = 32;

pub(crate) const EPERM: u32 = 1;
pub(crate) const EIO: u32 = 5;
pub(crate) const EINVAL: u32 = 22;
pub(crate) const ENOSPC: u32 = 28;
pub(crate) const ENOTSUP: u32 = 95;
pub(crate) const ESHUTDOWN: u32 = 108;

pub(crate) const NONE: u16 = 0;
pub(crate) const OFFSET_DATA: u16 = 1;
pub(crate) const OFFSET_HOLE: u16 = 2;
pub(crate) const STATUS: u16 = 5;
pub(crate) const STATUS_EXT: u16 = 6;
pub(crate) const ERROR: u16 = 0x8001;
pub(crate) const ERROR_OFFSET: u16 = 0x8002;

/// The form of replies on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Simple,
    Structured,
    Extended,
}

/// A request's header.
pub(crate) fn request(
    form: Form,
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    length: u64,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    let magic: u32 = if form == Form::Extended { 0x21e4_1c71 } else { 0x2560_9513 };
    bytes.extend_from_slice(&magic.to_be_bytes());
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    match form {
        Form::Extended => bytes.extend_from_slice(&length.to_be_bytes()),
        _ => bytes.extend_from_slice(&(length as u32).to_be_bytes()),
    }
    bytes
}

/// Bytes that come at one end and are taken at the other.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    bytes: Vec<u8>,
    /// Of these, what was taken already.
    taken: usize,
}

impl Stream {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        // Moves what is left only when that is the smaller part.
        if self.taken > self.len() {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The first bytes, which must be there.
    pub(crate) fn take(&mut self, length: usize) -> &[u8] {
        let start = self.taken;
        self.taken += length;
        &self.bytes[start..start + length]
    }
}

impl std::ops::Deref for Stream {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) enum Reply {
    Simple { cookie: u64, error: u32 },
    Chunk { cookie: u64, done: bool, kind: u16, offset: Option<u64>, payload: Vec<u8> },
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Longer than anything that these tests ask for.
const LONGEST_CHUNK: u64 = 9 << 20;

/// Takes the next reply from the front of `bytes`, when all of it is there; of a simple one only the header.
pub(crate) fn next(form: Form, bytes: &mut Stream) -> Result<Option<Reply>, String> {
    if bytes.len() < 4 {
        return Ok(None);
    }
    let magic = u32_at(bytes, 0);
    if magic == 0x6744_6698 && form != Form::Extended {
        if bytes.len() < 16 {
            return Ok(None);
        }
        let reply = Reply::Simple { error: u32_at(bytes, 4), cookie: u64_at(bytes, 8) };
        bytes.take(16);
        return Ok(Some(reply));
    }
    let header = match (magic, form) {
        (0x668e_33ef, Form::Structured) => 20,
        (0x6e8a_278c, Form::Extended) => 32,
        _ => return Err(format!("no reply begins with {magic:#010x} in the form {form:?}")),
    };
    if bytes.len() < header {
        return Ok(None);
    }
    let (flags, kind, cookie) = (u16_at(bytes, 4), u16_at(bytes, 6), u64_at(bytes, 8));
    let (offset, length) = match form {
        Form::Extended => (Some(u64_at(bytes, 16)), u64_at(bytes, 24)),
        _ => (None, u64::from(u32_at(bytes, 16))),
    };
    if length > LONGEST_CHUNK {
        return Err(format!("a chunk of {length} bytes"));
    }
    let end = header + length as usize;
    if bytes.len() < end {
        return Ok(None);
    }
    let payload = bytes.take(end)[header..].to_vec();
    Ok(Some(Reply::Chunk { cookie, done: flags & 1 != 0, kind, offset, payload }))
}
