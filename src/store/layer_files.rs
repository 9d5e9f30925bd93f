//! The files of layers: made, measured and removed. What stands in a map is not known here.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, fstat};
use rustix::io::Errno;

use super::catalog::LayerId;
use super::directory::{StoreDirectory, below, names, unlink};
use super::error::StoreError;
use super::file_changes::{link, make_directory, rename, set_length, sync_all, sync_directory};

const DATA: &str = "data";
const MAP: &str = "map";
/// A map until it is complete.
const NEW_MAP: &str = "map.new";
/// A block of `st_blocks`.
const STAT_BLOCK: u64 = 512;

/// What a layer takes on the disk, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerUsage {
    pub data: u64,
    pub map: u64,
    /// The length of its data file.
    pub length: u64,
}

/// The files of a layer that is being made. Without [`NewLayer::finish`] they are rubbish.
#[derive(Debug)]
pub struct NewLayer<'a> {
    directory: &'a StoreDirectory,
    id: LayerId,
    within: OwnedFd,
    pub data: File,
    pub map: File,
}

impl NewLayer<'_> {
    /// Makes the layer durable. Only then may the catalogue be told of it.
    ///
    /// # Errors
    /// The file system's.
    pub fn finish(self) -> Result<(), StoreError> {
        let path = self.directory.layer_path(self.id);
        let files = sync_all(&self.data).and_then(|()| sync_all(&self.map));
        files.map_err(StoreError::at("sync the files of", &path))?;
        let directories =
            sync_directory(&self.within).and_then(|()| sync_directory(&self.directory.layers_descriptor()));
        directories.map_err(StoreError::at("sync", &path))
    }
}

