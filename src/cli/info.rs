//! `ringnbd info`: what a server says about one export.

use serde::Serialize;

use super::Outcome;
use super::text::*;
use crate::client::uri::NbdUri;
use crate::client::{self, Timeouts};
use crate::nbd::client::handshake::{Dialect, ExportDetails};
use crate::nbd::printable::printable;
use crate::nbd::session::ReplyMode;

const LONG_HELP: &str = "\
Examples:
  ringnbd info nbd://localhost/disk
  ringnbd info 'nbd+unix:///?socket=/run/ringnbd.sock'
  ringnbd info 'nbds://storage/disk?tls-certificates=tls'      encrypted; ca-cert.pem is in that directory
  ringnbd info 'nbds://vm1@storage/disk?tls-psk-file=tls/keys.psk'
  ringnbd info --json nbd://[::1]:10810/disk | jq .size

JSON keys:
  uri             as given, in its canonical form
  export          the server's name of the export
  description     a text, or null when there is none
  size            bytes
  read_only       true or false
  flags           names of the transmission flags, without NBD_FLAG_, in lower case
  flags_value     the same as a number
  block_sizes     {minimum, preferred, maximum} in bytes, or null when the server advertises none
  meta_contexts   names, or null when the server cannot tell
  handshake       fixed_newstyle or newstyle
  reply_mode      extended, structured or simple: the best that the server agrees to";

/// Options of `ringnbd info`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows examples and the JSON keys.")]
pub(crate) struct Args {
    /// The export.
    #[arg(help = "The export: nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH")]
    pub uri: NbdUri,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Serialize)]
struct InfoJson<'a> {
    uri: String,
    #[serde(flatten)]
    export: ExportJson<'a>,
    handshake: &'static str,
    reply_mode: &'static str,
}

pub(crate) fn run(args: Args) -> Outcome {
    let (dialect, details) = match client::info(&args.uri, Timeouts::default()) {
        Ok(answer) => answer,
        Err(error) => return Outcome::refused(error),
    };
    print(&if args.json { as_json(&args.uri, dialect, &details) } else { as_table(dialect, &details) })
}

fn as_json(uri: &NbdUri, dialect: Dialect, details: &ExportDetails) -> String {
    json(&InfoJson {
        uri: uri.to_string(),
        export: ExportJson::new(details),
        handshake: handshake_name(dialect),
        reply_mode: reply_mode_name(dialect.reply_mode),
    })
}

fn as_table(dialect: Dialect, details: &ExportDetails) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row("export", export_name(&details.name));
    if let Some(description) = details.description.as_deref().filter(|text| !text.is_empty()) {
        row("description", printable(description));
    }
    row("size", exact_and_human(details.size));
    row("access", if is_read_only(details) { "read-only" } else { "read-write" }.into());
    row("flags", flag_names(details.transmission_flags).join(" "));
    row(
        "block sizes",
        match details.block_sizes {
            Some(sizes) => format!(
                "minimum {}, preferred {}, maximum payload {}",
                sizes.minimum,
                sizes.preferred,
                exact_and_human(sizes.maximum.into())
            ),
            None => "not advertised".into(),
        },
    );
    row(
        "meta contexts",
        match &details.contexts {
            Some(names) if names.is_empty() => "none".into(),
            Some(names) => printable(&names.join(" ")),
            None => "unknown".into(),
        },
    );
    row("reply mode", reply_mode_for_people(dialect.reply_mode).into());
    row("handshake", handshake_name(dialect).replace('_', " "));
    table(&rows, &[false, false])
}

/// The name as a table shows it.
pub(super) fn export_name(name: &str) -> String {
    if name.is_empty() { "\"\" (the default export)".into() } else { printable(name) }
}

const fn reply_mode_for_people(mode: ReplyMode) -> &'static str {
    match mode {
        ReplyMode::Simple => "simple",
        ReplyMode::Structured => "structured",
        ReplyMode::Extended => "extended headers",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockSizes;

    fn details() -> ExportDetails {
        ExportDetails {
            name: "disk".into(),
            description: Some("boot\x1b[1m".into()),
            size: 3 << 20,
            transmission_flags: 0x0123,
            block_sizes: Some(BlockSizes { minimum: 1, preferred: 4096, maximum: 32 << 20 }),
            contexts: Some(vec!["base:allocation".into()]),
        }
    }

    const DIALECT: Dialect = Dialect { fixed_newstyle: true, reply_mode: ReplyMode::Extended };

    #[test]
    fn the_table() {
        let expected = "\
export         disk
description    boot\\u{1b}[1m
size           3145728 bytes (3 MiB)
access         read-write
flags          has_flags send_trim can_multi_conn
block sizes    minimum 1, preferred 4096, maximum payload 33554432 bytes (32 MiB)
meta contexts  base:allocation
reply mode     extended headers
handshake      fixed newstyle
";
        assert_eq!(as_table(DIALECT, &ExportDetails { transmission_flags: 0x0121, ..details() }), expected);
    }

    #[test]
    fn the_json_keys_are_stable() {
        let uri = "nbd://h/disk".parse().unwrap();
        let value: serde_json::Value = serde_json::from_str(&as_json(&uri, DIALECT, &details())).unwrap();
        let expected = serde_json::json!({
            "uri": "nbd://h/disk", "export": "disk", "description": "boot\u{1b}[1m", "size": 3 << 20, "read_only": true,
            "flags": ["has_flags", "read_only", "send_trim", "can_multi_conn"], "flags_value": 0x123,
            "block_sizes": {"minimum": 1, "preferred": 4096, "maximum": 32 << 20},
            "meta_contexts": ["base:allocation"], "handshake": "fixed_newstyle", "reply_mode": "extended",
        });
        assert_eq!(value, expected);
        let bare = ExportDetails {
            description: Some(String::new()),
            block_sizes: None,
            contexts: None,
            ..details()
        };
        let value: serde_json::Value = serde_json::from_str(&as_json(&uri, DIALECT, &bare)).unwrap();
        for key in ["description", "block_sizes", "meta_contexts"] {
            assert!(value[key].is_null() && value.as_object().unwrap().contains_key(key), "{key}");
        }
    }
}
