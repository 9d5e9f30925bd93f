//! The server under test as a process of its own: started, waited for, stopped, and its end checked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::PATIENCE;
use super::peer::Peer;

/// How to start a server. The default listens on a unix socket only, with one shard and little memory.
pub(crate) struct Options {
    pub(crate) exports: Vec<String>,
    pub(crate) arguments: Vec<String>,
    pub(crate) shards: u32,
    pub(crate) memory: String,
    pub(crate) unix: bool,
    pub(crate) tcp: Vec<String>,
    pub(crate) read_only: bool,
    /// A command that runs the server: its arguments go behind these.
    pub(crate) wrapper: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// Its clients reach it by a tunnel with TLS.
    pub(crate) tunnelled: bool,
}

impl Options {
    /// `RINGNBD_TEST_TRANSPORT=tcp` makes every test that does not care speak TCP, and `tls` has a tunnel with TLS before each server; `RINGNBD_TEST_SHARDS=2` gives it
    /// that many shards.
    pub(crate) fn new() -> Self {
        let tcp = std::env::var("RINGNBD_TEST_TRANSPORT").as_deref() == Ok("tcp");
        let shards =
            std::env::var("RINGNBD_TEST_SHARDS").map_or(1, |shards| shards.parse().expect("a number"));
        Self {
            exports: Vec::new(),
            arguments: Vec::new(),
            shards,
            memory: format!("{}M", 80 * shards),
            unix: true,
            tcp: if tcp { vec!["127.0.0.1:0".to_owned()] } else { Vec::new() },
            read_only: false,
            wrapper: Vec::new(),
            environment: Vec::new(),
            tunnelled: super::tls::is_tunnelled(),
        }
    }

    /// Adds an EXPORT argument: `[NAME=]URI`.
    pub(crate) fn export(mut self, export: impl Into<String>) -> Self {
        self.exports.push(export.into());
        self
    }

    /// Adds arguments as they are.
    pub(crate) fn args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub(crate) fn shards(mut self, shards: u32) -> Self {
        self.shards = shards;
        self
    }

    /// `--memory`: the buffer memory of the whole server.
    pub(crate) fn memory(mut self, size: &str) -> Self {
        size.clone_into(&mut self.memory);
        self
    }

    /// Listens on this HOST:PORT as well.
    pub(crate) fn tcp(mut self, address: &str) -> Self {
        self.tcp.push(address.to_owned());
        self
    }

    pub(crate) fn without_unix(mut self) -> Self {
        self.unix = false;
        self
    }

    pub(crate) fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the server with RLIMIT_FSIZE, so that the kernel refuses to let a file grow (or be written) beyond.
    pub(crate) fn file_size_limit(mut self, bytes: u64) -> Self {
        self.wrapper = vec!["prlimit".to_owned(), format!("--fsize={bytes}"), "--".to_owned()];
        self
    }

    /// Starts the server with RLIMIT_NOFILE.
    pub(crate) fn open_files_limit(mut self, files: u64) -> Self {
        self.wrapper = vec!["prlimit".to_owned(), format!("--nofile={files}:{files}"), "--".to_owned()];
        self
    }

    /// Starts the server and waits until it is ready. Panics with its stderr when it is not.
    #[track_caller]
    pub(crate) fn start(self) -> Server {
        Server::start(self)
    }
}

/// A running server. Dropping it sends SIGTERM and asserts a clean end: exit status 0, pidfile and socket gone,
/// no panic in its log.
pub(crate) struct Server {
    child: Child,
    status: Option<ExitStatus>,
    /// Whether the end was already checked, or made unclean on purpose.
    settled: bool,
    /// A second SIGTERM or SIGINT would end it at once, so the first must stay the only one.
    told_to_stop: std::cell::Cell<bool>,
    dir: TempDir,
    unix: bool,
    pub(crate) peer: Peer,
}

impl Server {
    /// A server for these exports, with everything else at the test default.
    #[track_caller]
    pub(crate) fn serve<S: AsRef<str>>(exports: &[S]) -> Self {
        exports.iter().fold(Options::new(), |options, export| options.export(export.as_ref())).start()
    }

