//! `ringnbd ctl`: a thin client of a server's control socket.

use serde::Deserialize;
use serde_json::Value;

use super::Outcome;
use super::http::{self, HttpAnswer};
use super::info::export_name;
use super::text::{human, json, print, table};
use crate::config::ControlAddress;
use crate::nbd::printable::printable;

const LONG_HELP: &str = "\
A server has a control socket with `serve --control unix:PATH`. One that was started with --config
and --pidfile has it beside the pidfile: /run/x.control beside /run/x.pid. Root may use it, and the
user that started the server.

Examples:
  ringnbd ctl --control unix:/run/ringnbd.control list
  ringnbd ctl --control unix:/run/ringnbd.control list --json | jq -r '.exports[].export'
  ringnbd ctl --control unix:/run/ringnbd.control reload

Exit codes: 0, done; 1, the server did not do it; 2, it could not be asked, or refuses this user.";

/// Options of `ringnbd ctl`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows examples.")]
pub(crate) struct Args {
    /// The control socket: unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    pub control: ControlAddress,
    #[command(subcommand)]
    pub command: CtlCommand,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum CtlCommand {
    /// List the exports: size, access, connections, state, source
    List {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Have the server read its configuration, certificates and keys again: new rights and certificates
    /// are in force for clients that come; says what needs a restart
    Reload {
        /// End the sessions that would be refused now: their next requests get ESHUTDOWN
        #[arg(long)]
        enforce: bool,
        /// Print JSON instead of a sentence
        #[arg(long)]
        json: bool,
    },
}

/// What is shown of an export; the server may say more.
#[derive(Debug, Deserialize)]
struct ExportRow {
    export: String,
    id: String,
    source: String,
    size_bytes: u64,
    read_only: bool,
    connections: u64,
    state: String,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let ControlAddress::Path(path) = &args.control else {
        return Outcome::refused("there is no control socket to ask with --control off: write unix:PATH");
    };
    let (method, target, body) = match args.command {
        CtlCommand::List { .. } => ("GET", "/api/v1/exports", ""),
        CtlCommand::Reload { enforce: false, .. } => ("POST", "/api/v1/reload", ""),
        CtlCommand::Reload { enforce: true, .. } => ("POST", "/api/v1/reload", "{\"enforce\": true}"),
    };
    let answer = match http::ask(path, method, target, body) {
        Ok(answer) => answer,
        Err(why) => return Outcome::refused(format_args!("{}: {why}", path.display())),
    };
    match args.command {
        CtlCommand::List { json } => list(&answer, json),
        CtlCommand::Reload { json, .. } => reload(&answer, json),
    }
}

fn list(answer: &HttpAnswer, as_json: bool) -> Outcome {
    if answer.status != 200 {
        return refused(answer);
    }
    if as_json {
        return print(&json(&answer.body));
    }
    match Vec::<ExportRow>::deserialize(&answer.body["exports"]) {
        Ok(exports) => print(&as_table(&exports)),
        Err(error) => Outcome::refused(format_args!("the server's list is not understood: {error}")),
    }
}

fn as_table(exports: &[ExportRow]) -> String {
    let titles = ["EXPORT", "ID", "SIZE", "ACCESS", "CONNECTIONS", "STATE", "SOURCE"];
    let mut rows = vec![titles.map(String::from).to_vec()];
    for export in exports {
        rows.push(vec![
            export_name(&export.export),
            printable(&export.id),
            human(export.size_bytes),
            if export.read_only { "read-only" } else { "read-write" }.into(),
            export.connections.to_string(),
            printable(&export.state),
            printable(&export.source),
        ]);
    }
    table(&rows, &[false, false, true, false, true, false, false])
}

fn reload(answer: &HttpAnswer, as_json: bool) -> Outcome {
    // Without it the answer is not about the reload, but about the request.
    let Some(result) = answer.body["result"].as_str() else { return refused(answer) };
    let (unchanged, rights) = (result == "unchanged", result == "rights");
    if as_json {
        let printed = print(&json(&answer.body));
        return if unchanged || rights { printed } else { Outcome::Failed };
    }
    if unchanged || rights {
        return print(&brought(&answer.body, rights));
    }
    Outcome::failed(sentence(&answer.body).unwrap_or_else(|| printable(result)))
}

/// What a reload has brought, in lines.
fn brought(body: &Value, rights: bool) -> String {
    let mut lines = Vec::new();
    if rights {
        lines.push("Other rights are in force for clients that come.".to_owned());
    }
    if body["tls_renewed"].as_bool().unwrap_or(false) {
        lines.push("Clients that come see the new certificates and keys.".to_owned());
    }
    if lines.is_empty() {
        lines.push("Nothing to change.".to_owned());
    }
    match body["sessions_ended"].as_u64().unwrap_or(0) {
        0 => {}
        1 => lines.push("One session ends, which would be refused now.".to_owned()),
        ended => lines.push(format!("{ended} sessions end, which would be refused now.")),
    }
    lines.join("\n") + "\n"
}

/// The server did not do what was asked, and says why.
fn refused(answer: &HttpAnswer) -> Outcome {
    let why = sentence(&answer.body).unwrap_or_else(|| format!("the server answered {}", answer.status));
    Outcome::refused(why)
}

fn sentence(body: &Value) -> Option<String> {
    body["error"].as_str().map(printable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reload_has_brought() {
        let of = |renewed: bool, ended: u64, rights| {
            brought(&serde_json::json!({"tls_renewed": renewed, "sessions_ended": ended}), rights)
        };
        assert_eq!(of(false, 0, false), "Nothing to change.\n");
        assert_eq!(brought(&Value::Null, false), "Nothing to change.\n", "of an older server");
        let all = "Other rights are in force for clients that come.\n\
                   Clients that come see the new certificates and keys.\n\
                   2 sessions end, which would be refused now.\n";
        assert_eq!(of(true, 2, true), all);
        assert_eq!(
            of(false, 1, false),
            "Nothing to change.\nOne session ends, which would be refused now.\n"
        );
    }

    #[test]
    fn the_table() {
        let body = serde_json::json!([
            {"export": "", "id": "0.0", "source": "mem:1G", "size_bytes": 1u64 << 30, "read_only": false, "connections": 12,
             "state": "serving", "description": "more than is shown"},
            {"export": "a\u{1b}[2J", "id": "10.3", "source": "/a.img", "size_bytes": 512, "read_only": true, "connections": 0,
             "state": "stopping"},
        ]);
        let exports = Vec::<ExportRow>::deserialize(&body).unwrap();
        let shown = as_table(&exports);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(
            lines[0],
            "EXPORT                   ID         SIZE  ACCESS      CONNECTIONS  STATE     SOURCE"
        );
        assert_eq!(
            lines[1],
            "\"\" (the default export)  0.0       1 GiB  read-write           12  serving   mem:1G"
        );
        assert!(!shown.contains('\u{1b}') && lines[2].ends_with("0  stopping  /a.img"), "{shown}");
    }
}
