//! A way between both servers whose connections can be cut one by one.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tempfile::TempDir;

/// Listens in a directory of its own, and connects to the other server for each connection.
pub(crate) struct Proxy {
    directory: TempDir,
    pairs: Arc<Mutex<Vec<Arc<Pair>>>>,
}

/// Both sides of one connection.
struct Pair {
    near: UnixStream,
    far: UnixStream,
    /// What the other server's end does is not passed on.
    is_held: AtomicBool,
    /// Bytes from the near side so far.
    asked: AtomicUsize,
}

impl Proxy {
    pub(crate) fn to(far: PathBuf) -> Self {
        Self::with_limit(far, usize::MAX)
    }

    /// Each connection ends after so many bytes of the other server.
    pub(crate) fn with_limit(far: PathBuf, limit: usize) -> Self {
        let directory = tempfile::Builder::new().prefix("ringnbd-proxy").tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("s")).expect("listen");
        let proxy = Self { directory, pairs: Arc::default() };
        let pairs = Arc::clone(&proxy.pairs);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, UnixStream::connect(&far)) else { continue };
                let pair =
                    Arc::new(Pair { near, far, is_held: AtomicBool::new(false), asked: AtomicUsize::new(0) });
                pairs.lock().unwrap().push(Arc::clone(&pair));
                let other = Arc::clone(&pair);
                std::thread::spawn(move || pair.pass_requests());
                std::thread::spawn(move || other.pass_replies(limit));
            }
        });
        proxy
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        Path::new(self.directory.path()).join("s")
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.pairs().len()
    }

    /// Bytes that were asked on a connection, by its number from the first one.
    pub(crate) fn asked(&self, number: usize) -> usize {
        self.pairs()[number].asked.load(Ordering::Relaxed)
    }

    /// Ends a connection on both sides.
    pub(crate) fn cut(&self, number: usize) {
        self.pairs()[number].cut();
    }

    /// From now on nobody is told when the other server ends connections that are there.
    pub(crate) fn hold(&self) {
        self.pairs().iter().for_each(|pair| pair.is_held.store(true, Ordering::Relaxed));
    }

    fn pairs(&self) -> MutexGuard<'_, Vec<Arc<Pair>>> {
        self.pairs.lock().unwrap()
    }
}

impl Pair {
    fn cut(&self) {
        // What is gone already is as good.
        let _ = self.near.shutdown(Shutdown::Both);
        let _ = self.far.shutdown(Shutdown::Both);
    }

    fn pass_requests(&self) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = (&self.near).read(&mut buffer) {
            self.asked.fetch_add(length, Ordering::Relaxed);
            if (&self.far).write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        self.end();
    }

    fn pass_replies(&self, mut limit: usize) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = (&self.far).read(&mut buffer)
            && limit >= length
        {
            limit -= length;
            if (&self.near).write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        self.end();
    }

    fn end(&self) {
        if !self.is_held.load(Ordering::Relaxed) {
            self.cut();
        }
    }
}
