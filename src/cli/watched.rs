//! Work on a store that takes long: a line on a terminal, and a signal that ends it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::daemon::signals::on_stop;
use crate::store::StoreError;

/// The exit code of a command that a signal ended.
const INTERRUPTED: i32 = 130;

/// Watches for signals, and shows how far the work is.
pub(crate) struct Watched {
    bar: ProgressBar,
    stopped: Arc<AtomicBool>,
}

impl Watched {
    /// One line on a terminal, nothing elsewhere. `doing` is a word such as "copying", and `path` what is
    /// worked on. Without a length it shows what is done.
    pub(crate) fn begin(doing: &'static str, path: &Path, length: Option<u64>) -> Result<Self, StoreError> {
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let watched =
            on_stop(move || stop.store(true, Ordering::Relaxed), || std::process::exit(INTERRUPTED));
        let what = "watch for signals while working on";
        watched.map_err(|source| StoreError::Named { what, path: path.to_owned(), source })?;
        Ok(Self { bar: bar(doing, length, ProgressDrawTarget::stderr()), stopped })
    }

    /// So many bytes are done. It is an error after a signal.
    pub(crate) fn progress(&self, done: u64) -> Result<(), StoreError> {
        self.bar.set_position(done);
        if self.stopped.load(Ordering::Relaxed) { Err(StoreError::Interrupted) } else { Ok(()) }
    }

    /// The line goes.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// The same, of so many.
    pub(crate) fn progress_of(&self, done: u64, total: u64) -> Result<(), StoreError> {
        self.bar.set_length(total);
        self.progress(done)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn bar(doing: &'static str, length: Option<u64>, target: ProgressDrawTarget) -> ProgressBar {
    let template = match length {
        Some(_) => "{msg} {bar:20} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left",
        None => "{msg} {bytes}  {bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).expect("the template is constant");
    ProgressBar::with_draw_target(length, target).with_style(style).with_message(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_can_be_made() {
        bar("copying", Some(10), ProgressDrawTarget::hidden()).set_position(5);
        bar("copying", None, ProgressDrawTarget::hidden()).set_position(5);
    }
}
