//! An object store of a world. Requests and answers take time and may be lost; what was lost for its sender
//! may still take place, much later; listings are late.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use super::super::bug::{TierBug, is_planted};
use super::super::objects::{
    ObjectError, ObjectFuture, ObjectMeta, ObjectVersion, Objects, PackBytes, PutIf, Sent, TierObject,
};
use super::world::{TierOracle, WorldContents};
use crate::random::Random;

/// A listing is late by less than this.
pub(super) const LAG_MS: u64 = 20_000;
/// A request that nobody waits for any more takes place within this.
const LATE_MS: u64 = 900_000;
/// How long nothing is answered in a world that has an outage.
pub(super) const OUTAGE_MS: u64 = 3_600_000;

/// What was asked.
#[derive(Debug, Clone)]
pub(super) enum ObjectQuestion {
    Get(String),
    Put(String, Vec<u8>, Option<PutIf>),
    Delete(String),
    List(String),
}

#[derive(Debug)]
pub(super) enum ObjectAnswer {
    TierObject(TierObject),
    List(Vec<ObjectMeta>),
    Done,
}

type Answered = Result<ObjectAnswer, ObjectError>;

#[derive(Debug)]
enum WorldEvent {
    /// A request takes place, and is answered after a while if that is said.
    Arrives { question: ObjectQuestion, answer: Option<(u64, u64)> },
    /// An answer comes to who waits for it.
    Answers { ticket: u64, answer: Answered },
}

/// Who waits for an answer.
type WorldHost = usize;

#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    version: u64,
}

pub(super) struct SimulatedStore {
    pub(super) now_ms: u64,
    pub(super) random: Random,
    pub(super) has_faults: bool,
    /// When an outage begins: nothing that is sent then takes place.
    pub(super) out_since_ms: Option<u64>,
    /// Requests that were sent during the outage.
    pub(super) sent_in_vain: u64,
    pub(super) oracle: TierOracle,
    events: BTreeMap<(u64, u64), WorldEvent>,
    objects: BTreeMap<String, Kept>,
    /// Of each key, since when it was there or was not.
    history: BTreeMap<String, Vec<(u64, Option<u64>)>>,
    waiting: BTreeMap<u64, WorldHost>,
    answers: BTreeMap<u64, Answered>,
    numbers: u64,
}

impl SimulatedStore {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            now_ms: 1_000_000,
            random: Random::new(seed),
            has_faults: true,
            out_since_ms: None,
            sent_in_vain: 0,
            oracle: TierOracle::default(),
            events: BTreeMap::new(),
            objects: BTreeMap::new(),
            history: BTreeMap::new(),
            waiting: BTreeMap::new(),
            answers: BTreeMap::new(),
            numbers: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn at(&mut self, after_ms: u64, event: WorldEvent) {
        let number = self.number();
        self.events.insert((self.now_ms + after_ms, number), event);
    }

    pub(super) fn is_out(&self) -> bool {
        self.out_since_ms.is_some_and(|since| (since..since + OUTAGE_MS).contains(&self.now_ms))
    }

    fn delay(&mut self) -> u64 {
        let is_slow = self.has_faults && self.random.chance(0.02);
        if is_slow { self.random.between(1_000, 250_000) } else { self.random.between(1, 60) }
    }

    /// Sends a request, and says under which number its answer comes.
    fn send(&mut self, host: WorldHost, question: ObjectQuestion, key: &str) -> u64 {
        let ticket = self.number();
        self.waiting.insert(ticket, host);
        let (there, back) = (self.delay(), self.delay());
        let key = key.to_owned();
        let unanswered = ObjectError::Unreachable { key: key.clone(), why: "no answer".to_owned() };
        let mut fault = if self.has_faults && self.random.chance(0.08) { self.random.below(4) } else { 9 };
        let patience = self.random.between(1_000, 5_000);
        if self.is_out() {
            (fault, self.sent_in_vain) = (0, self.sent_in_vain + 1);
        }
        match fault {
            0 => self.at(patience, WorldEvent::Answers { ticket, answer: Err(unanswered) }),
            1 => {
                self.at(there.min(patience), WorldEvent::Arrives { question, answer: None });
                self.at(patience, WorldEvent::Answers { ticket, answer: Err(unanswered) });
            }
            2 => {
                let late = patience + self.random.below(LATE_MS);
                self.at(late, WorldEvent::Arrives { question, answer: None });
                self.at(patience, WorldEvent::Answers { ticket, answer: Err(unanswered) });
            }
            3 => {
                let why = "slow down".to_owned();
                self.at(
                    there,
                    WorldEvent::Answers { ticket, answer: Err(ObjectError::Throttled { key, why }) },
                );
            }
            _ => self.at(there, WorldEvent::Arrives { question, answer: Some((ticket, back)) }),
        }
        ticket
    }

