//! Ends sessions: those that have lasted too long, and those whose clients would be refused now.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::plane::Plane;
use super::sessions::{KnownSession, RunningSession};
use crate::rights::Asker;
use crate::shard::Dismissal;

/// Sessions that are looked at before other tasks have their turn.
const AT_ONCE: usize = 64;
/// Between two times that a shard is told to end sessions: one that waited for its device was not found.
const PAUSE: Duration = Duration::from_millis(200);

/// Ends sessions as they become too old, until it is aborted.
pub(super) async fn end_old_sessions(plane: Rc<Plane>, longest: Duration) {
    // Soon enough for the shortest, and no work for the longest.
    let pause = (longest / 16).clamp(Duration::from_millis(50), Duration::from_secs(10));
    loop {
        tokio::time::sleep(pause).await;
        let now = Instant::now();
        let old = plane.sessions.pick(|session| session.end.is_some_and(|end| end <= now));
        for (shard, numbers) in old {
            plane.count_ended(Dismissal::TooOld, plane.sessions.count_new(&numbers));
            // A full mailbox gets it the next time.
            let _later = plane.dismiss(shard, numbers, Dismissal::TooOld);
        }
    }
}

/// Ends the sessions whose clients would be refused now, and gives their number. They end in the background:
/// what has begun is answered.
pub(super) async fn enforce(plane: &Rc<Plane>) -> usize {
    plane.sessions.enforced.set(plane.sessions.enforced.get() + 1);
    // Those that end already may take their time.
    let all = plane.sessions.pick(|session| !session.is_counted.get());
    let all: Vec<u64> = all.into_values().flatten().collect();
    let mut refused = Vec::new();
    for some in all.chunks(AT_ONCE) {
        refused.extend(some.iter().filter(|number| is_refused(plane, **number)));
        tokio::task::yield_now().await;
    }
    refused.sort_unstable();
    end_refused(plane, refused)
}

/// Judges a session again that has just begun.
pub(super) fn enforce_on(plane: &Rc<Plane>, number: u64) {
    let refused = if is_refused(plane, number) { vec![number] } else { Vec::new() };
    end_refused(plane, refused);
}

fn end_refused(plane: &Rc<Plane>, refused: Vec<u64>) -> usize {
    let count = plane.sessions.count_new(&refused);
    plane.count_ended(Dismissal::Unwelcome, count);
    if count > 0 {
        tokio_uring::spawn(see_off(Rc::clone(plane), refused, Dismissal::Unwelcome));
    }
    count
}

/// Whether a session would not come about now, or with fewer rights.
fn is_refused(plane: &Plane, number: u64) -> bool {
    let known = plane.sessions.known.borrow();
    let Some(KnownSession { running, .. }) = known.get(&number) else { return false };
    let RunningSession { id, may_write, peer, proof, .. } = running;
    if let (Some(encryption), Some(identity), Some(proof)) = (&plane.encryption, &peer.tls, proof)
        && !encryption.still_believes(identity, proof)
    {
        tracing::info!(connection = number, %peer, "its certificate or key is not believed any more: it ends");
        return true;
    }
    let catalogue = plane.catalogue();
    // Of an export that was removed the removal decides.
    let Some(entry) = catalogue.at(id.index as usize).filter(|entry| entry.id == *id) else { return false };
    let decision = entry.decide(&Asker::of(peer));
    let is_refused = !decision.may_read || (*may_write && !decision.may_write);
    if is_refused {
        let export = entry.info.name.as_str();
        tracing::info!(connection = number, %peer, export, "it would be refused by the rights of now: it ends");
    }
    is_refused
}

/// Tells the shards until all of these sessions are gone, or as long as a shutdown may take. `numbers`
/// ascend.
pub(super) async fn see_off(plane: Rc<Plane>, numbers: Vec<u64>, why: Dismissal) {
    let deadline = Instant::now() + plane.limits.shutdown_timeout;
    loop {
        let left = |number: &u64| numbers.binary_search(number).is_ok();
        let by_shard = {
            let mut by_shard = plane.sessions.pick(|_| true);
            by_shard.values_mut().for_each(|of_shard| of_shard.retain(left));
            by_shard
        };
        for (shard, of_shard) in by_shard {
            plane.dismiss(shard, of_shard, why);
        }
        tokio::time::sleep(PAUSE).await;
        let late = numbers.iter().filter(|number| plane.sessions.is_there(**number)).count();
        if late == 0 || plane.is_stopping() {
            return;
        }
        if Instant::now() >= deadline {
            tracing::warn!(
                sessions = late,
                ?why,
                "sessions that are to end have not ended yet: requests of theirs are still under way"
            );
            return;
        }
    }
}
