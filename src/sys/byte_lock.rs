//! Locks of single bytes that belong to an open file description (`F_OFD_SETLK`), as QEMU takes them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// The holder of a conflicting lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// An open file description; the kernel does not tell whose.
    Description,
    /// A process, by a lock of the older kind.
    Process(i32),
}

fn request(kind: libc::c_int, offset: u64) -> libc::flock {
    // SAFETY: zero is a valid `struct flock`; `l_pid` must be zero.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = offset as libc::off_t;
    lock.l_len = 1;
    lock
}

fn control(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the call reads and writes one `struct flock`.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Takes a shared lock of a byte, which need not exist, without waiting.
///
/// # Errors
/// `EAGAIN` if it is locked exclusively; others where the file system has no locks.
pub(crate) fn lock_byte(file: &File, offset: u64) -> io::Result<()> {
    control(file, libc::F_OFD_SETLK, &mut request(libc::F_RDLCK, offset))
}

/// Takes an exclusive lock of a byte, which need not exist, without waiting. The file is open for writing.
///
/// # Errors
/// `EAGAIN` if anybody else has locked it; others where the file system has no locks.
pub(crate) fn lock_byte_alone(file: &File, offset: u64) -> io::Result<()> {
    control(file, libc::F_OFD_SETLK, &mut request(libc::F_WRLCK, offset))
}

/// Gives the lock of a byte back.
///
/// # Errors
/// The file system's.
pub(crate) fn unlock_byte(file: &File, offset: u64) -> io::Result<()> {
    control(file, libc::F_OFD_SETLK, &mut request(libc::F_UNLCK, offset))
}

/// Who else has a lock of a byte, if anybody has.
///
/// # Errors
/// The file system's.
pub(crate) fn other_holder(file: &File, offset: u64) -> io::Result<Option<Holder>> {
    let mut lock = request(libc::F_WRLCK, offset);
    control(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(match libc::c_int::from(lock.l_type) {
        libc::F_UNLCK => None,
        _ if lock.l_pid > 0 => Some(Holder::Process(lock.l_pid)),
        _ => Some(Holder::Description),
    })
}
