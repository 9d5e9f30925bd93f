//! Tiers in the object stores of Azure and Google.
//!
//! Azurite, from Node's registry, speaks Azure's protocol. Of Google's no server that can be had here has conditional writes, so that one is the
//! test's own, as the documentation of Google's XML API describes it.
//! Oracle: what other stores read, beside the bytes that the first one wrote.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use super::Store;
use super::google::FakeGoogle;
use super::online::{client, golden, online_in, read};
use crate::peers::{self, Daemon, Finished};
use crate::support::image::pattern;

/// The account that Azurite has, and its key, which everybody knows.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// More than two parts of an upload.
const LARGE: usize = 20 << 20;

/// An account of Google whose requests are not signed.
const NO_KEY: &str =
    r#"{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}"#;

/// Makes the container `tier`, by a request that is signed here.
const MAKE_CONTAINER: &str = r#"
import base64, email.utils, hashlib, hmac, http.client, sys
port, account, key = int(sys.argv[1]), sys.argv[2], sys.argv[3]
headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
canonical = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
signed = "PUT" + "\n" * 12 + canonical + f"/{account}/{account}/tier\nrestype:container"
digest = hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()
headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(digest).decode()}"
connection = http.client.HTTPConnection("127.0.0.1", port)
connection.putrequest("PUT", f"/{account}/tier?restype=container", skip_accept_encoding=True)
for name, value in headers.items():
    connection.putheader(name, value)
connection.putheader("Content-Length", "0")
connection.endheaders()
answer = connection.getresponse()
assert answer.status == 201, (answer.status, answer.read())
"#;

struct Azurite {
    _server: Daemon,
    port: u16,
    _scratch: tempfile::TempDir,
}

