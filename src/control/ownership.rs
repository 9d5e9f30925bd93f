//! The user and group that files belong to.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::unistd::Group;

/// Makes an open file belong to a user, or only to a group. For files that were made before the process
/// became that user.
///
/// # Errors
/// The kernel's.
pub fn hand_over(file: impl AsFd, (user, group): (Option<u32>, u32)) -> io::Result<()> {
    use rustix::fs::{AtFlags, Gid, Uid, chownat};
    Ok(chownat(file, "", user.map(Uid::from_raw), Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?)
}

/// The number of a group that is given by name or by number.
///
/// # Errors
/// Those of the name services; no such group is none.
pub fn find_group(name: &str) -> io::Result<Option<u32>> {
    Ok(found(Group::from_name(name))?.map(|entry| entry.gid.as_raw()).or(number(name)))
}

/// To the kernel the largest number means that nothing is to change.
pub fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&number: &u32| number != u32::MAX)
}

/// Some name services say by an error that there is no such entry.
///
/// # Errors
/// Those that say something else.
pub fn found<T>(answer: nix::Result<Option<T>>) -> io::Result<Option<T>> {
    match answer {
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        answer => Ok(answer?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_names_or_numbers() {
        assert_eq!(find_group("root").unwrap(), Some(0));
        assert_eq!(find_group("7").unwrap(), Some(7));
        assert_eq!(find_group("a\0b").unwrap(), None);
        assert_eq!(find_group("no-such-group").unwrap(), None);
        assert_eq!(find_group("4294967295").unwrap(), None);
    }
}
