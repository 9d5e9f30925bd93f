//! What a running server has given up, seen from outside and tried from inside.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use libc::c_long;
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::support::image::Image;
use crate::support::raw::{Connection, Mode};
use crate::support::server::{Options, Server};
use crate::support::wait_until;

/// A line of `/proc/PID/task/*/status`, by the name of the thread.
fn of_threads(process: u32, field: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (thread, name) in threads(process) {
        let status = std::fs::read_to_string(format!("/proc/{process}/task/{thread}/status"));
        // The kernel ends its own threads when it likes.
        let Ok(status) = status else { continue };
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let line = line.unwrap_or_else(|| panic!("no {field} in {status}"));
        found.entry(name).or_default().push(line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    found
}

fn threads(process: u32) -> Vec<(u32, String)> {
    let entries = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let entries = entries.map(|entry| entry.unwrap());
    let named = entries.filter_map(|entry| {
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((entry.file_name().to_str().unwrap().parse().unwrap(), name.trim().to_owned()))
    });
    named.collect()
}

#[track_caller]
fn all_threads(process: u32, field: &str, value: &str) {
    let found = of_threads(process, field);
    let count: usize = found.values().map(Vec::len).sum();
    assert!(count >= 4, "the server, a shard, its helpers: {found:?}");
    assert!(found.values().flatten().all(|have| have == value), "{field} {value}: {found:?}");
}

/// What the log says of a part.
#[track_caller]
fn part(server: &Server, name: &str) -> String {
    let log = server.log();
    let lines: Vec<_> = log.iter().filter(|line| line["message"] == "sandbox").collect();
    assert_eq!(lines.len(), 1, "one line tells what is active: {log:?}");
    lines[0][name].as_str().unwrap_or_else(|| panic!("{name}: {}", lines[0])).to_owned()
}

fn exercise(client: &mut Connection) {
    let data: Vec<u8> = (0..1 << 20).map(|index| (index % 251) as u8).collect();
    client.write(4096, &data);
    client.flush();
    assert_eq!(client.read(4096, 1 << 20), data);
}

#[test]
fn every_thread_is_confined() {
    let image = Image::sparse(8 << 20);
    let server = Options::new()
        .export(image.path.to_str().unwrap())
        .shards(2)
        .memory("160M")
        .args(["--admin", "127.0.0.1:0"])
        .start();
    assert_eq!(part(&server, "no_new_privileges"), "yes");
    assert_eq!(part(&server, "seccomp"), "yes");
    let mut client = Connection::attach(&server, "", Mode::Extended);
    for _before_and_after_the_kernel_has_made_threads_of_its_own in 0..2 {
        all_threads(server.pid(), "NoNewPrivs:", "1");
        all_threads(server.pid(), "Seccomp:", "2");
        exercise(&mut client);
    }
}

#[test]
fn off_is_off() {
    let server = Options::new().export("mem:1M").args(["--sandbox", "off"]).start();
    all_threads(server.pid(), "NoNewPrivs:", "0");
    all_threads(server.pid(), "Seccomp:", "0");
    assert_eq!(part(&server, "landlock"), "no: switched off");
}

/// Makes calls from inside a server.
#[cfg(target_arch = "x86_64")]
mod inside {
    use super::*;
    use crate::handover_images::house;
    use crate::tracer::Outcome::{self, Errno, Killed, Success};
    use crate::tracer::Thread;

    /// One of the server's threads of each kind. A new thread has the name of the one that made it, until it gives itself its own.
    fn one_of_each(process: u32) -> BTreeMap<String, u32> {
        let mut all = BTreeMap::new();
        wait_until("the threads to have their names", || {
            all = threads(process).into_iter().map(|(thread, name)| (name, thread)).collect();
            all.contains_key("shard-0") && all.contains_key("ringnbd-helper")
        });
        all
    }

    fn thread(server: &Server, name: &str) -> Thread {
        let all = one_of_each(server.pid());
        Thread::stop(server.pid(), *all.get(name).unwrap_or_else(|| panic!("no {name}: {all:?}")))
    }

    fn open(thread: &mut Thread, path: &Path, flags: i32) -> Outcome {
        let path = [path.as_os_str().as_encoded_bytes(), b"\0"].concat();
        let path = thread.put(&path);
        thread.call(libc::SYS_openat, &[libc::AT_FDCWD as u64, path, flags as u64, 0o600])
    }

    #[test]
    fn forbidden_calls_fail_and_the_server_goes_on() {
        let image = Image::sparse(8 << 20);
        let server = Options::new().export(image.path.to_str().unwrap()).start();
        let mut client = Connection::attach(&server, "", Mode::Structured);
        exercise(&mut client);
        let landlock = !part(&server, "landlock").starts_with("no");
        for (name, thread) in one_of_each(server.pid()) {
            if name.starts_with("iou-") {
                continue; // the kernel's own: it makes no system calls
            }
            let mut thread = Thread::stop(server.pid(), thread);
            let pid = u64::from(server.pid());
            assert_eq!(thread.call(libc::SYS_getpid, &[]), Success(pid), "{name}: calls arrive");
            let executable = (libc::PROT_READ | libc::PROT_EXEC) as u64;
            let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
            for (call, arguments, errno) in [
                (libc::SYS_socket, &[libc::AF_INET as u64, libc::SOCK_STREAM as u64][..], libc::EPERM),
                (libc::SYS_socket, &[libc::AF_UNIX as u64, libc::SOCK_DGRAM as u64], libc::EPERM),
                (libc::SYS_connect, &[0, 0, 0], libc::EPERM),
                (libc::SYS_bind, &[0, 0, 0], libc::EPERM),
                (libc::SYS_fork, &[], libc::EPERM),
                (libc::SYS_clone, &[libc::SIGCHLD as u64], libc::EPERM),
                (libc::SYS_clone3, &[0, 0], libc::ENOSYS),
                (libc::SYS_kill, &[1, 0], libc::EPERM),
                (libc::SYS_tgkill, &[1, 1, 0], libc::EPERM),
                (libc::SYS_setresuid, &[0, 0, 0], libc::EPERM),
                (libc::SYS_mmap, &[0, 4096, executable, private, u64::MAX, 0], libc::EPERM),
                (libc::SYS_io_uring_setup, &[1, 0], libc::EPERM),
                (libc::SYS_io_uring_register, &[0, 20, 0, 0], libc::EPERM),
                (libc::SYS_ioctl, &[2, libc::TIOCSTI], libc::EPERM),
                (libc::SYS_fcntl, &[0, libc::F_SETOWN as u64, 1], libc::EPERM),
                (libc::SYS_prlimit64, &[0, libc::RLIMIT_NOFILE as u64, 8, 0], libc::EPERM),
                (libc::SYS_memfd_create, &[0, 0], libc::EPERM),
                (5000, &[], libc::ENOSYS),
                // A number of the x32 calls.
                (0x4000_0000 | libc::SYS_socket, &[], libc::ENOSYS),
            ] {
                assert_eq!(thread.call(call, arguments), Errno(errno), "{name}: call {call} {arguments:?}");
            }
            let foreign = Path::new("/etc/passwd");
            assert_eq!(open(&mut thread, foreign, libc::O_RDWR), Errno(libc::EPERM), "{name}");
            let new = server.dir().join("new");
            assert_eq!(open(&mut thread, &new, libc::O_CREAT | libc::O_WRONLY), Errno(libc::EPERM), "{name}");
            if landlock {
                assert_eq!(open(&mut thread, foreign, libc::O_RDONLY), Errno(libc::EACCES), "{name}");
                assert_eq!(open(&mut thread, &image.path, libc::O_RDONLY), Errno(libc::EACCES), "{name}");
            }
        }
        exercise(&mut client);
        drop(server);
        assert!(image.path.exists());
    }

    #[test]
    fn only_the_control_plane_can_remove_and_only_beside_its_own() {
        let server = Server::serve(&["mem:1M"]);
        if part(&server, "landlock").starts_with("no") {
            return;
        }
        let (beside, elsewhere) = (server.dir().join("beside"), tempfile::NamedTempFile::new().unwrap());
        std::fs::write(&beside, "").unwrap();
        let remove = |name: &str, path: &Path| {
            let mut thread = thread(&server, name);
            let path = [path.as_os_str().as_encoded_bytes(), b"\0"].concat();
            let path = thread.put(&path);
            thread.call(libc::SYS_unlink, &[path])
        };
        assert_eq!(remove("shard-0", &beside), Errno(libc::EACCES));
        assert_eq!(remove("ringnbd-helper", elsewhere.path()), Errno(libc::EACCES));
        assert_eq!(remove("ringnbd", elsewhere.path()), Errno(libc::EACCES));
        assert_eq!(remove("ringnbd", &beside), Success(0));
    }

    /// With stores, seccomp lets files be made: only Landlock says where, by thread.
    #[test]
    fn only_the_threads_of_a_store_reach_it_and_nothing_else() {
        let house = house();
        let (store, beside) = (house.path().join("store"), house.path().join("base"));
        std::os::unix::fs::symlink(&beside, store.join("leads-out")).unwrap();
        let server = Options::new().export(format!("store:{}", store.display())).start();
        if part(&server, "landlock").starts_with("no") {
            return;
        }
        let mut client = Connection::attach(&server, "vm1", Mode::Structured);
        exercise(&mut client);
        let mut theirs = BTreeMap::new();
        for (name, id) in one_of_each(server.pid()) {
            if name.starts_with("iou-") {
                continue; // the kernel's own: it makes no system calls
            }
            let mut thread = Thread::stop(server.pid(), id);
            let make = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
            let made = open(&mut thread, &store.join(format!("made-by-{id}")), make);
            let looked = open(&mut thread, &store.join("lock"), libc::O_RDONLY);
            assert_eq!(
                matches!(made, Success(_)),
                matches!(looked, Success(_)),
                "{name}: {made:?}, {looked:?}"
            );
            assert!(matches!(made, Success(_) | Errno(libc::EACCES)), "{name}: {made:?}");
            theirs.insert(name.clone(), matches!(made, Success(_)));
            for (path, flags) in [
                (house.path().join(format!("made-by-{id}")), make),
                (beside.clone(), libc::O_RDONLY),
                (beside.clone(), libc::O_RDWR),
                // Names that lead out of the store again.
                (store.join("../base"), libc::O_RDONLY),
                (store.join("leads-out"), libc::O_RDWR),
                ("/etc/passwd".into(), libc::O_RDONLY),
            ] {
                assert_eq!(
                    open(&mut thread, &path, flags),
                    Errno(libc::EACCES),
                    "{name}: {path:?} {flags:#x}"
                );
            }
        }
        let may = |wanted| theirs.iter().filter(move |(_, may)| **may == wanted).map(|(name, _)| &**name);
        assert_eq!(may(true).collect::<Vec<_>>(), ["store"]);
        assert!(
            ["ringnbd", "shard-0"].iter().all(|name| may(false).any(|other| other == *name)),
            "{theirs:?}"
        );
        exercise(&mut client);
    }

    #[test]
    fn a_hostile_call_is_the_end() {
        let hostile: [c_long; 4] = [libc::SYS_execve, libc::SYS_ptrace, libc::SYS_bpf, libc::SYS_unshare];
        for call in hostile {
            let mut server = Server::serve(&["mem:1M"]);
            let outcome = thread(&server, "shard-0").call(call, &[0; 6]);
            assert_eq!(outcome, Killed(libc::SIGSYS), "{call}");
            server.crash();
        }
    }

    #[test]
    fn aborting_is_allowed() {
        let mut server = Server::serve(&["mem:1M"]);
        let id = one_of_each(server.pid())["shard-0"];
        let mut thread = Thread::stop(server.pid(), id);
        let abort = [u64::from(server.pid()), u64::from(id), libc::SIGABRT as u64];
        assert_eq!(thread.call(libc::SYS_tgkill, &abort), Success(0));
        assert_eq!(thread.dies_of(), libc::SIGABRT);
        server.crash();
    }

    #[test]
    fn nothing_is_forbidden_when_it_is_off() {
        let server = Options::new().export("mem:1M").args(["--sandbox", "off"]).start();
        let mut thread = thread(&server, "shard-0");
        let socket = thread.call(libc::SYS_socket, &[libc::AF_INET as u64, libc::SOCK_STREAM as u64]);
        assert!(matches!(socket, Success(_)), "{socket:?}");
        let file = open(&mut thread, Path::new("/etc/passwd"), libc::O_RDONLY);
        assert!(matches!(file, Success(_)), "{file:?}");
    }
}

/// A kernel without a part of it: the call fails for this command and its children.
fn without(mut command: Command, call: c_long) -> Command {
    // SAFETY: between fork and exec the closure makes two system calls and touches nothing but its own stack.
    unsafe { command.pre_exec(move || crate::forbid(call, libc::ENOSYS)) };
    command
}

#[test]
fn auto_takes_what_there_is_and_on_takes_no_less() {
    for (call, missing, there) in [
        (libc::SYS_seccomp, "seccomp", "landlock"),
        (libc::SYS_landlock_create_ruleset, "landlock", "seccomp"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let serve = |mode: &str| {
            let arguments = ["--unix", "s", "--pidfile", "pid", "--shards", "1", "--sandbox", mode, "mem:1M"];
            let mut command = without(crate::serve(&arguments), call);
            command.current_dir(&directory).stdout(Stdio::null());
            command
        };
        let output = serve("on").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains("--sandbox auto"), "{stderr}");
        assert!(stderr.to_lowercase().contains(missing), "{stderr}");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "nothing is left behind");

        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let mut child = serve("auto").stderr(log).spawn().unwrap();
        wait_until("the pidfile", || directory.path().join("pid").exists());
        greet(&directory.path().join("s"));
        stop(&mut child, &directory.path().join("pid"));
        let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
        let line = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let line = line
            .into_iter()
            .find(|line| line["message"] == "sandbox")
            .expect("a line that tells what is active");
        assert!(line[missing].as_str().unwrap().starts_with("no: "), "{line}");
        assert!(!line[there].as_str().unwrap().starts_with("no: switched off"), "{line}");
    }
}

fn greet(socket: &Path) -> Connection {
    let mut client = Connection::over_unix(UnixStream::connect(socket).unwrap());
    client.greet(3);
    client.go("");
    client
}

fn stop(child: &mut Child, pidfile: &Path) {
    let pid = std::fs::read_to_string(pidfile).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

/// A user that is no one else, by number; he need not exist.
const STRANGER: u32 = 60_123;

fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can become somebody else");
    }
    root
}

