//! The signals that a server lives with.

use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// To stop: the name of the signal.
    Stop(&'static str),
    /// To read the configuration again.
    Reload,
}

/// Signals that ask the server to stop. Each would end the process otherwise, and leave sockets and replies
/// behind.
const STOP: [(libc::c_int, &str); 6] = [
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGINT, "SIGINT"),
    // A terminal that was closed; with a configuration it asks to read that again, as with other servers.
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGQUIT, "SIGQUIT"),
    // The soft limit of CPU time; at the hard one the kernel kills.
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGPWR, "SIGPWR"),
];

/// Those that mean nothing to the server, and would end it. (SIGPIPE is ignored from the start.)
const NOTHING: [libc::c_int; 7] = [
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    // The kernel sends it when a file grows beyond RLIMIT_FSIZE. It is handled, so that it is EFBIG and a
    // reply to the client.
    libc::SIGXFSZ,
];

/// Signals are wishes while this exists, and not the end of the process.
pub(super) struct Signals {
    asking: Vec<(Told, Signal)>,
    _nothing: Vec<Signal>,
}

impl Signals {
    /// Takes the signals over; inside the runtime. `reloads`: there is a configuration to read again.
    pub(super) fn new(reloads: bool) -> io::Result<Self> {
        let ignored = ignored();
        // nohup(1) and shells that start a command in the background mean it.
        let keeps =
            |number| [libc::SIGHUP, libc::SIGQUIT].contains(&number) && ignored >> (number - 1) & 1 == 1;
        let take = |number| signal(SignalKind::from_raw(number));
        let meaning = |number, name| match number {
            libc::SIGHUP if reloads => Told::Reload,
            _ => Told::Stop(name),
        };
        let asking = STOP.into_iter().filter(|(number, _)| !keeps(*number));
        Ok(Self {
            asking: asking
                .map(|(number, name)| Ok((meaning(number, name), take(number)?)))
                .collect::<io::Result<_>>()?,
            _nothing: NOTHING.into_iter().map(take).collect::<io::Result<_>>()?,
        })
    }

    /// What the next one asks for.
    pub(super) async fn next(&mut self) -> Told {
        std::future::poll_fn(|context| {
            let came = self.asking.iter_mut().find_map(|(told, signal)| {
                let came = signal.poll_recv(context).is_ready();
                came.then_some(*told)
            });
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// The signals that this process ignores, as a mask of bits; none when the kernel does not say.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// For a command without a runtime. Calls `first` at the first signal that asks to stop, `second` at the next
/// one, both on a thread of their own.
///
/// # Errors
/// The kernel's, when there is no room for a thread or a descriptor.
pub(crate) fn on_stop(
    first: impl FnOnce() + Send + 'static,
    second: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::new(false)?
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
