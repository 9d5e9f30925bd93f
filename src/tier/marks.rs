//! How far packs are on their way to deletion.

use super::change::{TierChange, change};
use super::error::TierError;
use super::keys::PackKey;
use super::objects::Objects;
use super::records::{MarkState, TrashMark};

/// Takes a pack off the way to deletion; false if it is too late.
pub(super) async fn rescue(objects: &dyn Objects, pack: &PackKey) -> Result<bool, TierError> {
    let since_s = objects.now_s();
    let decide = |there: Option<TrashMark>| {
        Ok(match there.map(|mark| mark.state) {
            None | Some(MarkState::Rescued) => TierChange::Done(true),
            Some(MarkState::Deleting) => TierChange::Done(false),
            Some(MarkState::Marked) => {
                TierChange::Put(TrashMark { state: MarkState::Rescued, since_s, is_seen: false }, true)
            }
        })
    };
    Ok(change(objects, &pack.mark(), decide).await?.done())
}

/// The first phase: marks a pack that nothing needs. Whether it is marked now and was not before.
pub(super) async fn mark(objects: &dyn Objects, pack: &PackKey) -> Result<bool, TierError> {
    let since_s = objects.now_s();
    let decide = |there: Option<TrashMark>| {
        Ok(match there.map(|mark| mark.state) {
            Some(MarkState::Marked | MarkState::Deleting) => TierChange::Done(false),
            None | Some(MarkState::Rescued) => {
                TierChange::Put(TrashMark { state: MarkState::Marked, since_s, is_seen: false }, true)
            }
        })
    };
    Ok(change(objects, &pack.mark(), decide).await?.done())
}

/// The grace time of a mark begins: it was there before this clock was looked at.
pub(super) async fn see(objects: &dyn Objects, pack: &PackKey) -> Result<(), TierError> {
    let decide = |there: Option<TrashMark>| {
        let since_s = objects.now_s();
        Ok(match there {
            Some(TrashMark { state: MarkState::Marked, is_seen: false, .. }) => {
                TierChange::Put(TrashMark { state: MarkState::Marked, since_s, is_seen: true }, ())
            }
            _ => TierChange::Done(()),
        })
    };
    change(objects, &pack.mark(), decide).await.map(|changed| changed.done())
}

/// The second phase: nobody may need the pack any more. False if somebody does, or it was marked anew.
pub(super) async fn condemn(
    objects: &dyn Objects,
    pack: &PackKey,
    seen: TrashMark,
) -> Result<bool, TierError> {
    let since_s = objects.now_s();
    let decide = |there: Option<TrashMark>| {
        Ok(match there {
            Some(TrashMark { state: MarkState::Deleting, .. }) => TierChange::Done(true),
            Some(mark) if mark == seen => {
                TierChange::Put(TrashMark { state: MarkState::Deleting, since_s, is_seen: true }, true)
            }
            _ => TierChange::Done(false),
        })
    };
    Ok(change(objects, &pack.mark(), decide).await?.done())
}
