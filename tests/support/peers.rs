//! The programs of other projects that tests drive: where they are, how to run one with a deadline, what to do without it.
//!
//! `tests/peers install` provides them; a missing one fails the test when `CI=true` and is a named skip otherwise.
#![allow(dead_code, reason = "each test crate uses its own part")]

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long one client may take. Far more than any needs: reaching it means that something hangs.
pub(crate) const CLIENT_DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition of another process is looked at while waiting for it.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Directory in which `tests/peers` keeps what it made.
pub(crate) fn home() -> PathBuf {
    if let Some(given) = std::env::var_os("RINGNBD_PEERS") {
        return PathBuf::from(given);
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(|| PathBuf::from("/var/cache"));
    cache.join("ringnbd/trixie")
}

/// Debian root that has the guest kernel, its modules and a static busybox. `None` after a skip.
pub(crate) fn debian_root() -> Option<PathBuf> {
    let root = home().join("root");
    if root.join("usr/bin/busybox").exists() {
        return Some(root);
    }
    skip("Debian root of the peers", "run tests/peers install as root");
    None
}

/// Command for the peer `tool`. `None` after a skip.
pub(crate) fn command(tool: &str) -> Option<Command> {
    let path = home().join("bin").join(tool);
    if path.exists() {
        return Some(Command::new(path));
    }
    skip(tool, "run tests/peers install as root");
    None
}

/// Names what cannot be tested here, visibly. Under `CI=true` that is a failure.
pub(crate) fn skip(what: &str, remedy: &str) {
    let test = thread::current().name().unwrap_or("test").to_owned();
    let line = format!("skipped {test}: no {what} ({remedy})\n");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{line}a missing peer is a failure when CI=true");
    // Straight to the stream: `eprint!` of a passing test is captured and never seen.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(list) = std::env::var_os("RINGNBD_SKIPS")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(list)
    {
        let _ = file.write_all(line.as_bytes());
    }
}

/// Names `what` as skipped when there is none: only root can make it.
pub(crate) fn or_skip<T>(found: Option<T>, what: &str) -> Option<T> {
    if found.is_none() {
        skip(what, "run the tests as root");
    }
    found
}

/// What a finished client said.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The command line, for messages.
    pub(crate) line: String,
    /// Its exit status.
    pub(crate) status: ExitStatus,
    /// All it wrote to standard output.
    pub(crate) stdout: String,
    /// All it wrote to standard error.
    pub(crate) stderr: String,
}

impl Finished {
    /// Standard output of a client that succeeded; panics with all it said otherwise.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.status.success(), "{self}");
        self.stdout
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n  {}\n  stdout: {}\n  stderr: {}", self.line, self.status, self.stdout, self.stderr)
    }
}

/// Runs `command` to its end, within [`CLIENT_DEADLINE`].
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Finished {
    run_with_input(command, b"")
}

/// As [`run`], with `input` on standard input.
#[track_caller]
pub(crate) fn run_with_input(command: &mut Command, input: &[u8]) -> Finished {
    run_within(CLIENT_DEADLINE, command, input)
}

/// As [`run_with_input`], with another deadline.
#[track_caller]
pub(crate) fn run_within(deadline: Duration, command: &mut Command, input: &[u8]) -> Finished {
    let line = describe(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // A client that does not read its input closes the pipe: not our business here.
    thread::spawn(move || stdin.write_all(&input));
    let (stdout, stderr) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
    let ended = wait(&mut child, deadline);
    if ended.is_none() {
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    let finished = Finished { line, status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() };
    assert!(ended.is_some(), "no end within {deadline:?}, killed: {finished}");
    finished
}

/// A peer that serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts `command` and waits until `is_ready`. Panics with what it wrote when it ends first or takes too long.
    #[track_caller]
    pub(crate) fn start(command: Command, is_ready: impl Fn() -> bool) -> Daemon {
        let line = describe(&command);
        // Dies with the test thread that started it, even if that is killed.
        let mut bound = Command::new("setpriv");
        bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        let log = tempfile::NamedTempFile::new().unwrap();
        let child = bound
            .stdin(Stdio::null())
            .stdout(log.reopen().unwrap())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        let mut daemon = Daemon { child };
        let deadline = Instant::now() + CLIENT_DEADLINE;
        while !is_ready() {
            let ended = daemon.child.try_wait().unwrap();
            let written = || std::fs::read_to_string(log.path()).unwrap_or_default();
            assert!(ended.is_none(), "{line}: ended with {ended:?} before it served: {}", written());
            assert!(Instant::now() < deadline, "{line}: not ready within {CLIENT_DEADLINE:?}: {}", written());
            thread::sleep(POLL_INTERVAL);
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        if wait(&mut self.child, Duration::from_secs(10)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Exit status of `child` once it ended; `None` after `limit`.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Standard output of a tool of the system itself (`losetup`, `fsck.ext4`...), which must succeed.
#[track_caller]
pub(crate) fn system<S: AsRef<OsStr>>(tool: &str, arguments: &[S]) -> String {
    // Administrators' tools may be missing from a user's PATH.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(tool);
    let output: Output = command
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{tool}: {error}"));
    let finished = Finished {
        line: describe(&command),
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    finished.ok()
}

fn collect(mut stream: impl std::io::Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
