//! `ringnbd map`: which parts of an export are allocated, holes or zeroes.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::Outcome;
use super::text::*;
use crate::client::uri::NbdUri;
use crate::client::{Client, ClientError, MappedExtent, Merge, Timeouts};
use crate::nbd::client::handshake::Transmission;
use crate::nbd::printable::printable;
use crate::nbd::session::ReplyMode;
use crate::nbd::wire::{NBD_STATE_HOLE, NBD_STATE_ZERO};

const BASE_ALLOCATION: &str = "base:allocation";
/// Different flag values that are summed up apart; a context of a disk has a handful.
const MAX_TOTALS: usize = 256;

const LONG_HELP: &str = "\
Adjacent extents of one type are joined. Types of base:allocation:
  data       allocated; the content is not known
  zero       allocated, and reads as zeroes
  hole       not allocated; the content is undefined
  hole,zero  not allocated, and reads as zeroes

Examples:
  ringnbd map nbd://localhost/disk
  ringnbd map --json nbd://localhost/disk | jq '[.extents[] | select(.type == \"data\").length] | add'
  ringnbd map --context qemu:dirty-bitmap:b0 'nbd+unix:///?socket=/run/qemu.sock'

JSON keys:
  uri, export, size, reply_mode   as in `ringnbd info`
  context                         the meta context
  extents                         in order: {offset, length, flags, type}
  totals                          for each type: {flags, type, length, extents}; flags is null for a sum of rare ones";

/// Options of `ringnbd map`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows the types, examples and the JSON keys.")]
pub(crate) struct Args {
    /// The export.
    #[arg(help = "The export: nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH")]
    pub uri: NbdUri,
    /// The meta context to show; `ringnbd info` lists those on offer
    #[arg(long, value_name = "NAME", default_value = BASE_ALLOCATION, value_parser = context_name)]
    pub context: String,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// "The name MUST consist of a namespace, followed by a colon, followed by a leaf-name."
fn context_name(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        Some((namespace, leaf)) if !namespace.is_empty() && !leaf.is_empty() => Ok(text.into()),
        _ => Err("a meta context is called NAMESPACE:NAME, such as base:allocation".into()),
    }
}

pub(crate) fn run(args: Args) -> Outcome {
    let mut connection =
        match Client::open(&args.uri, std::slice::from_ref(&args.context), Timeouts::default()) {
            Ok(connection) => connection,
            Err(error) => return Outcome::refused(error),
        };
    let transmission = connection.transmission().clone();
    let Some(context) = transmission.contexts.iter().find(|selected| selected.name == args.context) else {
        return Outcome::refused(missing(&args.context, &transmission));
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut printer = Printer::new(&args, &transmission, &mut out);
    match printer.print(&mut connection, context.id) {
        Ok(()) => Outcome::Done,
        Err(MapError::Output(error)) => written(Err(error)),
        Err(MapError::Client(error)) => {
            // What came so far is true; the exit code says that it is not all.
            let _ = out.flush();
            Outcome::failed(error)
        }
    }
}

/// Why there is no map.
fn missing(context: &str, transmission: &Transmission) -> String {
    let offered = transmission.export.contexts.as_deref().unwrap_or_default();
    if transmission.dialect.reply_mode == ReplyMode::Simple {
        "the server speaks simple replies only, which carry no map; it needs structured replies or extended headers".into()
    } else if offered.is_empty() {
        "the server offers no meta contexts for this export, so nothing tells what is allocated".into()
    } else {
        let offered = printable(&offered.join(" "));
        format!(
            "the server does not offer the meta context {context}; choose one of these with --context: {offered}"
        )
    }
}

#[derive(Debug)]
enum MapError {
    Client(ClientError),
    Output(io::Error),
}

impl From<ClientError> for MapError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for MapError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

#[derive(Debug, Serialize)]
struct ExtentJson {
    offset: u64,
    length: u64,
    flags: u64,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Clone, Default, Serialize)]
