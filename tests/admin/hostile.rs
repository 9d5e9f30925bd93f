//! Clients that are no friends of the admin server: they cost it little, and the clients of the disks nothing.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::Subject;
use crate::http::Address;
use crate::support::raw::{Connection, Mode};

/// Connections that the admin server has room for.
const ROOM: usize = 32;

#[test]
fn requests_that_are_none_are_refused() {
    let subject = Subject::serve(&["mem:1M"]);
    let long = "x".repeat(64 << 10);
    let many: String = (0..1000).map(|index| format!("x-{index}: 1\r\n")).collect();
    for (what, request, status) in [
        ("garbage", "\u{1}\u{2}\u{3} hello\r\n\r\n".to_owned(), 400),
        ("another protocol", "NBDMAGIC\r\n\r\n".to_owned(), 400),
        ("a long path", format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), 414),
        ("a long field", format!("GET / HTTP/1.1\r\nHost: x\r\nx: {long}\r\n\r\n"), 431),
        ("many fields", format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"), 431),
        ("two lengths", "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(), 400),
    ] {
        let answer = subject.admin.raw(request.as_bytes());
        let refused = (400..500).contains(&answer.status);
        assert!(refused, "{what}: {}, about {status} was expected", answer.status);
    }
    subject.wait_until_healthy();
}

#[test]
fn paths_lead_nowhere_else() {
    let subject = Subject::serve(&["mem:1M"]);
    for path in [
        "/nope",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/metrics/",
        "/metrics/..",
        "/api/v1/",
        "/api/v1/exports/../connections",
        "/\\..\\",
    ] {
        let answer = subject.admin.get(path);
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
        assert!(!answer.body.contains("root:"), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        assert_eq!(subject.admin.ask(method, "/metrics", "").status, 405, "{method}");
    }
    let head = subject.admin.ask("HEAD", "/metrics", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[test]
fn the_pages_of_strangers_may_not_read_it() {
    let subject = Subject::serve(&["mem:1M"]);
    let answer = subject.admin.ask("GET", "/api/v1/exports", "Origin: http://example.org\r\n");
    assert_eq!(answer.header("access-control-allow-origin"), "");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert!(answer.header("content-security-policy").contains("default-src 'none'"), "{}", answer.head);
}

/// A name of a stranger that leads to the loopback address, for a page of his in a browser of this machine.
#[test]
fn names_of_strangers_lead_nowhere() {
    let subject = Subject::serve(&["mem:1M"]);
    for path in ["/", "/metrics", "/healthz", "/api/v1/connections"] {
        let request =
            |host: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        for host in ["rebind.example.org", "rebind.example.org:9800", "10.1.2.3"] {
            assert_eq!(subject.admin.raw(request(host).as_bytes()).status, 421, "{host}");
        }
        for host in ["localhost:9800", "127.0.0.1"] {
            assert_eq!(subject.admin.raw(request(host).as_bytes()).status, 200, "{host}");
        }
    }
}

#[test]
fn clients_that_dawdle_take_a_place_for_a_while_and_no_more() {
    let subject = Subject::serve(&["mem:1M"]);
    let mut dawdlers: Vec<_> = (0..ROOM).map(|_| subject.admin.connect()).collect();
    for (index, dawdler) in dawdlers.iter_mut().enumerate() {
        // Half of them begin a request that they never finish.
        if index % 2 == 0 {
            dawdler.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nx-slow: ").unwrap();
        }
    }
    // Disks are served as ever.
    let mut client = Connection::attach(&subject.server, "", Mode::Simple);
    client.write(0, &[1; 4096]);
    assert_eq!(client.read(0, 4096), [1; 4096]);
    // This one waits until the first of them was thrown out.
    subject.wait_until_healthy();
    let mut rest = Vec::new();
    for dawdler in &mut dawdlers {
        // Reads the end of the connection, or its reset; a deadline would be a panic in the support code's words.
        if let Err(error) = dawdler.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
    }
    client.expect_alive();
}

#[test]
fn a_client_that_pipelines_and_reads_nothing_costs_a_bounded_amount() {
    let subject = Subject::serve(&["mem:1M"]);
    let Address::Tcp(address) = subject.admin else { panic!("{:?}", subject.admin) };
    let mut greedy = TcpStream::connect(address).unwrap();
    greedy.set_nonblocking(true).unwrap();
    let before = subject.server.resident();
    let requests = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000);
    let mut sent = 0;
    for _ in 0..20 {
        // The socket is the backpressure: at some point nothing more is taken.
        while let Ok(taken) = greedy.write(&requests) {
            sent += taken;
            assert!(sent < 256 << 20, "it takes everything");
        }
        subject.wait_until_healthy();
    }
    let grown = subject.server.resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
}
