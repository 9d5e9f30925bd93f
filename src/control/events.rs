//! What happens to a server while it runs, for those who follow it.
//!
//! The latest events stand in a ring, each with a number. Whoever follows has a place of its own in it, so a
//! reader that is slow costs nothing: it loses events, and is told how many.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};

/// Events that are kept for those who come back.
const KEPT: usize = 1024;
/// Bytes of them: names of exports may be long.
const KEPT_BYTES: usize = 1 << 20;
/// Those who follow at the same time.
const FOLLOWERS: usize = 8;

/// What happened. The names are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum EventKind {
    ExportAdded,
    ExportChanged,
    ExportRemoved,
    ExportResized,
    TenantChanged,
    ConnectionEnded,
    StoreChanged,
    Reloaded,
    ShardFailed,
    HandoverBegun,
    Stopping,
}

impl EventKind {
    /// All of them, with what their data say beside `unix_ms`.
    pub(in crate::control) const ALL: [(Self, &'static [&'static str]); 11] = [
        (Self::ExportAdded, &["export", "source", "size_bytes"]),
        (Self::ExportChanged, &["export"]),
        (Self::ExportRemoved, &["export"]),
        (Self::ExportResized, &["export", "size_bytes"]),
        (Self::TenantChanged, &["tenant"]),
        (Self::ConnectionEnded, &["connection"]),
        (Self::StoreChanged, &["store", "verb"]),
        (Self::Reloaded, &["result", "tls_renewed", "sessions_ended"]),
        (Self::ShardFailed, &["shard"]),
        (Self::HandoverBegun, &[]),
        (Self::Stopping, &[]),
    ];

    pub(in crate::control) const fn name(self) -> &'static str {
        match self {
            Self::ExportAdded => "export_added",
            Self::ExportChanged => "export_changed",
            Self::ExportRemoved => "export_removed",
            Self::ExportResized => "export_resized",
            Self::TenantChanged => "tenant_changed",
            Self::ConnectionEnded => "connection_ended",
            Self::StoreChanged => "store_changed",
            Self::Reloaded => "reloaded",
            Self::ShardFailed => "shard_failed",
            Self::HandoverBegun => "handover_begun",
            Self::Stopping => "stopping",
        }
    }
}

/// An event that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) struct KeptEvent {
    pub(in crate::control) number: u64,
    pub(in crate::control) kind: EventKind,
    /// A JSON object, in one line.
    pub(in crate::control) data: Rc<str>,
}

/// What a follower has not had: how many are gone, and the first of those that are there.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::control) struct EventBatch {
    pub(in crate::control) lost: u64,
    pub(in crate::control) events: Vec<KeptEvent>,
}

/// The latest events.
#[derive(Debug, Default)]
struct EventRing {
    kept: VecDeque<KeptEvent>,
    bytes: usize,
    /// How many there were.
    newest: u64,
}

impl EventRing {
    fn push(&mut self, kind: EventKind, data: Rc<str>) {
        self.newest += 1;
        self.bytes += data.len();
        self.kept.push_back(KeptEvent { number: self.newest, kind, data });
        while self.kept.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.kept.pop_front() else { return };
            self.bytes -= oldest.data.len();
        }
    }

    /// What came behind a number, up to so many bytes, but one event at least.
    fn behind(&self, number: u64, bytes: usize) -> EventBatch {
        let first = self.kept.front().map_or(self.newest + 1, |event| event.number);
        let from = first.max(number.saturating_add(1));
        let mut room = bytes;
        let fits = |event: &&KeptEvent| {
            let is_first = event.number == from;
            let fits = is_first || event.data.len() <= room;
            room = room.saturating_sub(event.data.len());
            fits
        };
        let skipped = usize::try_from(from - first).unwrap_or(usize::MAX);
        let events = self.kept.iter().skip(skipped).take_while(fits).cloned().collect();
        EventBatch { lost: from.saturating_sub(number.saturating_add(1)), events }
    }
}

/// All that happens, and who follows.
#[derive(Debug)]
pub(in crate::control) struct Events {
    /// Tells the numbers of this process from those of another one.
    epoch: u64,
    ring: RefCell<EventRing>,
    newest: watch::Sender<u64>,
    followers: Cell<usize>,
    /// The last follower has gone.
    deserted: Notify,
    /// No event comes any more.
    ended: Cell<bool>,
}

