//! The one map between [`BlockError`] and the protocol's error values ("Error values").

use crate::vocabulary::BlockError;
use crate::wire::*;

/// The error value that a client is told.
///
/// Only the eight values of the spec exist on the wire; `NBD_ENOMEM` is never sent, because memory is taken at start
/// and a request that finds none waits in the socket instead.
#[inline]
pub const fn to_wire(error: BlockError) -> u32 {
    match error {
        BlockError::NotPermitted => NBD_EPERM,
        BlockError::Io => NBD_EIO,
        BlockError::Invalid => NBD_EINVAL,
        BlockError::NoSpace => NBD_ENOSPC,
        BlockError::NotSupported => NBD_ENOTSUP,
        BlockError::Overflow => NBD_EOVERFLOW,
        BlockError::Shutdown => NBD_ESHUTDOWN,
    }
}

/// What an error value from a server means. "A client SHOULD treat an unexpected error value as `NBD_EINVAL`."
#[inline]
pub const fn from_wire(error: u32) -> BlockError {
    match error {
        NBD_EPERM => BlockError::NotPermitted,
        NBD_EIO => BlockError::Io,
        NBD_ENOMEM => BlockError::Io,
        NBD_ENOSPC => BlockError::NoSpace,
        NBD_EOVERFLOW => BlockError::Overflow,
        NBD_ENOTSUP => BlockError::NotSupported,
        NBD_ESHUTDOWN => BlockError::Shutdown,
        _ => BlockError::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_its_own_inverse_and_stays_within_the_spec() {
        use BlockError::*;
        for error in [NotPermitted, Io, Invalid, NoSpace, NotSupported, Overflow, Shutdown] {
            assert_eq!(from_wire(to_wire(error)), error);
            assert!([1, 5, 22, 28, 75, 95, 108].contains(&to_wire(error)));
        }
        assert_eq!(from_wire(9999), Invalid);
    }
}
