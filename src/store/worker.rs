//! The one thread that uses an open store while a server runs: its catalogue, and what comes and goes in its
//! directory.
//!
//! It is handed jobs, one after the other. A job that panics costs the store and nothing else: the thread
//! ends and takes no further jobs, and the store stays locked, because its images may still be served.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::StoreError;
use super::map_files::MapFiles;
use super::open_store::OpenStore;

/// Jobs that wait for the thread.
pub(crate) const QUEUE: usize = 64;

/// What is done with a store.
pub(crate) type StoreJob = Box<dyn FnOnce(&mut OpenStore<MapFiles>) + Send>;

/// How long a store is tried for that another process has, which was to give it back.
const RETURN_TIME: Duration = Duration::from_secs(60);

/// What the thread is told.
enum StoreOrder {
    Do(StoreJob),
    /// Close the store for another process, and wait whether it comes back.
    Lend(StoreLending),
}

struct StoreLending {
    path: PathBuf,
    /// Told when the store is closed.
    closed: Box<dyn FnOnce() + Send>,
    back: Receiver<()>,
}

/// A store that is closed, so that another process can have it. Jobs wait. When this is dropped, the other
/// one keeps the store, and jobs fail.
#[derive(Debug)]
pub(crate) struct StoreLoan {
    back: SyncSender<()>,
}

impl StoreLoan {
    /// The store is opened again, once nobody else has it; jobs that wait are done then.
    pub(crate) fn take_back(self) {
        // The thread may have ended.
        let _told = self.back.try_send(());
    }
}

/// The thread of a store. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct StoreWorker {
    path: PathBuf,
    /// None while it ends.
    jobs: Option<SyncSender<StoreOrder>>,
    thread: Option<JoinHandle<()>>,
}

impl StoreWorker {
    /// Starts the thread. What the calling thread may not do, it may not do either.
    ///
    /// # Errors
    /// Gives the store back when there is no thread.
    pub(crate) fn start(store: OpenStore<MapFiles>) -> Result<Self, StoreError> {
        let path = store.path().to_owned();
        let (jobs, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("store".to_owned());
        let thread = thread.spawn(move || work(store, &queue));
        let thread = thread.map_err(StoreError::at("start a thread for", &path))?;
        Ok(Self { path, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Hands a job over, without waiting. A job that is never done is dropped.
    ///
    /// # Errors
    /// The queue is full, or an earlier job failed badly.
    pub(crate) fn submit(&self, job: StoreJob) -> Result<(), StoreError> {
        self.order(StoreOrder::Do(job))
    }

    /// Closes the store at `path` after all jobs that it was handed, and calls `closed`, on its thread.
    ///
    /// # Errors
    /// The queue is full, or an earlier job failed badly.
    pub(crate) fn lend(
        &self,
        path: PathBuf,
        closed: impl FnOnce() + Send + 'static,
    ) -> Result<StoreLoan, StoreError> {
        let (sender, back) = sync_channel(1);
        self.order(StoreOrder::Lend(StoreLending { path, closed: Box::new(closed), back }))?;
        Ok(StoreLoan { back: sender })
    }

    fn order(&self, order: StoreOrder) -> Result<(), StoreError> {
        let path = || self.path.clone();
        let jobs = self.jobs.as_ref().ok_or_else(|| StoreError::Failed(path()))?;
        jobs.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Busy(path()),
            TrySendError::Disconnected(_) => StoreError::Failed(path()),
        })
    }

    /// Has something done and waits for it.
    ///
    /// # Errors
    /// This job or an earlier one failed badly.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut OpenStore<MapFiles>) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let failed = || StoreError::Failed(self.path.clone());
        let (answer, answered) = sync_channel(1);
        let job: StoreJob = Box::new(move |store| drop(answer.send(call(store))));
        self.jobs.as_ref().ok_or_else(failed)?.send(StoreOrder::Do(job)).map_err(|_| failed())?;
        answered.recv().map_err(|_| failed())
    }
}

/// Closes a store, and opens it again when it comes back. None if it does not.
fn lend(store: OpenStore<MapFiles>, lending: StoreLending) -> Option<OpenStore<MapFiles>> {
    let StoreLending { path, closed, back } = lending;
    let counters = store.counters();
    drop(store);
    closed();
    back.recv().ok()?;
    let began = Instant::now();
    loop {
        match OpenStore::open_to_change(&path, MapFiles) {
            Ok(store) => return Some(store.with_counters(counters)),
            // The other process is about to end.
            Err(StoreError::InUse { .. }) if began.elapsed() < RETURN_TIME => {}
            Err(error) => {
                let what = "a store does not come back from another process; restart the server";
                tracing::error!(store = %path.display(), %error, "{what}");
                return None;
            }
        }
    }
}

fn work(mut store: OpenStore<MapFiles>, queue: &Receiver<StoreOrder>) {
    while let Ok(order) = queue.recv() {
        let job = match order {
            StoreOrder::Do(job) => job,
            StoreOrder::Lend(lending) => match lend(store, lending) {
                Some(back) => {
                    store = back;
                    continue;
                }
                None => return,
            },
        };
        let done = || {
            // A job before it may have failed in a change of the catalogue.
            if let Err(error) = store.settle() {
                tracing::error!(%error, "what the catalogue has is not known");
            }
            job(&mut store);
        };
        if catch_unwind(AssertUnwindSafe(done)).is_err() {
            let path = store.path().display().to_string();
            let what = "a store failed: images that are open are served on, and nothing else can be done with it; \
                        restart the server when you can";
            tracing::error!(store = path, "{what}");
            // The lock must not be given to anybody else.
            std::mem::forget(store);
            return;
        }
    }
}

impl Drop for StoreWorker {
    fn drop(&mut self) {
        self.jobs = None;
        // The last one who needs the store may be a job of its own thread.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ended = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, PathBuf, StoreWorker) {
        let house = tempfile::tempdir().unwrap();
        let path = house.path().join("store");
        let worker = StoreWorker::start(OpenStore::init(&path, MapFiles).unwrap()).unwrap();
        (house, path, worker)
    }

