//! Certificates, keys and lists that change while the server runs, and sessions that end because of it.

use std::path::Path;
use std::process::Command;

use ringnbd::internal::tls::rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber, date_time_ymd,
};
use serde_json::Value;

use super::Served;
use super::records::Client;
use crate::peers::{self, run};
use crate::support::raw::{Mode, Request};
use crate::support::tls::{CLIENT_SERIAL, TestIssuer, write_files};
use crate::support::wait_until;
use crate::support::wire::*;

impl Served {
    /// Asks for a reload at the control socket.
    fn reload(&self, more: &[&str]) -> Value {
        let address = format!("unix:{}", self.server.pidfile().with_extension("control").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringnbd"));
        command.args(["ctl", "--control", &address, "reload", "--json"]).args(more);
        let told = run(&mut command);
        serde_json::from_str(&told.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
    }

    #[track_caller]
    fn reloads(&self, more: &[&str], renewed: bool, ended: u64) {
        let told = self.reload(more);
        assert_eq!((&told["result"], &told["error"]), (&"unchanged".into(), &Value::Null), "{told}");
        assert_eq!(
            (&told["tls_renewed"], &told["sessions_ended"]),
            (&renewed.into(), &ended.into()),
            "{told}"
        );
    }

    #[track_caller]
    fn refuses_to_reload(&self, words: &str) {
        let told = self.reload(&["--enforce"]);
        assert_eq!((&told["result"], &told["tls_renewed"]), (&"wrong_tls".into(), &false.into()), "{told}");
        let error = told["error"].as_str().unwrap();
        assert!(error.starts_with("nothing was changed: ") && error.contains(words), "{words:?}: {error}");
    }
}

/// A list that revokes the client's certificate.
fn revoke(issuer: &TestIssuer, dir: &Path) {
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(CLIENT_SERIAL),
        revocation_time: date_time_ymd(2025, 1, 2),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2025, 1, 1),
        next_update: date_time_ymd(2100, 1, 1),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    std::fs::write(dir.join("ca-crl.pem"), list.signed_by(issuer).unwrap().pem().unwrap()).unwrap();
}

/// Clients that come see new files, those that are there go on; files that are wrong change nothing at all.
#[test]
fn a_reload_brings_other_certificates() {
    let served = Served::start();
    let dir = served.files.path();
    let old = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &Path| {
        for name in ["ca-cert.pem", "client-cert.pem", "client-key.pem", "server-cert.pem", "server-key.pem"]
        {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    };
    copy(dir, old.path());
    served.reloads(&[], false, 0);
    let mut first = Client::open(&served);
    write_files(dir);
    assert!(Client::try_open(&served, old.path()).is_ok(), "nobody asked for a reload");
    assert!(Client::try_open(&served, dir).is_err(), "it has not seen the new authority");
    served.reloads(&[], true, 0);
    served.reloads(&[], false, 0);
    first.expect_alive();
    assert!(Client::try_open(&served, old.path()).is_err(), "it does not believe the new authority");
    let mut second = Client::open(&served);

    // As a signal does it, with links as certificate programs make them.
    std::fs::rename(dir.join("server-cert.pem"), dir.join("real.pem")).unwrap();
    std::os::unix::fs::symlink("real.pem", dir.join("server-cert.pem")).unwrap();
    served.reloads(&[], false, 0);

    for (name, bytes, words) in [
        ("server-key.pem", &b"no key"[..], "server-key.pem: the server's key cannot be read"),
        ("server-cert.pem", b"", "server-cert.pem: the server's certificate cannot be read"),
        ("ca-cert.pem", b"-----BEGIN", "ca-cert.pem: the certificates of authorities"),
        ("keys.psk", b"vm1:xx\n", "keys.psk: the file of shared keys cannot be used"),
        ("ca-crl.pem", b"\xff\0", "ca-crl.pem: the list of revoked certificates cannot be used"),
    ] {
        let good = std::fs::read(dir.join(name)).ok();
        std::fs::write(dir.join(name), bytes).unwrap();
        served.refuses_to_reload(words);
        match good {
            Some(good) => std::fs::write(dir.join(name), good).unwrap(),
            None => std::fs::remove_file(dir.join(name)).unwrap(),
        }
    }
    std::fs::rename(dir.join("server-key.pem"), dir.join("away")).unwrap();
    served.refuses_to_reload("cannot read the server's key");
    std::fs::create_dir(dir.join("server-key.pem")).unwrap();
    served.refuses_to_reload("is not a regular file");
    std::fs::remove_dir(dir.join("server-key.pem")).unwrap();
    std::fs::copy(dir.join("client-key.pem"), dir.join("server-key.pem")).unwrap();
    served.refuses_to_reload("cannot be used together");
    // What is in force is what was good last.
    [&mut first, &mut second].into_iter().for_each(Client::expect_alive);
    Client::open(&served).expect_alive();
    std::fs::rename(dir.join("away"), dir.join("server-key.pem")).unwrap();
    served.reloads(&["--enforce"], false, 1);
    assert_eq!(first.end(), Ok(()), "its authority is not believed any more");
    second.expect_alive();
}

/// A wrong certificate keeps new rights away as well, and SIGHUP does what `ctl reload` does.
#[test]
fn a_reload_is_all_or_nothing() {
    let served = Served::with("mode = \"required\"", "");
    let dir = served.files.path();
    let configuration = dir.join("config.toml");
    let text = std::fs::read_to_string(&configuration).unwrap();
    std::fs::write(&configuration, format!("{text}allow = []\n")).unwrap();
    let good = std::fs::read(dir.join("keys.psk")).unwrap();
    std::fs::write(dir.join("keys.psk"), "").unwrap();
    served.refuses_to_reload("keys.psk");
    let mut there = Client::open(&served);
    std::fs::write(dir.join("keys.psk"), [&good[..], b"vm2:00112233445566778899aabbccddeeff\n"].concat())
        .unwrap();
    served.server.signal(rustix::process::Signal::HUP);
    let log = || served.server.log().into_iter().find(|line| line["result"] == "rights");
    wait_until("the reload", || log().is_some());
    assert_eq!(log().unwrap()["tls_renewed"], true);
    assert!(Client::try_open(&served, dir).is_err(), "nobody may");
    there.expect_alive();
    served.reloads(&["--enforce"], false, 1);
    assert_eq!(there.end(), Ok(()));
    assert_eq!(served.metric("ringnbd_sessions_ended_total{reason=\"rights\"}"), 1);
}

/// Who is revoked stays until it is seen off, and does not come again.
#[test]
fn a_revoked_client_is_seen_off() {
    let served = Served::start();
    let issuer = write_files(served.files.path());
    served.reloads(&[], true, 0);
    let mut client = Client::open(&served);
    revoke(&issuer, served.files.path());
    served.reloads(&[], true, 0);
    client.expect_alive();
    assert!(Client::try_open(&served, served.files.path()).is_err());

    // A request that has begun is answered, and the next one is told why it is not.
    let write = Request::write(0, vec![0x5a; 4096]).encode(Mode::Simple);
    let (front, rest) = write.split_at(1000);
    client.send(&[&Request::read(0, 512).encode(Mode::Simple), front].concat());
    assert_eq!(client.answer(512).0, 0);
    served.reloads(&["--enforce"], false, 1);
    // The shard has heard of it when it answers the next question of the collector.
    served.metric("ringnbd_handshakes_total");
    client.send(&[rest, &Request::read(0, 512).encode(Mode::Simple)].concat());
    // The refusal needs no disk, so it may come first.
    let mut errors = [client.answer(0).0, client.answer(0).0];
    errors.sort_unstable();
    assert_eq!(errors, [0, NBD_ESHUTDOWN]);
    assert_eq!(client.end(), Ok(()));
    assert!(served.image.read(0, 4096) == [0x5a; 4096], "it was written");
    let reason = "its client may not use the export any more";
    wait_until("the end is told", || served.server.log().iter().any(|line| line["reason"] == reason));
}

/// A shared key by its name: another key is in force for those that come.
#[test]
fn a_reload_brings_other_shared_keys() {
    let served = Served::start();
    let [uri, _] = served.uris(true);
    let is_let_in = || Some(run(peers::command("nbdinfo")?.args(["--size", &uri])).status.success());
    let Some(before) = is_let_in() else { return };
    // The client reads its key from a file of its own from now on.
    let own = served.files.path().join("own.psk");
    std::fs::copy(served.files.path().join("keys.psk"), &own).unwrap();
    let uri = uri.replace("keys.psk", "own.psk");
    let is_let_in = || run(peers::command("nbdinfo").unwrap().args(["--size", &uri])).status.success();
    assert!(before && is_let_in());
    let other = format!("vm1:{}\n", "ab".repeat(32));
    std::fs::write(served.files.path().join("keys.psk"), &other).unwrap();
    served.reloads(&[], true, 0);
    assert!(!is_let_in(), "its key is an old one");
    std::fs::write(&own, &other).unwrap();
    assert!(is_let_in());
}

/// A session ends when it has lasted as long as it may, as one of a removed export does; the client comes back.
#[test]
fn sessions_have_an_end() {
    let served = Served::with("mode = \"selective\"\nmax-session = \"1s\"", "");
    let mut plain = crate::support::raw::Connection::attach(&served.server, "", Mode::Simple);
    for ended in 1..=2 {
        let mut client = Client::open(&served);
        client.expect_alive();
        assert_eq!(client.end(), Ok(()));
        let metric = "ringnbd_sessions_ended_total{reason=\"max_session\"}";
        wait_until("it is counted", || served.metric(metric) == ended);
    }
    plain.expect_alive();
    let reason = "it has lasted as long as a session may";
    wait_until("the end is told", || served.server.log().iter().any(|line| line["reason"] == reason));
}
