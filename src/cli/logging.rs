//! Where log lines go, and in which form.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::LogFormat;
use crate::control::stdio::stderr_is_the_client;

/// The form when nobody said which: text on a terminal, structured otherwise.
pub(super) fn default_format() -> LogFormat {
    if io::stderr().is_terminal() { LogFormat::Human } else { LogFormat::Json }
}

/// Sends log lines to the standard error from now on; nowhere when that is the client's socket.
///
/// `RUST_LOG` chooses the levels, such as `ringnbd=debug`; `info` without it, `debug` when `verbose`. One that cannot be read is told, and
/// as good as none.
pub(super) fn start(format: LogFormat, verbose: bool, stdio: bool) {
    let default = if verbose { "ringnbd=debug,info" } else { "info" };
    let chosen = std::env::var_os(EnvFilter::DEFAULT_ENV).filter(|text| !text.is_empty());
    let filter = chosen.as_ref().map(|text| text.to_str().and_then(|text| EnvFilter::try_new(text).ok()));
    let is_wrong = matches!(filter, Some(None));
    let filter = filter.flatten().unwrap_or_else(|| EnvFilter::new(default));
    let writer = if stdio && stderr_is_the_client() {
        BoxMakeWriter::new(io::sink)
    } else {
        BoxMakeWriter::new(io::stderr)
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // An error means that a subscriber is already there (a test's): then it keeps the lines.
    let _already_there = match format {
        LogFormat::Json => {
            builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
        LogFormat::Human => {
            builder.compact().with_target(false).with_ansi(io::stderr().is_terminal()).try_init()
        }
    };
    if is_wrong {
        tracing::warn!(
            "RUST_LOG={} is not understood and ignored: write levels (error, warn, info, debug, trace), such as ringnbd=debug",
            chosen.unwrap_or_default().to_string_lossy()
        );
    }
}
