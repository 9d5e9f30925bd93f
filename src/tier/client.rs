//! An object store for threads that wait for its answers.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::change::patiently;
use super::objects::{ObjectError, ObjectFuture, Objects, PutIf};

/// Threads that look up names of hosts.
const LOOK_UPS: usize = 4;
/// How often a small object is written again because somebody else has written it meanwhile.
const WRITES: usize = 16;

type ClientWork = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Many threads ask at once, and one thread has all their requests under way. That thread has the rights of
/// the one that started it, which those that ask may not have: a confined one cannot connect.
pub struct TierClient {
    objects: Arc<dyn Objects>,
    /// Whoever sends waits for the answer, so there is no more of it than there are such threads.
    work: UnboundedSender<ClientWork>,
}

impl fmt::Debug for TierClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TierClient").finish_non_exhaustive()
    }
}

async fn begin_all(mut work: UnboundedReceiver<ClientWork>) {
    while let Some(one) = work.recv().await {
        // Its answer is told to whoever waits; nobody else wants to know when it ends.
        drop(tokio::spawn(one));
    }
}

impl TierClient {
    /// # Errors
    /// No thread.
    pub fn start(objects: Arc<dyn Objects>) -> io::Result<Self> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_io().enable_time().max_blocking_threads(LOOK_UPS).build()?;
        let (work, begun) = unbounded_channel();
        let thread = std::thread::Builder::new().name("ringnbd-bucket".to_owned());
        thread.spawn(move || runtime.block_on(begin_all(begun)))?;
        Ok(Self { objects, work })
    }

    fn wait<T: Send + 'static>(
        &self,
        key: &str,
        ask: impl for<'a> FnOnce(&'a dyn Objects, &'a str) -> ObjectFuture<'a, T> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let ended =
            || ObjectError::Unreachable { key: key.to_owned(), why: "its thread has ended".to_owned() };
        let (answer, answered) = sync_channel(1);
        let (objects, owned) = (Arc::clone(&self.objects), key.to_owned());
        let work = async move {
            let _nobody_waits_any_more = answer.send(ask(&*objects, &owned).await);
        };
        self.work.send(Box::pin(work)).map_err(|_| ended())?;
        answered.recv().map_err(|_| ended())?
    }

    /// Exactly these bytes of an object. It is asked once.
    ///
    /// # Errors
    /// The object store's.
    pub fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        self.wait(key, move |objects, key| objects.get_range(key, range))
    }

    /// Whether an object is there. It is asked once.
    ///
    /// # Errors
    /// The object store's; [`ObjectError::Missing`].
    pub fn look(&self, key: &str) -> Result<(), ObjectError> {
        self.wait(key, move |objects, key| Box::pin(async { objects.head(key).await.map(drop) }))
    }

    /// A small object. It is asked for as often as may help.
    ///
    /// # Errors
    /// The object store's.
    pub fn get(&self, key: &str) -> Result<Vec<u8>, ObjectError> {
        self.wait(key, move |objects, key| {
            Box::pin(async { Ok(patiently(objects, || objects.get(key)).await?.bytes) })
        })
    }

    /// Writes a small object that only one store writes, whatever was there. It is tried as often as may
    /// help.
    ///
    /// # Errors
    /// The object store's.
    pub fn put(&self, key: &str, bytes: Vec<u8>) -> Result<(), ObjectError> {
        self.wait(key, move |objects, key| Box::pin(put_over(objects, key, bytes)))
    }
}

async fn put_over(objects: &dyn Objects, key: &str, bytes: Vec<u8>) -> Result<(), ObjectError> {
    for _ in 0..WRITES {
        let when = match patiently(objects, || objects.get(key)).await {
            Ok(found) if found.bytes == bytes => return Ok(()),
            Ok(found) => PutIf::Version(found.version),
            Err(ObjectError::Missing(_)) => PutIf::Absent,
            Err(error) => return Err(error),
        };
        match patiently(objects, || objects.put(key, bytes.clone(), when.clone())).await {
            // An answer to an earlier try was lost, or somebody else was there: both are seen above.
            Err(ObjectError::Precondition(_)) => {}
            done => return done,
        }
    }
    Err(ObjectError::Precondition(key.to_owned()))
}
