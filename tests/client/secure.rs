//! `nbds://` against this server and those of others, whose TLS is GnuTLS: certificates and shared keys, unix sockets and TCP; key
//! updates of ours; and what a user is told when it fails. What is written is compared behind the server's back.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::{json_of, ringnbd};
use crate::http::Address;
use crate::peers::{self, Daemon};
use crate::support::image::{Image, pattern};
use crate::support::server::{Options, Server};
use crate::support::tls::write_files;
use crate::support::wait_until;
use ringnbd::internal::client::{Client, Timeouts};

const SIZE: u64 = 12 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum With {
    Certificates,
    SharedKey,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Ringnbd,
    QemuNbd,
    Nbdkit,
    /// It speaks TLS 1.2 and nothing later.
    OldQemuNbd,
}

impl Whose {
    fn is_old(self) -> bool {
        self == Self::OldQemuNbd
    }
}

/// Keeps servers running.
#[allow(dead_code, reason = "they are held, not read")]
enum Running {
    Ours(Server),
    Peers(Vec<Daemon>),
}

/// Where a server with TLS listens on TCP.
fn port_of(server: &Server) -> u16 {
    let log = server.log();
    let mut uris = log.iter().filter_map(|line| line["uri"].as_str());
    let rest = uris.find_map(|uri| Some(uri.split_once("://127.0.0.1:")?.1)).expect("a URI of TCP");
    rest.split('/').next().and_then(|port| port.parse().ok()).expect("a port")
}

/// A server that requires TLS, on a unix socket and on TCP.
struct Secured {
    image: Image,
    files: TempDir,
    socket: PathBuf,
    port: u16,
    is_old: bool,
    _running: Running,
}

impl Secured {
    fn serve(whose: Whose, with: With) -> Option<Self> {
        let files = tempfile::Builder::new().prefix("ringnbd-secure").tempdir().unwrap();
        write_files(files.path());
        let image = Image::random(SIZE, 3);
        if whose == Whose::Ringnbd {
            let admin = format!("unix:{}", files.path().join("admin").display());
            let directory = files.path().display().to_string();
            let export = format!("file:{}", image.path.display());
            let options = Options::new().export(export).tcp("127.0.0.1:0");
            let server = options.args(["--tls".to_owned(), directory, "--admin".to_owned(), admin]).start();
            let (socket, port) = (server.socket(), port_of(&server));
            let _running = Running::Ours(server);
            return Some(Self { image, files, socket, port, is_old: false, _running });
        }
        let socket = files.path().join("s");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut daemons = Vec::new();
        for is_tcp in [false, true] {
            let command = command(whose, with, files.path(), &image.path, is_tcp.then_some(port), &socket)?;
            let is_ready = || match is_tcp {
                true => TcpStream::connect(("127.0.0.1", port)).is_ok(),
                false => UnixStream::connect(&socket).is_ok(),
            };
            daemons.push(Daemon::start(command, is_ready));
        }
        let _running = Running::Peers(daemons);
        Some(Self { image, files, socket, port, is_old: whose.is_old(), _running })
    }

    /// Over a unix socket, and over TCP.
    fn uris(&self, with: With) -> [String; 2] {
        let (socket, directory) = (self.socket.display(), self.files.path().display());
        let (user, mut credentials) = match with {
            With::Certificates => ("", format!("tls-certificates={directory}")),
            With::SharedKey => ("vm1@", format!("tls-psk-file={directory}/keys.psk")),
        };
        if self.is_old {
            credentials += "&tls-min-version=1.2";
        }
        [
            format!("nbds+unix://{user}/?socket={socket}&{credentials}"),
            format!("nbds://{user}127.0.0.1:{}/?{credentials}", self.port),
        ]
    }

    fn metric(&self, name: &str) -> u64 {
        let text = Address::Unix(self.files.path().join("admin")).get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name}: {text}")).trim().parse().expect("a number")
    }
}