impl StoreDirectory {
    /// Makes the directory and the files of a layer: `data` with a size and no contents, `map` empty.
    ///
    /// # Errors
    /// The file system's.
    pub fn begin_layer(&self, id: LayerId, size: u64) -> Result<NewLayer<'_>, StoreError> {
        let (path, name) = (self.layer_path(id), id.to_string());
        let made = make_directory(&self.layers, &name, Mode::RWXU)
            .and_then(|()| below(&self.layers, &*name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()));
        let within = made.map_err(StoreError::at("make", &path))?;
        let file = |name: &str| {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
            let made = below(&within, name, flags, Mode::RUSR | Mode::WUSR);
            made.map(File::from).map_err(StoreError::at("make", &path.join(name)))
        };
        let (data, map) = (file(DATA)?, file(MAP)?);
        set_length(&data, size).map_err(StoreError::at("give its size to", &path.join(DATA)))?;
        Ok(NewLayer { directory: self, id, within, data, map })
    }

    /// Opens the files of a layer, data and map, to read and write them, or to read them if that is all that
    /// the store is open for.
    ///
    /// # Errors
    /// The file system's; a layer that is missing is damage.
    pub fn open_layer(&self, id: LayerId) -> Result<(File, File), StoreError> {
        self.open_layer_with(id, self.access())
    }

    /// Opens the files of a layer that somebody else makes with a lock, to write what it gets.
    pub(super) fn open_layer_to_fill(&self, id: LayerId) -> Result<(File, File), StoreError> {
        self.open_layer_with(id, OFlags::RDWR)
    }

    fn open_layer_with(&self, id: LayerId, access: OFlags) -> Result<(File, File), StoreError> {
        let path = self.layer_path(id);
        let file = |name: &str| {
            let found = below(&self.layers, format!("{id}/{name}"), access | OFlags::NONBLOCK, Mode::empty());
            found.map(File::from).map_err(|error| missing(id, error, self, name))
        };
        let files = (file(DATA)?, file(MAP)?);
        for (file, name) in [(&files.0, DATA), (&files.1, MAP)] {
            let metadata = file.metadata().map_err(StoreError::at("look at", &path.join(name)))?;
            if !metadata.is_file() {
                return Err(StoreError::LayerMissing { layer: id, path: path.join(name) });
            }
        }
        Ok(files)
    }

    /// Makes a layer durable whose files are open no more. Only then may the catalogue be told of it.
    ///
    /// # Errors
    /// The file system's.
    pub fn sync_layer(&self, id: LayerId) -> Result<(), StoreError> {
        let (data, map) = self.open_layer(id)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let within = below(&self.layers, id.to_string(), flags, Mode::empty());
        let within = within.map_err(StoreError::at("open", &self.layer_path(id)))?;
        NewLayer { directory: self, id, within, data, map }.finish()
    }

    /// Opens the data of a layer whose map may be lost.
    ///
    /// # Errors
    /// The file system's; a layer that is missing is damage.
    pub(super) fn open_data(&self, id: LayerId) -> Result<File, StoreError> {
        let found =
            below(&self.layers, format!("{id}/{DATA}"), OFlags::RDWR | OFlags::NONBLOCK, Mode::empty());
        found.map(File::from).map_err(|error| missing(id, error, self, DATA))
    }

    /// Gives a layer another map, which `write` writes. The old one, if there is one, goes to `lost/`.
    pub(super) fn replace_map(
        &self,
        id: LayerId,
        write: impl FnOnce(File) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let path = self.layer_path(id);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let within = below(&self.layers, id.to_string(), flags, Mode::empty());
        let within = within.map_err(|error| missing(id, error, self, ""))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        // An earlier try may have been interrupted.
        let made = unlink(&within, NEW_MAP, AtFlags::empty())
            .and_then(|()| below(&within, NEW_MAP, flags, Mode::RUSR | Mode::WUSR));
        let file = File::from(made.map_err(StoreError::at("make", &path.join(NEW_MAP)))?);
        write(file.try_clone().map_err(StoreError::at("make", &path.join(NEW_MAP)))?)?;
        let placed = || -> io::Result<()> {
            sync_all(&file)?;
            self.keep_in_lost(&within, id)?;
            rename((&within, NEW_MAP), (&within, MAP))?;
            Ok(sync_directory(&within)?)
        };
        placed().map_err(StoreError::at("replace", &path.join(MAP)))
    }

    /// A second name for a map that is going to be replaced.
    fn keep_in_lost(&self, within: &OwnedFd, id: LayerId) -> rustix::io::Result<()> {
        for number in 0..1000 {
            let name = format!("{id}.map.{number}");
            match link((within, MAP), (&self.lost, &name)) {
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return Ok(()),
                result => return result.and_then(|()| sync_directory(&self.lost)),
            }
        }
        Err(Errno::EXIST)
    }

    /// Opens the map of a layer to read it.
    ///
    /// # Errors
    /// The file system's; a layer that is missing is damage.
    pub(super) fn open_map(&self, id: LayerId) -> Result<File, StoreError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let found = below(&self.layers, format!("{id}/{MAP}"), flags, Mode::empty());
        found.map(File::from).map_err(|error| missing(id, error, self, MAP))
    }

    /// What a layer takes on the disk.
    ///
    /// # Errors
    /// The file system's; a layer that is missing is damage.
    pub fn layer_usage(&self, id: LayerId) -> Result<LayerUsage, StoreError> {
        let of = |name: &str| {
            let found = below(&self.layers, format!("{id}/{name}"), OFlags::PATH, Mode::empty());
            let status = found.and_then(|file| fstat(&file));
            status.map_err(|error| missing(id, error, self, name))
        };
        let (data, map) = (of(DATA)?, of(MAP)?);
        let bytes = |blocks: i64| u64::try_from(blocks).unwrap_or(0) * STAT_BLOCK;
        let length = u64::try_from(data.st_size).unwrap_or(0);
        Ok(LayerUsage { data: bytes(data.st_blocks), map: bytes(map.st_blocks), length })
    }

    /// Removes the data of a layer whose contents are elsewhere. Whoever has it open reads on.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn remove_data(&self, id: LayerId) -> Result<(), StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let removed = match below(&self.layers, id.to_string(), flags, Mode::empty()) {
            Ok(within) => unlink(&within, DATA, AtFlags::empty()).and_then(|()| sync_directory(&within)),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(StoreError::at("remove", &self.layer_path(id).join(DATA)))
    }

    /// Bytes that the map of a layer takes on the disk.
    ///
    /// # Errors
    /// The file system's; a map that is missing is damage.
    pub(super) fn map_usage(&self, id: LayerId) -> Result<u64, StoreError> {
        let found = below(&self.layers, format!("{id}/{MAP}"), OFlags::PATH, Mode::empty());
        let status = found.and_then(|file| fstat(&file)).map_err(|error| missing(id, error, self, MAP))?;
        Ok(u64::try_from(status.st_blocks).unwrap_or(0) * STAT_BLOCK)
    }

    /// Removes the files of a layer that no row of the catalogue names any more.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove_layer(&self, id: LayerId) -> Result<(), StoreError> {
        remove_tree(&self.layers, &id.to_string()).map_err(StoreError::at("remove", &self.layer_path(id)))
    }

    /// A file that goes when it is closed. One that an interruption leaves behind is in `lost/`.
    ///
    /// # Errors
    /// The file system's.
    pub fn unnamed_file(&self, name: &str) -> Result<File, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let made = below(&self.lost, name, flags, Mode::RUSR | Mode::WUSR);
        let file = made.and_then(|file| unlink(&self.lost, name, AtFlags::empty()).map(|()| file));
        file.map(File::from).map_err(StoreError::at("make", &self.lost_path().join(name)))
    }

    /// Removes something below `lost/`.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove_lost(&self, name: &str) -> Result<(), StoreError> {
        remove_tree(&self.lost, name).map_err(StoreError::at("remove", &self.lost_path().join(name)))
    }
}

