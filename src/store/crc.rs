//! The checksum of what is written into a store and out of it.

/// CRC32C of bytes that stand one behind the other.
pub(crate) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut crc = RunningCrc::default();
    parts.iter().for_each(|part| crc.take(part));
    crc.finish()
}

/// CRC32C of bytes that come one after the other.
#[derive(Debug)]
pub(super) struct RunningCrc(crc_fast::Digest);

impl Default for RunningCrc {
    fn default() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }
}

impl RunningCrc {
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> u32 {
        self.0.finalize() as u32
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_the_one_of_the_standards() {
        assert_eq!(super::crc32c(&[b"1234", b"56789"]), 0xe306_9283);
    }
}
