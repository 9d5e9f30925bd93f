//! When an image is served without a lock.

use std::io;

use crate::config::Locking;

/// Whether to go on without a lock.
pub(super) fn may_go_without(locking: Locking, error: &io::Error) -> bool {
    let none = [libc::ENOLCK, libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL];
    locking != Locking::On && error.raw_os_error().is_some_and(|errno| none.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_file_system_cannot_do_is_done_without() {
        let error = io::Error::from_raw_os_error;
        assert!(may_go_without(Locking::Auto, &error(libc::ENOLCK)));
        assert!(!may_go_without(Locking::On, &error(libc::ENOLCK)));
        assert!(!may_go_without(Locking::Auto, &error(libc::EIO)));
    }
}