    #[track_caller]
    fn start(mut options: Options) -> Self {
        let peer = Peer::from_env();
        // Not the build directory: the path of a socket holds 107 bytes at most.
        let dir = tempfile::Builder::new().prefix("ringnbd").tempdir().expect("make a run directory");
        let tunnelled = options.tunnelled && options.unix && peer == Peer::Ringnbd;
        if tunnelled {
            super::tls::write_files(dir.path());
            let files = dir.path().display().to_string();
            options = options.args(["--tls", &files, "--tls-mode", "selective"]);
        }
        let line = peer.command_line(&options, dir.path());
        let mut words = options.wrapper.iter().chain(&line);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).envs(options.environment.iter().map(|(name, value)| (name, value)));
        let stderr = std::fs::File::create(dir.path().join("stderr")).expect("create the log");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {line:?}: {error}"));
        let told_to_stop = std::cell::Cell::new(false);
        let mut server =
            Self { child, status: None, settled: false, told_to_stop, dir, unix: options.unix, peer };
        server.wait_ready(&line);
        if tunnelled {
            super::tls::tunnel(&server.socket(), server.dir());
        }
        server
    }

    #[track_caller]
    fn wait_ready(&mut self, line: &[String]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.peer.is_ready(self.dir.path(), self.unix) {
                return;
            }
            if let Some(status) = self.try_wait() {
                self.settled = true;
                panic!("{line:?} ended with {status} before it was ready; stderr:\n{}", self.stderr());
            }
            if Instant::now() > deadline {
                panic!("{line:?} was not ready within {PATIENCE:?}"); // Drop prints its stderr
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// The path of its unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("nbd.sock")
    }

    /// Where clients in plain text connect: to its unix socket, or to the tunnel before it.
    pub(crate) fn plain_socket(&self) -> PathBuf {
        let tunnel = self.dir.path().join("tunnel.sock");
        if tunnel.exists() { tunnel } else { self.socket() }
    }

    pub(crate) fn pidfile(&self) -> PathBuf {
        self.dir.path().join("pid")
    }

    /// A directory that lives as long as the server.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `nbd+unix:///NAME?socket=PATH`.
    pub(crate) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{}?socket={}", percent(export), percent(&self.socket().to_string_lossy()))
    }

    /// The address of its first TCP listener, with the real port, as the JSON log tells it.
    #[track_caller]
    pub(crate) fn tcp_address(&self) -> SocketAddr {
        *self
            .tcp_addresses()
            .first()
            .unwrap_or_else(|| panic!("no nbd:// URI in the log:\n{}", self.stderr()))
    }

    pub(crate) fn tcp_addresses(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for line in self.log() {
            let uri = line.get("uri").and_then(serde_json::Value::as_str).unwrap_or_default();
            if let Some(rest) = uri.strip_prefix("nbd://") {
                let authority = rest.split('/').next().unwrap_or(rest);
                let authority = authority.replace("localhost", "127.0.0.1");
                // A URI without a port means the well-known one.
                let address = authority.parse().or_else(|_| format!("{authority}:10809").parse());
                let address = address.unwrap_or_else(|error| panic!("{uri}: {error}"));
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        addresses
    }

    /// `nbd://HOST:PORT/NAME`.
    #[track_caller]
    pub(crate) fn tcp_uri(&self, export: &str) -> String {
        format!("nbd://{}/{}", self.tcp_address(), percent(export))
    }

    /// Everything it wrote to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.path().join("stderr")).unwrap_or_default())
            .into_owned()
    }

    /// Its log, as far as it is JSON.
    pub(crate) fn log(&self) -> Vec<serde_json::Value> {
        self.stderr().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Log lines at level WARN or ERROR.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let bad = |line: &serde_json::Value| {
            let level = line.get("level").and_then(serde_json::Value::as_str).unwrap_or_default();
            level.eq_ignore_ascii_case("warn") || level.eq_ignore_ascii_case("error")
        };
        self.log().iter().filter(|line| bad(line)).map(ToString::to_string).collect()
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("read /proc");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a VmRSS line");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
    }

    fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("wait for the server");
        }
        self.status
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.try_wait().is_none()
    }

    /// Sends a signal and returns at once.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a pid");
        kill_process(pid, signal).expect("signal the server");
        self.told_to_stop.set(signal == Signal::TERM || signal == Signal::INT);
    }

    /// Waits for its end. A server that goes on for too long is killed, so that it does not outlive its test.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            if Instant::now() > deadline {
                self.settled = true;
                self.child.kill().and_then(|()| self.child.wait()).expect("kill the server");
                panic!("the server did not exit within {PATIENCE:?}; its stderr:\n{}", self.stderr());
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// SIGKILL: the crash of the durability tests. Nothing is checked afterwards.
    pub(crate) fn crash(&mut self) {
        self.settled = true;
        if self.is_running() {
            self.signal(Signal::KILL);
        }
        self.wait();
    }

    /// SIGTERM, unless it was told to stop before, then the checks that dropping makes.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.settled = true;
        if !self.told_to_stop.get() && self.is_running() {
            self.signal(Signal::TERM);
        }
        let status = self.wait();
        if self.peer != Peer::Ringnbd {
            return;
        }
        let log = self.stderr();
        assert!(status.success(), "the server ended with {status}; stderr:\n{log}");
        assert!(!self.pidfile().exists(), "the pidfile is still there");
        assert!(!self.unix || !self.socket().exists(), "the socket is still there");
        assert!(!log.contains("panicked at"), "the server panicked; stderr:\n{log}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let running = self.try_wait().is_none();
            if running {
                self.signal(Signal::KILL);
                self.child.wait().ok();
            }
            let state = self.status.map_or("still running".to_owned(), |status| status.to_string());
            eprintln!("--- server was {state}; its stderr:\n{}---", self.stderr());
        } else if !self.settled {
            self.stop();
        }
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986 and `/`.
fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
