//! The log: whoever reads it may be stuck, and the server must not be.

use std::io::{BufRead, BufReader, PipeReader, Read};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::wait_until;

/// A server whose standard streams are pipes that nobody reads, and its directory.
struct Unread {
    child: Child,
    stderr: PipeReader,
    directory: tempfile::TempDir,
}

fn unread(arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> Unread {
    let directory = tempfile::tempdir().unwrap();
    let (stderr, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(crate::binary());
    command.args(["serve", "--shards", "1", "--unix", "s", "--pidfile", "pid"]).args(arguments);
    command.current_dir(&directory).env_remove("RUST_LOG").stdin(Stdio::null());
    prepare(command.stderr(writer).stdout(Stdio::piped()));
    let child = command.spawn().unwrap();
    drop(command);
    let unread = Unread { child, stderr, directory };
    wait_until("the pidfile", || unread.directory.path().join("pid").exists());
    unread
}

impl Unread {
    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.directory.path().join("s")).unwrap()
    }

    fn end(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let mut status = None;
        wait_until("the end of the server", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{status:?}");
        assert!(!self.directory.path().join("s").exists() && !self.directory.path().join("pid").exists());
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Chooses the default export and sends a request that violates the protocol: the control plane and a shard log it.
fn violate(server: &Unread) {
    use std::io::Write;
    let mut stream = server.connect();
    stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).expect("a greeting, though nobody reads the log");
    // NBD_FLAG_C_FIXED_NEWSTYLE and NO_ZEROES, NBD_OPT_EXPORT_NAME of the empty name.
    stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0").unwrap();
    let mut export = [0; 10];
    stream.read_exact(&mut export).expect("the export, though nobody reads the log");
    stream.write_all(&[0xff; 28]).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "the shard disconnects");
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let mut server = unread(&["--verbose", "--log-format", "json", "mem:1M"], |_| {});
    // Some 600 bytes each: far more than the pipe and the server's own buffer hold.
    (0..1500).for_each(|_| violate(&server));
    server.end();
}

#[test]
fn what_was_dropped_is_told_when_somebody_reads_again() {
    let mut server = unread(&["--verbose", "--log-format", "json", "mem:1M"], |_| {});
    (0..1500).for_each(|_| violate(&server));
    let mut lines = BufReader::new(server.stderr.try_clone().unwrap()).lines().map(Result::unwrap);
    let told =
        lines.by_ref().find(|line| line.contains("log lines were dropped")).expect("a line that tells");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(told["lines"].as_u64().unwrap() > 0, "{told}");
    violate(&server);
    assert!(lines.any(|line| line.contains("protocol violation")), "the log goes on");
    server.end();
}

#[test]
fn people_who_read_nothing_stop_nothing_either() {
    // More of a banner than a pipe holds.
    let exports: Vec<String> = (0..800).map(|index| format!("{index:0>80}=null:1M")).collect();
    let mut arguments = vec!["--log-format", "human"];
    arguments.extend(exports.iter().map(String::as_str));
    let mut server = unread(&arguments, |_| {});
    assert_eq!(server.connect().read(&mut [0; 18]).unwrap(), 18);
    server.end();
}

#[test]
fn the_last_lines_come_out() {
    let mut server = unread(&["--log-format", "json", "mem:1M"], |_| {});
    server.end();
    let mut text = String::new();
    server.stderr.read_to_string(&mut text).unwrap();
    assert!(text.lines().last().unwrap().contains("\"stopping\""), "{text}");
}

/// A connection's beginning and its end have one number; the end tells why, and what was done.
#[test]
fn connections_tell_of_their_beginning_and_their_end() {
    use crate::support::raw::{Connection, Mode, Request};
    let server = crate::support::server::Server::serve(&["mem:1M"]);
    let attach = || Connection::attach(&server, "", Mode::Simple);
    let mut client = attach();
    client.write(0, &[1; 4096]);
    client.write(4096, &[1; 4096]);
    client.read(0, 512);
    client.disconnect();
    drop(attach());
    let mut client = attach();
    client.send(&Request::write(0, vec![1; 4096]).encode(Mode::Simple)[..100]);
    client.end_of_requests();
    client.drain_to_close("the end within a request");
    let mut client = attach();
    client.send(&[0xff; 28]);
    client.drain_to_close("a violation");
    let expected = [
        ("the client disconnected", [3, 512, 8192]),
        ("the client closed it", [0; 3]),
        ("the client closed it within a request", [0; 3]),
        ("protocol violation", [0; 3]),
    ];
    let lines = |message: &str| {
        let mut lines = server.log();
        lines.retain(|line| line["message"] == message);
        lines
    };
    wait_until("the end of all", || lines("connection closed").len() == expected.len());
    let (began, ended) = (lines("negotiated"), lines("connection closed"));
    for (begin, (reason, totals)) in began.iter().zip(expected) {
        let number = begin["connection"].as_u64().expect("a number");
        let end = ended.iter().find(|end| end["connection"] == number).expect("its end");
        assert_eq!((&end["level"], &end["reason"]), (&"INFO".into(), &reason.into()));
        let told =
            ["requests", "read_bytes", "written_bytes"].map(|name| end[name].as_u64().expect("a number"));
        assert_eq!(told, totals, "{end}");
        assert!(end["seconds"].as_f64().is_some());
    }
}

#[test]
fn the_journal_gets_priorities_and_neither_times_nor_colours() {
    let serve = |stream: &str| {
        let mut server = unread(&["mem:1M", "--verbose"], |command| {
            command.env("JOURNAL_STREAM", stream);
        });
        server.end();
        let mut text = String::new();
        server.stderr.read_to_string(&mut text).unwrap();
        text
    };
    // The streams of whoever started us, and not ours.
    assert!(serve("8:12345").starts_with('{'));
    let directory = tempfile::tempdir().unwrap();
    let script = "JOURNAL_STREAM=$(stat -L -c %d:%i /dev/fd/2) exec \"$0\" serve --shards 1 --unix s --pidfile p mem:1M";
    let file = std::fs::File::create(directory.path().join("log")).unwrap();
    let mut child = Command::new("sh");
    child.args(["-c", script, &crate::binary()]).current_dir(&directory).env_remove("RUST_LOG");
    let mut child = child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().unwrap();
    wait_until("the pidfile", || directory.path().join("p").exists());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    let text = std::fs::read_to_string(directory.path().join("log")).unwrap();
    assert!(text.lines().all(|line| line.starts_with("<6>") || line.starts_with("<4>")), "{text}");
    assert!(text.contains("<6>stopping signal=\"SIGTERM\""), "{text}");
}
