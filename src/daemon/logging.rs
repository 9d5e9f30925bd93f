//! Where log lines go, and in which form.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::time::Duration;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::log::{LOG, OUTPUT};
use super::stdio::{stderr_is_the_client, stderr_is_the_journal};
use crate::config::LogFormat;

/// How long the last lines wait for a reader that is stuck.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The default form: text on a terminal and in the journal, structured otherwise.
pub(crate) fn default_format() -> LogFormat {
    let people_read = io::stderr().is_terminal() || stderr_is_the_journal();
    if people_read { LogFormat::Human } else { LogFormat::Json }
}

/// Sends the warnings of a command to the standard error, for its user.
pub(crate) fn show_warnings() {
    let builder = tracing_subscriber::fmt().compact().without_time().with_target(false);
    let builder = builder.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
    // An error means that a subscriber is already there.
    let _already_there = builder.with_max_level(Level::WARN).try_init();
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    Warnings,
    Usual,
    Debugging,
}

/// Sends log lines, and panics, to the standard error from now on; nowhere when that is the client's socket.
///
/// `RUST_LOG` chooses the levels, such as `ringnbd=debug`; `detail` does without it. A `RUST_LOG` that
/// cannot be read is reported and ignored.
pub(crate) fn start(format: LogFormat, detail: Detail, stdio: bool) {
    let default = match detail {
        Detail::Warnings => "warn",
        Detail::Usual => "info",
        Detail::Debugging => "ringnbd=debug,info",
    };
    let chosen = std::env::var_os(EnvFilter::DEFAULT_ENV).filter(|text| !text.is_empty());
    let filter = chosen.as_ref().map(|text| text.to_str().and_then(|text| EnvFilter::try_new(text).ok()));
    let is_wrong = matches!(filter, Some(None));
    let filter = filter.flatten().unwrap_or_else(|| EnvFilter::new(default));
    let is_the_client = stdio && stderr_is_the_client();
    let writer = if is_the_client { BoxMakeWriter::new(io::sink) } else { BoxMakeWriter::new(|| &LOG) };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // An error means that a subscriber is already there (a test's): then it keeps the lines.
    let _already_there = match (format, stderr_is_the_journal()) {
        (LogFormat::Json, false) => {
            builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
        (LogFormat::Json, true) => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .without_time()
            .map_event_format(WithPriority)
            .try_init(),
        (LogFormat::Human, false) => {
            builder.compact().with_target(false).with_ansi(io::stderr().is_terminal()).try_init()
        }
        (LogFormat::Human, true) => builder
            .compact()
            .with_target(false)
            .with_level(false)
            .with_ansi(false)
            .without_time()
            .map_event_format(WithPriority)
            .try_init(),
    };
    if is_wrong {
        tracing::warn!(
            "RUST_LOG={} is not understood and ignored: write levels (error, warn, info, debug, trace), such as ringnbd=debug",
            chosen.unwrap_or_default().to_string_lossy()
        );
    }
    std::panic::set_hook(Box::new(move |panic| tell_panic(panic, is_the_client)));
}

/// The last thing that a server does: writes what was logged, unless the reader is stuck.
pub(crate) fn finish() {
    OUTPUT.flush(LAST_LINES);
    LOG.flush(LAST_LINES);
}

/// A panic is a log line: the standard hook writes past the log, and would wait for a reader that is stuck.
fn tell_panic(panic: &PanicHookInfo<'_>, is_the_client: bool) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let what = panic.payload_as_str().unwrap_or("a panic without a message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace =
        if backtrace.status() == BacktraceStatus::Captured { backtrace.to_string() } else { String::new() };
    if tracing::enabled!(Level::ERROR) {
        tracing::error!(thread, backtrace, "panicked at {place}: {what}");
    } else if !is_the_client {
        LOG.write(format!("thread {thread} panicked at {place}: {what}\n{backtrace}").as_bytes());
    }
}

/// Begins each line with its priority, as the journal takes it: see `sd-daemon(3)`.
struct WithPriority<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithPriority<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}
