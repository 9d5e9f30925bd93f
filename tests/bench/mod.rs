//! `ringnbd bench` against the real server, and against one that lies.

mod job;
mod liar;
mod verification;

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::peers;
use crate::peers::Finished;
use crate::support;
use crate::support::image::Image;
use crate::support::server::Server;
use crate::support::wait_until;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use liar::{Liar, Lie};
use serde_json::Value;

fn bench(uri: &str, arguments: &str) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    peers::run(command.args(["bench", uri]).args(arguments.split_whitespace()))
}

/// The JSON of a run that succeeds.
#[track_caller]
fn json_of(uri: &str, arguments: &str) -> Value {
    let run = bench(uri, &format!("{arguments} --json"));
    assert_eq!(run.stderr, "", "there is no progress line without a terminal");
    let json = parse(&run.ok());
    check_consistency(&json);
    json
}

#[track_caller]
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What holds for the results of every run.
#[track_caller]
fn check_consistency(json: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no number in {json:#}"));
    let close = |a: f64, b: f64| assert!((a - b).abs() <= b.abs() * 1e-6 + 1e-6, "{a}, not {b}, in {json:#}");
    for key in ["operations", "errors", "bytes"] {
        let parts: &[&str] =
            if key == "errors" { &["read", "write", "trim", "flush"] } else { &["read", "write", "trim"] };
        let sum: f64 = parts.iter().map(|part| number(&json[part][key])).sum();
        assert_eq!(number(&json["total"][key]), sum, "{key} in {json:#}");
    }
    let errors: f64 = json["errors"].as_object().unwrap().values().map(number).sum();
    assert_eq!(number(&json["total"]["errors"]), errors, "{json:#}");
    let spread = &json["per_connection"];
    close(number(&spread["mean"]) * number(&json["connections"]), number(&json["total"]["operations"]));
    assert!(
        number(&spread["min"]) <= number(&spread["mean"])
            && number(&spread["mean"]) <= number(&spread["max"])
    );
    for kind in ["total", "read", "write", "trim"] {
        let of = &json[kind];
        let operations = number(&of["operations"]);
        assert_eq!(number(&of["bytes"]), operations * number(&json["block_size"]), "{kind} in {json:#}");
        assert_eq!(of["latency"].is_null(), operations == 0.0, "{kind} in {json:#}");
        if operations > 0.0 {
            close(number(&of["iops"]) * number(&json["elapsed"]), operations);
            close(number(&of["bytes_per_second"]), number(&of["iops"]) * number(&json["block_size"]));
            let rising =
                ["min", "p50", "p90", "p99", "p99_9", "p99_99", "max"].map(|key| number(&of["latency"][key]));
            assert!(rising.is_sorted() && rising[0] > 0.0, "{kind} in {json:#}");
        }
    }
}

/// All histograms of a log with one tag, added up.
fn read_log(path: &Path, tag: &str) -> Histogram<u64> {
    let text = std::fs::read(path).unwrap();
    let mut all = Histogram::<u64>::new(3).unwrap();
    for entry in IntervalLogIterator::new(&text) {
        if let LogEntry::Interval(interval) = entry.unwrap()
            && interval.tag().is_some_and(|found| found.as_str() == tag)
        {
            all.add(decode(interval.encoded_histogram())).unwrap();
        }
    }
    all
}

fn decode(text: &str) -> Histogram<u64> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    Deserializer::new().deserialize(&mut &bytes[..]).unwrap()
}

