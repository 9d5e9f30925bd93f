//! Weights by configuration, by the control socket and by the command: what is said of them, and that requests go by them.

use serde_json::{Value, json};

use crate::control::{Configured, Subject, body};
use crate::http::Address;
use crate::live::{send, sentence};
use crate::support::raw::{Connection, Mode, Request};
use crate::support::server::Options;
use crate::support::wait_until;

/// More than a shard begins in one turn, and in one receive.
const FLOOD: usize = 2000;
const LENGTH: usize = 512;

fn options() -> Options {
    Options::new().args(["--admin", "127.0.0.1:0"])
}

fn admin(subject: &Subject, path: &str) -> Value {
    body(&Address::of(&subject.server).get(path))
}

/// As much at once as no turn begins.
fn flood(client: &mut Connection) {
    let request = Request::read(0, LENGTH as u64).encode(Mode::Simple);
    client.send(&request.repeat(FLOOD));
    client.receive(FLOOD * (16 + LENGTH), "the replies of a flood");
}

/// How many reads of an export are recorded in a phase: among those held back only those that were.
fn recorded(subject: &Subject, export: &str, phase: &str) -> u64 {
    let all = admin(subject, "/api/v1/latency");
    let is_it =
        |entry: &&Value| entry["export"] == export && entry["command"] == "read" && entry["phase"] == phase;
    let found = all["latency"].as_array().unwrap().iter().find(is_it);
    found.map_or(0, |entry| entry["count"].as_u64().unwrap())
}

/// How many reads of a flood were held back.
#[track_caller]
fn held_back(subject: &Subject, client: &mut Connection, export: &str) -> u64 {
    let recorded = |phase| recorded(subject, export, phase);
    let (all, held_back) = (recorded("total"), recorded("throttled"));
    flood(client);
    wait_until("the flood is recorded", || recorded("total") == all + FLOOD as u64);
    recorded("throttled") - held_back
}

fn weight_of(subject: &Subject, path: &str) -> Value {
    body(&subject.socket().get(&format!("/api/v1/{path}")))["weight"].clone()
}

#[test]
fn a_weight_by_the_control_socket_orders_requests_from_then_on() {
    let subject = Subject::start(options().export("a=null:1M").export("b=null:1M"));
    let mut client = Connection::attach(&subject.server, "a", Mode::Simple);
    assert_eq!(weight_of(&subject, "exports/a"), Value::Null);
    assert!(held_back(&subject, &mut client, "a") == 0, "without weights nothing is held back");

    // A weight of another export matters as soon as that has a client.
    let patched = send(&subject, ("PATCH", "exports/b"), "", r#"{"weight": 3}"#);
    assert_eq!((patched.status, &body(&patched)["weight"]), (200, &json!(3)), "{patched:?}");
    assert!(held_back(&subject, &mut client, "a") == 0, "the weight is nobody's");
    let other = Connection::attach(&subject.server, "b", Mode::Simple);
    assert!(held_back(&subject, &mut client, "a") > 0, "a flood takes several turns");
    drop(other);

    let metrics = Address::of(&subject.server).get("/metrics").body;
    assert!(metrics.contains("ringnbd_export_weight{export=\"b\"} 3\n"), "{metrics}");
    assert!(metrics.contains("ringnbd_export_weight{export=\"a\"} 1\n"), "{metrics}");
    let shown = admin(&subject, "/api/v1/exports");
    let weights: Vec<_> =
        shown["exports"].as_array().unwrap().iter().map(|of| of["weight"].clone()).collect();
    assert_eq!(weights, [Value::Null, json!(3)]);

    for wrong in ["0", "1001", "-1", "1.5", "\"3\"", "[]"] {
        let answer = send(&subject, ("PATCH", "exports/a"), "", &format!("{{\"weight\": {wrong}}}"));
        assert_eq!(answer.status, 422, "{wrong}: {answer:?}");
        assert!(sentence(&answer).contains("from 1 to 1000"), "{answer:?}");
    }
    let patched = send(&subject, ("PATCH", "exports/b"), "", r#"{"weight": null}"#);
    assert_eq!((patched.status, &body(&patched)["weight"]), (200, &Value::Null), "{patched:?}");
}

#[test]
fn the_command_shows_and_changes_weights_and_lets_rates_be() {
    let text = "[[tenant]]\nname = \"blue\"\nlimit = { iops = 900000 }\n[[export]]\nname = \"a\"\nuri = \"null:1M\"\ntenant = \"blue\"\n\
                limit = { iops = 800000 }\n";
    let server = Configured::with(options(), text);
    let subject = &server.subject;
    let ctl = |words: &[&str]| {
        let told = subject.ctl(&[&["limit"], words].concat());
        assert_eq!(told.status.code(), Some(0), "{told}");
        told.stdout
    };
    assert_eq!(ctl(&["a", "--weight", "3"]), "tenant blue\niops 800000\nweight 3\n");
    assert_eq!(ctl(&["a"]), "tenant blue\niops 800000\nweight 3\n");
    assert_eq!(ctl(&["--tenant", "blue", "--weight", "1000"]), "iops 900000\nweight 1000\n");
    assert_eq!(ctl(&["--tenant", "blue", "--off"]), "weight 1000\n");
    assert_eq!(ctl(&["a", "--weight", "off", "--set", "iops=off"]), "tenant blue\n");
    assert_eq!(ctl(&["--tenant", "blue", "--weight", "off"]), "No limit.\n");
    for (name, wrong) in [("a", "0"), ("a", "1001"), ("a", "much")] {
        let told = subject.ctl(&["limit", name, "--weight", wrong]);
        assert!(told.status.code() == Some(2) && told.stderr.contains("1 to 1000"), "{told}");
    }
}

#[test]
fn a_configuration_says_weights_and_a_reload_changes_them() {
    let text = |tenant: &str, own: &str| {
        format!(
            "[[tenant]]\nname = \"blue\"\n{tenant}\n[[export]]\nname = \"a\"\nuri = \"null:1M\"\ntenant = \"blue\"\n{own}\n"
        )
    };
    let server = Configured::with(options(), &text("weight = 5", ""));
    let subject = &server.subject;
    assert_eq!(
        (weight_of(subject, "tenants/blue"), weight_of(subject, "exports/a")),
        (json!(5), Value::Null)
    );
    let mut client = Connection::attach(&subject.server, "a", Mode::Simple);
    assert!(held_back(subject, &mut client, "a") > 0, "a flood takes several turns");

    server.replace(&text("", ""));
    let (status, answer) = server.reload();
    assert_eq!(status, 200, "{answer}");
    assert_eq!(weight_of(subject, "tenants/blue"), Value::Null);
    assert!(held_back(subject, &mut client, "a") == 0, "without weights nothing is held back");

    server.replace(&text("", "weight = 7"));
    assert_eq!(server.reload().0, 200);
    assert_eq!(weight_of(subject, "exports/a"), json!(7));
    assert!(held_back(subject, &mut client, "a") > 0, "the client that is there is weighed");

    server.replace(&text("", "weight = 0"));
    let (status, answer) = server.reload();
    assert!(status == 422 || status == 409, "{answer}");
    assert!(answer.to_string().contains("from 1 to 1000"), "{answer}");
    assert_eq!(weight_of(subject, "exports/a"), json!(7), "nothing was changed");
}
