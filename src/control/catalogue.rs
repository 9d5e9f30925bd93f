//! The exports of a server, by name and by index.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::{Export, ExportId};
use crate::nbd::session::ExportInfo;

/// All exports. Shards know them by [`ExportId`], handshakes by index.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    infos: Vec<ExportInfo>,
    exports: Vec<Arc<Export>>,
    by_name: HashMap<String, usize>,
}

impl Catalogue {
    /// Adds an export whose name is new.
    pub(super) fn add(&mut self, info: ExportInfo, export: Export) {
        let index = self.infos.len();
        let earlier = self.by_name.insert(info.name.clone(), index);
        assert_eq!(earlier, None, "names were checked");
        self.infos.push(info);
        self.exports.push(Arc::new(export));
    }

    /// What clients are told, by index.
    pub(super) fn infos(&self) -> &[ExportInfo] {
        &self.infos
    }

    /// The export of this name, with its index.
    pub(super) fn find(&self, name: &str) -> Option<(usize, &ExportInfo)> {
        self.by_name.get(name).map(|&index| (index, &self.infos[index]))
    }

    /// An export, and how shards name it.
    pub(super) fn get(&self, index: usize) -> (ExportId, &Arc<Export>) {
        (ExportId { index: index as u32, generation: 0 }, &self.exports[index])
    }

    /// All, by index.
    pub(super) fn exports(&self) -> impl Iterator<Item = &Export> {
        self.exports.iter().map(|export| &**export)
    }

    /// Exports of files.
    pub(super) fn files(&self) -> usize {
        self.exports.iter().filter(|export| export.is_file()).count()
    }
}
