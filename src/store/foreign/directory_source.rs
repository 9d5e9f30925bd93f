//! A tier in a directory, such as one that several hosts have mounted.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::source::{RangeSource, SourceError, SourcePack};

/// Bytes of a small object at most.
const MOST_OBJECT: u64 = 16 << 20;

/// Objects are files below it, by their keys.
#[derive(Debug)]
pub(super) struct DirectorySource {
    root: PathBuf,
}

impl DirectorySource {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn open(&self, key: &str) -> Result<File, SourceError> {
        // Keys come from records, which may be anybody's.
        if key.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
            return Err(SourceError::Missing(key.to_owned()));
        }
        File::open(self.root.join(key)).map_err(|error| failed(key, &error))
    }
}

fn failed(key: &str, error: &io::Error) -> SourceError {
    match error.kind() {
        ErrorKind::NotFound => SourceError::Missing(key.to_owned()),
        _ => SourceError::Unreachable(format!("{key}: {error}")),
    }
}

impl RangeSource for DirectorySource {
    fn read_object(&self, key: &str) -> Result<Vec<u8>, SourceError> {
        use std::io::Read;
        let mut bytes = Vec::new();
        let read = self.open(key)?.take(MOST_OBJECT).read_to_end(&mut bytes);
        read.map(|_| bytes).map_err(|error| failed(key, &error))
    }

    fn write_object(&self, key: &str, bytes: &[u8]) -> Result<(), SourceError> {
        let path = self.root.join(key);
        let new = path.with_extension("new");
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written =
            made.and_then(|()| std::fs::write(&new, bytes)).and_then(|()| std::fs::rename(&new, &path));
        written.map_err(|error| failed(key, &error))
    }

    fn read_range(&self, pack: &SourcePack, range: Range<u64>) -> Result<Vec<u8>, SourceError> {
        let key = pack.key();
        // A directory that is not there is one that is not mounted: it may come back.
        if !self.root.join("tier.json").exists() {
            return Err(SourceError::Unreachable(format!("there is no tier in {}", self.root.display())));
        }
        let file = self.open(&key)?;
        let length = file.metadata().map_err(|error| failed(&key, &error))?.len();
        let mut bytes = vec![0; range.end.min(length).saturating_sub(range.start) as usize];
        file.read_exact_at(&mut bytes, range.start).map_err(|error| failed(&key, &error))?;
        Ok(bytes)
    }
}