fn command(
    whose: Whose,
    with: With,
    files: &Path,
    image: &Path,
    port: Option<u16>,
    socket: &Path,
) -> Option<Command> {
    let (files, port_text) = (files.display(), port.unwrap_or_default().to_string());
    if matches!(whose, Whose::QemuNbd | Whose::OldQemuNbd) {
        let mut command = peers::command("qemu-nbd")?;
        let mut object = match with {
            With::Certificates => {
                format!("tls-creds-x509,id=tls0,endpoint=server,dir={files},verify-peer=on")
            }
            With::SharedKey => format!("tls-creds-psk,id=tls0,endpoint=server,dir={files}"),
        };
        if whose.is_old() {
            object += ",priority=NORMAL:-VERS-ALL:+VERS-TLS1.2";
        }
        command.args(["--persistent", "--shared=8", "--format=raw", "--export-name=", "--object", &object]);
        command.args(["--tls-creds", "tls0"]);
        match port {
            Some(_) => command.args(["--bind", "127.0.0.1", "--port", &port_text]),
            None => command.arg("--socket").arg(socket),
        };
        command.arg(image);
        return Some(command);
    }
    let mut command = peers::command("nbdkit")?;
    command.args(["--foreground", "--tls=require"]);
    match with {
        With::Certificates => {
            command.arg(format!("--tls-certificates={files}")).arg("--tls-verify-peer");
        }
        With::SharedKey => drop(command.arg(format!("--tls-psk={files}/keys.psk"))),
    }
    match port {
        Some(_) => command.args(["--ipaddr", "127.0.0.1", "--port", &port_text]),
        None => command.arg("--unix").arg(socket),
    };
    command.arg("file").arg(image);
    Some(command)
}

/// Asks, reads, writes, maps, copies and measures over each transport.
fn talk(whose: Whose, with: With) -> Option<()> {
    let served = Secured::serve(whose, with)?;
    if whose.is_old() {
        let [uri, _] = served.uris(with).map(|uri| uri.replace("&tls-min-version=1.2", ""));
        assert_told(&uri, "no secure connection");
    }
    for (uri, seed) in served.uris(with).iter().zip(500..) {
        let info = json_of(&["info", "--json", uri]);
        assert_eq!(info["size"], SIZE, "{info}");
        assert_eq!(json_of(&["list", "--json", uri])["exports"][0]["size"], SIZE);
        assert!(ringnbd(&["map", uri]).ok().contains("data"));
        let mut client = Client::open(&uri.parse().unwrap(), &[], Timeouts::default()).unwrap();
        let mut read = vec![0; SIZE as usize];
        client.read_at(0, &mut read).unwrap();
        assert!(read == served.image.read(0, SIZE as usize), "what was read");
        let data = pattern(seed, 0, SIZE as usize);
        client.write_at(0, &data).unwrap();
        client.flush().unwrap();
        assert!(served.image.read(0, SIZE as usize) == data, "what was written");
        let run = format!("bench {uri} --rw randrw --verify --depth 8 --bs 40K --ops 2000 --json");
        let results: Value = serde_json::from_str(&ringnbd(&run.split_whitespace().collect::<Vec<_>>()).ok())
            .expect("the results are JSON");
        assert_eq!(results["total"]["operations"], 2000, "{results}");
        copy_both_ways(&served, uri, seed + 100);
    }
    Some(())
}

/// The whole disk to a file, and another one back.
fn copy_both_ways(served: &Secured, uri: &str, seed: u64) {
    let file = served.files.path().join("copy.img");
    let copy = |source: &str, target: &str| {
        ringnbd(&["copy", "--quiet", "--verify", source, target]).ok();
    };
    copy(uri, file.to_str().expect("a path in UTF-8"));
    assert!(std::fs::read(&file).unwrap() == served.image.read(0, SIZE as usize), "what was copied out");
    let data = pattern(seed, 0, SIZE as usize);
    std::fs::write(&file, &data).unwrap();
    copy(file.to_str().expect("a path in UTF-8"), uri);
    assert!(served.image.read(0, SIZE as usize) == data, "what was copied in");
}

