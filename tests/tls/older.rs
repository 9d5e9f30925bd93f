//! TLS 1.2, with clients of others: OpenSSL's, and QEMU's, which has it from GnuTLS.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use ringnbd::internal::tls::rustls::pki_types::pem::PemObject as _;
use ringnbd::internal::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ringnbd::internal::tls::rustls::{self, ServerConfig, ServerConnection};

use super::others::OpenSsl;
use super::{SIZE, Served, tool};
use crate::peers::{self, run};
use crate::support::image::pattern;
use crate::support::raw::Request;
use crate::support::wait_until;
use crate::support::wire::*;

const OLD: &str = "mode = \"required\"\nmin-version = \"1.2\"";
/// No session of these tests has as many records.
const NEVER: u64 = 1 << 24;

fn has_openssl() -> bool {
    let has = Command::new("openssl").arg("version").output().is_ok();
    if !has {
        peers::skip("openssl", "install the package openssl");
    }
    has
}

fn sessions(served: &Served, version: &str, cipher: &str) -> u64 {
    served.metric(&format!("ringnbd_tls_sessions_total{{version=\"{version}\",cipher=\"{cipher}\"}}"))
}

#[test]
fn openssl_with_each_cipher() {
    if !has_openssl() {
        return;
    }
    let served = Served::renewing(NEVER, OLD, "");
    for (place, (suite, cipher)) in [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", "aes-128-gcm"),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", "aes-256-gcm"),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", "chacha20-poly1305"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = OpenSsl::speaking(&served, &format!("-tls1_2 -cipher {suite}"));
        client.write(&option(NBD_OPT_EXPORT_NAME, b""));
        client.wait_for("the size", &SIZE.to_be_bytes());
        for round in 0..6_u64 {
            let offset = (place as u64 * 6 + round) << 20;
            // A piece of it that begins with a letter of a command would be one.
            let data = vec![b'0' + round as u8; 7_000 * (1 + round as usize)];
            client.ask(&Request::write(offset, data.clone()).cookie(1000 + round));
            assert!(served.image.read(offset, data.len()) == data, "{suite}, round {round}");
            let start = client.ask(&Request::read(offset, data.len() as u64).cookie(2000 + round));
            assert!(client.data(start, data.len()) == data, "{suite}, round {round}");
        }
        client.end();
        assert_eq!(sessions(&served, "1.2", cipher), 1, "{suite}");
    }
    assert_eq!(served.metric("ringnbd_tls_record_errors_total"), 0);
    assert_eq!(sessions(&served, "1.3", "aes-128-gcm"), 0);
    served.assert_secured(false);
}

#[test]
fn it_is_refused_unless_it_is_asked_for() {
    if !has_openssl() {
        return;
    }
    let served = Served::start();
    let _client = OpenSsl::speaking(&served, "-tls1_2");
    let reason = "the client does not offer TLS 1.3; with --tls-min-version 1.2";
    wait_until("a line of the log", || {
        served.server.log().iter().any(|line| {
            line["message"] == "TLS handshake failed"
                && line["reason"].as_str().is_some_and(|told| told.starts_with(reason))
        })
    });
    assert_eq!(served.metric("ringnbd_tls_failures_total{reason=\"old_version\"}"), 1);
}

/// Copies the disk out and another one in.
fn qemu(renewal: u64, more: &str) -> Option<Served> {
    let served = Served::renewing(renewal, OLD, "");
    let copy = served.files.path().join("copy.img");
    let copy = copy.to_str().unwrap();
    let (object, disks) = served.qemu(false);
    let object = format!("{object},priority=NORMAL:-VERS-ALL:+VERS-TLS1.2");
    for (disk, seed) in disks.iter().zip(400..) {
        let disk = format!("{disk}{more}");
        let arguments = ["convert", "--object", &object, "--image-opts", "-O", "raw", &disk, copy];
        run(&mut tool("qemu-img", &arguments)?).ok();
        assert!(std::fs::read(copy).unwrap() == served.image.read(0, SIZE as usize), "what came out");
        let data = pattern(seed, 0, SIZE as usize);
        std::fs::write(copy, &data).unwrap();
        let arguments =
            ["convert", "--object", &object, "-n", "--target-image-opts", "-f", "raw", copy, &disk];
        run(&mut tool("qemu-img", &arguments)?).ok();
        assert!(served.image.read(0, SIZE as usize) == data, "what went in");
    }
    assert_eq!(served.metric("ringnbd_tls_record_errors_total"), 0);
    assert_eq!(served.metric("ringnbd_tls_key_updates_total{by=\"server\"}"), 0);
    served.assert_secured(false);
    Some(served)
}

#[test]
fn qemu_copies_a_disk_in_one_session() {
    let Some(served) = qemu(NEVER, "") else { return };
    assert!(sessions(&served, "1.2", "aes-128-gcm") >= 4);
}

/// After 8 MiB a session ends, and QEMU, which was told to, goes on with another one.
#[test]
fn a_session_ends_before_its_key_is_worn() {
    let Some(served) = qemu(512, ",reconnect-delay=60") else { return };
    let log = served.server.log();
    let ended = log.iter().filter(|line| {
        line["reason"].as_str().is_some_and(|reason| reason.starts_with("a key of TLS 1.2 has encrypted"))
    });
    assert!(ended.count() >= 8, "each copy has three times as much");
}

/// A server of TLS 1.2 alone, up to the end of its handshake. Its port.
fn old_server(dir: &Path, clients: usize) -> u16 {
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(&read("server-cert.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&read("server-key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for _ in 0..clients {
            let (mut client, _) = listener.accept().unwrap();
            start_old_tls(&mut client, Arc::clone(&config));
        }
    });
    port
}

fn start_old_tls(client: &mut TcpStream, config: Arc<ServerConfig>) {
    client.write_all(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
    client.read_exact(&mut [0; 4 + 16]).unwrap();
    let ack = [&0x0003_e889_0455_65a9_u64.to_be_bytes()[..], &[0, 0, 0, 5], &[0, 0, 0, 1], &[0; 4]].concat();
    client.write_all(&ack).unwrap();
    let mut tls = ServerConnection::new(config).unwrap();
    // Behind it comes an option, and then the end; or there is no handshake.
    let _any_end = rustls::Stream::new(&mut tls, client).read_exact(&mut [0; 16]);
}

#[test]
fn our_client_refuses_an_old_server_unless_it_is_told_otherwise() {
    let files = tempfile::tempdir().unwrap();
    crate::support::tls::write_files(files.path());
    let dir = files.path().display();
    let port = old_server(files.path(), 2);
    let info = |more: &str| {
        let uri = format!("nbds://localhost:{port}/?tls-certificates={dir}{more}");
        let output = Command::new(env!("CARGO_BIN_EXE_ringnbd")).args(["info", &uri]).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = info("");
    assert!(said.contains("does not speak TLS 1.3; tls-min-version=1.2 in the URI allows 1.2"), "{said}");
    let said = info("&tls-min-version=1.2");
    // It has come as far as the end.
    assert!(!said.contains("TLS 1.3") && said.contains("closed"), "{said}");
}
