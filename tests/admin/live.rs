//! Exports that come, go and change while clients are there, by the control socket and by reloads.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::control::{Configured, Subject, body};
use crate::http::Answer;
use crate::support::raw::{Connection, Mode, Request};
use crate::support::server::Options;
use crate::support::wait_until;
use crate::support::wire::*;

/// Sends a request with a body.
#[track_caller]
pub(crate) fn send(subject: &Subject, (method, path): (&str, &str), headers: &str, text: &str) -> Answer {
    let length = text.len();
    subject.socket().raw(
        format!(
            "{method} /api/v1/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{text}"
        )
        .as_bytes(),
    )
}

#[track_caller]
pub(crate) fn put(subject: &Subject, name: &str, value: &Value) -> Answer {
    send(subject, ("PUT", &format!("exports/{name}")), "", &value.to_string())
}

#[track_caller]
pub(crate) fn sentence(answer: &Answer) -> String {
    body(answer)["error"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

/// No client finds an export of this name.
#[track_caller]
fn is_missing(subject: &Subject, name: &str) {
    let mut client = Connection::haggling(&subject.server);
    client.expect_only(NBD_OPT_GO, &info_data(name.as_bytes(), &[]), NBD_REP_ERR_UNKNOWN);
    assert_eq!(subject.socket().get(&format!("/api/v1/exports/{name}")).status, 404, "{name}");
}

#[test]
fn an_export_comes_changes_and_goes() {
    let subject = Subject::start(Options::new().export("mem:1M"));
    let answer = put(&subject, "new", &json!({"uri": "mem:2M", "description": "d"}));
    assert_eq!(answer.status, 201, "{answer:?}");
    let (first, told) = (answer.header("etag").to_owned(), body(&answer));
    assert_eq!((&told["size_bytes"], &told["description"]), (&json!(2 << 20), &json!("d")));
    assert_eq!(first, format!("\"{}\"", told["etag"].as_str().unwrap()));
    let mut client = Connection::attach(&subject.server, "new", Mode::Simple);
    client.write(0, b"stays");
    let same = put(&subject, "new", &json!({"uri": "mem:2M", "description": "d"}));
    assert_eq!((same.status, same.header("etag")), (200, &*first), "nothing was changed");

    let patch = |headers: &str, text: &str| send(&subject, ("PATCH", "exports/new"), headers, text);
    let answer = patch(&format!("If-Match: {first}\r\n"), r#"{"description": "e"}"#);
    assert_eq!((answer.status, body(&answer)["description"].as_str()), (200, Some("e")), "{answer:?}");
    assert_ne!(answer.header("etag"), first);
    assert_eq!(client.read(0, 5), b"stays", "its client goes on");
    let mut second = Connection::attach(&subject.server, "new", Mode::Simple);
    assert_eq!(second.read(0, 5), b"stays", "it is the same disk");
    let late = patch(&format!("If-Match: {first}\r\n"), r#"{"description": "f"}"#);
    assert_eq!(late.status, 412, "{late:?}");

    let answer = patch("", r#"{"read_only": true}"#);
    assert_eq!((answer.status, body(&answer)["read_only"].as_bool()), (200, Some(true)), "{answer:?}");
    let mut third = Connection::attach(&subject.server, "new", Mode::Simple);
    assert_eq!(third.read(0, 5), b"stays");
    second.expect_close("its access has changed");

    let forbidden = patch("", r#"{"allow": ["uid=4000000000"]}"#);
    assert_eq!(forbidden.status, 200, "{forbidden:?}");
    assert_eq!(third.read(0, 5), b"stays", "rights are for those that come");
    let mut refused = Connection::haggling(&subject.server);
    refused.expect_only(NBD_OPT_GO, &info_data(b"new", &[]), NBD_REP_ERR_UNKNOWN);
    let etag = forbidden.header("etag").to_owned();
    let stale = send(&subject, ("DELETE", "exports/new?mode=hard"), "If-Match: \"0.0.0\"\r\n", "");
    assert_eq!(stale.status, 412, "{stale:?}");
    let gone = send(&subject, ("DELETE", "exports/new?mode=hard"), &format!("If-Match: {etag}\r\n"), "");
    assert_eq!(gone.status, 200, "{gone:?}");
    third.expect_close("it was cut off");
    is_missing(&subject, "new");
    assert_eq!(send(&subject, ("DELETE", "exports/new"), "", "").status, 404);
    client.expect_alive();
}

#[test]
fn an_export_goes_in_three_ways() {
    let subject = Subject::start(Options::new().export("mem:1M"));
    for mode in ["hide", "soft", "hard"] {
        let answer = put(&subject, "e", &json!({"uri": "fault:delay.write=300ms:mem:1M"}));
        assert_eq!(answer.status, 201, "{mode}: {answer:?}");
        let mut idle = Connection::attach(&subject.server, "e", Mode::Simple);
        let mut busy = Connection::attach(&subject.server, "e", Mode::Simple);
        let write = Request::write(0, vec![7; 512]).cookie(1);
        busy.send_request(&write);
        busy.expect_in_flight(&subject, 1);
        let removed = send(&subject, ("DELETE", &format!("exports/e?mode={mode}")), "", "");
        assert_eq!((removed.status, body(&removed)["connections"].as_u64()), (200, Some(2)), "{removed:?}");
        is_missing(&subject, "e");
        match mode {
            "hide" => {
                assert_eq!(busy.reply_to(&write).error, 0);
                assert_eq!(idle.read(0, 512), vec![7; 512], "its clients go on");
            }
            "soft" => {
                let read = Request::read(0, 512).cookie(2);
                busy.send_request(&read);
                let mut in_flight = vec![write, read];
                let replies = [busy.next_reply(&mut in_flight), busy.next_reply(&mut in_flight)];
                let error = |cookie: u64| {
                    replies.iter().find(|(request, _)| request.cookie == cookie).map(|(_, reply)| reply.error)
                };
                assert_eq!(
                    (error(1), error(2)),
                    (Some(0), Some(NBD_ESHUTDOWN)),
                    "what had begun is answered"
                );
                busy.expect_close("all was answered");
                idle.expect_close("nothing was under way");
            }
            _ => {
                busy.expect_close("it was cut off");
                idle.expect_close("it was cut off");
            }
        }
    }
    let wrong = send(&subject, ("DELETE", "exports/e?mode=gently"), "", "");
    assert_eq!(wrong.status, 422, "{wrong:?}");
}

impl Connection {
    /// Waits until a request of some connection is with its device.
    #[track_caller]
    fn expect_in_flight(&self, subject: &Subject, count: u64) {
        wait_until("the request to begin", || {
            let list = body(&subject.socket().get("/api/v1/connections"));
            let sum: u64 = list["connections"]
                .as_array()
                .unwrap()
                .iter()
                .map(|of| of["in_flight"].as_u64().unwrap())
                .sum();
            sum == count
        });
    }
}

#[test]
fn files_come_from_allowed_directories_in_the_sandbox() {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["first", "second", "taken"] {
        std::fs::File::create(path(name)).unwrap().set_len(1 << 20).unwrap();
    }
    symlink(path("second"), path("link")).unwrap();
    let uri = |name: &str| format!("file:{}", path(name).display());
    let subject = Subject::start(Options::new().export(format!("first={}", uri("first"))));
    let answer = put(&subject, "second", &json!({"uri": uri("second")}));
    assert_eq!(answer.status, 201, "{answer:?}");
    let mut client = Connection::attach(&subject.server, "second", Mode::Simple);
    client.write(4096, &[7; 512]);
    client.flush();
    client.succeed(&Request::write(8192, vec![8; 512]).flags(NBD_CMD_FLAG_FUA));
    assert_eq!(client.read(4096, 512), [7; 512]);
    assert_eq!(std::fs::read(path("second")).unwrap()[8192..8704], [8; 512]);

    // Others that lock it as this server does are kept out.
    let other = Options::new().export(format!("taken={}", uri("taken"))).start();
    for (name, value, words) in [
        ("taken", uri("taken"), "is in use by"),
        ("link", uri("link"), "symbolic link"),
        ("missing", uri("missing"), "No such file"),
        ("outside", "file:/etc/passwd?readonly=true".to_owned(), "allow-directories"),
        ("relative", "file:first".to_owned(), "allow-directories"),
        ("image", format!("store:{}/a", directory.path().display()), "restart it"),
    ] {
        let answer = put(&subject, name, &json!({"uri": value}));
        assert_eq!(answer.status, 409, "{name}: {answer:?}");
        assert!(sentence(&answer).contains(words), "{name}: {answer:?}");
        is_missing(&subject, name);
    }
    drop(other);

    let removed = subject.ctl(&["export", "rm", "second", "--mode", "hard"]);
    assert_eq!(removed.status.code(), Some(0), "{removed}");
    client.expect_close("it was cut off");
    let fds = || {
        let names = std::fs::read_dir(format!("/proc/{}/fd", subject.server.pid())).unwrap().flatten();
        let files = names.filter_map(|name| std::fs::read_link(name.path()).ok());
        files.filter(|file| file.ends_with("second")).count()
    };
    wait_until("its descriptors to be closed", || fds() == 0);
    // Whoever locks it now is let in.
    let _other = Options::new().export(format!("second={}", uri("second"))).start();
}

#[test]
fn commands_say_what_was_done() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("a.img");
    std::fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let subject = Subject::start(Options::new().export(format!("first={}", image.display())));
    let ctl = |words: &[&str]| subject.ctl(words);
    let added = ctl(&["export", "add", "vm/1", "mem:1M", "--read-only", "--description", "x"]);
    assert_eq!(added.status.code(), Some(0), "{added}");
    assert!(added.stdout.contains("vm/1") && added.stdout.contains("read-only"), "{added}");
    let again = ctl(&["export", "add", "vm/1", "mem:1M"]);
    assert!(again.status.code() == Some(2) && again.stderr.contains("already"), "{again}");
    let shown: Value = serde_json::from_str(&ctl(&["export", "show", "vm/1", "--json"]).stdout).unwrap();
    let etag = shown["etag"].as_str().unwrap();
    assert_eq!(
        ctl(&["export", "set", "vm/1", "--read-only=false", "--if-match", etag]).status.code(),
        Some(0)
    );
    let stale = ctl(&["export", "rm", "vm/1", "--if-match", etag]);
    assert!(stale.status.code() == Some(2) && stale.stderr.contains("look at it again"), "{stale}");

    let mut client = Connection::attach(&subject.server, "vm/1", Mode::Simple);
    client.expect_alive();
    let list = ctl(&["connection", "list", "--json"]);
    let list: Value = serde_json::from_str(&list.stdout).unwrap_or_else(|error| panic!("{error}: {list}"));
    assert_eq!(list["connections"][0]["export"], "vm/1");
    let id = list["connections"][0]["id"].as_str().unwrap();
    assert_eq!(subject.socket().get(&format!("/api/v1/connections/{id}")).status, 200);
    assert!(ctl(&["connection", "list"]).stdout.contains(id));
    let killed = ctl(&["connection", "kill", id]);
    assert_eq!(killed.status.code(), Some(0), "{killed}");
    client.expect_close("it was cut off");
    let again = ctl(&["connection", "kill", id]);
    assert!(again.status.code() == Some(2) && again.stderr.contains("no connection"), "{again}");
    for wrong in ["", "x", "0", "99.1", "0.99999999999999999999"] {
        assert_eq!(ctl(&["connection", "kill", wrong]).status.code(), Some(2), "{wrong}");
    }

    let health = ctl(&["health"]);
    assert!(health.status.code() == Some(0) && health.stdout.starts_with("ok: 2 exports"), "{health}");
    let removed = ctl(&["export", "rm", "vm/1"]);
    assert!(removed.status.code() == Some(0) && removed.stdout.contains("not served any more"), "{removed}");
    let log = subject.server.log();
    assert!(log.iter().any(|line| line["reason"] == "cut off by an operator"), "{log:?}");
    let drained = ctl(&["drain"]);
    assert_eq!(drained.status.code(), Some(0), "{drained}");
    wait_until("the server to end", || !subject.path.exists());
}

#[test]
fn hostile_requests_change_nothing() {
    let subject = Subject::start(Options::new().export("mem:1M"));
    for (method, path, headers, text, status) in [
        ("PUT", "exports/a", "", "", 422),
        ("PUT", "exports/a", "", "{}", 422),
        ("PUT", "exports/a", "", "[[[[", 422),
        ("PUT", "exports/a", "", r#"{"uri": "mem:1M", "uri2": 1}"#, 422),
        ("PUT", "exports/a", "", r#"{"uri": "mem:99999E"}"#, 422),
        ("PUT", "exports/a", "", r#"{"uri": "mem:1M", "tls": "required"}"#, 409),
        ("PUT", "exports/a%00b", "", r#"{"uri": "mem:1M"}"#, 422),
        ("PUT", "exports/%ff", "", r#"{"uri": "mem:1M"}"#, 404),
        ("PUT", "exports/a", "If-None-Match: x\r\n", r#"{"uri": "mem:1M"}"#, 400),
        ("PUT", "exports/a", "If-Match: *\r\n", r#"{"uri": "mem:1M"}"#, 412),
        ("PATCH", "exports/a", "", "{}", 404),
        ("POST", "exports/a", "", "{}", 405),
        ("DELETE", "connections/..%2F..", "", "", 404),
        ("POST", "reload?dry_run=perhaps", "", "", 422),
    ] {
        let answer = send(&subject, (method, path), headers, text);
        assert_eq!(answer.status, status, "{method} {path} {text}: {answer:?}");
        assert!(!sentence(&answer).is_empty());
    }
    let long = "x".repeat(5000);
    assert_eq!(put(&subject, &long, &json!({"uri": "mem:1M"})).status, 422, "a name that is too long");
    let list = body(&subject.socket().get("/api/v1/exports"));
    assert_eq!(list["exports"].as_array().unwrap().len(), 1, "{list}");
    Connection::attach(&subject.server, "", Mode::Simple).expect_alive();
}

fn export(name: &str, uri: &str) -> String {
    format!("[[export]]\nname = \"{name}\"\nuri = \"{uri}\"\n")
}

fn file_uri(directory: &Path, name: &str) -> String {
    format!("file:{}", directory.join(name).display())
}

#[test]
fn a_reload_changes_all_exports_or_none() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        std::fs::File::create(directory.path().join(name)).unwrap().set_len(1 << 20).unwrap();
    }
    let a = export("a", &file_uri(directory.path(), "a"));
    let server = Configured::with(
        Options::new(),
        &(a.clone() + &export("gone", "mem:1M") + &export("same", "mem:1M")),
    );
    let subject = &server.subject;
    let mut gone = Connection::attach(&subject.server, "gone", Mode::Simple);
    let mut same = Connection::attach(&subject.server, "same", Mode::Simple);
    same.write(0, b"same");
    gone.expect_alive();
    let new = |more: &str| {
        a.clone() + &export("same", "mem:1M") + &export("b", &file_uri(directory.path(), "b")) + more
    };
    server.replace(&new(&export("missing", &file_uri(directory.path(), "missing"))));
    let (status, answer) = server.reload();
    assert_eq!((status, answer["result"].as_str()), (409, Some("refused")), "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("No such file"), "{answer}");
    is_missing(subject, "b");
    gone.expect_alive();

    server.replace(&new(""));
    let plan = subject.ctl(&["reload", "--dry-run"]);
    assert_eq!(plan.status.code(), Some(0), "{plan}");
    assert!(plan.stdout.contains("new     b") && plan.stdout.contains("removed gone"), "{plan}");
    is_missing(subject, "b");
    gone.expect_alive();
    subject.server.signal(rustix::process::Signal::HUP);
    wait_until("the reload", || server.logged().last().is_some_and(|last| last == "exports"));
    gone.expect_close("its export was removed");
    is_missing(subject, "gone");
    let mut b = Connection::attach(&subject.server, "b", Mode::Simple);
    b.write(0, b"b");
    assert_eq!(same.read(0, 4), b"same");
    assert_eq!(server.reload().1["result"], "unchanged");

    // An export that goes by the control socket comes again by a reload; one that came by it is left alone.
    assert_eq!(subject.ctl(&["export", "rm", "b"]).status.code(), Some(0));
    assert_eq!(subject.ctl(&["export", "add", "own", "mem:1M"]).status.code(), Some(0));
    let (status, answer) = server.reload();
    assert_eq!((status, answer["added"].clone()), (200, json!(["b"])), "{answer}");
    assert_eq!(subject.ctl(&["export", "show", "own"]).status.code(), Some(0));
    server.replace(&new(&export("own", "mem:2M")));
    let (status, answer) = server.reload();
    assert_eq!((status, answer["result"].as_str()), (409, Some("refused")), "{answer}");
    assert_eq!(subject.ctl(&["export", "rm", "own"]).status.code(), Some(0));
    let (status, answer) = server.reload();
    assert_eq!((status, answer["result"].as_str()), (200, Some("exports")), "{answer}");
    // New defaults are for exports that come by the control socket, too.
    server.replace(&format!("allow = \"uid=4000000000\"\n{}", new(&export("own", "mem:2M"))));
    let (status, answer) = server.reload();
    assert_eq!((status, answer["result"].as_str()), (200, Some("rights")), "{answer}");
    assert_eq!(subject.ctl(&["export", "add", "later", "mem:1M"]).status.code(), Some(0));
    let mut refused = Connection::haggling(&subject.server);
    refused.expect_only(NBD_OPT_GO, &info_data(b"later", &[]), NBD_REP_ERR_UNKNOWN);
    assert_eq!(same.read(0, 4), b"same");
}

#[test]
fn readers_look_and_change_nothing() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let text = format!("[server]\ncontrol-readers = [60001]\n{}", export("a", "mem:1M"));
    let server = Configured::with(Options::new(), &text);
    std::fs::set_permissions(
        server.subject.path.parent().unwrap(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let socket = server.subject.path.to_str().unwrap();
    // What a user gets: a status, or none when it is disconnected.
    let ask = |user: u32, method: &str, path: &str| {
        let program = "import socket, sys\n\
            s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])\n\
            try:\n    s.sendall((sys.argv[2] + ' ' + sys.argv[3] + ' HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n').encode())\n    \
            print(s.recv(12).decode()[9:])\n\
            except OSError: pass";
        let mut command = std::process::Command::new("python3");
        command.args(["-c", program, socket, method, path]);
        let output = std::os::unix::process::CommandExt::uid(&mut command, user).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(ask(60001, "GET", "/api/v1/exports"), "200");
    assert_eq!(ask(60001, "DELETE", "/api/v1/exports/a"), "403");
    assert_eq!(ask(60001, "POST", "/api/v1/reload"), "403");
    assert_eq!(ask(60002, "GET", "/api/v1/exports"), "");
    assert_eq!(ask(0, "DELETE", "/api/v1/exports/a"), "200");
}
