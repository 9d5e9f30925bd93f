//! One load seen by three: the server, the load generator and fio. They agree within what the client adds of its own, and a delay that was
//! injected is where it was injected and nowhere else.
//!
//! What the delay is not is measured, by the same client with the same load on an export with a delay that is a fifth as long: what a
//! request costs there beside the delay, in the client, in the server, and in each phase of it, is the most that it may cost here, where a
//! fifth as many requests are served in a second. On a busy machine timers ring late and threads wait for a processor, on both exports; but
//! other work delays whom it likes, so what counts is the closest of a few runs, and the most that a request cost in any of them.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{json, number, ringnbd, row};
use crate::support::server::{Options, Server};
use crate::support::wait_until;
use crate::{http, peers};

const DELAY_NS: f64 = 25e6;
const SHORT_DELAY_NS: f64 = 5e6;
/// A histogram has three digits, on either side.
const DIGITS: f64 = 0.002;
/// fio's bins are a 64th wide, and it names their middle.
const FIO_BIN: f64 = 1.0 / 64.0;
const ATTEMPTS: usize = 10;
/// A processor that has slept through the longer delay may wake so much later than after the shorter one: 0.25 ms were seen in a guest whose
/// hypervisor was busy. It is a fiftieth of the delay that is looked for.
const DEEPER_SLEEP_NS: f64 = DELAY_NS / 50.0;
const QUANTILES: [&str; 3] = ["p50_ns", "p90_ns", "p99_ns"];

/// So many connections with so many requests in flight each, so often, until so many requests are done.
#[derive(Debug, Clone, Copy)]
struct Shape {
    connections: u64,
    depth: u64,
    requests: u64,
}

const SHAPES: [Shape; 2] =
    [Shape { connections: 1, depth: 4, requests: 240 }, Shape { connections: 4, depth: 8, requests: 1920 }];

/// Runs a load and leaves a log; `None` where there is no such client.
type Client = fn(&Server, &str, Shape, &Path) -> Option<()>;

fn bench(server: &Server, export: &str, shape: Shape, log: &Path) -> Option<()> {
    let mut command = ringnbd();
    command.args(["bench", &server.uri(export), "--rw", "randread", "--bs", "4K"]);
    for (flag, value) in
        [("--connections", shape.connections), ("--depth", shape.depth), ("--ops", shape.requests)]
    {
        command.args([flag, &value.to_string()]);
    }
    peers::run(command.arg("--hlog").arg(log)).ok();
    Some(())
}

fn fio(server: &Server, export: &str, shape: Shape, log: &Path) -> Option<()> {
    let mut command: Command = peers::command("fio")?;
    command.args([
        "--name=job",
        "--ioengine=nbd",
        "--rw=randread",
        "--bs=4k",
        "--size=64M",
        "--group_reporting",
    ]);
    command.arg(format!("--uri={}", server.uri(export)));
    command.arg(format!("--numjobs={}", shape.connections)).arg(format!("--iodepth={}", shape.depth));
    command.arg(format!("--number_ios={}", shape.requests / shape.connections));
    // From before the submission, as everyone else counts; else fio counts from behind it.
    command.args(["--lat_percentiles=1", "--output-format=json+"]).arg(format!("--output={}", log.display()));
    peers::run(command.current_dir(log.parent().unwrap())).ok();
    Some(())
}

/// The rows of one run on the export with the long delay and on that with the short one: the server's, then the client's.
struct Measured {
    slow: [Value; 2],
    fast: [Value; 2],
}

fn measure(client: Client, shape: Shape) -> Option<Measured> {
    let directory = tempfile::tempdir().unwrap();
    let log = |name: &str| directory.path().join(name);
    let options =
        Options::new().export("slow=fault:delay=25ms:mem:64M").export("fast=fault:delay=5ms:mem:64M");
    let options = options.args(["--latency-log", log("server").to_str().unwrap(), "--admin", "127.0.0.1:0"]);
    let mut server = options.start();
    client(&server, "fast", shape, &log("fast"))?;
    client(&server, "slow", shape, &log("slow"))?;
    let told = told(&server, shape);
    server.stop();
    let all = json(&[&log("server"), &log("slow"), &log("fast")], &[]);
    let of_server = |export: &str| {
        let rows = all["sources"][0]["rows"].as_array().unwrap();
        rows.iter().find(|row| row["export"] == export && row["command"] == "read").unwrap().clone()
    };
    for (entry, quantile) in told.iter().flat_map(|entry| QUANTILES.map(|quantile| (entry, quantile))) {
        let row = of_server("slow");
        let phase = entry["phase"].as_str().unwrap();
        let logged = if phase == "total" { &row["latency"] } else { &row["phases"][phase] };
        let (told, logged) = (number(&entry[quantile]), number(&logged[quantile]));
        assert!(
            (told - logged).abs() <= 64.0 + logged * DIGITS,
            "{phase}: {logged} in the log, {told} told: {entry}"
        );
    }
    let of_client = |source: usize| row(&all["sources"][source], "read").clone();
    Some(Measured { slow: [of_server("slow"), of_client(1)], fast: [of_server("fast"), of_client(2)] })
}

/// What the running server tells of the export with the long delay, by phase.
fn told(server: &Server, shape: Shape) -> Vec<Value> {
    let admin = http::Address::of(server);
    let entries = || {
        let answer: Value = serde_json::from_str(&admin.get("/api/v1/latency").body).unwrap();
        let entries = answer["latency"].as_array().unwrap().iter();
        entries.filter(|entry| entry["export"] == "slow").cloned().collect::<Vec<_>>()
    };
    let is_whole =
        |entries: &[Value]| entries.len() == 4 && entries.iter().all(|of| of["count"] == shape.requests);
    wait_until("all reads are counted", || is_whole(&entries()));
    entries()
}

