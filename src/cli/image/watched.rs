//! Work on an image that takes long: a line on a terminal, and a signal that ends it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::daemon::signals::on_stop;
use crate::store::StoreError;

/// The exit code of a command that a signal ended.
const INTERRUPTED: i32 = 130;

/// Watches for signals, and shows how far the work is.
pub(super) struct Watched {
    bar: ProgressBar,
    stopped: Arc<AtomicBool>,
}

impl Watched {
    /// One line on a terminal, nothing elsewhere. `doing` is a word such as "copying".
    pub(super) fn new(doing: &'static str) -> io::Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        on_stop(move || stop.store(true, Ordering::Relaxed), || std::process::exit(INTERRUPTED))?;
        Ok(Self { bar: bar(doing, ProgressDrawTarget::stderr()), stopped })
    }

    /// So much is done. It is an error after a signal.
    pub(super) fn progress(&self, done: u64, total: u64) -> Result<(), StoreError> {
        self.bar.set_length(total);
        self.bar.set_position(done);
        if self.stopped.load(Ordering::Relaxed) { Err(StoreError::Interrupted) } else { Ok(()) }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn bar(doing: &'static str, target: ProgressDrawTarget) -> ProgressBar {
    let template = "{msg} {bar:20} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";
    let style = ProgressStyle::with_template(template).expect("the template is constant");
    ProgressBar::with_draw_target(Some(0), target).with_style(style).with_message(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_can_be_made() {
        bar("copying", ProgressDrawTarget::hidden()).set_position(5);
    }
}
