//! `ringnbd copy`: a disk from a file or a server to another one.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::Outcome;
use super::text::*;
use crate::client::Timeouts;
use crate::client::copy::{CopyOptions, CopyPlace, CopyReport, copy};
use crate::client::uri::NbdUri;

const LONG_HELP: &str = "\
What the source says is a hole is not read, and zeroes are not written as data. A file that is the target is made, or emptied
before; a block device or an export keeps what is behind the end of the source.

Examples:
  ringnbd copy disk.img nbd://server/disk
  ringnbd copy nbd://server/disk backup.img --verify
  ringnbd copy 'nbd+unix:///vm1?socket=/run/a.sock' nbd://other/vm1 --connections 8
  ringnbd copy nbd://server/vm1@tuesday backup.img --delta monday      what has changed from one snapshot to the next

A copy with --delta that was interrupted is begun again by the same command.

JSON keys:
  size         bytes of the disk
  data         bytes that were written as data; the rest is zeroes
  connections  to each end that is a server
  seconds      how long it took
  verified     bytes that were read again and compared; null without --verify

Exit codes: 0 it was copied; 1 it failed meanwhile, or source and target differ; 2 it did not begin.";

/// Options of `ringnbd copy`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows examples, the JSON keys and the exit codes.")]
pub(crate) struct Args {
    /// The source: a file, a block device, nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH
    #[arg(value_parser = place)]
    pub source: CopyPlace,
    /// The target, in the same form
    #[arg(value_parser = place)]
    pub target: CopyPlace,
    /// Threads, each with a connection to both ends; one where a server allows only that
    #[arg(long, short, value_name = "N", default_value = "4")]
    pub connections: NonZeroUsize,
    /// Read both ends afterwards, and compare
    #[arg(long)]
    pub verify: bool,
    /// Copy only what has changed: the target has the rest, from an earlier copy. BITMAP is one of the
    /// source, offered as qemu:dirty-bitmap:BITMAP; of a store's image the name of a snapshot
    #[arg(long, value_name = "BITMAP", conflicts_with = "target_is_zero")]
    pub delta: Option<String>,
    /// The target reads as zeroes already: leave out what is zero
    #[arg(long)]
    pub target_is_zero: bool,
    /// Do not make the target durable at the end
    #[arg(long)]
    pub no_flush: bool,
    /// Print JSON at the end
    #[arg(long)]
    pub json: bool,
    /// Show no progress
    #[arg(long, short)]
    pub quiet: bool,
}

fn place(text: &str) -> Result<CopyPlace, String> {
    match text.starts_with("nbd") && text.contains("://") {
        true => text.parse::<NbdUri>().map(CopyPlace::Nbd).map_err(|error| error.to_string()),
        false => Ok(CopyPlace::File(PathBuf::from(text))),
    }
}

/// The most threads: each has two connections and two MiB.
const MOST_CONNECTIONS: usize = 64;

#[derive(Debug, Serialize)]
struct CopyJson {
    size: u64,
    data: u64,
    connections: usize,
    seconds: f64,
    verified: Option<u64>,
}

pub(crate) fn run(args: Args) -> Outcome {
    let options = CopyOptions {
        connections: args.connections.get().min(MOST_CONNECTIONS),
        target_is_zero: args.target_is_zero,
        flush: !args.no_flush,
        verify: args.verify,
        delta: args.delta.clone(),
        timeouts: Timeouts::default(),
    };
    // How long it is shows when it has begun: the line is one of bytes.
    let style = ProgressStyle::with_template("{msg} {bytes}  {bytes_per_sec}").expect("it is constant");
    let bar = if args.quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
    let bar = bar.with_style(style).with_message("copying");
    let copied = copy((&args.source, &args.target), &options, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    match copied {
        Ok(report) => told(&args, &report),
        Err(error) if error.is_refusal() => Outcome::refused(error),
        Err(error) => Outcome::failed(error),
    }
}

fn told(args: &Args, report: &CopyReport) -> Outcome {
    let &CopyReport { size, data, connections, took, verified } = report;
    let seconds = took.as_secs_f64();
    if args.json {
        return print(&json(&CopyJson { size, data, connections, seconds, verified }));
    }
    let compared = if verified.is_some() { ", compared" } else { "" };
    let (size, data) = (exact_and_human(size), exact_and_human(data));
    print(&format!("{size} copied{compared}, {data} of it data, in {seconds:.2} s\n"))
}