/// Runs a server as the stranger, on a disk that only root can open. Gives its log.
#[track_caller]
fn serve_as_stranger(directory: &Path, extra: &[&str]) -> String {
    let image = Image::sparse(4 << 20);
    let user = format!("{STRANGER}:{STRANGER}");
    let export = image.path.to_str().unwrap();
    let arguments =
        [&["--user", &user, "--unix", "s", "--pidfile", "pid", "--shards", "2", export], extra].concat();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = crate::serve(&arguments);
    command.current_dir(directory).stdout(Stdio::null()).stderr(log.reopen().unwrap());
    let mut child = command.spawn().unwrap();
    let pidfile = directory.join("pid");
    let text = || std::fs::read_to_string(log.path()).unwrap();
    wait_until("the server to be up", || {
        assert!(child.try_wait().unwrap().is_none(), "{}", text());
        pidfile.exists() && text().contains("\"serving\"")
    });
    let pid = std::fs::read_to_string(&pidfile).unwrap().trim().parse().unwrap();
    let mut client = greet(&directory.join("s"));
    exercise(&mut client);
    all_threads(pid, "Uid:", &[STRANGER; 4].map(|id| id.to_string()).join(" "));
    all_threads(pid, "Gid:", &[STRANGER; 4].map(|id| id.to_string()).join(" "));
    all_threads(pid, "Groups:", "");
    all_threads(pid, "CapEff:", "0000000000000000");
    all_threads(pid, "CapPrm:", "0000000000000000");
    all_threads(pid, "Seccomp:", "2");
    let socket = directory.join("s").metadata().unwrap();
    assert_eq!((socket.uid(), socket.gid()), (STRANGER, STRANGER), "it can be connected to by its user");
    let latencies = directory.join("hlog");
    if let Ok(log) = std::fs::File::options().write(true).open(&latencies) {
        log.set_len(0).unwrap();
        let begun = |text: String| text.contains("machine: ");
        wait_until("the latency log to be begun anew", || {
            std::fs::read_to_string(&latencies).is_ok_and(begun)
        });
        exercise(&mut client);
    }
    drop(client);
    stop(&mut child, &pidfile);
    text()
}

