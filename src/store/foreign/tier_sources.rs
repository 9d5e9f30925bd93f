//! Tiers by their addresses, and each pack from its own.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::directory_source::DirectorySource;
use super::source::{RangeSource, SourceError, SourcePack};

/// Opens the tier at an address, `file:///DIRECTORY`. Nothing is read yet.
///
/// # Errors
/// A sentence.
pub(crate) fn open_source(address: &str) -> Result<Arc<dyn RangeSource>, String> {
    match address.strip_prefix("file://").map(Path::new) {
        Some(directory) if directory.is_absolute() => Ok(Arc::new(DirectorySource::new(directory))),
        _ => Err(format!("{address} is no address of a tier: write its whole path, as in file:///srv/tier")),
    }
}

/// All tiers that a store has packs of.
#[derive(Default)]
pub(crate) struct TierSources {
    by_tier: BTreeMap<Uuid, Arc<dyn RangeSource>>,
}

impl fmt::Debug for TierSources {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.by_tier.keys()).finish()
    }
}

impl TierSources {
    /// Opens tiers; one that cannot be is told of in the log, and by each read of it.
    pub(crate) fn open(addresses: &BTreeMap<Uuid, String>) -> Self {
        let mut by_tier = BTreeMap::new();
        for (tier, address) in addresses {
            match open_source(address) {
                Ok(source) => {
                    by_tier.insert(*tier, source);
                }
                Err(why) => tracing::error!(%tier, "a tier cannot be opened: {why}"),
            }
        }
        Self { by_tier }
    }
}

impl RangeSource for TierSources {
    fn read_object(&self, key: &str) -> Result<Vec<u8>, SourceError> {
        Err(SourceError::Missing(key.to_owned()))
    }

    fn write_object(&self, key: &str, _bytes: &[u8]) -> Result<(), SourceError> {
        Err(SourceError::Missing(key.to_owned()))
    }

    fn read_range(&self, pack: &SourcePack, range: Range<u64>) -> Result<Vec<u8>, SourceError> {
        let unknown =
            || SourceError::Unreachable(format!("the store does not know where the tier {} is", pack.tier));
        self.by_tier.get(&pack.tier).ok_or_else(unknown)?.read_range(pack, range)
    }
}