#[test]
fn every_kind_of_load_runs_and_counts() {
    let image = Image::random(4 << 20, 1);
    let server = Server::serve(&[image.path.display().to_string()]);
    for (rw, reads) in [
        ("read", 1.0),
        ("write", 0.0),
        ("randread", 1.0),
        ("randwrite", 0.0),
        ("randrw", 0.5),
        ("trim", 0.0),
        ("randtrim", 0.0),
    ] {
        let json = json_of(
            &server.uri(""),
            &format!("--rw {rw} --ops 2000 --connections 3 --depth 7 --bs 16K --seed 3"),
        );
        assert_eq!(json["total"]["operations"], 2000, "{rw}");
        assert_eq!(json["rw"], rw);
        assert_eq!(json["trim"]["operations"], if rw.ends_with("trim") { 2000 } else { 0 }, "{rw}");
        assert_eq!(json["replies"], "structured");
        let share = json["read"]["operations"].as_f64().unwrap() / 2000.0;
        assert!((share - reads).abs() < 0.05, "{rw}: {share} of the operations are reads");
        assert!(json["failure"].is_null() && json["verification"].is_null() && json["interrupted"] == false);
    }
}

#[test]
fn flushes_follow_writes_and_are_counted_apart() {
    let server = Server::serve(&["mem:4M", "small=fault:error.flush=EIO@100%:mem:4M"]);
    let json = json_of(&server.uri(""), "--rw randwrite --fsync 8 --ops 801 --connections 2 --depth 4");
    assert_eq!(
        (&json["write"]["operations"], &json["flush"]["operations"]),
        (&801.into(), &100.into()),
        "{json:#}"
    );
    assert_eq!((&json["total"]["operations"], &json["flush"]["bytes"]), (&801.into(), &0.into()), "{json:#}");
    assert!(json["flush"]["latency"]["p50"].as_u64().unwrap() > 0, "{json:#}");
    let json = json_of(&server.uri("small"), "--rw write --fsync 10 --ops 100");
    assert_eq!(
        (&json["write"]["operations"], &json["flush"]["errors"]),
        (&100.into(), &9.into()),
        "{json:#}"
    );
    let table = bench(&server.uri(""), "--rw write --fsync 10 --ops 100").ok();
    assert!(table.lines().any(|line| line.starts_with("flush ")), "{table}");
}

#[test]
fn a_table_for_people_and_json_in_a_file() {
    let server = Server::serve(&["null:1G"]);
    let file = server.dir().join("results.json");
    let arguments = format!("--ops 500 --depth 4 --json {}", file.display());
    let table = bench(&server.uri(""), &arguments).ok();
    for part in [
        "randread 4 KiB, 1 x 4, closed loop, structured replies",
        "p99.99",
        "operations      500",
        "client CPU",
    ] {
        assert!(table.contains(part), "{part:?} is not in:\n{table}");
    }
    let json = parse(&std::fs::read_to_string(file).unwrap());
    check_consistency(&json);
    assert_eq!(json["total"]["operations"], 500);
    // The URI may also come behind --json.
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    let text = peers::run(command.args(["bench", "--ops", "9", "--json", &server.uri("")])).ok();
    assert_eq!(parse(&text)["total"]["operations"], 9);
}

#[test]
fn errors_are_counted_by_name() {
    let liar = Liar::serve(Lie::Fails(28));
    let json = json_of(&liar.uri(), "--rw randwrite --ops 100 --size 64K");
    assert_eq!((&json["errors"]["ENOSPC"], &json["total"]["operations"]), (&10.into(), &90.into()));
    let server = Server::serve(&["fault:error=EIO:null:1G"]);
    let run = bench(&server.uri(""), "--ops 100 --json");
    assert_eq!(run.status.code(), Some(1), "no request succeeded: {run}");
    assert_eq!(parse(&run.stdout)["errors"]["EIO"], 100, "{run}");
}

#[test]
fn a_lost_connection_and_a_broken_protocol_end_the_run() {
    for (lie, says) in [
        (Lie::Leaves(50), "the server closed connection 0 with 1 requests in flight"),
        (Lie::WrongCookie, "the server broke the protocol"),
    ] {
        let liar = Liar::serve(lie);
        let run = bench(&liar.uri(), "--duration 60s --json");
        assert_eq!(run.status.code(), Some(1), "{run}");
        assert!(run.stderr.contains(says), "{run}");
        let json = parse(&run.stdout);
        assert!(json["failure"].as_str().unwrap().contains(says), "{run}");
        let before = if lie == Lie::WrongCookie { 0 } else { 50 };
        assert_eq!(json["total"]["operations"], before, "the results so far: {run}");
    }
}