impl Azurite {
    /// With an empty container. `None` after a skip.
    fn start() -> Option<Self> {
        let asked = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/azurite")).arg("path").output();
        let program = String::from_utf8(asked.unwrap().stdout).unwrap();
        if !Path::new(program.trim()).exists() {
            peers::skip("Azurite", "run tests/azurite install");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let scratch = tempfile::tempdir().unwrap();
        let mut command = Command::new("node");
        command.arg(program.trim()).args(["--inMemoryPersistence", "--skipApiVersionCheck", "--silent"]);
        command.args(["--disableTelemetry", "--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
        command.current_dir(scratch.path());
        let server = Daemon::start(command, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let mut make = Command::new("python3");
        peers::run(make.args(["-c", MAKE_CONTAINER, &port.to_string(), ACCOUNT, KEY])).ok();
        Some(Self { _server: server, port, _scratch: scratch })
    }
}

/// Where a tier is, and what its clients have in their environment.
struct Service<'a> {
    base: &'a str,
    parameters: String,
    environment: &'a [(&'a str, &'a str)],
}

impl Service<'_> {
    fn uri(&self, below: &str) -> String {
        format!("{}{below}?{}", self.base, self.parameters)
    }

    fn run(&self, store: &Store, line: &str) -> Finished {
        peers::run(store.command(line).envs(self.environment.iter().copied()))
    }

    fn refused(&self, store: &Store, line: &str, words: &str) {
        let finished = self.run(store, line);
        assert!(!finished.status.success() && finished.stderr.contains(words), "{words}: {finished}");
    }

    /// A pack comes in several parts, and is read elsewhere.
    fn takes_parts(&self) {
        let (one, other) = (Store::init(), Store::init());
        let large = pattern(11, 0, LARGE);
        std::fs::write(one.directory().join("large.raw"), &large).unwrap();
        one.run("image create STORE/large --from DIR/large.raw").ok();
        one.run("image checkpoint STORE/large@v1").ok();
        self.run(&one, &format!("store tier STORE {}", self.uri(""))).ok();
        self.run(&one, "image push STORE/large@v1").ok();
        self.run(&other, &format!("image clone {} STORE/x", self.uri("/large@v1"))).ok();
        self.run(&other, "image export STORE/x DIR/out.raw").ok();
        assert!(std::fs::read(other.directory().join("out.raw")).unwrap() == large);
        self.run(&one, "store check STORE --tier").ok();
    }

    /// Two stores push, one name has one writer, a confined server reads, and what is removed goes.
    fn is_a_tier(&self) {
        let ((one, golden), (other, _)) = (golden(), golden());
        for store in [&one, &other] {
            self.run(store, &format!("store tier STORE {}", self.uri(""))).ok();
            store.run("image checkpoint STORE/golden@v1").ok();
        }
        self.run(&one, "image push STORE/golden@v1").ok();
        assert!(self.run(&one, "image push STORE/golden@v1").ok().contains("already"));
        self.refused(&other, "image push STORE/golden@v1", "belongs to the store");
        self.run(&other, "image own STORE/golden --force").ok();
        one.run("image checkpoint STORE/golden@v2").ok();
        self.refused(&one, "image push STORE/golden@v2", "belongs to the store");
        self.run(&one, "image own STORE/golden --force").ok();

        let third = Store::init();
        self.run(&third, &format!("image clone {} STORE/vm9", self.uri("/golden@v1"))).ok();
        self.refused(
            &third,
            &format!("image clone {} STORE/vm8", self.uri("/golden@v7")),
            "no snapshot \"v7\"",
        );
        let online = online_in(&third, "", self.environment);
        assert!(read(&online.server, "vm9") == golden);
        let new = pattern(9, 0, 300_000);
        client(&online.server, "vm9").write_at(1 << 20, &new).unwrap();
        drop(online);
        self.run(&third, &format!("store tier STORE {}", self.uri(""))).ok();
        self.run(&third, "image checkpoint STORE/vm9@mine").ok();
        self.run(&third, "image push STORE/vm9@mine").ok();
        assert!(self.run(&one, "store check STORE --tier").ok().starts_with("2 images, 2 snapshots"));

        self.refused(&one, "image rm STORE/golden@v1 --tier", "was cloned");
        self.run(&one, "image rm STORE/golden@v1 --tier --force").ok();
        (0..3).for_each(|_| drop(self.run(&one, "store gc STORE --tier --grace 0s").ok()));
        let fourth = Store::init();
        self.refused(
            &fourth,
            &format!("image clone {} STORE/x", self.uri("/golden@v1")),
            "no snapshot \"v1\"",
        );
        self.run(&fourth, &format!("image clone {} STORE/x", self.uri("/vm9@mine"))).ok();
        self.run(&fourth, "image export STORE/x DIR/out.raw").ok();
        let mut expected = golden;
        expected[1 << 20..(1 << 20) + new.len()].copy_from_slice(&new);
        assert!(std::fs::read(fourth.directory().join("out.raw")).unwrap() == expected);
    }
}

#[test]
fn a_container_of_azure_is_a_tier() {
    let Some(azurite) = Azurite::start() else { return };
    let service = Service {
        base: "az://tier/some/where",
        parameters: format!("account={ACCOUNT}&endpoint=http://127.0.0.1:{}/{ACCOUNT}", azurite.port),
        environment: &[("AZURE_STORAGE_ACCOUNT_KEY", KEY)],
    };
    service.is_a_tier();
    service.takes_parts();
}

#[test]
fn a_bucket_of_google_is_a_tier() {
    let google = FakeGoogle::start();
    let service = Service {
        base: "gs://tier/some/where",
        parameters: format!("endpoint=http://127.0.0.1:{}", google.port()),
        environment: &[("GOOGLE_SERVICE_ACCOUNT_KEY", NO_KEY)],
    };
    service.is_a_tier();
    assert!(google.conditions() > 3, "writes have conditions");
    assert_eq!(google.wholes(), 0, "what is small comes at once");
    service.takes_parts();
    assert_eq!(google.wholes(), 1);
}
