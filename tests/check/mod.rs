//! `ringnbd check`, asked of this server and of others.
//!
//! Oracles: the conformance suite, which this server passes; what is known of the others, each finding of which was looked at byte by byte.
//! That each statement finds a planted bug is a test of the command's own (`src/check/tests`).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::client::subject::{Kind, Layout, Subject};
use crate::peers;
use crate::support::server::Options;
use crate::support::tls::write_files;

fn check(arguments: &[&str]) -> peers::Finished {
    peers::run(Command::new(env!("CARGO_BIN_EXE_ringnbd")).arg("check").args(arguments))
}

/// The ids with this standing, and why.
fn with_standing<'a>(results: &'a Value, standing: &str) -> Vec<(&'a str, &'a str)> {
    let statements = results["statements"].as_array().expect("statements").iter();
    statements
        .filter(|statement| statement["standing"] == standing)
        .map(|statement| (statement["id"].as_str().unwrap(), statement["reason"].as_str().unwrap_or("")))
        .collect()
}

#[test]
fn this_server_meets_every_statement() {
    let server = Options::new().export("a=mem:128M").export("b=mem:1M").start();
    let uri = format!("nbd+unix:///a?socket={}", server.socket().display());
    let junit = tempfile::NamedTempFile::new().unwrap();
    let junit_path = junit.path().to_str().unwrap();
    let finished = check(&["--danger", "--json", "--junit", junit_path, &uri]);
    let results: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    assert_eq!(with_standing(&results, "not_met"), []);
    assert_eq!(with_standing(&results, "not_asked"), []);
    // The export is not read-only; memory is durable without FUA.
    let absent = with_standing(&results, "not_applicable");
    assert!(absent.iter().all(|(id, _)| ["T6", "T10", "T10a"].contains(id)), "{absent:?}");
    assert!(finished.status.success(), "{finished}");
    let report = std::fs::read_to_string(junit.path()).unwrap();
    assert_eq!(report.matches("<testcase").count(), results["statements"].as_array().unwrap().len());
    assert!(report.contains("failures=\"0\""), "{report}");
}

#[test]
fn this_server_meets_them_read_only_and_direct() {
    let image = crate::support::image::Image::sparse(1 << 20);
    let path = image.path.display();
    let server = Options::new()
        .export(format!("ro=file:{path}?readonly=true"))
        .export(format!("direct=file:{path}?direct=true&readonly=true"))
        .start();
    for name in ["ro", "direct"] {
        let uri = format!("nbd+unix:///{name}?socket={}", server.socket().display());
        let text = check(&["--danger", &uri]).ok();
        assert!(text.contains("\nmet        T6"), "{text}");
    }
}

/// What is asked with `nbds://` is encrypted, and a server that does not encrypt is told so.
#[test]
fn this_server_meets_them_over_tls() {
    let files = tempfile::tempdir().unwrap();
    write_files(files.path());
    let directory = files.path().display().to_string();
    let server = Options::new().export("a=mem:128M").export("b=mem:1M").args(["--tls", &directory]).start();
    let socket = server.socket();
    let of =
        |socket: &Path| format!("nbds+unix:///a?socket={}&tls-certificates={directory}", socket.display());
    let finished = check(&["--danger", "--json", &of(&socket)]);
    let results: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished}"));
    assert_eq!(with_standing(&results, "not_met"), []);
    assert_eq!(with_standing(&results, "not_asked"), []);
    let absent = with_standing(&results, "not_applicable");
    assert!(absent.iter().all(|(id, _)| ["H28", "H34", "T6", "T10", "T10a"].contains(id)), "{absent:?}");
    let load = check(&["--load", "--danger", "--duration", "1s", "--connections", "2", &of(&socket)]);
    assert!(load.status.success(), "{load}");
    // In plain text it would be refused, and there is one that has no TLS.
    let plain = Options::new().export("a=mem:1M").start();
    for (uri, part) in [
        (format!("nbd+unix:///a?socket={}", socket.display()), "TLS"),
        (of(&plain.socket()), "without encryption it is nbd"),
        (format!("{}/nowhere", of(&socket)), "/nowhere"),
    ] {
        let finished = check(&["--only", "H2", &uri]);
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(finished.stderr.contains(part), "{finished}");
    }
}

