//! `ringnbd copy`: a disk from a file, a store or a server to another one.

mod image;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::Outcome;
use super::text::*;
use crate::client::Timeouts;
use crate::client::copy::{CopyError, CopyOptions, CopyPlace, CopyReport, CopyWatch, copy, size_of};
use crate::client::uri::NbdUri;
use crate::daemon::signals::on_stop;
use crate::store::image_path::{ImagePath, ImagePathError};
use image::{ImageCopyError, ImageTarget, StoreServers};

const LONG_HELP: &str = "\
What the source says is a hole is not read, and zeroes are not written as data. A file that is the target is made, or emptied
before; a block device, an export or an image that exists keeps what is behind the end of the source.

An image of a store is store:STORE/NAME, and store:STORE/NAME@SNAPSHOT is a snapshot, which can only be a source.
An image that does not exist is made as large as the source, and has another name until it is complete
(NAME-unfinished-NUMBER). If a server has the store, it is asked (it has to serve the whole store); else the
command starts one for the time of the copy. A file of such a name is ./store:NAME.

Examples:
  ringnbd copy disk.img nbd://server/disk
  ringnbd copy nbd://server/disk backup.img --verify
  ringnbd copy 'nbd+unix:///vm1?socket=/run/a.sock' nbd://other/vm1 --connections 8
  ringnbd copy store:/srv/store/vm1@monday vm1.img
  ringnbd copy nbd://server/disk store:/srv/store/disk --verify
  ringnbd copy store:/srv/a/vm1@monday store:/srv/b/vm1
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
    /// The source: a file, a block device, store:STORE/NAME, nbd://HOST[:PORT]/NAME or
    /// nbd+unix:///NAME?socket=PATH
    pub source: CopyWord,
    /// The target, in the same form
    pub target: CopyWord,
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

/// An end of a copy, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CopyWord {
    Place(CopyPlace),
    Image(ImagePath),
}

impl FromStr for CopyWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("store:") {
            return image(path).map(Self::Image);
        }
        match text.starts_with("nbd") && text.contains("://") {
            true => {
                let uri = text.parse::<NbdUri>().map_err(|error| error.to_string())?;
                Ok(Self::Place(CopyPlace::Nbd(uri)))
            }
            false => Ok(Self::Place(CopyPlace::File(PathBuf::from(text)))),
        }
    }
}

/// What stands behind `store:`, as in an export's URI.
fn image(text: &str) -> Result<ImagePath, String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(path) if !text.contains('?') => path.parse().map_err(|error: ImagePathError| error.to_string()),
        _ => Err("write store:STORE/NAME, or store:STORE/NAME@SNAPSHOT, without parameters".to_owned()),
    }
}

/// The exit code of a command that a second signal ended.
const INTERRUPTED: i32 = 130;
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
    let copied = match (&args.source, &args.target) {
        (CopyWord::Place(source), CopyWord::Place(target)) => {
            let copied = copy((source, target), &options, &|bytes| {
                bar.inc(bytes);
                true
            });
            copied.map_err(ImageCopyError::from)
        }
        _ => copy_images(&args, &options, &bar),
    };
    bar.finish_and_clear();
    copied.map_or_else(ImageCopyError::ended, |report| told(&args, &report))
}

/// The same with an image at an end: a signal ends it as an error does, so that nothing of it stays.
fn copy_images(args: &Args, options: &CopyOptions, bar: &ProgressBar) -> Result<CopyReport, ImageCopyError> {
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stopped);
    let watched = on_stop(move || stop.store(true, Ordering::Relaxed), || std::process::exit(INTERRUPTED));
    if let Err(error) = watched {
        let sentence = format_args!("cannot watch for signals: {error}");
        return Err(ImageCopyError::Server(Outcome::failed(sentence)));
    }
    let mut servers = StoreServers::default();
    let copied = copy_with(&mut servers, args, options, &|bytes| {
        bar.inc(bytes);
        !stopped.load(Ordering::Relaxed)
    });
    let ended = servers.stop();
    let report = copied?;
    ended.map(|()| report)
}

fn copy_with(
    servers: &mut StoreServers,
    args: &Args,
    options: &CopyOptions,
    progress: CopyWatch<'_>,
) -> Result<CopyReport, ImageCopyError> {
    let source = match &args.source {
        CopyWord::Place(place) => place.clone(),
        CopyWord::Image(image) => CopyPlace::Nbd(servers.uri_of(image)?),
    };
    let image = match &args.target {
        CopyWord::Place(target) => return Ok(copy((&source, target), options, progress)?),
        CopyWord::Image(image) => image,
    };
    // Changes alone make no image.
    let size = match options.delta {
        None => Some(size_of(&source, options.timeouts)?),
        Some(_) => None,
    };
    let target = ImageTarget::prepare(servers, image, size)?;
    let place = CopyPlace::Nbd(target.uri.clone());
    if place == source {
        return Err(CopyError::Same(image.store.join(image.node.to_string())).into());
    }
    match copy((&source, &place), options, progress) {
        Ok(report) => target.finish().map(|()| report),
        Err(error) => Err(target.give_up(error)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_as_they_are_written() {
        let read = |text: &str| text.parse::<CopyWord>();
        let file = |path: &str| Ok(CopyWord::Place(CopyPlace::File(path.into())));
        assert_eq!(read("a/b.img"), file("a/b.img"));
        assert_eq!(read("./store:a/b"), file("./store:a/b"));
        assert!(matches!(read("nbd://host/a"), Ok(CopyWord::Place(CopyPlace::Nbd(_)))));
        let image = |path: &str| Ok(CopyWord::Image(path.parse().unwrap()));
        assert_eq!(read("store:/srv/store/vm1"), image("/srv/store/vm1"));
        assert_eq!(read("store:my%20store/vm1@monday"), image("my store/vm1@monday"));
        for wrong in
            ["store:", "store:/srv/store/", "store:a/b?readonly=true", "store:a/b c", "nbd://host:99999"]
        {
            read(wrong).unwrap_err();
        }
    }
}
