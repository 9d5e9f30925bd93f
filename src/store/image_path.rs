//! `STORE/NAME` and `STORE/NAME@SNAPSHOT`.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use super::catalog::{NameError, NodeName};

/// Why a word does not name an image of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImagePathError {
    #[error("write the directory of the store and a name, as in /srv/store/vm1 or /srv/store/vm1@monday")]
    NoName,
    #[error("{0}")]
    Name(#[from] NameError),
}

/// An image or a snapshot, and the store that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePath {
    pub store: PathBuf,
    pub node: NodeName,
}

impl FromStr for ImagePath {
    type Err = ImagePathError;

    fn from_str(text: &str) -> Result<Self, ImagePathError> {
        let path = Path::new(text);
        let is_name = matches!(path.components().next_back(), Some(Component::Normal(_)));
        let name = path.file_name().and_then(OsStr::to_str).filter(|_| is_name && !text.ends_with('/'));
        let node = name.ok_or(ImagePathError::NoName)?.parse()?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok(Self { store: parent.unwrap_or(Path::new(".")).to_owned(), node })
    }
}

/// Whether all that a command names is in one store.
///
/// # Errors
/// A sentence: they are in different ones.
pub fn one_store(paths: &[&ImagePath]) -> Result<(), String> {
    let plain = |path: &Path| path.components().collect::<PathBuf>();
    let Some((first, rest)) = paths.split_first() else { return Ok(()) };
    match rest.iter().find(|path| plain(&path.store) != plain(&first.store)) {
        None => Ok(()),
        Some(other) => Err(format!(
            "{} and {} are different stores: name images of one store in one command, and write its directory in one way",
            first.store.display(),
            other.store.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_is_the_name() {
        for (text, store, node) in [
            ("/srv/store/vm1", "/srv/store", "vm1"),
            ("/srv/store/vm1@monday", "/srv/store", "vm1@monday"),
            ("store/vm1", "store", "vm1"),
            ("vm1@a", ".", "vm1@a"),
            ("/vm1", "/", "vm1"),
            ("/srv/a@b/vm1", "/srv/a@b", "vm1"),
        ] {
            let path: ImagePath = text.parse().unwrap();
            assert_eq!((path.store.as_path(), path.node.to_string()), (Path::new(store), node.to_owned()));
        }
        for text in ["", "/", "..", "/srv/store/", "/srv/.."] {
            assert_eq!(text.parse::<ImagePath>(), Err(ImagePathError::NoName), "{text}");
        }
        assert!(matches!("/srv/store/a b".parse::<ImagePath>(), Err(ImagePathError::Name(_))));
    }

    #[test]
    fn one_command_has_one_store() {
        let path = |text: &str| text.parse::<ImagePath>().unwrap();
        let (a, b, c) = (path("/s/a"), path("/s//b@x"), path("/t/c"));
        assert_eq!(one_store(&[&a, &b]), Ok(()));
        assert!(one_store(&[&a, &c]).unwrap_err().contains("different stores"));
    }
}
