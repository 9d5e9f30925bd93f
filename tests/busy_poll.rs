//! `--busy-poll`: off unless asked for, and an idle server sleeps with it too.
//!
//! What a shard's thread does is read from `/proc`: its state, the nanoseconds that it ran, and how often it went to sleep. No time is
//! asserted: a thread that sleeps through something has run for exactly as long afterwards as before.

mod support;

use std::path::{Path, PathBuf};

use support::raw::{Connection, Mode};
use support::server::{Options, Server};
use support::wait_until;

/// Handshakes through which a shard has to sleep; the control plane alone carries them out.
const HANDSHAKES: usize = 20;

/// The `/proc` directory of the only shard's thread.
fn shard(server: &Server) -> PathBuf {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("the server's threads");
    tasks
        .map(|task| task.expect("a thread").path())
        .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "shard-0"))
        .expect("a thread named shard-0")
}

/// One word of `/proc/PID/task/TID/status`.
fn status(shard: &Path, key: &str) -> String {
    let text = std::fs::read_to_string(shard.join("status")).expect("read its status");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
    line.trim_start_matches(':').split_whitespace().next().expect("a value").to_owned()
}

fn is_asleep(shard: &Path) -> bool {
    status(shard, "State") == "S"
}

/// Nanoseconds on a CPU.
fn ran(shard: &Path) -> u64 {
    let text = std::fs::read_to_string(shard.join("schedstat")).expect("read schedstat");
    text.split_whitespace().next().and_then(|field| field.parse().ok()).expect("a number")
}

/// How often it went to sleep.
fn sleeps(shard: &Path) -> u64 {
    status(shard, "voluntary_ctxt_switches").parse().expect("a number")
}

/// Waits until the shard sleeps, and sleeps through everything that the control plane does for a while.
fn expect_to_sleep(server: &Server, shard: &Path) {
    wait_until("the shard to sleep", || {
        let before = (ran(shard), sleeps(shard));
        if !is_asleep(shard) {
            return false;
        }
        for _ in 0..HANDSHAKES {
            Connection::haggling(server).expect_in_step();
        }
        (ran(shard), sleeps(shard)) == before
    });
}

fn exchange(client: &mut Connection, requests: usize) {
    for _ in 0..requests {
        client.read(0, 512);
    }
}

#[test]
fn without_it_a_shard_sleeps_between_requests() {
    let server = Options::new().shards(1).export("null:1M").start();
    let shard = shard(&server);
    expect_to_sleep(&server, &shard);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    let mut slept = sleeps(&shard);
    for _ in 0..10 {
        exchange(&mut client, 1);
        wait_until("it to sleep after a request", || is_asleep(&shard) && sleeps(&shard) > slept);
        slept = sleeps(&shard);
    }
    expect_to_sleep(&server, &shard);
}

#[test]
fn an_idle_server_goes_to_sleep_with_it() {
    let server = Options::new().shards(1).export("null:1M").args(["--busy-poll", "20ms"]).start();
    let shard = shard(&server);
    expect_to_sleep(&server, &shard);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    exchange(&mut client, 100);
    expect_to_sleep(&server, &shard);
    exchange(&mut client, 1);
    expect_to_sleep(&server, &shard);
}

/// That the two tests above can see a shard that does not sleep.
#[test]
fn a_shard_that_spins_runs_without_a_request() {
    let server = Options::new().shards(1).export("null:1M").args(["--busy-poll", "60s"]).start();
    let shard = shard(&server);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    exchange(&mut client, 100);
    let (ran_before, slept) = (ran(&shard), sleeps(&shard));
    wait_until("it to spin", || ran(&shard) > ran_before + 20_000_000);
    assert_eq!(sleeps(&shard), slept, "it spins, it does not sleep");
    assert!(!is_asleep(&shard));
    exchange(&mut client, 100);
    assert_eq!(sleeps(&shard), slept, "requests come while it spins");
}