/// What each peer is known to fail. Those of the first list it fails always.
fn peer(kind: Kind, always: &[&str], sometimes: &[&str]) -> Option<()> {
    let subject = Subject::serve(kind, &Layout::small())?;
    let finished = check(&["--danger", "--json", "--timeout", "5s", &subject.uri()]);
    let results: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished}"));
    let found = with_standing(&results, "not_met");
    for (id, reason) in &found {
        assert!(
            always.contains(id) || sometimes.contains(id),
            "{kind:?} is not known to fail {id}: {reason}"
        );
    }
    for id in always {
        assert!(found.iter().any(|(found, _)| found == id), "{kind:?} is known to fail {id}: {found:?}");
    }
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    let name = match kind {
        Kind::QemuNbd => "qemu-nbd",
        Kind::Nbdkit => "nbdkit",
        _ => "nbd-server",
    };
    let on_the_page = not_met_on_the_page(name);
    for id in always {
        assert!(on_the_page.contains(id), "src/doc/guide/make-checks: {name} does not meet {id}");
    }
    for statement in results["statements"].as_array().unwrap() {
        let id = statement["id"].as_str().unwrap();
        let head = format!("* **{id}**, {name} (*{}*): ", statement["heading"].as_str().unwrap());
        let bytes = PAGE.split_once(&head).and_then(|(_, rest)| rest.lines().nth(1)).unwrap_or_default();
        let is_shown = bytes.trim_start().starts_with("`> ") && bytes.contains("`<");
        assert_eq!(is_shown, on_the_page.contains(&id), "src/doc/guide/make-checks: the bytes of {head}");
    }
    for id in on_the_page {
        assert!(
            always.contains(&id) || sometimes.contains(&id),
            "src/doc/guide/make-checks: {name} meets {id}"
        );
    }
    Some(())
}

const PAGE: &str = include_str!("../../src/doc/guide/checks.md");

/// The cells of the guide's page: the id, then level, statement and each server's standing.
fn rows_of_the_page() -> impl Iterator<Item = Vec<&'static str>> {
    let rows = PAGE.lines().map(|line| line.split(" | ").collect::<Vec<_>>());
    rows.filter(|row| row.get(1).is_some_and(|level| ["must", "should"].contains(level)))
}

fn not_met_on_the_page(server: &str) -> Vec<&'static str> {
    let heads = PAGE.lines().find(|line| line.contains("| Statement | ringnbd")).expect("a head");
    let column = heads.split('|').position(|head| head.trim() == server).expect("a column of the server");
    let is_not_met = |row: &Vec<&str>| row.get(column - 1).is_some_and(|cell| cell.contains("not met"));
    rows_of_the_page().filter(is_not_met).map(|row| row[0].trim_start_matches("| ")).collect()
}

#[test]
fn the_page_of_the_guide_has_every_statement() {
    let ids = check(&["--list"]).ok();
    let word = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let mut wanted: Vec<String> = ids
        .lines()
        .filter(|line| line.contains(" MUST ") || line.contains(" SHOULD "))
        .filter_map(word)
        .collect();
    let mut found: Vec<String> =
        rows_of_the_page().map(|row| row[0].trim_start_matches("| ").to_owned()).collect();
    wanted.sort();
    found.sort();
    assert!(wanted.len() > 70 && found == wanted, "run src/doc/guide/make-checks: {found:?}\n{wanted:?}");
    assert_eq!(not_met_on_the_page("ringnbd"), [""; 0]);
}

/// The guide's page on the protocol names all others, and says why they are not asked.
#[test]
fn statements_that_are_not_asked_have_a_reason() {
    let list = check(&["--list"]).ok();
    // H3a and H3b belong to H3.
    let number = |id: &str| id.trim_end_matches(|c: char| c.is_ascii_lowercase()).to_owned();
    let asked: BTreeSet<String> =
        list.lines().filter_map(|line| line.split_whitespace().next()).map(number).collect();
    let (_, rest) =
        include_str!("../../src/doc/guide/protocol.md").split_once("| Why not of any server |").unwrap();
    let rows: Vec<Vec<&str>> = rest
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert!(rows.iter().all(|row| row.len() == 3 && row.iter().all(|cell| !cell.is_empty())), "{rows:?}");
    let told: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    let all = (1..=34).map(|number| format!("H{number}")).chain((1..=43).map(|number| format!("T{number}")));
    let wanted: Vec<String> = all.filter(|id| !asked.contains(id)).collect();
    assert!(wanted.len() < 30, "{asked:?}");
    assert_eq!(told, wanted, "src/doc/guide/protocol.md");
}

#[test]
fn qemu_nbd() {
    // T14a is a matter of the file system: blocks that were never written are holes.
    let always = ["H9", "H12", "H23a", "H23b", "T1", "T33b", "T39a", "T3", "T4a"];
    let _ = peer(Kind::QemuNbd, &always, &["T14a"]);
}

#[test]
fn nbdkit() {
    // T9a ends it, by an assertion: FAST_ZERO where it is not offered.
    let _ = peer(Kind::Nbdkit, &["H9", "H19", "H22", "H23a", "H34", "T33", "T9a"], &[]);
}

#[test]
fn nbd_server() {
    let always = ["H1", "H3", "H3a", "H6", "H8", "H9a", "H12", "T9", "T18", "T20", "T9a"];
    let _ = peer(Kind::NbdServer, &always, &[]);
}

