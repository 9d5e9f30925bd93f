//! `ringnbd bench`: load on any NBD server, and what it makes of it.

mod args;
mod fio;
mod hlog;
mod interrupt;
mod progress;
mod report;
mod settings;

use std::sync::Arc;

pub(crate) use args::Args;

use super::Outcome;
use super::outcome::complain;
use super::text::{json, print};
use crate::client::load::{Load, LoadInterval, Observer, Results, Stop};
use hlog::{HistogramLog, LogFile};
use progress::ProgressLine;
use settings::RunSettings;

/// What follows a run while it goes on.
struct Watchers<'a> {
    log: Option<HistogramLog<'a>>,
    progress: Option<ProgressLine>,
}

impl Observer for Watchers<'_> {
    fn interval(&mut self, interval: &LoadInterval<'_>) {
        if let Some(log) = &mut self.log {
            log.interval(interval);
        }
        if let Some(progress) = &mut self.progress {
            progress.interval(interval);
        }
    }

    fn reading_back(&mut self) {
        if let Some(progress) = &mut self.progress {
            progress.reading_back();
        }
    }
}

pub(crate) fn run(mut args: Args) -> Outcome {
    // `--json URI` reads the URI as the file's name.
    if args.uri.is_none()
        && let Some(uri) = args.json.as_deref().and_then(|text| text.parse().ok())
    {
        args.uri = Some(uri);
        args.json = Some("-".into());
    }
    let settings = match RunSettings::resolve(&args) {
        Ok(settings) => settings,
        Err(sentence) => return Outcome::refused(sentence),
    };
    for warning in &settings.warnings {
        complain("ringnbd", warning);
    }
    match measure(&args, &settings) {
        Ok(outcome) => outcome,
        Err(outcome) => outcome,
    }
}

fn measure(args: &Args, settings: &RunSettings) -> Result<Outcome, Outcome> {
    let refuse = |what: &str, error: std::io::Error| Outcome::refused(format_args!("cannot {what}: {error}"));
    let log = args.hlog.as_deref().map(LogFile::create).transpose();
    let mut log = log.map_err(|error| refuse("write the histogram log", error))?;
    let stop = Arc::new(Stop::new().map_err(|error| refuse("make an eventfd", error))?);
    interrupt::watch(&stop).map_err(|error| refuse("watch for signals", error))?;
    if let Some(cpu) = args.cpu {
        crate::sys::pin_to_cpu(cpu).map_err(|error| refuse(&format!("run on CPU {cpu}"), error))?;
    }
    crate::daemon::limits::raise_open_files();
    let load = Load::prepare(settings.load.clone(), stop).map_err(Outcome::refused)?;
    let description = report::Description::new(settings, &load);
    let log = log.as_mut().map(|file| file.begin(settings.kinds(), &description.to_string())).transpose();
    let log = log.map_err(|error| refuse("write the histogram log", error))?;
    let mut watchers = Watchers { log, progress: ProgressLine::on_terminal(&settings.load) };
    let results = load.run(&mut watchers);
    if let Some(progress) = watchers.progress {
        progress.end();
    }
    if let Some(Err(error)) = watchers.log.map(HistogramLog::finish) {
        return Err(Outcome::failed(format_args!("cannot write the histogram log: {error}")));
    }
    tell(args, &description, &results)?;
    Ok(judge(&results))
}

/// The results, as they were asked for.
fn tell(args: &Args, description: &report::Description, results: &Results) -> Result<(), Outcome> {
    let as_json = || json(&report::ResultsJson::new(description, results));
    let text = match args.json.as_deref() {
        Some("-") => as_json(),
        Some(file) => {
            std::fs::write(file, as_json())
                .map_err(|error| Outcome::failed(format_args!("cannot write {file}: {error}")))?;
            report::as_table(description, results)
        }
        None => report::as_table(description, results),
    };
    match print(&text) {
        Outcome::Done => Ok(()),
        other => Err(other),
    }
}

fn judge(results: &Results) -> Outcome {
    match &results.failure {
        Some(failure) => Outcome::failed(failure),
        None if results.operations() == 0 && results.error_count() > 0 => {
            Outcome::failed("no request succeeded; the results tell the errors")
        }
        None => Outcome::Done,
    }
}
