//! `ringnbd ctl`: a thin client of a server's control socket.

mod connections;
mod events;
mod exports;
mod limit;
mod question;
mod resize;

use serde::Deserialize;
use serde_json::Value;

use super::Outcome;
use super::control_place;
use super::http::{self, HttpAnswer};
use super::info::export_name;
use super::natural::natural;
use super::text::{json, print};
use crate::config::ControlAddress;
use crate::nbd::printable::printable;
use connections::ConnectionCommand;
use events::EventsCommand;
use exports::ExportCommand;
use limit::LimitCommand;
use question::{Form, Question, refused, sentence};
use resize::ResizeCommand;

const LONG_HELP: &str = "\
A server has a control socket with `serve --control unix:PATH`. One that was started with --config
and --pidfile has it beside the pidfile: /run/x.control beside /run/x.pid; one that serves a store has
it in the store, STORE/control.socket. Root may use it, and the user that started the server.

Examples:
  ringnbd ctl --control unix:/run/ringnbd.control list
  ringnbd ctl --control unix:/run/ringnbd.control list --json | jq -r '.exports[].export'
  ringnbd ctl --control unix:/run/ringnbd.control export add vm7 /srv/images/vm7.img
  ringnbd ctl --control unix:/run/ringnbd.control export rm vm7 --mode hide
  ringnbd ctl --control unix:/run/ringnbd.control connection kill 0.1234567
  ringnbd ctl --control unix:/run/ringnbd.control reload --dry-run
  ringnbd ctl --control unix:/run/ringnbd.control resize vm7 100G
  ringnbd ctl --control unix:/run/ringnbd.control events --json

Exit codes: 0, done; 1, the server did not do it; 2, it could not be asked, or refuses this user.";

