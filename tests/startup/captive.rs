//! How long a server lives that something else started: `--run`, `--exit-last`, `--exit-with-parent`, and the program as `qemu-nbd`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::support::raw::{Connection, Request};
use crate::support::wait_until;
use crate::support::wire::*;
use crate::{binary, peers, serve};

fn output(arguments: &[&str]) -> Output {
    serve(arguments).args(["--shards", "1"]).output().unwrap()
}

fn client(socket: &Path) -> Connection {
    // Its name is there a moment before it listens.
    let mut connected = None;
    wait_until("it listens", || {
        connected = UnixStream::connect(socket).ok();
        connected.is_some()
    });
    let mut client = Connection::over_unix(connected.expect("it listens"));
    client.greet(MODERN);
    client.go("");
    client
}

/// The program under the name that QEMU's has, in a directory of its own.
fn qemu_nbd(directory: &Path) -> Command {
    let program = directory.join("qemu-nbd");
    if !program.exists() {
        symlink(binary(), &program).unwrap();
    }
    let mut command = Command::new("timeout");
    command.arg("30").arg(program).env_remove("RUST_LOG").current_dir(directory);
    command
}

#[test]
fn a_command_finds_the_server_and_ends_it() {
    let script = "echo \"$uri|$unixsocket|$exportname\"; test -S \"$unixsocket\" && exit 7";
    let ended = output(&["--run", script, "a b=mem:1M"]);
    assert_eq!(ended.status.code(), Some(7), "{}", String::from_utf8_lossy(&ended.stderr));
    let text = String::from_utf8(ended.stdout).unwrap();
    // In front of it, what `serve` tells people: this is no terminal, so nothing.
    let [uri, socket, name] = text.trim_end().split('|').collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert_eq!((name, uri), ("a b", &*format!("nbd+unix:///a%20b?socket={socket}")));
    assert!(!Path::new(socket).parent().unwrap().exists(), "nothing is left");
}

/// As nbdkit's users write it. Without a command nobody would find the socket.
#[test]
fn a_dash_is_a_socket_of_the_command_alone() {
    for dash in [&["-U", "-"][..], &["-U-"], &["--unix", "-"]] {
        let script = "echo \"$unixsocket\"; test -S \"$unixsocket\" && exit 7";
        let ended = output(&[dash, &["--run", script, "mem:1M"]].concat());
        assert_eq!(ended.status.code(), Some(7), "{dash:?}: {}", String::from_utf8_lossy(&ended.stderr));
        let socket = String::from_utf8(ended.stdout).unwrap();
        assert!(socket.starts_with('/'), "{dash:?}: {socket}");
        let ended = output(&[dash, &["mem:1M"]].concat());
        assert_eq!(ended.status.code(), Some(2), "{dash:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("--run"), "{ended:?}");
    }
    assert!(!Path::new("-").exists());
}

#[test]
fn a_command_can_use_it_over_tcp_too() {
    let script = format!("{} info --json \"$uri\" && test \"$port\" -gt 0", binary());
    let ended = output(&["--tcp", "127.0.0.1:0", "--run", &script, "mem:3M"]);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let told: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(told["size"], 3 << 20);
}

#[test]
fn what_cannot_be_served_runs_nothing() {
    let ended = output(&["--run", "echo ran", "/nowhere/disk"]);
    assert_eq!((ended.status.code(), &*ended.stdout), (Some(2), &b""[..]));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("/nowhere/disk"));
}

#[test]
fn a_signal_ends_the_command_and_then_the_server() {
    let script = "echo \"$unixsocket\"; exec sleep 1000";
    let mut command = Command::new(binary());
    command.args(["serve", "--shards", "1", "--run", script, "mem:1M"]).env_remove("RUST_LOG");
    let mut outer = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(outer.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let socket = PathBuf::from(line.trim_end());
    drop(client(&socket));
    terminate(&outer);
    assert_eq!(outer.wait().unwrap().code(), Some(128 + libc::SIGTERM));
    assert!(!socket.parent().unwrap().exists());
}

fn terminate(child: &Child) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::TERM)
        .unwrap();
}

