//! How a payload is compressed.

/// A way to compress. Its number is in footers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChunkCodec {
    Raw = 0,
    Lz4 = 1,
    Zstd = 2,
}

/// What is left of 100 bytes has to be at most this, otherwise they stay raw: raw payloads can be sent
/// without copying them, which is worth more than a little space.
const WORTH_PERCENT: usize = 88;
const ZSTD_LEVEL: i32 = 3;

impl ChunkCodec {
    pub(super) fn of_number(number: u32) -> Option<Self> {
        [Self::Raw, Self::Lz4, Self::Zstd].into_iter().find(|codec| *codec as u32 == number)
    }

    /// The compressed contents, or `None` if they stay raw.
    pub(super) fn compress(self, contents: &[u8]) -> Option<Vec<u8>> {
        let compressed = match self {
            Self::Raw => return None,
            Self::Lz4 => lz4_flex::block::compress(contents),
            Self::Zstd => zstd::bulk::compress(contents, ZSTD_LEVEL).ok()?,
        };
        (compressed.len() * 100 <= contents.len() * WORTH_PERCENT).then_some(compressed)
    }

    /// The contents, which have `length` bytes. `None` if the payload does not give exactly so many.
    pub(super) fn decompress(self, payload: Vec<u8>, length: usize) -> Option<Vec<u8>> {
        if self == Self::Raw {
            return (payload.len() == length).then_some(payload);
        }
        let mut contents = vec![0; length];
        let decompressed = match self {
            Self::Raw => None,
            Self::Lz4 => lz4_flex::block::decompress_into(&payload, &mut contents).ok(),
            Self::Zstd => zstd::bulk::decompress_to_buffer(&payload, &mut contents).ok(),
        };
        (decompressed == Some(length)).then_some(contents)
    }
}
