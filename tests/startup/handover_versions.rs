//! Two programs of different versions: what an old one has said goes on to mean the same, and what cannot be understood
//! changes nothing.
//!
//! Oracle: files of what was said (`states/`), which are never made anew, and a client that has sent the rest of its request.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::handover::{Line, OFFERED, ended, failed_handovers, message, read_up_to, upgraded};
use crate::support::raw::{Connection, Mode, Request};
use crate::support::{PATIENCE, wait_until};

/// The states that this program has to understand, each as lines of what is said and heard.
const STATES: [(&str, &str); 3] = [
    ("v1", include_str!("states/v1")),
    ("v2", include_str!("states/v2")),
    ("later", include_str!("states/later")),
];
/// Bytes of its request that each of the connections of a state has sent.
const SENT: [usize; 3] = [10, 27, 0];

/// What a line of a state says.
fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks_exact(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// Sends a message with a descriptor.
fn send_with(stream: &UnixStream, bytes: &[u8], file: BorrowedFd<'_>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let (mut ancillary, files) = (SendAncillaryBuffer::new(&mut space), [file]);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&files)));
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

/// Waits for a new program at the control socket of an old one, and leaves HTTP.
fn asked(control: &UnixListener) -> UnixStream {
    let (mut stream, _) = control.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let answer =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ringnbd-handover\r\n\r\n";
    stream.write_all(answer.as_bytes()).unwrap();
    stream
}

/// The program that takes over from a process of the test's own, which listens at `old`.
fn program(directory: &std::path::Path) -> Command {
    let path = |name: &str| directory.join(name).display().to_string();
    let mut command = Command::new(crate::binary());
    command.args(["serve", "--takeover", &format!("unix:{}", path("old")), "--unix", &path("nbd.sock")]);
    command.args([
        "--control",
        &format!("unix:{}", path("control")),
        "--pidfile",
        &path("pid"),
        "--shards",
        "1",
    ]);
    command.args(["--memory", "80M", "nothing=null:1M"]).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(std::fs::File::create(directory.join("log")).unwrap());
    command
}

#[test]
fn the_state_of_an_older_program_is_taken_over() {
    for (name, state) in STATES {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let log = || std::fs::read_to_string(path("log")).unwrap_or_default();
        let control = UnixListener::bind(path("old")).unwrap();
        let listener = UnixListener::bind(path("nbd.sock")).unwrap();
        let mut child = program(directory.path()).spawn().unwrap();
        let mut stream = asked(&control);
        let mut clients = Vec::new();
        for line in state.lines() {
            match line.split_once(' ').unwrap() {
                ("#", _) => {}
                ("hear", kind) => read_up_to(&mut stream, bytes(kind)[0]),
                ("say", hex) => {
                    let said = bytes(hex);
                    let (kind, files) = (said[4], said[5]);
                    if kind == 6 {
                        let (ours, theirs) = UnixStream::pair().unwrap();
                        clients.push(Connection::over_unix(ours));
                        send_with(&stream, &said, theirs.as_fd());
                    } else if files == 1 {
                        send_with(&stream, &said, listener.as_fd());
                    } else {
                        stream.write_all(&said).unwrap();
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        drop(listener);
        let request = Request::read(0, 4096).cookie(0x0bad_cafe_0000_0000);
        let whole = request.encode(Mode::Structured);
        for (client, sent) in clients.iter_mut().zip(SENT) {
            client.mode = Mode::Structured;
            client.export.size = 1 << 20;
            client.send(&whole[sent..]);
            assert_eq!(client.reply_to(&request).data, [0; 4096], "{name}: {}", log());
        }
        assert_eq!(clients.len(), SENT.len());
        // Those who come now are the new one's too, and the name of its socket is.
        super::handover::negotiated(
            Connection::over_unix(UnixStream::connect(path("nbd.sock")).unwrap()),
            "nothing",
        )
        .expect_alive();
        drop(clients);
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        assert!(ended(&mut child).success(), "{name}: {}", log());
        assert!(!path("nbd.sock").exists() && !path("pid").exists(), "{name}");
    }
}

/// WELCOME of a version that is none of those it was offered.
#[test]
fn the_state_of_a_newer_program_is_refused_in_a_sentence() {
    for version in [0_u16, 4, u16::MAX] {
        let directory = tempfile::tempdir().unwrap();
        let control = UnixListener::bind(directory.path().join("old")).unwrap();
        let mut child = program(directory.path()).spawn().unwrap();
        let mut stream = asked(&control);
        stream.write_all(&message(1, &[&version.to_le_bytes()[..], &[7, 0, 0, 0]].concat())).unwrap();
        // It says HELLO, and nothing after it that could make an old process give something up.
        let mut said = Vec::new();
        let _reset = stream.read_to_end(&mut said);
        assert_eq!(said.len(), 22, "{said:02x?}");
        assert_eq!(ended(&mut child).code(), Some(2));
        let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
        assert!(
            log.contains(&format!("versions {version} to {version} of a hand-over, and this one 1 to 3")),
            "{log}"
        );
        for left in ["nbd.sock", "control", "pid"] {
            assert!(!directory.path().join(left).exists(), "{left} is left");
        }
    }
}

#[test]
fn an_older_program_is_answered_in_its_version_and_an_unknown_one_is_refused() {
    let line = Line::start(&["nothing=null:1M"]);
    let mut client = line.over_unix("nothing");
    let hello = |oldest: u16, newest: u16| {
        let versions = [oldest.to_le_bytes(), newest.to_le_bytes()].concat();
        message(0, &[&b"ringnbdH"[..], &versions, &[0; 4]].concat())
    };
    for (number, (oldest, newest, chosen)) in
        [(1, 1, 1_u16), (1, 2, 2), (1, 99, 3), (2, 3, 3), (3, 4, 3)].into_iter().enumerate()
    {
        let mut stream = upgraded(&line);
        stream.write_all(&hello(oldest, newest)).unwrap();
        let mut welcome = [0; 12];
        stream.read_exact(&mut welcome).unwrap();
        assert_eq!((welcome[4], &welcome[6..8]), (1, &chosen.to_le_bytes()[..]));
        read_up_to(&mut stream, OFFERED);
        drop(stream);
        wait_until("the server to notice", || failed_handovers(&line) == number + 1);
    }
    for (oldest, newest) in [(4, 5), (0, 0), (u16::MAX, u16::MAX), (2, 1)] {
        let mut stream = upgraded(&line);
        stream.write_all(&hello(oldest, newest)).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        let said = String::from_utf8_lossy(&said);
        let sentence = format!("versions {oldest} to {newest} of a hand-over, and this one 1 to 3");
        assert!(said.contains(&sentence), "{said}");
        client.expect_alive();
    }
    line.stop();
}
