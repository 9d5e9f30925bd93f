//! Opens the files of an image.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use uuid::Uuid;

use super::layer_files::{BaseFile, LayerFiles, NextHead, OpenBase};
use super::remote_base::{facts_above, open_remote_base};
use super::served_store::ServedStore;
use super::store::ImageStore;
use crate::backend::file_store::{FileOptions, FileStore};
use crate::backend::open_error::OpenError;
use crate::backend::remote::RemoteStore;
use crate::block::{BlockSizes, DeviceFacts};
use crate::config::{BasePlace, ImagePlace, ImageUri, Locking, RemoteUri};
use crate::store::catalog::{BaseId, BaseKind, NodeName};
use crate::store::image_path::ImagePath;
use crate::store::map::{Geometry, LayerIdentity, LayerMap, LayerMapError, MapFront};
use crate::store::map_files::MapFiles;
use crate::store::map_medium::open_map;
use crate::store::open_store::OpenStore;
use crate::store::pending::attach_new_log;
use crate::store::serving::{ChainBase, ChainFiles, ImageFiles};

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
                Self::open_of(&store, node, uri, read_only, locks)
            }
            ImagePlace::Store(path) => {
                let text = path.to_str().ok_or(OpenError::Image("has a name that is not UTF-8"))?;
                let path: ImagePath = text.parse().map_err(OpenError::ImagePath)?;
                Self::open_of(&ServedStore::at(&path.store)?, path.node, uri, read_only, locks)
            }
        }
    }

    fn open_of(
        served: &Arc<ServedStore>,
        node: NodeName,
        uri: &ImageUri,
        read_only: bool,
        locks: bool,
    ) -> Result<(Self, DeviceFacts), OpenError> {
        let (of, uri) = (Arc::clone(served), uri.clone());
        served.call(move |store| Self::open_node(store, &of, &node, (&uri, read_only, locks)))?
    }

    /// Opens an image or a snapshot, on the thread of its store; one that is to be written gets a head.
    pub(in crate::backend) fn open_node(
        store: &mut OpenStore<MapFiles>,
        served: &Arc<ServedStore>,
        node: &NodeName,
        (uri, read_only, locks): (&ImageUri, bool, bool),
    ) -> Result<(Self, DeviceFacts), OpenError> {
        let read_only = read_only || node.snapshot.is_some();
        let open = served.note_open(node)?;
        if node.snapshot.is_none() {
            store.finish_left_snapshot(&node.image).map_err(OpenError::Store)?;
        }
        if !read_only {
            store.give_head(&node.image).map_err(OpenError::Store)?;
        }
        let ImageFiles { size, layers, contents, base } = store.files(node).map_err(OpenError::Store)?;
        let is_mapped = uri.mapped && !uri.direct;
        let contents = contents.map(|contents| served.contents(&contents, (uri.verify, is_mapped)));
        let base = base.map(|base| open_chain_base(store, served, &base, (uri, locks))).transpose()?;
        let block = base.as_ref().map_or(1, OpenBase::minimum_block);
        let mut opened = Vec::with_capacity(layers.len());
        let mut is_rotational = false;
        for (index, layer) in layers.into_iter().enumerate() {
            let is_head = index == 0 && !read_only;
            let (mut layer, rotational) = open_layer(layer, &options(uri, !is_head))?;
            is_rotational |= rotational;
            if is_head {
                note_changes(node, &mut layer);
            }
            opened.push(layer);
        }
        if opened.is_empty() {
            // Nobody writes it, and all of it is the base's.
            let file = store.unnamed_file().map_err(OpenError::Store)?;
            opened.push(unnamed_layer(file, size, uri)?.0);
        }
        let image = Self::new(opened, base, Some((open, options(uri, read_only))));
        let image = image.with_contents(contents, uri.verify);
        Ok((image, facts_above(block, facts(size, read_only, is_rotational))?))
    }
}

impl ServedStore {
    /// Opens all bases of the store, so that an image on one can be opened by a server that can open no file.
    /// What cannot be opened is told, and images on it are refused later.
    ///
    /// # Errors
    /// The store cannot be looked at.
    pub fn open_bases(self: &Arc<Self>, uri: &ImageUri, locks: bool) -> Result<(), OpenError> {
        let (served, uri) = (Arc::clone(self), uri.clone());
        self.call(move |store| {
            let bases: Vec<BaseId> =
                store.view().map_err(OpenError::Store)?.bases().map(|row| row.id).collect();
            for id in bases {
                match open_stored_base(store, id, (&uri, locks)) {
                    Ok(base) => served.keep_base(id, base),
                    Err(error) => tracing::warn!(%error, "images on this base cannot be served"),
                }
            }
            Ok(())
        })?
    }
}

fn open_chain_base(
    store: &OpenStore<MapFiles>,
    served: &ServedStore,
    base: &ChainBase,
    how: (&ImageUri, bool),
) -> Result<OpenBase, OpenError> {
    let open = match served.base(base.id) {
        Some(open) => open,
        None => {
            let open = open_stored_base(store, base.id, how)?;
            if matches!(open, OpenBase::Remote(..)) {
                // Each image of it has connections of its own.
                served.keep_base(base.id, open.clone());
            }
            open
        }
    };
    let block = u64::from(open.minimum_block());
    if !base.visible.is_multiple_of(block) || !open.size().is_multiple_of(block) {
        return Err(OpenError::Image("ends within a block of the other server's export that it stands on"));
    }
    Ok(open.seen(base.visible))
}