/// Options of `ringnbd ctl`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows examples.")]
pub(crate) struct Args {
    /// The control socket: unix:PATH [default: RINGNBD_CONTROL of the environment, or the only one in
    /// /run/ringnbd and /run]
    #[arg(long, value_name = "ADDRESS")]
    pub control: Option<ControlAddress>,
    #[command(subcommand)]
    pub command: CtlCommand,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum CtlCommand {
    /// List the exports: size, access, connections, state, weight, limits, source
    List(Form),
    /// Add, change and remove exports
    #[command(subcommand)]
    Export(ExportCommand),
    /// List and cut off connections
    #[command(subcommand)]
    Connection(ConnectionCommand),
    /// Show or change how many requests and bytes a second an export or a tenant may have, and its weight
    Limit(LimitCommand),
    /// Give an export another size, or have the server look at its file or device again; clients see it when
    /// they connect again
    Resize(ResizeCommand),
    /// Take snapshots of images of its store, all at one point in time
    Snapshot {
        /// IMAGE@SNAPSHOT
        #[arg(required = true)]
        nodes: Vec<String>,
        /// The directory of the store, if the server has several
        #[arg(long)]
        store: Option<std::path::PathBuf>,
        #[command(flatten)]
        form: Form,
    },
    /// Show what happens, as it happens, until this is interrupted: exports, limits, reloads, failures
    Events(EventsCommand),
    /// Have the server read its configuration, certificates and keys again: exports, rights and certificates
    /// change at once, as a whole or not at all; other settings need a restart
    Reload {
        /// End the sessions that would be refused now: their next requests get ESHUTDOWN
        #[arg(long, conflicts_with = "dry_run")]
        enforce: bool,
        /// Say what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        form: Form,
    },
    /// Show how the server is
    Health(Form),
    /// Have the server finish what has begun and end, as SIGTERM does
    Drain(Form),
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let path = match control_place::find(args.control) {
        Ok(path) => path,
        Err(why) => return Outcome::refused(why),
    };
    if let CtlCommand::Events(command) = &args.command {
        return events::follow(&path, command);
    }
    let request = match question(&args.command) {
        Ok(request) => request,
        Err(why) => return Outcome::refused(why),
    };
    let Question { method, target, headers, body } = &request;
    let answer = match http::ask_with(&path, (method, target), headers, body) {
        Ok(answer) => answer,
        Err(why) => return Outcome::refused(format_args!("{}: {why}", path.display())),
    };
    match args.command {
        CtlCommand::List(form) | CtlCommand::Export(ExportCommand::List(form)) => {
            exports::list(&answer, form.json)
        }
        CtlCommand::Export(command) => exports::show(&command, &answer),
        CtlCommand::Limit(command) => limit::show(&command, &answer),
        CtlCommand::Connection(command) => connections::show(&command, &answer),
        CtlCommand::Resize(command) => resize::show(&command, &answer),
        CtlCommand::Snapshot { form, nodes, .. } => match answer.status {
            200 if form.json => print(&json(&answer.body)),
            200 => print(&nodes.iter().map(|node| format!("{}\n", printable(node))).collect::<String>()),
            _ => refused(&answer),
        },
        CtlCommand::Events(_) => unreachable!("it has no answer that ends"),
        CtlCommand::Reload { dry_run, form, .. } => reload(&answer, dry_run, form.json),
        CtlCommand::Health(form) => health(&answer, form.json),
        CtlCommand::Drain(form) => match answer.status {
            202 if form.json => print(&json(&answer.body)),
            202 => print("The server finishes what has begun, and ends.\n"),
            _ => refused(&answer),
        },
    }
}

/// What a command asks; a sentence if it cannot be asked.
fn question(command: &CtlCommand) -> Result<Question, String> {
    Ok(match command {
        CtlCommand::List(_) => Question::new("GET", "/api/v1/exports"),
        CtlCommand::Export(command) => exports::question(command)?,
        CtlCommand::Limit(command) => limit::question(command)?,
        CtlCommand::Connection(command) => connections::question(command),
        CtlCommand::Resize(command) => resize::question(command)?,
        CtlCommand::Snapshot { nodes, store, .. } => {
            let mut body = serde_json::json!({ "nodes": nodes });
            if let Some(store) = store {
                let store = std::path::absolute(store).map_err(|error| error.to_string())?;
                body["store"] = store.to_string_lossy().into();
            }
            Question { body: body.to_string(), ..Question::new("POST", "/api/v1/images/snapshot") }
        }
        CtlCommand::Events(_) => Question::new("GET", "/api/v1/events"),
        CtlCommand::Reload { dry_run: true, .. } => Question::new("POST", "/api/v1/reload?dry_run=true"),
        CtlCommand::Reload { enforce, .. } => {
            let body = if *enforce { "{\"enforce\": true}" } else { "" };
            Question { body: body.into(), ..Question::new("POST", "/api/v1/reload") }
        }
        CtlCommand::Health(_) => Question::new("GET", "/api/v1/health"),
        CtlCommand::Drain(_) => Question::new("POST", "/api/v1/drain"),
    })
}

/// What is shown of a server.
#[derive(Debug, Deserialize)]
struct HealthRow {
    state: String,
    shards: u64,
    shards_failed: u64,
    shards_stuck: u64,
    exports: u64,
    connections: u64,
}

fn health(answer: &HttpAnswer, as_json: bool) -> Outcome {
    if answer.status != 200 {
        return refused(answer);
    }
    let health = match HealthRow::deserialize(&answer.body) {
        Ok(health) => health,
        Err(error) => {
            return Outcome::refused(format_args!("the server's answer is not understood: {error}"));
        }
    };
    let shown = if as_json {
        print(&json(&answer.body))
    } else {
        let HealthRow { state, shards, shards_failed, shards_stuck, exports, connections } = &health;
        let what = format!(
            "{}: {exports} exports, {connections} connections, {shards} shards of which {shards_failed} have failed and {shards_stuck} \
             do not answer\n",
            printable(state)
        );
        print(&what)
    };
    if health.state == "ok" { shown } else { Outcome::Failed }
}

fn reload(answer: &HttpAnswer, is_dry: bool, as_json: bool) -> Outcome {
    // Without it the answer is not about the reload, but about the request.
    let Some(result) = answer.body["result"].as_str() else { return refused(answer) };
    if as_json {
        let printed = print(&json(&answer.body));
        return if answer.status == 200 { printed } else { Outcome::Failed };
    }
    match result {
        "unchanged" | "rights" | "exports" if !is_dry => print(&brought(&answer.body, result)),
        "unchanged" => print("Nothing to change.\n"),
        "rights" | "exports" => print(&planned(&answer.body)),
        _ => Outcome::failed(sentence(&answer.body).unwrap_or_else(|| printable(result))),
    }
}

/// What a reload has brought, in lines.
fn brought(body: &Value, result: &str) -> String {
    let mut text = match result {
        "rights" => "Other rights are in force for clients that come.\n".to_owned(),
        "exports" => format!("Changed:\n{}", lines(body)),
        _ => String::new(),
    };
    if body["tls_renewed"].as_bool().unwrap_or(false) {
        text += "Clients that come see the new certificates and keys.\n";
    }
    if text.is_empty() {
        text += "Nothing to change.\n";
    }
    match body["sessions_ended"].as_u64().unwrap_or(0) {
        0 => {}
        1 => text += "One session ends, which would be refused now.\n",
        ended => text += &format!("{ended} sessions end, which would be refused now.\n"),
    }
    text
}

/// The exports that a reload is about, a line for each.
fn lines(body: &Value) -> String {
    let names = |key: &str, how: &str| {
        let mut names: Vec<_> =
            body[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        names.sort_by(|one, other| natural(one, other));
        names.into_iter().map(|name| format!("  {how:<8}{}\n", export_name(name))).collect::<String>()
    };
    names("added", "new") + &names("removed", "removed") + &names("changed", "changed")
}

fn planned(body: &Value) -> String {
    format!("Nothing was changed. A reload changes:\n{}", lines(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reload_has_brought() {
        let of = |renewed: bool, ended: u64, result| {
            brought(&serde_json::json!({"tls_renewed": renewed, "sessions_ended": ended}), result)
        };
        assert_eq!(of(false, 0, "unchanged"), "Nothing to change.\n");
        assert_eq!(brought(&Value::Null, "unchanged"), "Nothing to change.\n", "of an older server");
        let all = "Other rights are in force for clients that come.\n\
                   Clients that come see the new certificates and keys.\n\
                   2 sessions end, which would be refused now.\n";
        assert_eq!(of(true, 2, "rights"), all);
        assert_eq!(
            of(false, 1, "unchanged"),
            "Nothing to change.\nOne session ends, which would be refused now.\n"
        );
        let exports = serde_json::json!({"added": ["a"], "removed": [], "changed": []});
        assert_eq!(brought(&exports, "exports"), "Changed:\n  new     a\n");
    }

    #[test]
    fn a_plan_has_a_line_for_each_export() {
        let body = serde_json::json!({"added": ["vm10", "b\u{1b}", "vm9", ""], "removed": ["c"], "changed": [], "settings": []});
        let shown = planned(&body);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[1..3], ["  new     \"\" (the default export)", "  new     b\\u{1b}"], "{shown}");
        assert_eq!(lines[3..], ["  new     vm9", "  new     vm10", "  removed c"]);
    }
}
