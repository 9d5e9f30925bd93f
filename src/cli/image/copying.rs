//! A copy that a person watches: its bar, and the signal that ends it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::daemon::signals::on_stop;
use crate::store::StoreError;

/// The exit code of a command that a signal ended.
const INTERRUPTED: i32 = 130;

/// A copy that is under way. Its bar goes with it.
pub(super) struct Copying {
    bar: ProgressBar,
    stopped: Arc<AtomicBool>,
}

impl Copying {
    /// Shows a bar on a terminal, and watches for signals. Without a length it shows what is done.
    pub(super) fn begin(path: &Path, length: Option<u64>) -> Result<Self, StoreError> {
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        on_stop(move || stop.store(true, Ordering::Relaxed), || std::process::exit(INTERRUPTED)).map_err(
            |source| StoreError::Named {
                what: "watch for signals while copying",
                path: path.to_owned(),
                source,
            },
        )?;
        Ok(Self { bar: bar(length, ProgressDrawTarget::stderr()), stopped })
    }

    /// How many bytes are done.
    pub(super) fn progress(&self, done: u64) -> Result<(), StoreError> {
        self.bar.set_position(done);
        if self.stopped.load(Ordering::Relaxed) { Err(StoreError::Interrupted) } else { Ok(()) }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// One line on a terminal, nothing elsewhere.
fn bar(length: Option<u64>, target: ProgressDrawTarget) -> ProgressBar {
    let template = match length {
        Some(_) => "copying {bar:20} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left",
        None => "copying {bytes}  {bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).expect("the template is constant");
    ProgressBar::with_draw_target(length, target).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_can_be_made() {
        bar(Some(10), ProgressDrawTarget::hidden()).set_position(5);
        bar(None, ProgressDrawTarget::hidden()).set_position(5);
    }
}
