//! System call filters: what a process gives up.

use std::io;

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
