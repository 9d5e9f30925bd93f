//! Error numbers: the one table of their names and of what they mean.

use super::BlockError::{self, *};

/// One error number.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Of `asm-generic/errno-base.h` and `errno.h`; every Linux architecture that has io_uring and that we run on shares them, and the
    /// protocol took its error values from there.
    pub(super) number: i32,
    /// What it means when the kernel says it of a device.
    pub(super) of_device: BlockError,
    /// The error that it stands for.
    pub(super) means: Option<BlockError>,
}

const fn row(name: &'static str, number: i32, of_device: BlockError, means: Option<BlockError>) -> Row {
    Row { name, number, of_device, means }
}

/// By number. Of two names of one number the first is written, and both are read.
pub(super) const TABLE: [Row; 22] = [
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

pub(super) fn find(number: i32) -> Option<&'static Row> {
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
}