struct TotalJson {
    flags: Option<u64>,
    #[serde(rename = "type")]
    kind: String,
    length: u64,
    extents: u64,
}

/// Prints extents as they come: a map has no bound that memory should have.
struct Printer<'a, W> {
    args: &'a Args,
    transmission: &'a Transmission,
    out: &'a mut W,
    totals: BTreeMap<Option<u64>, TotalJson>,
    is_first: bool,
}

impl<'a, W: Write> Printer<'a, W> {
    fn new(args: &'a Args, transmission: &'a Transmission, out: &'a mut W) -> Self {
        Self { args, transmission, out, totals: BTreeMap::new(), is_first: true }
    }

    fn print(&mut self, connection: &mut Client, context: u32) -> Result<(), MapError> {
        self.begin()?;
        let mut merge = Merge::default();
        let is_allocation = self.args.context == BASE_ALLOCATION;
        connection.walk(context, |mut extent| {
            if is_allocation {
                // "clients MUST ignore unknown flags"
                extent.flags &= u64::from(NBD_STATE_HOLE | NBD_STATE_ZERO);
            }
            merge.push(extent).map_or(Ok(()), |complete| self.extent(complete))
        })?;
        if let Some(last) = merge.finish() {
            self.extent(last)?;
        }
        Ok(self.end()?)
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.args.json {
            let Transmission { dialect, export, .. } = self.transmission;
            let text = |value: &str| serde_json::Value::from(value).to_string();
            write!(
                self.out,
                "{{\n  \"uri\": {},\n  \"export\": {},\n  \"size\": {},\n  \"reply_mode\": {},\n  \"context\": {},\n  \"extents\": [",
                text(&self.args.uri.to_string()),
                text(&export.name),
                export.size,
                text(reply_mode_name(dialect.reply_mode)),
                text(&self.args.context),
            )
        } else {
            let width = self.width();
            writeln!(self.out, "{:>width$}  {:>width$}  TYPE", "OFFSET", "LENGTH")
        }
    }

    fn extent(&mut self, extent: MappedExtent) -> Result<(), MapError> {
        let MappedExtent { offset, length, flags } = extent;
        let kind = type_name(&self.args.context, flags);
        let is_apart = self.totals.len() < MAX_TOTALS || self.totals.contains_key(&Some(flags));
        let key = is_apart.then_some(flags);
        let total = self.totals.entry(key).or_insert_with(|| TotalJson {
            flags: key,
            kind: if is_apart { kind.clone() } else { "other".into() },
            ..TotalJson::default()
        });
        total.length += length;
        total.extents += 1;
        if self.args.json {
            let separator = if self.is_first { "" } else { "," };
            let object = serde_json::to_string(&ExtentJson { offset, length, flags, kind })
                .map_err(io::Error::from)?;
            write!(self.out, "{separator}\n    {object}")?;
        } else {
            let width = self.width();
            writeln!(self.out, "{offset:>width$}  {length:>width$}  {kind}")?;
        }
        self.is_first = false;
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        if self.args.json {
            let totals: Vec<&TotalJson> = self.totals.values().collect();
            writeln!(self.out, "\n  ],\n  \"totals\": {}\n}}", serde_json::to_string(&totals)?)?;
            return self.out.flush();
        }
        let size = self.transmission.export.size.max(1) as f64;
        let rows: Vec<Vec<String>> = self
            .totals
            .values()
            .map(|total| {
                vec![
                    total.kind.clone(),
                    exact_and_human(total.length),
                    format!("{:.1} %", total.length as f64 * 100.0 / size),
                    format!("{} {}", total.extents, if total.extents == 1 { "extent" } else { "extents" }),
                ]
            })
            .collect();
        write!(self.out, "\n{}", table(&rows, &[false, true, true, true]))?;
        self.out.flush()
    }

    /// Of a column that holds any offset.
    fn width(&self) -> usize {
        self.transmission.export.size.to_string().len().max("OFFSET".len())
    }
}

