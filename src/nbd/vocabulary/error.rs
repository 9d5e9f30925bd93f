//! Why a device could not do what it was asked.

use super::errno;

/// Why a device could not do what it was asked.
///
/// Few on purpose: a client can tell apart only what the protocol names ("Error values").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BlockError {
    /// The device is read-only.
    #[error("the export is read-only")]
    NotPermitted,
    /// The medium failed, or the bytes that should be there are not.
    #[error("input/output error")]
    Io,
    /// The request is malformed or out of range.
    #[error("invalid request")]
    Invalid,
    /// No room, a quota, or a file size limit.
    #[error("no space left on the device")]
    NoSpace,
    /// The answer would be too large.
    #[error("value too large")]
    Overflow,
    /// A fast zeroing was asked for and is not possible; nothing was changed.
    #[error("not supported")]
    NotSupported,
    /// The server is stopping.
    #[error("the server is shutting down")]
    Shutdown,
}

impl BlockError {
    /// All, in the order of their numbers, which is that of their discriminants: use `error as usize` as an index.
    pub const ALL: [Self; 7] = [
        Self::NotPermitted,
        Self::Io,
        Self::Invalid,
        Self::NoSpace,
        Self::Overflow,
        Self::NotSupported,
        Self::Shutdown,
    ];

    /// The error for an errno of the kernel (positive, as in `errno.h`), which may be any of a hundred.
    ///
    /// What the kernel says of our own calls is not what a client may be told: its `EINVAL` is no fault of the request.
    pub fn from_errno(number: i32) -> Self {
        errno::find(number).map_or(Self::Io, |row| row.of_device)
    }

    /// The number that stands for this error, on the wire too.
    pub fn errno(self) -> i32 {
        self.row().number
    }

    /// The error that a number stands for; `None` for a number that none of these has.
    pub fn of_errno(number: i32) -> Option<Self> {
        errno::find(number).and_then(|row| row.means)
    }

    /// The name of its number, such as `EIO`: in metrics, logs and reports.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    fn row(self) -> &'static errno::Row {
        let mut rows = errno::TABLE.iter();
        rows.find(|row| row.means == Some(self)).expect("a test finds each in the table")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_and_file_limits_are_no_space() {
        for errno in [28, 27, 122] {
            assert_eq!(BlockError::from_errno(errno), BlockError::NoSpace);
        }
        assert_eq!(BlockError::from_errno(95), BlockError::Io);
        assert_eq!(BlockError::from_errno(22), BlockError::Io);
        assert_eq!(BlockError::from_errno(4711), BlockError::Io);
    }

    #[test]
    fn each_error_has_a_number_and_a_name_of_its_own() {
        for (index, error) in BlockError::ALL.into_iter().enumerate() {
            assert_eq!(error as usize, index);
            assert_eq!(BlockError::of_errno(error.errno()), Some(error));
        }
        assert!(BlockError::ALL.is_sorted_by_key(|error| error.errno()));
        let names = BlockError::ALL.map(BlockError::name);
        assert_eq!(names, ["EPERM", "EIO", "EINVAL", "ENOSPC", "EOVERFLOW", "ENOTSUP", "ESHUTDOWN"]);
    }
}
