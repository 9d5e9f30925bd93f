//! What becomes of a latency log: gone on with, emptied, moved, removed, on a full disk.

use std::path::Path;
use std::process::Command;

use ringnbd::internal::stats::interval_log::IntervalLog;

use crate::peers;
use crate::support::raw::{Connection, Mode};
use crate::support::server::{Options, Server};
use crate::support::wait_until;

fn options(log: &Path) -> Options {
    Options::new().export("mem:1M").args(["--latency-log", log.to_str().unwrap()])
}

fn read(client: &mut Connection, requests: u64) {
    (0..requests).for_each(|index| drop(client.read(index % 256 * 4096, 4096)));
}

/// The reads that a log tells of; it is whole.
#[track_caller]
fn reads(log: &Path) -> u64 {
    let text = std::fs::read_to_string(log).unwrap();
    assert!(!IntervalLog::parse(&text).unwrap().is_cut, "{text}");
    reads_so_far(log)
}

/// As [`reads`], of a log that may be in the midst of being written.
#[track_caller]
fn reads_so_far(log: &Path) -> u64 {
    let text = std::fs::read_to_string(log).unwrap();
    let log = IntervalLog::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let totals = log.intervals.iter().filter(|interval| interval.tag == "/read/total");
    totals.map(|interval| interval.histogram().unwrap().len()).sum()
}

/// Waits until a file has the head of a log.
#[track_caller]
fn wait_for_log(log: &Path) {
    let begins = || std::fs::read(log).is_ok_and(|bytes| bytes.starts_with(b"#[Histogram log"));
    wait_until("a new log has begun", begins);
}

fn empty(log: &Path) {
    std::fs::File::options().write(true).open(log).unwrap().set_len(0).unwrap();
}

#[test]
fn a_log_that_is_there_is_gone_on_with_even_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("server.hlog");
    let mut requests = 0;
    for round in 1..=3 {
        let mut server = options(&log).start();
        let mut client = Connection::attach(&server, "", Mode::Simple);
        read(&mut client, round * 10);
        requests += round * 10;
        client.disconnect();
        server.stop();
        assert_eq!(reads(&log), requests);
        // As a crash leaves it.
        let half = "Tag=/read/total,1.000,1.000,0.1,HISTFAAAA";
        let text = std::fs::read_to_string(&log).unwrap();
        std::fs::write(&log, text + half).unwrap();
    }
    let mut report = Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    let finished = peers::run(report.args(["report", "--json"]).arg(&log));
    assert!(finished.stderr.contains("left out"), "the last half of a line is still there: {finished}");
    let report: serde_json::Value = serde_json::from_str(&finished.ok()).unwrap();
    assert_eq!(report["sources"][0]["rows"][0]["requests"], 60, "{report}");
    assert_eq!(report["sources"][0]["facts"]["machine"].as_array().unwrap().len(), 1, "{report}");
}

#[test]
fn a_log_that_is_emptied_is_begun_anew_and_one_that_is_moved_is_gone_on_with() {
    let directory = tempfile::tempdir().unwrap();
    let (log, moved) = (directory.path().join("server.hlog"), directory.path().join("moved.hlog"));
    let mut server = options(&log).start();
    let mut client = Connection::attach(&server, "", Mode::Simple);
    read(&mut client, 100);
    wait_until("they are logged", || reads_so_far(&log) == 100);
    // As logrotate's copytruncate does.
    std::fs::copy(&log, directory.path().join("old.hlog")).unwrap();
    empty(&log);
    wait_for_log(&log);
    read(&mut client, 30);
    wait_until("they are in the new one", || reads_so_far(&log) == 30);
    std::fs::rename(&log, &moved).unwrap();
    read(&mut client, 7);
    wait_until("they are in the one that was moved", || reads_so_far(&moved) == 37);
    assert!(server.complaints().is_empty(), "{:?}", server.complaints());
    std::fs::remove_file(&moved).unwrap();
    wait_until("it says that there is no log any more", || !server.complaints().is_empty());
    read(&mut client, 7);
    server.stop();
    assert_eq!(server.complaints().len(), 1, "{:?}", server.complaints());
    assert!(!log.exists() && !moved.exists());
}

#[test]
fn a_full_disk_costs_the_log_and_nothing_else() {
    const LIMIT: u64 = 64 << 10;
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("server.hlog");
    // Nearly full before the server begins: its head goes in, and little more.
    let padding = format!("#{}\n", "x".repeat(99)).repeat((LIMIT as usize - 1500) / 101);
    std::fs::write(&log, format!("#[Histogram log format version 1.3]\n{padding}")).unwrap();
    let mut server = options(&log).file_size_limit(LIMIT).start();
    let mut client = Connection::attach(&server, "", Mode::Simple);
    let complaints = |server: &Server| server.complaints();
    let mut read_some = || read(&mut client, 50);
    wait_until("the disk is full", || {
        read_some();
        !complaints(&server).is_empty()
    });
    let lost = reads(&log);
    // Every second of these is lost, and that is told once.
    let full = std::time::Instant::now();
    wait_until("some seconds pass", || {
        read_some();
        full.elapsed() > std::time::Duration::from_millis(2500)
    });
    assert_eq!(complaints(&server).len(), 1, "{:?}", complaints(&server));
    assert!(complaints(&server)[0].contains("cannot write the latency log"), "{:?}", complaints(&server));
    assert_eq!(reads(&log), lost, "whole lines up to the end");
    empty(&log);
    wait_for_log(&log);
    wait_until("reads are logged again", || {
        read_some();
        reads_so_far(&log) > 0
    });
    server.stop();
    assert_eq!(complaints(&server).len(), 1, "{:?}", complaints(&server));
}

#[test]
fn what_is_no_log_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk.img");
    std::fs::write(&disk, "precious").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    command.args(["serve", "mem:1M", "--shards", "1", "--tcp", "127.0.0.1:0", "--latency-log"]).arg(&disk);
    let finished = peers::run(&mut command);
    assert_eq!(finished.status.code(), Some(2), "{finished}");
    assert!(finished.stderr.contains("something else than a latency log"), "{finished}");
    assert_eq!(std::fs::read(&disk).unwrap(), b"precious");
}
