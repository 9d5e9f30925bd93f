//! The object store that an address means.

use std::sync::Arc;

use super::directory::DirectoryObjects;
use super::objects::Objects;
use super::uri::{TierUri, TierUriError};

impl TierUri {
    /// The object store, which is not asked anything yet.
    ///
    /// # Errors
    /// What was given does not fit.
    pub fn objects(&self) -> Result<Arc<dyn Objects>, TierUriError> {
        match self {
            Self::Directory(path) => Ok(Arc::new(DirectoryObjects::new(path)?)),
            #[cfg(feature = "tier")]
            Self::S3(place) => Ok(Arc::new(super::remote::RemoteObjects::s3(place)?)),
            #[cfg(not(feature = "tier"))]
            Self::S3(_) => Err(TierUriError::NotBuilt),
        }
    }
}
