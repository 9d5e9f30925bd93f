//! `ringnbd attach`: an export of any server as a `/dev/nbdN` of this machine.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use super::Outcome;
use super::outcome::complain;
use super::text::{exact_and_human, json, print};
use crate::attach::{self, AttachError, AttachOptions, Attached, DetachTarget, HeldDevice};
use crate::client::uri::{NbdUri, ServerAddress};
use crate::config::size::parse_duration;
use crate::daemon;
use crate::daemon::surroundings::Nowhere;

/// More than any answer has.
const LONGEST_ANSWER: u64 = 64 << 10;

const LONG_HELP: &str = "\
The kernel's own NBD client (`modprobe nbd`, root) gets the connections. A small process stays behind for
each device, its supervisor: it gives the kernel a new connection for each that ends. Requests wait
meanwhile, for --dead-timeout.

If a supervisor was killed, the same command finds the device of the export and supervises it again. It
takes no device that was attached by something else, or to another URI.

Over TLS (nbds://, with the parameters that `ringnbd info` takes) the supervisor stands between the kernel,
which cannot encrypt, and the server: requests wait while there is none.

A device grows when its export has become larger: at once with a ringnbd server, which has the supervisor
connect again (not with --dead-timeout 0); with another one when its connections were made anew, or by
--grow. A device never shrinks.

Before Linux 4.12 the kernel's client has no netlink. There, and with --ioctl, the device lasts as long as the
process that stays behind, and goes with it: a killed one leaves nothing to supervise again, connections
that end are not replaced and --dead-timeout means nothing, the device does not grow, and it is detached by its name.

Examples:
  ringnbd attach nbd://localhost/disk
  ringnbd attach --device /dev/nbd3 --connections 4 'nbd+unix:///vm1?socket=/run/ringnbd.sock'
  ringnbd attach --json nbd://storage/disk | jq -r .device
  ringnbd attach 'nbds://storage/disk?tls-certificates=/etc/pki/storage'
  ringnbd attach --foreground nbd://storage/disk      under a service manager, with a log

JSON keys:
  device       such as /dev/nbd3
  uri          as given, in its canonical form
  identifier   what the device carries; its second word is a number of this attaching alone; null by ioctls
  size_bytes, connections, read_only
  adopted      true: the device was there before
  supervisor   the process that stays behind

Exit codes: 0, it is attached; with --foreground, it was detached; 1, the kernel failed; 2, it was not tried.";

/// Options of `ringnbd attach`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP, after_help = "`--help` shows examples and the JSON keys.")]
pub(crate) struct Args {
    /// The export.
    #[arg(help = "The export: nbd://HOST[:PORT]/NAME, nbd+unix:///NAME?socket=PATH, or nbds:// for TLS")]
    pub uri: NbdUri,
    /// This device, such as /dev/nbd3, instead of any that is free
    #[arg(long, value_parser = parse_device)]
    pub device: Option<u32>,
    /// That many connections, where the server supports several [default: 2 to 4, by the number of CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub connections: Option<u8>,
    /// A request without a reply for so long ends its connection, and is sent again by another one; 0: never,
    /// but of several connections the kernel ends one after 30 s
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Requests wait so long for a connection when all are dead, and then fail
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = parse_duration)]
    pub dead_timeout: Duration,
    /// Nothing can be written to the device
    #[arg(long)]
    pub read_only: bool,
    /// Stay, supervise the device and log, until it is detached
    #[arg(long)]
    pub foreground: bool,
    /// Have the attached device grow to the size that the server says now, and do nothing else
    #[arg(long, conflicts_with_all = ["device", "connections", "read_only", "foreground", "ioctl"])]
    pub grow: bool,
    /// Attach as kernels without netlink have it, and hold the device: see below
    #[arg(long)]
    pub ioctl: bool,
    /// Print JSON instead of the device's name
    #[arg(long)]
    pub json: bool,
    /// The process that stays behind; started by the command
    #[arg(long, hide = true)]
    pub supervise: bool,
}

#[derive(Debug, Serialize)]
struct AttachedJson {
    device: String,
    uri: String,
    identifier: Option<String>,
    size_bytes: u64,
    connections: usize,
    read_only: bool,
    adopted: bool,
    supervisor: u32,
}

#[derive(Debug, Serialize)]
struct GrownJson {
    device: String,
    uri: String,
    size_bytes: u64,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let uri = with_absolute_path(args.uri.clone());
    if args.grow {
        return grow(&uri, args.json);
    }
    if !args.foreground && !args.supervise {
        return start_supervisor();
    }
    if args.foreground {
        daemon::logging::start(daemon::logging::default_format(), daemon::logging::Detail::Usual, false);
    }
    let options = AttachOptions {
        uri,
        device: args.device,
        connections: args.connections.map(usize::from),
        timeout: args.timeout,
        dead_timeout: args.dead_timeout,
        read_only: args.read_only,
    };
    let attached = match AttachedDevice::attach(&options, args.ioctl) {
        Ok(attached) => attached,
        Err(error) => return ended(&error),
    };
    if print(&attached.answer(&options.uri, args.json)) != Outcome::Done {
        tracing::warn!("the answer could not be printed");
    }
    if args.foreground {
        daemon::tell_ready();
    } else if let Err(error) = leave_the_terminal() {
        complain("ringnbd", format_args!("the supervisor keeps its terminal: {error}"));
    }
    let outcome = match attached.supervise() {
        Ok(()) => Outcome::Done,
        Err(error) => ended(&error),
    };
    if args.foreground {
        daemon::logging::finish();
    }
    outcome
}

