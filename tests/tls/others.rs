//! More clients of others: nbdkit's nbd plugin, which serves on what it reads over TLS, and OpenSSL's own client, which renews keys when
//! it is told to.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use super::{SIZE, Served, tool};
use crate::peers::{self, Daemon, run};
use crate::support::image::pattern;
use crate::support::raw::{Mode, Request};
use crate::support::wait_until;
use crate::support::wire::*;

/// Copies the disk out and another one in, through nbdkit as the client.
fn nbdkit(with_key: bool) -> Option<()> {
    let served = Served::start();
    let dir = served.files.path();
    let unix = format!("socket={}", served.server.socket().display());
    let tcp = ["hostname=localhost".to_owned(), format!("port={}", served.port())];
    for (place, seed) in [&[unix][..], &tcp].into_iter().zip(300..) {
        let socket = dir.join(format!("nbdkit{seed}.sock"));
        let mut command = tool("nbdkit", &["--foreground", "--unix"])?;
        command.arg(&socket).arg("nbd").args(place).arg("tls=require");
        match with_key {
            true => {
                command.arg(format!("tls-psk={}/keys.psk", dir.display())).arg("tls-username=vm1");
            }
            false => drop(command.arg(format!("tls-certificates={}", dir.display()))),
        }
        let relay = Daemon::start(command, || UnixStream::connect(&socket).is_ok());
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        let copy = dir.join("copy.img");
        let copy = copy.to_str().expect("a path in UTF-8");
        run(&mut tool("nbdcopy", &[&uri, copy])?).ok();
        assert!(std::fs::read(copy).unwrap() == served.image.read(0, SIZE as usize), "what came out");
        let data = pattern(seed, 0, SIZE as usize);
        std::fs::write(copy, &data).unwrap();
        run(&mut tool("nbdcopy", &["--flush", copy, &uri])?).ok();
        drop(relay);
        assert!(served.image.read(0, SIZE as usize) == data, "what went in");
        served.assert_secured(with_key);
    }
    served.assert_all_is_well();
    Some(())
}

#[test]
fn nbdkit_as_a_client_with_certificates() {
    let _skipped = nbdkit(false);
}

#[test]
fn nbdkit_as_a_client_with_a_shared_key() {
    let _skipped = nbdkit(true);
}

/// What passes on all bytes of one client behind STARTTLS, which clients that know nothing of NBD do not ask for. Its port.
fn behind_starttls(server: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let mut server = UnixStream::connect(server).unwrap();
        server.read_exact(&mut [0; 18]).unwrap();
        server.write_all(&[&MODERN.to_be_bytes()[..], &option(NBD_OPT_STARTTLS, b"")].concat()).unwrap();
        let mut reply = [0; 20];
        server.read_exact(&mut reply).unwrap();
        assert_eq!(reply[12..16], NBD_REP_ACK.to_be_bytes());
        let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || pass_on(&from, &to, || to.shutdown(std::net::Shutdown::Write)));
        pass_on(&server, &client, || client.shutdown(std::net::Shutdown::Write));
    });
    port
}

fn pass_on<'a, From, To>(mut from: &'a From, mut to: &'a To, end: impl FnOnce() -> std::io::Result<()>)
where
    &'a From: Read,
    &'a To: Write,
{
    let _it_is_gone = std::io::copy(&mut from, &mut to);
    let _it_is_gone = end();
}

/// `openssl s_client`: what is written to it goes to the server, but for a line that is one of its commands.
pub(super) struct OpenSsl {
    child: Child,
    input: Option<ChildStdin>,
    output: Arc<Mutex<Vec<u8>>>,
    errors: Arc<Mutex<Vec<u8>>>,
}

fn collected(mut stream: impl Read + Send + 'static) -> Arc<Mutex<Vec<u8>>> {
    let all = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&all);
    thread::spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            shared.lock().unwrap().extend_from_slice(&bytes[..count]);
        }
    });
    all
}

impl OpenSsl {
    fn start(served: &Served) -> Self {
        Self::speaking(served, "-tls1_3")
    }

