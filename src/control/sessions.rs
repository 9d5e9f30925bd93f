//! The sessions that go on, so that some can be ended: those that have lasted too long, and those whose
//! clients would be refused now.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::TlsProof;
use super::plane::Plane;
use crate::backend::ExportId;
use crate::identity::PeerIdentity;
use crate::rights::Asker;
use crate::shard::Dismissal;

/// Sessions that are looked at before other tasks have their turn.
const AT_ONCE: usize = 64;
/// Between two times that a shard is told to end sessions: one that waited for its device was not found.
const PAUSE: Duration = Duration::from_millis(200);

/// Lives as long as a session, on whatever thread.
#[derive(Debug, Clone)]
pub(super) struct SessionMark(Arc<()>);

/// A session of a shard.
#[derive(Debug)]
pub(super) struct RunningSession {
    pub(super) shard: usize,
    pub(super) id: ExportId,
    pub(super) may_write: bool,
    pub(super) peer: PeerIdentity,
    /// With TLS: what its client was believed for.
    pub(super) proof: Option<TlsProof>,
}

/// A session, and when it ends.
#[derive(Debug)]
struct KnownSession {
    running: RunningSession,
    end: Option<Instant>,
    /// Its end was counted.
    is_counted: Cell<bool>,
    alive: Weak<()>,
}

/// By their numbers. Those that are gone are dropped now and then, so there are at most twice as many as
/// there are connections.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    known: RefCell<HashMap<u64, KnownSession>>,
    /// Look for those that are gone when there are so many.
    sweep_at: Cell<usize>,
    /// How often they were judged again.
    enforced: Cell<u64>,
}

/// As many are not worth a look.
const FEW: usize = 64;

impl Sessions {
    /// A mark for a session that is about to begin.
    pub(super) fn mark() -> SessionMark {
        SessionMark(Arc::new(()))
    }

    /// A session has begun. `longest`: how long it may go on.
    pub(super) fn add(
        &self,
        number: u64,
        mark: &SessionMark,
        running: RunningSession,
        longest: Option<Duration>,
    ) {
        let end = longest.and_then(|longest| Instant::now().checked_add(longest));
        let mut known = self.known.borrow_mut();
        if known.len() >= self.sweep_at.get().max(FEW) {
            known.retain(|_, session| session.alive.strong_count() > 0);
            self.sweep_at.set(2 * known.len());
        }
        let (is_counted, alive) = (Cell::new(false), Arc::downgrade(&mark.0));
        known.insert(number, KnownSession { running, end, is_counted, alive });
    }

    /// Forgets those that are gone, and gives the numbers of all others that `is_one` picks, by shard.
    fn pick(&self, is_one: impl Fn(&KnownSession) -> bool) -> HashMap<usize, Vec<u64>> {
        let mut known = self.known.borrow_mut();
        known.retain(|_, session| session.alive.strong_count() > 0);
        let mut picked = HashMap::<usize, Vec<u64>>::new();
        for (number, session) in known.iter().filter(|(_, session)| is_one(session)) {
            picked.entry(session.running.shard).or_default().push(*number);
        }
        picked.values_mut().for_each(|numbers| numbers.sort_unstable());
        picked
    }

    /// How often sessions were judged again so far: a handshake that began before is judged at its end.
    pub(super) fn enforced(&self) -> u64 {
        self.enforced.get()
    }

    /// Counts the ends of sessions, each once.
    fn count_new(&self, numbers: &[u64]) -> usize {
        let known = self.known.borrow();
        let of_it = numbers.iter().filter_map(|number| known.get(number));
        of_it.filter(|session| !session.is_counted.replace(true)).count()
    }

    fn is_there(&self, number: u64) -> bool {
        self.known.borrow().get(&number).is_some_and(|session| session.alive.strong_count() > 0)
    }
}

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
        tokio_uring::spawn(see_off(Rc::clone(plane), refused));
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

/// Tells the shards until all of these sessions are gone, or as long as a shutdown may take.
async fn see_off(plane: Rc<Plane>, numbers: Vec<u64>) {
    let deadline = Instant::now() + plane.limits.shutdown_timeout;
    loop {
        let left = |number: &u64| numbers.binary_search(number).is_ok();
        let by_shard = {
            let mut by_shard = plane.sessions.pick(|_| true);
            by_shard.values_mut().for_each(|of_shard| of_shard.retain(left));
            by_shard
        };
        for (shard, of_shard) in by_shard {
            plane.dismiss(shard, of_shard, Dismissal::Unwelcome);
        }
        tokio::time::sleep(PAUSE).await;
        let late = numbers.iter().filter(|number| plane.sessions.is_there(**number)).count();
        if late == 0 || plane.is_stopping() {
            return;
        }
        if Instant::now() >= deadline {
            tracing::warn!(
                sessions = late,
                "sessions that were refused have not ended yet: requests of theirs are still under way"
            );
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(shard: usize) -> RunningSession {
        let id = ExportId { index: 0, generation: 0 };
        RunningSession { shard, id, may_write: true, peer: PeerIdentity::default(), proof: None }
    }

    #[test]
    fn those_that_are_gone_are_forgotten() {
        let sessions = Sessions::default();
        let mut marks = Vec::new();
        for number in 0..10_000 {
            let mark = Sessions::mark();
            sessions.add(number, &mark, session(number as usize % 2), Some(Duration::from_secs(number)));
            // Every hundredth stays.
            marks.extend((number % 100 == 0).then_some(mark));
        }
        assert!(sessions.known.borrow().len() < 2 * marks.len() + FEW);
        let due = Instant::now() + Duration::from_secs(250);
        let picked = sessions.pick(|session| session.end.is_some_and(|end| end <= due));
        assert_eq!(picked, HashMap::from([(0, vec![0, 100, 200])]));
        assert_eq!(sessions.known.borrow().len(), marks.len());
        assert!(sessions.is_there(9_900) && !sessions.is_there(9_999));
        drop(marks);
        assert!(!sessions.is_there(9_900) && sessions.pick(|_| true).is_empty());
    }
}
