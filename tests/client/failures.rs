//! What a client says, and how it exits, when there is no server, a wrong one, or one that breaks.

use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringnbd::internal::client::{self, Client, ClientError, Timeouts};

use super::fake::{self, Act, Hear, Say, Wait};
use super::ringnbd;
use crate::peers::{self, Daemon, Finished};

/// One sentence on stderr that has `part`, nothing on stdout, and that exit code.
#[track_caller]
fn assert_fails(finished: &Finished, code: i32, part: &str) {
    assert_eq!(finished.status.code(), Some(code), "{finished}");
    assert!(finished.stderr.contains(part), "no {part:?}: {finished}");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
}

#[test]
fn nobody_listens() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for command in ["info", "list", "map"] {
        let finished = ringnbd(&[command, &format!("nbd://127.0.0.1:{port}")]);
        assert_fails(&finished, 2, &format!("cannot connect to 127.0.0.1:{port}: connection refused"));
        assert_fails(&ringnbd(&[command, "nbd+unix:///?socket=/nowhere/s"]), 2, "no such file");
    }
}

#[test]
fn a_bad_uri_is_a_usage_error() {
    for (uri, part) in [("nbd://h/x?tls-hostname=h", "write nbds://"), ("disk.img", "write nbd://")] {
        let finished = ringnbd(&["info", uri]);
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(finished.stderr.contains(part), "{finished}");
    }
    let context = ringnbd(&["map", "--context", "nonsense", "nbd://h/x"]);
    assert_eq!(context.status.code(), Some(2), "{context}");
    assert!(context.stderr.contains("NAMESPACE:NAME"), "{context}");
}

#[test]
fn a_server_of_something_else() {
    for host in ["127.0.0.1", "::1"] {
        let (address, _) = fake::on_tcp(host, vec![Say(b"SSH-2.0-OpenSSH_9.9 Debian\r\n".to_vec()), Wait]);
        assert_fails(
            &ringnbd(&["info", &format!("nbd://{address}/x")]),
            2,
            "this is not an NBD server: it greets with \"SSH-2.0-\"",
        );
    }
    let (address, _) = fake::on_tcp("127.0.0.1", vec![]);
    assert_fails(
        &ringnbd(&["list", &format!("nbd://{address}/x")]),
        2,
        "closed the connection before it greeted",
    );
}

#[test]
fn an_abstract_socket_is_reached() {
    let name = format!("ringnbd-client-{}", std::process::id());
    let heard = fake::on_abstract(
        &name,
        vec![Say(fake::greeting()), Hear(20), Say(fake::reply(11, 0x8000_0007, b"bye")), Wait],
    );
    let finished = ringnbd(&["info", &format!("nbd+unix:///?socket=%00{name}")]);
    assert_fails(&finished, 2, "the server is shutting down (\"bye\")");
    let heard = heard.recv().unwrap();
    assert!(heard.ends_with(b"IHAVEOPT\0\0\0\x02\0\0\0\0"), "ERR_SHUTDOWN is answered with ABORT: {heard:?}");
}

#[test]
fn an_oldstyle_server() {
    let Some(mut command) = peers::command("nbdkit") else { return };
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    command.args(["--foreground", "--oldstyle", "--unix"]).arg(&socket).args(["null", "1M"]);
    let _server = Daemon::start(command, || UnixStream::connect(&socket).is_ok());
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    assert_fails(&ringnbd(&["info", &uri]), 2, "oldstyle NBD handshake");
}

#[test]
fn a_server_that_requires_tls() {
    let Some(mut command) = peers::command("nbdkit") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (socket, keys) = (dir.path().join("s"), dir.path().join("keys"));
    std::fs::write(&keys, "alice:0123456789abcdef0123456789abcdef\n").unwrap();
    command.args(["--foreground", "--tls=require"]).arg(format!("--tls-psk={}", keys.display()));
    command.arg("--unix").arg(&socket).args(["null", "1M"]);
    let _server = Daemon::start(command, || UnixStream::connect(&socket).is_ok());
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    for command in ["info", "list", "map"] {
        assert_fails(&ringnbd(&[command, &uri]), 2, "requires TLS");
    }
}