const PHASES: [&str; 3] = ["queue", "backend", "send"];

/// The median of each phase beside what was injected there.
fn beside(server: &Value, delay: f64) -> [f64; 3] {
    let injected = |phase: &str| if phase == "backend" { delay } else { 0.0 };
    PHASES.map(|phase| number(&server["phases"][phase]["p50_ns"]) - injected(phase))
}

/// The closest that server and client came to each other in some runs, by quantile, in nanoseconds.
struct Closest {
    /// What the client says beyond the server.
    beyond: [f64; 3],
    /// What the server says beyond the client; a client cannot be done before the server was, but for the turn of its loop in which the
    /// server learns that its reply is out.
    before: [f64; 3],
    /// What a request costs beside the shorter delay, at most.
    cost: [f64; 3],
    /// The medians of the phases beside the delay, and at most beside the shorter one.
    phases: [f64; 3],
    phases_cost: [f64; 3],
}

/// However busy the machine is, half of what is injected is too much.
fn more(most: &mut f64, cost: f64) {
    *most = most.max(cost.min(DELAY_NS / 2.0));
}

impl Closest {
    fn new() -> Self {
        let (least, most) = ([f64::MAX; 3], [0.0; 3]);
        Self { beyond: least, before: least, cost: most, phases: least, phases_cost: most }
    }

    fn add(&mut self, measured: &Measured) {
        let [server, client] = &measured.slow;
        for (index, quantile) in QUANTILES.iter().enumerate() {
            let of = |value: &Value| number(&value[*quantile]);
            let (ours, theirs) = (of(&server["latency"]), of(&client["latency"]));
            self.beyond[index] = self.beyond[index].min(theirs - ours);
            self.before[index] = self.before[index].min(ours - theirs - of(&server["phases"]["send"]));
            more(&mut self.cost[index], of(&measured.fast[1]["latency"]) - SHORT_DELAY_NS);
        }
        let (slow, fast) = (beside(server, DELAY_NS), beside(&measured.fast[0], SHORT_DELAY_NS));
        for phase in 0..PHASES.len() {
            self.phases[phase] = self.phases[phase].min(slow[phase]);
            more(&mut self.phases_cost[phase], fast[phase]);
        }
    }

    /// What is still wrong, given the width of the client's bins.
    fn disagreements(&self, bin: f64) -> Vec<String> {
        let mut wrong = Vec::new();
        let resolution = 2.0 * DELAY_NS * bin;
        for (index, quantile) in QUANTILES.iter().enumerate() {
            let (beyond, before, cost) = (self.beyond[index], self.before[index], self.cost[index]);
            if beyond > cost + resolution + DEEPER_SLEEP_NS {
                wrong.push(format!("{quantile}: the client says {beyond} more, and it can add {cost}"));
            }
            if before > resolution {
                wrong.push(format!("{quantile}: the server says {before} more than the client"));
            }
        }
        // The delay is in the backend, and no part of it is anywhere else.
        for (index, phase) in PHASES.iter().enumerate() {
            let (beside, cost) = (self.phases[index], self.phases_cost[index]);
            if beside > cost + 2.0 * DELAY_NS * DIGITS + DEEPER_SLEEP_NS {
                wrong.push(format!("{phase}: {beside} beside the delay, {cost} beside the shorter one"));
            }
        }
        wrong
    }
}

/// What is true of every run, however busy the machine is.
#[track_caller]
fn check(measured: &Measured, shape: Shape, bin: f64) {
    for [server, client] in [&measured.slow, &measured.fast] {
        assert_eq!(
            (&server["requests"], &client["requests"]),
            (&shape.requests.into(), &shape.requests.into())
        );
    }
    let [server, client] = &measured.slow;
    assert!(number(&server["phases"]["backend"]["min_ns"]) >= DELAY_NS * (1.0 - DIGITS), "{server}");
    assert!(number(&client["latency"]["min_ns"]) >= DELAY_NS * (1.0 - bin), "{client}");
    let means = PHASES.map(|phase| number(&server["phases"][phase]["mean_ns"]));
    let whole = number(&server["latency"]["mean_ns"]);
    assert!(
        (means.iter().sum::<f64>() / whole - 1.0).abs() < 0.005,
        "{means:?} are not the parts of {whole}"
    );
    // Each request comes to the server after the client has begun to count, and is sent before the client stops.
    let of_client = number(&client["latency"]["mean_ns"]);
    assert!(means[0] + means[1] <= of_client * (1.0 + bin), "{means:?} and {of_client}: {server} {client}");
}

/// Measures each shape until server and client agree.
#[track_caller]
fn agree(client: Client, bin: f64) {
    for shape in SHAPES {
        let mut closest = Closest::new();
        let mut disagreements = Vec::new();
        for _ in 0..ATTEMPTS {
            let Some(measured) = measure(client, shape) else { return };
            check(&measured, shape, bin);
            closest.add(&measured);
            disagreements = closest.disagreements(bin);
            if disagreements.is_empty() {
                break;
            }
        }
        assert!(disagreements.is_empty(), "{shape:?}: {disagreements:#?}");
    }
}

#[test]
fn the_server_and_the_load_generator_agree() {
    agree(bench, DIGITS);
}

#[test]
fn the_server_and_fio_agree() {
    agree(fio, FIO_BIN);
}