/// A base that is what it was when images began with it.
fn open_stored_base(
    store: &OpenStore<MapFiles>,
    id: BaseId,
    (uri, locks): (&ImageUri, bool),
) -> Result<OpenBase, OpenError> {
    let row = store.view().map_err(OpenError::Store)?.base(id).expect("a base that is named has a row");
    if row.kind == BaseKind::Remote {
        // Another place of the same export, if one is named.
        let remote = match &uri.base {
            Some(BasePlace::Remote(remote)) => (**remote).clone(),
            _ => RemoteUri::parse(&row.path)
                .map_err(|error| OpenError::BaseUri(row.path.clone(), error.to_string()))?,
        };
        let (open, found) = open_remote_base(&remote)?;
        return match found.differs_from(row) {
            Some(how) => Err(OpenError::RemoteBaseDiffers { uri: remote.address, how }),
            None => Ok(open),
        };
    }
    let path = store.unchanged_base(id).map_err(OpenError::Store)?;
    Ok(OpenBase::File(open_base(&path, uri.mapped, locks)?))
}

impl ImageStore {
    /// Opens the files of a head that is to take over, which must be durable.
    pub(in crate::backend) fn next_head(&self, files: ChainFiles) -> Result<NextHead, OpenError> {
        let how = self.head_options().ok_or(OpenError::Image("is not written here"))?;
        let (mut layer, _) = open_layer(files, &how)?;
        if let Some(served) = self.served() {
            note_changes(served.name(), &mut layer);
        }
        let (files, map) = layer;
        if map.size() != self.size() || u64::from(map.geometry().block_bytes) != self.block() {
            return Err(OpenError::Image("has another size than its next head"));
        }
        Ok(NextHead { files: Arc::new(files), map })
    }
}

fn open_temporary(
    uri: &ImageUri,
    read_only: bool,
    locks: bool,
) -> Result<(ImageStore, DeviceFacts), OpenError> {
    let base = match &uri.base {
        None => None,
        Some(BasePlace::File(path)) => Some(OpenBase::File(open_base(path, uri.mapped, locks)?)),
        Some(BasePlace::Remote(remote)) => {
            let (store, facts) = RemoteStore::open(remote, true)?;
            Some(OpenBase::Remote(Arc::new(store), facts.size))
        }
    };
    let size = uri.size.or(base.as_ref().map(OpenBase::size));
    let size = size.ok_or(OpenError::Image("has neither a size nor a base"))?;
    let (head, rotational) = temporary_layer(size, uri)?;
    let block = base.as_ref().map_or(1, OpenBase::minimum_block);
    let facts = facts_above(block, facts(size, read_only, rotational))?;
    Ok((ImageStore::new(vec![head], base, None), facts))
}

pub(in crate::backend) fn facts(size: u64, read_only: bool, rotational: bool) -> DeviceFacts {
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

pub(super) fn open_layer(
    files: ChainFiles,
    how: &FileOptions,
) -> Result<((LayerFiles, LayerMap), bool), OpenError> {
    let ChainFiles { id, data, map, visible } = files;
    let layer_map = open_map(&data, &map).map_err(|error| OpenError::Layer(id, error))?;
    let (data, facts) = FileStore::open(&path_of(&data), how)?;
    let layer = LayerFiles {
        id: Some(id),
        data: Arc::new(data),
        map: Some(Arc::new(map)),
        visible,
        commits: Arc::default(),
    };
    Ok(((layer, layer_map), facts.rotational))
}

/// Changes that were answered are to survive a kill.
fn note_changes(node: &NodeName, (files, map): &mut (LayerFiles, LayerMap)) {
    let Some(file) = &files.map else { return };
    if let Err(error) = attach_new_log(map, file) {
        let what =
            "if the server is killed, first writes to the image are lost that were answered and not flushed";
        tracing::warn!(image = %node, %error, "{what}");
    }
}

/// The name of an open file, by which it can be opened again.
fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A layer that is thrown away at the end: a file without a name, and a map in memory.
fn temporary_layer(size: u64, uri: &ImageUri) -> Result<((LayerFiles, LayerMap), bool), OpenError> {
    let directory = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(&directory, flags, Mode::RUSR | Mode::WUSR);
    let file = file.map_err(|error| OpenError::Temporary(directory, error.into()))?;
    unnamed_layer(file.into(), size, uri)
}

/// A layer of a file without a name.
fn unnamed_layer(file: File, size: u64, uri: &ImageUri) -> Result<((LayerFiles, LayerMap), bool), OpenError> {
    let geometry = Geometry::default();
    let map = temporary_map(size, geometry).map_err(OpenError::Map)?;
    let sized = file.set_len(size.next_multiple_of(u64::from(geometry.block_bytes)));
    sized.map_err(|error| OpenError::Temporary(path_of(&file), error))?;
    let (data, facts) = FileStore::open(&path_of(&file), &options(uri, false))?;
    let files =
        LayerFiles { id: None, data: Arc::new(data), map: None, visible: size, commits: Arc::default() };
    Ok(((files, map), facts.rotational))
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
