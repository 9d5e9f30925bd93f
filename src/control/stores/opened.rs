//! The stores of a server that starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::backend::{Export, OpenError, ServedStore};
use crate::config::{ExportConfig, ExportRates, ExportUri, ImagePlace, ImageUri};
use crate::control::catalogue::Catalogue;
use crate::rights::Rights;
use crate::store::catalog::NodeName;
use crate::store::directory::StoreDirectory;
use crate::store::error::StoreError;
use crate::store::pending::prepare_logs;
use crate::store::pusher::StorePusher;

/// Files of images that a shard has places for, if all images of a store are exports: a device that nobody
/// uses makes room for another.
pub(in crate::control) const FILES: usize = 1024;

/// Why the stores are not served.
#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    /// One cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A name was given to all of its images.
    #[error(
        "the images of {0} have names of their own: write store:{0} without a name before it, or store:{0}/IMAGE"
    )]
    Named(String),
    /// Two exports of one name.
    #[error(
        "two exports would be named \"{name}\", one of them an image of {store}: rename the image, or name the other export \
         otherwise"
    )]
    Clash {
        /// Which.
        name: String,
        /// Where one of them is.
        store: String,
    },
}

/// A store that is open.
#[derive(Debug)]
pub(super) struct OpenedStore {
    pub(super) store: Arc<ServedStore>,
    /// If all its images are exports: how.
    pub(super) all: Option<ImageUri>,
    /// Who may do what with each of them.
    pub(super) rights: Rights,
    /// How fast each of them may be used.
    pub(super) rates: ExportRates,
    /// Images that are exports with names of their own.
    pub(super) fixed: BTreeMap<NodeName, String>,
    /// What brings snapshots to its tier without being asked for.
    pub(super) pusher: Option<StorePusher>,
}

/// All of them.
#[derive(Debug, Default)]
pub(in crate::control) struct OpenedStores(pub(super) Vec<OpenedStore>);

impl OpenedStores {
    /// Opens what is a store as a whole; false for any other export. `locks`: it is to be served, and others
    /// are kept from writing to bases.
    pub(in crate::control) fn take(
        &mut self,
        wanted: &ExportConfig,
        locks: bool,
    ) -> Result<bool, StoresError> {
        let ExportUri::Image(image) = &wanted.uri else { return Ok(false) };
        let ImagePlace::Store(path) = &image.place else { return Ok(false) };
        if !StoreDirectory::is_at(path) {
            return Ok(false);
        }
        if !wanted.name.is_empty() {
            return Err(StoresError::Named(path.display().to_string()));
        }
        let store = ServedStore::at(path)?;
        store.open_bases(image, locks)?;
        let read_only = image.read_only || wanted.read_only;
        let description = Some(wanted.description.clone()).filter(|text| !text.is_empty());
        let all = ImageUri { read_only, description, ..(**image).clone() };
        let of = self.of(&store);
        if locks && all.push.is_some() && !all.read_only {
            let pusher = StorePusher::start(store.path(), all.push_rate);
            of.pusher = Some(pusher.map_err(OpenError::Store)?);
        }
        (of.all, of.rights, of.rates) = (Some(all), wanted.rights.clone(), wanted.rates.clone());
        Ok(true)
    }

    /// Notes an export that is an image of a store.
    pub(in crate::control) fn note(&mut self, name: &str, export: &Export) {
        if let Some((store, node)) = export.stored() {
            self.of(store).fixed.insert(node.clone(), name.to_owned());
        }
    }

    fn of(&mut self, store: &Arc<ServedStore>) -> &mut OpenedStore {
        let known = self.0.iter().position(|of| Arc::ptr_eq(&of.store, store));
        let index = known.unwrap_or_else(|| {
            let (store, fixed) = (Arc::clone(store), BTreeMap::new());
            let (rights, rates) = Default::default();
            self.0.push(OpenedStore { store, all: None, rights, rates, fixed, pusher: None });
            self.0.len() - 1
        });
        &mut self.0[index]
    }

    /// Whether each name is that of one export.
    pub(in crate::control) fn check_names(&self, others: &Catalogue) -> Result<(), StoresError> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for of in self.0.iter().filter(|of| of.all.is_some()) {
            let own = of.store.call(|store| {
                Ok(store.view()?.images().map(|image| image.name.to_string()).collect::<Vec<_>>())
            });
            for name in own?.map_err(|error: StoreError| OpenError::Store(error))? {
                let is_same =
                    of.fixed.iter().any(|(node, export)| *export == name && node.to_string() == name);
                let is_taken = !is_same && others.find(&name).is_some();
                if is_taken || !names.insert(name.clone()) {
                    let store = of.store.path().display().to_string();
                    return Err(StoresError::Clash { name, store });
                }
            }
        }
        Ok(())
    }

    /// Where they are.
    pub(in crate::control) fn directories(&self) -> Vec<PathBuf> {
        self.0.iter().map(|of| of.store.path().to_owned()).collect()
    }

    /// Whether threads that they have started connect to tiers.
    pub(in crate::control) fn fetch(&self) -> bool {
        let pushes = |of: &OpenedStore| of.pusher.is_some() && StorePusher::connects(of.store.path());
        self.0.iter().any(|of| of.store.fetches() || pushes(of))
    }

    /// Where changes of images are noted that are opened later.
    pub(in crate::control) fn log_directories(&self) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = self.0.iter().flat_map(|of| prepare_logs(of.store.path())).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Whether images of them stand on exports of other servers, to which shards connect.
    pub(in crate::control) fn connect(&self) -> bool {
        self.0.iter().any(|of| of.store.has_remote_base())
    }

    /// Files that a shard may have open of images that are opened later.
    pub(in crate::control) fn files(&self) -> usize {
        if self.0.iter().any(|of| of.all.is_some()) { FILES } else { 0 }
    }

    /// Gives each store a thread, with the rights of the calling one.
    pub(in crate::control) fn start_threads(&self) -> Result<(), StoreError> {
        self.0.iter().try_for_each(|of| of.store.start_thread())
    }
}