/// The stall holds back all that should have started meanwhile; only an open loop shows that.
#[test]
fn an_open_loop_shows_a_stall_in_full_and_a_closed_one_hides_it() {
    let stall = Duration::from_millis(500);
    let slow = |arguments: &str| {
        let liar = Liar::serve(Lie::Stalls(200, stall));
        let log = liar_log(&liar);
        json_of(&liar.uri(), &format!("{arguments} --hlog {}", log.display()));
        let latency = read_log(&log, "read");
        assert_eq!(latency.len(), 1000);
        // Half of those that come during the stall wait for more than half of it.
        latency.count_between(stall.as_nanos() as u64 / 2, u64::MAX)
    };
    assert!(slow("--rate 1000 --ops 1000") >= 245);
    assert!(slow("--ops 1000") < 100, "one, but for the noise of a loaded machine");
}

fn liar_log(liar: &Liar) -> std::path::PathBuf {
    Path::new(liar.uri().split_once('=').unwrap().1).with_file_name("log.hlog")
}

#[test]
fn a_rate_is_kept_and_what_cannot_start_is_told() {
    let server = Server::serve(&["null:1G"]);
    let json = json_of(&server.uri(""), "--rate 5000 --ops 1000 --connections 2 --depth 64");
    assert_eq!(
        (&json["total"]["operations"], &json["unstarted"], &json["rate"]),
        (&1000.into(), &0.into(), &5000.into())
    );
    assert!(json["elapsed"].as_f64().unwrap() >= 0.199, "the last one starts after 199.8 ms: {json:#}");
    // 20 ms each, one at a time, 1,000 a second: most of what is due never starts.
    let server = Server::serve(&["fault:delay=20ms:null:1G"]);
    let json = json_of(&server.uri(""), "--rate 1000 --duration 500ms");
    let (done, unstarted) =
        (json["total"]["operations"].as_u64().unwrap(), json["unstarted"].as_u64().unwrap());
    assert_eq!(done + unstarted, 500, "{json:#}");
    assert!(done <= 26, "{json:#}");
    let table = bench(&server.uri(""), "--rate 1000 --duration 200ms").ok();
    assert!(table.contains("the server did not keep up"), "{table}");
}

#[test]
fn the_log_holds_what_the_results_say() {
    let server = Server::serve(&["mem:64M"]);
    let log = server.dir().join("run.hlog");
    let arguments =
        format!("--rw randrw --mix 30 --duration 1500ms --warmup 200ms --depth 4 --hlog {}", log.display());
    let json = json_of(&server.uri(""), &arguments);
    for kind in ["read", "write"] {
        let latency = read_log(&log, kind);
        assert_eq!(latency.len(), json[kind]["operations"], "{kind}: the warm-up is in neither");
        for (key, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99_9", 0.999)] {
            let logged = latency.value_at_quantile(quantile).min(latency.max()) as f64;
            let told = json[kind]["latency"][key].as_f64().unwrap();
            assert!(
                (logged - told).abs() <= told * 0.002,
                "{kind} {key}: {logged} in the log, {told} in the results"
            );
        }
    }
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("#[Histogram log format version 1.3]\n"), "{text}");
    let mut intervals: HashMap<&str, u32> = HashMap::new();
    for line in text.lines().filter(|line| line.starts_with("Tag=")) {
        *intervals.entry(line.split(',').next().unwrap()).or_default() += 1;
    }
    assert!(intervals["Tag=read"] >= 2 && intervals["Tag=read"] == intervals["Tag=write"], "{intervals:?}");
}

#[test]
fn many_connections_share_the_load() {
    let server = Server::serve(&["null:1G"]);
    let json = json_of(&server.uri(""), "--connections 150 --depth 2 --ops 30K");
    assert_eq!(json["total"]["operations"], 30_000);
    assert!(json["per_connection"]["min"].as_u64().unwrap() > 0, "{json:#}");
}