    /// The next thing happens. Who may go on now; none if nothing happens any more.
    pub(super) fn step(&mut self) -> Option<Option<WorldHost>> {
        let ((time, _), event) = self.events.pop_first()?;
        self.now_ms = self.now_ms.max(time);
        match event {
            WorldEvent::Arrives { question, answer } => {
                let answered = self.arrives(question);
                if let Some((ticket, back)) = answer {
                    self.at(back, WorldEvent::Answers { ticket, answer: answered });
                }
                Some(None)
            }
            WorldEvent::Answers { ticket, answer } => {
                let host = self.waiting.remove(&ticket);
                if host.is_some() {
                    self.answers.insert(ticket, answer);
                }
                Some(host)
            }
        }
    }

    fn arrives(&mut self, question: ObjectQuestion) -> Answered {
        match question {
            ObjectQuestion::Get(key) => {
                let kept = self.objects.get(&key).ok_or(ObjectError::Missing(key))?;
                let version = ObjectVersion { etag: Some(kept.version.to_string()), version: None };
                Ok(ObjectAnswer::TierObject(TierObject { bytes: kept.bytes.clone(), version }))
            }
            ObjectQuestion::Put(key, bytes, when) => {
                let there = self.objects.get(&key).map(|kept| kept.version.to_string());
                let holds = match when {
                    _ if is_planted(TierBug::ConditionsIgnored) => true,
                    None => true,
                    Some(PutIf::Absent) => there.is_none(),
                    Some(PutIf::Version(version)) => there.is_some() && there == version.etag,
                };
                if !holds {
                    return Err(ObjectError::Precondition(key));
                }
                let before = self.objects.get(&key).map(|kept| kept.bytes.clone());
                let version = self.number();
                self.note(&key, Some(bytes.len() as u64));
                self.objects.insert(key.clone(), Kept { bytes, version });
                let now = contents(&self.objects);
                self.oracle.changed(&now, &key, before.as_deref());
                Ok(ObjectAnswer::Done)
            }
            ObjectQuestion::Delete(key) => {
                self.note(&key, None);
                self.objects.remove(&key);
                let now = contents(&self.objects);
                self.oracle.deleted(&now, &key);
                Ok(ObjectAnswer::Done)
            }
            ObjectQuestion::List(folder) => Ok(ObjectAnswer::List(self.listed(&folder))),
        }
    }

    fn note(&mut self, key: &str, bytes: Option<u64>) {
        self.history.entry(key.to_owned()).or_default().push((self.now_ms, bytes));
    }

    /// Each key as it was a while ago.
    fn listed(&mut self, folder: &str) -> Vec<ObjectMeta> {
        let (now, has_faults) = (self.now_ms, self.has_faults);
        let random = &mut self.random;
        let known = self.history.range(folder.to_owned()..).take_while(|(key, _)| key.starts_with(folder));
        known
            .filter_map(|(key, history)| {
                let lag = if has_faults && random.chance(0.3) { random.below(LAG_MS) } else { 0 };
                let (_, bytes) = history.iter().rev().find(|(since, _)| *since <= now - lag)?;
                Some(ObjectMeta { key: key.clone(), bytes: (*bytes)? })
            })
            .collect()
    }

