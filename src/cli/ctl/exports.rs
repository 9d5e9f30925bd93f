//! `ringnbd ctl export`.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::question::{Form, Question, refused};
use crate::cli::Outcome;
use crate::cli::http::HttpAnswer;
use crate::cli::info::export_name;
use crate::cli::natural::in_natural_order;
use crate::cli::text::{human, json, print, table};
use crate::config::{ExportUri, Settings};
use crate::nbd::printable::printable;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ExportCommand {
    /// List the exports
    List(Form),
    /// Show one export
    Show {
        /// Its name; '' is the default export
        name: String,
        #[command(flatten)]
        form: Form,
    },
    /// Serve one more export; its file must lie in a directory that the server may open files of
    Add {
        /// Its name, which no other export may have; '' is the default export
        name: String,
        /// Where its bytes live, as with `ringnbd serve`
        uri: ExportUri,
        #[command(flatten)]
        values: ExportValues,
        #[command(flatten)]
        form: Form,
    },
    /// Change an export: its clients end only if its bytes move or its access changes
    Set {
        /// Its name
        name: String,
        /// Where its bytes live from now on
        #[arg(long)]
        uri: Option<ExportUri>,
        #[command(flatten)]
        values: ExportValues,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        form: Form,
    },
    /// Serve an export no more; no new client finds it from now on
    Rm {
        /// Its name
        name: String,
        /// What becomes of its clients
        #[arg(long, value_enum, default_value_t = RemovalMode::Soft)]
        mode: RemovalMode,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        form: Form,
    },
}

/// What becomes of the clients of an export that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RemovalMode {
    /// They go on until they leave
    Hide,
    /// What has begun is answered, then they end with ESHUTDOWN
    Soft,
    /// They are cut off
    Hard,
}

/// What is said of an export beside where its bytes live.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct ExportValues {
    /// A text for people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Whether writes are refused
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub read_only: Option<bool>,
    /// A rule who may use it, such as uid=1000 (repeatable)
    #[arg(long, value_name = "RULE")]
    pub allow: Vec<String>,
    /// A rule who may write (repeatable)
    #[arg(long, value_name = "RULE")]
    pub write: Vec<String>,
    /// Whether lists have it: always, allowed or never
    #[arg(long, value_name = "WHEN")]
    pub listed: Option<String>,
}

/// What an export must be like.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Expected {
    /// Only if its etag is this one still, as `export show --json` tells it
    #[arg(long, value_name = "ETAG")]
    pub if_match: Option<String>,
}

impl Expected {
    fn headers(&self) -> Result<String, String> {
        match &self.if_match {
            None => Ok(String::new()),
            Some(tag) if tag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') => {
                Ok(format!("If-Match: \"{tag}\"\r\n"))
            }
            Some(_) => Err("--if-match is the etag of an export, without quotes".to_owned()),
        }
    }
}

impl ExportValues {
    fn body(&self, uri: Option<&ExportUri>) -> Result<String, String> {
        let mut all = Map::new();
        if let Some(uri) = uri {
            all.insert("uri".to_owned(), absolute(uri)?.into());
        }
        let texts = [("description", &self.description), ("listed", &self.listed)];
        all.extend(texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text.clone()?.into()))));
        all.extend(self.read_only.map(|value| ("read_only".to_owned(), value.into())));
        for (key, rules) in [("allow", &self.allow), ("write", &self.write)] {
            if !rules.is_empty() {
                all.insert(key.to_owned(), rules.clone().into());
            }
        }
        Ok(Value::Object(all).to_string())
    }
}

/// The text of a URI, its path one that begins here: the server has a directory of its own.
fn absolute(uri: &ExportUri) -> Result<String, String> {
    let here = std::env::current_dir().map_err(|error| format!("there is no current directory: {error}"))?;
    let export = crate::config::ExportConfig::new("", uri.clone(), Some(""), false);
    let exports = vec![export.map_err(|error| error.to_string())?];
    let settings = Settings { exports, ..Settings::default() }.relative_to(&here);
    Ok(settings.exports[0].uri.to_string())
}

