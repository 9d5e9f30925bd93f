//! What a store takes, what is wrong with it, and what was lost in it.

use uuid::Uuid;

use super::base::base_differs;
use super::catalog::{BaseKind, LayerId};
use super::error::StoreError;
use super::maps::LayerMaps;
use super::open_store::{OpenStore, StoreUsage, now_s};
use super::packs::{RebuiltIndex, pack_failure, pack_name};

impl<M: LayerMaps> OpenStore<M> {
    /// What all layers take on the disk.
    ///
    /// # Errors
    /// A change of the catalogue failed before.
    pub fn usage(&self) -> Result<StoreUsage, StoreError> {
        let mut usage = StoreUsage::default();
        let view = self.view()?;
        let own = view.own_packs().map(|pack| pack.bytes);
        usage.packs = own.fold(self.directory.foreign.cached_bytes(), u64::saturating_add);
        for row in view.layers() {
            if view.contents(row.id).is_some() {
                match self.directory.map_usage(row.id) {
                    Ok(bytes) => usage.maps += bytes,
                    Err(error) => usage.missing.push(error.to_string()),
                }
                continue;
            }
            match self.directory.layer_usage(row.id) {
                Ok(found) => {
                    usage.data.insert(row.id, found.data);
                    usage.maps += found.map;
                }
                Err(error) => usage.missing.push(error.to_string()),
            }
        }
        Ok(usage)
    }

    /// Names below `layers/` that the catalogue does not know.
    ///
    /// # Errors
    /// A sentence.
    pub fn unknown_layers(&self) -> Result<Vec<String>, StoreError> {
        let view = self.view()?;
        let known = |name: &String| {
            let id = Uuid::try_parse(name).ok().map(LayerId);
            let is_named = |id| view.layer(id).is_some() || view.is_next_head(id);
            id.is_some_and(|id| is_named(id) && id.to_string() == *name)
        };
        Ok(self.directory.layer_names()?.into_iter().filter(|name| !known(name)).collect())
    }

    /// How many directories are lost, waiting to be removed.
    ///
    /// # Errors
    /// A sentence.
    pub fn lost(&self) -> Result<usize, StoreError> {
        self.directory.lost_names().map(|names| names.len())
    }

    /// Removes what has been lost for at least `grace_s` seconds, and says how many that were.
    ///
    /// # Errors
    /// A sentence.
    pub fn remove_lost(&self, grace_s: u64) -> Result<usize, StoreError> {
        let (mut removed, now) = (0, now_s());
        for name in self.directory.lost_names()? {
            if self.directory.lost_since_s(&name)?.saturating_add(grace_s) <= now {
                self.directory.remove_lost(&name)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Makes the index of chunks anew of the footers of all packs. Nobody brings anything into packs
    /// meanwhile.
    ///
    /// # Errors
    /// A sentence. A pack that cannot be read is none: it is left out.
    pub fn rebuild_index(&mut self) -> Result<RebuiltIndex, StoreError> {
        match self.directory.packs(self.header().store)? {
            Some(place) => {
                self.directory.rebuild_index(&place, self.view()?.own_packs()).map(|(_, made)| made)
            }
            None => Ok(RebuiltIndex::default()),
        }
    }

    /// Packs that are missing, or whose headers and footers are damaged, a sentence each.
    fn check_packs(&self) -> Result<Vec<String>, StoreError> {
        let (view, mut found) = (self.view()?, Vec::new());
        let place = self.directory.packs(self.header().store)?;
        // Of those of other stores nothing has to be here.
        for row in view.own_packs() {
            let path = self.path().join("packs").join(pack_name(row.number));
            let wrong = match &place {
                Some(place) => place.open(row.number, row.space).err().map(pack_failure(path)),
                None => {
                    Some(StoreError::at("open", &path)(std::io::Error::from(std::io::ErrorKind::NotFound)))
                }
            };
            found.extend(wrong.map(|error| error.to_string()));
        }
        Ok(found)
    }

    /// Everything that is wrong, a sentence each. That the catalogue is whole was looked at when it was
    /// opened. While a server has the store, layers that the catalogue does not know are not looked for.
    ///
    /// # Errors
    /// The store cannot be looked at.
    pub fn check(&self) -> Result<Vec<String>, StoreError> {
        let (mut found, view) = (Vec::new(), self.view()?);
        for row in view.layers().filter(|row| view.contents(row.id).is_some()) {
            found.extend(self.directory.map_usage(row.id).err().map(|error| error.to_string()));
        }
        found.extend(self.check_packs()?);
        for row in view.layers().filter(|row| view.contents(row.id).is_none()) {
            match self.directory.layer_usage(row.id) {
                Ok(usage) if usage.length < row.size => found.push(format!(
                    "the data of layer {} has {} bytes instead of {}: restore it from a backup",
                    row.id, usage.length, row.size
                )),
                Ok(_) => {}
                Err(error) => found.push(error.to_string()),
            }
        }
        found.extend(self.check_points()?);
        // A server makes layers before it names them.
        let unknown = if self.directory.is_locked() { self.unknown_layers()? } else { Vec::new() };
        for name in unknown {
            found.push(format!(
                "layers/{} is not in the catalogue: the next change moves it to lost/",
                name.escape_default()
            ));
        }
        // Whether an export of another server is what it was is looked at when it is opened.
        for row in view.bases().filter(|row| row.kind != BaseKind::Remote) {
            match base_differs(row) {
                Ok(None) => {}
                Ok(Some(what)) => found.push(format!(
                    "the base {} is another ({what}): put back the file that it was",
                    row.path.escape_default()
                )),
                Err(error) => found.push(format!("a base is missing: {error}")),
            }
        }
        Ok(found)
    }
}
