//! The threads that do the mathematics of handshakes.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::sync::oneshot;

/// Threads. A handshake takes less than a millisecond of them, but with a long RSA key.
const THREADS: usize = 2;

type HandshakeJob = Box<dyn FnOnce() + Send>;

/// They end when this is dropped. A handshake has one job at a time, so jobs are bounded as handshakes are.
#[derive(Debug)]
pub(super) struct Workers {
    jobs: Sender<HandshakeJob>,
}

impl Workers {
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, queue) = unbounded();
        for _ in 0..THREADS {
            let queue = queue.clone();
            std::thread::Builder::new().name("tls".to_owned()).spawn(move || work(&queue))?;
        }
        Ok(Self { jobs })
    }

    /// Has something done; `None` when it panicked.
    pub(super) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        // Whoever asked may have given up.
        let job: HandshakeJob = Box::new(move || drop(answer.send(job())));
        self.jobs.send(job).ok()?;
        answered.await.ok()
    }
}

fn work(queue: &Receiver<HandshakeJob>) {
    while let Ok(job) = queue.recv() {
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a TLS handshake failed badly");
        }
    }
}
