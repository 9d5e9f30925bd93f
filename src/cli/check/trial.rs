//! `ringnbd check --load` and `--durability`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::output::shown;
use crate::check::{
    self, DurabilityVerdict, DurabilityWish, LoadVerdict, LoadWish, LostPromise, ServerCommand, Subject,
};
use crate::cli::Outcome;
use crate::cli::text::{human, human_rate, human_time, json as as_json, print, table};
use crate::client::uri::ServerAddress;
use crate::config::size::parse_duration;
use crate::daemon::signals::on_stop;

/// Options of the two.
#[derive(Debug, clap::Args)]
pub(crate) struct TrialArgs {
    /// Load the server with all commands at once, and compare what is read: the export's contents are lost
    #[arg(long, requires = "danger", conflicts_with_all = ["durability", "list", "only", "junit"])]
    pub load: bool,
    /// Kill the server after what makes writes durable, and read back: the contents of the export are lost
    #[arg(long, requires = "danger", requires = "command", conflicts_with_all = ["list", "only", "junit"])]
    pub durability: bool,
    /// For --load: how long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration, requires = "load")]
    pub duration: Duration,
    /// For --load: how many connections
    #[arg(long, value_name = "N", default_value_t = 4, requires = "load",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub connections: u16,
    /// For --load: how many requests under way on each
    #[arg(long, value_name = "N", default_value_t = 32, requires = "load",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub depth: u16,
    /// For --durability: how often each promise is tried
    #[arg(long, value_name = "N", default_value_t = 5, requires = "durability",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: u64,
    /// Repeat the choices of a run that has told its seed
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
}

impl TrialArgs {
    /// Of this run; a new one unless one is wanted.
    fn seed(&self) -> u64 {
        let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.seed.unwrap_or_else(|| now().as_nanos() as u64 % 1_000_000_007)
    }
}

pub(super) fn load(server: &str, subject: &Subject, args: &TrialArgs, is_json: bool) -> Outcome {
    let wish = LoadWish {
        duration: args.duration,
        connections: usize::from(args.connections),
        depth: usize::from(args.depth),
        seed: args.seed(),
    };
    let verdict = match check::torture(subject, &wish) {
        Ok(verdict) => verdict,
        Err(why) => return Outcome::refused(format_args!("cannot load {server}: {why}")),
    };
    let text = match is_json {
        true => as_json(&load_json(server, wish.seed, &verdict)),
        false => load_text(wish.seed, &verdict),
    };
    ended(print(&text), verdict.broken.is_some())
}

fn ended(printed: Outcome, is_broken: bool) -> Outcome {
    if printed == Outcome::Done && is_broken { Outcome::Failed } else { printed }
}

/// The server is `words`; it listens at an address, or talks on its standard input and output.
pub(super) fn durability(
    words: Vec<OsString>,
    address: Option<ServerAddress>,
    subject: &Subject,
    args: &TrialArgs,
    is_json: bool,
) -> Outcome {
    let name = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let wish = DurabilityWish { rounds: args.rounds, seed: args.seed() };
    let mut server = ServerCommand::new(words, address, subject.timeout);
    let running = server.running();
    if let Err(error) = on_stop(move || end(&running), || std::process::exit(INTERRUPTED)) {
        return Outcome::refused(format_args!("cannot wait for signals: {error}"));
    }
    let verdict = match check::endure(&mut server, subject, &wish) {
        Ok(verdict) => verdict,
        Err(why) => return Outcome::refused(format_args!("cannot check {name}: {why}")),
    };
    let text = match is_json {
        true => as_json(&durability_json(&name, wish.seed, &verdict)),
        false => durability_text(wish.seed, &verdict),
    };
    ended(print(&text), verdict.broken.is_some())
}

/// The exit code of a command that a signal ended.
const INTERRUPTED: i32 = 130;

