//! Certificates and keys, read again while the server runs.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::oneshot;

use super::{Encryption, files};
use crate::identity::TlsIdentity;
use crate::tls::{TlsAcceptor, TlsProof};

/// What the files have now: nobody uses it yet.
#[derive(Debug)]
pub(in crate::control) struct RenewedTls(TlsAcceptor);

/// Files that were opened, by name.
type OpenedFiles = HashMap<PathBuf, io::Result<OwnedFd>>;

impl Encryption {
    /// Reads all files again, which the host opens: this process can open none any more.
    ///
    /// # Errors
    /// A sentence: what is wrong with which file.
    pub(in crate::control) async fn read_again(
        &self,
        open: impl AsyncFn(&Path) -> Result<Option<OwnedFd>, String>,
    ) -> Result<RenewedTls, String> {
        let mut opened = OpenedFiles::new();
        for path in self.config.paths() {
            let file = open(path).await;
            let file = file.map_err(io::Error::other);
            let missing = || io::Error::from_raw_os_error(libc::ENOENT);
            opened.insert(path.to_owned(), file.and_then(|file| file.ok_or_else(missing)));
        }
        // On a thread: to read a file may take its time.
        let (answer, answered) = oneshot::channel();
        let config = self.config.clone();
        // The server may have ended.
        let work = move || drop(answer.send(files::load(&config, |path| of_opened(&opened, path))));
        let thread = std::thread::Builder::new().name("reload".into()).spawn(work);
        thread.map_err(|error| format!("there is no thread to read certificates: {error}"))?;
        match answered.await {
            Ok(Ok(acceptor)) => Ok(RenewedTls(acceptor)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_panicked) => Err("the thread that reads certificates failed".to_owned()),
        }
    }

    /// Whether a client that was believed once would be believed now.
    pub(in crate::control) fn still_believes(&self, identity: &TlsIdentity, proof: &TlsProof) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.acceptor.borrow().still_believes(identity, proof, now)
    }

    /// Uses what was read for the clients that come. False if it is what is in use.
    pub(in crate::control) fn renew(&self, renewed: RenewedTls) -> bool {
        let RenewedTls(acceptor) = renewed;
        let differs = !acceptor.is_made_of_the_same_as(&self.acceptor.borrow());
        if differs {
            self.acceptor.replace(Arc::new(acceptor));
        }
        differs
    }
}

/// A file is read from its beginning each time that it is asked for.
fn of_opened(opened: &OpenedFiles, path: &Path) -> io::Result<File> {
    match opened.get(path) {
        Some(Ok(file)) => Ok(File::from(file.try_clone()?)),
        Some(Err(error)) => match error.raw_os_error() {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::Error::other(error.to_string())),
        },
        None => Err(io::Error::from_raw_os_error(libc::ENOENT)),
    }
}
