//! Files for a confined server, from its broker.

use std::rc::Rc;

use super::broker::{Broker, OpenMode};
use crate::control::{FileToOpen, OpenFiles, OpeningFile};

/// Has the broker open what the server cannot.
pub(super) struct FilesOfBroker(pub(super) Rc<Broker>);

impl OpenFiles for FilesOfBroker {
    fn open(&self, file: FileToOpen) -> OpeningFile {
        let broker = Rc::clone(&self.0);
        let mode = match (file.is_written, file.is_direct) {
            (false, false) => OpenMode::Read,
            (true, false) => OpenMode::ReadWrite,
            (false, true) => OpenMode::ReadDirect,
            (true, true) => OpenMode::ReadWriteDirect,
        };
        Box::pin(async move { broker.open(&file.path, mode).await.map_err(|error| error.to_string()) })
    }
}
