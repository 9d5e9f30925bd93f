//! Who may use which export: the whole table of identities, exports and options, byte by byte.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::process::geteuid;
use serde_json::Value;

use ringnbd::internal::tls::rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType,
};

use crate::secure_stream::{Proof, Said, said_behind_tls};
use crate::support::server::{Options, Server};
use crate::support::tls::{KEYS, TestIssuer, write_files};
use crate::support::wire::*;

/// A socket of either kind.
trait Stream: Read + Write {
    /// Says that nothing more is sent.
    fn finish(&self);
}

impl Stream for UnixStream {
    fn finish(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Stream for TcpStream {
    fn finish(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

/// A client, by what the server can know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Unix {
        uid: u32,
        gid: u32,
    },
    Tcp {
        from: &'static str,
    },
    /// It encrypts.
    Secure {
        by: &'static Client,
        proof: Proof,
    },
}

const ALICE: u32 = 60_002;
const BOB: u32 = 60_003;
const TEAM: u32 = 60_010;
/// The kernel's user for those that have no number.
const NOBODY: u32 = 65_534;

const CLIENTS: [Client; 13] = [
    Client::Unix { uid: 0, gid: 0 },
    Client::Unix { uid: ALICE, gid: ALICE },
    Client::Unix { uid: ALICE, gid: TEAM },
    Client::Unix { uid: BOB, gid: TEAM },
    Client::Unix { uid: NOBODY, gid: NOBODY },
    Client::Tcp { from: "127.0.0.1" },
    Client::Tcp { from: "127.0.0.2" },
    Client::Tcp { from: "::1" },
    Client::Secure { by: &Client::Tcp { from: "127.0.0.1" }, proof: Proof::Nothing },
    Client::Secure { by: &Client::Tcp { from: "127.0.0.1" }, proof: Proof::Certificate("client") },
    Client::Secure { by: &Client::Tcp { from: "127.0.0.2" }, proof: Proof::Certificate("other") },
    Client::Secure { by: &Client::Tcp { from: "::1" }, proof: Proof::SharedKey("vm1") },
    Client::Secure { by: &Client::Unix { uid: ALICE, gid: ALICE }, proof: Proof::SharedKey("vm2") },
];

/// For each export: its rules, and what each client of [`CLIENTS`] may do. `w`: write; `r`: read; `-`: it is hidden. A capital letter, or
/// `+` for `-`, says that it is in the list. Written by hand.
const EXPORTS: [(&str, &str, &str); 21] = [
    ("open", "", "WWWWWWWW WWWWW"),
    ("alice", "allow = \"uid=60002\"", "-WW----- ----W"),
    ("shown", "allow = \"uid=60002\"\nlisted = \"always\"", "+WW+++++ ++++W"),
    ("never", "listed = \"never\"", "wwwwwwww wwwww"),
    ("writer", "write = [\"uid=60002 & gid=60010\", \"ip=127.0.0.2\"]", "RRWRRRWR RRWRR"),
    ("team", "allow = \"gid=60010\"\nwrite = \"uid=60003\"", "--RW---- -----"),
    ("both", "allow = \"uid=60002 & gid=60010\"", "--W----- -----"),
    ("four", "allow = \"ip=127.0.0.0/8\"\nwrite = \"ip=127.0.0.1\"", "-----WR- WWR--"),
    ("six", "allow = [\"ip=::1\", \"ip=127.0.0.2/32\"]", "------WW --WW-"),
    ("closed", "allow = []", "-------- -----"),
    // What no client here has.
    ("secure", "allow = [\"cert.cn=a\", \"psk=a\", \"cert.dn=CN=a\", \"cert.san=dns:a\"]", "-------- -----"),
    ("encrypted", "tls = \"required\"", "-------- WWWWW"),
    ("cn", "allow = \"cert.cn=vm1\"", "-------- -W---"),
    ("san", "allow = [\"cert.san=dns:VM1\", \"cert.san=uri:spiffe://x/vm2\"]", "-------- -WW--"),
    ("dn", "allow = \"cert.dn=CN=vm2,O=x\"", "-------- --W--"),
    ("key", "allow = [\"psk=vm1\", \"cert.cn=vm2\"]", "-------- --WW-"),
    ("key-writes", "tls = \"required\"\nlisted = \"never\"\nwrite = \"psk=vm2\"", "-------- rrrrw"),
    ("key-from-there", "allow = \"psk=vm1 & ip=::1\"", "-------- ---W-"),
    ("key-from-elsewhere", "allow = \"psk=vm1 & ip=127.0.0.1\"", "-------- -----"),
    ("key-of-alice", "allow = \"psk=vm2 & uid=60002\"", "-------- ----W"),
    // Who does not encrypt is not told of it, whatever else is said.
    ("told", "tls = \"required\"\nlisted = \"always\"\nallow = \"cert.cn=vm1\"", "-------- +W+++"),
];

/// All exports, or those that do not ask for TLS.
fn configuration(is_secure: bool) -> String {
    let export = |(name, rules, _): &(&str, &str, &str)| {
        format!("[[export]]\nname = \"{name}\"\nuri = \"mem:1M\"\n{rules}\n\n")
    };
    let served = EXPORTS.iter().filter(|(_, rules, _)| is_secure || !rules.contains("tls = "));
    let tls = if is_secure { "[tls]\ndirectory = \".\"\nmode = \"selective\"\n\n" } else { "" };
    [tls.to_owned()].into_iter().chain(served.map(export)).collect()
}

/// What the clients of [`CLIENTS`] prove something with: `client` is vm1, and `other` is vm2.
fn write_proofs(dir: &Path) {
    let issuer = write_files(dir);
    write_other(dir, &issuer);
    let second = "ff".repeat(32);
    std::fs::write(dir.join("keys.psk"), format!("{KEYS}vm2:{second}\n")).unwrap();
}

/// A certificate with a longer name of its own, and with another kind of name beside it.
fn write_other(dir: &Path, issuer: &TestIssuer) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    // One that is made with the parameters has a part already.
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "x");
    params.distinguished_name.push(DnType::CommonName, "vm2");
    params.subject_alt_names = vec![SanType::URI("spiffe://x/vm2".try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.join("other-cert.pem"), params.signed_by(&key, issuer).unwrap().pem()).unwrap();
    std::fs::write(dir.join("other-key.pem"), key.serialize_pem()).unwrap();
}

/// A server of all exports. Its unix socket is one that everybody may connect to.
fn serve(text: &str, arguments: &[&str]) -> (Server, String, tempfile::TempDir) {
    serve_operated(text, arguments, "off")
}

/// With a control socket.
fn serve_operated(text: &str, arguments: &[&str], control: &str) -> (Server, String, tempfile::TempDir) {
    serve_in(tempfile::tempdir().unwrap(), text, arguments, control)
}

/// With what else is in the directory of its configuration.
fn serve_in(
    dir: tempfile::TempDir,
    text: &str,
    arguments: &[&str],
    control: &str,
) -> (Server, String, tempfile::TempDir) {
    let path = dir.path().join("c.toml");
    std::fs::write(&path, text).unwrap();
    let name = format!("ringnbd-rights-{}-{}", std::process::id(), dir.path().display());
    let name = name[..name.len().min(100)].to_owned();
    let socket = format!("@{name}");
    let fixed = ["--config", path.to_str().unwrap(), "--unix", &socket, "--control", control];
    let mut options = Options::new().without_unix().tcp("127.0.0.1:0").tcp("[::1]:0");
    // The tests may run under nohup(1), whose children ignore a hang-up.
    options.wrapper = ["env", "--default-signal=HUP"].map(str::to_owned).into();
    (options.args(fixed).args(arguments.iter().copied()).start(), name, dir)
}

impl Client {
    /// Connects. A unix socket is asked who connected to it, so a thread becomes that user and ends.
    fn connect(self, server: &Server, socket: &str) -> Box<dyn Stream> {
        let patience = Some(std::time::Duration::from_secs(30));
        match self {
            Self::Unix { uid, gid } => {
                let socket = socket.to_owned();
                let connected = std::thread::spawn(move || {
                    // SAFETY: these calls take numbers; by number, not through the C library, they change this thread only.
                    let done = unsafe {
                        libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
                            && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
                    };
                    assert!(done, "{}", std::io::Error::last_os_error());
                    let address = std::os::unix::net::SocketAddr::from_abstract_name(socket).unwrap();
                    UnixStream::connect_addr(&address).unwrap()
                });
                let stream = connected.join().unwrap();
                stream.set_read_timeout(patience).unwrap();
                Box::new(stream)
            }
            Self::Tcp { from } => {
                let from = SocketAddr::new(from.parse().unwrap(), 0);
                let all = server.tcp_addresses();
                let to =
                    all.iter().find(|to| to.is_ipv4() == from.is_ipv4()).expect("an address of the family");
                let stream = connect_from(from, *to);
                stream.set_read_timeout(patience).unwrap();
                Box::new(stream)
            }
            Self::Secure { by, .. } => by.connect(server, socket),
        }
    }

