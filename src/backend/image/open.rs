//! Opens the files of an image.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use uuid::Uuid;

use super::served_store::ServedStore;
use super::store::{BaseFile, ImageStore, LayerFiles};
use crate::backend::file_store::{FileOptions, FileStore};
use crate::backend::open_error::OpenError;
use crate::block::{BlockSizes, DeviceFacts};
use crate::config::{ImagePlace, ImageUri, Locking};
use crate::store::catalog::NodeName;
use crate::store::image_path::ImagePath;
use crate::store::map::{Geometry, LayerIdentity, LayerMap, LayerMapError, MapFront};
use crate::store::map_files::open_map;
use crate::store::serving::{ChainFiles, ImageFiles};

/// The name of the one image of an overlay.
const OVERLAY: &str = "disk";

impl ImageStore {
    /// Opens an image, and makes that of an overlay when it is not there yet. `locks`: others are kept out.
    pub(in crate::backend) fn open(
        uri: &ImageUri,
        read_only: bool,
        locks: bool,
    ) -> Result<(Self, DeviceFacts), OpenError> {
        let read_only = read_only || uri.read_only;
        match &uri.place {
            ImagePlace::Temporary => open_temporary(uri, read_only, locks),
            ImagePlace::Overlay(path) => {
                let node: NodeName = OVERLAY.parse().expect("it is a name");
                let store = ServedStore::at_or_new(path)?;
                store.make_overlay(&node, uri)?;
                open_node(&store, &node, uri, read_only, locks)
            }
            ImagePlace::Store(path) => {
                let text = path.to_str().ok_or(OpenError::Image("has a name that is not UTF-8"))?;
                let path: ImagePath = text.parse().map_err(OpenError::ImagePath)?;
                let read_only = read_only || path.node.snapshot.is_some();
                open_node(&ServedStore::at(&path.store)?, &path.node, uri, read_only, locks)
            }
        }
    }
}

fn open_temporary(
    uri: &ImageUri,
    read_only: bool,
    locks: bool,
) -> Result<(ImageStore, DeviceFacts), OpenError> {
    let base = uri.base.as_ref().map(|path| open_base(path, uri.mapped, locks)).transpose()?;
    let size = uri.size.or(base.as_ref().map(|base| base.size));
    let size = size.ok_or(OpenError::Image("has neither a size nor a base"))?;
    let (head, rotational) = temporary_layer(size, uri)?;
    let facts = facts(size, read_only, rotational);
    Ok((ImageStore::new(vec![head], base, None), facts))
}

fn open_node(
    store: &Arc<ServedStore>,
    node: &NodeName,
    uri: &ImageUri,
    read_only: bool,
    locks: bool,
) -> Result<(ImageStore, DeviceFacts), OpenError> {
    let (ImageFiles { size, layers, base }, served) = store.open(node, !read_only)?;
    let base = base.map(|base| {
        let file = open_base(&base.path, uri.mapped, locks)?;
        Ok(BaseFile { size: file.size.min(base.visible), ..file })
    });
    let base = base.transpose()?;
    let mut opened = Vec::with_capacity(layers.len());
    let mut is_rotational = false;
    for (index, layer) in layers.into_iter().enumerate() {
        let (layer, rotational) = open_layer(layer, uri, read_only || index > 0)?;
        is_rotational |= rotational;
        opened.push(layer);
    }
    if opened.is_empty() {
        // Nobody writes it, and all of it is the base's.
        opened.push(temporary_layer(size, uri)?.0);
    }
    Ok((ImageStore::new(opened, base, Some(served)), facts(size, read_only, is_rotational)))
}

pub(super) fn facts(size: u64, read_only: bool, rotational: bool) -> DeviceFacts {
    DeviceFacts { size, read_only, rotational, fast_zero: true, block_sizes: BlockSizes::default() }
}

fn options(uri: &ImageUri, read_only: bool) -> FileOptions {
    FileOptions {
        direct: uri.direct,
        mapped: uri.mapped,
        read_only,
        rotational: None,
        // The store has a lock of its own.
        locking: Locking::Off,
        shared: false,
    }
}

/// What is below the layers: never written, and kept from those who would.
fn open_base(path: &Path, mapped: bool, locks: bool) -> Result<BaseFile, OpenError> {
    let how = FileOptions {
        direct: false,
        mapped,
        read_only: true,
        rotational: None,
        locking: if locks { Locking::Auto } else { Locking::Off },
        shared: false,
    };
    let (file, facts) = FileStore::open(path, &how)?;
    Ok(BaseFile { file: Arc::new(file), size: facts.size })
}

fn open_layer(
    files: ChainFiles,
    uri: &ImageUri,
    read_only: bool,
) -> Result<((LayerFiles, LayerMap), bool), OpenError> {
    let ChainFiles { id, data, map, visible } = files;
    let layer_map = open_map(&data, &map).map_err(|error| OpenError::Layer(id, error))?;
    let (data, facts) = FileStore::open(&path_of(&data), &options(uri, read_only))?;
    let layer = LayerFiles { id: Some(id), data: Arc::new(data), map: Some(map), visible };
    Ok(((layer, layer_map), facts.rotational))
}

/// The name of an open file, by which it can be opened again.
fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A layer that is thrown away at the end: a file without a name, and a map in memory.
fn temporary_layer(size: u64, uri: &ImageUri) -> Result<((LayerFiles, LayerMap), bool), OpenError> {
    let directory = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let explain = |error: std::io::Error| OpenError::Temporary(directory.clone(), error);
    let geometry = Geometry::default();
    let map = temporary_map(size, geometry).map_err(OpenError::Map)?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(&directory, flags, Mode::RUSR | Mode::WUSR);
    let file = File::from(file.map_err(|error| explain(error.into()))?);
    file.set_len(size.next_multiple_of(u64::from(geometry.block_bytes))).map_err(explain)?;
    let (data, facts) = FileStore::open(&path_of(&file), &options(uri, false))?;
    Ok(((LayerFiles { id: None, data: Arc::new(data), map: None, visible: size }, map), facts.rotational))
}

/// The map of a layer that has no file for it: all of its nodes stay in memory.
fn temporary_map(size: u64, geometry: Geometry) -> Result<LayerMap, LayerMapError> {
    let (store, image, layer) = (Uuid::nil(), Uuid::nil(), Uuid::nil());
    let name = "temp".to_owned();
    let identity = LayerIdentity { store, image, layer, parent: None, name, created_s: 0, size, base: None };
    let mut front = vec![0; MapFront::BYTES];
    for write in LayerMap::create(&identity, geometry)?.writes {
        let at = write.offset as usize;
        if let Some(place) = front.get_mut(at..at + write.bytes.len()) {
            place.copy_from_slice(&write.bytes);
        }
    }
    let front = MapFront::read(&front)?;
    let (_, length) = front.ring();
    front.open(&vec![0; length])
}
