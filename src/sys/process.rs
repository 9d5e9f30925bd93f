//! What a process does before it starts another one, and what that one does first.

use std::io;

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

/// Signals that mean nothing from now on.
pub fn ignore_signals(signals: &[libc::c_int]) {
    for &signal in signals {
        // SAFETY: to ignore a signal runs no code of ours, and replaces no handler that is relied on: this
        // process has none.
        let _unknown = unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