#[test]
fn ringnbd_with_certificates() {
    let _skipped = talk(Whose::Ringnbd, With::Certificates);
}

#[test]
fn ringnbd_with_a_shared_key() {
    let _skipped = talk(Whose::Ringnbd, With::SharedKey);
}

#[test]
fn qemu_nbd_with_certificates() {
    let _skipped = talk(Whose::QemuNbd, With::Certificates);
}

#[test]
fn qemu_nbd_with_a_shared_key() {
    let _skipped = talk(Whose::QemuNbd, With::SharedKey);
}

#[test]
fn nbdkit_with_certificates() {
    let _skipped = talk(Whose::Nbdkit, With::Certificates);
}

#[test]
fn nbdkit_with_a_shared_key() {
    let _skipped = talk(Whose::Nbdkit, With::SharedKey);
}

#[test]
fn qemu_nbd_with_tls_1_2() {
    let _skipped = talk(Whose::OldQemuNbd, With::Certificates);
}

/// Small and large requests, many connections, and a new key after every 2^10 records of the client.
#[test]
fn keys_of_the_client_are_renewed_under_load() {
    let served = Secured::serve(Whose::Ringnbd, With::Certificates).unwrap();
    for (uri, load) in served.uris(With::Certificates).iter().flat_map(|uri| {
        [
            (uri.clone(), "--rw randwrite --bs 4K --depth 1 --ops 6000 --verify"),
            (uri.clone(), "--rw randwrite --bs 1M --depth 4 --connections 3 --ops 300"),
            (uri.clone(), "--rw randread --bs 4K --depth 16 --connections 4 --ops 20000"),
        ]
    }) {
        let run = format!("bench {uri} {load} --tls-key-update-records 1024 --json");
        ringnbd(&run.split_whitespace().collect::<Vec<_>>()).ok();
    }
    wait_until("the client's renewals", || {
        served.metric("ringnbd_tls_key_updates_total{by=\"client\"}") >= 12
    });
    assert_eq!(served.metric("ringnbd_tls_record_errors_total"), 0);
}

/// The line of a call of QEMU's program lists as that one does.
#[test]
fn a_call_of_qemu_nbd_lists_encrypted() {
    for with in [With::Certificates, With::SharedKey] {
        let served = Secured::serve(Whose::Ringnbd, with).unwrap();
        let (socket, directory) = (served.socket.display(), served.files.path().display());
        let mut line = format!("-L -k {socket} --tls-creds t --object ");
        line += &match with {
            With::Certificates => {
                format!("tls-creds-x509,id=t,endpoint=client,dir={directory} --tls-hostname localhost")
            }
            With::SharedKey => format!("tls-creds-psk,id=t,endpoint=client,dir={directory},username=vm1"),
        };
        let link = served.files.path().join("qemu-nbd");
        symlink(env!("CARGO_BIN_EXE_ringnbd"), &link).unwrap();
        let listed = peers::run(Command::new(&link).args(line.split(' '))).ok();
        assert!(listed.contains("exports available: 1") && listed.contains("size:  12582912"), "{listed}");
        if let Some(mut theirs) = peers::command("qemu-nbd") {
            assert_eq!(listed, peers::run(theirs.args(line.split(' '))).ok());
        }
        // Not in plain text, which the server refuses.
        let plain = peers::run(Command::new(&link).args(["-L", "-k", &socket.to_string()]));
        assert_eq!(plain.status.code(), Some(1), "{plain}");
    }
}

/// One sentence that has these words.
#[track_caller]
fn assert_told(uri: &str, words: &str) {
    let finished = ringnbd(&["info", uri]);
    assert_eq!(finished.status.code(), Some(2), "{finished}");
    assert!(finished.stderr.contains(words), "no {words:?}: {finished}");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
}

