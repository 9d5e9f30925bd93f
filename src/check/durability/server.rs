//! A server that can be killed and started again.

use std::ffi::OsString;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use super::super::dial::{Dialer, kill_group};
use crate::client::uri::ServerAddress;

/// Between two tries to connect to a server that starts.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A server that can be killed and started again.
pub(crate) trait KillableServer {
    /// Starts it. It answers connections from now on.
    ///
    /// # Errors
    /// A text: it does not start, or does not listen.
    fn start(&mut self) -> Result<Dialer, String>;

    /// Ends it as `kill -9` does.
    fn kill(&mut self);

    /// All connections reach the same process.
    fn is_one(&self) -> bool;
}

/// A command, and where it listens: or on its standard input, a process for each connection.
#[derive(Debug)]
pub(crate) struct ServerCommand {
    words: Vec<OsString>,
    address: Option<ServerAddress>,
    patience: Duration,
    child: Option<Child>,
    /// Its process group while it runs, for whoever ends this program; 0 otherwise.
    running: Arc<AtomicI32>,
}

impl ServerCommand {
    pub(crate) fn new(words: Vec<OsString>, address: Option<ServerAddress>, patience: Duration) -> Self {
        Self { words, address, patience, child: None, running: Arc::default() }
    }

    /// The process group of the server while it runs; 0 otherwise.
    pub(crate) fn running(&self) -> Arc<AtomicI32> {
        Arc::clone(&self.running)
    }

    fn wait_until_it_listens(&mut self, dialer: &Dialer) -> Result<(), String> {
        let end = Instant::now() + self.patience;
        loop {
            if let Some(ended) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Err(format!("the command ended with {ended}, and does not listen"));
            }
            match dialer.dial(LOOK_EVERY.max(self.patience / 10)) {
                Ok(_connected) => return Ok(()),
                Err(error) if Instant::now() >= end => {
                    return Err(format!("the command does not listen within {:?}: {error}", self.patience));
                }
                Err(_) => std::thread::sleep(LOOK_EVERY),
            }
        }
    }
}

impl KillableServer for ServerCommand {
    fn start(&mut self) -> Result<Dialer, String> {
        use std::os::unix::process::CommandExt as _;
        let Some(address) = self.address.clone() else { return Ok(Dialer::Command(self.words.clone())) };
        let (program, arguments) = self.words.split_first().ok_or("there is no command")?;
        let dialer = Dialer::Address(address);
        if dialer.dial(self.patience).is_ok() {
            return Err(
                "something listens there already: end it, so that the command can be killed".to_owned()
            );
        }
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        self.running.store(child.id() as i32, Ordering::SeqCst);
        self.child = Some(child);
        self.wait_until_it_listens(&dialer)?;
        Ok(dialer)
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill_group(&mut child);
            self.running.store(0, Ordering::SeqCst);
        }
        // What is left of it would keep the next one from listening.
        if let Some(ServerAddress::Unix(path)) = &self.address {
            let _there_may_be_none = std::fs::remove_file(path);
        }
    }

    fn is_one(&self) -> bool {
        self.address.is_some()
    }
}

impl Drop for ServerCommand {
    fn drop(&mut self) {
        self.kill();
    }
}
