//! The control socket: who finds it where, what it answers, and what it refuses.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::http::{Address, Answer};
use crate::peers::{self, Finished};
use crate::support::raw::{Connection, Mode};
use crate::support::server::{Options, Server};
use crate::support::wait_until;

/// Connections that the control socket has room for.
const ROOM: usize = 16;
/// The longest body.
const BODY: usize = 64 << 10;

pub(crate) struct Subject {
    pub(crate) server: Server,
    pub(crate) path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Subject {
    #[track_caller]
    pub(crate) fn start(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let address = format!("unix:{}", path.display());
        Self { server: options.args(["--control", &address]).start(), path, _directory: directory }
    }

    fn socket(&self) -> Address {
        Address::Unix(self.path.clone())
    }

    pub(crate) fn ctl(&self, words: &[&str]) -> Finished {
        ctl(&format!("unix:{}", self.path.display()), words)
    }
}

fn binary() -> String {
    std::env::var("RINGNBD_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ringnbd").into())
}

fn ctl(address: &str, words: &[&str]) -> Finished {
    peers::run(Command::new(binary()).args(["ctl", "--control", address]).args(words))
}

#[track_caller]
fn body(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), "application/json", "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
}

#[test]
fn exports_are_listed() {
    let subject = Subject::start(Options::new().export("mem:1M").export("c=null:1G"));
    let list = || body(&subject.socket().get("/api/v1/exports"));
    let export = |list: &Value, name: &str| {
        let found = list["exports"].as_array().unwrap().iter().find(|export| export["export"] == name);
        found.unwrap_or_else(|| panic!("{list}")).clone()
    };
    let first = list();
    assert_eq!(first["exports"].as_array().unwrap().len(), 2);
    let expected = json!({
        "export": "c", "id": "1.0", "description": "", "source": "null:1G", "size_bytes": 1u64 << 30, "read_only": false,
        "flags_value": export(&first, "c")["flags_value"], "connections": 0, "state": "serving",
    });
    assert_eq!(export(&first, "c"), expected);
    let _client = Connection::attach(&subject.server, "", Mode::Simple);
    wait_until("the connection is counted", || export(&list(), "")["connections"] == 1);

    let shown = subject.ctl(&["list"]);
    assert_eq!(shown.status.code(), Some(0), "{shown}");
    let lines: Vec<Vec<&str>> = shown.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["EXPORT", "ID", "SIZE", "ACCESS", "CONNECTIONS", "STATE", "SOURCE"]);
    assert_eq!(lines[2], ["c", "1.0", "1", "GiB", "read-write", "0", "serving", "null:1G"]);
    let shown = subject.ctl(&["list", "--json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap_or_else(|error| panic!("{error}: {shown}"));
    assert_eq!(export(&shown, "c"), expected);
}

#[test]
fn the_socket_is_for_its_user_and_goes_with_the_server() {
    let mut subject = Subject::start(Options::new().export("mem:1M"));
    let mode = subject.path.symlink_metadata().unwrap().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let told = subject.server.log().into_iter().find(|line| line["message"] == "control");
    assert_eq!(told.unwrap()["address"], format!("unix:{}", subject.path.display()));
    subject.server.stop();
    assert!(!subject.path.exists());
    let nobody = subject.ctl(&["list"]);
    assert_eq!(nobody.status.code(), Some(2), "{nobody}");
    assert!(nobody.stderr.contains("nobody listens there"), "{nobody}");
}

#[test]
fn it_stands_beside_the_pidfile_of_a_server_with_a_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let configuration = directory.path().join("c.toml");
    std::fs::write(&configuration, "[[export]]\nuri = \"mem:1M\"\n").unwrap();
    let arguments = ["--config", configuration.to_str().unwrap()];
    let server = Options::new().args(arguments).start();
    let beside = server.pidfile().with_extension("control");
    let list = ctl(&format!("unix:{}", beside.display()), &["list"]);
    assert_eq!(list.status.code(), Some(0), "{list}");
    drop(server);
    let server = Options::new().args(arguments).args(["--control", "off"]).start();
    assert!(!server.pidfile().with_extension("control").exists());
    let server = Options::new().export("mem:1M").start();
    assert!(!server.pidfile().with_extension("control").exists(), "without a configuration there is none");
}

