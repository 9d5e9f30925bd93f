//! What a process does before it starts another one, and what that one does first.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

/// Programs that this process runs get no descriptor from `first` on, whoever opened it.
///
/// # Errors
/// The kernel's: `ENOSYS` before Linux 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: no descriptor is closed, they only get a flag; nothing of this process can notice before it
    // runs a program.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The first descriptor that a process can be started with beside the standard ones.
const FIRST_PASSED: RawFd = 3;

/// A descriptor that this process was started with, by the number that its service manager told
/// (`LISTEN_FDS`). Programs that it runs do not get it.
///
/// # Errors
/// There is none of this number, or it was taken before.
pub(crate) fn take_passed_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if number < FIRST_PASSED || taken.contains(&number) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: a number is all that it needs; one that is not open is an error.
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    taken.push(number);
    // SAFETY: it is open, as was just seen. The numbers of LISTEN_FDS were open before the first line of this
    // program ran, which owns none of them otherwise, and each is given out once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Signals that mean nothing from now on.
pub fn ignore_signals(signals: &[libc::c_int]) {
    for &signal in signals {
        // SAFETY: to ignore a signal runs no code of ours, and replaces no handler that is relied on: this
        // process has none.
        let _unknown = unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
