//! `ringnbd top`: what a server does, live.

mod columns;
mod draw;
mod figures;
mod live;
mod model;
mod plain;
#[cfg(test)]
mod tests;
mod words;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Outcome;
use super::control_place;
use super::text::{json, print};
use crate::config::listen::UnixAddress;
use crate::config::size::parse_duration;
use crate::config::{AdminAddress, ControlAddress, ListenAddress};
use crate::daemon::signals::on_stop;
use draw::Look;
use figures::Camera;
use model::{TopModel, TopOrder, TopPage};

const LONG_HELP: &str = "\
Shows exports, clients and shards of a running server: requests and bytes a second, latency (median and 99th
percentile of the last second), requests under way, errors; and the last minutes as lines. It asks the control socket
or the admin server, whichever is named. When the output is no terminal it prints the figures once.

Keys: Tab or 1 2 3 the page, s the column to sort by, r the other way round, / a part of a name, p stands still,
Enter the clients of an export, ? all keys, q quits. NO_COLOR takes the colours away.

Examples:
  ringnbd top --control unix:/run/ringnbd.control
  ringnbd top --admin http://127.0.0.1:9800/
  ringnbd top --admin unix:/run/ringnbd-admin.sock --sort p99 --filter vm
  ringnbd top --control unix:/run/ringnbd.control --json | jq '.exports[] | select(.errors > 0) | .export'

JSON keys: version, stopping, requests_per_second, read_bytes_per_second, written_bytes_per_second, errors_per_second,
  client_count; exports[]: export, reads_per_second, writes_per_second, others_per_second, read_bytes_per_second,
  written_bytes_per_second, errors_per_second, p50_ns, p99_ns (of the last second; 0 if it did nothing), in_flight,
  connections, errors, size_bytes, read_only; clients[], the busiest: id, peer, export, shard, age_seconds,
  requests_per_second, bytes_per_second, in_flight, requests, bytes; shards[]: responsive, failed, connections,
  in_flight, unsent, buffer_memory_used_bytes, buffer_memory_bytes

Exit codes: 0, it was shown; 2, the server cannot be asked, or there is no terminal to show it on.";

/// Options of `ringnbd top`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows the keys, examples and the JSON keys.")]
pub(crate) struct Args {
    /// The control socket: unix:PATH [default: as of `ctl`]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "admin")]
    pub control: Option<ControlAddress>,
    /// The admin server: http://HOST:PORT, unix:PATH or unix:@NAME
    #[arg(long, value_name = "URL", value_parser = admin_address)]
    pub admin: Option<AdminAddress>,
    /// How often the server is asked
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub interval: Duration,
    /// Print the figures of one interval, and end
    #[arg(long)]
    pub once: bool,
    /// The same as JSON
    #[arg(long)]
    pub json: bool,
    /// What is shown first
    #[arg(long, value_enum, default_value = "exports")]
    pub show: Shown,
    /// What rows are sorted by
    #[arg(long, value_enum, value_name = "COLUMN", default_value = "requests")]
    pub sort: Sorted,
    /// Show only what has this in its name
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shown {
    Exports,
    Clients,
    Shards,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sorted {
    Requests,
    Bytes,
    P99,
    InFlight,
    Errors,
    Name,
}

/// As servers take it, or as a browser has it.
fn admin_address(text: &str) -> Result<AdminAddress, String> {
    let text = text.strip_prefix("http://").unwrap_or(text);
    let text = text.split_once('/').filter(|_| !text.starts_with("unix:")).map_or(text, |(host, _)| host);
    text.parse().map_err(|error: crate::config::listen::AddressError| error.to_string())
}

pub(crate) fn run(args: Args) -> Outcome {
    let interval = args.interval.max(Duration::from_millis(100));
    let is_control = args.admin.is_none();
    let server = match args.admin {
        Some(AdminAddress(address)) => address,
        None => match control_place::find(args.control) {
            Ok(path) => ListenAddress::Unix(UnixAddress::Path(path)),
            Err(why) => return Outcome::refused(why),
        },
    };
    let camera = Camera::new(server, is_control);
    let model = TopModel {
        page: match args.show {
            Shown::Exports => TopPage::Exports,
            Shown::Clients => TopPage::Clients,
            Shown::Shards => TopPage::Shards,
        },
        order: match args.sort {
            Sorted::Requests => TopOrder::Requests,
            Sorted::Bytes => TopOrder::Bytes,
            Sorted::P99 => TopOrder::Latency,
            Sorted::InFlight => TopOrder::InFlight,
            Sorted::Errors => TopOrder::Errors,
            Sorted::Name => TopOrder::Name,
        },
        filter: args.filter,
        ..TopModel::default()
    };
    if args.once || args.json || !std::io::stdout().is_terminal() {
        return once(model, camera, interval, args.json);
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&is_over);
    let watched = on_stop(move || ended.store(true, Ordering::Relaxed), || std::process::exit(130));
    if let Err(error) = watched {
        return Outcome::refused(format_args!("cannot wait for signals: {error}"));
    }
    let look = Look { has_colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    match live::show(model, camera, interval, look, &is_over) {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::refused(format_args!("cannot use the terminal: {error}; --once needs none")),
    }
}

/// Two shots make figures of what is done a second.
fn once(mut model: TopModel, mut camera: Camera, interval: Duration, is_json: bool) -> Outcome {
    for is_second in [false, true] {
        if is_second {
            std::thread::sleep(interval);
        }
        match camera.shoot() {
            Ok(shot) => model.take(shot),
            Err(why) => return Outcome::refused(why),
        }
    }
    print(&if is_json { json(&plain::json(&model)) } else { plain::text(&model) })
}
