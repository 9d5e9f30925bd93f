//! Why a device could not do what it was asked, and the one table of error numbers: their names and what they
//! mean.

use self::BlockError::*;

/// Why a device could not do what it was asked.
///
/// There are few, because a client can tell apart only what the protocol names ("Error values").
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
    /// All, in the order of their numbers, which is that of their discriminants: use `error as usize` as an
    /// index.
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
    /// The kernel's answer to the server's own calls is not passed on: its `EINVAL` is no fault of the
    /// request.
    pub fn from_errno(number: i32) -> Self {
        find(number).map_or(Self::Io, |row| row.of_device)
    }

    /// The number that stands for this error, on the wire too.
    pub fn errno(self) -> i32 {
        self.row().number
    }

    /// The error that a number stands for; `None` for a number that none of these has.
    pub fn of_errno(number: i32) -> Option<Self> {
        find(number).and_then(|row| row.means)
    }

    /// The name of its number, such as `EIO`: in metrics, logs and reports.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    fn row(self) -> &'static ErrnoRow {
        let mut rows = TABLE.iter();
        rows.find(|row| row.means == Some(self)).expect("a test finds each in the table")
    }
}

/// One error number.
#[derive(Debug)]
struct ErrnoRow {
    name: &'static str,
    /// Of `asm-generic/errno-base.h` and `errno.h`; every Linux architecture that has io_uring and that we
    /// run on shares them, and the protocol took its error values from there.
    number: i32,
    /// What it means when the kernel says it of a device.
    of_device: BlockError,
    /// The error that it stands for.
    means: Option<BlockError>,
}

const fn row(name: &'static str, number: i32, of_device: BlockError, means: Option<BlockError>) -> ErrnoRow {
    ErrnoRow { name, number, of_device, means }
}

/// By number. Of two names of one number the first is written, and both are read.
const TABLE: [ErrnoRow; 22] = [
    row("EPERM", 1, NotPermitted, Some(NotPermitted)),
    row("EINTR", 4, Io, None),
    row("EIO", 5, Io, Some(Io)),
    row("ENXIO", 6, Io, None),
    row("EAGAIN", 11, Io, None),
    row("ENOMEM", 12, Io, None),
    row("EACCES", 13, NotPermitted, None),
    row("EFAULT", 14, Io, None),
    row("EBUSY", 16, Io, None),
    row("ENODEV", 19, Io, None),
    row("EINVAL", 22, Io, Some(Invalid)),
    row("EFBIG", 27, NoSpace, None),
    row("ENOSPC", 28, NoSpace, Some(NoSpace)),
    row("EROFS", 30, NotPermitted, None),
    row("EOVERFLOW", 75, Io, Some(Overflow)),
    row("EILSEQ", 84, Io, None),
    row("ENOTSUP", 95, Io, Some(NotSupported)),
    row("EOPNOTSUPP", 95, Io, None),
    row("ESHUTDOWN", 108, Io, Some(Shutdown)),
    row("ETIMEDOUT", 110, Io, None),
    row("EDQUOT", 122, NoSpace, None),
    row("ECANCELED", 125, Io, None),
];

fn find(number: i32) -> Option<&'static ErrnoRow> {
    TABLE.iter().find(|row| row.number == number)
}

/// The name of a number that the table has, such as `EIO`.
pub fn name_of(number: i32) -> Option<&'static str> {
    find(number).map(|row| row.name)
}

/// The number of a name in any case; `None` when the table does not have it.
pub fn number_of(name: &str) -> Option<i32> {
    TABLE.iter().find(|row| row.name.eq_ignore_ascii_case(name)).map(|row| row.number)
}

/// All names with their numbers.
pub fn all() -> impl Iterator<Item = (&'static str, i32)> {
    TABLE.iter().map(|row| (row.name, row.number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_find_each_other() {
        assert!(TABLE.is_sorted_by_key(|row| row.number));
        for (name, number) in all() {
            assert_eq!(number_of(name), Some(number));
            assert_eq!(name_of(number).and_then(number_of), Some(number));
        }
        assert_eq!((number_of("eio"), number_of("EWHAT"), name_of(4711)), (Some(5), None, None));
        assert_eq!(name_of(95), Some("ENOTSUP"), "the name that the protocol uses");
    }

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