    /// Sends options and nothing more, and gives all that comes behind the greeting, or behind TLS. `dir`: where its proofs are.
    fn said(self, server: &Server, socket: &str, dir: &Path, options: &[u8]) -> Said {
        let Self::Secure { proof, .. } = self else {
            return Said { data: self.bytes(server, socket, options), records: Vec::new() };
        };
        let mut stream = self.connect(server, socket);
        stream.write_all(&MODERN.to_be_bytes()).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        said_behind_tls(&mut stream, (proof, dir), options)
    }

    /// The same of a client that does not encrypt.
    fn bytes(self, server: &Server, socket: &str, options: &[u8]) -> Vec<u8> {
        answers(self.connect(server, socket), options)
    }
}

/// A connection over TCP from an address.
fn connect_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let stream =
        socket2::Socket::new(socket2::Domain::for_address(from), socket2::Type::STREAM, None).unwrap();
    stream.bind(&from.into()).unwrap();
    stream.connect(&to.into()).unwrap();
    stream.into()
}

/// Sends options and nothing more, and gives all that comes behind the greeting.
fn answers(mut stream: Box<dyn Stream>, options: &[u8]) -> Vec<u8> {
    let mut sent = MODERN.to_be_bytes().to_vec();
    sent.extend_from_slice(options);
    stream.write_all(&sent).unwrap();
    stream.finish();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    let mut bytes = Vec::new();
    // A reset is a close: the server may leave without having read all.
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    bytes
}

