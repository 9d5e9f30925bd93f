//! Kinds of disks: how each lies in a world, and how a server opens it, for the first time and again after a restart.
//!
//! README.md tells how to add one.

use std::sync::Arc;

use ringnbd::internal::backend::{Export, ShorterChain, SimulatedLayer};
use ringnbd::internal::ring::sim::{FileId, Random, World};

use super::application;
use super::image;
use super::plan::{Disk, Interruption};

/// A disk of some kind in a world.
pub(crate) trait Medium {
    /// Opens it, when a server starts. What a server before had of it is gone: its shards, its descriptors, its memory.
    fn open(&mut self, world: &World) -> Arc<Export>;

    /// The files that it consists of now, by name.
    fn files(&self, world: &World) -> Vec<(String, FileId)>;

    /// What clients would read when nothing is under way; `None` when only a server can tell.
    fn content(&self, world: &World) -> Option<Vec<u8>>;

    /// Makes the files of a next head, if it is an image of which a snapshot can be taken now.
    fn next_head(&mut self, _world: &World) -> Option<image::NextLayer> {
        None
    }

    /// Other layers of the same contents, if it is an image that has some below its head.
    fn other_layers(&mut self, _world: &World) -> Option<ShorterChain> {
        None
    }

    /// Makes it larger, if it is an image that can be: its data and the catalogue. Its head, and its size.
    fn grow(&mut self, _world: &World) -> Option<(SimulatedLayer, u64)> {
        None
    }

    /// Bytes that it has by the catalogue, if it is an image.
    fn size(&self) -> Option<u64> {
        None
    }

    /// Its server has ended so, and the next one has not begun.
    fn interrupted(&mut self, _world: &World, _interruption: Interruption) {}

    /// Code of its own goes on, which runs beside the shards; false when that has nothing to do.
    fn step(&self) -> bool {
        false
    }

    /// Whether it has such code.
    fn runs_by_itself(&self) -> bool {
        false
    }
}

/// Puts a disk that holds `content` into a world.
pub(crate) fn lay_out(disk: &Disk, content: Vec<u8>, world: &World, random: &mut Random) -> Box<dyn Medium> {
    if let Some(shape) = disk.image {
        return Box::new(image::Image::lay_out(disk, shape, content, world, random));
    }
    match disk.application {
        Some(manner) => {
            let (size, read_only) = (disk.size, disk.read_only);
            let seed = random.number();
            let device = application::Disk::new(content, size, read_only, manner, Random::new(seed));
            Box::new(Application { device, is_open: false, again: Random::new(!seed) })
        }
        None => Box::new(Raw {
            file: world.file(content, disk.alignment, disk.sector.unwrap_or(1)).id,
            size: disk.size,
            read_only: disk.read_only,
            sector: disk.sector,
            is_opaque: disk.is_opaque,
        }),
    }
}

/// A file or a block device, through the page cache or past it.
struct Raw {
    file: FileId,
    size: u64,
    read_only: bool,
    sector: Option<u32>,
    is_opaque: bool,
}

impl Medium for Raw {
    fn open(&mut self, world: &World) -> Arc<Export> {
        Arc::new(Export::simulated(world.open(self.file), self.size, self.read_only, self.sector))
    }

    fn files(&self, _world: &World) -> Vec<(String, FileId)> {
        vec![("data".into(), self.file)]
    }

    fn content(&self, world: &World) -> Option<Vec<u8>> {
        (!self.is_opaque).then(|| world.content(self.file))
    }
}

/// A device of the application. What it has written survives everything; requests that it has do not survive their server.
struct Application {
    device: Arc<application::Disk>,
    is_open: bool,
    /// Seeds of what it does after restarts.
    again: Random,
}

impl Medium for Application {
    fn open(&mut self, _world: &World) -> Arc<Export> {
        if std::mem::replace(&mut self.is_open, true) {
            self.device = self.device.again(Random::new(self.again.number()));
        }
        Arc::new(Export::of_device(&self.device.device(), false).expect("its facts are right"))
    }

    fn files(&self, _world: &World) -> Vec<(String, FileId)> {
        Vec::new()
    }

    fn content(&self, _world: &World) -> Option<Vec<u8>> {
        Some(self.device.content())
    }

    fn step(&self) -> bool {
        self.device.step()
    }

    fn runs_by_itself(&self) -> bool {
        true
    }
}