#[test]
fn what_it_does_not_know_is_an_error_with_a_sentence() {
    let subject = Subject::start(Options::new().export("mem:1M"));
    let socket = subject.socket();
    for path in ["/", "/metrics", "/api/v1/nothing", "/api/v1/exports/", "/%61pi/v1/exports"] {
        let answer = socket.get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(body(&answer)["error"].as_str().unwrap().contains("GET /api/v1/exports"), "{answer:?}");
    }
    for (method, path, allowed) in [
        ("DELETE", "/api/v1/exports", "GET"),
        ("GET", "/api/v1/reload", "POST"),
        ("BREW", "/api/v1/reload", "POST"),
    ] {
        let answer = socket.ask(method, path, "");
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, &*allowed.to_ascii_lowercase()),
            "{method}"
        );
        assert!(body(&answer)["error"].as_str().unwrap().contains(allowed), "{answer:?}");
    }
    let post = |headers: &str, body: &str| {
        let head = format!("POST /api/v1/reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        socket.raw((head + body).as_bytes())
    };
    let length = |length: usize| format!("Content-Length: {length}\r\n");
    let fits = post(&length(BODY), &"x".repeat(BODY));
    assert_eq!((fits.status, body(&fits)["result"].as_str()), (409, Some("no_configuration")));
    assert_eq!(post(&length(BODY + 1), "").status, 413, "it is not waited for");
    let chunk = format!("{:x}\r\n{}\r\n", BODY / 2 + 1, "x".repeat(BODY / 2 + 1));
    assert_eq!(post("Transfer-Encoding: chunked\r\n", &format!("{chunk}{chunk}0\r\n\r\n")).status, 413);
    assert_eq!(post("Transfer-Encoding: chunked\r\n", "zz\r\n").status, 400);
    assert_eq!(socket.get("/api/v1/exports").status, 200);
}

#[test]
fn a_reload_without_a_configuration_says_so() {
    let subject = Subject::start(Options::new().export("mem:1M"));
    let reload = subject.ctl(&["reload"]);
    assert_eq!(reload.status.code(), Some(1), "{reload}");
    assert!(reload.stderr.contains("--config"), "{reload}");
}

#[test]
fn its_places_are_its_own() {
    let subject = Subject::start(Options::new().export("mem:1M").args(["--admin", "127.0.0.1:0"]));
    let admin = Address::of(&subject.server);
    let ask = b"GET /api/v1/exports HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut holders: Vec<_> = (0..ROOM).map(|_| subject.socket().connect()).collect();
    let mut byte = [0];
    for holder in &mut holders {
        // Answered, so that it has its place; and kept.
        holder.write_all(ask).unwrap();
        holder.read_exact(&mut byte).unwrap();
    }
    let mut late = subject.socket().connect();
    late.write_all(ask).unwrap();
    assert_eq!(admin.get("/healthz").status, 200, "the admin server has places of its own");
    drop(holders.pop());
    late.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"H", "one that leaves makes room");
}

#[test]
fn a_socket_that_cannot_be_had_is_refused_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| format!("unix:{}", directory.path().join(name).display());
    let _live = UnixListener::bind(directory.path().join("live")).unwrap();
    std::fs::write(directory.path().join("file"), "data").unwrap();
    for (address, words) in [
        (path("live"), &["in use", "--control unix:PATH"][..]),
        (path("file"), &["not a socket", "--control unix:PATH"]),
        (path("no/socket"), &["directory", "--control unix:PATH"]),
    ] {
        let mut command = Command::new(binary());
        let arguments = ["serve", "mem:1M", "--shards", "1", "--tcp", "127.0.0.1:0", "--control", &address];
        let finished = peers::run(command.args(arguments));
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(words.iter().all(|word| finished.stderr.contains(word)), "{finished}");
    }
    assert_eq!(std::fs::read_to_string(directory.path().join("file")).unwrap(), "data");
}

#[test]
fn what_is_no_control_socket_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other");
    let other = UnixListener::bind(&path).unwrap();
    let answers = std::thread::spawn(move || {
        let (mut client, _) = other.accept().unwrap();
        let mut request = [0; 4];
        client.read_exact(&mut request).unwrap();
        client.write_all(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
    });
    let list = ctl(&format!("unix:{}", path.display()), &["list"]);
    answers.join().unwrap();
    assert_eq!(list.status.code(), Some(2), "{list}");
    assert_eq!(list.stderr.lines().count(), 1, "{list}");
}
