//! Latencies are those that were injected, in the phase where they were; and the log of them is what other tools read.

use serde_json::Value;

use crate::support::raw::{Connection, Mode, Request};
use crate::support::server::Options;
use crate::support::wait_until;
use crate::{Subject, python};

const MILLISECOND: u64 = 1_000_000;

#[track_caller]
fn number(entry: &Value, key: &str) -> u64 {
    entry[key].as_u64().unwrap_or_else(|| panic!("no {key}: {entry}"))
}

fn wait_for_requests(subject: &Subject, export: &str, command: &str, requests: u64) {
    wait_until("the requests are counted", || {
        subject.export(export)["commands"][command]["requests"] == requests
    });
}

#[test]
fn an_injected_delay_shows_in_the_backend_and_in_nothing_else() {
    let subject = Subject::serve(&["slow=fault:delay.read=5ms:mem:1M"]);
    let mut client = Connection::attach(&subject.server, "slow", Mode::Simple);
    for block in 0..100 {
        client.read(block * 4096, 4096);
        client.write(block * 4096, &[1; 4096]);
    }
    wait_for_requests(&subject, "slow", "write", 100);
    let of = |command, phase| subject.latency("slow", command, phase).unwrap();
    for phase in ["queue", "backend", "send", "total"] {
        assert_eq!(number(&of("read", phase), "count"), 100);
        assert_eq!(number(&of("write", phase), "count"), 100);
    }
    // The least of a hundred shows what was injected, however busy the machine is; the median is far from it on no machine.
    let (backend, total) = (of("read", "backend"), of("read", "total"));
    for delayed in [&backend, &total] {
        let least = number(delayed, "min_ns");
        assert!((5 * MILLISECOND..6 * MILLISECOND).contains(&least), "{delayed}");
    }
    for (command, phase) in [
        ("read", "queue"),
        ("read", "send"),
        ("write", "queue"),
        ("write", "backend"),
        ("write", "send"),
        ("write", "total"),
    ] {
        let entry = of(command, phase);
        assert!(number(&entry, "p50_ns") < 5 * MILLISECOND / 2, "{entry}");
    }
    // The phases are parts of the whole.
    let means = |phase| of("read", phase)["mean_ns"].as_f64().unwrap();
    let (parts, whole) = (means("queue") + means("backend") + means("send"), means("total"));
    assert!((parts / whole - 1.0).abs() < 0.005, "{parts} {whole}");
}

#[test]
fn the_history_has_the_seconds_and_their_heat() {
    let subject = Subject::serve(&["slow=fault:delay.read=5ms:mem:1M"]);
    let mut client = Connection::attach(&subject.server, "slow", Mode::Simple);
    (0..50).for_each(|block| drop(client.read(block * 4096, 4096)));
    let seconds = || subject.json("/api/v1/history")["seconds"].as_array().unwrap().clone();
    let sum = |of: &dyn Fn(&Value) -> u64| seconds().iter().map(of).sum::<u64>();
    wait_until("the reads are history", || {
        sum(&|second| number(&second["classes"]["read"], "requests")) == 50
    });
    assert_eq!(sum(&|second| number(&second["classes"]["read"], "bytes")), 50 * 4096);
    let heat =
        |second: &Value| second["heat"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(sum(&heat), 50);
    let history = subject.json("/api/v1/history");
    let rows = history["heat_row_start_ns"].as_array().unwrap();
    for second in seconds().iter().filter(|second| heat(second) > 0) {
        let first = number(second, "heat_first_row") as usize;
        // Nothing was faster than 5 ms, so nothing is in a row that ends below.
        assert!(rows[first + 1].as_f64().unwrap() > 5e6, "{second}");
        assert!(second["backend_mean_ns"].as_f64().unwrap() >= 5e6, "{second}");
    }
    let last = number(seconds().last().unwrap(), "end_unix_ms");
    wait_until("a newer second", || {
        let newer = subject.json(&format!("/api/v1/history?since_unix_ms={last}"));
        newer["seconds"].as_array().unwrap().iter().any(|second| number(second, "end_unix_ms") > last)
    });
}

/// Reads a log with the Python implementation and prints `{tag: {count, 50.0, 90.0, ...}}`, all intervals of a tag added up.
const READER: &str = r#"
import json, sys
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
totals = {}
reader = HistogramLogReader(sys.argv[1], HdrHistogram(64, 10**12, 3))
while True:
    interval = reader.get_next_interval_histogram()
    if interval is None:
        break
    tag = interval.get_tag()
    totals.setdefault(tag, HdrHistogram(64, 10**12, 3)).add(interval)
points = {"p50_ns": 50, "p90_ns": 90, "p99_ns": 99, "p99_9_ns": 99.9, "p99_99_ns": 99.99}
print(json.dumps({
    tag: dict({name: of.get_value_at_percentile(point) for name, point in points.items()},
              count=of.get_total_count(), max_ns=of.get_max_value(), min_ns=of.get_min_value())
    for tag, of in totals.items()
}))
"#;

#[test]
fn an_independent_implementation_reads_the_log_and_finds_the_same_percentiles() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("server.hlog");
    let options = Options::new().export("a b,c=mem:1M").export("fault:delay.write=2ms:mem:1M");
    let mut subject = Subject::start(options.args(["--latency-log", log.to_str().unwrap()]));
    for (export, requests) in [("a b,c", 2000), ("", 20)] {
        let mut client = Connection::attach(&subject.server, export, Mode::Structured);
        for index in 0..requests {
            client.read(index % 256 * 4096, 4096);
            client.write(index % 256 * 4096, &[1; 4096]);
        }
        client.succeed(&Request::trim(0, 4096));
        client.disconnect();
    }
    wait_for_requests(&subject, "a b,c", "trim", 1);
    wait_for_requests(&subject, "", "trim", 1);
    let latency = subject.json("/api/v1/latency");
    subject.server.stop();
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("#command: ") && text.contains("#machine: "), "{}", &text[..200]);
    let Some(read) = python::json(READER, &[log.to_str().unwrap()]) else { return };
    let entries = latency["latency"].as_array().unwrap();
    assert_eq!(entries.len(), read.as_object().unwrap().len(), "{read}");
    assert_eq!(entries.len(), 2 * 3 * 4);
    for entry in entries {
        let name = |key: &str| entry[key].as_str().unwrap();
        let export = if name("export").is_empty() { "" } else { "a%20b%2Cc" };
        let other = &read[format!("{export}/{}/{}", name("command"), name("phase"))];
        assert_eq!(entry["count"], other["count"], "{entry} {other}");
        for key in ["min_ns", "p50_ns", "p90_ns", "p99_ns", "p99_9_ns", "p99_99_ns", "max_ns"] {
            // Equal but for the end of the bucket that is named.
            let (ours, theirs) = (number(entry, key) as f64, number(other, key) as f64);
            assert!((ours - theirs).abs() <= 64.0 + theirs / 1000.0, "{key}: {entry} {other}");
        }
    }
}