fn info(name: &str) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes(), name.as_bytes(), &[0, 0]].concat()
}

fn meta(name: &str) -> Vec<u8> {
    let query = b"base:allocation";
    let length = |length: usize| (length as u32).to_be_bytes();
    [&length(name.len()), name.as_bytes(), &length(1), &length(query.len()), query].concat()
}

/// What is asked for an export: the option, what has to go before it, and its data.
fn questions(name: &str) -> BTreeMap<&'static str, Vec<u8>> {
    let structured = option(NBD_OPT_STRUCTURED_REPLY, &[]);
    BTreeMap::from([
        ("INFO", option(NBD_OPT_INFO, &info(name))),
        ("GO", option(NBD_OPT_GO, &info(name))),
        // Asked before is asked again.
        ("INFO, GO", [option(NBD_OPT_INFO, &info(name)), option(NBD_OPT_GO, &info(name))].concat()),
        ("EXPORT_NAME", option(NBD_OPT_EXPORT_NAME, name.as_bytes())),
        ("LIST_META_CONTEXT", option(NBD_OPT_LIST_META_CONTEXT, &meta(name))),
        ("SET_META_CONTEXT", [structured, option(NBD_OPT_SET_META_CONTEXT, &meta(name))].concat()),
    ])
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    [
        &NBD_REP_MAGIC.to_be_bytes()[..],
        &option.to_be_bytes(),
        &kind.to_be_bytes(),
        &(data.len() as u32).to_be_bytes(),
        data,
    ]
    .concat()
}

