//! The lock of a store: one byte of its file `lock`, held by an open file description.
//!
//! A process that was killed keeps it until the kernel has closed its files, which waits for the worker
//! threads of its ring. Whoever starts a server again is patient for that long.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use super::error::StoreError;
use super::file_changes::write_all_at;
use crate::sys;

/// The byte of `lock` that the owner has locked.
const OWNER: u64 = 0;
/// What is read of who the owner says that it is.
const LONGEST_OWNER: usize = 80;
/// A lock that is held is tried for again after this.
const PAUSE: Duration = Duration::from_millis(25);

/// Takes the lock of the store at `path`, and writes into it who has it, for whoever comes next.
pub(super) fn take_lock(file: File, path: &Path, patience: Duration) -> Result<File, StoreError> {
    let mut left = patience;
    loop {
        match sys::lock_byte_alone(&file, OWNER) {
            Ok(()) => break,
            Err(error)
                if [Some(Errno::AGAIN), Some(Errno::ACCESS)].contains(&Errno::from_io_error(&error)) => {}
            Err(source) => return Err(StoreError::NoLocks { path: path.to_owned(), source }),
        }
        if left.is_zero() {
            return Err(StoreError::InUse { path: path.to_owned(), holder: owner(&file) });
        }
        let pause = PAUSE.min(left);
        std::thread::sleep(pause);
        left -= pause;
    }
    // In place, because a full disk may have no room for more; and nothing depends on it.
    let _noted = write_all_at(&file, format!("process {}\n", std::process::id()).as_bytes(), 0);
    Ok(file)
}

/// Who has the lock, as it wrote there. A hint for people: nothing is decided by it.
fn owner(file: &File) -> String {
    let mut bytes = [0; LONGEST_OWNER];
    let length = file.read_at(&mut bytes, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..length]);
    let known = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b' ');
    match text.lines().next() {
        Some(line) if !line.is_empty() && known(line) => line.to_owned(),
        _ => "another process".to_owned(),
    }
}