    /// All objects.
    pub(super) fn contents(&self) -> WorldContents<'_> {
        contents(&self.objects)
    }

    /// A host is killed: nobody waits for its answers any more.
    pub(super) fn forget(&mut self, host: WorldHost) {
        self.waiting.retain(|_, waiting| *waiting != host);
        let waiting: BTreeSet<u64> = self.waiting.keys().copied().collect();
        self.answers.retain(|ticket, _| waiting.contains(ticket));
    }
}

fn contents(objects: &BTreeMap<String, Kept>) -> WorldContents<'_> {
    objects.iter().map(|(key, kept)| (key.as_str(), kept.bytes.as_slice())).collect()
}

/// An object store as one host has it.
#[derive(Clone)]
pub(super) struct SimulatedObjects {
    pub(super) store: Arc<Mutex<SimulatedStore>>,
    pub(super) host: WorldHost,
    /// Seconds by which its clock is wrong.
    pub(super) skew_s: i64,
}

impl SimulatedObjects {
    pub(super) fn locked(&self) -> MutexGuard<'_, SimulatedStore> {
        self.store.lock().unwrap()
    }

    async fn ask(&self, question: ObjectQuestion, key: &str) -> Answered {
        let ticket = self.locked().send(self.host, question, key);
        self.answer(ticket).await
    }

    async fn answer(&self, ticket: u64) -> Answered {
        poll_fn(|_| self.locked().answers.remove(&ticket).map_or(Poll::Pending, Poll::Ready)).await
    }

    async fn object(&self, key: &str) -> Result<TierObject, ObjectError> {
        match self.ask(ObjectQuestion::Get(key.to_owned()), key).await? {
            ObjectAnswer::TierObject(object) => Ok(object),
            other => unreachable!("{other:?}"),
        }
    }
}

impl Objects for SimulatedObjects {
    fn get<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, TierObject> {
        Box::pin(self.object(key))
    }

    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> ObjectFuture<'a, Vec<u8>> {
        Box::pin(async move {
            let object = self.object(key).await?;
            Ok(object.bytes[range.start as usize..range.end as usize].to_vec())
        })
    }

    fn head<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ObjectMeta> {
        Box::pin(async move {
            let object = self.object(key).await?;
            Ok(ObjectMeta { key: key.to_owned(), bytes: object.bytes.len() as u64 })
        })
    }

    fn put<'a>(&'a self, key: &'a str, bytes: Vec<u8>, when: PutIf) -> ObjectFuture<'a, ()> {
        let question = ObjectQuestion::Put(key.to_owned(), bytes, Some(when));
        Box::pin(async move { self.ask(question, key).await.map(drop) })
    }

    fn upload<'a>(
        &'a self,
        key: &'a str,
        from: &'a dyn PackBytes,
        _sent: &'a dyn Sent,
    ) -> ObjectFuture<'a, ()> {
        let mut bytes = vec![0; from.length() as usize];
        from.read(0, &mut bytes).unwrap();
        let question = ObjectQuestion::Put(key.to_owned(), bytes, None);
        Box::pin(async move { self.ask(question, key).await.map(drop) })
    }

    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()> {
        Box::pin(async move { self.ask(ObjectQuestion::Delete(key.to_owned()), key).await.map(drop) })
    }

    fn list<'a>(&'a self, folder: &'a str) -> ObjectFuture<'a, Vec<ObjectMeta>> {
        Box::pin(async move {
            match self.ask(ObjectQuestion::List(folder.to_owned()), folder).await? {
                ObjectAnswer::List(list) => Ok(list),
                other => unreachable!("{other:?}"),
            }
        })
    }

    fn wait<'a>(&'a self, time: Duration) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            let ticket = {
                let mut store = self.locked();
                let ticket = store.number();
                store.waiting.insert(ticket, self.host);
                let answer = WorldEvent::Answers { ticket, answer: Ok(ObjectAnswer::Done) };
                store.at(time.as_millis() as u64, answer);
                ticket
            };
            self.answer(ticket).await.map(drop)
        })
    }

    fn now_s(&self) -> u64 {
        (self.locked().now_ms / 1000).saturating_add_signed(self.skew_s)
    }
}
