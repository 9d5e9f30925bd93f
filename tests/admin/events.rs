//! What happens, as those hear it who follow: at the control socket, at the admin server, by `ctl events`.

use serde_json::{Value, json};

use crate::control::Subject;
use crate::http::{Address, Stream};
use crate::live::{put, send};
use crate::support::server::Options;
use crate::support::wait_until;

/// Those who may follow at the same time.
const FOLLOWERS: usize = 8;

/// A reader of a stream of events, by HTTP/1.0: it comes as it is.
struct Follower {
    stream: Box<dyn Stream>,
    text: String,
}

impl Follower {
    #[track_caller]
    fn start(address: &Address, headers: &str) -> Self {
        let mut follower = Self { stream: address.connect(), text: String::new() };
        let request = format!("GET /api/v1/events HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n");
        follower.stream.write_all(request.as_bytes()).unwrap();
        follower
    }

    /// Reads on; false at the end.
    #[track_caller]
    fn more(&mut self) -> bool {
        let mut bytes = [0; 8192];
        let count =
            self.stream.read(&mut bytes).unwrap_or_else(|error| panic!("{error}: {:.2000}", self.text));
        self.text += std::str::from_utf8(&bytes[..count]).unwrap();
        count > 0
    }

    #[track_caller]
    fn until(&mut self, part: &str) {
        while !self.text.contains(part) {
            assert!(self.more(), "no {part}: {:.2000}", self.text);
        }
    }

    /// The answer has begun: what happens from now on comes.
    #[track_caller]
    fn begun(mut self) -> Self {
        self.until("\n\nretry: 1000\nid: ".replace("\n\n", "\r\n\r\n").as_str());
        assert!(
            self.text.starts_with("HTTP/1.0 200") || self.text.starts_with("HTTP/1.1 200"),
            "{}",
            self.text
        );
        assert!(self.text.to_ascii_lowercase().contains("content-type: text/event-stream"), "{}", self.text);
        self
    }

    /// The ids, kinds and data of all that has come.
    fn events(&self) -> Vec<(String, String, Value)> {
        let body = self.text.split_once("\r\n\r\n").unwrap().1;
        let (mut id, mut kind, mut found) = (String::new(), String::new(), Vec::new());
        for line in body.lines() {
            match line.split_once(": ") {
                Some(("id", text)) => text.clone_into(&mut id),
                Some(("event", text)) => text.clone_into(&mut kind),
                Some(("data", text)) => {
                    let data = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
                    found.push((id.clone(), std::mem::take(&mut kind), data));
                }
                _ => {}
            }
        }
        found
    }

    fn kinds(&self) -> Vec<String> {
        self.events().into_iter().map(|(_, kind, _)| kind).collect()
    }
}

#[test]
fn what_happens_is_told_to_all_who_follow() {
    let mut subject = Subject::start(Options::new().export("mem:1M").args(["--admin", "127.0.0.1:0"]));
    let (control, admin) = (subject.socket(), Address::of(&subject.server));
    let mut followers = [&control, &admin].map(|address| Follower::start(address, "").begun());
    assert_eq!(put(&subject, "a%20b", &json!({"uri": "mem:2M"})).status, 201);
    let limit = |iops: u64| json!({"limit": {"iops": iops}}).to_string();
    assert_eq!(send(&subject, ("PATCH", "exports/a%20b"), "", &limit(100)).status, 200);
    assert_eq!(send(&subject, ("PATCH", "exports/a%20b"), "", &limit(100)).status, 200, "nothing happens");
    assert_eq!(put(&subject, "a%20b", &json!({"uri": "mem:3M"})).status, 200);
    assert_eq!(send(&subject, ("POST", "reload"), "", "").status, 409);
    assert_eq!(send(&subject, ("DELETE", "exports/a%20b"), "", "").status, 200);
    let expected = ["export_added", "export_changed", "export_changed", "reloaded", "export_removed"];
    for follower in &mut followers {
        follower.until("event: export_removed\ndata: ");
        follower.until("}\n\n");
        while follower.events().len() < expected.len() {
            assert!(follower.more());
        }
        assert_eq!(follower.kinds(), expected);
        let (_, _, added) = &follower.events()[0];
        assert_eq!((&added["export"], &added["size_bytes"]), (&json!("a b"), &json!(2 << 20)), "{added}");
        assert!(added["unix_ms"].as_u64().is_some_and(|moment| moment > 1_700_000_000_000), "{added}");
        assert_eq!(follower.events()[3].2["result"], "no_configuration");
    }
    let events = followers[0].events();
    assert_eq!(events, followers[1].events(), "both have the same numbers");

    // Who comes back names what it had last.
    let mut back = Follower::start(&admin, &format!("Last-Event-ID: {}\r\n", events[2].0)).begun();
    back.until("event: export_removed\ndata: ");
    back.until("}\n\n");
    assert_eq!(back.kinds(), expected[3..]);
    // An id of another process: all of this one, and that something may be missing.
    let mut strange = Follower::start(&control, "Last-Event-ID: 5-5\r\n").begun();
    strange.until("event: export_removed\ndata: ");
    strange.until("}\n\n");
    assert_eq!(strange.events()[0].1, "lost");
    assert_eq!(strange.events()[0].2, json!({"events": null}));
    assert_eq!(strange.kinds()[1..], expected);

    let shown = subject.ctl(&["events", "--since", "5-5", "--count", "2", "--json"]);
    let lines: Vec<Value> = shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((shown.status.code(), lines.len()), (Some(0), 2), "{shown}");
    assert_eq!((&lines[0]["event"], &lines[1]["event"]), (&json!("lost"), &json!("export_added")), "{shown}");
    let id = lines[1]["id"].as_str().unwrap();
    let shown = subject.ctl(&["events", "--since", id, "--count", "1"]);
    assert!(shown.stdout.contains("export_changed") && shown.stdout.contains("export=a b"), "{shown}");
    assert_eq!(subject.ctl(&["events", "--since", "a b"]).status.code(), Some(2));

    assert_eq!(admin.ask("POST", "/api/v1/events", "").status, 405);
    let request = "GET /api/v1/events HTTP/1.1\r\nHost: rebind.example.org\r\nConnection: close\r\n\r\n";
    assert_eq!(admin.raw(request.as_bytes()).status, 421);
    subject.server.stop();
    for mut follower in followers {
        while follower.more() {}
        assert_eq!(follower.kinds().last().map(String::as_str), Some("stopping"));
    }
}

