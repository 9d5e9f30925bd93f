//! A shard that panics: what it takes with it, and what goes on.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::support::raw::{Connection, Mode, Request};
use crate::support::server::{Options, Server};
use crate::support::wait_until;

/// The body of an answer of the admin server.
fn ask(server: &Server, path: &str) -> String {
    let mut stream = UnixStream::connect(server.dir().join("admin")).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_shard_that_panics_takes_its_own_connections_with_it_and_no_others() {
    let mut server = Options::new()
        .shards(2)
        .memory("160M")
        .export("bad=fault:panic=1,range=0+512:mem:1M")
        .export("good=mem:1M")
        .start();
    // Each shard gets as many as the other.
    let mut good: Vec<_> = (0..4).map(|_| Connection::attach(&server, "good", Mode::Simple)).collect();
    let mut bad = Connection::attach(&server, "bad", Mode::Simple);
    bad.send_request(&Request::read(0, 512).cookie(1));
    assert!(bad.drain_to_close("the shard's panic").is_empty());
    let ended = |client: &mut Connection| {
        client.try_send(&Request::flush().encode(Mode::Simple)).is_err() || client.closes_before_a_byte()
    };
    let left = good.iter_mut().map(|client| !ended(client)).filter(|lives| *lives).count();
    assert_eq!(left, 2, "those of the other shard");
    for export in ["good", "bad"] {
        for _ in 0..3 {
            let mut client = Connection::attach(&server, export, Mode::Structured);
            client.write(4096, &[1; 4096]);
            assert_eq!(client.read(4096, 4096), [1; 4096], "{export}");
        }
    }
    wait_until("a log line", || server.complaints().iter().any(|line| line.contains("a shard failed")));
    let panics = server.complaints().iter().filter(|line| line.contains("panicked at src/")).count();
    assert_eq!(panics, 1, "where it was");
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait().code(), Some(1), "a shard had failed");
    assert!(!server.socket().exists() && !server.pidfile().exists());
    server.crash(); // settles: its exit status was checked here
}

#[test]
fn the_admin_server_tells_of_a_shard_that_failed() {
    let directory = tempfile::tempdir().unwrap();
    let admin = directory.path().join("admin");
    let mut server = Options::new()
        .shards(2)
        .memory("160M")
        .export("fault:panic=1:mem:1M")
        .args(["--admin", &format!("unix:{}", admin.display())])
        .start();
    std::os::unix::fs::symlink(&admin, server.dir().join("admin")).unwrap();
    assert!(ask(&server, "/healthz").ends_with("ok\n"));
    let mut client = Connection::attach(&server, "", Mode::Simple);
    client.send_request(&Request::read(0, 512).cookie(1));
    client.drain_to_close("the shard's panic");
    wait_until("the failure to be known", || ask(&server, "/healthz").contains(" has failed"));
    assert!(ask(&server, "/healthz").starts_with("HTTP/1.1 503"));
    assert!(ask(&server, "/metrics").contains("\nringnbd_shards_failed 1\n"));
    assert!(ask(&server, "/api/v1/server").contains("\"failed\":true"));
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait().code(), Some(1));
    server.crash(); // settles
}

#[test]
fn without_a_shard_there_is_no_server() {
    let mut server = Options::new().shards(1).export("fault:panic=1:mem:1M").start();
    let mut client = Connection::attach(&server, "", Mode::Simple);
    client.send_request(&Request::flush().cookie(1));
    client.drain_to_close("the shard's panic");
    assert_eq!(server.wait().code(), Some(1), "it ends by itself");
    assert!(!server.socket().exists() && !server.pidfile().exists());
    server.crash(); // settles
}