/// What a client is answered that may use an export.
fn granted(question: &str, may_write: bool) -> Vec<u8> {
    // HAS_FLAGS, FLUSH, FUA, MULTI_CONN, CACHE; TRIM, WRITE_ZEROES and FAST_ZERO for those who may write, READ_ONLY for others.
    let flags: u16 = 0b101_0000_1101 | if may_write { 0b1000_0110_0000 } else { 0b10 };
    let size = (1u64 << 20).to_be_bytes();
    let of = |number| {
        let data = [&[0, 0], &size[..], &flags.to_be_bytes()].concat();
        [reply(number, NBD_REP_INFO, &data), reply(number, NBD_REP_ACK, &[])].concat()
    };
    let context = |number, id: u32| {
        let data = [&id.to_be_bytes(), &b"base:allocation"[..]].concat();
        [reply(number, NBD_REP_META_CONTEXT, &data), reply(number, NBD_REP_ACK, &[])].concat()
    };
    match question {
        "INFO" => of(NBD_OPT_INFO),
        "GO" => of(NBD_OPT_GO),
        "INFO, GO" => [of(NBD_OPT_INFO), of(NBD_OPT_GO)].concat(),
        "EXPORT_NAME" => [&size[..], &flags.to_be_bytes()].concat(),
        "LIST_META_CONTEXT" => context(NBD_OPT_LIST_META_CONTEXT, 0),
        _ => {
            [reply(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, &[]), context(NBD_OPT_SET_META_CONTEXT, 1)].concat()
        }
    }
}

/// Identity by export by option: what is hidden answers as what is missing, and behind TLS in records of the same lengths.
#[test]
fn the_whole_table() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can be several users");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    write_proofs(dir.path());
    let (server, socket, dir) = serve_in(dir, &configuration(true), &[], "off");
    for (column, client) in CLIENTS.into_iter().enumerate() {
        let said = |options: &[u8]| client.said(&server, &socket, dir.path(), options);
        let list = said(&option(NBD_OPT_LIST, &[])).data;
        // By question and length of the name.
        let mut answers_of_missing = BTreeMap::new();
        let mut expected = Vec::new();
        for (name, rules, table) in EXPORTS {
            let right = table.chars().filter(|right| *right != ' ').nth(column).expect("a right of each");
            if right.is_ascii_uppercase() || right == '+' {
                let data = [&(name.len() as u32).to_be_bytes(), name.as_bytes()].concat();
                expected.extend(reply(NBD_OPT_LIST, NBD_REP_SERVER, &data));
            }
            let missing = questions(&"x".repeat(name.len()));
            for (question, options) in questions(name) {
                let got = said(&options);
                let what = format!("{client:?} asks for {name} ({rules}) with {question}");
                let is_hidden = matches!(right, '-' | '+');
                match right.to_ascii_lowercase() {
                    '-' | '+' => {
                        let asked = (question, name.len());
                        let of_missing =
                            answers_of_missing.entry(asked).or_insert_with(|| said(&missing[question]));
                        assert_eq!(&got, of_missing, "{what}");
                    }
                    right => assert_eq!(got.data, granted(question, right == 'w'), "{what}"),
                }
                assert_eq!(is_hidden && question == "EXPORT_NAME", got.data.is_empty(), "{what}");
            }
        }
        expected.extend(reply(NBD_OPT_LIST, NBD_REP_ACK, &[]));
        assert_eq!(list, expected, "{client:?} asks for the list");
    }
}

