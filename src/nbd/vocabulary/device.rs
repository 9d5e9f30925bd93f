//! What a device is: its block sizes, what it can do, the status of its bytes.

/// What a device asks of the requests it gets, in bytes.
///
/// The spec's "Block size constraints": `minimum` is a power of two of at most 65,536, `preferred` a power of
/// two of at least 512 and at least `minimum`, `maximum` at least 1 MiB and the most bytes of payload that
/// one request may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of it.
    pub minimum: u32,
    /// Requests of this size and alignment avoid a read-modify-write.
    pub preferred: u32,
    /// The longest payload of one READ or WRITE.
    pub maximum: u32,
}

impl BlockSizes {
    /// The longest payload that this server can be told to take.
    pub const MAXIMUM_PAYLOAD: u32 = 256 << 20;
    /// The longest payload that every client may assume.
    pub const ASSUMED_MAXIMUM: u32 = 32 << 20;

    /// Whether the three values keep the limits of the spec.
    pub const fn are_valid(self) -> bool {
        self.minimum.is_power_of_two()
            && self.minimum <= 65_536
            && self.preferred.is_power_of_two()
            && self.preferred >= 512
            && self.preferred >= self.minimum
            && self.maximum >= 1 << 20
            && self.maximum >= self.preferred
            && self.maximum.is_multiple_of(self.minimum)
    }

    /// Whether a client that assumes the default sizes would break them.
    pub const fn are_stricter_than_default(self) -> bool {
        self.minimum > 1 || self.maximum < Self::ASSUMED_MAXIMUM
    }
}

impl Default for BlockSizes {
    fn default() -> Self {
        Self { minimum: 1, preferred: 4096, maximum: Self::ASSUMED_MAXIMUM }
    }
}

/// What a device can do, told by its backend when it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Bytes; a multiple of the minimum block size.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// The medium prefers sequential access.
    pub rotational: bool,
    /// Zeroing without writing data is available and quick (`NBD_FLAG_SEND_FAST_ZERO`).
    pub fast_zero: bool,
    /// Block sizes to advertise.
    pub block_sizes: BlockSizes,
}

impl DeviceFacts {
    /// Of a device that can be written, has no preference, and takes requests of any alignment.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            read_only: false,
            rotational: false,
            fast_zero: false,
            block_sizes: BlockSizes::default(),
        }
    }
}

/// A run of bytes with one number, which a meta context gives a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberedExtent {
    /// Bytes, at least 1.
    pub length: u64,
    /// A depth, or 1 for what is in a set and 0 for what is not; of another server's context its flags.
    pub number: u64,
}

/// A run of bytes with one allocation status, as BLOCK_STATUS reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, at least 1.
    pub length: u64,
    /// Nothing is allocated here.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}