fn ended(error: &AttachError) -> Outcome {
    if error.is_refusal() { Outcome::refused(error) } else { Outcome::failed(error) }
}

/// A device of this process.
enum AttachedDevice {
    Supervised(Box<Attached>),
    /// It goes with this process.
    Held(HeldDevice),
}

impl AttachedDevice {
    fn attach(options: &AttachOptions, by_ioctl: bool) -> Result<Self, AttachError> {
        if by_ioctl {
            return attach::attach_by_ioctl(options).map(Self::Held);
        }
        match attach::attach(options) {
            Err(error @ AttachError::NoNetlink) => {
                tracing::warn!("{error}");
                attach::attach_by_ioctl(options).map(Self::Held)
            }
            attached => Ok(Self::Supervised(Box::new(attached?))),
        }
    }

    fn supervise(self) -> Result<(), AttachError> {
        match self {
            Self::Supervised(attached) => attach::supervise(*attached),
            Self::Held(held) => held.hold(),
        }
    }

    fn answer(&self, uri: &NbdUri, as_json: bool) -> String {
        let (device, supervisor) = (self.device(), std::process::id());
        if !as_json {
            return format!("{device}\n");
        }
        json(&match self {
            Self::Supervised(attached) => AttachedJson {
                device,
                uri: attached.identifier.uri.to_string(),
                identifier: Some(attached.identifier.to_string()),
                size_bytes: attached.size,
                connections: attached.connections,
                read_only: attached.is_read_only,
                adopted: attached.is_adopted,
                supervisor,
            },
            Self::Held(held) => AttachedJson {
                device,
                uri: uri.to_string(),
                identifier: None,
                size_bytes: held.size,
                connections: held.connections,
                read_only: held.is_read_only,
                adopted: false,
                supervisor,
            },
        })
    }

    fn device(&self) -> String {
        match self {
            Self::Supervised(attached) => attached.device(),
            Self::Held(held) => held.device(),
        }
    }
}

fn grow(uri: &NbdUri, as_json: bool) -> Outcome {
    match attach::grow(uri) {
        Ok((device, size_bytes)) if as_json => {
            print(&json(&GrownJson { device, uri: uri.to_string(), size_bytes }))
        }
        Ok((device, size)) => print(&format!("{device}: {}\n", exact_and_human(size))),
        Err(error) => ended(&error),
    }
}

/// Runs this command again as a process that stays, and waits for its answer.
fn start_supervisor() -> Outcome {
    let started = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .args(std::env::args_os().skip(1))
            .arg("--supervise")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
    });
    let mut supervisor = match started {
        Ok(supervisor) => supervisor,
        Err(error) => return Outcome::failed(format_args!("cannot start the supervisor: {error}")),
    };
    let mut text = String::new();
    let stdout = supervisor.stdout.take().expect("it was piped");
    let read = stdout.take(LONGEST_ANSWER).read_to_string(&mut text);
    if read.is_ok_and(|bytes| bytes > 0) {
        return print(&text);
    }
    // It has said why.
    match supervisor.wait().map(|status| status.code()) {
        Ok(Some(2)) => Outcome::Refused,
        Ok(Some(1)) => Outcome::Failed,
        other => Outcome::failed(format_args!("the supervisor ended early ({other:?})")),
    }
}

/// Nobody waits for output of this process any more, and no terminal can end it.
fn leave_the_terminal() -> std::io::Result<()> {
    Nowhere::open()?.take_output()?;
    // A session of its own already, when it leads a group of processes.
    let _leads_one = rustix::process::setsid();
    std::env::set_current_dir("/")
}

/// The supervisor has another working directory, and so has who attaches the export again.
fn with_absolute_path(mut uri: NbdUri) -> NbdUri {
    let socket = match &mut uri.address {
        ServerAddress::Unix(path) => Some(path),
        _ => None,
    };
    let keys = uri.tls.iter_mut().flat_map(|tls| [&mut tls.certificates, &mut tls.psk_file]);
    for path in socket.into_iter().chain(keys.flatten()) {
        if let Ok(absolute) = std::path::absolute(&*path) {
            *path = absolute;
        }
    }
    uri
}

/// As [`with_absolute_path`], for a target that is an export.
pub(super) fn with_absolute_socket(target: DetachTarget) -> DetachTarget {
    match target {
        DetachTarget::Export(uri) => DetachTarget::Export(with_absolute_path(uri)),
        device => device,
    }
}

fn parse_device(text: &str) -> Result<u32, AttachError> {
    match text.parse() {
        Ok(DetachTarget::Device(index)) => Ok(index),
        _ => Err(AttachError::NotADevice(text.into())),
    }
}
