//! Which tier a store has: the address in its file `tier`. It has no credentials.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::error::StoreError;
use super::push_notes::forget_pushes;

const NAME: &str = "tier";
const NEW: &str = "tier.new";

/// The address of the tier of a store, if it has one.
///
/// # Errors
/// The file's.
pub fn tier_of(store: &Path) -> Result<Option<String>, StoreError> {
    let path = store.join(NAME);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::File { what: "read", path, source }),
    }
}

/// Gives a store a tier, another one, or none.
///
/// # Errors
/// The file's.
pub fn set_tier(store: &Path, address: Option<&str>) -> Result<(), StoreError> {
    let path = store.join(NAME);
    let set = || {
        forget_pushes(store)?;
        if let Some(address) = address {
            let new = store.join(NEW);
            let mut file = fs::File::create(&new)?;
            writeln!(file, "{address}")?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
        } else if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        fs::File::open(store)?.sync_all()
    };
    set().map_err(|source| StoreError::File { what: "write", path: path.clone(), source })
}
