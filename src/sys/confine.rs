//! Users, groups and system call filters: what a process gives up.

use std::ffi::CString;
use std::io;

/// A user, as far as a server needs to know one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub user: u32,
    /// The number of its own group.
    pub group: u32,
}

/// The errors by which some name services say that there is no such entry.
const NO_ENTRY: [i32; 5] = [0, libc::ENOENT, libc::ESRCH, libc::EBADF, libc::EPERM];

/// Longest entry of a user or group that is read, in bytes: a group of some ten thousand members.
const LONGEST_ENTRY: usize = 1 << 20;

/// Calls a `get..._r` function with larger and larger buffers, until the entry fits.
fn look_up<T>(mut entry: impl FnMut(&mut [u8]) -> (i32, Option<T>)) -> io::Result<Option<T>> {
    let mut buffer = vec![0; 1024];
    loop {
        match entry(&mut buffer) {
            (_, Some(found)) => return Ok(Some(found)),
            (libc::ERANGE, None) if buffer.len() < LONGEST_ENTRY => buffer = vec![0; buffer.len() * 4],
            (libc::EINTR, None) => {}
            (error, None) if NO_ENTRY.contains(&error) => return Ok(None),
            (error, None) => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// The user of a name, by the name services of this machine.
///
/// # Errors
/// Those of the name services; no such user is none.
pub fn user_by_name(name: &str) -> io::Result<Option<User>> {
    let name = CString::new(name)?;
    look_up(|buffer| {
        // SAFETY: zero is a valid `struct passwd`. The name ends with a zero byte; the call writes the entry, no more than the buffer holds, and
        // the pointer that says whether there is one.
        unsafe {
            let mut entry: libc::passwd = std::mem::zeroed();
            let mut found = std::ptr::null_mut();
            let (address, length) = (buffer.as_mut_ptr().cast(), buffer.len());
            let error = libc::getpwnam_r(name.as_ptr(), &raw mut entry, address, length, &raw mut found);
            (error, (!found.is_null()).then_some(User { user: entry.pw_uid, group: entry.pw_gid }))
        }
    })
}

/// The user of a number.
///
/// # Errors
/// Those of the name services; no such user is none.
pub fn user_by_number(user: u32) -> io::Result<Option<User>> {
    look_up(|buffer| {
        // SAFETY: as in `user_by_name`.
        unsafe {
            let mut entry: libc::passwd = std::mem::zeroed();
            let mut found = std::ptr::null_mut();
            let (address, length) = (buffer.as_mut_ptr().cast(), buffer.len());
            let error = libc::getpwuid_r(user, &raw mut entry, address, length, &raw mut found);
            (error, (!found.is_null()).then_some(User { user: entry.pw_uid, group: entry.pw_gid }))
        }
    })
}

/// The number of a group.
///
/// # Errors
/// Those of the name services; no such group is none.
pub fn group_by_name(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    look_up(|buffer| {
        // SAFETY: as in `user_by_name`, with a `struct group`.
        unsafe {
            let mut entry: libc::group = std::mem::zeroed();
            let mut found = std::ptr::null_mut();
            let (address, length) = (buffer.as_mut_ptr().cast(), buffer.len());
            let error = libc::getgrnam_r(name.as_ptr(), &raw mut entry, address, length, &raw mut found);
            (error, (!found.is_null()).then_some(entry.gr_gid))
        }
    })
}

/// Real, effective and saved numbers of the calling thread: those of the user, and those of the group.
pub fn identity() -> ([u32; 3], [u32; 3]) {
    let (mut users, mut groups) = ([0; 3], [0; 3]);
    let [user, effective_user, saved_user] = &mut users;
    let [group, effective_group, saved_group] = &mut groups;
    // SAFETY: each call writes three numbers.
    unsafe {
        assert_eq!(libc::getresuid(user, effective_user, saved_user), 0);
        assert_eq!(libc::getresgid(group, effective_group, saved_group), 0);
    }
    (users, groups)
}

/// Makes the whole process run as a user and its group, and drops all other groups.
///
/// To the kernel a user belongs to a thread. The C library's wrappers change all threads of the process, and system calls of our own would
/// not: so these it must be.
///
/// # Errors
/// Mostly `EPERM`. Then part of it may be done, and the process should end.
pub fn become_user(user: User) -> io::Result<()> {
    let User { user, group } = user;
    // SAFETY: the calls read no memory of ours: the list of groups is empty.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(group, group, group) == 0
            && libc::setresuid(user, user, user) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the process can become root again.
pub fn can_become_root() -> bool {
    // SAFETY: the call takes a number.
    unsafe { libc::setuid(0) == 0 }
}

/// Puts a seccomp filter in front of all threads of the process, now and in future. Refused calls go to the audit log.
///
/// # Errors
/// The kernel's: `EACCES` without `no_new_privs`, `EINVAL` for a program that it does not understand or without seccomp.
pub fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    // SPEC_ALLOW: no foreign code runs here, so the processor need not be slowed down against it.
    const FLAGS: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_TSYNC
        | libc::SECCOMP_FILTER_FLAG_LOG
        | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, and does not write to it.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, FLAGS, &raw const program) };
    match result {
        0 => Ok(()),
        thread @ 1.. => Err(io::Error::other(format!("thread {thread} has filters of its own"))),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_user_zero() {
        let root = User { user: 0, group: 0 };
        assert_eq!(user_by_name("root").unwrap(), Some(root));
        assert_eq!(user_by_number(0).unwrap(), Some(root));
        assert_eq!(group_by_name("root").unwrap(), Some(0));
        assert_eq!(user_by_name("no-such-user").unwrap(), None);
        assert_eq!(group_by_name("no-such-group").unwrap(), None);
        assert!(user_by_name("a\0b").is_err());
    }
}