#[test]
fn failures_are_told_in_a_sentence() {
    let served = Secured::serve(Whose::Ringnbd, With::Certificates).unwrap();
    let (socket, directory) = (served.socket.display(), served.files.path().display());
    let uri = |more: &str| format!("nbds+unix:///?socket={socket}&{more}");
    let certificates = format!("tls-certificates={directory}");
    assert_told(&format!("nbd+unix:///?socket={socket}"), "; write nbds:// in the place of nbd://");
    assert_told(&uri(&format!("{certificates}&tls-hostname=other")), "is not for other, but for");
    assert_told(&uri("tls-certificates=/nowhere"), "neither ca-cert.pem nor client-cert.pem in /nowhere");
    assert_told(&uri("tls-psk-file=/nowhere"), "cannot read the file of shared keys /nowhere");
    let file = |name: &str| served.files.path().join(name);
    let key = "ff".repeat(32);
    std::fs::write(file("wrong.psk"), format!("vm1:{key}\nvm9:{key}\n")).unwrap();
    let wrong = format!("tls-psk-file={directory}/wrong.psk");
    assert_told(&uri(&wrong), "has several shared keys");
    for name in ["vm1", "vm9"] {
        let words = format!("no shared key of the name {name:?}, or another one of this name");
        assert_told(&uri(&format!("{wrong}&tls-username={name}")), &words);
    }
    assert_told(
        &uri(&format!("{wrong}&tls-username=vm5")),
        "there is no shared key of the name \"vm5\" in it",
    );
    let strange = tempfile::tempdir().unwrap();
    write_files(strange.path());
    let stranger = format!("tls-certificates={}", strange.path().display());
    assert_told(&uri(&stranger), "of an authority that is not trusted here");
    std::fs::copy(file("ca-cert.pem"), strange.path().join("ca-cert.pem")).unwrap();
    assert_told(&uri(&stranger), "does not accept the client's certificate");
    assert_told(&uri(&format!("{stranger}&tls-hostname=a%20b")), "no certificate can be for \"a b\"");
    std::fs::remove_file(strange.path().join("client-key.pem")).unwrap();
    assert_told(&uri(&stranger), "cannot read the client's key");
    let plain = Server::serve(&["mem:1M"]);
    let socket = plain.plain_socket();
    let uri = format!("nbds+unix:///?socket={}&{certificates}", socket.display());
    assert_told(&uri, "without encryption it is nbd:// or nbd+unix://");
}

/// Servers of GnuTLS have words of their own for the same.
#[test]
fn failures_with_servers_of_others() {
    for whose in [Whose::QemuNbd, Whose::Nbdkit] {
        let Some(served) = Secured::serve(whose, With::Certificates) else { return };
        let (socket, directory) = (served.socket.display(), served.files.path().display());
        let anonymous = tempfile::tempdir().unwrap();
        std::fs::copy(served.files.path().join("ca-cert.pem"), anonymous.path().join("ca-cert.pem")).unwrap();
        let anonymous = anonymous.path().display();
        assert_told(
            &format!("nbds+unix:///?socket={socket}&tls-certificates={anonymous}"),
            "certificate of the client",
        );
        let keys = format!("nbds+unix://vm1@/?socket={socket}&tls-psk-file={directory}/keys.psk");
        assert_told(&keys, "no shared key of the name \"vm1\"");
        let Some(served) = Secured::serve(whose, With::SharedKey) else { return };
        let (socket, directory) = (served.socket.display(), served.files.path().display());
        assert_told(
            &format!("nbds+unix:///?socket={socket}&tls-certificates={directory}"),
            "no secure connection",
        );
        std::fs::write(served.files.path().join("wrong.psk"), format!("vm1:{}\n", "ff".repeat(32))).unwrap();
        let wrong = format!("nbds+unix:///?socket={socket}&tls-psk-file={directory}/wrong.psk");
        assert_told(&wrong, "no shared key of the name \"vm1\", or another one of this name");
    }
}
