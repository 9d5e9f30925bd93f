//! What the command lines of the README find when they are run: images, ports, and programs of other projects.

use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::peers;

/// A directory with everything that the README names, and a network of its own where that can be had.
pub(crate) struct Stage {
    scratch: TempDir,
    images: TempDir,
    /// Without a network of its own the ports are the machine's, and only one can have them.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

const IMAGES: [&str; 6] = ["disk.img", "a.img", "b.img", "vm1.img", "scratch.img", "vg-vm1.img"];
const IMAGE_BYTES: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

impl Stage {
    pub(crate) fn build() -> Self {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        if geteuid().is_root() {
            enter_own_network();
        }
        // A socket's path is short, and a file system with direct I/O is on the disk.
        let scratch = tempfile::Builder::new().prefix("ringnbd").tempdir().expect("a directory");
        let images = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on the disk");
        let stage = Self { scratch, images, _alone };
        for directory in ["run/ringnbd", "vg", "srv", "bin"] {
            std::fs::create_dir_all(stage.path(directory)).expect("make a directory");
        }
        for image in IMAGES {
            let path = stage.images.path().join(image);
            let file = std::fs::File::create(&path).expect("make an image");
            file.set_len(IMAGE_BYTES)
                .and_then(|()| file.write_all_at(image.as_bytes(), 1 << 20))
                .expect("fill it");
            std::os::unix::fs::symlink(path, stage.path(image)).expect("name an image");
        }
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(stage.images.path().join(target), stage.path(name)).expect("a link");
        };
        link("vg-vm1.img", "vg/vm1");
        link("vm1.img", "srv/vm1.img");
        // One that is served later: links are not followed then.
        let later = std::fs::File::create(stage.path("srv/vm2.img"));
        later.and_then(|file| file.set_len(IMAGE_BYTES)).expect("make an image");
        let binary =
            std::env::var("RINGNBD_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ringnbd").into());
        std::os::unix::fs::symlink(binary, stage.path("bin/ringnbd")).expect("name the program");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The text with stand-ins: paths are in the scratch directory, groups exist, and nothing takes long.
    fn stand_ins(&self, text: &str) -> String {
        let scratch = self.scratch.path().to_str().expect("a path of text");
        let group = rustix::process::getegid().as_raw().to_string();
        // What a server announced is in the scratch directory already.
        let mut text = text
            .replace(&format!("{scratch}/"), "\0")
            .replace("cargo run --release -- serve", "ringnbd serve");
        for (from, to) in [
            ("/run/", format!("{scratch}/run/")),
            ("/dev/vg/", format!("{scratch}/vg/")),
            ("/srv/", format!("{scratch}/srv/")),
            ("--unix-group kvm", format!("--unix-group {group}")),
            ("unix-group = \"kvm\"", format!("unix-group = \"{group}\"")),
            ("--duration 10s", "--duration 1s".to_owned()),
            ("--duration 60s", "--duration 3s".to_owned()),
        ] {
            text = text.replace(from, &to);
        }
        text = text.replace('\0', &format!("{scratch}/"));
        if text.starts_with("ringnbd bench") && !text.contains("--duration") && !text.contains("--ops") {
            text += " --duration 1s";
        }
        text
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), self.stand_ins(text)).expect("write a file");
    }

    fn shell(&self, line: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let (own, peers) = (self.path("bin"), peers::home().join("bin"));
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {line}")]).current_dir(self.scratch.path()).env_remove("RUST_LOG");
        command.env("PATH", format!("{}:{}:{path}", own.display(), peers.display()));
        command
    }

    /// Starts a server as the line says, waits until it is ready, and asks for each export that it announces.
    #[track_caller]
    pub(crate) fn serve(&self, line: &str) -> Server {
        let line = self.stand_ins(line);
        println!("serve: {line}");
        let socket = tempfile::tempdir().expect("a directory");
        let notify = UnixDatagram::bind(socket.path().join("notify")).expect("a socket for READY=1");
        notify.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let log = self.path("log");
        let stderr = std::fs::File::create(&log).expect("a log");
        let mut command = self.shell(&line);
        command.env("NOTIFY_SOCKET", socket.path().join("notify"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().expect("sh");
        let mut server = Server { child, line, log };
        let mut message = [0; 64];
        // A server that ends never says so, and takes no longer than this to be noticed.
        let ready = loop {
            notify.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
            match notify.recv(&mut message) {
                Ok(length) => break message[..length].starts_with(b"READY=1"),
                Err(_not_yet) if server.child.try_wait().expect("a child").is_none() => {}
                Err(_never) => break false,
            }
        };
        assert!(ready, "{} did not start:\n{}", server.line, server.log());
        let uris = server.uris();
        let has_store = server.log().contains("images, each an export of its name");
        assert!(!uris.is_empty() || has_store, "{} serves nothing:\n{}", server.line, server.log());
        uris.iter().for_each(|uri| self.run(&format!("ringnbd info '{}'", server.with_certificates(uri))));
        if server.line.contains("--admin 127.0.0.1:9800") {
            assert!(std::net::TcpStream::connect("127.0.0.1:9800").is_ok(), "nobody listens for --admin");
        }
        server
    }

    /// The servers that the README's clients ask, where it shows none beside them.
    pub(crate) fn serve_clients(&self) -> Vec<Server> {
        vec![
            self.serve("ringnbd serve --unix /run/ringnbd/vm1.sock vm1=a.img"),
            self.serve("ringnbd serve --tcp 10809 vm1=vm1.img scratch=scratch.img mem:1M"),
        ]
    }

    /// Runs a line to its end.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) {
        let program = line.split(' ').next().unwrap_or_default();
        let is_of_the_machine = ["ringnbd", "curl", "truncate"].contains(&program);
        if !is_of_the_machine && !peers::home().join("bin").join(program).exists() {
            return peers::skip(program, "run tests/peers install as root");
        }
        if program == "qemu-img" {
            self.output("qemu-img create -f qcow2 source.qcow2 16M");
        }
        self.output(line);
    }

    /// As [`Stage::run`], with what it printed.
    #[track_caller]
    pub(crate) fn output(&self, line: &str) -> String {
        let mut line = self.stand_ins(line);
        let mut input = "";
        if line.starts_with("qemu-system-x86_64 ") {
            // The README leaves the rest of a guest's options out. A machine that never runs opens its disks all the same.
            line = line.replace(" ...", " -S -display none -nodefaults -monitor stdio");
            input = "quit\n";
        }
        println!("run: {line}");
        peers::run_with_input(&mut self.shell(&line), input.as_bytes()).ok()
    }

    /// What is not run here is run by a file that exists and names it.
    #[track_caller]
    pub(crate) fn exists_elsewhere(&self, line: &str, file: &str) {
        let program = line.split(' ').next().unwrap_or_default();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(program.ends_with(file) || text.contains(program), "{file} does not run {program}");
    }

    /// systemd has no objection to units, which may name each other.
    #[track_caller]
    pub(crate) fn verify_units(&self, units: &[(&str, &str)]) {
        let program = self.path("bin/ringnbd");
        for (name, unit) in units {
            let unit = unit.replace("/usr/bin/ringnbd", program.to_str().expect("a path of text"));
            std::fs::write(self.path(name), unit).expect("write the unit");
        }
        let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
        match self.shell(&format!("systemd-analyze verify --man=no {}", names.join(" "))).output() {
            Ok(output) if output.status.code() == Some(127) => eprintln!("skipped: no systemd-analyze here"),
            Ok(output) => {
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success() && stderr.is_empty(), "systemd-analyze verify: {stderr}");
            }
            Err(error) => panic!("sh: {error}"),
        }
    }
}

