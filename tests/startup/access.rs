//! Several users: who may connect, and a server that is nobody special.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::support::wait_until;

/// The user that the server runs as, the group that is let in, and two users of whom one is in it. None needs an entry.
const SERVER: u32 = 60_001;
const GROUP: u32 = 60_010;
const MEMBER: u32 = 60_002;
const STRANGER: u32 = 60_003;

/// A directory of the server's user, with the program in it where everybody can run it.
struct House {
    dir: TempDir,
    program: PathBuf,
}

impl House {
    /// None without the right to be somebody else.
    fn build() -> Option<Self> {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can be several users");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("ringnbd").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(dir.path(), Some(SERVER), Some(SERVER)).unwrap();
        let program = dir.path().join("ringnbd");
        // By a program of its own: a child that another test starts meanwhile would keep the copy open for writing, and it could not be run.
        let copied = Command::new("cp").arg(crate::binary()).arg(&program).status().unwrap();
        assert!(copied.success());
        Some(Self { dir, program })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The program, run as a user with 8 MiB of locked memory, which is what Debian gives.
    fn command(&self, user: u32, groups: &str) -> Command {
        let mut command = Command::new("prlimit");
        command.args(["--memlock=8388608:8388608", "--", "setpriv"]);
        command.args([format!("--reuid={user}"), format!("--regid={user}"), groups.to_owned()]);
        command.args(["--bounding-set=-all", "--inh-caps=-all"]);
        command.arg(&self.program).current_dir(self.path()).env_remove("RUST_LOG");
        command
    }

    /// Starts a server that writes its log to `log`, and waits until it is ready.
    fn serve(&self, groups: &str, arguments: &[&str]) -> Running {
        let log = std::fs::File::create(self.path().join("log")).unwrap();
        let mut command = self.command(SERVER, groups);
        command.args(["serve", "--pidfile", "pid"]).args(arguments);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        wait_until("the server to be ready or to end", || {
            self.path().join("pid").exists() || child.try_wait().unwrap().is_some()
        });
        assert!(child.try_wait().unwrap().is_none(), "{}", self.log());
        Running(child)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap()
    }

    fn info(&self, user: u32, groups: &str) -> Output {
        let uri = "nbd+unix:///?socket=nbd.sock";
        self.command(user, groups).args(["info", uri]).output().unwrap()
    }
}

struct Running(Child);

impl Running {
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[test]
fn a_group_is_let_in_and_nobody_else() {
    let Some(house) = House::build() else { return };
    let groups = format!("--groups={GROUP}");
    let group = GROUP.to_string();
    let arguments = ["--shards", "1", "--unix", "nbd.sock", "--unix-group", &group, "mem:1M"];
    let server = house.serve(&groups, &arguments);
    let socket = house.path().join("nbd.sock").symlink_metadata().unwrap();
    assert_eq!((socket.mode() & 0o7777, socket.uid(), socket.gid()), (0o660, SERVER, GROUP));
    for (user, groups, welcome) in [
        (SERVER, "--clear-groups", true),
        (MEMBER, &*groups, true),
        (MEMBER, "--clear-groups", false),
        (STRANGER, "--clear-groups", false),
    ] {
        let output = house.info(user, groups);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), welcome, "user {user}, {groups}: {stderr}");
        assert!(
            welcome || stderr.contains("permission denied") && stderr.contains("--unix-group"),
            "{stderr}"
        );
    }
    server.stop();
    assert!(!house.path().join("nbd.sock").exists());
}

#[test]
fn a_mode_lets_everybody_in() {
    let Some(house) = House::build() else { return };
    let server = house.serve("--clear-groups", &["--unix", "nbd.sock", "--unix-mode", "0666", "mem:1M"]);
    assert!(house.info(STRANGER, "--clear-groups").status.success());
    server.stop();
    // Without a mode the umask decides, as with other servers.
    let server = house.serve("--clear-groups", &["--unix", "nbd.sock", "mem:1M"]);
    assert!(house.info(SERVER, "--clear-groups").status.success());
    assert!(!house.info(STRANGER, "--clear-groups").status.success());
    server.stop();
}

