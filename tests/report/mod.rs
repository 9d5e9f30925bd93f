//! `ringnbd report`: logs of servers, of the load generator and of fio become tables, pages, pictures and JSON; what they say is what an
//! independent implementation reads in the logs.

mod agreement;
mod stall;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers;
use crate::python;
use crate::support::raw::{Connection, Mode};
use crate::support::server::Options;
use serde_json::Value;

fn ringnbd() -> Command {
    let binary =
        std::env::var("RINGNBD_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ringnbd").into());
    Command::new(binary)
}

fn report(arguments: &[&str]) -> Command {
    let mut command = ringnbd();
    command.arg("report").args(arguments);
    command
}

#[track_caller]
fn json(files: &[&Path], options: &[&str]) -> Value {
    let mut command = report(options);
    command.args(files).arg("--json");
    let text = peers::run(&mut command).ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The log of a server that read and wrote so often; its writes were late by so many milliseconds.
fn server_log(directory: &Path, name: &str, requests: u64, late: u64) -> PathBuf {
    let log = directory.join(name);
    let export = format!("<v>m=fault:delay.write={late}ms:mem:1M");
    let options = Options::new().export(export).args(["--latency-log", log.to_str().unwrap()]);
    let mut server = options.start();
    let mut client = Connection::attach(&server, "<v>m", Mode::Simple);
    for index in 0..requests {
        client.read(index % 256 * 4096, 4096);
        client.write(index % 256 * 4096, &[1; 4096]);
    }
    client.disconnect();
    server.stop();
    log
}

fn row<'a>(source: &'a Value, command: &str) -> &'a Value {
    let rows = source["rows"].as_array().unwrap();
    rows.iter().find(|row| row["command"] == command).unwrap_or_else(|| panic!("no {command}: {source}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Percentiles of a tag by the Python implementation.
const READER: &str = r#"
import json, sys
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
total = HdrHistogram(64, 10**12, 3)
for file in sys.argv[2:]:
    reader = HistogramLogReader(file, total)
    while True:
        interval = reader.get_next_interval_histogram()
        if interval is None:
            break
        if interval.get_tag() == sys.argv[1]:
            total.add(interval)
points = {"p50_ns": 50, "p90_ns": 90, "p99_ns": 99, "p99_9_ns": 99.9, "p99_99_ns": 99.99}
print(json.dumps(dict({name: total.get_value_at_percentile(point) for name, point in points.items()},
                      count=total.get_total_count(), mean_ns=total.get_mean_value(), max_ns=total.get_max_value())))
"#;

#[track_caller]
fn assert_equal_percentiles(ours: &Value, theirs: &Value) {
    assert_eq!(ours["count"], theirs["count"], "{ours} {theirs}");
    for key in ["mean_ns", "p50_ns", "p90_ns", "p99_ns", "p99_9_ns", "p99_99_ns", "max_ns"] {
        let (ours, theirs) = (number(&ours[key]), number(&theirs[key]));
        assert!((ours - theirs).abs() <= 64.0 + theirs / 500.0, "{key}: {ours} {theirs}");
    }
}

#[test]
fn a_report_says_what_an_independent_implementation_reads() {
    let directory = tempfile::tempdir().unwrap();
    let log = server_log(directory.path(), "server.hlog", 500, 2);
    let source = &json(&[&log], &[])["sources"][0];
    for phase in ["queue", "backend", "send", "total"] {
        let tag = format!("%3Cv%3Em/write/{phase}");
        let Some(theirs) = python::json(READER, &[&tag, log.to_str().unwrap()]) else { return };
        let of = row(source, "write");
        let ours = if phase == "total" { &of["latency"] } else { &of["phases"][phase] };
        assert_equal_percentiles(ours, &theirs);
    }
    // The delay is where it was injected.
    assert!(number(&row(source, "write")["phases"]["backend"]["min_ns"]) >= 2e6, "{source}");
    let spectrum = row(source, "write")["spectrum"].as_array().unwrap();
    assert!(spectrum.windows(2).all(|pair| number(&pair[0]["latency_ns"]) <= number(&pair[1]["latency_ns"])));
    let counted: f64 = row(source, "read")["time"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| number(&of["latency"]["count"]))
        .sum();
    assert_eq!(counted, 500.0);
    assert!(source["facts"]["command"][0].as_str().unwrap().contains("--latency-log"), "{source}");
    assert!(source["facts"]["machine"][0].as_str().unwrap().contains("CPUs"), "{source}");
}

#[test]
fn merged_logs_are_the_sum_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let a = server_log(directory.path(), "a.hlog", 100, 0);
    let b = server_log(directory.path(), "b.hlog", 300, 1);
    let merged = json(&[&a, &b], &["--merge", "--label", "both"]);
    assert_eq!(merged["sources"].as_array().unwrap().len(), 1);
    let source = &merged["sources"][0];
    assert_eq!((&source["label"], &row(source, "write")["requests"]), (&"both".into(), &400.into()));
    let files = [a.to_str().unwrap(), b.to_str().unwrap()];
    let Some(theirs) = python::json(READER, &["%3Cv%3Em/write/total", files[0], files[1]]) else { return };
    assert_equal_percentiles(&row(source, "write")["latency"], &theirs);
}

#[test]
fn the_server_and_the_load_generator_tell_of_the_same_requests() {
    let directory = tempfile::tempdir().unwrap();
    let (server_log, bench_log) = (directory.path().join("server.hlog"), directory.path().join("bench.hlog"));
    let options = Options::new().export("fault:delay=20ms:mem:1M");
    let mut server = options.args(["--latency-log", server_log.to_str().unwrap()]).start();
    let mut bench = ringnbd();
    bench.args(["bench", &server.uri(""), "--rw", "randread", "--ops", "200", "--depth", "4"]);
    peers::run(bench.arg("--hlog").arg(&bench_log)).ok();
    server.stop();
    let compared = json(&[&server_log, &bench_log], &[]);
    let (server, bench) = (row(&compared["sources"][0], "read"), row(&compared["sources"][1], "read"));
    assert_eq!((&server["requests"], &bench["requests"]), (&200.into(), &200.into()));
    let least = |of: &Value| number(&of["latency"]["min_ns"]);
    assert!(
        least(server) >= 20e6 && least(bench) >= least(server) * 0.999,
        "{} {}",
        least(server),
        least(bench)
    );
    assert!(compared["sources"][1]["facts"]["command"][0].as_str().unwrap().contains("bench"), "{compared}");
    let text = peers::run(report(&[]).args([&server_log, &bench_log])).ok();
    assert!(text.contains("against server") && text.contains("backend"), "{text}");
}

#[test]
fn fio_tells_of_the_same_requests_too() {
    let Some(mut fio) = peers::command("fio") else { return };
    let directory = tempfile::tempdir().unwrap();
    let (log, output) = (directory.path().join("server.hlog"), directory.path().join("fio.json"));
    let options = Options::new().export("fault:delay.read=5ms:mem:1M");
    let mut server = options.args(["--latency-log", log.to_str().unwrap()]).start();
    fio.args(["--name=job", "--ioengine=nbd", "--rw=randread", "--bs=4k", "--iodepth=2", "--size=1M"]);
    fio.args([format!("--uri={}", server.uri("")), "--output-format=json+".into()]);
    peers::run(fio.arg(format!("--output={}", output.display())).current_dir(directory.path())).ok();
    server.stop();
    let compared = json(&[&log, &output], &[]);
    let (server, fio) = (row(&compared["sources"][0], "read"), row(&compared["sources"][1], "read"));
    assert_eq!((&fio["requests"], &server["requests"]), (&256.into(), &256.into()));
    let (ours, theirs) = (number(&server["latency"]["p50_ns"]), number(&fio["latency"]["p50_ns"]));
    // fio's bins are wider than ours, by up to a 64th.
    assert!(ours >= 5e6 && theirs >= ours * 0.98, "{ours} {theirs}");
    assert!(
        compared["sources"][1]["facts"]["command"][0].as_str().unwrap().starts_with("fio "),
        "{compared}"
    );
}

#[test]
fn pages_and_pictures_stand_alone_and_are_well_formed() {
    let directory = tempfile::tempdir().unwrap();
    let a = server_log(directory.path(), "a<b>.hlog", 200, 0);
    let b = server_log(directory.path(), "b.hlog", 100, 1);
    let (html, svg) = (directory.path().join("out.html"), directory.path().join("out.svg"));
    let mut command = report(&["--html", html.to_str().unwrap(), "--svg", svg.to_str().unwrap()]);
    peers::run(command.args([&a, &b])).ok();
    let page = std::fs::read_to_string(&html).unwrap();
    for outside in ["<script", "src=", "@import", "<link", "http://", "https://"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("--latency-log") && page.contains("CPUs"), "what made it is missing");
    // Programs other than browsers draw what has a variable for a colour in black.
    assert!(!std::fs::read_to_string(&svg).unwrap().contains("var("));
    // The name of the export and that of the file are texts, not markup.
    assert!(!page.contains("<v>m") && !page.contains("a<b>"), "{page}");
    assert!(page.contains("&lt;v&gt;m"));
    const WELL_FORMED: &str = r#"
import json, sys, re
import xml.etree.ElementTree as tree
svg = tree.parse(sys.argv[1]).getroot()
page = open(sys.argv[2], encoding="utf-8").read()
parts = [tree.fromstring(part) for part in re.findall(r"<svg.*?</svg>", page, re.S)]
print(json.dumps({"root": svg.tag, "parts": len(parts), "cells": sum(len(re.findall("z", shape.get("d"))) for shape in svg.findall(".//{*}path") if shape.get("class").startswith("h"))}))
"#;
    let Some(found) = python::json(WELL_FORMED, &[svg.to_str().unwrap(), html.to_str().unwrap()]) else {
        return;
    };
    assert_eq!(found["root"], "{http://www.w3.org/2000/svg}svg");
    // Two spectra, the phases, and a heat map for each command of each log, each for a screen and for a phone.
    assert_eq!(found["parts"], 2 * (2 + 1 + 4), "{found}");
    // How many cells a heat map has is a matter of the machine's speed; none is empty.
    assert!(number(&found["cells"]) >= 4.0, "{found}");
}

/// Two logs of many exports, as a host has them, without a server.
fn many_exports(directory: &Path, name: &str, exports: std::ops::Range<u64>) -> PathBuf {
    use ringnbd::internal::stats::interval_log::{IntervalLogWriter, tag};
    use ringnbd::internal::stats::{Operation, Phase};
    use std::time::{Duration, UNIX_EPOCH};
    let mut bytes = Vec::new();
    let comments = ["unit: nanoseconds".to_owned()];
    let mut log =
        IntervalLogWriter::begin(&mut bytes, &comments, UNIX_EPOCH + Duration::from_secs(1_700_000_000))
            .unwrap();
    for second in 0..12 {
        for export in exports.clone() {
            for (operation, slower) in [(Operation::Read, 1), (Operation::Write, 3)] {
                for phase in Phase::ALL {
                    let mut histogram =
                        hdrhistogram::Histogram::<u64>::new_with_bounds(64, 1 << 40, 3).unwrap();
                    (1..50).for_each(|step| histogram.record(step * step * 1_000 * slower * export).unwrap());
                    let tag = tag(&format!("vm{export}"), operation, phase);
                    log.interval(&tag, Duration::from_secs(second), Duration::from_secs(1), &histogram)
                        .unwrap();
                }
            }
        }
    }
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn many_exports_are_all_there_in_the_order_in_which_people_count() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (
        many_exports(directory.path(), "before.hlog", 1..15),
        many_exports(directory.path(), "after.hlog", 2..16),
    );
    let kept =
        std::env::var_os("RINGNBD_SCREENSHOTS").map_or_else(|| directory.path().to_owned(), PathBuf::from);
    let (html, svg) = (kept.join("report.html"), kept.join("report.svg"));
    let mut command = report(&["--html", html.to_str().unwrap(), "--svg", svg.to_str().unwrap()]);
    let text = peers::run(command.args([&a, &b])).ok();
    let line = |label: &str, name: &str| {
        let is_it = |line: &&str| line.starts_with(label) && line.contains(&format!(" {name} "));
        text.lines().position(|line| is_it(&line)).unwrap_or_else(|| panic!("no {label} {name}: {text}"))
    };
    assert!(line("before", "vm2 read") < line("before", "vm10 read"), "{text}");
    assert_eq!(line("after", "vm2 read"), line("before", "vm2 read") + 1, "pairs are side by side: {text}");
    let (page, pictures) = (std::fs::read_to_string(&html).unwrap(), std::fs::read_to_string(&svg).unwrap());
    for source in ["before", "after"] {
        for export in 2..15 {
            for command in ["read", "write"] {
                let title = format!("{source}: vm{export} {command} over time");
                assert!(page.contains(&title) && pictures.contains(&title), "{title} is missing");
            }
        }
    }
    // vm1 is in the first log only, and what would stand beside it is said to be missing: vm1 and vm15, two commands each.
    assert_eq!(page.matches("no such requests in this log").count(), 4);
    assert!(page.len() < 8 << 20, "{} bytes", page.len());
    let some = json(&[&a, &b], &["--export", "vm3", "--export", "vm11", "--from", "2s", "--to", "7s"]);
    for source in some["sources"].as_array().unwrap() {
        let rows: Vec<_> =
            source["rows"].as_array().unwrap().iter().map(|row| row["export"].as_str().unwrap()).collect();
        assert_eq!(rows, ["vm3", "vm3", "vm11", "vm11"]);
        assert_eq!(
            (number(&source["duration_seconds"]), number(&source["rows"][0]["requests"])),
            (5.0, 245.0)
        );
    }
    let none = peers::run(report(&["--export", "nobody"]).arg(&a));
    assert!(none.status.code() == Some(2) && none.stderr.contains("--export"), "{none}");
}

/// The curves of a picture as it draws them: kind of line, colour and points.
fn curves(picture: &str) -> Vec<(usize, &str, &str)> {
    let curve = |text| {
        let (class, rest) = str::split_once(text, "\" d=\"").unwrap();
        let (color, dash) = class.split_once(" d").unwrap();
        (dash.parse().unwrap(), color, rest.split_once('"').unwrap().0)
    };
    picture.split("<path class=\"curve ").skip(1).map(curve).collect()
}

#[test]
fn equal_curves_of_several_logs_all_show() {
    let directory = tempfile::tempdir().unwrap();
    // All curves of a command in one picture, a picture for each export, and three logs.
    for (exports, logs) in [(1, 2), (4, 2), (6, 2), (2, 3)] {
        let log = |log| many_exports(directory.path(), &format!("{log}.hlog"), 1..exports + 1);
        let files: Vec<_> = (0..logs).map(log).collect();
        let svg = directory.path().join("report.svg");
        peers::run(report(&["--svg", svg.to_str().unwrap()]).args(&files)).ok();
        let svg = std::fs::read_to_string(&svg).unwrap();
        let mut count = 0;
        for picture in svg.split("Latency by percentile").skip(1) {
            let curves = curves(picture);
            for (index, (dash, color, points)) in curves.iter().enumerate() {
                for (other_dash, other_color, of) in &curves[..index] {
                    // What lies on an equal one has more gaps.
                    assert!(
                        of != points || (other_dash < dash && other_color != color),
                        "{exports} {logs} {curves:?}"
                    );
                }
            }
            count += curves.len() as u64;
        }
        // Reads and writes, each with its line in the legend.
        assert_eq!(count, exports * logs * 2 * 2);
    }
}

#[test]
fn what_is_no_log_is_refused_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    for (path, word) in [
        (file("text", b"hello\nworld\n"), "line 1"),
        (file("binary", &[0xff, 0xfe, 0, 1]), "not text"),
        (
            file("json", b"{\n\"fio version\": \"fio-3\", \"jobs\": [{\"read\": {\"total_ios\": 1}}]\n}\n"),
            "json+",
        ),
        (file("cut", b"{\n\"fio version\": \"fio-3\""), "json+"),
        (file("empty", b""), "not one latency"),
        (file("histogram", b"Tag=a,0.0,1.0,1.0,HISTFAAAAAAAAA==\n"), "line 1"),
        (directory.path().join("missing"), "missing"),
    ] {
        let finished = peers::run(report(&[]).arg(&path));
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(finished.stderr.contains(word), "{finished}");
        assert!(!finished.stderr.contains("panicked"), "{finished}");
    }
    assert_eq!(peers::run(&mut report(&[])).status.code(), Some(2));
}

#[test]
fn a_log_that_is_being_written_is_reported_up_to_its_last_line() {
    let directory = tempfile::tempdir().unwrap();
    let log = server_log(directory.path(), "server.hlog", 50, 0);
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, &text[..text.len() - 10]).unwrap();
    let finished = peers::run(report(&[]).arg(&log));
    assert!(finished.status.success() && finished.stderr.contains("left out"), "{finished}");
}
