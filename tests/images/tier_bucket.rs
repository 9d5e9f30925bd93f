//! Snapshots that are pushed to a bucket, in a server of S3 from Python's registry.
//!
//! Oracle: the objects of the bucket, asked for by plain HTTP, beside the files of the store.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::Store;
use super::online::golden;
use crate::peers::{self, Daemon, Finished};
use crate::python;

/// The server looks whether there is a signature, and not whether it is right.
const HEADERS: &str = "Host: localhost\r\nContent-Length: 0\r\nConnection: close\r\nAuthorization: AWS4-HMAC-SHA256 \
                       Credential=name/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\n";

struct Bucket {
    _server: Daemon,
    port: u16,
}

impl Bucket {
    /// An empty one. `None` after a skip.
    fn start() -> Option<Self> {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut command = python::module("moto.server")?;
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let server = Daemon::start(command, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let bucket = Self { _server: server, port };
        assert!(bucket.ask("PUT", "").starts_with(b"HTTP/1.1 200"), "the bucket is made");
        Some(bucket)
    }

    /// The whole answer to a request.
    fn ask(&self, method: &str, key: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "{method} /bucket/{key} HTTP/1.1\r\n{HEADERS}\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    fn object(&self, key: &str) -> Vec<u8> {
        let answer = self.ask("GET", key);
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{key}: {}", String::from_utf8_lossy(&answer[..end]));
        answer[end + 4..].to_vec()
    }

    fn uri(&self) -> String {
        format!("s3://bucket/some/where?endpoint=http://127.0.0.1:{}&region=us-east-1", self.port)
    }
}

/// Runs a command that has credentials.
fn run(store: &Store, line: &str) -> Finished {
    let credentials = [("AWS_ACCESS_KEY_ID", "name"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    peers::run(store.command(line).envs(credentials))
}

fn refused(store: &Store, line: &str, words: &str) {
    let finished = run(store, line);
    assert!(!finished.status.success() && finished.stderr.contains(words), "{finished}");
}

#[test]
fn a_bucket_takes_pushes_of_one_writer() {
    let Some(bucket) = Bucket::start() else { return };
    let ((one, _), (other, _)) = (golden(), golden());
    for store in [&one, &other] {
        run(store, &format!("store tier STORE {}", bucket.uri())).ok();
        store.run("image checkpoint STORE/golden@v1").ok();
    }
    run(&one, "image push STORE/golden@v1").ok();
    let again: serde_json::Value =
        serde_json::from_str(&run(&one, "image push STORE/golden@v1 --json").ok()).unwrap();
    assert_eq!((&again["was_there"], &again["bytes_sent"]), (&true.into(), &0.into()));
    let uuid = one.json("store info STORE")["uuid"].as_str().unwrap().replace('-', "");
    let pack = std::fs::read(one.path().join("packs/1.pack")).unwrap();
    assert!(bucket.object(&format!("some/where/packs/{uuid}/1.pack")) == pack);

    refused(&other, "image push STORE/golden@v1", "belongs to the store");
    run(&other, "image own STORE/golden --force").ok();
    one.run("image checkpoint STORE/golden@v2").ok();
    refused(&one, "image push STORE/golden@v2", "belongs to the store");
    other.run("image rename STORE/golden@v1 STORE/golden@mine").ok();
    run(&other, "image push STORE/golden@mine").ok();
    run(&one, "store check STORE --tier").ok();
    // Nothing goes that a snapshot needs.
    run(&one, "store gc STORE --tier --grace 0s").ok();
    run(&one, "store gc STORE --tier --grace 0s").ok();
    assert!(bucket.object(&format!("some/where/packs/{uuid}/1.pack")) == pack);
}
