//! What may be opened, and how. No request is trusted.
//!
//! A path may come from a server that was taken over, and an allowed directory may hold what a hostile user
//! put there. So the directories are held as descriptors since the start, and no link below them is followed.
//! What a name leads to is looked at before it is opened, because opening a device or a FIFO can have an
//! effect by itself.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2};
use rustix::io::Errno;

use super::message::OpenMode;

/// Directories that are held open.
const DIRECTORIES: usize = 4096;

/// What a broker may open.
#[derive(Debug, Default)]
pub(super) struct Allowed {
    directories: Vec<(PathBuf, OwnedFd)>,
    devices: Vec<PathBuf>,
    configuration: Option<PathBuf>,
    readable: HashSet<PathBuf>,
}

impl Allowed {
    /// Allows what is below a directory, as it is now: if another one gets its name, that one is not allowed.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn directory(&mut self, path: PathBuf) -> Result<(), String> {
        if self.directories.len() == DIRECTORIES {
            return Err(format!("more than {DIRECTORIES} directories cannot be held open"));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = open(&path, flags, Mode::empty());
        let opened = opened.map_err(|error| cannot("open the directory", &path, error))?;
        self.directories.push((path, opened));
        Ok(())
    }

    pub(super) fn device(&mut self, path: PathBuf) {
        self.devices.push(path);
    }

    pub(super) fn configuration_is(&mut self, path: PathBuf) {
        self.configuration = Some(path);
    }

    /// Allows to read what has this name by then.
    pub(super) fn may_read(&mut self, path: PathBuf) {
        self.readable.insert(path);
    }

    /// Opens a file that lies below an allowed directory, or an allowed device.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn open(&self, path: &Path, access: OpenMode) -> Result<OwnedFd, String> {
        let flags = match access {
            OpenMode::Read => OFlags::RDONLY,
            OpenMode::ReadWrite => OFlags::RDWR,
            OpenMode::ReadDirect => OFlags::RDONLY | OFlags::DIRECT,
            OpenMode::ReadWriteDirect => OFlags::RDWR | OFlags::DIRECT,
        };
        let found = if self.devices.iter().any(|device| device == path) {
            let named = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            let named = named.map_err(|error| cannot("open", path, error))?;
            is_kind(&named, path, FileType::BlockDevice, "is not the block device that it was")?;
            named
        } else {
            self.find(path)?
        };
        reopen(&found, path, flags)
    }

    /// Opens the configuration to read it. Links are followed: the user that started the server named it, and
    /// systems like to put a link there.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn open_configuration(&self) -> Result<OwnedFd, String> {
        let path = self.configuration.as_deref().ok_or("the server was started without a configuration")?;
        let named = find_named(path).map_err(|error| cannot("open", path, error))?;
        open_named(&named, path)
    }

    /// Opens a file to read it that was named at the start; `None` when it is not there. Links are followed,
    /// as for the configuration.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn open_readable(&self, path: &Path) -> Result<Option<OwnedFd>, String> {
        if !self.readable.contains(path) {
            return Err(format!(
                "{} was not a file of TLS when the server started: restart the server",
                path.display()
            ));
        }
        match find_named(path) {
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(cannot("open", path, error)),
            Ok(named) => open_named(&named, path).map(Some),
        }
    }

    /// The regular file of a path, looked at and not opened.
    fn find(&self, path: &Path) -> Result<OwnedFd, String> {
        let (directory, below) = self.place(path)?;
        let name = below.file_name().ok_or_else(|| outside(path))?;
        let parent = below.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.map(|parent| step(directory, parent, OFlags::DIRECTORY)).transpose();
        let parent = parent.map_err(|error| not_reached(path, error))?;
        let parent = parent.as_ref().map_or(directory, AsFd::as_fd);
        let found = step(parent, Path::new(name), OFlags::empty());
        let found = found.map_err(|error| not_reached(path, error))?;
        let status = is_kind(&found, path, FileType::RegularFile, "is not a regular file")?;
        let of_parent = fstat(parent).map_err(|error| cannot("look at the directory of", path, error))?;
        if is_foreign_link(&status, &of_parent) {
            return Err(format!(
                "{} has another name too, and does not belong to the owner of its directory: it may be a link to \
                 another user's file; copy it",
                path.display()
            ));
        }
        Ok(found)
    }

    /// The innermost allowed directory of a path, and what lies below it: names only.
    fn place<'a>(&self, path: &'a Path) -> Result<(BorrowedFd<'_>, &'a Path), String> {
        let below = self.directories.iter().filter_map(|(of, directory)| {
            let below = path.strip_prefix(of).ok()?;
            let names_only = below.components().all(|part| matches!(part, Component::Normal(_)));
            (names_only && !below.as_os_str().is_empty()).then_some((directory.as_fd(), below))
        });
        below.min_by_key(|(_, below)| below.components().count()).ok_or_else(|| outside(path))
    }
}

