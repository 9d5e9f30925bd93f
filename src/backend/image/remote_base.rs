//! Bases that are exports of other servers.

use std::fmt::Display;
use std::sync::Arc;

use super::layer_files::OpenBase;
use crate::backend::open_error::OpenError;
use crate::backend::remote::RemoteStore;
use crate::block::{BlockSizes, DeviceFacts};
use crate::config::RemoteUri;
use crate::store::base::FoundBase;
use crate::store::error::StoreError;

/// Asks another server for an export that is to be a base: `nbd://` or `nbd+unix://`, with parameters as of
/// an export. A socket is relative to the current directory.
///
/// # Errors
/// It cannot be asked, or cannot be a base.
pub fn look_at_remote_base(uri: &str) -> Result<FoundBase, StoreError> {
    let open = || {
        let wrong = |error: &dyn Display| OpenError::BaseUri(uri.to_owned(), error.to_string());
        let mut remote = RemoteUri::parse(uri).map_err(|error| wrong(&error))?;
        remote.make_relative_to(&std::env::current_dir().map_err(|error| wrong(&error))?);
        let (base, found) = open_remote_base(&remote)?;
        check_block(base.minimum_block()).map(|()| found)
    };
    open().map_err(|error| StoreError::NoRemoteBase(error.to_string()))
}

/// An export of another server that is to be a base, and what it is known by.
pub(super) fn open_remote_base(remote: &RemoteUri) -> Result<(OpenBase, FoundBase), OpenError> {
    let (store, facts, found) = RemoteStore::open_base(remote)?;
    Ok((OpenBase::Remote(Arc::new(store), facts.size), found))
}

/// The facts of an image above a base that is read in blocks of so many bytes: parts of what clients read are
/// read of it, so its unit is theirs.
pub(super) fn facts_above(block: u32, mut facts: DeviceFacts) -> Result<DeviceFacts, OpenError> {
    check_block(block)?;
    facts.block_sizes.minimum = facts.block_sizes.minimum.max(block);
    Ok(facts)
}

fn check_block(block: u32) -> Result<(), OpenError> {
    match block > BlockSizes::default().preferred {
        true => Err(OpenError::Image("is on another server's export whose blocks are larger than 4 KiB")),
        false => Ok(()),
    }
}
