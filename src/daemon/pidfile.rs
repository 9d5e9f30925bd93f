//! The file that has the server's process id, and says that everything is up.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::control::ownership;

/// A pidfile of this process, removed when dropped.
#[derive(Debug)]
pub(super) struct Pidfile {
    path: PathBuf,
}

/// Why there cannot be a pidfile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PidfileError {
    /// Another server runs with it.
    #[error(
        "the pidfile {path} belongs to a running server (process {pid}): stop it, or choose another --pidfile"
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        pid: u32,
    },
    /// It cannot be written.
    #[error("cannot write the pidfile {path}: {error}; choose another --pidfile")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Pidfile {
    /// Checks early that no living process owns the file but the one that is taken over, and that it can be
    /// written.
    pub(super) fn check(path: &Path, predecessor: Option<u32>) -> Result<(), PidfileError> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(directory.unwrap_or(Path::new(".")), access)
            .map_err(|error| PidfileError::Write { path: path.to_owned(), error: error.into() })?;
        match owner(path) {
            Some(pid) if pid != std::process::id() && Some(pid) != predecessor && runs_this_program(pid) => {
                Err(PidfileError::InUse { path: path.to_owned(), pid })
            }
            _ => Ok(()),
        }
    }

    /// Writes it under another name.
    pub(super) fn prepare(path: &Path, predecessor: Option<u32>) -> Result<Prepared, PidfileError> {
        Self::check(path, predecessor)?;
        // Absolute, because the removal must not depend on the working directory.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let front = format!(".{name}.");
        remove_leftovers(path.parent().unwrap_or(Path::new("/")), &front);
        let temporary = path.with_file_name(format!("{front}{}", std::process::id()));
        let failed = |error| PidfileError::Write { path: path.clone(), error };
        let mut file = fs::File::create(&temporary).map_err(failed)?;
        let prepared = Prepared { path: path.clone(), temporary, file: file.try_clone().map_err(failed)? };
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(prepared)
    }
}

/// A pidfile that has its content, and not its name; removed when dropped.
#[derive(Debug)]
pub(super) struct Prepared {
    path: PathBuf,
    temporary: PathBuf,
    file: fs::File,
}

/// The pidfile of the process that is taken over, which this one can write to and not replace.
#[derive(Debug)]
pub(super) struct Inherited {
    path: PathBuf,
    file: fs::File,
}

impl Inherited {
    /// Says that it is this process's from now on.
    pub(super) fn publish(self) -> Result<Pidfile, PidfileError> {
        let text = format!("{}\n", std::process::id());
        let written = self.file.write_all_at(text.as_bytes(), 0);
        match written.and_then(|()| self.file.set_len(text.len() as u64)) {
            Ok(()) => Ok(Pidfile { path: self.path }),
            Err(error) => Err(PidfileError::Write { path: self.path, error }),
        }
    }
}

impl Prepared {
    /// The file that is there, to be written later by whoever cannot give another one its name. None if there
    /// is none.
    pub(super) fn inherit(&self) -> Option<Inherited> {
        let file = fs::OpenOptions::new().write(true).open(&self.path).ok()?;
        Some(Inherited { path: self.path.clone(), file })
    }

    /// Where it is for now.
    pub(super) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Makes it belong to a user, who can publish it then.
    pub(super) fn hand_over(&self, user: (u32, u32)) -> io::Result<()> {
        ownership::hand_over(&self.file, (Some(user.0), user.1))
    }

    /// Gives it its name, so that a reader sees nothing or all of it.
    pub(super) fn publish(self) -> Result<Pidfile, PidfileError> {
        match fs::rename(&self.temporary, &self.path) {
            Ok(()) => Ok(Pidfile { path: self.path.clone() }),
            Err(error) => Err(PidfileError::Write { path: self.path.clone(), error }),
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // After it was published there is nothing under this name.
        let _published = fs::remove_file(&self.temporary);
    }
}

impl Pidfile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // Another process may have put its own in its place.
        if owner(&self.path) == Some(std::process::id()) {
            let _gone_already = fs::remove_file(&self.path);
        }
    }
}

/// Removes prepared pidfiles of processes that were killed before they could give them a name.
fn remove_leftovers(directory: &Path, front: &str) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(front)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _gone_already = fs::remove_file(entry.path());
        }
    }
}

fn owner(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Whether the process lives and is a server like this one. A number alone says nothing: after a restart of
/// the machine or container another process may have it.
fn runs_this_program(pid: u32) -> bool {
    let program = |process: &str| fs::read_link(format!("/proc/{process}/exe")).ok();
    program(&pid.to_string()).is_some_and(|theirs| Some(theirs) == program("self"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_pidfile_is_replaced_and_ours_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        for stale in ["1\n", "4294967295", "nonsense", ""] {
            fs::write(&path, stale).unwrap();
            let pidfile = Pidfile::prepare(&path, None).and_then(Prepared::publish).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
            drop(pidfile);
            assert!(!path.exists());
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn what_a_killed_process_has_prepared_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let stale = directory.path().join(".pid.4294967295");
        let others = [".pid.1", ".pid.x", ".other.4294967295", "pid.4294967295"];
        others.iter().for_each(|name| fs::write(directory.path().join(name), "").unwrap());
        fs::write(&stale, "4294967295\n").unwrap();
        drop(Pidfile::prepare(&path, None).unwrap());
        assert!(!stale.exists());
        assert!(others.iter().all(|name| directory.path().join(name).exists()), "they are somebody else's");
    }

    #[test]
    fn a_pidfile_of_another_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let pidfile = Pidfile::prepare(&path, None).and_then(Prepared::publish).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(pidfile);
        assert!(path.exists());
    }

    #[test]
    fn a_pidfile_that_is_inherited_is_the_old_one_until_it_is_published() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        fs::write(&path, "12345678901\n").unwrap();
        let inherit = || Pidfile::prepare(&path, None).unwrap().inherit().unwrap();
        drop(inherit());
        assert_eq!(fs::read_to_string(&path).unwrap(), "12345678901\n");
        let pidfile = inherit().publish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(pidfile);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_pidfile_that_cannot_be_written_is_explained() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/pid");
        let error = Pidfile::prepare(&path, None).and_then(Prepared::publish).unwrap_err().to_string();
        assert!(error.contains("missing/pid") && error.contains("--pidfile"), "{error}");
    }
}