    /// With options that say what is spoken.
    pub(super) fn speaking(served: &Served, spoken: &str) -> Self {
        let port = behind_starttls(served.server.socket());
        let dir = served.files.path().display();
        let line = format!(
            "s_client -quiet -no_ign_eof -connect 127.0.0.1:{port} {spoken} -servername localhost -verify_return_error \
             -CAfile {dir}/ca-cert.pem -cert {dir}/client-cert.pem -key {dir}/client-key.pem"
        );
        let mut command = Command::new("openssl");
        command.args(line.split_whitespace());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("run openssl");
        let input = child.stdin.take();
        let output = collected(child.stdout.take().expect("it is a pipe"));
        let errors = collected(child.stderr.take().expect("it is a pipe"));
        Self { child, input, output, errors }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        let mut input = self.input.as_ref().expect("it is not at its end");
        input.write_all(bytes).unwrap();
    }

    /// Waits until the server has sent these bytes. Where they begin.
    #[track_caller]
    pub(super) fn wait_for(&self, what: &str, bytes: &[u8]) -> usize {
        let find = || self.output.lock().unwrap().windows(bytes.len()).position(|window| window == bytes);
        wait_until(what, || find().is_some());
        find().expect("it was there")
    }

    /// Sends a request and waits for its reply. Where what follows begins.
    #[track_caller]
    pub(super) fn ask(&mut self, request: &Request) -> usize {
        self.write(&request.encode(Mode::Simple));
        let mut reply = NBD_SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
        reply.extend(0_u32.to_be_bytes());
        reply.extend(request.cookie.to_be_bytes());
        self.wait_for("a reply", &reply) + reply.len()
    }

    /// Waits until it has so many bytes of data from `start` on, and gives them.
    #[track_caller]
    pub(super) fn data(&self, start: usize, length: usize) -> Vec<u8> {
        wait_until("the data", || self.output.lock().unwrap().len() >= start + length);
        self.output.lock().unwrap()[start..start + length].to_vec()
    }

    /// Says that no more comes, and waits until it has ended.
    #[track_caller]
    pub(super) fn end(&mut self) {
        self.input = None;
        wait_until("its end", || self.child.try_wait().unwrap().is_some());
    }

    /// Renews its key; `K` asks the server to do the same, `k` does not.
    fn renew(&mut self, command: &[u8]) {
        let count = || String::from_utf8_lossy(&self.errors.lock().unwrap()).matches("KEYUPDATE").count();
        let before = count();
        self.input.as_ref().expect("it is not at its end").write_all(command).unwrap();
        // What is written with it would be taken for a part of the command.
        wait_until("the renewal", || count() > before);
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _it_has_ended = self.child.kill();
        let _it_has_ended = self.child.wait();
    }
}

/// Key updates of OpenSSL, with and without a wish for one of ours, between requests of any length.
#[test]
fn keys_that_openssl_renews() {
    if Command::new("openssl").arg("version").output().is_err() {
        return peers::skip("openssl", "install the package openssl");
    }
    let served = Served::start();
    let mut client = OpenSsl::start(&served);
    client.write(&option(NBD_OPT_EXPORT_NAME, b""));
    client.wait_for("the size", &SIZE.to_be_bytes());
    for round in 0..8_u64 {
        client.renew(if round % 2 == 0 { b"K\n" } else { b"k\n" });
        // A piece of it that begins with a letter of a command would be one.
        let data = vec![b'0' + round as u8; 5_000 * (1 + round as usize)];
        client.ask(&Request::write(round << 20, data.clone()).cookie(1000 + round));
        assert!(served.image.read(round << 20, data.len()) == data, "round {round}");
        let start = client.ask(&Request::read(round << 20, 512).cookie(2000 + round));
        assert!(client.data(start, 512) == data[..512], "round {round}");
    }
    client.end();
    let count = |by: &str| served.metric(&format!("ringnbd_tls_key_updates_total{{by=\"{by}\"}}"));
    wait_until("the renewals", || count("client") == 8 && count("server") == 4);
    assert_eq!(served.metric("ringnbd_tls_record_errors_total"), 0);
    served.assert_secured(false);
}
