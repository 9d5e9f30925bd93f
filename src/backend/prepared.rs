//! Descriptors of a file that another process has opened for this one, which can open none any more.
//!
//! The process that opens files knows nothing of exports, and this one knows nothing of how they are opened:
//! [`WantedFile`] says what is needed, and [`PreparedFile`] is what came.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::{ExportUri, Locking};

/// What a descriptor of a file is for. Each is a description of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilePurpose {
    /// For requests, through the page cache.
    Buffered,
    /// For locks, which belong to the description. It reads only.
    Lock,
    /// For requests, past the page cache.
    Direct,
    /// For writes that are durable when they are answered.
    Durable,
}

/// What is needed of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedFile {
    pub(crate) path: PathBuf,
    /// For all but the lock, which is never written.
    pub(crate) read_only: bool,
    pub(crate) purposes: Vec<FilePurpose>,
}

impl WantedFile {
    /// What an export of a URI needs; `None` if that is no file.
    pub(crate) fn of(uri: &ExportUri, read_only: bool) -> Option<Self> {
        match uri {
            ExportUri::Fault { inner, .. } => Self::of(inner, read_only),
            ExportUri::File { path, direct, read_only: uri_read_only, locking, .. } => {
                let read_only = read_only || *uri_read_only;
                let mut purposes = vec![FilePurpose::Buffered];
                purposes.extend((*locking != Locking::Off).then_some(FilePurpose::Lock));
                purposes.extend(direct.then_some(FilePurpose::Direct));
                purposes.extend((!read_only).then_some(FilePurpose::Durable));
                Some(Self { path: path.clone(), read_only, purposes })
            }
            ExportUri::Image(_)
            | ExportUri::Memory { .. }
            | ExportUri::Null { .. }
            | ExportUri::Remote(_)
            | ExportUri::Command(_)
            | ExportUri::Application { .. } => None,
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The descriptors that came, each by its purpose.
#[derive(Debug, Default)]
pub(crate) struct PreparedFile(Vec<(FilePurpose, File)>);

impl PreparedFile {
    /// One more of them.
    pub(crate) fn add(&mut self, purpose: FilePurpose, file: File) {
        self.0.push((purpose, file));
    }

    /// Gives one away.
    pub(super) fn take(&mut self, purpose: FilePurpose) -> io::Result<File> {
        let place = self.0.iter().position(|(of, _)| *of == purpose);
        let place = place.ok_or_else(|| io::Error::other("a descriptor of it is missing"))?;
        Ok(self.0.swap_remove(place).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Export, OpenError};

    #[test]
    fn a_file_is_served_from_descriptors_that_came() {
        let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let (path, other) = (directory.path().join("a"), directory.path().join("b"));
        for path in [&path, &other] {
            File::create(path).unwrap().set_len(1 << 20).unwrap();
        }
        let uri: ExportUri = format!("fault:delay=1ms:file:{}", path.display()).parse().unwrap();
        let wanted = WantedFile::of(&uri, false).unwrap();
        assert_eq!(wanted.path(), path);
        assert_eq!(wanted.purposes, [FilePurpose::Buffered, FilePurpose::Lock, FilePurpose::Durable]);
        let open = |path: &Path| File::options().read(true).write(true).open(path).unwrap();
        let prepared = |durable: &Path| {
            let mut files = PreparedFile::default();
            files.add(FilePurpose::Buffered, open(&path));
            files.add(FilePurpose::Lock, open(&path));
            files.add(FilePurpose::Durable, open(durable));
            files
        };
        let export = Export::of_prepared(&uri, false, prepared(&path)).unwrap();
        assert_eq!((export.facts().size, export.facts().read_only, export.files()), (1 << 20, false, 1));
        let replaced = Export::of_prepared(&uri, false, prepared(&other)).unwrap_err();
        assert!(matches!(replaced, OpenError::Replaced(_)), "{replaced}");
        let missing = Export::of_prepared(&uri, false, PreparedFile::default()).unwrap_err();
        assert!(missing.to_string().contains("missing"), "{missing}");
        assert!(Export::of_prepared(&"mem:1M".parse().unwrap(), false, PreparedFile::default()).is_ok());
    }

    #[test]
    fn what_is_needed_follows_from_the_uri() {
        let purposes = |uri: &str, read_only| WantedFile::of(&uri.parse().unwrap(), read_only);
        let wanted = purposes("file:/x?direct=true&lock=off", true).unwrap();
        assert_eq!(
            (wanted.read_only, &wanted.purposes[..]),
            (true, &[FilePurpose::Buffered, FilePurpose::Direct][..])
        );
        assert!(purposes("file:/x?readonly=true", false).unwrap().read_only);
        assert_eq!(purposes("mem:1M", false), None);
        assert_eq!(purposes("store:/srv/store/a", false), None);
    }
}
