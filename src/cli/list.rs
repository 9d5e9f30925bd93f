//! `ringnbd list`: the exports of a server.

use serde::Serialize;

use super::Outcome;
use super::info::export_name;
use super::natural::in_natural_order;
use super::text::*;
use crate::client::uri::NbdUri;
use crate::client::{self, Timeouts};
use crate::nbd::client::handshake::{Dialect, ListedExport};
use crate::nbd::printable::printable;

const LONG_HELP: &str = "\
The name of an export in the URI is ignored.

Examples:
  ringnbd list nbd://localhost
  ringnbd list 'nbd+unix:///?socket=/run/ringnbd.sock'
  ringnbd list --json nbd://localhost | jq -r '.exports[].uri'

JSON keys:
  handshake, reply_mode   as in `ringnbd info`
  exports                 one object for each export:
    export, uri           its name, and the URI to reach it
    description           a text, or null
    error                 why the server tells no more of it, or null; if there is an error, the keys below are missing
    size, read_only, flags, flags_value, block_sizes, meta_contexts   as in `ringnbd info`";

/// Options of `ringnbd list`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows examples and the JSON keys.")]
pub(crate) struct Args {
    /// The server.
    #[arg(help = "The server: nbd://HOST[:PORT] or nbd+unix:///?socket=PATH")]
    pub uri: NbdUri,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Serialize)]
struct ListJson<'a> {
    handshake: &'static str,
    reply_mode: &'static str,
    exports: Vec<EntryJson<'a>>,
}

#[derive(Debug, Serialize)]
struct EntryJson<'a> {
    uri: String,
    error: Option<&'a str>,
    #[serde(flatten)]
    known: KnownJson<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum KnownJson<'a> {
    Details(ExportJson<'a>),
    Name { export: &'a str, description: Option<&'a str> },
}

pub(crate) fn run(args: Args) -> Outcome {
    let (dialect, exports) = match client::list(&args.uri, Timeouts::default()) {
        Ok(answer) => answer,
        Err(error) => return Outcome::refused(error),
    };
    print(&if args.json { as_json(&args.uri, dialect, &exports) } else { as_table(dialect, &exports) })
}

fn as_json(server: &NbdUri, dialect: Dialect, exports: &[ListedExport]) -> String {
    json(&ListJson {
        handshake: handshake_name(dialect),
        reply_mode: reply_mode_name(dialect.reply_mode),
        exports: exports.iter().map(|listed| entry_json(server, listed)).collect(),
    })
}

fn entry_json<'a>(server: &NbdUri, listed: &'a ListedExport) -> EntryJson<'a> {
    let ListedExport { name, details, .. } = listed;
    // The name of LIST, which reaches the export; INFO may have given a more canonical one.
    let uri = NbdUri { export: name.clone(), ..server.clone() };
    let description = description(listed);
    EntryJson {
        uri: uri.to_string(),
        error: details.as_ref().err().map(String::as_str),
        known: match details {
            Ok(details) => {
                KnownJson::Details(ExportJson { export: name, description, ..ExportJson::new(details) })
            }
            Err(_) => KnownJson::Name { export: name, description },
        },
    }
}

fn as_table(dialect: Dialect, exports: &[ListedExport]) -> String {
    let mut rows = vec![["EXPORT", "SIZE", "ACCESS", "DESCRIPTION"].map(String::from).to_vec()];
    for listed in in_natural_order(exports, |listed| &listed.name) {
        let text = printable(description(listed).unwrap_or_default());
        rows.push(match &listed.details {
            Ok(details) => vec![
                export_name(&listed.name),
                human(details.size),
                if is_read_only(details) { "read-only" } else { "read-write" }.into(),
                text,
            ],
            Err(error) => {
                vec![export_name(&listed.name), "?".into(), "?".into(), format!("({error}) {text}")]
            }
        });
    }
    let number = match exports.len() {
        0 => "The server lists no exports; one that is not listed may still be reached by its name".into(),
        1 => "1 export".into(),
        number => format!("{number} exports"),
    };
    let table = if exports.is_empty() { String::new() } else { table(&rows, &[false, true, false, false]) };
    format!("{table}{number}; {} replies.\n", reply_mode_name(dialect.reply_mode))
}

/// The text of LIST, else that of INFO.
fn description(listed: &ListedExport) -> Option<&str> {
    let of_info = listed.details.as_ref().ok().and_then(|details| details.description.as_deref());
    Some(listed.description.as_str()).filter(|text| !text.is_empty()).or(of_info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::client::handshake::ExportDetails;
    use crate::nbd::session::ReplyMode;

    fn exports() -> Vec<ListedExport> {
        let details = ExportDetails {
            name: "a".into(),
            description: Some("of info".into()),
            size: 10 << 30,
            transmission_flags: 3,
            block_sizes: None,
            contexts: None,
        };
        vec![
            ListedExport { name: String::new(), description: String::new(), details: Ok(details) },
            ListedExport { name: "b c".into(), description: "x".into(), details: Err("no".into()) },
        ]
    }

    const DIALECT: Dialect = Dialect { fixed_newstyle: true, reply_mode: ReplyMode::Structured };

    #[test]
    fn the_table() {
        let expected = "\
EXPORT                     SIZE  ACCESS     DESCRIPTION
\"\" (the default export)  10 GiB  read-only  of info
b c                           ?  ?          (no) x
2 exports; structured replies.
";
        assert_eq!(as_table(DIALECT, &exports()), expected);
        assert!(as_table(DIALECT, &[]).starts_with("The server lists no exports"));
    }

    #[test]
    fn the_json_keys_are_stable() {
        let text = as_json(&"nbd://h/ignored".parse().unwrap(), DIALECT, &exports());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "handshake": "fixed_newstyle", "reply_mode": "structured",
            "exports": [
                {"uri": "nbd://h/", "error": null, "export": "", "description": "of info", "size": 10u64 << 30,
                 "read_only": true, "flags": ["has_flags", "read_only"], "flags_value": 3, "block_sizes": null,
                 "meta_contexts": null},
                {"uri": "nbd://h/b%20c", "error": "no", "export": "b c", "description": "x"},
            ],
        });
        assert_eq!(value, expected);
    }
}