/// A server without clients has nothing else to wait for.
#[test]
fn a_stop_is_told_to_all_who_follow() {
    for _ in 0..10 {
        let mut subject = Subject::start(Options::new().export("mem:1M"));
        let mut followers = [(); FOLLOWERS].map(|()| Follower::start(&subject.socket(), "").begun());
        subject.server.stop();
        for follower in &mut followers {
            while follower.more() {}
            assert_eq!(follower.kinds(), ["stopping"], "{}", follower.text);
        }
    }
}

/// It costs the server nothing, and knows how many it has not had.
#[test]
fn a_reader_that_is_slow_loses_events_and_is_told_how_many() {
    let subject = Subject::start(Options::new().export("mem:1M"));
    let name = "n".repeat(3000);
    assert_eq!(put(&subject, &name, &json!({"uri": "mem:1M"})).status, 201);
    let mut slow = Follower::start(&subject.socket(), "").begun();
    let before = subject.server.resident();
    let changes = 1500_u64;
    for change in 1..=changes {
        let body = json!({"limit": {"iops": change}}).to_string();
        assert_eq!(send(&subject, ("PATCH", &format!("exports/{name}")), "", &body).status, 200);
    }
    assert_eq!(send(&subject, ("DELETE", &format!("exports/{name}")), "", "").status, 200);
    slow.until("event: export_removed\ndata: ");
    while !slow.text.ends_with("\n\n") {
        assert!(slow.more());
    }
    let lost = |(_, kind, data): &(String, String, Value)| {
        (kind == "lost").then(|| data["events"].as_u64().unwrap())
    };
    let events = slow.events();
    let all_lost: u64 = events.iter().filter_map(lost).sum();
    let had = events.iter().filter(|event| lost(event).is_none()).count() as u64;
    assert!(all_lost > 0, "{had} came: the test is too short");
    assert_eq!(all_lost + had, changes + 1);
    let numbers: Vec<u64> =
        events.iter().map(|(id, ..)| id.rsplit('-').next().unwrap().parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|before, after| before < after));
    let grown = subject.server.resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes");
}

#[test]
fn followers_leave_places_for_others() {
    let subject = Subject::start(Options::new().export("mem:1M"));
    let mut all: Vec<_> = (0..FOLLOWERS).map(|_| Follower::start(&subject.socket(), "").begun()).collect();
    let answer = subject.socket().get("/api/v1/events");
    assert_eq!((answer.status, answer.header("retry-after")), (503, "10"), "{answer:?}");
    assert_eq!(subject.socket().get("/api/v1/exports").status, 200);
    all.pop();
    // The server sees that one is gone when it says something.
    let is_let_in = || {
        let body = json!({"limit": {"iops": 1 + all.len()}}).to_string();
        assert_eq!(send(&subject, ("PATCH", "exports/"), "", &body).status, 200);
        assert_eq!(send(&subject, ("PATCH", "exports/"), "", r#"{"limit": null}"#).status, 200);
        let mut one = Follower::start(&subject.socket(), "");
        one.until("\r\n\r\n");
        one.text.contains(" 200 ")
    };
    wait_until("one that leaves makes room", is_let_in);
}
