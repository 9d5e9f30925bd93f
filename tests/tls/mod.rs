//! The server over TLS with the clients of others: QEMU and libnbd, which both have it from GnuTLS. What they write is compared behind
//! the server's back.

mod init;
mod older;
mod others;
mod records;
mod relay;
mod renewal;
mod rights;
mod statements;

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::http::Address;
use crate::peers::{self, run};
use crate::support::image::{Image, pattern};
use crate::support::raw::{Connection, Mode};
use crate::support::server::{Options, Server};
use crate::support::tls::{KEYS, write_files};
use crate::support::wait_until;

const SIZE: u64 = 24 << 20;
/// A renewal after so many records of ours: a few in each test. GnuTLS ends a connection that gets more than eight in a second.
const RENEWAL: u64 = 250;

/// A disk behind TLS.
struct Served {
    image: Image,
    server: Server,
    files: TempDir,
    admin: PathBuf,
    /// Lines of the log that were looked at.
    seen: std::cell::Cell<usize>,
}

impl Served {
    fn start() -> Self {
        Self::with("mode = \"required\"", "")
    }

    /// With more lines of `[tls]`, and more of the configuration.
    fn with(tls: &str, more: &str) -> Self {
        Self::renewing(RENEWAL, tls, more)
    }

    /// With renewals of keys after so many records of ours.
    fn renewing(renewal: u64, tls: &str, more: &str) -> Self {
        let files = crate::support::image::disk_dir();
        write_files(files.path());
        let image = Image::random(SIZE, 1);
        let configuration = files.path().join("config.toml");
        let text = format!(
            "[tls]\ndirectory = \".\"\nrenew-after = {renewal}\n{tls}\n[[export]]\nuri = \"file:{}\"\n{more}",
            image.path.display()
        );
        std::fs::write(&configuration, text).unwrap();
        let admin = files.path().join("admin.sock");
        let arguments = [
            "--config".to_owned(),
            configuration.display().to_string(),
            "--admin".to_owned(),
            format!("unix:{}", admin.display()),
        ];
        let mut options = Options::new().tcp("127.0.0.1:0").args(arguments);
        // The tests may run under nohup(1), whose children ignore a hang-up.
        options.wrapper = ["env", "--default-signal=HUP"].map(str::to_owned).into();
        let server = options.start();
        Self { image, server, files, admin, seen: std::cell::Cell::new(0) }
    }

    fn port(&self) -> u16 {
        let log = self.server.log();
        let mut uris = log.iter().filter_map(|line| line.get("uri").and_then(Value::as_str));
        let uri = uris.find_map(|uri| uri.split_once("://127.0.0.1:")).expect("a URI of TCP");
        uri.1.split('/').next().unwrap().parse().expect("a port")
    }

    /// A number of the metrics.
    fn metric(&self, name: &str) -> u64 {
        let text = Address::Unix(self.admin.clone()).get("/metrics").body;
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.trim().parse().expect("a number")
    }

    /// What libnbd calls this disk.
    fn uris(&self, with_key: bool) -> [String; 2] {
        let (dir, socket) = (self.files.path().display(), self.server.socket());
        let socket = socket.display();
        let (user, credentials) = match with_key {
            true => ("vm1@", format!("tls-psk-file={dir}/keys.psk")),
            false => ("", format!("tls-certificates={dir}")),
        };
        [
            format!("nbds+unix://{user}/?socket={socket}&{credentials}&tls-hostname=localhost"),
            format!("nbds://{user}localhost:{}/?{credentials}", self.port()),
        ]
    }

    /// The same for QEMU: the object with the credentials, and the disk.
    fn qemu(&self, with_key: bool) -> (String, [String; 2]) {
        let dir = self.files.path().display();
        let object = match with_key {
            true => format!("tls-creds-psk,id=tls0,endpoint=client,dir={dir},username=vm1"),
            false => format!("tls-creds-x509,id=tls0,endpoint=client,dir={dir}"),
        };
        let hostname = if with_key { "" } else { ",tls-hostname=localhost" };
        let socket = self.server.socket();
        let socket = socket.display();
        let disks = [
            format!("driver=nbd,server.type=unix,server.path={socket},tls-creds=tls0{hostname}"),
            format!(
                "driver=nbd,server.type=inet,server.host=localhost,server.port={},tls-creds=tls0{hostname}",
                self.port()
            ),
        ];
        (object, disks)
    }