pub(super) fn question(command: &ExportCommand) -> Result<Question, String> {
    let target = |name: &str| format!("/api/v1/exports/{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
    Ok(match command {
        ExportCommand::List(_) => Question::new("GET", "/api/v1/exports"),
        ExportCommand::Show { name, .. } => Question::new("GET", target(name)),
        ExportCommand::Add { name, uri, values, .. } => Question {
            headers: "If-None-Match: *\r\n".to_owned(),
            body: values.body(Some(uri))?,
            ..Question::new("PUT", target(name))
        },
        ExportCommand::Set { name, uri, values, expected, .. } => Question {
            headers: expected.headers()?,
            body: values.body(uri.as_ref())?,
            ..Question::new("PATCH", target(name))
        },
        ExportCommand::Rm { name, mode, expected, .. } => {
            let mode = match mode {
                RemovalMode::Hide => "hide",
                RemovalMode::Soft => "soft",
                RemovalMode::Hard => "hard",
            };
            Question {
                headers: expected.headers()?,
                ..Question::new("DELETE", format!("{}?mode={mode}", target(name)))
            }
        }
    })
}

pub(super) fn show(command: &ExportCommand, answer: &HttpAnswer) -> Outcome {
    let form = match command {
        ExportCommand::List(form)
        | ExportCommand::Show { form, .. }
        | ExportCommand::Add { form, .. }
        | ExportCommand::Set { form, .. }
        | ExportCommand::Rm { form, .. } => form,
    };
    if let (ExportCommand::Add { name, .. }, 412) = (command, answer.status) {
        return Outcome::refused(format_args!(
            "there is an export {} already: remove it first, or change it with `export set`",
            export_name(name)
        ));
    }
    if !matches!(answer.status, 200 | 201) {
        return refused(answer);
    }
    match command {
        _ if form.json => print(&json(&answer.body)),
        ExportCommand::Rm { name, .. } => print(&removed(name, &answer.body)),
        _ => match ExportRow::deserialize(&answer.body) {
            Ok(export) => print(&as_table(&[export])),
            Err(error) => Outcome::refused(format_args!("the server's answer is not understood: {error}")),
        },
    }
}

fn removed(name: &str, body: &Value) -> String {
    let clients = match (body["connections"].as_u64().unwrap_or_default(), body["mode"].as_str()) {
        (0, _) => "it had no client".to_owned(),
        (count, Some("hide")) => format!("its clients ({count}) go on until they leave"),
        (count, Some("hard")) => format!("its clients ({count}) were cut off"),
        (count, _) => format!("its clients ({count}) end when what has begun is answered"),
    };
    format!("{} is not served any more: {clients}.\n", export_name(name))
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
    /// None, too, of a server that is older than weights.
    weight: Option<u64>,
    #[serde(default)]
    limit: Map<String, Value>,
}

impl ExportRow {
    /// Its own rates, as `ctl limit --set` takes them.
    fn limits(&self) -> String {
        let rates = self.limit.iter().map(|(rate, value)| format!("{}={value}", printable(rate)));
        let rates = rates.collect::<Vec<_>>().join(",");
        if rates.is_empty() { "-".to_owned() } else { rates }
    }
}

pub(super) fn list(answer: &HttpAnswer, as_json: bool) -> Outcome {
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
    let titles = ["EXPORT", "ID", "SIZE", "ACCESS", "CONNECTIONS", "STATE", "WEIGHT", "LIMITS", "SOURCE"];
    let mut rows = vec![titles.map(String::from).to_vec()];
    for export in in_natural_order(exports, |export| &export.export) {
        rows.push(vec![
            export_name(&export.export),
            printable(&export.id),
            human(export.size_bytes),
            if export.read_only { "read-only" } else { "read-write" }.into(),
            export.connections.to_string(),
            printable(&export.state),
            export.weight.map_or_else(|| "-".to_owned(), |weight| weight.to_string()),
            export.limits(),
            printable(&export.source),
        ]);
    }
    table(&rows, &[false, false, true, false, true, false, true, false, false])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_requests() {
        let form = Form { json: false };
        let uri: ExportUri = "mem:1M".parse().unwrap();
        let values =
            || ExportValues { read_only: Some(true), allow: vec!["uid=1".into()], ..ExportValues::default() };
        let add = ExportCommand::Add { name: "a/b ü".into(), uri, values: values(), form };
        let asked = question(&add).unwrap();
        assert_eq!((asked.method, &*asked.target), ("PUT", "/api/v1/exports/a%2Fb%20%C3%BC"));
        assert_eq!(asked.headers, "If-None-Match: *\r\n");
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        assert_eq!(body, serde_json::json!({"uri": "mem:1M", "read_only": true, "allow": ["uid=1"]}));
        let expected = Expected { if_match: Some("1.2.3".into()) };
        let remove = ExportCommand::Rm { name: String::new(), mode: RemovalMode::Hide, expected, form };
        let asked = question(&remove).unwrap();
        assert_eq!(
            (&*asked.target, &*asked.headers),
            ("/api/v1/exports/?mode=hide", "If-Match: \"1.2.3\"\r\n")
        );
        let expected = Expected { if_match: Some("x\"\r\nHost: y".into()) };
        let remove = ExportCommand::Rm { name: String::new(), mode: RemovalMode::Soft, expected, form };
        assert!(question(&remove).is_err(), "no header can be added");
    }

    #[test]
    fn paths_begin_where_the_command_runs() {
        let here = std::env::current_dir().unwrap();
        let uri = "file:a.img?direct=true".parse().unwrap();
        assert_eq!(absolute(&uri).unwrap(), format!("file:{}/a.img?direct=true", here.display()));
        assert_eq!(absolute(&"file:/a.img".parse().unwrap()).unwrap(), "file:/a.img");
    }

    #[test]
    fn the_table() {
        let body = serde_json::json!([
            {"export": "", "id": "0.0", "source": "mem:1G", "size_bytes": 1u64 << 30, "read_only": false, "connections": 12,
             "state": "serving", "description": "more than is shown"},
            {"export": "a\u{1b}[2J", "id": "10.3", "source": "/a.img", "size_bytes": 512, "read_only": true, "connections": 0,
             "state": "stopping", "weight": 30, "limit": {"iops": 3000, "write_bytes": 1000}},
        ]);
        let exports = Vec::<ExportRow>::deserialize(&body).unwrap();
        let shown = as_table(&exports);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(
            lines[0],
            "EXPORT                   ID         SIZE  ACCESS      CONNECTIONS  STATE     WEIGHT  LIMITS                      SOURCE"
        );
        assert_eq!(
            lines[1],
            "\"\" (the default export)  0.0       1 GiB  read-write           12  serving        -  -                           mem:1G"
        );
        assert!(!shown.contains('\u{1b}') && lines[2].ends_with("/a.img"), "{shown}");
        assert!(lines[2].contains("0  stopping      30  iops=3000,write_bytes=1000  /a.img"), "{shown}");
    }

    #[test]
    fn names_are_in_the_order_in_which_people_count() {
        let row = |export: &str| {
            serde_json::json!({"export": export, "id": "0.0", "source": "mem:1G", "size_bytes": 1, "read_only": false,
                "connections": 0, "state": "serving"})
        };
        let body = ["vm10", "vm2", ""].map(row);
        let exports = Vec::<ExportRow>::deserialize(&Value::from(body.to_vec())).unwrap();
        let shown = as_table(&exports);
        let names: Vec<_> =
            shown.lines().skip(1).map(|line| line.split_whitespace().next().unwrap()).collect();
        assert_eq!(names, ["\"\"", "vm2", "vm10"]);
    }
}
