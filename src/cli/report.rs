//! `ringnbd report`: what latency logs tell, as a table, a page, a picture or JSON.

mod chart;
mod fio;
mod heat_chart;
mod json;
mod page;
mod phase_chart;
mod reading;
mod source;
mod spectrum_chart;
mod summary;
mod theme;

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::Outcome;
use super::outcome::complain;
use super::text::{json as as_json, print};
use reading::{Moment, Reading, Text};
use source::ReportSource;

const LONG_HELP: &str = "\
Examples:
  ringnbd report server.hlog                                 a table
  ringnbd report before.hlog after.hlog --html report.html   compared: ratios are to the first file
  ringnbd report a.hlog b.hlog --merge                       two servers, or two clients, as one
  ringnbd report server.hlog bench.hlog fio.json             the same load seen by three
  ringnbd report server.hlog --export vm7 --from 5m --to 10m

A file is an HdrHistogram interval log (ringnbd serve --latency-log, ringnbd bench --hlog, or another tool's), or the output
of fio --output-format=json+ (add --lat_percentiles=1, else fio's histogram leaves out the submission). A server's log has
a tag for each export, command and phase: queue (arrived to submitted), backend (to completed), send (to sent) and total.";

/// Options of `ringnbd report`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP)]
pub(crate) struct Args {
    /// Latency logs, or fio's json+ output
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Add all files up instead of comparing them
    #[arg(long)]
    pub merge: bool,
    /// Names for the files, in their order [default: their file names]
    #[arg(long, value_name = "NAME")]
    pub label: Vec<String>,
    /// The unit of other tools' logs; ringnbd's own say theirs
    #[arg(long, value_enum, value_name = "UNIT", default_value_t = Unit::Ns)]
    pub unit: Unit,
    /// Only exports with this name; again for more of them, '' for the default export
    #[arg(long, value_name = "NAME")]
    pub export: Vec<String>,
    /// Leave out what was before: a time after the beginning of each log (90s, 5m), or a moment
    /// (2026-03-01T12:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    pub from: Option<Moment>,
    /// Leave out what was later
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    pub to: Option<Moment>,
    /// Write a page that needs nothing but itself
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the pictures of that page alone
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write JSON, to standard output instead of the table or to a file
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    pub json: Option<String>,
}

/// What the values of a log are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Unit {
    /// Nanoseconds.
    Ns,
    /// Microseconds.
    Us,
    /// Milliseconds.
    Ms,
}

impl Unit {
    /// Nanoseconds of one.
    const fn nanoseconds(self) -> u64 {
        match self {
            Self::Ns => 1,
            Self::Us => 1_000,
            Self::Ms => 1_000_000,
        }
    }
}

pub(crate) fn run(args: &Args) -> Outcome {
    match report(args) {
        Ok(outcome) => outcome,
        Err(outcome) => outcome,
    }
}

fn report(args: &Args) -> Result<Outcome, Outcome> {
    let texts = args.files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let refuse = |error: reading::ReadError| Outcome::refused(error);
    let (exports, from, to) = (args.export.clone(), args.from, args.to);
    let reading = Reading { unit: args.unit.nanoseconds(), exports, from, to };
    let mut sources: Vec<ReportSource> = match args.merge {
        true => vec![ReportSource::read(&texts, &reading).map_err(refuse)?],
        false => texts
            .iter()
            .map(|text| ReportSource::read(std::slice::from_ref(text), &reading))
            .collect::<Result<_, _>>()
            .map_err(refuse)?,
    };
    for (source, label) in sources.iter_mut().zip(&args.label) {
        source.label.clone_from(label);
    }
    for note in sources.iter().flat_map(|source| &source.notes) {
        complain("ringnbd", note);
    }
    if sources.iter().all(|source| source.rows.is_empty()) {
        let chosen = !args.export.is_empty() || args.from.or(args.to).is_some();
        let remedy = if chosen { "widen --export, --from or --to" } else { "were there any requests?" };
        return Err(Outcome::refused(format_args!("there is not one latency in these files: {remedy}")));
    }
    if let Some(path) = &args.html {
        write(path, &page::html(&sources))?;
    }
    if let Some(path) = &args.svg {
        write(path, &page::svg(&sources))?;
    }
    let text = match args.json.as_deref() {
        Some("-") => as_json(&json::ReportJson::new(&sources)),
        Some(path) => {
            write(Path::new(path), &as_json(&json::ReportJson::new(&sources)))?;
            summary::as_text(&sources)
        }
        None => summary::as_text(&sources),
    };
    Ok(print(&text))
}

fn read(path: &Path) -> Result<Text, Outcome> {
    let name = path.display().to_string();
    let refuse =
        |reason: &dyn std::fmt::Display| Outcome::refused(format_args!("cannot read {name}: {reason}"));
    let bytes = std::fs::read(path).map_err(|error| refuse(&error))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| refuse(&"it is not text, so neither a histogram log nor fio's JSON"))?;
    let label = path.file_stem().map_or_else(|| name.clone(), |stem| stem.to_string_lossy().into_owned());
    Ok(Text { name, label, text })
}

fn write(path: &Path, text: &str) -> Result<(), Outcome> {
    std::fs::write(path, text)
        .map_err(|error| Outcome::failed(format_args!("cannot write {}: {error}", path.display())))
}
