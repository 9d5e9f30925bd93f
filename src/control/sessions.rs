//! The sessions that go on, so that some can be ended: those that have lasted too long, and those whose
//! clients would be refused now.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::TlsProof;
use crate::backend::ExportId;
use crate::identity::PeerIdentity;
use crate::nbd::session::Session;

/// Lives as long as a session, on whatever thread.
#[derive(Debug, Clone)]
pub(super) struct SessionMark(Arc<CountedSession>);

/// Counts a session while it is there.
#[derive(Debug)]
struct CountedSession(Arc<SessionCount>);

/// Sessions, counted where they come and where they go.
#[derive(Debug, Default)]
struct SessionCount {
    now: AtomicUsize,
    /// The last one is gone.
    none: Notify,
}

impl Drop for CountedSession {
    fn drop(&mut self) {
        if self.0.now.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_one();
        }
    }
}

/// A session of a shard.
#[derive(Debug)]
pub(super) struct RunningSession {
    pub(super) shard: usize,
    pub(super) id: ExportId,
    pub(super) may_write: bool,
    /// The size that a client was told which wants its session to end when there is more.
    pub(super) ends_beyond: Option<u64>,
    pub(super) peer: PeerIdentity,
    /// With TLS: what its client was believed for.
    pub(super) proof: Option<TlsProof>,
}

/// The size beyond which a session ends, if its client wants that.
pub(super) fn ends_beyond(session: &Session) -> Option<u64> {
    session.ends_on_growth().then_some(session.size)
}

/// A session, and when it ends.
#[derive(Debug)]
pub(super) struct KnownSession {
    pub(super) running: RunningSession,
    pub(super) end: Option<Instant>,
    /// Its end was counted.
    pub(super) is_counted: Cell<bool>,
    alive: Weak<CountedSession>,
}

/// By their numbers. Those that are gone are dropped now and then, so there are at most twice as many as
/// there are connections.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    pub(super) known: RefCell<HashMap<u64, KnownSession>>,
    /// Look for those that are gone when there are so many.
    sweep_at: Cell<usize>,
    /// How often they were judged again.
    pub(super) enforced: Cell<u64>,
    count: Arc<SessionCount>,
}

/// As many are not worth a look.
const FEW: usize = 64;

impl Sessions {
    /// A mark for a session that is about to begin.
    pub(super) fn mark(&self) -> SessionMark {
        self.count.now.fetch_add(1, Ordering::AcqRel);
        SessionMark(Arc::new(CountedSession(Arc::clone(&self.count))))
    }

    /// Waits until a session that was there is gone and no other is left.
    pub(super) async fn last_is_gone(&self) {
        self.count.none.notified().await;
    }

    /// Whether there is one.
    pub(super) fn is_any(&self) -> bool {
        self.count.now.load(Ordering::Acquire) > 0
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
    pub(super) fn pick(&self, is_one: impl Fn(&KnownSession) -> bool) -> HashMap<usize, Vec<u64>> {
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
    pub(super) fn count_new(&self, numbers: &[u64]) -> usize {
        let known = self.known.borrow();
        let of_it = numbers.iter().filter_map(|number| known.get(number));
        of_it.filter(|session| !session.is_counted.replace(true)).count()
    }

    /// How many go on that `is_one` picks.
    pub(super) fn count(&self, is_one: impl Fn(&RunningSession) -> bool) -> usize {
        let known = self.known.borrow();
        let alive = known.values().filter(|session| session.alive.strong_count() > 0);
        alive.filter(|session| is_one(&session.running)).count()
    }

    pub(super) fn is_there(&self, number: u64) -> bool {
        self.known.borrow().get(&number).is_some_and(|session| session.alive.strong_count() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(shard: usize) -> RunningSession {
        let id = ExportId { index: 0, generation: 0 };
        let (may_write, ends_beyond, peer, proof) = (true, None, PeerIdentity::default(), None);
        RunningSession { shard, id, may_write, ends_beyond, peer, proof }
    }

    #[test]
    fn those_that_are_gone_are_forgotten() {
        let sessions = Sessions::default();
        let mut marks = Vec::new();
        for number in 0..10_000 {
            let mark = sessions.mark();
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
        assert!(sessions.is_any());
        drop(marks);
        assert!(!sessions.is_any());
        assert!(!sessions.is_there(9_900) && sessions.pick(|_| true).is_empty());
    }
}
