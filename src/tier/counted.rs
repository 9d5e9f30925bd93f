//! What is asked of an object store, counted by kind and by outcome.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::objects::{ObjectError, ObjectFuture, ObjectMeta, Objects, PackBytes, PutIf, Sent, TierObject};

/// Requests, as they are told of.
const KINDS: [&str; 6] = ["get", "head", "put", "upload", "delete", "list"];
const OUTCOMES: [&str; 7] = ["ok", "missing", "changed", "throttled", "unreachable", "denied", "failed"];

const GET: usize = 0;
const HEAD: usize = 1;
const PUT: usize = 2;
const UPLOAD: usize = 3;
const DELETE: usize = 4;
const LIST: usize = 5;

/// Since the start, to be read by anybody.
#[derive(Debug, Default)]
pub struct ObjectCounts {
    requests: [[AtomicU64; OUTCOMES.len()]; KINDS.len()],
    retries: AtomicU64,
    uploads: AtomicU64,
    uploaded_bytes: AtomicU64,
}

fn outcome<T>(done: &Result<T, ObjectError>) -> usize {
    match done {
        Ok(_) => 0,
        Err(ObjectError::Missing(_)) => 1,
        Err(ObjectError::Precondition(_)) => 2,
        Err(ObjectError::Throttled { .. }) => 3,
        Err(ObjectError::Unreachable { .. }) => 4,
        Err(ObjectError::Denied { .. } | ObjectError::Skewed { .. }) => 5,
        Err(ObjectError::Other { .. }) => 6,
    }
}

impl ObjectCounts {
    /// Requests of each kind by their outcome, as words.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        KINDS.iter().zip(&self.requests).flat_map(|(kind, counts)| {
            let counts = OUTCOMES.iter().zip(counts);
            counts.map(|(outcome, count)| (*kind, *outcome, count.load(Ordering::Relaxed)))
        })
    }

    /// How often something was waited for to be asked again.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Packs that came as a whole, and their bytes.
    #[must_use]
    pub fn uploads(&self) -> (u64, u64) {
        (self.uploads.load(Ordering::Relaxed), self.uploaded_bytes.load(Ordering::Relaxed))
    }

    fn count<T>(&self, kind: usize, done: &Result<T, ObjectError>) {
        self.requests[kind][outcome(done)].fetch_add(1, Ordering::Relaxed);
    }
}

/// An object store whose requests are counted.
pub struct CountedObjects {
    inner: Arc<dyn Objects>,
    counts: Arc<ObjectCounts>,
}

impl CountedObjects {
    #[must_use]
    pub fn new(inner: Arc<dyn Objects>, counts: Arc<ObjectCounts>) -> Self {
        Self { inner, counts }
    }

    fn counted<'a, T: 'a>(&'a self, kind: usize, request: ObjectFuture<'a, T>) -> ObjectFuture<'a, T> {
        Box::pin(async move {
            let done = request.await;
            self.counts.count(kind, &done);
            done
        })
    }
}

impl Objects for CountedObjects {
    fn get<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, TierObject> {
        self.counted(GET, self.inner.get(key))
    }

    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> ObjectFuture<'a, Vec<u8>> {
        self.counted(GET, self.inner.get_range(key, range))
    }

    fn head<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ObjectMeta> {
        self.counted(HEAD, self.inner.head(key))
    }

    fn put<'a>(&'a self, key: &'a str, bytes: Vec<u8>, when: PutIf) -> ObjectFuture<'a, ()> {
        self.counted(PUT, self.inner.put(key, bytes, when))
    }

    fn upload<'a>(
        &'a self,
        key: &'a str,
        from: &'a dyn PackBytes,
        sent: &'a dyn Sent,
    ) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            let done = self.inner.upload(key, from, sent).await;
            self.counts.count(UPLOAD, &done);
            if done.is_ok() {
                self.counts.uploads.fetch_add(1, Ordering::Relaxed);
                self.counts.uploaded_bytes.fetch_add(from.length(), Ordering::Relaxed);
            }
            done
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()> {
        self.counted(DELETE, self.inner.delete(key))
    }

    fn list<'a>(&'a self, folder: &'a str) -> ObjectFuture<'a, Vec<ObjectMeta>> {
        self.counted(LIST, self.inner.list(folder))
    }

    /// Nothing but a further try waits.
    fn wait<'a>(&'a self, time: Duration) -> ObjectFuture<'a, ()> {
        self.counts.retries.fetch_add(1, Ordering::Relaxed);
        self.inner.wait(time)
    }

    fn now_s(&self) -> u64 {
        self.inner.now_s()
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::DirectoryObjects;
    use super::super::waiting::run;
    use super::*;

    #[test]
    fn requests_are_counted_by_what_became_of_them() {
        let house = tempfile::tempdir().unwrap();
        let inner = Arc::new(DirectoryObjects::new(house.path()).unwrap());
        let counts = Arc::new(ObjectCounts::default());
        let objects = CountedObjects::new(inner, Arc::clone(&counts));
        run(async {
            assert!(objects.get("a").await.is_err());
            objects.put("a", vec![1], PutIf::Absent).await?;
            assert!(objects.put("a", vec![2], PutIf::Absent).await.is_err());
            assert_eq!(objects.get("a").await?.bytes, [1]);
            objects.wait(Duration::ZERO).await?;
            Ok(())
        })
        .unwrap();
        let seen: Vec<_> = counts.requests().filter(|(_, _, count)| *count > 0).collect();
        let expected = [("get", "ok", 1), ("get", "missing", 1), ("put", "ok", 1), ("put", "changed", 1)];
        assert_eq!(seen, expected);
        assert_eq!((counts.retries(), counts.uploads()), (1, (0, 0)));
    }
}
