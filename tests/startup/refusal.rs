//! What cannot be served: one sentence that names cause and remedy, exit code 2, nothing left behind.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::serve;

/// Runs a server that must refuse to start in `directory`, and gives its sentence.
#[track_caller]
fn refusal(mut command: Command, directory: &Path) -> String {
    let before = names(directory);
    let output = command.current_dir(directory).output().expect("run the server");
    let stderr = String::from_utf8(output.stderr).expect("stderr is text");
    assert_eq!(output.status.code(), Some(2), "{command:?}: {stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{command:?}");
    assert_eq!(names(directory), before, "{command:?} left something behind");
    stderr
}

/// The refusal is one line for people, and names all of `parts`.
#[track_caller]
pub(crate) fn refused(command: Command, directory: &Path, parts: &[&str]) {
    let stderr = refusal(command, directory);
    assert_eq!(stderr.lines().count(), 1, "one sentence: {stderr}");
    assert!(stderr.starts_with("ringnbd: "), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is missing in: {stderr}");
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("list the directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Arguments that make files, so that one sees whether they are left behind.
const FILES: [&str; 4] = ["--unix", "nbd.sock", "--pidfile", "pid"];

#[test]
fn wrong_exports() {
    let directory = tempfile::tempdir().unwrap();
    let serve = |export: &str| serve(&[&FILES[..], &[export]].concat());
    let path = directory.path();
    std::fs::create_dir(path.join("dir")).unwrap();
    refused(serve("missing.img"), path, &["missing.img", "does not exist", "create it"]);
    refused(serve("x=file:missing.img?direct=true"), path, &["missing.img", "does not exist"]);
    refused(serve("dir"), path, &["dir", "neither a regular file nor a block device"]);
    refused(serve("mem:7E"), path, &["smaller mem:"]);
    std::fs::write(path.join("disk.img"), [0; 4096]).unwrap();
    refused(serve("disk.img?direct=true"), path, &["'file:disk.img?direct=true'"]);
    refused(serve("disk.img?what=true"), path, &["does not exist", "create it"]);
    refused(serve("/dev/null"), path, &["/dev/null", "neither a regular file nor a block device"]);
}

#[test]
fn wrong_words_are_usage_errors() {
    let directory = tempfile::tempdir().unwrap();
    for (words, parts) in [
        (&["mem:10GB"][..], &["10GB", "10GiB"][..]),
        (&["mem:0"], &["0 bytes", "1G"]),
        (&["a=null:0K"], &["0 bytes", "1G"]),
        (&["qcow2:x"], &["qcow2:", "file:"]),
        (&["file:x?directly=true"], &["directly=true", "direct="]),
        (&["fault:error=EWHAT@1%:mem:1M"], &["EWHAT@1%", "EIO@1%"]),
        (&["--memory", "much"], &["much", "10G"]),
        (&["--busy-poll", "50"], &["50", "50us"]),
        (&["--cpus", "0..3"], &["0..3", "0-3,5"]),
        (&["--tcp", "::1:10809"], &["::1:10809", "[::1]:10809"]),
        (&["--tcp", "65536"], &["65536", "0 (any free one) to 65535"]),
        (&["--unix", "s", "--unix-mode", "rw"], &["rw", "0660"]),
        (&["--pinned", "on", "--unpinned"], &["--pinned", "--unpinned"]),
        (&["--shards", "many"], &["many"]),
        (&["--stdio", "--tcp", "127.0.0.1:0"], &["--stdio", "--tcp"]),
        (&["--no-such-flag"], &["--no-such-flag"]),
    ] {
        let stderr = refusal(serve(words), directory.path());
        for part in parts {
            assert!(stderr.contains(part), "{part:?} is missing in: {stderr}");
        }
    }
}

#[test]
fn wrong_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    refused(serve(&["--memory", "90M", "--shards", "2"]), path, &["90M", "2 shards", "--memory 96M"]);
    refused(
        serve(&["--memory", "1000T"]),
        path,
        &["1000T", "this machine or control group has", "less --memory"],
    );
    refused(serve(&["--shards", "0"]), path, &["0 shards", "one per CPU"]);
    refused(serve(&["--cpus", "8191"]), path, &["CPU 8191", "choose from"]);
    refused(serve(&["--max-connections", "0"]), path, &["--max-connections"]);
    refused(serve(&["--device-depth", "0"]), path, &["--device-depth"]);
    refused(serve(&["--handshake-timeout", "0"]), path, &["--handshake-timeout"]);
    refused(serve(&["--unix-mode", "0660"]), path, &["--unix PATH", "SocketMode="]);
    refused(serve(&["--unix-group", "nobodys-group", "--unix", "s"]), path, &["nobodys-group", "groupadd"]);
    refused(serve(&["a=mem:1M", "a=mem:1M"]), path, &["two exports", "\"a\""]);
    refused(serve(&["mem:1M", "mem:1M"]), path, &["two exports", "NAME=URI"]);
}

#[test]
fn wrong_configuration_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    refused(serve(&["--config", "c.toml"]), path, &["c.toml", "No such file"]);
    for (text, parts) in [
        ("[server]\nshard = 1\n", &["c.toml, line 2", "shard"][..]),
        ("[server]\n\ntcp = 10809\n", &["c.toml, line 3", "tcp is 10809", "address"]),
        ("[server]\nshards = \"two\"\n", &["c.toml, line 2", "shards is the text \"two\"", "a whole number"]),
        ("[server]\nread-only = 1\n", &["c.toml, line 2", "read-only is 1", "true or false"]),
        ("[[export]]\nuri = 3\n", &["c.toml, line 2", "uri is 3", "in quotes"]),
        ("[[export]]\nname = \"x\"\n", &["c.toml, line 1", "uri"]),
        ("[[export]]\nuri = \"mem:x\"\n", &["c.toml, line 2", "not a size"]),
        ("not toml", &["c.toml, line 1"]),
    ] {
        std::fs::write(path.join("c.toml"), text).unwrap();
        refused(serve(&["--config", "c.toml"]), path, parts);
    }
}

#[test]
fn an_export_of_the_command_line_is_one_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::write(path.join("c.toml"), "[[export]]\nname = \"a\"\nuri = \"mem:1M\"\n").unwrap();
    refused(serve(&["--config", "c.toml", "a=mem:2M"]), path, &["two exports", "\"a\""]);
    let output = serve(&["--check", "--config", "c.toml", "b=mem:2M"]).current_dir(path).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        told.contains("a: mem:1M, 1048576 bytes\n") && told.contains("b: mem:2M, 2097152 bytes\n"),
        "{told}"
    );
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("exports of c.toml: 1; added by the command line: 1"), "{log}");
}

