//! Becoming another user.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use rustix::thread::CapabilitySet;

use super::SandboxError;
use crate::config::RunAs;
use crate::sys::confine::{self, User};

/// The user that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) user: User,
    name: RunAs,
}

impl Account {
    /// Finds the user, and sees whether this process may become him.
    pub(super) fn find(wanted: &RunAs) -> Result<Self, SandboxError> {
        let user = look_up(wanted)?;
        let account = Self { user, name: wanted.clone() };
        let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
        let may = rustix::thread::capabilities(None).is_ok_and(|have| have.effective.contains(needed));
        if !may && !account.is_in_effect() {
            return Err(SandboxError::MayNot(wanted.clone()));
        }
        Ok(account)
    }

    fn is_in_effect(&self) -> bool {
        confine::identity() == ([self.user.user; 3], [self.user.group; 3])
    }

    /// Becomes the user, for good, with all threads.
    pub(super) fn become_it(&self) -> Result<(), SandboxError> {
        let failed = |error| SandboxError::Become(self.name.clone(), error);
        match confine::become_user(self.user) {
            Ok(()) => {}
            // Somebody who is the user already, and may not drop groups.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && self.is_in_effect() => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        let groups = rustix::process::getgroups().map_err(|error| failed(error.into()))?;
        let root_again = self.user.user != 0 && confine::can_become_root();
        if !self.is_in_effect() || !groups.is_empty() || root_again {
            return Err(SandboxError::NotForGood(self.name.clone()));
        }
        Ok(())
    }

    /// Whether the user may make, rename and remove files in a directory, by its mode.
    pub(super) fn may_write_to(&self, directory: &Metadata) -> bool {
        let User { user, group } = self.user;
        let bits = match (directory.uid() == user, directory.gid() == group) {
            (true, _) => directory.mode() >> 6,
            (_, true) => directory.mode() >> 3,
            _ => directory.mode(),
        };
        user == 0 || bits & 0o3 == 0o3
    }
}

/// By name, or by number.
fn look_up(wanted: &RunAs) -> Result<User, SandboxError> {
    let failed = |error| SandboxError::LookUp(wanted.clone(), error);
    let number = |text: &str| text.parse().ok().filter(|&number: &u32| number != u32::MAX);
    let found = match (confine::user_by_name(&wanted.user).map_err(failed)?, number(&wanted.user)) {
        (None, Some(user)) => {
            // A number need not have an entry; then its group must be said.
            let group = confine::user_by_number(user).map_err(failed)?.map(|entry| entry.group);
            Some((user, group))
        }
        (found, _) => found.map(|user| (user.user, Some(user.group))),
    };
    let (user, own_group) = found.ok_or_else(|| SandboxError::NoUser(wanted.user.clone()))?;
    let group = match &wanted.group {
        None => own_group.ok_or(SandboxError::NoGroupOfUser(user))?,
        Some(name) => confine::group_by_name(name)
            .map_err(failed)?
            .or(number(name))
            .ok_or_else(|| SandboxError::NoGroup(name.clone()))?,
    };
    Ok(User { user, group })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names_or_numbers() {
        let user = |text: &str| look_up(&text.parse().unwrap()).map(|User { user, group }| (user, group));
        assert_eq!(user("root").unwrap(), (0, 0));
        assert_eq!(user("0").unwrap(), (0, 0));
        assert_eq!(user("root:7").unwrap(), (0, 7));
        assert_eq!(user("4000000000:4000000001").unwrap(), (4_000_000_000, 4_000_000_001));
        assert!(matches!(user("4000000000"), Err(SandboxError::NoGroupOfUser(4_000_000_000))));
        assert!(matches!(user("nobody-at-all"), Err(SandboxError::NoUser(_))));
        assert!(matches!(user("root:no-such-group"), Err(SandboxError::NoGroup(_))));
        // To the kernel this number means that nothing is to change.
        assert!(matches!(user("4294967295:0"), Err(SandboxError::NoUser(_))));
        assert!(matches!(user("root:4294967295"), Err(SandboxError::NoGroup(_))));
    }

    #[test]
    fn who_already_is_the_user_may_stay_so() {
        let ([user, ..], [group, ..]) = confine::identity();
        assert!(Account::find(&format!("{user}:{group}").parse().unwrap()).is_ok());
    }
}
