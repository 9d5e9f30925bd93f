//! Where clients find the server.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::raw::{Connection, Mode};
use crate::support::server::{Options, Server};
use crate::support::{PATIENCE, wait_until};

#[test]
fn several_listeners_serve_the_same_exports() {
    let server =
        Options::new().export("mem:1M").export("disk 1=mem:2M").tcp("127.0.0.1:0").tcp("localhost:0").start();
    let mut uris: Vec<String> = server
        .log()
        .iter()
        .filter(|line| line["message"] == "serving")
        .map(|line| format!("{} {}", line["export"].as_str().unwrap(), line["uri"].as_str().unwrap()))
        .collect();
    uris.sort();
    let addresses = server.tcp_addresses();
    assert!(addresses.len() >= 2, "{uris:?}");
    assert_eq!(uris.len(), 2 * (1 + addresses.len()), "each export on each listener: {uris:?}");
    assert!(uris.iter().any(|uri| uri.starts_with("disk 1 nbd+unix:///disk%201?socket=/")), "{uris:?}");
    for address in addresses {
        let mut client = Connection::over_tcp(std::net::TcpStream::connect(address).unwrap());
        client.greet(3);
        client.go("disk 1");
        assert_eq!(client.export.size, 2 << 20);
        client.expect_alive();
    }
}

#[test]
fn an_abstract_socket_has_no_file() {
    let name = format!("ringnbd-startup-{}", std::process::id());
    let server = Options::new().without_unix().args(["--unix", &format!("@{name}")]).start();
    let connect = || UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).unwrap());
    let mut client = Connection::over_unix(connect().unwrap());
    client.greet(3);
    client.go("");
    client.expect_alive();
    drop(server);
    assert!(connect().is_err(), "the name is free again");
}

#[test]
fn a_stale_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    let server = Options::new().without_unix().args(["--unix", path.to_str().unwrap()]).start();
    let mut client = Connection::over_unix(UnixStream::connect(&path).unwrap());
    client.greet(3);
    client.go("");
    client.expect_alive();
    drop(server);
    assert!(!path.exists());
}

#[test]
fn the_socket_of_a_successor_survives() {
    let mut server = Server::serve(&["mem:1M"]);
    let moved = server.dir().join("moved");
    std::fs::rename(server.socket(), &moved).unwrap();
    let _successor = UnixListener::bind(server.socket()).unwrap();
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert!(server.socket().exists(), "it belongs to another server now");
    server.crash(); // settles: the socket that is left is the test's
}

/// Starts the server as systemd does: `socket` is fd 3, and LISTEN_FDS says so.
fn activated(socket: OwnedFd, directory: &Path) -> Child {
    let script =
        "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" serve --shards 1 --pidfile pid mem:1M";
    let mut command = Command::new("sh");
    command.args(["-c", script, &crate::binary()]).current_dir(directory).stdin(Stdio::from(socket));
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start the server");
    wait_until("the pidfile", || directory.join("pid").exists());
    child
}

fn terminate(mut child: Child) {
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn sockets_of_systemd_are_served_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let unix = UnixListener::bind(&path).unwrap();
    let child = activated(unix.try_clone().unwrap().into(), directory.path());
    let mut client = Connection::over_unix(UnixStream::connect(&path).unwrap());
    client.greet(3);
    client.go("");
    client.expect_alive();
    terminate(child);
    assert!(path.exists(), "systemd still listens there");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let child = activated(tcp.into(), directory.path());
    let mut client = Connection::over_tcp(std::net::TcpStream::connect(address).unwrap());
    client.greet(3);
    client.go("");
    client.expect_alive();
    terminate(child);
}

#[test]
fn clients_beyond_the_limit_wait() {
    let server = Options::new().export("mem:1M").args(["--max-connections", "2"]).start();
    let first = Connection::attach(&server, "", Mode::Simple);
    let mut second = Connection::attach(&server, "", Mode::Simple);
    let mut third = Connection::open(&server);
    second.expect_alive();
    third.patience(Duration::from_millis(200));
    let greeted = third.read_some(&mut [0; 18]);
    assert_eq!(greeted.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "there is room for two");
    third.patience(PATIENCE);
    drop(first);
    third.greet(3);
    third.go("");
    third.expect_alive();
}

/// What is not said twice can be told twice: both families have the port, and `[::]` alone is IPv6 only.
#[test]
fn all_addresses_of_both_families() {
    let free = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let server =
        Options::new().export("mem:1M").tcp(&format!("0.0.0.0:{free}")).tcp(&format!("[::]:{free}")).start();
    for address in [format!("127.0.0.1:{free}"), format!("[::1]:{free}")] {
        let mut client = Connection::over_tcp(std::net::TcpStream::connect(address).unwrap());
        client.greet(3);
        client.go("");
        client.expect_alive();
    }
    drop(server);
    let server = Options::new().export("mem:1M").without_unix().tcp("[::]:0").start();
    let address = server.tcp_address();
    assert!(std::net::TcpStream::connect(address).is_ok());
    assert!(std::net::TcpStream::connect(("127.0.0.1", address.port())).is_err());
}

#[test]
fn a_port_alone_is_localhost() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Options::new().export("mem:1M").without_unix().tcp(&free.to_string()).start();
    let mut addresses = server.tcp_addresses();
    addresses.sort();
    let expected = [format!("127.0.0.1:{free}"), format!("[::1]:{free}")].map(|text| text.parse().unwrap());
    assert_eq!(addresses, expected);
}

/// What is printed can be given to a client as it stands: to ours a URI, to QEMU its options.
#[test]
fn what_is_printed_can_be_tried_in_a_shell() {
    let directory = tempfile::tempdir().unwrap();
    let name = format!("@ringnbd-test,{}", std::process::id());
    for socket in [&*name, "a b.sock"] {
        let mut command = crate::serve(&["--log-format", "human", "--shards", "1", "--unix", socket]);
        command
            .arg("it's a disk=mem:1M")
            .current_dir(&directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines: Vec<String> =
            BufReader::new(child.stdout.take().unwrap()).lines().take(3).map(Result::unwrap).collect();
        let uri = lines[1].trim();
        assert!(uri.starts_with("'nbd+unix:///") && uri.ends_with('\''), "quoted for any shell: {uri}");
        let (ours, qemu) = lines[2].strip_prefix("Try: ").unwrap().split_once("   or: ").unwrap();
        let qemu = qemu.split_once("   Stop").unwrap().0;
        assert_eq!(ours, format!("ringnbd info {uri}"));
        let mut shell = Command::new("sh");
        shell.args(["-c", &ours.replacen("ringnbd", "\"$0\"", 1), &crate::binary()]);
        tried(shell, "1048576 bytes");
        let found = Command::new("sh").args(["-c", "command -v qemu-img"]).output().unwrap();
        if found.status.success() {
            let mut shell = Command::new("sh");
            shell.args(["-c", qemu]);
            tried(shell, "virtual size: 1 MiB");
        } else {
            eprintln!("skipped: no qemu-img here");
        }
        terminate(child);
    }
}

#[track_caller]
fn tried(mut command: Command, part: &str) {
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains(part), "{command:?}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
}
