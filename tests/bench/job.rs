//! fio's job files: each key by itself, and the same file given to fio.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::parse;
use super::peers::{self, Finished};
use super::support::server::{Options, Server};

/// A job file in the server's directory.
fn write(server: &Server, name: &str, lines: &str) -> PathBuf {
    let file = server.dir().join(name);
    std::fs::write(&file, format!("[global]\nioengine=nbd\n[job]\n{lines}\n")).unwrap();
    file
}

fn bench(file: &Path, arguments: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    command.args(["bench", "--fio"]).arg(file).args(arguments).arg("--json");
    peers::run(command.env("JOB_DEPTH", "6"))
}

#[test]
fn each_key_does_what_it_says() {
    let server = Options::new().export("mem:16M").export("other=mem:16M").start();
    let uri = server.uri("");
    for (lines, key, value) in [
        ("", "uri", Value::from(uri.as_str())),
        ("", "depth", 1.into()),
        ("rw=randwrite", "rw", "randwrite".into()),
        ("readwrite=read", "rw", "read".into()),
        ("bs=16k", "block_size", 16_384.into()),
        ("blocksize=512", "block_size", 512.into()),
        ("iodepth=7", "depth", 7.into()),
        ("iodepth=${JOB_DEPTH}", "depth", 6.into()),
        ("numjobs=3", "connections", 3.into()),
        ("rate_iops=5000", "rate", 5000.into()),
        ("rate_iops=5000\nnumjobs=2", "rate", 10_000.into()),
        ("rate_iops=5000\nrw=randrw", "rate", 10_000.into()),
        ("rw=randrw\nrwmixread=30", "read_percent", 30.into()),
        ("rw=randrw\nrwmixwrite=30", "read_percent", 70.into()),
        ("size=1m", "size", (1 << 20).into()),
        ("offset=2m\nsize=1m", "offset", (2 << 20).into()),
        ("randseed=7", "seed", 7.into()),
        ("verify=crc32c\nrw=randwrite", "verify", true.into()),
    ] {
        let file = write(&server, "job.fio", &format!("uri={uri}\nnumber_ios=20\n{lines}"));
        let run = bench(&file, &[]);
        assert_eq!(run.stderr, "", "{lines}");
        let json = parse(&run.ok());
        assert_eq!(json[key], value, "{lines}");
        assert_eq!(json["total"]["operations"], 20 * json["connections"].as_u64().unwrap(), "{lines}");
    }
    let other = server.uri("other");
    let file = write(&server, "job.fio", &format!("uri={uri}\nnumber_ios=20\nbs=8k"));
    let json = parse(&bench(&file, &[&other, "--bs", "1K"]).ok());
    assert_eq!((&json["uri"], &json["block_size"]), (&other.as_str().into(), &1024.into()), "flags win");
}

#[test]
fn a_run_lasts_for_its_runtime_or_until_it_has_moved_its_size() {
    let server = Server::serve(&["mem:16M"]);
    let uri = server.uri("");
    let run =
        |lines: &str| parse(&bench(&write(&server, "job.fio", &format!("uri={uri}\n{lines}")), &[]).ok());
    let json = run("time_based\nruntime=300ms\nramp_time=100ms\nsize=64k");
    assert!(json["elapsed"].as_f64().unwrap() >= 0.299, "{json:#}");
    assert!(
        json["total"]["operations"].as_u64().unwrap() > 16,
        "the area is gone through many times: {json:#}"
    );
    let json = run("runtime=60\nbs=8k\nsize=1m\nnumjobs=2");
    assert_eq!(json["total"]["operations"], 2 * 128, "{json:#}");
}

#[test]
fn unknown_keys_are_named_and_the_run_goes_on() {
    let server = Server::serve(&["mem:16M"]);
    let lines =
        format!("uri={}\nnumber_ios=20\nclocksource=cpu\ncpus_allowed=0\nsqthread_poll", server.uri(""));
    let run = bench(&write(&server, "job.fio", &lines), &[]);
    for key in ["clocksource", "cpus_allowed", "sqthread_poll"] {
        assert!(run.stderr.contains(key), "{key}: {run}");
    }
    assert!(!run.stderr.contains("number_ios"), "{run}");
    assert_eq!(parse(&run.ok())["total"]["operations"], 20);
}

#[test]
fn the_number_of_operations_can_stand_on_the_command_line() {
    let server = Server::serve(&["mem:16M"]);
    for lines in
        ["rw=randread", "rw=randread\ntime_based", "rw=randread\nnumber_ios=9", "rw=randwrite\nfsync=0"]
    {
        let file = write(&server, "job.fio", &format!("uri={}\n{lines}", server.uri("")));
        let json = parse(&bench(&file, &["--ops", "70"]).ok());
        assert_eq!(
            (&json["total"]["operations"], &json["failure"]),
            (&70.into(), &Value::Null),
            "{lines}: {json:#}"
        );
    }
}

/// What a server was asked for, as its own log counts it: reads, writes, trims and flushes.
fn counts(log: &Path) -> [u64; 4] {
    let mut report = Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    let json = parse(&peers::run(report.args(["report", "--json"]).arg(log)).ok());
    ["read", "write", "trim", "flush"].map(|command| {
        let rows = json["sources"][0]["rows"].as_array().unwrap().iter();
        rows.filter(|row| row["command"] == command).map(|row| row["requests"].as_u64().unwrap()).sum()
    })
}

#[test]
fn fio_does_the_same_with_the_same_file() {
    for lines in [
        "rw=randread\nbs=8k\nsize=1m\nnumjobs=2\niodepth=3",
        "rw=write\nbs=64k\nsize=2m\noffset=1m",
        "rw=randwrite\nnumber_ios=50\nnumjobs=3\nsize=4m",
        "rw=randrw\nrwmixread=100\nsize=1m\nruntime=60",
        "rw=randwrite\nfsync=10\nnumber_ios=100\nsize=4m",
        "rw=randtrim\nnumber_ios=64\nsize=4m",
        "rw=randrw\nrate_iops=200\nrwmixread=70\nsize=4m\nnumber_ios=400",
    ] {
        let [ours, theirs] = [false, true].map(|with_fio| {
            let directory = tempfile::tempdir().unwrap();
            let log = directory.path().join("log");
            let options = Options::new().export("null:16M");
            let mut server = options.args(["--latency-log", log.to_str().unwrap()]).start();
            let file = write(&server, "job.fio", &format!("uri={}\n{lines}", server.uri("")));
            if with_fio {
                peers::run(peers::command("fio")?.arg(&file).current_dir(directory.path())).ok();
            } else {
                bench(&file, &[]).ok();
            }
            server.stop();
            Some(counts(&log))
        });
        let (Some(ours), Some(theirs)) = (ours, theirs) else { return };
        // With a rate fio alternates, and ours rolls dice for each operation.
        let tolerance = if lines.contains("rate_iops") { 60 } else { 0 };
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!(ours.abs_diff(theirs) <= tolerance, "{lines}: {ours} here, {theirs} with fio");
        }
    }
}