#[test]
fn the_user_changes_and_keeps_what_is_open() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(STRANGER), None).unwrap();
    let admin = ["--admin", "unix:admin", "--latency-log", "hlog"];
    let log = serve_as_stranger(directory.path(), &admin);
    assert!(!log.contains("WARN"), "{log}");
    let left: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["hlog"]);
    let lines = std::fs::read_to_string(directory.path().join("hlog")).unwrap();
    assert!(lines.contains("Tag="), "latencies were written to the end: {lines}");
    assert!(
        lines.contains(" CPUs (") && lines.contains("Linux 6."),
        "it is known what made the log: {lines}"
    );
}

#[test]
fn a_directory_of_root_is_served_from_and_told_about() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let log = serve_as_stranger(directory.path(), &[]);
    assert!(log.contains("a directory of its own"), "{log}");
    // The next server finds both, and replaces them.
    serve_as_stranger(directory.path(), &[]);
}

#[test]
fn nobody_becomes_somebody_who_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    for (user, parts) in [
        ("no-such-user", &["no user no-such-user", "--user"][..]),
        ("root:no-such-group", &["no group no-such-group", "--user NAME:GROUP"]),
        ("4000000000", &["4000000000", "--user 4000000000:GROUP"]),
    ] {
        let command = crate::serve(&["--unix", "s", "--pidfile", "pid", "--user", user]);
        crate::refusal::refused(command, directory.path(), parts);
    }
    let mut command = Command::new("setpriv");
    if geteuid().is_root() {
        command.args(["--bounding-set=-setuid", "--inh-caps=-setuid"]);
    }
    command.arg(crate::binary()).args(["serve", "--unix", "s", "--user", "60123:60123"]);
    crate::refusal::refused(command, directory.path(), &["no permission", "60123:60123", "start as root"]);
}
