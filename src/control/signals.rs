//! The signals that a server lives with.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals are wishes while this exists, and not the end of the process.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// The kernel's way of saying that a file grew beyond RLIMIT_FSIZE. Handled, so that it is EFBIG and a reply to the client
    /// instead of the end of the server.
    _file_size: Signal,
}

impl Signals {
    /// Takes the signals over; inside the runtime.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _file_size: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
        })
    }

    /// The name of the next one that asks the server to stop.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// For a command without a runtime: `first` is called at the first signal that asks to stop, `second` at the next one, both on a
/// thread of their own.
///
/// # Errors
/// The kernel's, when there is no room for a thread or a descriptor.
pub fn on_stop(
    first: impl FnOnce() + Send + 'static,
    second: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::new()?
    };
    let watch = move || {
        runtime.block_on(async {
            signals.next().await;
            first();
            signals.next().await;
            second();
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch)?;
    Ok(())
}
