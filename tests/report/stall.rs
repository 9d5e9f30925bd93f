//! A disk that stands still for a second, seen by an open loop and by a closed one, all the way to the report.
//!
//! An open loop owes a request every millisecond. Those of the second of the stall wait for its end, the first of them all of it, and so on:
//! these are lower bounds, whatever else the machine does. A closed loop has one request in flight, so one request waits.

use serde_json::Value;

use super::{json, number, peers, ringnbd, row};
use crate::support::server::Options;

const STALL_NS: f64 = 1e9;
const REQUESTS: u64 = 2000;
/// Of a closed loop: other work on the machine may hold some requests back too.
const ATTEMPTS: usize = 5;

/// The rows of the server and of the load generator for so many reads, during the 1,000th of which the disk stands still.
fn measure(load: &[&str]) -> [Value; 2] {
    let directory = tempfile::tempdir().unwrap();
    let (server_log, bench_log) = (directory.path().join("server.hlog"), directory.path().join("bench.hlog"));
    let options = Options::new().export("fault:stall=1s@1000:mem:1M");
    let mut server = options.args(["--latency-log", server_log.to_str().unwrap()]).start();
    let mut bench = ringnbd();
    bench.args(["bench", &server.uri(""), "--rw", "randread", "--ops", &REQUESTS.to_string()]).args(load);
    peers::run(bench.arg("--hlog").arg(&bench_log)).ok();
    server.stop();
    let all = json(&[&server_log, &bench_log], &[]);
    let rows = [0, 1].map(|source: usize| row(&all["sources"][source], "read").clone());
    rows.iter().for_each(|row| assert_eq!(row["requests"], REQUESTS, "{row}"));
    rows
}

#[track_caller]
fn at_least(row: &Value, key: &str, part: f64) {
    let value = number(&row["latency"][key]);
    assert!(value >= part * STALL_NS, "{key} is {value}: {row}");
}

#[test]
fn an_open_loop_shows_a_stall_in_its_percentiles() {
    let [server, client] = measure(&["--rate", "1000", "--depth", "64"]);
    // A thousand of two thousand were owed during the stall: the tenth of all that waited longest, for at least 0.8 s.
    for (key, part) in [("p90_ns", 0.79), ("p99_ns", 0.97), ("p99_9_ns", 0.99), ("max_ns", 0.995)] {
        at_least(&client, key, part);
    }
    // The server knows of those that were sent, each connection having so many in flight; it says where they waited.
    at_least(&server, "max_ns", 0.995);
    assert!(number(&server["phases"]["backend"]["max_ns"]) >= 0.995 * STALL_NS, "{server}");
    let seconds = client["time"].as_array().unwrap();
    assert!(seconds.iter().any(|of| number(&of["latency"]["p50_ns"]) >= STALL_NS / 4.0), "{client}");
}

#[test]
fn a_closed_loop_hides_it() {
    let hides = (0..ATTEMPTS).any(|_| {
        let [_, client] = measure(&[]);
        at_least(&client, "max_ns", 0.995);
        // One of two thousand.
        ["p90_ns", "p99_ns", "p99_9_ns"].iter().all(|key| number(&client["latency"][*key]) < STALL_NS / 10.0)
    });
    assert!(hides, "a closed loop shows a stall of one request in {REQUESTS}");
}