/// What flags mean in the contexts that are known; else the number.
fn type_name(context: &str, flags: u64) -> String {
    let is_bitmap = context.starts_with("qemu:dirty-bitmap:");
    match (context, flags) {
        (BASE_ALLOCATION, 0) => "data".into(),
        (BASE_ALLOCATION, 1) => "hole".into(),
        (BASE_ALLOCATION, 2) => "zero".into(),
        (BASE_ALLOCATION, 3) => "hole,zero".into(),
        (_, 0) if is_bitmap => "clean".into(),
        (_, 1) if is_bitmap => "dirty".into(),
        ("qemu:allocation-depth", 0) => "unallocated".into(),
        ("qemu:allocation-depth", depth) => format!("depth {depth}"),
        (_, flags) => flags.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::client::handshake::{Dialect, ExportDetails};

    fn transmission(mode: ReplyMode, contexts: Option<Vec<String>>) -> Transmission {
        Transmission {
            dialect: Dialect { fixed_newstyle: true, reply_mode: mode },
            export: ExportDetails {
                name: "d".into(),
                description: None,
                size: 1 << 20,
                transmission_flags: 1,
                block_sizes: None,
                contexts,
            },
            contexts: vec![],
        }
    }

    fn printed(json: bool) -> String {
        let args = Args { uri: "nbd://h/d".parse().unwrap(), context: BASE_ALLOCATION.into(), json };
        let transmission = transmission(ReplyMode::Extended, None);
        let mut out = Vec::new();
        let mut printer = Printer::new(&args, &transmission, &mut out);
        printer.begin().unwrap();
        for (offset, length, flags) in [(0, 65_536, 0), (65_536, 65_536, 3), (131_072, 917_504, 0)] {
            printer.extent(MappedExtent { offset, length, flags }).unwrap();
        }
        printer.end().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_table() {
        let expected = " OFFSET   LENGTH  TYPE
      0    65536  data
  65536    65536  hole,zero
 131072   917504  data

data       983040 bytes (960 KiB)  93.8 %  2 extents
hole,zero    65536 bytes (64 KiB)   6.2 %   1 extent
";
        assert_eq!(printed(false), expected);
    }

    #[test]
    fn the_json_keys_are_stable() {
        let value: serde_json::Value = serde_json::from_str(&printed(true)).unwrap();
        let expected = serde_json::json!({
            "uri": "nbd://h/d", "export": "d", "size": 1 << 20, "reply_mode": "extended", "context": "base:allocation",
            "extents": [
                {"offset": 0, "length": 65_536, "flags": 0, "type": "data"},
                {"offset": 65_536, "length": 65_536, "flags": 3, "type": "hole,zero"},
                {"offset": 131_072, "length": 917_504, "flags": 0, "type": "data"},
            ],
            "totals": [
                {"flags": 0, "type": "data", "length": 983_040, "extents": 2},
                {"flags": 3, "type": "hole,zero", "length": 65_536, "extents": 1},
            ],
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_missing_context_says_what_there_is() {
        let of = |mode, contexts| missing("x:y", &transmission(mode, contexts));
        assert!(of(ReplyMode::Simple, None).contains("simple replies only"));
        assert!(of(ReplyMode::Extended, Some(vec![])).contains("offers no meta contexts"));
        assert!(of(ReplyMode::Structured, Some(vec!["a:b".into()])).ends_with("--context: a:b"));
        assert!(
            context_name("base").is_err() && context_name("base:").is_err() && context_name(":x").is_err()
        );
    }

    #[test]
    fn many_types_are_summed_up_together() {
        let args = Args { uri: "nbd://h/d".parse().unwrap(), context: "x:y".into(), json: true };
        let transmission = transmission(ReplyMode::Extended, None);
        let mut out = Vec::new();
        let mut printer = Printer::new(&args, &transmission, &mut out);
        for flags in 0..1000 {
            printer.extent(MappedExtent { offset: flags, length: 1, flags }).unwrap();
        }
        assert!(printer.totals.len() <= MAX_TOTALS + 1);
        assert_eq!(printer.totals[&None].length, 1000 - MAX_TOTALS as u64);
    }
}
