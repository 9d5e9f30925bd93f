//! How `--memory` is divided: handshakes, and for each shard receive buffers and leases.

use super::error::ConfigError;
use super::limits::Limits;
use super::size::Size;
use crate::block::BlockSizes;

const PAGE: usize = 4096;
/// One part in so many of the whole is for handshakes.
const HANDSHAKE_PART: usize = 32;
/// The most for handshakes: more has no use.
const MOST_FOR_HANDSHAKES: usize = 64 << 20;

/// Divides so many bytes among `shards` shards and all handshakes.
pub(super) fn divide(memory: Option<u64>, shards: usize, limits: &mut Limits) -> Result<(), ConfigError> {
    let memory = memory.unwrap_or(Limits::DEFAULT_MEMORY_PER_SHARD as u64 * shards as u64);
    let each = Limits::MINIMUM_MEMORY_PER_SHARD as u64;
    if memory / (shards as u64) < each {
        let minimum = Size(each * shards as u64);
        return Err(ConfigError::Memory { memory: Size(memory), shards, minimum, each: Size(each) });
    }
    let memory = usize::try_from(memory).unwrap_or(usize::MAX);
    limits.handshake_memory = (memory / HANDSHAKE_PART).min(MOST_FOR_HANDSHAKES);
    limits.memory_per_shard = (memory - limits.handshake_memory) / shards / PAGE * PAGE;
    Ok(())
}

/// The longest READ or WRITE: as asked for, or as long as every shard has memory for besides other requests.
pub(super) fn longest_request(
    wanted: Option<u64>,
    shards: usize,
    limits: &Limits,
) -> Result<u32, ConfigError> {
    const STEP: u64 = 64 << 10;
    // What must be left for shorter requests.
    const BESIDE: usize = 8 << 20;
    let Some(wanted) = wanted else {
        let long = Limits::DEFAULT.longest_request;
        let is_enough = limits.lease_memory() >= long as usize + long as usize / 2;
        return Ok(if is_enough { long } else { BlockSizes::ASSUMED_MAXIMUM });
    };
    let bounds = 1 << 20..=BlockSizes::MAXIMUM_PAYLOAD.into();
    if !bounds.contains(&wanted) || !wanted.is_multiple_of(STEP) {
        return Err(ConfigError::LongestRequest(Size(wanted)));
    }
    // A lease is a power of two.
    let least = wanted.next_power_of_two() as usize + BESIDE;
    if limits.lease_memory() < least {
        // At most an eighth of a shard's memory is for receive buffers, and a 32nd for handshakes.
        let each = (least as u64 * 6 / 5).next_multiple_of(1 << 20);
        let minimum = Size(each * shards as u64);
        return Err(ConfigError::MemoryForRequest { longest: Size(wanted), minimum });
    }
    Ok(wanted as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_no_more_than_the_whole() {
        for (memory, shards) in [(48 << 20, 1), (80 << 20, 1), (160 << 20, 3), (1 << 30, 2), (1 << 40, 7)] {
            let mut limits = Limits::default();
            divide(Some(memory), shards, &mut limits).unwrap();
            let used = limits.handshake_memory + shards * limits.memory_per_shard;
            assert!(used as u64 <= memory && used as u64 + (shards * PAGE) as u64 > memory, "{memory}");
            assert!(limits.handshake_memory >= 1 << 20);
            assert!(
                limits.lease_memory() >= (32 << 20) + (8 << 20),
                "the longest request that all may assume"
            );
        }
    }

    #[test]
    fn the_longest_request_is_as_long_as_the_memory_allows() {
        const MIB: u64 = 1 << 20;
        let longest = |memory: u64, wanted: Option<u64>| {
            let mut limits = Limits::default();
            divide(Some(memory * MIB), 2, &mut limits).unwrap();
            longest_request(wanted, 2, &limits).map(|bytes| u64::from(bytes) / MIB)
        };
        assert_eq!(longest(256, None), Ok(64));
        assert_eq!([longest(96, None), longest(160, None)], [Ok(32), Ok(32)]);
        assert_eq!(longest(96, Some(MIB)), Ok(1));
        assert_eq!(longest(256, Some(48 * MIB)), Ok(48));
        for wrong in [0, MIB - 1, 3 * MIB + 1, 257 * MIB] {
            assert_eq!(longest(8192, Some(wrong)), Err(ConfigError::LongestRequest(Size(wrong))));
        }
        for wanted in [32, 33, 64, 256] {
            let error = longest(96, Some(wanted * MIB));
            if wanted == 32 {
                assert_eq!(error, Ok(32));
                continue;
            }
            let Err(ConfigError::MemoryForRequest { minimum, .. }) = error else { panic!("{error:?}") };
            assert_eq!(
                longest(minimum.0 / MIB, Some(wanted * MIB)),
                Ok(wanted),
                "what it asks for is enough"
            );
        }
    }

    #[test]
    fn memory_has_a_floor() {
        let floor = Limits::MINIMUM_MEMORY_PER_SHARD as u64;
        let mut limits = Limits::default();
        assert!(divide(Some(3 * floor), 3, &mut limits).is_ok());
        let error = divide(Some(3 * floor - 1), 3, &mut limits).unwrap_err().to_string();
        assert!(error.contains(&Size(3 * floor).to_string()), "{error}");
    }
}
