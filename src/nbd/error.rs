//! [`BlockError`] as the protocol's error values and back ("Error values").

use crate::vocabulary::BlockError;
use crate::wire::NBD_ENOMEM;

/// The error value that a client is told.
///
/// Only the eight values of the spec exist on the wire; `NBD_ENOMEM` is never sent, because memory is taken
/// at start and a request that finds none waits in the socket instead.
pub fn to_wire(error: BlockError) -> u32 {
    error.errno() as u32
}

/// What an error value from a server means. "A client SHOULD treat an unexpected error value as
/// `NBD_EINVAL`."
pub fn from_wire(error: u32) -> BlockError {
    match error {
        NBD_ENOMEM => BlockError::Io,
        _ => i32::try_from(error).ok().and_then(BlockError::of_errno).unwrap_or(BlockError::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the spec, written down a second time.
    #[test]
    fn error_values_are_those_of_the_spec() {
        use crate::wire::*;
        use BlockError::*;
        for (error, value, number) in [
            (NotPermitted, NBD_EPERM, 1),
            (Io, NBD_EIO, 5),
            (Invalid, NBD_EINVAL, 22),
            (NoSpace, NBD_ENOSPC, 28),
            (Overflow, NBD_EOVERFLOW, 75),
            (NotSupported, NBD_ENOTSUP, 95),
            (Shutdown, NBD_ESHUTDOWN, 108),
        ] {
            assert_eq!((to_wire(error), value), (number, number));
            assert_eq!(from_wire(value), error);
        }
        assert_eq!(from_wire(NBD_ENOMEM), Io);
        for unexpected in [0, 4, 9999, u32::MAX] {
            assert_eq!(from_wire(unexpected), Invalid);
        }
    }
}