    /// Checks who the clients were since this was asked last, and that keys were renewed under them.
    fn assert_secured(&self, with_key: bool) {
        let expected = if with_key { "SharedKey(vm1)" } else { "Certificate(" };
        let log = self.server.log();
        let new = &log[self.seen.replace(log.len())..];
        let clients = new.iter().filter(|line| line["message"] == "negotiated");
        let mut identities = clients.map(|line| line["tls"].as_str().unwrap_or("plain")).peekable();
        assert!(identities.peek().is_some(), "a client");
        identities.for_each(|identity| assert!(identity.starts_with(expected), "{identity}"));
    }

    /// Our keys were renewed, and nothing went wrong.
    fn assert_all_is_well(&self) {
        wait_until("a key that was renewed", || {
            self.metric("ringnbd_tls_key_updates_total{by=\"server\"}") > 0
        });
        assert_eq!(self.metric("ringnbd_tls_record_errors_total"), 0);
        assert!(self.metric("ringnbd_tls_sessions_total{version=\"1.3\",cipher=\"aes-128-gcm\"}") > 0);
    }
}

fn tool(name: &str, arguments: &[&str]) -> Option<Command> {
    let mut command = peers::command(name)?;
    command.args(arguments);
    Some(command)
}

/// Copies the disk out and another one in, with each of the transports.
fn libnbd(with_key: bool) -> Option<()> {
    let served = Served::start();
    let copy = served.files.path().join("copy.img");
    for (uri, seed) in served.uris(with_key).iter().zip(100..) {
        run(&mut tool("nbdcopy", &[uri, copy.to_str().unwrap()])?).ok();
        served.assert_secured(with_key);
        assert!(std::fs::read(&copy).unwrap() == served.image.read(0, SIZE as usize), "what came out");
        let data = pattern(seed, 0, SIZE as usize);
        std::fs::write(&copy, &data).unwrap();
        run(&mut tool("nbdcopy", &["--flush", copy.to_str().unwrap(), uri])?).ok();
        assert!(served.image.read(0, SIZE as usize) == data, "what went in");
    }
    served.assert_all_is_well();
    Some(())
}

fn qemu(with_key: bool) -> Option<()> {
    let served = Served::start();
    let copy = served.files.path().join("copy.img");
    let copy = copy.to_str().unwrap();
    let (object, disks) = served.qemu(with_key);
    for (disk, seed) in disks.iter().zip(200..) {
        run(&mut tool(
            "qemu-img",
            &["convert", "--object", &object, "--image-opts", "-O", "raw", disk, copy],
        )?)
        .ok();
        served.assert_secured(with_key);
        assert!(std::fs::read(copy).unwrap() == served.image.read(0, SIZE as usize), "what came out");
        let data = pattern(seed, 0, SIZE as usize);
        std::fs::write(copy, &data).unwrap();
        let arguments =
            ["convert", "--object", &object, "-n", "--target-image-opts", "-f", "raw", copy, disk];
        run(&mut tool("qemu-img", &arguments)?).ok();
        assert!(served.image.read(0, SIZE as usize) == data, "what went in");
    }
    served.assert_all_is_well();
    Some(())
}

#[test]
fn libnbd_with_certificates() {
    let _skipped = libnbd(false);
}

#[test]
fn libnbd_with_a_shared_key() {
    let _skipped = libnbd(true);
}

#[test]
fn qemu_with_certificates() {
    let _skipped = qemu(false);
}

#[test]
fn qemu_with_a_shared_key() {
    let _skipped = qemu(true);
}