    #[test]
    fn jobs_are_done_in_order_and_the_lock_goes_with_the_thread() {
        let (_house, path, worker) = store();
        let name = || "vm1".parse().unwrap();
        worker.call(move |store| store.create_empty(&name(), 512)).unwrap().unwrap();
        let images = worker.call(|store| store.view().unwrap().counts().images).unwrap();
        assert_eq!(images, 1);
        assert!(matches!(OpenStore::open(&path, MapFiles), Err(StoreError::InUse { .. })));
        drop(worker);
        OpenStore::open(&path, MapFiles).unwrap();
    }

    #[test]
    fn a_panic_costs_the_store_and_keeps_its_lock() {
        let (_house, path, worker) = store();
        let failed = worker.call(|_| -> () { panic!("as the database might") });
        assert!(matches!(failed, Err(StoreError::Failed(_))));
        assert!(matches!(worker.call(|_| ()), Err(StoreError::Failed(_))));
        drop(worker);
        assert!(matches!(OpenStore::open(&path, MapFiles), Err(StoreError::InUse { .. })));
    }

    #[test]
    fn a_store_that_is_lent_comes_back_or_is_gone() {
        let (_house, path, worker) = store();
        let lend = || {
            let (told, closed) = sync_channel(1);
            let loan = worker.lend(path.clone(), move || told.send(()).unwrap()).unwrap();
            closed.recv().unwrap();
            loan
        };
        let loan = lend();
        let mut other = OpenStore::open(&path, MapFiles).unwrap();
        other.create_empty(&"vm1".parse().unwrap(), 512).unwrap();
        loan.take_back();
        let (counted, answer) = sync_channel(1);
        let count = move |store: &mut OpenStore<MapFiles>| {
            counted.send(store.view().unwrap().counts().images).unwrap();
        };
        worker.submit(Box::new(count)).unwrap();
        assert!(answer.try_recv().is_err(), "the other one has it");
        drop(other);
        assert_eq!(answer.recv().unwrap(), 1, "what the other one has done is seen");
        drop(lend());
        assert!(matches!(worker.call(|_| ()), Err(StoreError::Failed(_))));
        OpenStore::open(&path, MapFiles).unwrap();
    }

    #[test]
    fn the_queue_has_an_end() {
        let (_house, _path, worker) = store();
        let (go, wait) = sync_channel::<()>(1);
        let (begun, begins) = sync_channel(1);
        worker
            .submit(Box::new(move |_| {
                begun.send(()).unwrap();
                let _told = wait.recv();
            }))
            .unwrap();
        begins.recv().unwrap();
        for _ in 0..QUEUE {
            worker.submit(Box::new(|_| ())).unwrap();
        }
        assert!(matches!(worker.submit(Box::new(|_| ())), Err(StoreError::Busy(_))));
        go.send(()).unwrap();
        worker.call(|_| ()).unwrap();
    }
}