/// A signal ends this program, and the server that it has started.
fn end(running: &Arc<AtomicI32>) {
    if let Some(group) = rustix::process::Pid::from_raw(running.swap(0, Ordering::SeqCst)) {
        let _it_may_be_gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    std::process::exit(INTERRUPTED)
}

fn load_text(seed: u64, of: &LoadVerdict) -> String {
    let seconds = of.seconds.max(0.001);
    let titles = ["COMMAND", "REQUESTS", "PER SECOND", "BYTES", "BYTES/S"];
    let mut rows = vec![titles.map(String::from).to_vec()];
    for (name, requests, bytes) in &of.commands {
        rows.push(vec![
            (*name).to_owned(),
            requests.to_string(),
            human_rate(*requests as f64 / seconds),
            human(*bytes),
            human((*bytes as f64 / seconds) as u64),
        ]);
    }
    let mut text = table(&rows, &[false, true, true, true, true]);
    let [median, p99, longest] = of.latency_ns.map(human_time);
    let shared = if of.is_shared { ", which read what others wrote" } else { "" };
    let _ = writeln!(
        text,
        "{:.1} s, {} connections{shared}; latency: median {median}, 99 % {p99}, longest {longest}",
        of.seconds, of.connections
    );
    match &of.broken {
        None => {
            let _ = writeln!(text, "All is right: {} were compared (seed {seed}).", human(of.compared_bytes));
        }
        Some((what, transfers)) => {
            let _ = writeln!(text, "WRONG: {what} (seed {seed}).");
            transfers.iter().for_each(|transfer| text += &format!("  {}\n", shown(transfer)));
        }
    }
    text
}

fn load_json(server: &str, seed: u64, of: &LoadVerdict) -> Value {
    let commands = of
        .commands
        .iter()
        .map(|(command, requests, bytes)| json!({"command": command, "requests": requests, "bytes": bytes}));
    json!({
        "server": server,
        "seconds": of.seconds,
        "connections": of.connections,
        "shared": of.is_shared,
        "commands": commands.collect::<Vec<_>>(),
        "p50_ns": of.latency_ns[0],
        "p99_ns": of.latency_ns[1],
        "max_ns": of.latency_ns[2],
        "compared_bytes": of.compared_bytes,
        "seed": seed,
        "broken": of.broken.as_ref().map(|(what, transfers)| json!({"reason": what, "transfers": transfers})),
    })
}

fn durability_text(seed: u64, of: &DurabilityVerdict) -> String {
    let mut text = String::new();
    let broken = |name: &str| of.broken.as_ref().is_some_and(|lost| lost.means == name);
    for (name, tried, skipped) in &of.tried {
        let _ = match skipped {
            Some(why) => writeln!(text, "n/a      {name:<11} {why}"),
            None if broken(name) => writeln!(text, "BROKEN   {name:<11} at the try number {tried}"),
            None if *tried == 0 => writeln!(text, "-        {name:<11} not tried"),
            None => writeln!(text, "kept     {name:<11} {tried} times"),
        };
    }
    let _ = match &of.broken {
        None => writeln!(text, "All that was promised was there after {} kills (seed {seed}).", of.kills),
        Some(LostPromise { promise, what, round, .. }) => writeln!(
            text,
            "The server broke its promise in round {round}: {promise}.\nAfter the kill, {what} (seed {seed})."
        ),
    };
    for transfer in of.broken.iter().flat_map(|lost| &lost.transfers) {
        let _ = writeln!(text, "  {}", shown(transfer));
    }
    text
}

fn durability_json(server: &str, seed: u64, of: &DurabilityVerdict) -> Value {
    let promises = of
        .tried
        .iter()
        .map(|(name, tried, skipped)| json!({"promise": name, "tried": tried, "skipped": skipped}));
    let broken = of.broken.as_ref().map(|LostPromise { means, promise, round, what, transfers }| {
        json!({
            "promise": means, "sentence": promise, "round": round, "reason": what, "transfers": transfers,
        })
    });
    json!({
        "server": server,
        "kills": of.kills,
        "promises": promises.collect::<Vec<_>>(),
        "seed": seed,
        "broken": broken,
    })
}
