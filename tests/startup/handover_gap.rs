//! How long the requests of a deep load wait while one process after the other takes over.
//!
//! Oracle: `ringnbd bench --verify`, which reads back what it wrote and knows the latency of each request.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::handover::{Line, ended, moved_by};

const CONNECTIONS: usize = 4;

/// `RINGNBD_HANDOVERS` makes it a campaign. The longest gap is printed, and bounded by nothing: it is the machine's, too.
#[test]
fn a_deep_load_goes_on() {
    let wanted = std::env::var("RINGNBD_HANDOVERS").map_or(3, |number| number.parse().expect("a number"));
    let (mut line, _images) = Line::with_image(256 << 20, &[]);
    let uri = format!("nbd+unix:///?socket={}", line.path("nbd.sock").display());
    let seed = std::env::var("RINGNBD_SEED").unwrap_or_else(|_| std::process::id().to_string());
    println!("RINGNBD_SEED={seed}");
    let mut bench = Command::new(crate::binary());
    bench.args(["bench", &uri, "--rw", "randrw", "--connections", &CONNECTIONS.to_string(), "--depth", "32"]);
    // It ends when it is told to.
    bench.args(["--duration", "1h", "--verify", "--seed", &seed, "--json"]);
    let mut load = bench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut earlier = Vec::new();
    let connected = |line: &Line, process: usize| line.log(process).matches("\"negotiated\"").count();
    crate::support::wait_until("the load to begin", || connected(&line, 0) >= CONNECTIONS);
    for _ in 0..wanted {
        earlier.push(line.succeed());
        assert!(load.try_wait().unwrap().is_none(), "the load has ended");
    }
    let end =
        rustix::process::kill_process(rustix::process::Pid::from_child(&load), rustix::process::Signal::INT);
    end.unwrap();
    let output = load.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let result: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{output:?}"));
    let of = |name: &str| result.pointer(name).unwrap().as_u64().unwrap();
    let (errors, wrong) = (of("/total/errors"), of("/verification/wrong"));
    assert_eq!((errors, wrong, result["failure"].is_null()), (0, 0, true), "{result:#}");
    let moved: usize = (0..wanted).map(|process| moved_by(&line, process)).sum();
    println!(
        "{moved} connections moved in {wanted} hand-overs, {} requests, 99.99 % within {:?}, the longest {:?}",
        of("/total/operations"),
        Duration::from_nanos(of("/total/latency/p99_99")),
        Duration::from_nanos(of("/total/latency/max")),
    );
    assert!(moved >= wanted, "hardly any has moved");
    earlier.iter_mut().for_each(|process| assert!(ended(process).success()));
    line.stop();
}
