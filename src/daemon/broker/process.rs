//! The broker's end: a process that waits for requests, and opens each on a thread of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rustix::net::{RecvFlags, SocketType};

use super::AT_ONCE;
use super::child::run_command;
use super::message::{BrokerReply, BrokerRequest, CommandToStart};
use super::open::Allowed;
use super::owners::SocketOwners;
use super::packet;
use crate::sys;

/// Signals that a terminal, or a manager of services, sends to all processes of a service. The broker ends
/// with the server, not before.
const IGNORED: [libc::c_int; 6] =
    [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP, libc::SIGTSTP, libc::SIGUSR1];

/// Commands of one server; each takes a thread.
const COMMANDS: usize = 1024;

/// Why a process is no broker.
#[derive(Debug, thiserror::Error)]
#[error("this is a part of `ringnbd serve`, which starts it: it is no command of its own")]
pub(crate) struct NotStarted;

/// The whole life of the broker process, which ends when its server does.
///
/// # Errors
/// Its standard input is not the socket of a server.
pub(crate) fn run() -> Result<(), NotStarted> {
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(|_| NotStarted)?;
    let kind = rustix::net::sockopt::socket_type(&socket).map_err(|_| NotStarted)?;
    if kind != SocketType::SEQPACKET {
        return Err(NotStarted);
    }
    sys::ignore_signals(&IGNORED);
    // For those who look at a list of processes.
    let _another_name = rustix::thread::set_name(c"ringnbd-broker");
    let Some((allowed, commands, owners)) = set_up(socket.as_fd()) else { return Ok(()) };
    let commands: Vec<_> = commands.into_iter().filter_map(start_thread).collect();
    serve(socket, owners, move |request| match request {
        BrokerRequest::Open { access, path, .. } => allowed.open(path, *access).map(Some),
        BrokerRequest::Read { path, .. } => allowed.open_readable(path),
        _ => allowed.open_configuration().map(Some),
    });
    // They end when the server does, whose ends of their channels close then.
    for command in commands {
        let _panicked = command.join();
    }
    Ok(())
}

/// A command and its channel.
type CommandOfBroker = (CommandToStart, OwnedFd);

/// A thread for a command. Without one its channel closes, which the server notices.
fn start_thread((command, channel): CommandOfBroker) -> Option<JoinHandle<()>> {
    std::thread::Builder::new().spawn(move || run_command(&channel, &command)).ok()
}

/// Hears what may be opened and started. `None` when the server is gone, or it cannot be had.
fn set_up(socket: BorrowedFd<'_>) -> Option<(Allowed, Vec<CommandOfBroker>, SocketOwners)> {
    let (mut allowed, mut owners) = (Allowed::default(), SocketOwners::default());
    let mut commands = Vec::new();
    let mut failure = None;
    loop {
        let (request, file) = receive(socket)?;
        match request {
            Some(BrokerRequest::Directory(path)) => {
                if let Err(why) = allowed.directory(path) {
                    failure.get_or_insert(why);
                }
            }
            Some(BrokerRequest::Device(path)) => allowed.device(path),
            Some(BrokerRequest::ConfigurationIs(path)) => allowed.configuration_is(path),
            Some(BrokerRequest::MayRead(path)) => allowed.may_read(path),
            Some(BrokerRequest::Command(command)) if file.is_some() && commands.len() < COMMANDS => {
                commands.extend(file.map(|channel| (command, channel)));
            }
            Some(BrokerRequest::GivesBack(path)) => owners.note(&path),
            Some(BrokerRequest::Begin) => break,
            Some(BrokerRequest::Command(_)) => {
                failure.get_or_insert(format!("more than {COMMANDS} commands cannot be started"));
            }
            Some(
                BrokerRequest::Open { .. }
                | BrokerRequest::Configuration { .. }
                | BrokerRequest::Read { .. }
                | BrokerRequest::Settled,
            )
            | None => {
                failure.get_or_insert("it was told something that it does not understand".to_owned());
            }
        }
    }
    match failure {
        None => packet::send(socket, &BrokerReply::Ready.encode(), None)
            .ok()
            .map(|()| (allowed, commands, owners)),
        Some(why) => {
            // If this fails, the server sees the end of the socket.
            let _gone = packet::send(socket, &BrokerReply::Refused { id: 0, why }.encode(), None);
            None
        }
    }
}

/// The next message, and the descriptor that it brought; `None` is the end, and no request what is none.
fn receive(socket: BorrowedFd<'_>) -> Option<(Option<BrokerRequest>, Option<OwnedFd>)> {
    let (bytes, files) = packet::receive(socket, RecvFlags::empty()).ok()?;
    if bytes.is_empty() {
        return None;
    }
    Some((BrokerRequest::decode(&bytes), files.into_iter().next()))
}

/// A file, or none if there is none; or a sentence.
type OpenAnswer = Result<Option<OwnedFd>, String>;

/// Answers until the server is gone. An `open` that hangs holds up its own answer only.
fn serve(
    socket: OwnedFd,
    mut owners: SocketOwners,
    open: impl Fn(&BrokerRequest) -> OpenAnswer + Send + Sync + 'static,
) {
    let (socket, open, busy) = (Arc::new(socket), Arc::new(open), Arc::new(AtomicUsize::new(0)));
    while let Some((request, _no_file)) = receive(socket.as_fd()) {
        if request == Some(BrokerRequest::Settled) {
            owners.settle();
            continue;
        }
        let refuse = |id, why: &str| {
            let reply = BrokerReply::Refused { id, why: why.to_owned() };
            // A server that does not listen is one that ends.
            let _gone = packet::send(socket.as_fd(), &reply.encode(), None);
        };
        let Some((id, request)) = request.and_then(id_of) else {
            refuse(0, "this is no request");
            continue;
        };
        if busy.fetch_add(1, Ordering::Relaxed) >= AT_ONCE {
            busy.fetch_sub(1, Ordering::Relaxed);
            refuse(id, "too many files are being opened at the same time: try again later");
            continue;
        }
        let (to, open, done) = (Arc::clone(&socket), Arc::clone(&open), Arc::clone(&busy));
        let work = move || {
            let opened = open(&request);
            // Before the answer, because a server that has it may ask again.
            done.fetch_sub(1, Ordering::Relaxed);
            let _gone = match opened {
                Ok(Some(file)) => {
                    packet::send(to.as_fd(), &BrokerReply::Opened { id }.encode(), Some(file.as_fd()))
                }
                Ok(None) => packet::send(to.as_fd(), &BrokerReply::Missing { id }.encode(), None),
                Err(why) => packet::send(to.as_fd(), &BrokerReply::Refused { id, why }.encode(), None),
            };
        };
        if let Err(error) = std::thread::Builder::new().spawn(work) {
            busy.fetch_sub(1, Ordering::Relaxed);
            refuse(id, &format!("there is no thread to open it: {error}"));
        }
    }
    owners.give_back();
}

/// A request that has an answer, and its id.
fn id_of(request: BrokerRequest) -> Option<(u64, BrokerRequest)> {
    match request {
        BrokerRequest::Open { id, .. }
        | BrokerRequest::Configuration { id }
        | BrokerRequest::Read { id, .. } => Some((id, request)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
