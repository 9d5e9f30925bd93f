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

    pub(crate) fn socket(&self) -> Address {
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
pub(crate) fn body(answer: &Answer) -> Value {
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
        "export": "c", "id": "1.0", "etag": "1.0.1", "description": "", "source": "null:1G", "size_bytes": 1u64 << 30, "read_only": false,
        "flags_value": export(&first, "c")["flags_value"], "connections": 0, "state": "serving",
        "limit": {}, "tenant": null, "weight": null,
    });
    assert_eq!(export(&first, "c"), expected);
    let _client = Connection::attach(&subject.server, "", Mode::Simple);
    wait_until("the connection is counted", || export(&list(), "")["connections"] == 1);

    let shown = subject.ctl(&["list"]);
    assert_eq!(shown.status.code(), Some(0), "{shown}");
    let lines: Vec<Vec<&str>> = shown.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[0],
        ["EXPORT", "ID", "SIZE", "ACCESS", "CONNECTIONS", "STATE", "WEIGHT", "LIMITS", "SOURCE"]
    );
    assert_eq!(lines[2], ["c", "1.0", "1", "GiB", "read-write", "0", "serving", "-", "-", "null:1G"]);
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
    let alone = subject.ctl(&["list"]);
    assert_eq!(alone.status.code(), Some(2), "{alone}");
    assert!(alone.stderr.contains("no server listens there"), "{alone}");
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
    for path in ["/", "/metrics", "/api/v1/nothing", "/api/v1/reload/", "/%61pi/v1/exports"] {
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
    let fits = post(&length(BODY), &format!("{{{}}}", " ".repeat(BODY - 2)));
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

/// A server with a configuration that can be changed.
pub(crate) struct Configured {
    pub(crate) subject: Subject,
    pub(crate) file: PathBuf,
    _directory: tempfile::TempDir,
}

pub(crate) const CONFIGURATION: &str =
    "[server]\nslow = \"10s\"\n[[export]]\nname = \"a\"\nuri = \"mem:1M\"\n";

impl Configured {
    #[track_caller]
    pub(crate) fn start(options: Options) -> Self {
        Self::with(options, CONFIGURATION)
    }

    #[track_caller]
    pub(crate) fn with(options: Options, text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("c.toml");
        std::fs::write(&file, text).unwrap();
        let mut options = options.args(["--config", file.to_str().unwrap()]);
        // The tests may run under nohup(1), whose children ignore a hang-up.
        options.wrapper = ["env", "--default-signal=HUP"].map(str::to_owned).into();
        Self { subject: Subject::start(options), file, _directory: directory }
    }

    /// Writes the file anew, as an editor does.
    pub(crate) fn replace(&self, text: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    #[track_caller]
    pub(crate) fn reload(&self) -> (u16, Value) {
        let answer = self.subject.socket().ask("POST", "/api/v1/reload", "Content-Length: 0\r\n");
        (answer.status, body(&answer))
    }

    /// What reloads came to, as the log tells.
    pub(crate) fn logged(&self) -> Vec<String> {
        let results = self
            .subject
            .server
            .log()
            .into_iter()
            .filter_map(|line| Some(line["result"].as_str()?.to_owned()));
        results.collect()
    }

    fn broker(&self) -> u32 {
        let brokers = children(self.subject.server.pid());
        assert_eq!(brokers.len(), 1, "a server has one child");
        brokers[0]
    }
}

/// The state and the parent of a process, while there is one.
fn state(process: &str) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn children(parent: u32) -> Vec<u32> {
    let names =
        std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let found = names.filter(|name| state(name).is_some_and(|(_, of)| of == parent));
    found.filter_map(|name| name.parse().ok()).collect()
}

/// It has ended, though nobody may have asked for its exit code.
fn has_ended(process: u32) -> bool {
    state(&process.to_string()).is_none_or(|(state, _)| state == 'Z')
}

#[test]
fn a_configuration_is_read_again_in_the_sandbox() {
    let server = Configured::start(Options::new());
    let nothing = json!({"result": "unchanged", "error": null, "added": [], "removed": [], "changed": [], "settings": [], "tls_renewed": false, "sessions_ended": 0});
    assert_eq!(server.reload(), (200, nothing.clone()));
    server.replace(&format!("# another file of the same meaning\n{CONFIGURATION}"));
    assert_eq!(server.reload(), (200, nothing));
    let reload = server.subject.ctl(&["reload"]);
    assert_eq!((reload.status.code(), reload.stdout.as_str()), (Some(0), "Nothing to change.\n"), "{reload}");

    let more = CONFIGURATION.replace("mem:1M", "mem:2M").replace("10s", "20s");
    server.replace(&format!("{more}[[export]]\nname = \"b\"\nuri = \"mem:1M\"\n"));
    let (status, answer) = server.reload();
    assert_eq!(status, 409, "{answer}");
    let parts = ["added", "removed", "changed", "settings"].map(|key| answer[key].clone());
    assert_eq!(parts, [json!(["b"]), json!([]), json!(["a"]), json!(["slow"])], "{answer}");
    let reload = server.subject.ctl(&["reload"]);
    assert_eq!(reload.status.code(), Some(1), "{reload}");
    assert!(reload.stderr.contains("restart the server to change new exports \"b\""), "{reload}");
    let list = server.subject.ctl(&["list"]);
    assert!(list.stdout.contains("mem:1M") && !list.stdout.contains("mem:2M"), "all is as it was: {list}");

    server.replace("[server]\nshard = 1\n");
    let (status, answer) = server.reload();
    assert_eq!((status, answer["result"].as_str()), (422, Some("wrong")), "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("c.toml, line 2"), "{answer}");

    std::fs::remove_file(&server.file).unwrap();
    let (status, answer) = server.reload();
    assert_eq!((status, answer["result"].as_str()), (503, Some("unreadable")), "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("No such file"), "{answer}");
    rustix::fs::mknodat(rustix::fs::CWD, &server.file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    assert_eq!(server.reload().0, 503, "a FIFO is not waited for");
    std::fs::remove_file(&server.file).unwrap();
    server.replace(CONFIGURATION);
    assert_eq!(server.reload().0, 200);
}

#[test]
fn a_hang_up_reloads_and_the_manager_of_services_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let mut server = Configured::start(Options::new().env("NOTIFY_SOCKET", path.to_str().unwrap()));
    let heard = || {
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).expect("a notification");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    assert_eq!(heard(), "READY=1");
    for (text, result) in [(CONFIGURATION, "unchanged"), ("x", "wrong")] {
        server.replace(text);
        server.subject.server.signal(rustix::process::Signal::HUP);
        let reloading = heard();
        let time =
            reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading}"));
        assert!(time.parse::<u64>().unwrap() > 0);
        assert_eq!(heard(), "READY=1");
        wait_until("the log tells of it", || server.logged().last().is_some_and(|last| last == result));
    }
    server.subject.server.stop();
    assert_eq!(heard(), "STOPPING=1");
}

#[test]
fn a_broker_that_died_is_told_and_the_server_goes_on() {
    let server = Configured::start(Options::new());
    let _client = Connection::attach(&server.subject.server, "a", Mode::Simple);
    let broker = rustix::process::Pid::from_raw(server.broker() as i32).unwrap();
    // What a terminal or a manager of services sends to all.
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM, rustix::process::Signal::HUP]
    {
        rustix::process::kill_process(broker, signal).unwrap();
    }
    assert_eq!(server.reload().0, 200, "it ends with its server");
    rustix::process::kill_process(broker, rustix::process::Signal::KILL).unwrap();
    wait_until("the log tells of it", || {
        server.subject.server.stderr().contains("restart the server when you can")
    });
    let (status, answer) = server.reload();
    assert_eq!(status, 503, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("has ended"), "{answer}");
    assert_eq!(server.subject.ctl(&["list"]).status.code(), Some(0));
}

#[test]
fn the_broker_has_nothing_and_ends_with_its_server() {
    let mut server = Configured::start(Options::new().env("SECRET", "in the environment"));
    let broker = server.broker();
    let of = |name: &str| format!("/proc/{broker}/{name}");
    assert_eq!(std::fs::read(of("environ")).unwrap(), b"");
    let mut descriptors: Vec<String> = std::fs::read_dir(of("fd"))
        .unwrap()
        .map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
        .collect();
    descriptors.sort();
    // Two of its socket, and the directories of exports, of which there is none.
    let kinds: Vec<&str> = descriptors.iter().map(|target| target.split(':').next().unwrap()).collect();
    assert_eq!(kinds, ["/dev/null", "/dev/null", "socket", "socket"], "{descriptors:?}");
    assert_eq!(descriptors[2], descriptors[3]);
    server.subject.server.crash();
    wait_until("the broker to end", || has_ended(broker));
}

#[test]
fn there_is_a_broker_only_where_it_is_needed() {
    let server = Options::new().export("mem:1M").args(["--admin", "127.0.0.1:0"]).start();
    assert_eq!(children(server.pid()), [] as [u32; 0]);
    let binary = Command::new(binary()).arg("broker").stdin(std::process::Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&binary.stderr);
    assert!(binary.status.code() == Some(2) && told.contains("no command of its own"), "{told}");
}

#[test]
fn directories_that_are_not_there_are_refused_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("c.toml");
    std::fs::write(&file, "[server]\nallow-directories = [\"missing\"]\n[[export]]\nuri = \"mem:1M\"\n")
        .unwrap();
    let mut command = Command::new(binary());
    let finished = peers::run(command.args(["serve", "--shards", "1", "--config"]).arg(&file));
    assert_eq!(finished.status.code(), Some(2), "{finished}");
    assert!(
        finished.stderr.contains("cannot open the directory") && finished.stderr.contains("missing"),
        "{finished}"
    );
}

#[test]
fn top_shows_what_is_done() {
    let subject = Subject::start(Options::new().export("a=mem:1M").export("b\u{1b}c=null:1G"));
    let control = format!("unix:{}", subject.path.display());
    let mut client = Connection::attach(&subject.server, "a", Mode::Simple);
    client.call(&crate::support::raw::Request::read(0, 4096));
    let top =
        |words: &[&str]| peers::run(Command::new(binary()).args(["top", "--interval", "100ms"]).args(words));
    let json = top(&["--control", &control, "--json"]).ok();
    let json: Value = serde_json::from_str(&json).unwrap();
    let of = |name: &str| json["exports"].as_array().unwrap().iter().find(|of| of["export"] == name).unwrap();
    assert_eq!((&of("a")["connections"], &of("a")["size_bytes"]), (&json!(1), &json!(1 << 20)));
    assert_eq!((&json["client_count"], &json["clients"][0]["requests"]), (&json!(1), &json!(1)));
    // Not a terminal: once, and without what a terminal would obey.
    let text = top(&["--control", &control]).ok();
    assert!(text.contains("b\\u{1b}c") && !text.contains('\u{1b}'), "{text}");
    let finished = top(&["--control", "unix:/no/such/socket"]);
    assert_eq!(finished.status.code(), Some(2), "{finished}");
    assert!(finished.stderr.contains("start the server with --control"), "{finished}");
    let figures = body(&subject.socket().get("/api/v1/figures?since_unix_ms=0"));
    assert_eq!(figures["exports"][0]["reads"], 1, "{figures}");
    let idle = figures["exports"].as_array().unwrap().iter().find(|of| of["export"] != "a").unwrap();
    assert_eq!(idle.as_object().unwrap().len(), 2, "an idle export has its name and its size: {idle}");
}