fn missing(layer: LayerId, error: Errno, of: &StoreDirectory, name: &str) -> StoreError {
    let path = of.layer_path(layer).join(name);
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => StoreError::LayerMissing { layer, path },
        error => StoreError::at("open", &path)(error),
    }
}

/// Removes a file, or a directory of files. A directory in it is nothing that a layer has, and stays.
fn remove_tree(directory: &OwnedFd, name: &str) -> io::Result<()> {
    match below(directory, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
        Ok(within) => {
            for file in names(&within)? {
                unlink(&within, &file, AtFlags::empty())?;
            }
            unlink(directory, name, AtFlags::REMOVEDIR)?;
        }
        Err(Errno::NOENT) => {}
        Err(Errno::NOTDIR | Errno::LOOP) => unlink(directory, name, AtFlags::empty())?,
        Err(error) => return Err(error.into()),
    }
    Ok(sync_directory(directory)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use uuid::Uuid;

    use super::*;
    use crate::store::catalog::ChunkCompression;

    fn store() -> (tempfile::TempDir, StoreDirectory) {
        let house = tempfile::tempdir().unwrap();
        let (directory, _) =
            StoreDirectory::init(&house.path().join("store"), Uuid::nil(), 1, ChunkCompression::Lz4).unwrap();
        (house, directory)
    }

    #[test]
    fn a_layer_is_made_measured_and_removed() {
        let (_house, directory) = store();
        let id = LayerId(Uuid::from_u128(7));
        let mut layer = directory.begin_layer(id, 1 << 30).unwrap();
        layer.data.write_all(&[1; 8192]).unwrap();
        layer.map.write_all(b"map").unwrap();
        layer.finish().unwrap();
        let usage = directory.layer_usage(id).unwrap();
        assert_eq!(usage.length, 1 << 30);
        assert!((8192..1 << 20).contains(&usage.data), "{usage:?}");
        assert!(directory.begin_layer(id, 1).is_err(), "a layer is made once");
        directory.open_layer(id).unwrap();
        assert_eq!(directory.layer_names().unwrap(), [id.to_string()]);
        directory.remove_layer(id).unwrap();
        directory.remove_layer(id).unwrap();
        assert!(matches!(directory.layer_usage(id), Err(StoreError::LayerMissing { .. })));
    }

    #[test]
    fn a_link_in_a_layer_is_not_followed() {
        let (house, directory) = store();
        let secret = house.path().join("secret");
        std::fs::create_dir(&secret).unwrap();
        std::fs::write(secret.join("data"), "secret").unwrap();
        std::fs::write(secret.join("map"), "secret").unwrap();
        let id = LayerId(Uuid::from_u128(7));
        symlink(&secret, directory.layer_path(id)).unwrap();
        assert!(directory.open_layer(id).is_err());
        assert!(directory.layer_usage(id).is_err());
        directory.remove_layer(id).unwrap();
        assert_eq!(std::fs::read_dir(&secret).unwrap().count(), 2);
    }
}
