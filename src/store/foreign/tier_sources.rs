//! Tiers by their addresses, and each pack from its own.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::bucket_source::BucketSource;
use super::directory_source::DirectorySource;
use super::source::{RangeSource, SourceError, SourcePack};
use crate::tier::uri::{TierUri, is_of_bucket};

/// How long a start waits for the first answers.
const MOMENT: Duration = Duration::from_secs(2);

/// Sources of buckets that are open. A confined process cannot open one: a store that comes back to it goes
/// on with those that it had.
static BUCKETS: Mutex<BTreeMap<String, Weak<BucketSource>>> = Mutex::new(BTreeMap::new());

/// Whether a tier is asked over the network.
pub(crate) fn is_of_network(address: &str) -> bool {
    is_of_bucket(address)
}

fn bucket(uri: TierUri) -> Arc<BucketSource> {
    let mut open = BUCKETS.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|_, source| source.strong_count() > 0);
    let address = uri.to_string();
    if let Some(source) = open.get(&address).and_then(Weak::upgrade) {
        return source;
    }
    let source = Arc::new(BucketSource::new(uri));
    open.insert(address, Arc::downgrade(&source));
    source
}

/// Opens the tier at an address: a bucket, as `s3://BUCKET/PREFIX`, or `file:///DIRECTORY`. Nothing is read
/// yet.
///
/// # Errors
/// A sentence.
pub(crate) fn open_source(address: &str) -> Result<Arc<dyn RangeSource>, String> {
    if is_of_network(address) {
        let uri = address.parse::<TierUri>().map_err(|error| format!("{address}: {error}"))?;
        return Ok(bucket(uri));
    }
    match address.strip_prefix("file://").map(Path::new) {
        Some(directory) if directory.is_absolute() => Ok(Arc::new(DirectorySource::new(directory))),
        _ => Err(format!(
            "{address} is no address of a tier: write s3://BUCKET/PREFIX, or the whole path of a directory, as in \
             file:///srv/tier"
        )),
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
    /// One that does not answer is told of in the log. All are asked beside each other, and not waited for
    /// longer than a moment: an answer that comes later makes no difference, and a start waits for this.
    fn look(&self) -> Result<(), SourceError> {
        let (told, ends) = std::sync::mpsc::channel();
        for (tier, source) in &self.by_tier {
            let (tier, source, told) = (*tier, Arc::clone(source), told.clone());
            let look = move || {
                if let Err(error) = source.look() {
                    tracing::warn!(%tier, %error, "what is not here of images of a tier cannot be read for now");
                }
                let _nobody_waits_any_more = told.send(());
            };
            let thread = std::thread::Builder::new().name("ringnbd-look".to_owned());
            if let Err(error) = thread.spawn(look) {
                tracing::warn!(%tier, %error, "a tier is not asked before it is needed");
            }
        }
        drop(told);
        let deadline = Instant::now() + MOMENT;
        // They have all ended when nobody is left to tell it.
        while ends.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
        Ok(())
    }

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
