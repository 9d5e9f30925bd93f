//! Options and requests as bytes. Each field is free: a probe has to send wrong ones too.

use crate::nbd::session::ReplyMode;
use crate::nbd::wire::*;

/// What a client of today says in its flags.
pub(super) const MODERN: u32 = NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES;

/// An option that no server knows: what it is answered with tells whether the stream is in step.
pub(super) const UNKNOWN_OPTION: u32 = 0x0765_4321;

/// An option whose header claims `claimed` bytes of data.
pub(super) fn option_claiming(number: u32, claimed: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + data.len());
    bytes.extend(NBD_OPTS_MAGIC.to_be_bytes());
    bytes.extend(number.to_be_bytes());
    bytes.extend(claimed.to_be_bytes());
    bytes.extend(data);
    bytes
}

/// An option as it should be.
pub(super) fn option(number: u32, data: &[u8]) -> Vec<u8> {
    option_claiming(number, data.len() as u32, data)
}

/// The data of INFO and GO.
pub(super) fn info_data(name: &[u8], requests: &[u16]) -> Vec<u8> {
    let list: Vec<u8> = requests.iter().flat_map(|request| request.to_be_bytes()).collect();
    crooked_info(name.len() as u32, name, requests.len() as u16, &list)
}

/// The same with lengths and counts that need not be true.
pub(super) fn crooked_info(name_length: u32, name: &[u8], count: u16, rest: &[u8]) -> Vec<u8> {
    [&name_length.to_be_bytes()[..], name, &count.to_be_bytes(), rest].concat()
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(super) fn meta_data(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
    let mut bytes = (name.len() as u32).to_be_bytes().to_vec();
    bytes.extend(name);
    bytes.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        bytes.extend((query.len() as u32).to_be_bytes());
        bytes.extend(*query);
    }
    bytes
}

/// A request; `length` is what its header claims, `payload` what follows the header.
#[derive(Debug, Clone)]
pub(super) struct ProbeRequest {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) payload: Vec<u8>,
}

impl ProbeRequest {
    pub(super) fn new(command: u16, offset: u64, length: u64) -> Self {
        let cookie = offset.wrapping_add(0x0bad_cafe_0000_0000);
        Self { flags: 0, command, cookie, offset, length, payload: Vec::new() }
    }

    pub(super) fn read(offset: u64, length: u64) -> Self {
        Self::new(NBD_CMD_READ, offset, length)
    }

    pub(super) fn write(offset: u64, payload: Vec<u8>) -> Self {
        Self { length: payload.len() as u64, payload, ..Self::new(NBD_CMD_WRITE, offset, 0) }
    }

    pub(super) fn flush() -> Self {
        Self::new(NBD_CMD_FLUSH, 0, 0)
    }

    pub(super) fn trim(offset: u64, length: u64) -> Self {
        Self::new(NBD_CMD_TRIM, offset, length)
    }

    pub(super) fn zeroes(offset: u64, length: u64) -> Self {
        Self::new(NBD_CMD_WRITE_ZEROES, offset, length)
    }

    pub(super) fn cache(offset: u64, length: u64) -> Self {
        Self::new(NBD_CMD_CACHE, offset, length)
    }

    pub(super) fn status(offset: u64, length: u64) -> Self {
        Self::new(NBD_CMD_BLOCK_STATUS, offset, length)
    }

    pub(super) fn flags(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    pub(super) fn cookie(mut self, cookie: u64) -> Self {
        self.cookie = cookie;
        self
    }

    /// The bytes; with extended headers a WRITE has PAYLOAD_LEN, as it must.
    pub(super) fn encode(&self, mode: ReplyMode) -> Vec<u8> {
        let carries = mode == ReplyMode::Extended && self.command == NBD_CMD_WRITE;
        self.encode_with(mode, self.flags | if carries { NBD_CMD_FLAG_PAYLOAD_LEN } else { 0 })
    }

    /// The bytes with exactly these flags.
    pub(super) fn encode_with(&self, mode: ReplyMode, flags: u16) -> Vec<u8> {
        let is_extended = mode == ReplyMode::Extended;
        let magic = if is_extended { NBD_EXTENDED_REQUEST_MAGIC } else { NBD_REQUEST_MAGIC };
        let mut bytes = Vec::with_capacity(32 + self.payload.len());
        bytes.extend(magic.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend(self.command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.offset.to_be_bytes());
        match is_extended {
            true => bytes.extend(self.length.to_be_bytes()),
            false => bytes.extend((self.length as u32).to_be_bytes()),
        }
        bytes.extend(&self.payload);
        bytes
    }
}

impl std::fmt::Display for ProbeRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const NAMES: [&str; 8] =
            ["READ", "WRITE", "DISC", "FLUSH", "TRIM", "CACHE", "WRITE_ZEROES", "BLOCK_STATUS"];
        match NAMES.get(usize::from(self.command)) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "command {}", self.command)?,
        }
        write!(f, " of {:#x} bytes at {:#x}", self.length, self.offset)?;
        if self.flags != 0 {
            write!(f, " with flags {:#x}", self.flags)?;
        }
        Ok(())
    }
}

/// Big-endian numbers out of what was received; zero beyond its end.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(field(bytes, at))
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(field(bytes, at))
}

pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(field(bytes, at))
}

/// Bytes that tell where they belong: each eight differ with `seed` and place.
pub(super) fn pattern(seed: u64, offset: u64, length: usize) -> Vec<u8> {
    let first = offset / 8;
    let words = (first..=(offset + length as u64) / 8)
        .map(|word| (word ^ seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 56);
    let bytes: Vec<u8> = words.flat_map(u64::to_be_bytes).collect();
    let start = (offset % 8) as usize;
    bytes[start..start + length].to_vec()
}