/// A server that ends well when it is dropped.
pub(crate) struct Server {
    child: Child,
    line: String,
    log: PathBuf,
}

impl Server {
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn uris(&self) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines
            .filter(|line| line["message"] == "serving")
            .map(|line| line["uri"].as_str().expect("a URI").to_owned())
            .collect()
    }
}

impl Server {
    /// A URI that it announced, with what a client needs that has to encrypt.
    fn with_certificates(&self, uri: &str) -> String {
        if !uri.starts_with("nbds") {
            return uri.to_owned();
        }
        let directory = self.line.split_once("--tls ").map_or("tls", |(_, rest)| rest);
        let directory = directory.split(' ').next().unwrap_or_default();
        let join = if uri.contains('?') { '&' } else { '?' };
        format!("{uri}{join}tls-certificates={directory}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ended = self.child.kill();
            let _ended = self.child.wait();
            return;
        }
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("signal the server");
        let status = peers::wait(&mut self.child, PATIENCE).expect("it ends");
        assert!(status.success(), "{} ended with {status}:\n{}", self.line, self.log());
    }
}

/// A network for this thread and the programs that it starts: nothing but a loopback device, all ports free.
fn enter_own_network() {
    // SAFETY: the calls change this thread's network only, and read a structure that lives here.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNET) != 0 {
            return eprintln!("no network of its own: {}", std::io::Error::last_os_error());
        }
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        assert!(socket >= 0, "{}", std::io::Error::last_os_error());
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let result = libc::ioctl(socket, libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request);
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        libc::close(socket);
    }
}