/// A client with another key, and one with a name that there is not, are told the same.
#[test]
fn a_wrong_key_is_refused() {
    let served = Served::start();
    let refused = |name: &str, line: &str| {
        let file = served.files.path().join("wrong.psk");
        std::fs::write(&file, line).unwrap();
        let (socket, file) = (served.server.socket(), file.display());
        let uri = format!("nbds+unix://{name}@/?socket={}&tls-psk-file={file}", socket.display());
        let said = run(&mut tool("nbdinfo", &[&uri])?);
        assert!(!said.status.success());
        let sentence = format!("the shared key \"{name}\" is not known here");
        wait_until("a line of the log", || {
            served.server.log().iter().any(|line| {
                line["message"] == "TLS handshake failed"
                    && line["reason"].as_str().is_some_and(|reason| reason.starts_with(&sentence))
            })
        });
        Some(())
    };
    let wrong = "ff".repeat(32);
    let Some(()) = refused("vm1", &format!("vm1:{wrong}\n")) else { return };
    let Some(()) = refused("vm9", &format!("vm9:{wrong}\n")) else { return };
    assert_eq!(served.metric("ringnbd_tls_failures_total{reason=\"shared_key\"}"), 2);
    assert!(KEYS.starts_with("vm1:"));
}

/// H26, H27: what clients without TLS find.
#[test]
fn h27_who_does_not_encrypt_finds_what_is_open_to_all() {
    let hidden = "[[export]]\nname = \"secret\"\nuri = \"mem:1M\"\ntls = \"required\"\n";
    let served = Served::with("mode = \"selective\"", hidden);
    let mut plain = Connection::attach(&served.server, "", Mode::Structured);
    plain.expect_alive();
    drop(plain);
    let told = |name: &str| {
        let mut client = Connection::open(&served.server);
        client.greet(crate::support::wire::MODERN);
        client.send(&crate::support::wire::option(
            crate::support::wire::NBD_OPT_GO,
            &crate::support::wire::info_data(name.as_bytes(), &[]),
        ));
        let header = client.receive(20, "a reply to GO");
        u32::from_be_bytes(header[12..16].try_into().unwrap())
    };
    const TLS_REQUIRED: u32 = (1 << 31) + 5;
    assert_eq!((told("secret"), told("missing")), (TLS_REQUIRED, TLS_REQUIRED), "the same for both");
    let Some(mut listed) = peers::command("nbdinfo") else { return };
    let socket = served.server.socket();
    let plain = format!("nbd+unix://?socket={}", socket.display());
    let list = run(listed.args(["--list", "--json", &plain])).ok();
    assert!(!list.contains("secret"), "{list}");
    let [secure, _] = served.uris(true);
    let list = run(peers::command("nbdinfo").unwrap().args(["--list", "--json", &secure])).ok();
    assert!(list.contains("secret"), "{list}");
}

/// Each wrong file is named.
#[test]
fn wrong_files_are_told_in_a_sentence() {
    let files = crate::support::image::disk_dir();
    let binary = env!("CARGO_BIN_EXE_ringnbd");
    let said = |more: &[&str]| {
        let directory = files.path().to_str().unwrap();
        let mut command = Command::new(binary);
        command.args(["serve", "--check", "mem:1M", "--tls", directory]).args(more);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let refused = |words: &str| {
        let (code, text) = said(&[]);
        assert!(code == Some(2) && text.contains(words), "{code:?} {text}");
    };
    refused("there is neither a certificate with its key");
    write_files(files.path());
    assert_eq!(said(&[]).0, Some(0), "{}", said(&[]).1);
    let path = |name: &str| files.path().join(name);
    std::fs::remove_file(path("server-key.pem")).unwrap();
    refused("cannot read the server's key");
    std::fs::copy(path("client-key.pem"), path("server-key.pem")).unwrap();
    refused("the server's certificate and its key cannot be used together");
    std::fs::write(path("server-key.pem"), "no key").unwrap();
    refused("server-key.pem: the server's key cannot be read");
    write_files(files.path());
    std::fs::write(path("ca-cert.pem"), "-----BEGIN").unwrap();
    refused("ca-cert.pem: the certificates of authorities for clients cannot be used");
    write_files(files.path());
    std::fs::write(path("keys.psk"), "vm1:xx\n").unwrap();
    refused("keys.psk: the file of shared keys cannot be used");
}
