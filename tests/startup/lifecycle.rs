//! Readiness, the banner, the pidfile, and the end.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::raw::{Connection, Mode, Request};
use crate::support::server::{Options, Server};

#[test]
fn the_pidfile_comes_last_and_goes_with_the_server() {
    let mut server = Options::new().export("mem:1M").tcp("127.0.0.1:0").start();
    // `start` waited for the pidfile: what is served must have been said before.
    let serving = server.log().iter().filter(|line| line["message"] == "serving").count();
    assert_eq!(serving, 2);
    assert_eq!(std::fs::read_to_string(server.pidfile()).unwrap(), format!("{}\n", server.pid()));
    server.stop();
}

#[test]
fn a_stale_pidfile_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let stale = directory.path().join("stale");
    std::fs::write(&stale, "4194304\n").unwrap();
    let script = "\"$0\" serve --shards 1 --unix s --pidfile stale mem:1M & wait";
    let mut child = Command::new("sh")
        .args(["-c", script, &crate::binary()])
        .current_dir(&directory)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    crate::support::wait_until("the pidfile", || {
        std::fs::read_to_string(&stale).is_ok_and(|text| text != "4194304\n")
    });
    let second =
        crate::serve(&["--unix", "other", "--pidfile", "stale"]).current_dir(&directory).output().unwrap();
    let stderr = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("belongs to a running server"), "{stderr}");
    let pid = std::fs::read_to_string(&stale).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn people_see_what_is_served_and_a_line_to_try() {
    let directory = tempfile::tempdir().unwrap();
    let mut child =
        crate::serve(&["--log-format", "human", "--tcp", "127.0.0.1:0", "--read-only", "disk=mem:1M"])
            .current_dir(&directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
    let lines: Vec<String> =
        BufReader::new(child.stdout.take().unwrap()).lines().take(3).map(Result::unwrap).collect();
    assert_eq!(lines[0], "disk: mem:1M, 1048576 bytes, read-only");
    let uri = lines[1].trim();
    assert!(uri.starts_with("'nbd://127.0.0.1:") && uri.ends_with("/disk'"), "{lines:?}");
    assert!(lines[2].contains(&format!("qemu-img info {uri}")), "{lines:?}");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn systemd_is_told_of_readiness_and_of_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let mut server = Options::new().export("mem:1M").env("NOTIFY_SOCKET", path.to_str().unwrap()).start();
    let heard = |want: &str| {
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).expect("a notification");
        assert_eq!(String::from_utf8_lossy(&bytes[..length]), want);
    };
    heard("READY=1");
    server.stop();
    heard("STOPPING=1");
}

#[test]
fn the_second_signal_leaves_no_files_either() {
    let mut server = Server::serve(&["fault:delay.read=20s:mem:1M"]);
    let mut client = Connection::attach(&server, "", Mode::Simple);
    let (slow, marker) = (Request::read(0, 512).cookie(1), Request::flush().cookie(2));
    client.send_request(&slow);
    client.send_request(&marker);
    assert_eq!(client.next_reply(&mut vec![slow, marker]).0.cookie, 2);
    server.signal(Signal::INT);
    crate::support::wait_until("the server to stop accepting", || !server.socket().exists());
    server.signal(Signal::INT);
    assert_eq!(server.wait().code(), Some(1), "what was in flight is lost");
    assert!(!server.pidfile().exists());
    client.drain_to_close("the second signal");
    server.crash(); // settles: its exit status was checked here
}

/// What a closed terminal, a shutdown of the machine or somebody's mistake sends.
#[test]
fn no_usual_signal_ends_it_without_cleaning_up() {
    let nothing = [Signal::USR1, Signal::USR2, Signal::ALARM, Signal::VTALARM, Signal::PROF, Signal::IO];
    let stop = [Signal::HUP, Signal::QUIT, Signal::XCPU, Signal::POWER];
    for last in stop {
        let mut options = Options::new().export("fault:delay.read=300ms:mem:1M");
        // The tests may run under nohup(1), whose children ignore a hang-up.
        options.wrapper = ["env", "--default-signal=HUP,QUIT"].map(str::to_owned).into();
        let mut server = options.start();
        let mut client = Connection::attach(&server, "", Mode::Simple);
        nothing.into_iter().chain([Signal::PIPE, Signal::XFSZ]).for_each(|signal| server.signal(signal));
        client.write(0, &[7; 512]);
        let (slow, marker) = (Request::read(0, 512).cookie(1), Request::flush().cookie(2));
        client.send_request(&slow);
        client.send_request(&marker);
        let mut in_flight = vec![slow, marker];
        assert_eq!(client.next_reply(&mut in_flight).0.cookie, 2);
        server.signal(last);
        let (_, reply) = client.next_reply(&mut in_flight);
        assert_eq!((reply.error, reply.data), (0, vec![7; 512]), "{last:?}: what had begun");
        client.expect_close("the server's shutdown");
        assert!(server.wait().success(), "{last:?}");
        server.stop();
    }
}

/// nohup(1) means it.
#[test]
fn a_hang_up_that_was_ignored_stays_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let script = "trap '' HUP; exec \"$0\" serve --shards 1 --unix s --pidfile p mem:1M";
    let mut child = Command::new("sh");
    child.args(["-c", script, &crate::binary()]).current_dir(&directory);
    let mut child = child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    crate::support::wait_until("the pidfile", || directory.path().join("p").exists());
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(directory.path().join("s")).unwrap();
    std::io::Read::read_exact(&mut stream, &mut [0; 18]).expect("a greeting");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_configuration_file_is_enough() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    std::fs::write(&path, "[[export]]\nname = \"a/b:c\"\nuri = \"mem:3M\"\ndescription = \"from a file\"\n")
        .unwrap();
    let server = Options::new().args(["--config", path.to_str().unwrap()]).start();
    let mut client = Connection::haggling(&server);
    client.go("a/b:c");
    assert_eq!(client.export.size, 3 << 20);
    client.expect_alive();
}

/// With 300 open files there may be 217 connections, and half as many handshakes at once: a connection that has negotiated is known to
/// its shard's ring only.
#[test]
fn connections_keep_no_files_open() {
    let mut server = Options::new().export("mem:1M").open_files_limit(300).start();
    let mut connections: Vec<_> =
        (0..200).map(|_| Connection::attach(&server, "", Mode::Structured)).collect();
    for connection in &mut connections {
        assert_eq!(connection.read(0, 512), [0; 512]);
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    assert!(open < 100, "{open} open files");
    drop(connections);
    server.stop();
}
