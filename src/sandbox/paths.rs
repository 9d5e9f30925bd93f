//! What can be done with names of files, by Landlock.
//!
//! A running server has open what it works with, so that not even its exports can be opened again: a shard
//! can open nothing, the control plane can remove what it made, and the threads of stores can do what they do
//! below the directories of their stores. Landlock holds for the operations of the
//! rings too, which seccomp does not see.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The names that a thread still uses.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Files that are removed at the end.
    pub removed: Vec<PathBuf>,
    /// A file that is still to be renamed inside its directory, and then read and removed at the end.
    pub pidfile: Option<PathBuf>,
    /// Directories of stores: what is below them comes and goes, and nothing else does.
    pub stores: Vec<PathBuf>,
    /// It connects to other servers.
    pub connects: bool,
    /// Threads do that started earlier, and keep what they may do.
    pub others_connect: bool,
}

/// The newest version that was looked at. An older kernel enforces its part of it.
const NEWEST: ABI = ABI::V9;

/// Rules that allow nothing but the names. They are made early, because naming a directory may need
/// privileges that are gone later.
pub(super) fn rules(names: &Names) -> Result<RulesetCreated, RulesetError> {
    let (mut files, mut network) = (AccessFs::from_all(NEWEST), AccessNet::from_all(NEWEST));
    let mut scope = Scope::from_all(NEWEST);
    if names.connects {
        files.remove(AccessFs::ResolveUnix);
        network.remove(AccessNet::ConnectTcp);
        scope.remove(Scope::AbstractUnixSocket);
    }
    let mut rules =
        Ruleset::default().handle_access(files)?.handle_access(network)?.scope(scope)?.create()?;
    // What a panic reads to name its functions, and what the process can know of itself anyway.
    rules = allow(rules, Path::new("/proc/self/exe"), AccessFs::ReadFile.into())?;
    rules = allow(rules, Path::new("/proc/self"), AccessFs::ReadFile | AccessFs::ReadDir)?;
    for question_of_malloc in ["/proc/sys/vm/overcommit_memory", "/sys/devices/system/cpu/online"] {
        rules = allow(rules, Path::new(question_of_malloc), AccessFs::ReadFile.into())?;
    }
    for name in &names.removed {
        rules = allow(rules, directory_of(name), AccessFs::RemoveFile.into())?;
    }
    for store in &names.stores {
        rules = allow(rules, store, of_store())?;
    }
    if let Some(name) = &names.pidfile {
        rules = allow(rules, name, AccessFs::ReadFile.into())?;
        // A rename is a new name and the removal of the old one.
        rules = allow(rules, directory_of(name), AccessFs::RemoveFile | AccessFs::MakeReg)?;
    }
    Ok(rules)
}

/// What the thread of a store does below its directory. Layers go to `lost/` by a rename from one directory
/// to another.
fn of_store() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::ReadDir
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

/// A name that is gone needs no rule.
fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(file) => rules.add_rule(PathBeneath::new(file, access)),
        Err(_gone) => Ok(rules),
    }
}

/// The directory of a file.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Restricts the calling thread and those that it starts from now on. Gives the version of Landlock, or the
/// reason why there is none.
pub(super) fn restrict(rules: Result<RulesetCreated, RulesetError>) -> Result<String, String> {
    let status = rules.and_then(RulesetCreated::restrict_self).map_err(|error| error.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err("it is not among lsm= of the kernel's command line".to_owned())
        }
        (RulesetStatus::NotEnforced, _) => Err("this kernel does not have it".to_owned()),
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            Ok(format!("version {}", effective_abi as i32))
        }
        _ => Ok("yes".to_owned()),
    }
}