#[test]
fn a_group_of_others_is_refused() {
    let Some(house) = House::build() else { return };
    let mut command = house.command(SERVER, "--clear-groups");
    command.args(["serve", "--unix", "nbd.sock", "--unix-group", &GROUP.to_string(), "--pinned", "off"]);
    crate::refusal::refused(command, house.path(), &["nbd.sock", "60010", "a member of it"]);
}

#[test]
fn a_handed_over_socket_keeps_its_group() {
    let Some(house) = House::build() else { return };
    let log = std::fs::File::create(house.path().join("log")).unwrap();
    let mut command = crate::serve(&["--user", "60001:60001", "--unix-mode", "0620", "--pidfile", "pid"]);
    command.args(["--unix-group", "60010", "--unix", "nbd.sock", "--shards", "1", "mem:1M"]);
    let child = command.current_dir(house.path()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let server = Running(child);
    wait_until("the pidfile", || house.path().join("pid").exists());
    let socket = house.path().join("nbd.sock").symlink_metadata().unwrap();
    assert_eq!((socket.mode() & 0o7777, socket.uid(), socket.gid()), (0o620, SERVER, GROUP));
    server.stop();
}

/// The first thing that somebody does: no root, and the locked memory that Debian gives to users.
#[test]
fn an_ordinary_user_can_serve() {
    let Some(house) = House::build() else { return };
    let server = house.serve("--clear-groups", &["--shards", "2", "--unix", "nbd.sock", "--tcp", "0"]);
    let log = house.log();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("\"WARN\"")).collect();
    assert_eq!(warnings.len(), 1, "one line: {log}");
    assert!(warnings[0].contains("locked memory limit") && warnings[0].contains("ulimit -l"), "{log}");
    let bench = ["bench", "nbd+unix:///?socket=nbd.sock", "--rw", "randrw", "--ops", "500", "--verify"];
    let output = house.command(SERVER, "--clear-groups").args(bench).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    server.stop();
    // Nobody warns those who know.
    let server = house.serve("--clear-groups", &["--unix", "nbd.sock", "--pinned", "off"]);
    assert!(!house.log().contains("\"WARN\""), "{}", house.log());
    server.stop();
    let mut command = house.command(SERVER, "--clear-groups");
    command.args(["serve", "--unix", "nbd.sock", "--pinned", "on"]);
    crate::refusal::refused(command, house.path(), &["locked memory limit", "leave out --pinned on"]);
}

#[test]
fn only_root_and_who_started_a_server_may_operate_it() {
    let Some(house) = House::build() else { return };
    let ctl = |user: u32| {
        let words = ["ctl", "--control", "unix:control", "list"];
        // Root keeps what makes it root.
        let mut command = match user {
            0 => Command::new(&house.program),
            _ => house.command(user, "--clear-groups"),
        };
        command.current_dir(house.path()).args(words).output().unwrap()
    };
    let arguments = ["--shards", "1", "--unix", "nbd.sock", "--control", "unix:control", "mem:1M"];
    let server = house.serve("--clear-groups", &arguments);
    for (user, code) in [(0, 0), (SERVER, 0), (STRANGER, 2)] {
        let output = ctl(user);
        assert_eq!(output.status.code(), Some(code), "{user}: {output:?}");
    }
    server.stop();

    // Started by root; whom the file belongs to then is the one that must not.
    let user = format!("{SERVER}:{SERVER}");
    let mut command = Command::new(&house.program);
    command.args(["serve", "--pidfile", "pid", "--user", &user]).args(arguments).env_remove("RUST_LOG");
    let log = std::fs::File::create(house.path().join("log")).unwrap();
    command.current_dir(house.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let server = Running(command.spawn().unwrap());
    wait_until("the server to be ready", || house.path().join("pid").exists());
    assert_eq!(house.path().join("control").symlink_metadata().unwrap().uid(), SERVER);
    assert_eq!(ctl(0).status.code(), Some(0));
    let output = ctl(SERVER);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("only root may operate this server"), "{told}");
    // The answer does not wait for the log.
    wait_until("it is logged", || house.log().contains("refused at the control socket"));
    server.stop();
    assert!(!house.path().join("control").exists());
}