#[test]
fn who_may_not_write_is_refused_and_reads() {
    let (server, socket, _dir) = serve(&configuration(false), &[]);
    let client = Client::Tcp { from: "127.0.0.2" };
    for (name, error) in [("four", 1u32), ("writer", 0)] {
        let mut stream = client.connect(&server, &socket);
        let mut sent = MODERN.to_be_bytes().to_vec();
        sent.extend(option(NBD_OPT_EXPORT_NAME, name.as_bytes()));
        stream.write_all(&sent).unwrap();
        stream.read_exact(&mut [0; 18 + 10]).unwrap();
        for (kind, payload, error) in [(NBD_CMD_WRITE, &[7; 512][..], error), (NBD_CMD_READ, &[], 0)] {
            let mut request = NBD_REQUEST_MAGIC.to_be_bytes().to_vec();
            request.extend([&0u16.to_be_bytes()[..], &kind.to_be_bytes(), &9u64.to_be_bytes()].concat());
            request.extend([&0u64.to_be_bytes()[..], &512u32.to_be_bytes(), payload].concat());
            stream.write_all(&request).unwrap();
            let mut reply = [0; 16];
            stream.read_exact(&mut reply).unwrap();
            assert_eq!(be32(&reply, 4), error, "{name}, command {kind}");
        }
        let mut data = [0; 512];
        stream.read_exact(&mut data).unwrap();
        assert_eq!(data, if error == 0 { [7; 512] } else { [0; 512] }, "{name}");
    }
}

#[test]
fn each_decision_is_a_line_and_no_client_drives_out_others() {
    let (server, socket, _dir) = serve(&configuration(false), &["--admin", "127.0.0.1:0"]);
    let client = Client::Tcp { from: "127.0.0.2" };
    let info = |name: &str| option(NBD_OPT_INFO, &info(name));
    let asked = [info("alice"), info("four"), info("six"), info("none"), option(NBD_OPT_LIST, &[])].concat();
    client.bytes(&server, &socket, &asked);
    let lines =
        || -> Vec<Value> { server.log().into_iter().filter(|line| line["target"] == "audit").collect() };
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    crate::support::wait_until("the lines", || lines().len() == 5);
    let decided: Vec<_> = lines()
        .iter()
        .map(|line| {
            assert_eq!(text(line, "known"), "ip=127.0.0.2/32");
            (text(line, "option"), text(line, "export"), text(line, "decision"))
        })
        .collect();
    let expected = [
        ("INFO", "alice", "refused"),
        ("INFO", "four", "granted_read_only"),
        ("INFO", "six", "granted"),
        ("INFO", "none", "missing"),
        ("LIST", "", ""),
    ];
    let expected =
        expected.map(|(option, name, decision)| (option.to_owned(), name.to_owned(), decision.to_owned()));
    assert_eq!(decided, expected);
    assert_eq!(lines()[4]["listed"], 5);

    // One that asks a thousand times: the rest is counted.
    client.bytes(&server, &socket, &info("closed").repeat(1000));
    let admin = server.log().iter().find_map(|line| line["url"].as_str().map(str::to_owned)).expect("a URL");
    let address = admin.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let metric = |name: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let line =
            page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {page}"));
        line.split(' ').nth(1).unwrap().parse::<f64>().unwrap()
    };
    crate::support::wait_until("the lines", || lines().len() == 5 + 64);
    assert_eq!(metric("ringnbd_audit_lines_dropped_total"), 1000.0 - 64.0);
    assert_eq!(metric("ringnbd_rights_refused_total"), 1001.0);
}

#[test]
fn without_rules_there_are_no_lines() {
    let (server, socket, _dir) = serve("[[export]]\nname = \"a\"\nuri = \"mem:1M\"\n", &[]);
    let client = Client::Tcp { from: "127.0.0.1" };
    client.bytes(
        &server,
        &socket,
        &[option(NBD_OPT_INFO, &info("a")), option(NBD_OPT_INFO, &info("b"))].concat(),
    );
    client.bytes(&server, &socket, &option(NBD_OPT_EXPORT_NAME, b"missing"));
    crate::support::wait_until("a line of the handshake", || server.stderr().contains("does not exist"));
    assert!(!server.stderr().contains("audit"), "{}", server.stderr());
}

