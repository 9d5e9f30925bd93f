//! A base is somewhere else now.

use serde::{Deserialize, Serialize};

use super::base::FoundBase;
use super::catalog::{self, StoreName};
use super::error::StoreError;
use super::maps::LayerMaps;
use super::open_store::OpenStore;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebased {
    pub path: String,
    /// Images that stand on the base.
    pub images: Vec<StoreName>,
    /// Samples of its contents are not what they were.
    pub differs: bool,
}

impl<M: LayerMaps> OpenStore<M> {
    /// The base of an image is this file or device from now on, for all images that stand on it. It must have
    /// the size of the base, and its samples must compare equal unless `is_unsafe`.
    ///
    /// # Errors
    /// A sentence.
    pub fn rebase(
        &mut self,
        name: &StoreName,
        found: FoundBase,
        is_unsafe: bool,
    ) -> Result<Rebased, StoreError> {
        let FoundBase { kind, path, identity } = found;
        if !path.starts_with('/') || path.contains('\0') {
            return Err(StoreError::Path(path.into()));
        }
        let row = self.view()?.base_of(name)?;
        let differs = row.identity.sample != identity.sample;
        let other = |what: &'static str| StoreError::OtherBase { path: path.clone().into(), what };
        if row.identity.size != identity.size {
            return Err(other("size"));
        }
        if differs && !is_unsafe {
            return Err(other("contents"));
        }
        let images = self.view()?.images_on(row).into_iter().cloned().collect();
        let change = self.decide(|view, _| catalog::rebase(view, name, kind, path.clone(), identity))?;
        self.commit(&change)?;
        Ok(Rebased { path, images, differs })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::base::look_at_base;
    use crate::store::map_files::MapFiles;

    /// S4: what images stand on is the same bytes, or somebody has asked for others.
    #[test]
    fn a_base_is_followed_to_where_it_is() {
        let house = tempfile::tempdir().unwrap();
        let file = |name: &str, byte: u8, length: usize| {
            std::fs::write(house.path().join(name), vec![byte; length]).unwrap();
            look_at_base(&house.path().join(name)).unwrap()
        };
        let mut store = OpenStore::init(&house.path().join("store"), MapFiles).unwrap();
        let (vm, other): (StoreName, StoreName) = ("vm".parse().unwrap(), "other".parse().unwrap());
        store.create_on_base(&vm, None, file("golden", 1, 10_000)).unwrap();
        store.snapshot(vec!["vm@a".parse().unwrap()]).unwrap();
        store.clone_images("vm@a".parse().unwrap(), std::slice::from_ref(&other)).unwrap();
        let longer = store.rebase(&vm, file("longer", 1, 10_001), true).unwrap_err();
        assert!(longer.is_refusal() && longer.to_string().contains("size"), "{longer}");
        let differs = store.rebase(&vm, file("differs", 2, 10_000), false).unwrap_err().to_string();
        assert!(differs.contains("contents") && differs.contains("--unsafe"), "{differs}");
        std::fs::remove_file(house.path().join("golden")).unwrap();
        let base = store.files(&"vm".parse().unwrap()).unwrap().base.unwrap();
        assert!(store.unchanged_base(base.id).is_err());

        let rebased = store.rebase(&other, file("moved", 1, 10_000), false).unwrap();
        assert_eq!((rebased.images, rebased.differs), (vec![other, vm.clone()], false));
        assert!(Path::new(&rebased.path).ends_with("moved"));
        store.files(&"vm@a".parse().unwrap()).unwrap();
        assert_eq!(store.check().unwrap(), Vec::<String>::new());
        assert!(store.rebase(&vm, file("differs", 2, 10_000), true).unwrap().differs);

        let alone = "alone".parse().unwrap();
        store.create_empty(&alone, 512).unwrap();
        let none = store.rebase(&alone, file("moved", 1, 10_000), false).unwrap_err();
        assert!(none.to_string().contains("stands on no base"), "{none}");
    }
}