/// Everything that can be wrong is found, nothing is made, and a running server is not in the way.
#[test]
fn a_check_serves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = busy.local_addr().unwrap().to_string();
    std::fs::create_dir(path.join("etc")).unwrap();
    std::fs::write(path.join("etc/disk.img"), [0; 4096]).unwrap();
    let text = "[server]\nunix = \"nbd.sock\"\npidfile = \"pid\"\n[[export]]\nuri = \"disk.img\"\n";
    std::fs::write(path.join("etc/c.toml"), text).unwrap();
    let check = |words: &[&str]| {
        let mut command = serve(&[&["--check", "--config", "etc/c.toml"], words].concat());
        command.env("RUST_LOG", "error");
        command
    };
    let output = check(&["--tcp", &busy]).current_dir(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("etc/disk.img, 4096 bytes"));
    assert_eq!(names(&path.join("etc")), ["c.toml", "disk.img"]);
    refused(check(&["b=missing.img"]), path, &["missing.img does not exist"]);
    refused(check(&["--unix-group", "nobodys-group"]), path, &["nobodys-group"]);
    refused(check(&["--user", "nobody-at-all"]), path, &["nobody-at-all"]);
    refused(check(&["--shards", "0"]), path, &["0 shards"]);
}

/// What is odd but can be served is told in one line.
#[test]
fn sentences_about_what_is_odd() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("empty.img"), "").unwrap();
    for (words, filter, parts) in [
        (&["empty.img"][..], "info", &["empty.img is empty", "truncate -s"][..]),
        (&["mem:1M", "--shards", "9", "--cpus", "0"], "info", &["9 shards share 1 CPU", "--shards 1"]),
        (&["mem:1M"], "ringnbd=loud", &["RUST_LOG=ringnbd=loud", "debug"]),
        (&["mem:1M"], "info", &[]),
    ] {
        let mut command = serve(&[&["--check", "--memory", "900M"], words].concat());
        let output = command.env("RUST_LOG", filter).current_dir(&directory).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
        assert_eq!(warnings.len(), usize::from(!parts.is_empty()), "{words:?}: {log}");
        assert!(parts.iter().all(|part| log.contains(part)), "{parts:?}: {log}");
    }
}

