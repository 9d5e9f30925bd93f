//! Confinement: filters of system calls, and hints in the errors that they cause.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// Puts a seccomp filter in front of all threads of the process, now and in future. Refused calls go to the
/// audit log.
///
/// # Errors
/// The kernel's: `EACCES` without `no_new_privs`, `EINVAL` for a program that it does not understand or
/// without seccomp.
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

/// Some of the process may be refused what it asks for.
static CONFINED: AtomicBool = AtomicBool::new(false);

/// The process is confined from now on: [`hint`] says so.
pub fn note() {
    CONFINED.store(true, Ordering::Relaxed);
}

/// What to add to the message of an error that confinement may have caused; empty when it cannot be.
pub fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => hint_of_unknown(),
        _ => "",
    }
}

/// As [`hint`], where the cause is not known.
pub(crate) fn hint_of_unknown() -> &'static str {
    if CONFINED.load(Ordering::Relaxed) {
        "; try --sandbox off to see whether a system call was refused"
    } else {
        ""
    }
}
