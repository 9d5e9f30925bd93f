//! The broker's end of a command: it runs once at a time, for as long as its channel is open.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process_group, pidfd_open, set_child_subreaper,
    waitpgid,
};

use super::message::{BrokerReply, CommandToStart};
use super::packet;
use crate::sys;

/// Where programs are looked for. It is all of the environment that a command gets.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a command may take to end after its connection.
const GRACE: Duration = Duration::from_secs(2);

/// Starts a command as often as its channel asks for it, and ends it with the channel.
pub(super) fn run_command(channel: &OwnedFd, command: &CommandToStart) {
    let mut running: Option<RunningCommand> = None;
    while let Ok((bytes, _)) = packet::receive(channel.as_fd(), RecvFlags::empty()) {
        let Ok(id) = <[u8; 8]>::try_from(bytes).map(u64::from_le_bytes) else { break };
        // Before the next one, as two could write the same disk.
        drop(running.take());
        let started = RunningCommand::start(command);
        let (reply, socket) = match started {
            Ok((child, socket)) => {
                running = Some(child);
                (BrokerReply::Opened { id }, Some(socket))
            }
            Err(error) => {
                let why = format!("cannot start {}: {error}", command.words[0].display());
                (BrokerReply::Refused { id, why }, None)
            }
        };
        if packet::send(channel.as_fd(), &reply.encode(), socket.as_ref().map(AsFd::as_fd)).is_err() {
            break;
        }
    }
}

/// A process and its group. It is given some time to end, and then killed, with all of the group.
struct RunningCommand(Child);

impl RunningCommand {
    fn start(command: &CommandToStart) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let output = theirs.try_clone()?;
        let mut process = Command::new(OsStr::new(&command.words[0]));
        process.args(&command.words[1..]).env_clear().env("PATH", PATH).current_dir("/");
        process.stdin(theirs).stdout(output).process_group(0);
        if let Some((user, group)) = command.user {
            // This drops the other groups as well.
            process.uid(user).gid(group);
        }
        // Whoever opened something here meant it for the broker alone.
        sys::close_on_exec_from(3)?;
        // What a command leaves behind is waited for here, see `drop`.
        set_child_subreaper(Some(getpid()))?;
        // Of this thread, and of what it starts.
        rustix::thread::set_no_new_privs(true)?;
        Ok((Self(process.spawn()?), ours))
    }
}

/// For the time of grace at most.
fn wait_for_the_end(process: Pid) -> io::Result<()> {
    let process = pidfd_open(process, PidfdFlags::empty())?;
    let grace = Timespec { tv_sec: GRACE.as_secs() as i64, tv_nsec: 0 };
    poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&grace))?;
    Ok(())
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        let process = Pid::from_child(&self.0);
        // Where the kernel cannot wait for it, there is no grace.
        let _unknown = wait_for_the_end(process);
        // The number is nobody else's until the process has been waited for. No members are as good.
        let _none_left = kill_process_group(process, Signal::KILL);
        // All of the group: who dies leaves its children to this process.
        while rustix::io::retry_on_intr(|| waitpgid(process, WaitOptions::empty())).is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn command(script: &str) -> CommandToStart {
        CommandToStart { user: None, words: ["sh", "-c", script].map(Into::into).to_vec() }
    }

    #[test]
    fn it_gets_its_connection_and_nothing_else() {
        let script = "ls /proc/self/fd | tr '\\n' ' '; cat /proc/self/environ | tr '\\0' '\\n'; \
                      grep NoNewPrivs /proc/self/status; pwd; head -c 3";
        // It has output and input at the same socket.
        let (_child, socket) = RunningCommand::start(&command(script)).unwrap();
        let mut socket = UnixStream::from(socket);
        socket.write_all(b"abc").unwrap();
        let mut told = String::new();
        socket.read_to_string(&mut told).unwrap();
        let words: Vec<_> = told.split_ascii_whitespace().collect();
        // The fourth is the directory that is being listed.
        assert!(words.starts_with(&["0", "1", "2", "3"]), "{told}");
        assert!(!words.contains(&"4"), "{told}");
        assert!(told.contains("NoNewPrivs:\t1"), "{told}");
        assert!(told.ends_with("/\nabc"), "{told}");
        let foreign = told.lines().filter(|line| {
            line.contains('=')
                && !["PATH=", "PWD=", "_=", "SHLVL=", "OLDPWD="].iter().any(|ours| line.contains(ours))
        });
        assert_eq!(foreign.count(), 0, "{told}");
    }

    #[test]
    fn one_runs_at_a_time_and_its_group_ends_with_it() {
        // The group has a member that would outlive its connection.
        let script = "echo $$; sleep 1000 & echo $!; read line";
        let (child, socket) = RunningCommand::start(&command(script)).unwrap();
        let mut socket = std::io::BufReader::new(UnixStream::from(socket));
        let mut processes = [String::new(), String::new()];
        for line in &mut processes {
            std::io::BufRead::read_line(&mut socket, line).unwrap();
        }
        drop(socket);
        drop(child);
        for process in processes {
            let status = std::fs::read_to_string(format!("/proc/{}/status", process.trim()));
            assert!(status.is_err(), "{process} is there");
        }
    }

    #[test]
    fn what_cannot_be_started_is_a_sentence_and_tried_again() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let missing = CommandToStart { user: None, words: vec!["/nonexistent/program".into()] };
        let thread = std::thread::spawn(move || run_command(&theirs, &missing));
        for id in [1_u64, 2] {
            packet::send(ours.as_fd(), &id.to_le_bytes(), None).unwrap();
            let (bytes, files) = packet::receive(ours.as_fd(), RecvFlags::empty()).unwrap();
            let Some(BrokerReply::Refused { id: of, why }) = BrokerReply::decode(&bytes) else { panic!() };
            assert!(of == id && why.contains("/nonexistent/program") && files.is_empty(), "{why}");
        }
        // What is no call ends it.
        packet::send(ours.as_fd(), b"x", None).unwrap();
        thread.join().unwrap();
    }
}
