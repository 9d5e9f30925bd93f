//! TLS with the clients of others: QEMU and libnbd, which both have it from GnuTLS. What they write through it is compared behind the
//! server's back.

mod proxy;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use ringnbd::internal::tls::rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use ringnbd::internal::tls::{CipherSuite, TlsAcceptor, TlsIdentity, TlsMaterial};
use tempfile::TempDir;

use crate::peers::{self, run};
use crate::support::image::{Image, disk_dir, pattern};
use crate::support::server::Server;
use proxy::{Proxy, Secured};

const SIZE: u64 = 24 << 20;
/// A renewal after so many records of ours: a few in each test. GnuTLS ends a connection that gets more than eight in a second.
const RENEWAL: u64 = 250;
const KEYS: &str = "vm1:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

/// The files that clients look for, under the names that QEMU and libnbd give them.
fn write_files(dir: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.distinguished_name.push(DnType::CommonName, "an authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.join("ca-cert.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, key);
    for (file, names, purpose) in [
        ("server", &["localhost", "127.0.0.1"][..], ExtendedKeyUsagePurpose::ServerAuth),
        ("client", &["vm1"], ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0].as_str());
        params.extended_key_usages = vec![purpose];
        // The second is a thing of TLS 1.2, but QEMU looks for it.
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        std::fs::write(dir.join(format!("{file}-cert.pem")), certificate).unwrap();
        std::fs::write(dir.join(format!("{file}-key.pem")), key.serialize_pem()).unwrap();
    }
    std::fs::write(dir.join("keys.psk"), KEYS).unwrap();
}

/// A disk behind TLS.
struct Served {
    image: Image,
    _server: Server,
    dir: TempDir,
    socket: PathBuf,
    port: u16,
    reports: mpsc::Receiver<Result<Secured, String>>,
}

impl Served {
    fn start() -> Self {
        let dir = disk_dir();
        write_files(dir.path());
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        let (authority, certificate, key) =
            (read("ca-cert.pem"), read("server-cert.pem"), read("server-key.pem"));
        let material = TlsMaterial {
            certificate: Some((&certificate, &key)),
            client_authorities: Some(&authority),
            shared_keys: Some(KEYS.as_bytes()),
            ..TlsMaterial::default()
        };
        let image = Image::random(SIZE, 1);
        let server = Server::serve(&[image.path.to_str().unwrap()]);
        let (proxy, reports) = Proxy::new(TlsAcceptor::new(&material).unwrap(), &server.socket(), RENEWAL);
        let socket = dir.path().join("tls.sock");
        proxy.listen_unix(&socket);
        Self { port: proxy.listen_tcp(), image, _server: server, dir, socket, reports }
    }

    /// What libnbd calls this disk.
    fn uris(&self, with_key: bool) -> [String; 2] {
        let (dir, socket) = (self.dir.path().display(), self.socket.display());
        let (user, credentials) = match with_key {
            true => ("vm1@", format!("tls-psk-file={dir}/keys.psk")),
            false => ("", format!("tls-certificates={dir}")),
        };
        [
            format!("nbds+unix://{user}/?socket={socket}&{credentials}&tls-hostname=localhost"),
            format!("nbds://{user}localhost:{}/?{credentials}", self.port),
        ]
    }

    /// The same for QEMU: the object with the credentials, and the disk.
    fn qemu(&self, with_key: bool) -> (String, [String; 2]) {
        let dir = self.dir.path().display();
        let object = match with_key {
            true => format!("tls-creds-psk,id=tls0,endpoint=client,dir={dir},username=vm1"),
            false => format!("tls-creds-x509,id=tls0,endpoint=client,dir={dir}"),
        };
        let hostname = if with_key { "" } else { ",tls-hostname=localhost" };
        let socket = self.socket.display();
        let disks = [
            format!("driver=nbd,server.type=unix,server.path={socket},tls-creds=tls0{hostname}"),
            format!(
                "driver=nbd,server.type=inet,server.host=localhost,server.port={},tls-creds=tls0{hostname}",
                self.port
            ),
        ];
        (object, disks)
    }

    /// Checks who the clients of the last tool were, and that keys were renewed under it.
    fn assert_secured(&self, with_key: bool) {
        let mut renewed = 0;
        while renewed == 0 {
            // Clients open several connections, of which one does most of the work.
            let report = self.reports.recv_timeout(peers::CLIENT_DEADLINE).expect("a key that was renewed");
            let secured = report.expect("a secure connection");
            match (with_key, secured.identity) {
                (true, TlsIdentity::SharedKey(name)) => assert_eq!(name, b"vm1"),
                (false, TlsIdentity::Certificate(der)) => {
                    assert!(der.windows(3).any(|bytes| bytes == b"vm1"));
                }
                (_, other) => panic!("{other:?}"),
            }
            assert_eq!(secured.suite, CipherSuite::Aes128Gcm);
            renewed += secured.key_updates;
        }
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
    let copy = served.dir.path().join("copy.img");
    for (uri, seed) in served.uris(with_key).iter().zip(100..) {
        run(&mut tool("nbdcopy", &[uri, copy.to_str().unwrap()])?).ok();
        served.assert_secured(with_key);
        assert!(std::fs::read(&copy).unwrap() == served.image.read(0, SIZE as usize), "what came out");
        let data = pattern(seed, 0, SIZE as usize);
        std::fs::write(&copy, &data).unwrap();
        run(&mut tool("nbdcopy", &["--flush", copy.to_str().unwrap(), uri])?).ok();
        assert!(served.image.read(0, SIZE as usize) == data, "what went in");
    }
    Some(())
}

fn qemu(with_key: bool) -> Option<()> {
    let served = Served::start();
    let copy = served.dir.path().join("copy.img");
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
        let file = served.dir.path().join("wrong.psk");
        std::fs::write(&file, line).unwrap();
        let (socket, file) = (served.socket.display(), file.display());
        let uri = format!("nbds+unix://{name}@/?socket={socket}&tls-psk-file={file}");
        let said = run(&mut tool("nbdinfo", &[&uri])?);
        assert!(!said.status.success());
        let report = served.reports.recv_timeout(peers::CLIENT_DEADLINE).expect("a connection");
        Some(report.expect_err("no secure connection"))
    };
    let wrong = "ff".repeat(32);
    let Some(error) = refused("vm1", &format!("vm1:{wrong}\n")) else { return };
    assert!(error.starts_with("the shared key \"vm1\" is not known here"), "{error}");
    let Some(error) = refused("vm9", &format!("vm9:{wrong}\n")) else { return };
    assert!(error.starts_with("the shared key \"vm9\" is not known here"), "{error}");
}
