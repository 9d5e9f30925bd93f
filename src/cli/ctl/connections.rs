//! `ringnbd ctl connection`.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::question::{Form, Question, refused};
use crate::cli::Outcome;
use crate::cli::http::HttpAnswer;
use crate::cli::info::export_name;
use crate::cli::natural::natural;
use crate::cli::text::{human, human_time, json, print, table};
use crate::nbd::printable::printable;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConnectionCommand {
    /// List the connections, the busiest first: export, age, requests, bytes, peer
    List(Form),
    /// Cut a connection off: what it has begun is not answered
    Kill {
        /// Its id, as `connection list` tells it
        id: String,
        #[command(flatten)]
        form: Form,
    },
}

/// What is shown of a connection; the server may say more.
#[derive(Debug, Deserialize)]
struct ConnectionRow {
    id: String,
    peer: String,
    export: String,
    age_seconds: f64,
    in_flight: u64,
    requests: u64,
    bytes: u64,
}

pub(super) fn question(command: &ConnectionCommand) -> Question {
    match command {
        ConnectionCommand::List(_) => Question::new("GET", "/api/v1/connections"),
        ConnectionCommand::Kill { id, .. } => {
            let id = utf8_percent_encode(id, NON_ALPHANUMERIC);
            Question::new("DELETE", format!("/api/v1/connections/{id}"))
        }
    }
}

pub(super) fn show(command: &ConnectionCommand, answer: &HttpAnswer) -> Outcome {
    let (ConnectionCommand::List(form) | ConnectionCommand::Kill { form, .. }) = command;
    if answer.status != 200 {
        return refused(answer);
    }
    match command {
        _ if form.json => print(&json(&answer.body)),
        ConnectionCommand::Kill { id, .. } => print(&format!("{} was cut off.\n", printable(id))),
        ConnectionCommand::List(_) => match Vec::<ConnectionRow>::deserialize(&answer.body["connections"]) {
            Ok(all) => print(&as_table(&all)),
            Err(error) => Outcome::refused(format_args!("the server's list is not understood: {error}")),
        },
    }
}

fn as_table(all: &[ConnectionRow]) -> String {
    let titles = ["ID", "EXPORT", "AGE", "IN FLIGHT", "REQUESTS", "BYTES", "PEER"];
    let mut rows = vec![titles.map(String::from).to_vec()];
    let mut all: Vec<_> = all.iter().collect();
    all.sort_by(|one, other| natural(&one.export, &other.export).then_with(|| natural(&one.id, &other.id)));
    for of in all {
        rows.push(vec![
            printable(&of.id),
            export_name(&of.export),
            human_time((of.age_seconds.max(0.0) * 1e9) as u64),
            of.in_flight.to_string(),
            of.requests.to_string(),
            human(of.bytes),
            printable(&of.peer),
        ]);
    }
    table(&rows, &[false, false, true, true, true, true, false])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_stand_beside_those_of_the_same_export() {
        let row = |(id, export): (&str, &str)| {
            serde_json::json!({"id": id, "peer": "unix", "export": export, "age_seconds": 1, "in_flight": 0,
                "requests": 0, "bytes": 0})
        };
        let rows = [("0.100", "vm10"), ("1.5", "vm2"), ("0.20", "vm10")].map(row);
        let shown = as_table(&rows.map(|row| ConnectionRow::deserialize(&row).unwrap()));
        let ids: Vec<_> = shown.lines().skip(1).map(|line| line.split_whitespace().next().unwrap()).collect();
        assert_eq!(ids, ["1.5", "0.20", "0.100"]);
    }

    #[test]
    fn the_table_is_printable() {
        let kill = ConnectionCommand::Kill { id: "0.17".into(), form: Form { json: false } };
        assert_eq!(question(&kill).target, "/api/v1/connections/0%2E17");
        let row = serde_json::json!({
            "id": "0.17", "peer": "unix \u{1b}[2J", "export": "", "age_seconds": 2.5, "in_flight": 1, "requests": 3, "bytes": 4096,
        });
        let shown = as_table(&[ConnectionRow::deserialize(&row).unwrap()]);
        let words: Vec<_> = shown.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words[0], "0.17");
        assert!(words.contains(&"2.50") && shown.contains("4 KiB") && !shown.contains('\u{1b}'), "{shown}");
    }
}
