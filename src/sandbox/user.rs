//! Users and groups: who they are, and becoming one.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::unistd::{self, Gid, Uid};
use rustix::thread::CapabilitySet;

use super::error::SandboxError;
use crate::config::RunAs;
use crate::control::ownership::{find_group, found, number};

/// A user, as far as a server needs to know one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct User {
    /// Its number.
    pub(super) user: u32,
    /// The number of its own group.
    pub(super) group: u32,
}

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
        identity() == ([self.user.user; 3], [self.user.group; 3])
    }

    /// Becomes the user, for good, with all threads.
    pub(super) fn become_it(&self) -> Result<(), SandboxError> {
        let failed = |error| SandboxError::Become(self.name.clone(), error);
        match become_user(self.user) {
            Ok(()) => {}
            // The process has that user already, and may not drop groups.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && self.is_in_effect() => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        let groups = rustix::process::getgroups().map_err(|error| failed(error.into()))?;
        let root_again = self.user.user != 0 && unistd::setuid(Uid::from_raw(0)).is_ok();
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

/// Makes the whole process run as a user and its group, and drops all other groups.
///
/// In the kernel a user belongs to a thread. These are wrappers of the C library, which change all threads of
/// the process.
fn become_user(User { user, group }: User) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    unistd::setgroups(&[])?;
    unistd::setresgid(group, group, group)?;
    unistd::setresuid(user, user, user)?;
    Ok(())
}

/// Real, effective and saved numbers: those of the user, and those of the group.
fn identity() -> ([u32; 3], [u32; 3]) {
    let users = unistd::getresuid().expect("the call only fails for a bad address");
    let groups = unistd::getresgid().expect("the call only fails for a bad address");
    (
        [users.real, users.effective, users.saved].map(Uid::as_raw),
        [groups.real, groups.effective, groups.saved].map(Gid::as_raw),
    )
}

/// By name, or by number.
fn look_up(wanted: &RunAs) -> Result<User, SandboxError> {
    let failed = |error| SandboxError::LookUp(wanted.clone(), error);
    let entry = found(unistd::User::from_name(&wanted.user)).map_err(failed)?;
    let named = entry.map(|entry| (entry.uid.as_raw(), Some(entry.gid.as_raw())));
    let user = match (named, number(&wanted.user)) {
        (None, Some(user)) => {
            // A number need not have an entry; then its group must be said.
            let entry = found(unistd::User::from_uid(Uid::from_raw(user))).map_err(failed)?;
            Some((user, entry.map(|entry| entry.gid.as_raw())))
        }
        (named, _) => named,
    };
    let (user, own_group) = user.ok_or_else(|| SandboxError::NoUser(wanted.user.clone()))?;
    let group = match &wanted.group {
        None => own_group.ok_or(SandboxError::NoGroupOfUser(user))?,
        Some(name) => find_group(name).map_err(failed)?.ok_or_else(|| SandboxError::NoGroup(name.clone()))?,
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
        let ([user, ..], [group, ..]) = identity();
        assert!(Account::find(&format!("{user}:{group}").parse().unwrap()).is_ok());
    }
}
