//! The object store that an address means.

use std::sync::Arc;

#[cfg(feature = "tier")]
use super::bucket::RemoteTries;
use super::client::TierClient;
use super::directory::DirectoryObjects;
use super::objects::Objects;
#[cfg(feature = "tier")]
use super::remote::RemoteObjects;
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
            Self::Bucket(place) => Ok(Arc::new(RemoteObjects::new(place, RemoteTries::Few)?)),
            #[cfg(not(feature = "tier"))]
            Self::Bucket(_) => Err(TierUriError::NotBuilt),
        }
    }

    /// The same for threads that wait for its answers, and ask again themselves.
    ///
    /// # Errors
    /// What was given does not fit; no thread.
    pub fn client(&self) -> Result<TierClient, TierUriError> {
        let objects: Arc<dyn Objects> = match self {
            #[cfg(feature = "tier")]
            Self::Bucket(place) => Arc::new(RemoteObjects::new(place, RemoteTries::One)?),
            other => other.objects()?,
        };
        TierClient::start(objects).map_err(|error| TierUriError::Setup(format!("no thread for it: {error}")))
    }
}