#[test]
fn a_mistake_has_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[[export]]\nuri = \"mem:1M\"\nallow = [\n  \"uid=1\",\n  \"uid=65534\",\n]\n";
    std::fs::write(dir.path().join("c.toml"), text).unwrap();
    let mut command = crate::serve(&["--check", "--config", "c.toml"]);
    let output = command.current_dir(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("c.toml, line 5: uid=65534") && told.contains("write the real number"), "{told}");
}

/// Rights that a reload brings are asked about from then on; who is there goes on.
#[test]
fn a_reload_brings_other_rights() {
    let text = "[[export]]\nname = \"a\"\nuri = \"mem:1M\"\nallow = \"ip=127.0.0.1\"\n";
    let (server, socket, dir) = serve(text, &[]);
    let (one, two) = (Client::Tcp { from: "127.0.0.1" }, Client::Tcp { from: "127.0.0.2" });
    let may =
        |client: Client| client.bytes(&server, &socket, &questions("a")["INFO"]) == granted("INFO", true);
    assert_eq!((may(one), may(two)), (true, false));
    let mut there = one.connect(&server, &socket);
    there.write_all(&[&MODERN.to_be_bytes()[..], &option(NBD_OPT_EXPORT_NAME, b"a")].concat()).unwrap();
    there.read_exact(&mut [0; 18 + 10]).unwrap();
    std::fs::write(dir.path().join("c.toml"), text.replace("0.1", "0.2")).unwrap();
    server.signal(rustix::process::Signal::HUP);
    crate::support::wait_until("the reload", || server.log().iter().any(|line| line["result"] == "rights"));
    assert_eq!((may(one), may(two)), (false, true));
    let read = [
        &NBD_REQUEST_MAGIC.to_be_bytes()[..],
        &[0; 2],
        &NBD_CMD_READ.to_be_bytes(),
        &[0; 16],
        &512u32.to_be_bytes(),
    ];
    there.write_all(&read.concat()).unwrap();
    there.read_exact(&mut [1; 16 + 512]).unwrap();
}

/// Rules by certificate, by network and by user, of which only the last one lets this client in.
fn rules(count: usize) -> String {
    let rule = |index: usize| match index % 3 {
        0 => format!("\"cert.cn=vm{index} & ip=10.0.0.0/8\""),
        1 => format!("\"ip=10.{}.{}.0/24\"", index / 256 % 256, index % 256),
        _ => format!("\"uid={} & gid=7\"", 1_000_000 + index),
    };
    let rules: Vec<_> = (1..count).map(rule).chain(["\"ip=127.0.0.0/8\"".to_owned()]).collect();
    format!("[[export]]\nname = \"a\"\nuri = \"mem:1M\"\nallow = [{}]\n", rules.join(", "))
}

