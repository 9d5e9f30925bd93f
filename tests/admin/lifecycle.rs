//! How the admin server starts, refuses to start, stops, and what it leaves behind.

use std::os::unix::net::UnixListener;
use std::process::Command;

use rustix::process::Signal;

use crate::http::Address;
use crate::support::raw::{Connection, Mode, Request};
use crate::support::server::{Options, Server};
use crate::support::wait_until;
use crate::{Subject, peers};

#[test]
fn there_is_none_by_default() {
    let server = Server::serve(&["mem:1M"]);
    assert!(server.log().iter().all(|line| line["message"] != "admin"), "{}", server.stderr());
}

#[test]
fn a_unix_socket_is_served_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin");
    // A stale one is replaced.
    drop(UnixListener::bind(&path).unwrap());
    let argument = format!("unix:{}", path.display());
    let mut server = Options::new().export("mem:1M").args(["--admin", &argument]).start();
    let admin = Address::of(&server);
    assert!(matches!(&admin, Address::Unix(at) if *at == path), "{admin:?}");
    assert_eq!(admin.get("/healthz").body, "ok\n");
    server.stop();
    assert!(!path.exists());
}

#[test]
fn an_address_that_cannot_be_had_is_refused_with_a_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let missing = "unix:/nonexistent/socket";
    for (arguments, word) in [
        (&["--admin", &taken][..], "--admin"),
        (&["--admin", missing], "--admin unix:PATH"),
        (&["--admin", "localhost"], "HOST:PORT"),
        (&["--latency-log", "/nonexistent/log"], "--latency-log"),
        (&["--no-histograms", "--slow", "1ms"], "--no-histograms"),
    ] {
        let binary =
            std::env::var("RINGNBD_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ringnbd").into());
        let mut command = Command::new(binary);
        command.args(["serve", "mem:1M", "--shards", "1", "--tcp", "127.0.0.1:0"]).args(arguments);
        let finished = peers::run(&mut command);
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(finished.stderr.contains(word), "{finished}");
    }
}

#[test]
fn a_server_that_stops_says_so_until_it_has_stopped() {
    let mut subject = Subject::serve(&["fault:delay.read=2s:mem:1M"]);
    let mut client = Connection::attach(&subject.server, "", Mode::Simple);
    let request = Request::read(0, 512);
    client.send_request(&request);
    wait_until("the read is in flight", || {
        subject.json("/api/v1/connections")["connections"][0]["in_flight"] == 1
    });
    subject.wait_until_healthy();
    subject.server.signal(Signal::TERM);
    wait_until("it says that it stops", || subject.admin.get("/healthz").status == 503);
    assert_eq!(subject.admin.get("/healthz").body, "stopping\n");
    assert!(subject.admin.get("/metrics").body.contains("ringnbd_up 1"));
    client.reply_to(&request);
    subject.server.stop();
}

#[test]
fn the_page_is_whole_and_of_one_piece() {
    let subject = Subject::serve(&["mem:1M"]);
    let answer = subject.admin.get("/");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert!(answer.body.trim_end().ends_with("</html>"));
}