impl Default for Events {
    fn default() -> Self {
        let (ring, newest, deserted) = (RefCell::default(), watch::Sender::new(0), Notify::new());
        Self { epoch: unix_ms(), ring, newest, followers: Cell::new(0), deserted, ended: Cell::new(false) }
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

impl Events {
    /// Tells all who follow; `data` is an object.
    pub(in crate::control) fn tell(&self, kind: EventKind, data: Value) {
        let mut all = Map::from_iter([("unix_ms".to_owned(), unix_ms().into())]);
        if let Value::Object(data) = data {
            all.extend(data);
        }
        self.ring.borrow_mut().push(kind, Value::Object(all).to_string().into());
        self.ended.set(self.ended.get() || kind == EventKind::Stopping);
        self.newest.send_replace(self.newest());
    }

    pub(super) fn newest(&self) -> u64 {
        self.ring.borrow().newest
    }

    pub(super) fn behind(&self, number: u64, bytes: usize) -> EventBatch {
        self.ring.borrow().behind(number, bytes)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// An event's id, which no event of another process has.
    pub(super) fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.epoch)
    }

    /// The number of an id; `None` if it is none of this process.
    pub(super) fn number(&self, id: &str) -> Option<u64> {
        let (epoch, number) = id.split_once('-')?;
        let number = number.parse().ok().filter(|_| epoch.parse() == Ok(self.epoch))?;
        (number <= self.newest()).then_some(number)
    }

    /// Waits until nobody follows.
    pub(super) async fn deserted(&self) {
        while self.followers.get() > 0 {
            self.deserted.notified().await;
        }
    }

    /// One more follower, unless there are too many.
    pub(super) fn follow(self: &Rc<Self>) -> Option<FollowerPlace> {
        if self.followers.get() == FOLLOWERS {
            return None;
        }
        self.followers.set(self.followers.get() + 1);
        Some(FollowerPlace(Rc::clone(self)))
    }
}

/// A place among those who follow.
#[derive(Debug)]
pub(in crate::control) struct FollowerPlace(pub(super) Rc<Events>);

impl Drop for FollowerPlace {
    fn drop(&mut self) {
        self.0.followers.set(self.0.followers.get() - 1);
        if self.0.followers.get() == 0 {
            self.0.deserted.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(batch: &EventBatch) -> Vec<u64> {
        batch.events.iter().map(|event| event.number).collect()
    }

    #[test]
    fn a_slow_reader_loses_the_oldest_and_knows_how_many() {
        let mut ring = EventRing::default();
        assert_eq!(ring.behind(0, 100), EventBatch { lost: 0, events: Vec::new() });
        for _ in 0..KEPT + 10 {
            ring.push(EventKind::ExportAdded, "x".into());
        }
        let all = ring.behind(0, usize::MAX);
        assert_eq!((all.lost, all.events.len(), all.events[0].number), (10, KEPT, 11));
        assert_eq!(numbers(&ring.behind(12, 3)), [13, 14, 15], "as many as fit");
        assert_eq!(numbers(&ring.behind(12, 0)), [13], "one at least");
        assert_eq!(ring.behind(ring.newest, 100).events, []);
        let long: Rc<str> = "y".repeat(KEPT_BYTES / 2).into();
        for _ in 0..3 {
            ring.push(EventKind::Reloaded, Rc::clone(&long));
        }
        assert_eq!(ring.kept.len(), 2, "bytes are bounded too");
        ring.push(EventKind::Reloaded, "z".repeat(KEPT_BYTES + 1).into());
        assert_eq!(ring.behind(0, 100), EventBatch { lost: ring.newest, events: Vec::new() });
    }

    proptest! {
        /// Read in batches of any size, between pushes: each event once and in order, or counted as lost.
        #[test]
        fn each_event_comes_once_or_is_counted(steps in prop::collection::vec((0_u64..600, 0_usize..4000), 1..40)) {
            let (mut ring, mut read, mut lost, mut had) = (EventRing::default(), 0, 0, 0);
            for (more, bytes) in steps {
                (0..more).for_each(|_| ring.push(EventKind::ExportChanged, "12345678".into()));
                let batch = ring.behind(read, bytes);
                lost += batch.lost;
                for event in &batch.events {
                    prop_assert_eq!(event.number, lost + had + 1);
                    had += 1;
                }
                read = lost + had;
                prop_assert!(read <= ring.newest);
            }
        }
    }

    #[test]
    fn ids_of_another_process_are_none() {
        let events = Events::default();
        events.tell(EventKind::Stopping, Value::Null);
        assert_eq!(events.number(&events.id(1)), Some(1));
        for id in ["", "1", "-1", "0-1", "x-1", &format!("{}-x", events.epoch), &events.id(2)] {
            assert_eq!(events.number(id), None, "{id}");
        }
        assert!(events.has_ended());
    }

    #[test]
    fn kinds_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = EventKind::ALL.map(|(kind, _)| kind.name()).into();
        assert_eq!(names.len(), EventKind::ALL.len());
    }
}
