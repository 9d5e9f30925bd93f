//! How soon the scheduler runs a thread that wakes.

use std::io;
use std::time::Duration;

/// Gives the calling thread a time slice of its own, between 0.1 and 100 ms. It gets no more time by it, but
/// a thread with a short slice that wakes runs before those with longer ones have used theirs up. Nothing is
/// done under a real-time policy, nor, without an error, before Linux 6.12.
///
/// # Errors
/// The kernel's: `EPERM` or `ENOSYS` where a filter of system calls forbids it.
pub(crate) fn set_slice(slice: Duration) -> io::Result<()> {
    let mut attributes = attributes()?;
    if ![libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&attributes.sched_policy.cast_signed()) {
        return Ok(());
    }
    attributes.sched_runtime = slice.as_nanos() as u64;
    // SAFETY: the kernel reads the structure, which says how long it is, and keeps no pointer.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How the calling thread is scheduled.
fn attributes() -> io::Result<libc::sched_attr> {
    // SAFETY: all-zero is a valid value of a structure of numbers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of_val(&attributes) as u32;
    // SAFETY: the kernel writes at most `size` bytes, which is how many there are, and keeps no pointer.
    match unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) } {
        0 => Ok(libc::sched_attr { size, ..attributes }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_set_for_this_thread_and_nothing_else_changes() {
        let on_a_thread = std::thread::spawn(|| {
            let before = attributes().unwrap();
            set_slice(Duration::from_micros(100)).unwrap();
            (before, attributes().unwrap())
        });
        let (before, after) = on_a_thread.join().unwrap();
        assert_eq!((before.sched_policy, before.sched_nice), (after.sched_policy, after.sched_nice));
        // An older kernel tells none.
        assert!([0, 100_000].contains(&after.sched_runtime), "{}", after.sched_runtime);
    }
}
