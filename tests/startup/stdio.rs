//! `--stdio`: one client on fd 0.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::support::raw::{Connection, Request};
use crate::support::wire::*;

fn stdio() -> Command {
    let mut command = Command::new(crate::binary());
    command
        .args(["serve", "--stdio", "--shards", "1", "--log-format", "json", "mem:1M"])
        .env_remove("RUST_LOG");
    command
}

#[test]
fn one_client_is_served_to_its_end() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = stdio();
    let child =
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn().unwrap();
    drop(command); // and with it its copy of the client's socket
    let mut client = Connection::over_unix(ours);
    client.greet(MODERN);
    client.go("");
    client.write(4096, &[7; 4096]);
    assert_eq!(client.read(4096, 4096), [7; 4096]);
    client.send_request(&Request::disconnect());
    client.expect_close("DISC");
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(output.stdout, b"");
    assert!(stderr.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{stderr}");
}

#[test]
fn a_client_that_never_negotiates_ends_it_too() {
    for flags in [None, Some(0xffff_ffff_u32)] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut child =
            stdio().stdin(Stdio::from(OwnedFd::from(theirs))).stderr(Stdio::null()).spawn().unwrap();
        let mut client = Connection::over_unix(ours);
        client.read_greeting();
        if let Some(flags) = flags {
            client.send(&flags.to_be_bytes());
        }
        drop(client);
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn nothing_but_the_protocol_reaches_the_client() {
    // inetd makes all three standard streams the client's socket.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let stream = || Stdio::from(OwnedFd::from(theirs.try_clone().unwrap()));
    let mut command = stdio();
    let child = command.args(["--verbose"]).stdin(stream()).stdout(stream()).stderr(stream());
    let mut child = child.spawn().unwrap();
    drop((command, theirs));
    let mut client = Connection::over_unix(ours);
    client.greet(MODERN);
    client.expect_only(NBD_OPT_ABORT, b"", NBD_REP_ACK);
    client.expect_close("ABORT");
    assert!(child.wait().unwrap().success());
}

#[test]
fn without_a_client_there_is_nothing_to_serve() {
    let output = stdio().stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let line: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(line["message"].as_str().unwrap().contains("--unix or --tcp"));
}
