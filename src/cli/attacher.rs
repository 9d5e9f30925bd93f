//! The process that attaches the exports of a server: it starts a supervisor for each device, again when one
//! ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::SocketType;
use rustix::process::{Pid, Signal, kill_process};

use super::Outcome;
use crate::attach::{self, AttachError, DetachTarget};
use crate::client::uri::NbdUri;
use crate::daemon::attacher::{AttachOrder, AttacherMessage, ignore_signals, next_message, tell_done};
use crate::daemon::logging;
use crate::pause::GrowingPause;

const PROGRAM: &str = "/proc/self/exe";
/// Before a device is tried again.
const PAUSES: GrowingPause = GrowingPause::new(Duration::from_millis(250), Duration::from_secs(16));
/// Exports of one server; each takes a thread and a process.
const MOST_DEVICES: usize = 1024;

/// The whole life of the process, which ends when its server does.
pub(super) fn run() -> Outcome {
    let Some(socket) = socket_of_server() else {
        return Outcome::refused(
            "this is a part of `ringnbd serve`, which starts it: it is no command of its own",
        );
    };
    ignore_signals();
    let _another_name = rustix::thread::set_name(c"ringnbd-attach");
    logging::start(logging::default_format(), logging::Detail::Usual, false);
    let mut devices: Vec<Arc<OwnDevice>> = Vec::new();
    loop {
        match next_message(&socket) {
            Some(AttacherMessage::Attach(order)) if devices.len() < MOST_DEVICES => {
                devices.extend(OwnDevice::begin(*order));
            }
            Some(AttacherMessage::Attach(order)) => {
                tracing::error!(
                    export = order.how.export,
                    "not attached: there are {MOST_DEVICES} devices already"
                );
            }
            Some(AttacherMessage::Stop) => {
                release(&devices);
                tell_done(&socket);
                break;
            }
            None => break,
        }
    }
    // Devices that are left wait for the next server, whose attacher finds them without a supervisor.
    devices.iter().for_each(|device| device.end());
    logging::finish();
    Outcome::Done
}

fn socket_of_server() -> Option<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned().ok()?;
    (rustix::net::sockopt::socket_type(&socket).ok()? == SocketType::SEQPACKET).then_some(socket)
}

/// All at the same time: each may take its second.
fn release(devices: &[Arc<OwnDevice>]) {
    std::thread::scope(|scope| {
        for device in devices {
            scope.spawn(|| device.release());
        }
    });
}

/// An export of the server, and its device.
struct OwnDevice {
    order: AttachOrder,
    uri: NbdUri,
    state: Mutex<OwnDeviceState>,
    ending: Condvar,
}

#[derive(Default)]
struct OwnDeviceState {
    /// Its process while it runs.
    supervisor: Option<Pid>,
    /// No supervisor is started any more.
    is_ending: bool,
}

impl OwnDevice {
    fn begin(order: AttachOrder) -> Option<Arc<Self>> {
        let uri = match order.uri.parse() {
            Ok(uri) => uri,
            Err(error) => {
                tracing::error!(export = order.how.export, uri = order.uri, %error, "not attached");
                return None;
            }
        };
        let device = Arc::new(Self { order, uri, state: Mutex::default(), ending: Condvar::new() });
        let keeper = Arc::clone(&device);
        let started = std::thread::Builder::new().spawn(move || keeper.keep());
        if let Err(error) = started {
            tracing::error!(export = device.order.how.export, %error, "not attached: there is no thread for it");
        }
        Some(device)
    }

    fn state(&self) -> MutexGuard<'_, OwnDeviceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn target(&self) -> DetachTarget {
        DetachTarget::Export(self.uri.clone())
    }

    /// Keeps a supervisor running, until the device is detached by an operator or the server ends.
    fn keep(&self) {
        let export = &self.order.how.export;
        let mut pause = PAUSES;
        if self.order.is_volatile {
            self.forget_the_last();
        }
        loop {
            match self.supervise() {
                Ok(None) => return,
                Ok(Some(0)) => {
                    tracing::info!(export, "detached: it is attached again when the server is restarted");
                    return;
                }
                // It has said why.
                Ok(Some(_)) => {}
                Err(error) => tracing::error!(export, %error, "cannot start the supervisor"),
            }
            if self.wait(pause.take()) {
                return;
            }
        }
    }

    /// Detaches what a server before this one has left of a volatile export, even if it is in use: its
    /// contents are gone, and who uses it should not wait for them.
    fn forget_the_last(&self) {
        let export = &self.order.how.export;
        match attach::detach(&self.target(), true) {
            Ok(device) => {
                tracing::warn!(export, device, "detached: what it held was lost with the last server")
            }
            Err(AttachError::NotAttached(_) | AttachError::NoModule) => {}
            Err(error) => tracing::warn!(export, "what the last server has left is not gone: {error}"),
        }
    }

    /// Runs a supervisor to its end; gives its exit code, or nothing when the server ends.
    fn supervise(&self) -> io::Result<Option<i32>> {
        let mut supervisor = {
            let mut state = self.state();
            if state.is_ending {
                return Ok(None);
            }
            let supervisor = self.command().spawn()?;
            state.supervisor = Some(Pid::from_child(&supervisor));
            supervisor
        };
        let code = wait_for(&mut supervisor, || self.state().supervisor = None)?;
        Ok((!self.state().is_ending).then_some(code))
    }

    fn command(&self) -> Command {
        let how = &self.order.how;
        let mut command = Command::new(PROGRAM);
        command.args(["attach", "--foreground"]).stdin(Stdio::null()).stdout(Stdio::null());
        if let Some(device) = how.device {
            command.arg(format!("--device=/dev/nbd{device}"));
        }
        if let Some(connections) = how.connections {
            command.arg(format!("--connections={connections}"));
        }
        let duration = |time| humantime::format_duration(time).to_string().replace(' ', "");
        command.arg(format!("--timeout={}", duration(how.timeout)));
        command.arg(format!("--dead-timeout={}", duration(how.dead_timeout)));
        if how.read_only {
            command.arg("--read-only");
        }
        command.arg(&self.order.uri);
        command
    }

    /// Waits, or hears that the server ends: true then.
    fn wait(&self, pause: Duration) -> bool {
        let waited = self.ending.wait_timeout_while(self.state(), pause, |state| !state.is_ending);
        waited.map_or(true, |(state, _)| state.is_ending)
    }

    /// Detaches the device, if nobody uses it.
    fn release(&self) {
        self.state().is_ending = true;
        self.ending.notify_all();
        let export = &self.order.how.export;
        match attach::detach(&self.target(), false) {
            Ok(device) => tracing::info!(export, device, "detached"),
            Err(AttachError::NotAttached(_) | AttachError::NoModule) => {}
            Err(error) => {
                tracing::warn!(export, "stays attached, and its requests wait for the next server: {error}")
            }
        }
    }

    /// Ends the supervisor, and leaves the device as it is.
    fn end(&self) {
        let mut state = self.state();
        state.is_ending = true;
        self.ending.notify_all();
        if let Some(supervisor) = state.supervisor.take() {
            // It has no state, and has inherited that it ignores what is kinder.
            let _it_may_be_gone = kill_process(supervisor, Signal::KILL);
        }
    }
}

/// Waits for the end of a process, and notes it before its number can be another's.
fn wait_for(process: &mut Child, ended: impl FnOnce()) -> io::Result<i32> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let pid = Pid::from_child(process);
    let waited = rustix::io::retry_on_intr(|| {
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).map(drop)
    });
    ended();
    waited?;
    Ok(process.wait()?.code().unwrap_or(-1))
}
