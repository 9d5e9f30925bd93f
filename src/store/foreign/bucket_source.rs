//! A tier in a bucket.

use std::ops::Range;
use std::sync::OnceLock;

use super::source::{RangeSource, SourceError, SourcePack};
use crate::tier::keys::TIER;
use crate::tier::uri::TierUri;
use crate::tier::{ObjectError, TierClient};

/// Objects below a prefix of a bucket. Most commands open a store and read nothing of its tiers, so the
/// client is made when something is asked for.
#[derive(Debug)]
pub(super) struct BucketSource {
    at: TierUri,
    client: OnceLock<Result<TierClient, String>>,
}

impl BucketSource {
    pub(super) const fn new(at: TierUri) -> Self {
        Self { at, client: OnceLock::new() }
    }

    fn client(&self) -> Result<&TierClient, SourceError> {
        let client = self.client.get_or_init(|| self.at.client().map_err(|error| error.to_string()));
        client.as_ref().map_err(|why| SourceError::Unreachable(why.clone()))
    }
}

fn failed(error: ObjectError) -> SourceError {
    match error {
        ObjectError::Missing(key) => SourceError::Missing(key),
        ObjectError::Throttled { key, why } => SourceError::Refused(format!("{key}: {why}")),
        error => SourceError::Unreachable(error.to_string()),
    }
}

impl RangeSource for BucketSource {
    fn look(&self) -> Result<(), SourceError> {
        self.client()?.look(TIER).map_err(failed)
    }

    fn read_object(&self, key: &str) -> Result<Vec<u8>, SourceError> {
        self.client()?.get(key).map_err(failed)
    }

    fn write_object(&self, key: &str, bytes: &[u8]) -> Result<(), SourceError> {
        self.client()?.put(key, bytes.to_vec()).map_err(failed)
    }

    fn read_range(&self, pack: &SourcePack, range: Range<u64>) -> Result<Vec<u8>, SourceError> {
        match self.client()?.get_range(&pack.key(), range).map_err(failed) {
            // A bucket that has no tier at all is another one, or not there for now: it may come back.
            Err(SourceError::Missing(key)) => match self.look() {
                Err(SourceError::Missing(_)) => {
                    Err(SourceError::Unreachable(format!("there is no tier in {}", self.at)))
                }
                _ => Err(SourceError::Missing(key)),
            },
            answer => answer,
        }
    }
}