#[test]
fn a_silent_server_is_given_up() {
    let hurry = Timeouts { handshake: Duration::from_millis(200), ..Timeouts::default() };
    let (address, _) = fake::on_tcp("127.0.0.1", vec![Wait]);
    let uri = format!("nbd://{address}").parse().unwrap();
    let error = client::info(&uri, hurry).unwrap_err();
    assert!(matches!(error, ClientError::Timeout(_)), "{error}");
    assert_eq!(error.to_string(), "the server did not answer within 200ms");

    let mut script = fake::into_transmission();
    script.push(Wait);
    let (address, _) = fake::on_tcp("127.0.0.1", script);
    let hurry = Timeouts { silence: Duration::from_millis(200), ..Timeouts::default() };
    let uri = format!("nbd://{address}").parse().unwrap();
    let mut connection = Client::open(&uri, &["base:allocation".into()], hurry).unwrap();
    let error = connection.read_at(0, &mut [0; 512]).unwrap_err();
    assert!(matches!(error, ClientError::Timeout(_)), "{error}");
    let after = connection.read_at(0, &mut [0; 512]).unwrap_err();
    assert!(matches!(after, ClientError::Closed), "a late reply must not answer the next request: {after}");
}

/// The answer to the one BLOCK_STATUS of a map of 1 MiB: structured chunk, cookie 1.
fn map_of(flags: u16, kind: u16, payload: &[u8]) -> Finished {
    let header = [
        &0x668e_33efu32.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &1u64.to_be_bytes(),
        &(payload.len() as u32).to_be_bytes(),
    ];
    let mut script: Vec<Act> = fake::into_transmission();
    script.extend([Hear(28), Say([&header.concat(), payload].concat())]);
    let (address, _) = fake::on_tcp("127.0.0.1", script);
    ringnbd(&["map", &format!("nbd://{address}")])
}

#[test]
fn failures_after_the_handshake_exit_with_1() {
    let error = [&5u32.to_be_bytes()[..], &[0, 9], b"lost\x1bdisk"].concat();
    let failed = map_of(1, 0x8001, &error);
    assert_fails(
        &failed,
        1,
        "answered NBD_CMD_BLOCK_STATUS at 0 with \"input/output error\" (lost\\u{1b}disk)",
    );
    assert_fails(&map_of(1, 5, &[0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0]), 1, "a context that was not selected");
    assert_fails(&map_of(0, 5, &[0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0]), 1, "the server closed the connection");
}

#[test]
fn a_partial_status_is_asked_on() {
    // 512 bytes, then the rest and more than the export has: cookie 2 of the second request is answered in turn.
    let chunk = |cookie: u64, length: u32, status: u32| {
        let numbers = [&1u32.to_be_bytes()[..], &length.to_be_bytes(), &status.to_be_bytes()].concat();
        [&0x668e_33efu32.to_be_bytes()[..], &[0, 1, 0, 5], &cookie.to_be_bytes(), &[0, 0, 0, 12], &numbers]
            .concat()
    };
    let mut script = fake::into_transmission();
    // Unknown bits of base:allocation are ignored, so both are holes.
    script.extend([Hear(28), Say(chunk(1, 512, 3)), Hear(28), Say(chunk(2, 1 << 30, 0xf3)), Wait]);
    let (address, heard) = fake::on_tcp("127.0.0.1", script);
    let table = ringnbd(&["map", &format!("nbd://{address}")]).ok();
    assert!(table.contains("0  1048576  hole,zero"), "{table}");
    assert_eq!(table.lines().count(), 4, "{table}");
    let heard = heard.recv().unwrap();
    let second = &heard[heard.len() - 56..heard.len() - 28];
    assert_eq!(second[16..], [&512u64.to_be_bytes()[..], &((1u32 << 20) - 512).to_be_bytes()].concat());
    assert_eq!(heard[heard.len() - 28..][..8], [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 2], "it says goodbye");
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let mut script = fake::into_transmission();
    let payload = [&1u32.to_be_bytes()[..], &(1u32 << 20).to_be_bytes(), &[0; 4]].concat();
    let header =
        [&0x668e_33efu32.to_be_bytes()[..], &[0, 1, 0, 5], &1u64.to_be_bytes(), &[0, 0, 0, 12]].concat();
    script.extend([Hear(28), Say([header, payload].concat()), Wait]);
    let (address, _) = fake::on_tcp("127.0.0.1", script);
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringnbd"))
        .args(["map", &format!("nbd://{address}")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
