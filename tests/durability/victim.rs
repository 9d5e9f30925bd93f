//! A server that is killed and started again on the same paths: socket, pidfile and disk are what the dead one left behind.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::PATIENCE;
use crate::support::raw::Connection;

pub(crate) struct Victim {
    /// Where its socket, pidfile and log are.
    dir: TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Victim {
    pub(crate) fn new(uri: &str, shards: u32) -> Self {
        Self::with_arguments(uri, shards, &[])
    }

    pub(crate) fn with_arguments(uri: &str, shards: u32, more: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("ringnbd").tempdir().expect("make a run directory");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mut arguments: Vec<String> =
            ["serve", "--log-format", "json", "--shards"].map(str::to_owned).into();
        arguments.extend([shards.to_string(), "--memory".into(), format!("{}M", 48 * shards)]);
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        arguments.extend(["--unix".into(), at("nbd.sock"), "--pidfile".into(), at("pid"), uri.into()]);
        Self { dir, arguments, child: None }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it; it need not be ready when this returns.
    pub(crate) fn spawn(&mut self) {
        let binary = std::env::var("RINGNBD_TEST_BINARY");
        let binary = binary.unwrap_or_else(|_| env!("CARGO_BIN_EXE_ringnbd").into());
        let log = std::fs::File::create(self.at("stderr")).expect("create the log");
        let mut command = Command::new(binary);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("run the server"));
    }

    /// Waits until its pidfile says that it is ready.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let pid = self.pid().to_string();
        while std::fs::read_to_string(self.at("pid")).map_or(true, |text| text.trim() != pid) {
            let ended = self.child.as_mut().expect("it runs").try_wait().expect("wait for the server");
            assert!(ended.is_none(), "the restart failed with {ended:?}: {}", self.log());
            assert!(Instant::now() < deadline, "not ready within {PATIENCE:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::over_unix(UnixStream::connect(self.at("nbd.sock")).expect("connect to the server"))
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid() as i32).expect("a pid"), signal).expect("signal the server");
    }

    /// Waits for the end of a server that was killed.
    pub(crate) fn bury(&mut self) {
        let status = self.child.take().expect("it ran").wait().expect("wait for the server");
        let log = self.log();
        assert!(!log.contains("panicked at"), "it panicked: {log}");
        assert!(std::os::unix::process::ExitStatusExt::signal(&status) == Some(9), "{status}: {log}");
    }

    /// Ends it in order.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.child.take().expect("it ran").wait().expect("wait for the server");
        assert!(status.success(), "{status}: {}", self.log());
        assert!(!self.at("pid").exists() && !self.at("nbd.sock").exists(), "it cleans up");
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.at("stderr")).unwrap_or_default()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().and_then(|()| child.wait()).expect("end the server");
            eprintln!("--- the server's stderr:\n{}---", self.log());
        }
    }
}
