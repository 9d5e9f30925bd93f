//! Reads small objects, and changes them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::bug::{TierBug, is_planted};
use super::error::TierError;
use super::objects::{ObjectError, ObjectFuture, ObjectVersion, Objects, PutIf};
use super::records::{READ_AGAIN, TierRecord};
use crate::pause::GrowingPause;

/// How often an object is read again because somebody else has changed it.
const CHANGES: usize = 64;
/// How often something is asked again that may succeed a little later, and the waits between.
const TRIES: u32 = 8;
const WAITS: GrowingPause = GrowingPause::new(Duration::from_millis(200), Duration::from_secs(20));
/// Between two warnings.
const TOLD_EVERY_S: u64 = 10;

/// What is to be done about an object.
pub(super) enum TierChange<R, T> {
    /// Nothing, or it was done.
    Done(T),
    /// It becomes this.
    Put(R, T),
    /// It becomes this if another object is there, which is looked at after this one was read.
    PutIfThere(R, T, String),
}

/// What came of a change.
pub(super) enum TierChanged<T> {
    Done(T),
    /// The other object is not there.
    NotThere,
}

/// Says that the tier does not do what it is asked: at once, because it is asked again for a while, and
/// seldom, because many ask.
fn tell(now_s: u64, error: &ObjectError) {
    static TOLD_S: AtomicU64 = AtomicU64::new(0);
    let told_s = TOLD_S.load(Ordering::Relaxed);
    if now_s.abs_diff(told_s) >= TOLD_EVERY_S {
        TOLD_S.store(now_s, Ordering::Relaxed);
        tracing::warn!(%error, "the tier is asked again");
    }
}

/// Asks again, later and later, as long as that may help.
pub(super) async fn patiently<'a, T>(
    objects: &'a dyn Objects,
    mut ask: impl FnMut() -> ObjectFuture<'a, T>,
) -> Result<T, ObjectError> {
    for attempt in 0.. {
        match ask().await {
            Err(error) if error.is_passing() && attempt + 1 < TRIES => {
                tell(objects.now_s(), &error);
                objects.wait(WAITS.after(attempt)).await?;
            }
            done => return done,
        }
    }
    unreachable!("the last try has a result")
}

/// An object; none if it is not there.
pub(super) async fn read<R: TierRecord>(objects: &dyn Objects, key: &str) -> Result<Option<R>, TierError> {
    Ok(read_version(objects, key).await?.map(|(record, _)| record))
}

async fn read_version<R: TierRecord>(
    objects: &dyn Objects,
    key: &str,
) -> Result<Option<(R, ObjectVersion)>, TierError> {
    let mut damaged = 0;
    loop {
        let found = match patiently(objects, || objects.get(key)).await {
            Ok(found) => found,
            Err(ObjectError::Missing(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match R::decode(&found.bytes) {
            Ok(record) => return Ok(Some((record, found.version))),
            Err(why) if why.may_be_damage() && damaged < READ_AGAIN => {
                tracing::debug!(key, %why, "an object is read again");
                objects.wait(WAITS.after(damaged)).await?;
                damaged += 1;
            }
            Err(why) => return Err(TierError::Record { key: key.to_owned(), why }),
        }
    }
}

/// Whether an object is there.
pub(super) async fn is_there(objects: &dyn Objects, key: &str) -> Result<Option<u64>, TierError> {
    match patiently(objects, || objects.head(key)).await {
        Ok(found) => Ok(Some(found.bytes)),
        Err(ObjectError::Missing(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Changes an object. `decide` is told what there is, and may be asked again: what it wanted may have taken
/// place though nobody was told, which it has to see.
pub(super) async fn change<R: TierRecord, T>(
    objects: &dyn Objects,
    key: &str,
    mut decide: impl FnMut(Option<R>) -> Result<TierChange<R, T>, TierError>,
) -> Result<TierChanged<T>, TierError> {
    let mut failures = 0;
    for _ in 0..CHANGES {
        let (there, when) = match read_version::<R>(objects, key).await? {
            Some((record, version)) => (Some(record), PutIf::Version(version)),
            None => (None, PutIf::Absent),
        };
        let (record, result) = match decide(there)? {
            TierChange::Done(result) => return Ok(TierChanged::Done(result)),
            TierChange::Put(record, result) => (record, result),
            TierChange::PutIfThere(record, result, other) => {
                if is_there(objects, &other).await?.is_none() {
                    return Ok(TierChanged::NotThere);
                }
                (record, result)
            }
        };
        match objects.put(key, record.encode(), when).await {
            Ok(()) => return Ok(TierChanged::Done(result)),
            Err(ObjectError::Precondition(_)) => {}
            Err(error) if is_planted(TierBug::LostAnswerIsFailure) => return Err(error.into()),
            Err(error) if error.is_passing() && failures < TRIES => {
                tell(objects.now_s(), &error);
                objects.wait(WAITS.after(failures)).await?;
                failures += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(TierError::Busy(key.to_owned()))
}

impl<T> TierChanged<T> {
    /// Of a change that looks at no other object.
    pub(super) fn done(self) -> T {
        match self {
            Self::Done(result) => result,
            Self::NotThere => unreachable!("no other object was looked at"),
        }
    }
}