#[test]
fn busy_and_impossible_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = busy.local_addr().unwrap().to_string();
    let tcp = |address: &str| serve(&[&FILES[..], &["--tcp", address]].concat());
    refused(tcp(&busy), path, &[&busy, "in use", "another port"]);
    refused(tcp("192.0.2.1:1"), path, &["192.0.2.1:1", "not an address of this machine"]);
    refused(tcp("host.invalid:1"), path, &["host.invalid", "cannot find"]);
    std::fs::write(path.join("file"), "data").unwrap();
    let _live = UnixListener::bind(path.join("live")).unwrap();
    let unix = |address: &str| serve(&["--pidfile", "pid", "--tcp", "127.0.0.1:0", "--unix", address]);
    refused(unix("file"), path, &["file", "not a socket", "remove it"]);
    refused(unix("live"), path, &["live", "running server", "another --unix"]);
    refused(unix("no/socket"), path, &["no/socket", "directory", "create it"]);
    assert_eq!(std::fs::read_to_string(path.join("file")).unwrap(), "data");
    let pidfile = serve(&["--unix", "nbd.sock", "--pidfile", "no/pid"]);
    refused(pidfile, path, &["no/pid", "another --pidfile"]);
}

#[test]
fn with_json_the_sentence_is_a_log_line() {
    let directory = tempfile::tempdir().unwrap();
    let stderr = refusal(serve(&["--log-format", "json", "missing.img"]), directory.path());
    let line: serde_json::Value = serde_json::from_str(stderr.trim_end()).expect("one JSON object");
    assert_eq!(line["level"], "ERROR");
    assert!(line["message"].as_str().expect("a message").contains("missing.img does not exist"));
}

#[test]
fn too_few_files() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("prlimit");
    command.arg("--nofile=40:40").arg("--").arg(crate::binary()).arg("serve").args(FILES);
    refused(command, directory.path(), &["40 open files", "ulimit -n"]);
}

#[test]
fn too_little_locked_memory() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("prlimit");
    command.args(["--memlock=65536:65536", "--"]);
    if rustix::process::geteuid().is_root() {
        // The limit holds for those without this capability.
        command.args(["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]);
    }
    command.arg(crate::binary()).args(["serve", "--pinned", "on"]).args(FILES);
    refused(command, directory.path(), &["locked memory limit", "ulimit -l"]);
}

#[test]
fn no_io_uring() {
    let directory = tempfile::tempdir().unwrap();
    for (errno, part) in [(libc::EPERM, "kernel.io_uring_disabled"), (libc::ENOSYS, "Linux 6.1")] {
        let mut command = serve(&FILES);
        // SAFETY: between fork and exec the closure makes two system calls and touches nothing but its own stack.
        unsafe { command.pre_exec(move || crate::forbid(libc::SYS_io_uring_setup, errno)) };
        refused(command, directory.path(), &["io_uring", part]);
    }
}
