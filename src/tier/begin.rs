//! A tier is made, or found.

use uuid::Uuid;

use super::change::{TierChange, change, read};
use super::error::TierError;
use super::keys;
use super::objects::Objects;
use super::records::{TierHeader, TierSpace};

/// Makes a tier, unless there is one that names chunks in the same way.
///
/// # Errors
/// The one that is there names them in another way; the object store's.
pub async fn begin(objects: &dyn Objects, space: &TierSpace, uuid: Uuid) -> Result<TierHeader, TierError> {
    let created_s = objects.now_s();
    let decide = |there: Option<TierHeader>| match there {
        Some(header) if header.space == *space => Ok(TierChange::Done(header)),
        Some(header) => {
            Err(TierError::OtherSpace { there: header.space.chunk_bytes, here: space.chunk_bytes })
        }
        None => {
            let new = TierHeader { uuid, space: space.clone(), created_s };
            Ok(TierChange::Put(new.clone(), new))
        }
    };
    Ok(change(objects, keys::TIER, decide).await?.done())
}

/// The tier that is there.
///
/// # Errors
/// There is none; the object store's.
pub async fn found(objects: &dyn Objects) -> Result<TierHeader, TierError> {
    read(objects, keys::TIER).await?.ok_or(TierError::NoTier)
}
