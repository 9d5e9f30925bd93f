//! What operations on names own: names, and the directories that they stand in.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

/// A directory that is open; clones share its descriptor.
///
/// It is a descriptor and no place among the ring's files: the kernel takes no registered file here.
#[derive(Debug, Clone)]
pub struct Directory {
    descriptor: Arc<OwnedFd>,
}

/// A name in a directory: one component of a path, and neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName(CString);

/// Bytes of the longest name (`NAME_MAX`).
const LONGEST_NAME: usize = 255;

/// Why some bytes are no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileNameError {
    #[error("a file name is empty; give it at least one character")]
    Empty,
    #[error("a file name has {0} bytes; give it at most {LONGEST_NAME}")]
    Long(usize),
    #[error("a file name contains `/` or a zero byte; give a plain name instead of a path")]
    Path,
    #[error("`.` and `..` name directories that exist everywhere; give another name")]
    Dots,
}

/// As what a name is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenAs {
    /// A file that is there, to be read.
    Reader,
    /// A file that is there, to be read and written.
    Writer,
    /// The same past the page cache.
    DirectWriter,
    /// A new file, to be read and written; `EEXIST` if the name is taken.
    NewFile,
    /// A directory that is there.
    Directory,
}

/// What is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// A file; who has it open keeps it.
    File,
    /// A directory without names in it.
    Directory,
}

/// An operation on names. It owns them, and the descriptors of their directories.
#[derive(Debug)]
pub struct NameWork {
    pub(super) kind: NameKind,
}

#[derive(Debug)]
pub(super) enum NameKind {
    /// `kernel` is what the kernel reads of `how`.
    Open {
        directory: Directory,
        name: FileName,
        how: OpenAs,
        kernel: types::OpenHow,
    },
    MakeDirectory {
        directory: Directory,
        name: FileName,
    },
    Rename {
        from: (Directory, FileName),
        to: (Directory, FileName),
    },
    Remove {
        directory: Directory,
        name: FileName,
        removed: Removed,
    },
    SyncDirectory {
        directory: Directory,
    },
}

impl Directory {
    /// `descriptor` is one of a directory, opened to be read.
    pub fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor: Arc::new(descriptor) }
    }

    pub(super) fn raw(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    fn for_kernel(&self) -> types::Fd {
        types::Fd(self.raw())
    }
}

impl FileName {
    /// # Errors
    /// [`FileNameError`].
    pub fn new(name: impl AsRef<[u8]>) -> Result<Self, FileNameError> {
        match name.as_ref() {
            [] => Err(FileNameError::Empty),
            long if long.len() > LONGEST_NAME => Err(FileNameError::Long(long.len())),
            b"." | b".." => Err(FileNameError::Dots),
            name if name.contains(&b'/') => Err(FileNameError::Path),
            name => CString::new(name).map(Self).map_err(|_| FileNameError::Path),
        }
    }

    /// Without the zero byte at its end.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn for_kernel(&self) -> *const libc::c_char {
        CStr::as_ptr(&self.0)
    }
}

impl OpenAs {
    fn for_kernel(self) -> types::OpenHow {
        let way = match self {
            Self::Reader => libc::O_RDONLY,
            Self::Writer => libc::O_RDWR,
            Self::DirectWriter => libc::O_RDWR | libc::O_DIRECT,
            Self::NewFile => libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
            Self::Directory => libc::O_RDONLY | libc::O_DIRECTORY,
        };
        // Something else than a file is not waited for, and refused when it is open.
        let always = libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK;
        let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
        let mode = if self == Self::NewFile { 0o600 } else { 0 };
        types::OpenHow::new().flags((way | always) as u64).resolve(resolve).mode(mode)
    }

    pub(super) fn is_kind_of(self, descriptor: &OwnedFd) -> io::Result<bool> {
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(descriptor)?.st_mode);
        Ok(if self == Self::Directory { kind.is_dir() } else { kind.is_file() })
    }
}

impl NameWork {
    /// The SQE for work that stays where it is until its terminal CQE: everything is behind a pointer.
    pub(super) fn build_entry(&mut self) -> squeue::Entry {
        match &mut self.kind {
            NameKind::Open { directory, name, how, kernel } => {
                *kernel = how.for_kernel();
                opcode::OpenAt2::new(directory.for_kernel(), name.for_kernel(), &raw const *kernel).build()
            }
            NameKind::MakeDirectory { directory, name } => {
                opcode::MkDirAt::new(directory.for_kernel(), name.for_kernel()).mode(0o700).build()
            }
            NameKind::Rename { from: (from, old), to: (to, new) } => {
                let (from, to) = (from.for_kernel(), to.for_kernel());
                opcode::RenameAt::new(from, old.for_kernel(), to, new.for_kernel()).build()
            }
            NameKind::Remove { directory, name, removed } => {
                let flags = if *removed == Removed::Directory { libc::AT_REMOVEDIR } else { 0 };
                opcode::UnlinkAt::new(directory.for_kernel(), name.for_kernel()).flags(flags).build()
            }
            // All of it: names are no data, so a `fdatasync` might leave them out.
            NameKind::SyncDirectory { directory } => opcode::Fsync::new(directory.for_kernel()).build(),
        }
    }

    /// Takes over the descriptor that came of it, if that is what its result is.
    pub(super) fn opened(&self, result: Result<u32, i32>) -> Option<OwnedFd> {
        let (NameKind::Open { .. }, Ok(descriptor)) = (&self.kind, result) else { return None };
        // SAFETY: the kernel has made it for this operation, whose result is told once.
        Some(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
    }
}