/// Handshakes beside 10,000 rules take as long as beside one. Both servers are asked by turns, and the median of the ratios counts.
/// `RINGNBD_RIGHTS_FIGURES=1` asserts it, on a quiet machine and with `RINGNBD_TEST_BINARY` of a release build.
#[test]
fn handshakes_beside_ten_thousand_rules() {
    let is_asserted = std::env::var("RINGNBD_RIGHTS_FIGURES").as_deref() == Ok("1");
    let (rounds, handshakes) = if is_asserted { (41, 400) } else { (3, 20) };
    let servers = [rules(1), rules(10_000)].map(|text| serve(&text, &[]));
    let from = "127.0.0.1:0".parse().unwrap();
    let (question, granted) = (questions("a").remove("GO").unwrap(), granted("GO", true).len());
    // Asked once: it is read from a log that has a line for each client.
    let addresses = servers.each_ref().map(|(server, ..)| server.tcp_address());
    let block = |to: &SocketAddr| {
        let begin = std::time::Instant::now();
        for _ in 0..handshakes {
            assert_eq!(answers(Box::new(connect_from(from, *to)), &question).len(), granted);
        }
        begin.elapsed().as_secs_f64() / f64::from(handshakes)
    };
    // Neither is the one that finds the machine cold.
    addresses.iter().map(block).for_each(|_cold| {});
    let mut ratios: Vec<_> = (0..rounds)
        .map(|round| match round % 2 {
            0 => 1.0 / (block(&addresses[0]) / block(&addresses[1])),
            _ => block(&addresses[1]) / block(&addresses[0]),
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    let each = block(&addresses[1]) * 1e6;
    println!("-- a handshake beside 10,000 rules: {median:.3} of one beside one rule, {each:.0} us");
    assert!(!is_asserted || median <= 1.02, "{median}: {ratios:?}");
}

/// A reload that enforces ends sessions that would be refused now, and those that could not write any more.
#[test]
fn a_reload_that_enforces() {
    let text = "[[export]]\nname = \"a\"\nuri = \"mem:1M\"\n";
    let dir = tempfile::tempdir().unwrap();
    let control = format!("unix:{}", dir.path().join("control").display());
    let (server, socket, config) = serve_operated(text, &[], &control);
    let clients = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|from| Client::Tcp { from });
    let mut sessions = clients.map(|client| {
        let mut stream = client.connect(&server, &socket);
        stream.write_all(&[&MODERN.to_be_bytes()[..], &option(NBD_OPT_EXPORT_NAME, b"a")].concat()).unwrap();
        stream.read_exact(&mut [0; 18 + 10]).unwrap();
        stream
    });
    let request = |kind: u16, length: u32| {
        [&NBD_REQUEST_MAGIC.to_be_bytes()[..], &[0; 2], &kind.to_be_bytes(), &[0; 16], &length.to_be_bytes()]
            .concat()
    };
    let rules = "allow = [\"ip=127.0.0.1\", \"ip=127.0.0.2\"]\nwrite = \"ip=127.0.0.2\"\n";
    std::fs::write(config.path().join("c.toml"), format!("{text}{rules}")).unwrap();
    // Half a WRITE of the first has come; the read before it tells so.
    let write = [request(NBD_CMD_WRITE, 512), vec![1; 512]].concat();
    sessions[0].write_all(&[&request(NBD_CMD_READ, 512), &write[..100]].concat()).unwrap();
    sessions[0].read_exact(&mut [0; 16 + 512]).unwrap();
    let ctl = || {
        let binary =
            std::env::var("RINGNBD_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ringnbd").into());
        let mut command = std::process::Command::new(binary);
        let told = command.args(["ctl", "--control", &control, "reload", "--enforce"]).output().unwrap();
        (told.status.code(), String::from_utf8(told.stdout).unwrap())
    };
    let expected =
        "Other rights are in force for clients that come.\n2 sessions end, which would be refused now.\n";
    assert_eq!(ctl(), (Some(0), expected.to_owned()));
    let mut end = [0; 16];
    assert_eq!(sessions[2].read(&mut end).unwrap(), 0, "it was idle");
    // The shard was told before.
    sessions[0].write_all(&[&write[100..], &request(NBD_CMD_READ, 512)].concat()).unwrap();
    let mut replies = [[0; 16]; 2];
    replies.iter_mut().for_each(|reply| sessions[0].read_exact(reply).unwrap());
    let mut errors = replies.map(|reply| u32::from_be_bytes(reply[4..8].try_into().unwrap()));
    errors.sort_unstable();
    assert_eq!(errors, [0, NBD_ESHUTDOWN]);
    assert_eq!(sessions[0].read(&mut end).unwrap(), 0);
    sessions[1].write_all(&write).unwrap();
    sessions[1].read_exact(&mut end).unwrap();
    assert_eq!(ctl(), (Some(0), "Nothing to change.\n".to_owned()));
}