#[test]
fn servers_with_less_of_the_protocol_are_asked_less() {
    for kind in [Kind::NbdkitSimple, Kind::NbdkitPlain] {
        let Some(subject) = Subject::serve(kind, &Layout::small()) else { return };
        let finished = check(&["--json", "--timeout", "5s", &subject.uri()]);
        let results: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished}"));
        let found = with_standing(&results, "not_met");
        assert!(found.iter().all(|(id, _)| ["H9", "H34", "T33"].contains(id)), "{kind:?}: {found:?}");
        assert!(with_standing(&results, "met").len() > 10, "{finished}");
    }
}

#[test]
fn a_command_is_a_server_too() {
    let program = env!("CARGO_BIN_EXE_ringnbd");
    let text = check(&[
        "--only",
        "H2,T13,t4",
        "--danger",
        "--",
        program,
        "serve",
        "--stdio",
        "--shards",
        "1",
        "mem:128M",
    ]);
    let text = text.ok();
    for line in ["met        H2 ", "met        T4 ", "met        T13 "] {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.ends_with("3 met, 0 not met (0 of them MUST), 0 not applicable, 0 not asked\n"), "{text}");
}

#[test]
fn nothing_is_written_without_danger() {
    let image = crate::support::image::Image::random(1 << 20, 5);
    let server = Options::new().export(format!("file:{}", image.path.display())).start();
    let text = check(&[&format!("nbd+unix:///?socket={}", server.socket().display())]).ok();
    assert!(text.contains("not asked  T3"), "{text}");
    let before = crate::support::image::pattern(5, 0, 1 << 20);
    assert!(image.read(0, 1 << 20) == before, "the file is what it was");
}

#[test]
fn refusals_say_what_to_do() {
    for (arguments, part) in [
        (&["nbd+unix:///?socket=/no/such/socket"][..], "cannot connect"),
        (&["--only", "X9", "nbd://localhost"], "see --list"),
        (&["--", "/no/such/program"], "cannot connect"),
    ] {
        let finished = check(arguments);
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(finished.stderr.contains(part), "{finished}");
    }
    let list = check(&["--list"]).ok();
    assert!(list.lines().count() > 70 && list.contains("T13   MUST"), "{list}");
}

#[test]
fn this_server_stands_the_load() {
    let image = crate::support::image::Image::sparse(64 << 20);
    let server = Options::new()
        .shards(2)
        .memory("128M")
        .export("memory=mem:64M")
        .export(format!("file=file:{}", image.path.display()))
        .start();
    for name in ["memory", "file"] {
        let uri = format!("nbd+unix:///{name}?socket={}", server.socket().display());
        let finished =
            check(&["--load", "--danger", "--json", "--duration", "2s", "--connections", "3", &uri]);
        let verdict: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished}"));
        assert_eq!(verdict["broken"], Value::Null, "{finished}");
        assert!(finished.status.success(), "{finished}");
        assert!(
            verdict["compared_bytes"].as_u64().unwrap() > 1 << 20 && verdict["shared"] == true,
            "{finished}"
        );
    }
}

#[test]
fn this_server_keeps_its_promises_over_kills() {
    let image = crate::support::image::Image::sparse(4 << 20);
    let directory = tempfile::tempdir().unwrap();
    let (program, socket) = (env!("CARGO_BIN_EXE_ringnbd"), directory.path().join("s"));
    let (file, socket) = (image.path.display().to_string(), socket.display().to_string());
    let durability = ["--durability", "--danger", "--rounds", "2", "--json"];
    let serve = ["--", program, "serve", "--shards", "1", &file];
    let uri = format!("nbd+unix:///?socket={socket}");
    for (words, tried) in [
        ([&durability[..], &serve[..], &["--stdio"]].concat(), 2),
        ([&durability[..], &[&*uri], &serve[..], &["--unix", &*socket]].concat(), 3),
    ] {
        let finished = check(&words);
        let verdict: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished}"));
        assert_eq!(verdict["broken"], Value::Null, "{finished}");
        assert_eq!(verdict["kills"], 2 * tried, "{finished}");
        assert!(finished.status.success(), "{finished}");
    }
}

#[test]
fn trials_say_what_they_need() {
    for (arguments, part) in [
        (&["--load", "nbd://localhost"][..], "--danger"),
        (&["--durability", "--danger", "nbd://localhost"], "COMMAND"),
        (&["--durability", "--danger", "--", "/no/such/program"], "cannot check"),
        (&["--durability", "--danger", "nbd+unix:///?socket=/tmp/none", "--", "true"], "does not listen"),
        (&["nbd://localhost", "--", "true"], "--durability"),
        (&["--durability", "--danger", "nbds://localhost", "--", "true"], "in plain text"),
        (&["--load", "--danger", "nbd+unix:///?socket=/no/such"], "cannot connect"),
    ] {
        let finished = check(arguments);
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(finished.stderr.contains(part), "{finished}");
    }
}