#[test]
fn a_load_over_tcp() {
    let server = support::server::Options::new().export("mem:64M").tcp("127.0.0.1:0").start();
    let json = json_of(
        &server.tcp_uri(""),
        "--rw randrw --verify --ops 4000 --connections 2 --depth 16 --bs 64K --size 16M",
    );
    assert_eq!((&json["total"]["operations"], &json["verification"]["wrong"]), (&4000.into(), &0.into()));
}

#[test]
fn an_interrupted_run_tells_its_results_so_far() {
    let liar = Liar::serve(Lie::Nothing);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    let child = command
        .args(["bench", &liar.uri(), "--duration", "60s", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the load to begin", || liar.requests() > 100);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let json = parse(&String::from_utf8(output.stdout).unwrap());
    check_consistency(&json);
    assert_eq!(json["interrupted"], true);
    assert!(json["total"]["operations"].as_u64().unwrap() >= 100);
}

#[test]
fn a_terminal_sees_percentiles_while_it_runs() {
    let server = Server::serve(&["mem:1M"]);
    let line = format!(
        "stty cols 120; {} bench '{}' --warmup 500ms --duration 2s",
        env!("CARGO_BIN_EXE_ringnbd"),
        server.uri("")
    );
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    if Command::new("script").arg("--version").output().is_err() {
        return peers::skip("script", "install the package bsdutils");
    }
    let shown = peers::run(&mut command).ok();
    for part in ["warm-up", "s left  ", "IOPS  p50 ", "  p99 ", "  p99.9 "] {
        assert!(shown.replace("\x1b[2K", "").contains(part), "{part:?}: {shown:?}");
    }
    let end = shown.rsplit("\x1b[2K").next().unwrap();
    assert!(end.starts_with("randread 4 KiB"), "the line is gone when the results come: {shown:?}");
}

#[test]
fn what_cannot_run_is_refused_with_a_remedy() {
    let server = support::server::Options::new().export("null:1M").read_only().start();
    let uri = server.uri("");
    for (arguments, says) in [
        ("--rw randwrite", "choose --rw read or randread"),
        ("--verify", "choose --rw write, randwrite or randrw"),
        ("--rw write --verify --bs 1000", "multiple of 512"),
        ("--rw randread --fsync 3", "--fsync comes after writes"),
        ("--mix 30", "--mix needs --rw randrw"),
        ("--bs 512M", "--bs must be from 1 to 256M"),
        ("--bs 64M", "choose a smaller --bs"),
        ("--connections 30000 --depth 65536", "at most 1048576"),
        ("--bs 4M", "no block of 4194304 bytes fits"),
        ("--size 2M", "the export ends at 1048576 bytes"),
        ("--offset 1M", "no block of 4096 bytes fits"),
        ("--cpu 4000", "CPU 4000"),
        ("--fio /nonexistent", "cannot read /nonexistent"),
        ("--hlog /nonexistent/log", "cannot write the histogram log"),
    ] {
        let run = bench(&uri, arguments);
        assert_eq!(run.status.code(), Some(2), "{run}");
        assert!(run.stderr.contains(says), "{says:?} is not in: {run}");
        assert!(run.stdout.is_empty(), "{run}");
    }
    let run = bench("nbd+unix:///?socket=/nonexistent", "--ops 1");
    assert_eq!(run.status.code(), Some(2), "{run}");
    let run = peers::run(Command::new(env!("CARGO_BIN_EXE_ringnbd")).arg("bench"));
    assert_eq!(run.status.code(), Some(2), "{run}");
    assert!(run.stderr.contains("no URI"), "{run}");
    let liar = Liar::serve(Lie::Nothing);
    let run = bench(&liar.uri(), "--replies structured");
    assert!(run.status.code() == Some(2) && run.stderr.contains("no structured replies"), "{run}");
}
