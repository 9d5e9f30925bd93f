//! The server's end of commands: what a broker is told of them at the start, and the channels by which they
//! are started again.
//!
//! Each export has a channel of its own, over which nothing can be said but "start it". So a server that was
//! taken over chooses neither a program nor its arguments, and a command that does not end delays no other.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};

use super::message::{BrokerReply, BrokerRequest, CommandToStart, MESSAGE_BYTES};
use super::packet;
use crate::config::{CommandUri, Config, RunAs};
use crate::control::LaunchCommand;
use crate::sandbox::{SandboxError, user_and_group};

/// How long a start is waited for. The command that ran before is given some seconds to end.
const PATIENCE: Duration = Duration::from_secs(20);
const GONE: &str = "the process that starts commands for the server has ended: restart the server";

/// Why a command cannot be had; each a sentence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// Who it is to run as.
    #[error(transparent)]
    User(#[from] SandboxError),
    /// Its program was made absolute.
    #[error("the command {0} is too long: put it into a script")]
    TooLong(String),
}

/// The commands of all exports of a server, each with its URI.
pub(super) fn of_config(config: &Config) -> Result<Vec<(String, CommandToStart)>, CommandError> {
    let all = config.exports.iter().filter_map(|export| export.uri.command());
    all.map(|uri| Ok((uri.to_string(), to_start(uri, config.user.as_ref())?))).collect()
}

fn to_start(uri: &CommandUri, user: Option<&RunAs>) -> Result<CommandToStart, CommandError> {
    let mut words = uri.words.clone();
    if words[0].as_encoded_bytes().contains(&b'/')
        && let Ok(absolute) = std::path::absolute(&words[0])
    {
        words[0] = absolute.into_os_string();
    }
    let user = uri.user.as_ref().or(user).map(user_and_group).transpose()?;
    let command = CommandToStart { user, words };
    match BrokerRequest::Command(command.clone()).encode().len() <= MESSAGE_BYTES {
        true => Ok(command),
        false => Err(CommandError::TooLong(uri.to_string())),
    }
}

/// The channels of all commands, for the exports that want them.
#[derive(Debug, Default)]
pub(crate) struct BrokerCommands(Vec<(String, Arc<CommandChannel>)>);

impl BrokerCommands {
    /// Makes a channel for a command; gives the broker's end.
    pub(super) fn add(&mut self, uri: String) -> io::Result<OwnedFd> {
        let (channel, theirs) = CommandChannel::new()?;
        self.0.push((uri, Arc::new(channel)));
        Ok(theirs)
    }

    /// The channel of an export, once.
    pub(crate) fn take(&mut self, command: &CommandUri) -> Option<Arc<dyn LaunchCommand>> {
        let uri = command.to_string();
        let at = self.0.iter().position(|(of, _)| *of == uri)?;
        Some(self.0.remove(at).1)
    }
}

/// One command. It ends when this is dropped.
#[derive(Debug)]
struct CommandChannel {
    socket: OwnedFd,
    /// The number of the last call. One that was given up may be answered later.
    last: Mutex<u64>,
}

impl CommandChannel {
    fn new() -> io::Result<(Self, OwnedFd)> {
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for which in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&pair.0, which, Some(PATIENCE))?;
        }
        Ok((Self { socket: pair.0, last: Mutex::new(0) }, pair.1))
    }
}

impl LaunchCommand for CommandChannel {
    fn launch(&self) -> Result<OwnedFd, String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        let sent = packet::send(self.socket.as_fd(), &last.to_le_bytes(), None);
        sent.map_err(|_| GONE.to_owned())?;
        loop {
            let (bytes, files) = match packet::receive(self.socket.as_fd(), RecvFlags::empty()) {
                Ok(received) => received,
                Err(rustix::io::Errno::AGAIN) => {
                    return Err(format!("it was not started within {} s", PATIENCE.as_secs()));
                }
                Err(_) => return Err(GONE.to_owned()),
            };
            match (BrokerReply::decode(&bytes), <[OwnedFd; 1]>::try_from(files)) {
                (Some(BrokerReply::Opened { id }), Ok([socket])) if id == *last => return Ok(socket),
                (Some(BrokerReply::Refused { id, why }), Err(_)) if id == *last => return Err(why),
                // Of a call that was given up.
                (Some(BrokerReply::Opened { id } | BrokerReply::Refused { id, .. }), _) if id < *last => {}
                _ => return Err(GONE.to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(theirs: &OwnedFd, reply: &BrokerReply, file: Option<&OwnedFd>) {
        packet::send(theirs.as_fd(), &reply.encode(), file.map(AsFd::as_fd)).unwrap();
    }

    #[test]
    fn answers_of_calls_that_were_given_up_are_skipped() {
        let (channel, theirs) = CommandChannel::new().unwrap();
        *channel.last.lock().unwrap() = 2;
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        answer(&theirs, &BrokerReply::Opened { id: 1 }, Some(&file));
        answer(&theirs, &BrokerReply::Refused { id: 2, why: "late".into() }, None);
        answer(&theirs, &BrokerReply::Refused { id: 3, why: "no".into() }, None);
        assert_eq!(channel.launch().unwrap_err(), "no");
        answer(&theirs, &BrokerReply::Opened { id: 4 }, Some(&file));
        channel.launch().unwrap();
    }

    #[test]
    fn a_broker_that_is_gone_or_talks_nonsense_is_a_sentence() {
        for reply in [
            BrokerReply::Ready,
            BrokerReply::Opened { id: 1 },
            BrokerReply::Opened { id: 2 },
            BrokerReply::Missing { id: 1 },
        ] {
            let (channel, theirs) = CommandChannel::new().unwrap();
            answer(&theirs, &reply, None);
            assert!(channel.launch().unwrap_err().contains("restart the server"), "{reply:?}");
        }
        let (channel, theirs) = CommandChannel::new().unwrap();
        drop(theirs);
        assert!(channel.launch().unwrap_err().contains("restart the server"));
    }
}