/// What a name that the user chose leads to, looked at and not opened.
fn find_named(path: &Path) -> rustix::io::Result<OwnedFd> {
    open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// Opens what was found, if it is a regular file, to read it.
fn open_named(named: &OwnedFd, path: &Path) -> Result<OwnedFd, String> {
    is_kind(named, path, FileType::RegularFile, "is not a regular file")?;
    reopen(named, path, OFlags::RDONLY)
}

/// True for a file that has several names and does not belong to the owner of its directory. Such a file is
/// not opened: that owner could have made a link to a file that it may not open itself.
fn is_foreign_link(file: &Stat, directory: &Stat) -> bool {
    file.st_nlink > 1 && file.st_uid != directory.st_uid
}

/// What a path below a directory leads to, without following a link or opening it.
fn step(directory: BorrowedFd<'_>, below: &Path, more: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | more;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(directory, below, flags, Mode::empty(), resolve) {
            // A name was changed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Opens what was found, and nothing that has got its name since.
fn reopen(found: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, String> {
    let name = format!("/proc/self/fd/{}", found.as_raw_fd());
    // Neither a device nor a lease of another process makes it wait.
    let opened = open(name, flags | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
    let opened = opened.map_err(|error| cannot("open", path, error))?;
    rustix::fs::fcntl_setfl(&opened, flags).map_err(|error| cannot("open", path, error))?;
    Ok(opened)
}

fn is_kind(file: &OwnedFd, path: &Path, kind: FileType, otherwise: &str) -> Result<Stat, String> {
    let status = fstat(file).map_err(|error| cannot("look at", path, error))?;
    let found = FileType::from_raw_mode(status.st_mode);
    if found == kind {
        return Ok(status);
    }
    Err(format!("{} {otherwise}", path.display()))
}

fn outside(path: &Path) -> String {
    format!(
        "{} is outside of the directories that exports may come from: add its directory to allow-directories in the configuration, and \
         write it without \"..\"",
        path.display()
    )
}

fn not_reached(path: &Path, error: Errno) -> String {
    match error {
        Errno::LOOP => {
            format!("{} is a symbolic link or lies behind one: write where it leads to", path.display())
        }
        Errno::XDEV => outside(path),
        _ => cannot("open", path, error),
    }
}

fn cannot(what: &str, path: &Path, error: Errno) -> String {
    format!("cannot {what} {}: {}", path.display(), io::Error::from(error))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    use super::*;

    /// `allowed/` with `file` and `deep/er/file`, and `foreign/secret` beside it.
    fn house() -> (tempfile::TempDir, Allowed) {
        let house = tempfile::tempdir().unwrap();
        let path = |name: &str| house.path().join(name);
        fs::create_dir_all(path("allowed/deep/er")).unwrap();
        fs::create_dir(path("foreign")).unwrap();
        for file in ["allowed/file", "allowed/deep/er/file", "foreign/secret"] {
            fs::write(path(file), file).unwrap();
        }
        let mut allowed = Allowed::default();
        allowed.directory(path("allowed")).unwrap();
        (house, allowed)
    }

    #[track_caller]
    fn refused(allowed: &Allowed, path: &Path, word: &str) {
        for access in [OpenMode::Read, OpenMode::ReadWrite] {
            let why = allowed.open(path, access).unwrap_err();
            assert!(why.contains(word), "{word:?} is missing in: {why}");
        }
    }

    #[test]
    fn files_below_the_directory_are_opened() {
        let (house, allowed) = house();
        for file in ["allowed/file", "allowed/deep/er/file", "allowed/deep//./er/file"] {
            let mut text = String::new();
            let opened = allowed.open(&house.path().join(file), OpenMode::Read).unwrap();
            fs::File::from(opened).read_to_string(&mut text).unwrap();
            assert!(text.starts_with("allowed/"), "{file}");
        }
        let opened = allowed.open(&house.path().join("allowed/file"), OpenMode::ReadWrite).unwrap();
        assert!(!rustix::fs::fcntl_getfl(&opened).unwrap().contains(OFlags::NONBLOCK));
        fs::File::from(opened).write_all(b"changed").unwrap();
        assert!(fs::read(house.path().join("allowed/file")).unwrap().starts_with(b"changed"));
        let read_only = allowed.open(&house.path().join("allowed/file"), OpenMode::Read).unwrap();
        fs::File::from(read_only).write_all(b"x").unwrap_err();
    }

    #[test]
    fn no_path_leads_out() {
        let (house, allowed) = house();
        let path = |name: &str| house.path().join(name);
        for outside in [
            "foreign/secret",
            "allowed/../foreign/secret",
            "allowed/deep/../file",
            "allowed",
            "allowed/",
            "",
            "allowed/..",
        ] {
            refused(&allowed, &path(outside), "outside");
        }
        for outside in ["", "allowed/file", "/", "/etc/passwd", "..", "//"] {
            refused(&allowed, Path::new(outside), "outside");
        }
        symlink(path("foreign"), path("allowed/way")).unwrap();
        symlink(path("foreign/secret"), path("allowed/link")).unwrap();
        symlink("file", path("allowed/harmless")).unwrap();
        symlink("/proc/self/fd/0", path("allowed/magic")).unwrap();
        for link in ["allowed/way/secret", "allowed/link", "allowed/harmless", "allowed/magic"] {
            refused(&allowed, &path(link), "symbolic link");
        }
        refused(&allowed, &path("allowed/missing"), "No such file");
        refused(&allowed, &path("allowed/file/x"), "Not a directory");
    }

    #[test]
    fn a_directory_is_the_one_that_it_was() {
        let (house, allowed) = house();
        let path = |name: &str| house.path().join(name);
        fs::rename(path("allowed"), path("moved")).unwrap();
        fs::create_dir(path("allowed")).unwrap();
        fs::write(path("allowed/new"), "").unwrap();
        refused(&allowed, &path("allowed/new"), "No such file");
        assert!(allowed.open(&path("allowed/file"), OpenMode::Read).is_ok());
    }

    #[test]
    fn only_regular_files_are_opened_and_nothing_waits() {
        let (house, allowed) = house();
        let path = |name: &str| house.path().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, path("allowed/fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("allowed/socket")).unwrap();
        for name in ["allowed/fifo", "allowed/socket", "allowed/deep"] {
            refused(&allowed, &path(name), "not a regular file");
        }
        let mut allowed = Allowed::default();
        allowed.directory("/dev".into()).unwrap();
        refused(&allowed, Path::new("/dev/null"), "not a regular file");
        allowed.device("/dev/null".into());
        refused(&allowed, Path::new("/dev/null"), "not the block device");
    }

    #[test]
    fn links_to_files_of_others_are_not_opened() {
        let (house, allowed) = house();
        let path = |name: &str| house.path().join(name);
        fs::hard_link(path("allowed/file"), path("allowed/own")).unwrap();
        assert!(
            allowed.open(&path("allowed/own"), OpenMode::Read).is_ok(),
            "the owner may make links to its own files"
        );
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let chown = |name: &str, user| std::os::unix::fs::chown(path(name), Some(user), None).unwrap();
        // The directory of a user, and in it a link to a file of root; and the other way round.
        for (directory, file) in [(60_001, 0), (0, 60_001), (60_001, 60_002)] {
            chown("allowed", directory);
            chown("allowed/own", file);
            refused(&allowed, &path("allowed/own"), "another user's");
        }
        fs::remove_file(path("allowed/file")).unwrap();
        assert!(allowed.open(&path("allowed/own"), OpenMode::Read).is_ok(), "one name is no link");
    }

    #[test]
    fn the_innermost_directory_counts() {
        let (house, mut allowed) = house();
        // Another directory has got the place of the outer one, so that only the inner one leads there.
        allowed.directory(house.path().join("allowed/deep")).unwrap();
        fs::rename(house.path().join("allowed"), house.path().join("moved")).unwrap();
        fs::rename(house.path().join("moved/deep"), house.path().join("deep")).unwrap();
        assert!(allowed.open(&house.path().join("allowed/deep/er/file"), OpenMode::Read).is_ok());
    }

    #[test]
    fn files_that_were_named_are_read_and_no_others() {
        let (house, mut allowed) = house();
        let path = |name: &str| house.path().join(name);
        allowed.may_read(path("key.pem"));
        let text = |allowed: &Allowed| {
            let opened = allowed.open_readable(&path("key.pem")).unwrap()?;
            let mut text = String::new();
            fs::File::from(opened).read_to_string(&mut text).unwrap();
            Some(text)
        };
        assert_eq!(text(&allowed), None, "it is not there yet");
        symlink(path("foreign/secret"), path("key.pem")).unwrap();
        assert_eq!(text(&allowed).as_deref(), Some("foreign/secret"));
        // As programs renew files: another one gets the name.
        fs::write(path("new"), "new").unwrap();
        fs::rename(path("new"), path("key.pem")).unwrap();
        assert_eq!(text(&allowed).as_deref(), Some("new"));
        let opened = allowed.open_readable(&path("key.pem")).unwrap().unwrap();
        fs::File::from(opened).write_all(b"x").unwrap_err();
        for other in ["foreign/secret", "allowed/file", "allowed/../key.pem", "missing"] {
            assert!(allowed.open_readable(&path(other)).unwrap_err().contains("restart"), "{other}");
        }
        fs::remove_file(path("key.pem")).unwrap();
        fs::create_dir(path("key.pem")).unwrap();
        assert!(allowed.open_readable(&path("key.pem")).unwrap_err().contains("not a regular file"));
        refused(&allowed, &path("key.pem"), "outside");
    }

    #[test]
    fn the_configuration_may_be_a_link_and_nothing_else() {
        let (house, mut allowed) = house();
        assert!(allowed.open_configuration().unwrap_err().contains("without a configuration"));
        symlink(house.path().join("foreign/secret"), house.path().join("c.toml")).unwrap();
        allowed.configuration_is(house.path().join("c.toml"));
        assert!(allowed.open_configuration().is_ok());
        allowed.configuration_is(house.path().join("foreign"));
        assert!(allowed.open_configuration().unwrap_err().contains("not a regular file"));
        allowed.configuration_is(house.path().join("missing"));
        assert!(allowed.open_configuration().unwrap_err().contains("No such file"));
    }
}