#[test]
fn the_last_client_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let mut server = serve(&["--shards", "1", "--exit-last", "--unix", socket.to_str().unwrap(), "mem:1M"]);
    let mut server = server.stderr(Stdio::null()).spawn().unwrap();
    wait_until("it listens", || UnixStream::connect(&socket).is_ok());
    // Who looks and goes is no client: neither who says nothing, nor who only asks.
    drop(UnixStream::connect(&socket).unwrap());
    let mut looks = Connection::over_unix(UnixStream::connect(&socket).unwrap());
    looks.greet(MODERN);
    drop(looks);
    let (mut first, mut second) = (client(&socket), client(&socket));
    first.send_request(&Request::disconnect());
    first.expect_close("DISC");
    second.write(0, &[7; 512]);
    assert_eq!(second.read(0, 512), [7; 512]);
    assert_eq!(server.try_wait().unwrap(), None);
    drop(second);
    assert!(server.wait().unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn the_end_of_who_started_it_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let [socket, pidfile] = ["s", "p"].map(|name| directory.path().join(name));
    let line = format!(
        "'{}' serve --shards 1 --exit-with-parent --unix '{}' --pidfile '{}' mem:1M & read -r _",
        binary(),
        socket.display(),
        pidfile.display()
    );
    let mut parent = Command::new("sh");
    let mut parent = parent.args(["-c", &line]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it is up", || pidfile.exists());
    let mut client = client(&socket);
    assert_eq!(client.read(0, 512), [0; 512]);
    parent.stdin.take().unwrap().write_all(b"\n").unwrap();
    parent.wait().unwrap();
    client.expect_close("its server has stopped");
    wait_until("nothing is left", || !socket.exists() && !pidfile.exists());
}

#[test]
fn a_call_of_qemu_nbd_serves() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("disk"), vec![5; 1 << 20]).unwrap();
    let socket = directory.path().join("s");
    let start = |more: &[&str]| {
        let mut command = qemu_nbd(directory.path());
        command.args(["-f", "raw", "-k", socket.to_str().unwrap()]).args(more).arg("disk");
        command
    };
    // It stays behind, and says so by returning.
    let started = start(&["--fork", "--pid-file=p", "-r"]).output().unwrap();
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    assert!(directory.path().join("p").exists());
    let mut only = client(&socket);
    assert_eq!(only.read(0, 512), [5; 512]);
    only.fail(&Request::write(0, vec![0; 512]), NBD_EPERM);
    only.send_request(&Request::disconnect());
    only.expect_close("DISC");
    wait_until("it has ended", || !socket.exists() && !directory.path().join("p").exists());
    // What is written is thrown away.
    let mut server = start(&["-s"]).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it listens", || UnixStream::connect(&socket).is_ok());
    let mut writer = client(&socket);
    writer.write(0, &[1; 512]);
    assert_eq!(writer.read(0, 1024), [[1; 512], [5; 512]].concat());
    drop(writer);
    assert!(server.wait().unwrap().success());
    assert_eq!(std::fs::read(directory.path().join("disk")).unwrap(), vec![5; 1 << 20]);
}

#[test]
fn a_call_of_qemu_nbd_that_has_no_meaning_here_says_so() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("disk"), b"QFI\xfb and more").unwrap();
    for (arguments, says) in [
        (&["-t", "disk"][..], "qcow2"),
        (&["-f", "qcow2", "disk"], "qcow2"),
        (&["-t"], "FILE"),
        (&["--frobnicate"], "--frobnicate"),
    ] {
        let ended = qemu_nbd(directory.path()).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && text.contains(says), "{arguments:?}: {text}");
    }
}

#[test]
fn tools_of_qemu_use_it_by_that_name() {
    let Some(mut tool) = peers::command("qemu-img") else { return };
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("disk"), vec![5; 1 << 20]).unwrap();
    let socket = directory.path().join("s");
    let mut command = qemu_nbd(directory.path());
    let started = command.args(["--fork", "-f", "raw", "-x", "a", "-k", "s", "disk"]).output().unwrap();
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let uri = format!("nbd+unix:///a?socket={}", socket.display());
    let text = peers::run(tool.args(["info", "--output=json", &uri])).ok();
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["virtual-size"], 1 << 20);
    wait_until("it has ended with its last client", || !socket.exists());
}
