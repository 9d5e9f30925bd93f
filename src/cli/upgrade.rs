//! `ringnbd upgrade --check`: what a hand-over to a new process would move.

use serde::Deserialize;

use super::Outcome;
use super::control_place;
use super::http;
use super::info::export_name;
use super::text::{json, print};
use crate::config::ControlAddress;
use crate::nbd::printable::printable;

const LONG_HELP: &str = "\
A new binary takes over from a server that runs, and its clients notice nothing:

  ringnbd upgrade --check --control unix:/run/ringnbd.control
  /usr/bin/ringnbd.new serve --takeover unix:/run/ringnbd.control EXPORT... (as the old one was started)

Connections with TLS move to a process that has TLS too, and those of an export to one that has it under its name and
with the same URI. Connections that cannot move are served by the old process until they end, and it ends then.

Exit codes: 0, all connections can move; 1, some cannot; 2, the server could not be asked.";

/// Options of `ringnbd upgrade`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` says how to upgrade.")]
pub(crate) struct Args {
    /// Say which connections would move to a new process, and which not and why; nothing is changed
    #[arg(long, required = true)]
    pub check: bool,
    /// The control socket of the server: unix:PATH [default: as of `ctl`]
    #[arg(long, value_name = "ADDRESS")]
    pub control: Option<ControlAddress>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What would become of the connections of an export.
#[derive(Debug, Deserialize)]
struct DepartureRow {
    export: String,
    connections: u64,
    moves: bool,
    reason: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Outcome {
    let path = match control_place::find(args.control.clone()) {
        Ok(path) => path,
        Err(why) => return Outcome::refused(why),
    };
    let answer = match http::ask(&path, "GET", "/api/v1/handover", "") {
        Ok(answer) => answer,
        Err(why) => return Outcome::refused(format_args!("{}: {why}", path.display())),
    };
    if answer.status == 404 {
        return Outcome::refused("this server is of a version that has no hand-over: restart it");
    }
    let rows = match Vec::<DepartureRow>::deserialize(&answer.body["exports"]) {
        Ok(rows) if answer.status == 200 => rows,
        _ => {
            let why = answer.body["error"].as_str().map(printable);
            return Outcome::refused(
                why.unwrap_or_else(|| "the server's answer is not understood".to_owned()),
            );
        }
    };
    let (text, all_move) = sentences(&rows);
    let printed = print(&if args.json { json(&answer.body) } else { text });
    if all_move { printed } else { Outcome::Failed }
}

/// A sentence for each export of which something stays, and whether nothing does.
fn sentences(rows: &[DepartureRow]) -> (String, bool) {
    let (mut text, mut moving, mut staying) = (String::new(), 0, 0);
    for DepartureRow { export, connections, moves, reason } in rows {
        let stays = if *moves { 0 } else { *connections };
        moving += connections.saturating_sub(stays);
        staying += stays;
        let (name, many) = (export_name(export), if stays == 1 { "connection" } else { "connections" });
        if !moves {
            let reason = reason.as_deref().map_or_else(|| "it cannot move".to_owned(), printable);
            text += &format!("{name}: {reason}; {stays} {many} would stay with the old process.\n");
        }
    }
    text += &match (moving, staying) {
        (0, 0) => "There are no connections.\n".to_owned(),
        (moving, 0) => format!("All connections can move: {moving}.\n"),
        (moving, staying) => format!("Can move: {moving}. Would stay until they end: {staying}.\n"),
    };
    (text, staying == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_told_with_its_reason() {
        let row = |export: &str, connections, reason: Option<&str>| DepartureRow {
            export: export.to_owned(),
            connections,
            moves: reason.is_none(),
            reason: reason.map(str::to_owned),
        };
        let (text, all) = sentences(&[row("a", 3, None)]);
        assert!(all && text == "All connections can move: 3.\n", "{text}");
        let rows = [row("a", 3, None), row("m\u{1b}", 2, Some("its bytes are in memory")), row("b", 1, None)];
        let (text, all) = sentences(&rows);
        let lines: Vec<_> = text.lines().collect();
        assert!(!all && lines.len() == 2, "{text}");
        let why = "its bytes are in memory; 2 connections would stay with the old process.";
        assert!(lines[0].ends_with(why), "{text}");
        assert_eq!(lines[1], "Can move: 4. Would stay until they end: 2.");
        assert!(sentences(&[row("m", 0, Some("x"))]).1, "nobody would be left behind");
    }
}