#[test]
fn requests_of_the_last_moment_are_in_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("server.hlog");
    let options = Options::new().export("mem:1M").args(["--latency-log", log.to_str().unwrap()]);
    let mut server = options.start();
    let mut client = Connection::attach(&server, "", Mode::Simple);
    (0..100).for_each(|block| drop(client.read(block * 4096, 4096)));
    client.disconnect();
    // Nothing is waited for: the last second is written when the shards have ended.
    server.stop();
    let text = std::fs::read_to_string(&log).unwrap();
    let log = ringnbd::internal::stats::interval_log::IntervalLog::parse(&text).unwrap();
    let totals = log.intervals.iter().filter(|interval| interval.tag == "/read/total");
    assert_eq!(totals.map(|interval| interval.histogram().unwrap().len()).sum::<u64>(), 100);
}

#[test]
fn the_history_of_an_export_is_its_own() {
    let subject = Subject::serve(&["a b&=fault:error.read=EIO@100%:mem:1M", "other=mem:1M", "mem:1M"]);
    let mut client = Connection::attach(&subject.server, "a b&", Mode::Simple);
    (0..9).for_each(|block| client.write((block + 1) * 4096, &[1; 4096]));
    client.fail(&Request::read(0, 4096), crate::support::wire::NBD_EIO);
    let sum = |query: &str, of: &dyn Fn(&Value) -> u64| -> u64 {
        let history = subject.json(&format!("/api/v1/history{query}"));
        history["seconds"].as_array().unwrap().iter().map(of).sum()
    };
    let writes = |second: &Value| number(&second["classes"]["write"], "requests");
    let errors = |second: &Value| second["errors_by_kind"]["EIO"].as_u64().unwrap_or(0);
    let mine = "?export=a%20b%26";
    wait_until("the writes are history", || sum(mine, &writes) == 9 && sum(mine, &errors) == 1);
    assert_eq!((sum("", &writes), sum("", &errors)), (9, 1), "those of all");
    for other in ["?export=other", "?export="] {
        assert_eq!((sum(other, &writes), sum(other, &errors)), (0, 0), "{other}");
    }
    let last = |query: &str| {
        let history = subject.json(&format!("/api/v1/history{query}"));
        number(history["seconds"].as_array().unwrap().last().unwrap(), "connections")
    };
    wait_until("its connection is counted", || last(mine) == 1 && last("") == 1);
    assert_eq!(last("?export=other"), 0);
    assert_eq!(subject.admin.get("/api/v1/history?export=none").status, 404);
}

#[test]
fn without_histograms_there_are_counts() {
    let subject = Subject::start(Options::new().export("mem:1M").args(["--no-histograms"]));
    let mut client = Connection::attach(&subject.server, "", Mode::Simple);
    (0..10).for_each(|block| drop(client.read(block * 4096, 4096)));
    wait_for_requests(&subject, "", "read", 10);
    assert_eq!(subject.json("/api/v1/latency")["latency"], Value::Array(Vec::new()));
    assert_eq!(subject.json("/api/v1/server")["histograms"], false);
    assert!(subject.json("/api/v1/connections")["connections"][0]["age_seconds"].as_f64().unwrap() > 0.0);
}
