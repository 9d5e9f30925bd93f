//! A new process takes over the clients of one that runs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringnbd::internal::tls::rustls::version::{TLS12, TLS13};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::raw::{Connection, Mode};
use crate::support::wire::MODERN;
use crate::support::{PATIENCE, wait_until};

/// One process after the other, with the same sockets, pidfile and exports.
pub(super) struct Line {
    pub(super) directory: tempfile::TempDir,
    pub(super) arguments: Vec<String>,
    pub(super) processes: usize,
    pub(super) child: Child,
    /// Of the next process.
    pub(super) shards: usize,
}

/// A process of a line that is not known to be up.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) log: PathBuf,
}

impl Line {
    #[track_caller]
    pub(super) fn start(arguments: &[&str]) -> Self {
        Self::start_by(arguments, |_| {})
    }

    /// The same by a command that is changed before.
    #[track_caller]
    pub(super) fn start_by(arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let directory = tempfile::Builder::new().prefix("ringnbd").tempdir().unwrap();
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let (mut first, log) = command((&directory, 2), &arguments, 0, &[]);
        prepare(&mut first);
        let child = first.spawn().unwrap();
        let mut line = Self { directory, arguments, processes: 1, child, shards: 2 };
        line.wait_for_pidfile(&log);
        line
    }

    /// A server for an image of so many bytes.
    #[track_caller]
    pub(super) fn with_image(size: u64, more: &[&str]) -> (Self, tempfile::TempDir) {
        let images = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = images.path().join("image");
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        let path = path.display().to_string();
        let arguments = [&[path.as_str(), "--tcp", "127.0.0.1:0"], more].concat();
        (Self::start(&arguments), images)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    #[track_caller]
    pub(super) fn wait_for_pidfile(&mut self, log: &std::path::Path) {
        let pid = format!("{}\n", self.child.id());
        // Campaigns may get little of the machine.
        let deadline = Instant::now() + 4 * PATIENCE;
        while std::fs::read_to_string(self.path("pid")).ok().as_ref() != Some(&pid) {
            let ended = self.child.try_wait().unwrap();
            let log = || std::fs::read_to_string(log).unwrap();
            assert!(ended.is_none(), "it ended with {ended:?}: {}", log());
            assert!(Instant::now() < deadline, "it is not up: {}", log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Starts one that takes over, and does not wait for it.
    pub(super) fn begin_takeover(&mut self) -> Started {
        let (mut command, log) = self.takeover();
        Started { child: command.spawn().unwrap(), log }
    }

    /// The command of the next process, which takes nothing over, and its log.
    pub(super) fn next(&mut self) -> (Command, PathBuf) {
        self.processes += 1;
        command((&self.directory, self.shards), &self.arguments, self.processes - 1, &[])
    }

    /// The command that takes over, and its log.
    pub(super) fn takeover(&mut self) -> (Command, PathBuf) {
        let control = format!("unix:{}", self.path("control").display());
        self.processes += 1;
        command(
            (&self.directory, self.shards),
            &self.arguments,
            self.processes - 1,
            &["--takeover", &control],
        )
    }

    /// The next process takes over; gives the one before.
    #[track_caller]
    pub(super) fn succeed(&mut self) -> Child {
        let Started { child, log } = self.begin_takeover();
        let before = std::mem::replace(&mut self.child, child);
        self.wait_for_pidfile(&log);
        before
    }

    pub(super) fn log(&self, process: usize) -> String {
        std::fs::read_to_string(self.path(&format!("log{process}"))).unwrap()
    }

    #[track_caller]
    pub(super) fn over_unix(&self, export: &str) -> Connection {
        negotiated(Connection::over_unix(UnixStream::connect(self.path("nbd.sock")).unwrap()), export)
    }

    #[track_caller]
    pub(super) fn tcp_address(&self) -> SocketAddr {
        let found = || {
            let log = self.log(0);
            let (_, rest) = log.split_once("nbd://")?;
            rest.split('/').next()?.parse().ok()
        };
        wait_until("its address", || found().is_some());
        found().unwrap()
    }

    #[track_caller]
    pub(super) fn over_tcp(&self, export: &str) -> Connection {
        negotiated(Connection::over_tcp(TcpStream::connect(self.tcp_address()).unwrap()), export)
    }

    /// Ends the last one, and looks at what is left.
    #[track_caller]
    pub(super) fn stop(self) {
        self.stop_by(Signal::TERM);
    }

    #[track_caller]
    pub(super) fn stop_by(mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let status = ended(&mut self.child);
        let last = self.log(self.processes - 1);
        assert!(status.success(), "{status}: {last}");
        for name in ["pid", "nbd.sock", "control"] {
            assert!(!self.path(name).exists(), "{name} is left: {last}");
        }
        for process in 0..self.processes {
            assert!(!self.log(process).contains("panicked"), "{}", self.log(process));
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _gone = self.child.kill();
            for process in 0..self.processes {
                eprintln!("--- process {process}:\n{}", self.log(process));
            }
        }
    }
}

/// A process of a line, and its log.
fn command(
    (directory, shards): (&tempfile::TempDir, usize),
    arguments: &[String],
    number: usize,
    more: &[&str],
) -> (Command, PathBuf) {
    let path = |name: &str| directory.path().join(name).display().to_string();
    let log = directory.path().join(format!("log{number}"));
    // Every second one may be another version of the program.
    let other = std::env::var("RINGNBD_OTHER_BINARY").ok().filter(|_| number % 2 == 1);
    let mut command = Command::new(other.unwrap_or_else(crate::binary));
    command.args([
        "serve",
        "--log-format",
        "json",
        "--shards",
        &shards.to_string(),
        "--memory",
        &format!("{}M", 80 * shards),
        "--pidfile",
        &path("pid"),
    ]);
    command.args(["--unix", &path("nbd.sock"), "--control", &format!("unix:{}", path("control"))]);
    command.args(arguments).args(more).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(std::fs::File::create(&log).unwrap());
    (command, log)
}

#[track_caller]
pub(super) fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_until("the end of a process", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

#[track_caller]
pub(super) fn negotiated(mut connection: Connection, export: &str) -> Connection {
    connection.greet(MODERN);
    connection.choose(Mode::Structured);
    connection.go(export);
    connection
}

/// Writes and reads its own part of the disk until it is told to end: how often.
pub(super) fn verify(client: &mut Connection, start: u64, longest: usize, is_over: &AtomicBool) -> u64 {
    let (mut rounds, mut longest_round) = (0, Duration::ZERO);
    while !is_over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        rounds += 1;
        let length = longest - (rounds as usize * 4096) % (longest / 2);
        let data: Vec<u8> = (0..length).map(|at| (at as u64 * 7 + rounds) as u8).collect();
        client.write(start, &data);
        assert!(client.read(start, length) == data, "round {rounds}");
        if rounds % 8 == 0 {
            client.flush();
        }
        longest_round = longest_round.max(begun.elapsed());
    }
    println!("{rounds} rounds of at most {longest} bytes each way, the slowest in {longest_round:?}");
    rounds
}

/// `RINGNBD_HANDOVERS` makes it a campaign, `RINGNBD_OTHER_BINARY` one to and fro between two versions.
#[test]
fn clients_do_not_notice() {
    let wanted = std::env::var("RINGNBD_HANDOVERS").map_or(20, |number| number.parse().expect("a number"));
    let (mut line, _images) = Line::with_image(256 << 20, &[]);
    let mut clients = [line.over_unix(""), line.over_tcp(""), line.over_unix(""), line.over_tcp("")];
    let (is_over, mut earlier) = (AtomicBool::new(false), Vec::new());
    std::thread::scope(|scope| {
        let (is_over, places) =
            (&is_over, [(0, 16 << 10), (32 << 20, 16 << 10), (64 << 20, 32 << 20), (128 << 20, 32 << 20)]);
        let verifiers: Vec<_> = clients
            .iter_mut()
            .zip(places)
            .map(|(client, (start, longest))| scope.spawn(move || verify(client, start, longest, is_over)))
            .collect();
        for _ in 0..wanted {
            earlier.push(line.succeed());
            // New clients come to the new one.
            line.over_unix("").expect_alive();
            line.over_tcp("").expect_alive();
            assert!(!verifiers.iter().any(std::thread::ScopedJoinHandle::is_finished));
        }
        is_over.store(true, Ordering::Relaxed);
        verifiers.into_iter().for_each(|verifier| assert!(verifier.join().unwrap() > 0));
    });
    // A client that was too slow to fetch its reply stays where it is.
    let moved: usize = (0..wanted).map(|number| moved_by(&line, number)).sum();
    println!("{moved} connections moved in {wanted} hand-overs");
    assert!(moved >= wanted, "hardly any has moved");
    drop(clients);
    for mut process in earlier {
        let status = ended(&mut process);
        assert!(status.success(), "{status}");
    }
    line.stop();
}

/// Records go on with their numbers, and the client's TLS is another library's, of either version.
#[test]
fn clients_with_tls_do_not_notice() {
    let files = tempfile::tempdir().unwrap();
    crate::support::tls::write_files(files.path());
    let directory = files.path().to_str().unwrap();
    let tls = ["--tls", directory, "--tls-mode", "selective", "--tls-min-version", "1.2"];
    let (mut line, _images) = Line::with_image(128 << 20, &tls);
    let secure = |name, version| {
        let tunnel =
            crate::support::tls::tunnel_speaking(&line.path("nbd.sock"), files.path(), name, version);
        negotiated(Connection::over_unix(UnixStream::connect(&tunnel).unwrap()), "")
    };
    let (later, older) = (secure("later.sock", &TLS13), secure("older.sock", &TLS12));
    let mut clients = [later, older, line.over_unix("")];
    let (is_over, mut earlier) = (AtomicBool::new(false), Vec::new());
    std::thread::scope(|scope| {
        let is_over = &is_over;
        let verifiers: Vec<_> = clients
            .iter_mut()
            .zip([(0, 16 << 10), (32 << 20, 8 << 20), (64 << 20, 16 << 10)])
            .map(|(client, (start, longest))| scope.spawn(move || verify(client, start, longest, is_over)))
            .collect();
        (0..5).for_each(|_| earlier.push(line.succeed()));
        is_over.store(true, Ordering::Relaxed);
        verifiers.into_iter().for_each(|verifier| assert!(verifier.join().unwrap() > 0));
    });
    let moved: usize = (0..5).map(|number| moved_by(&line, number)).sum();
    assert!(moved >= 5, "hardly any has moved: {moved}");
    clients.iter_mut().for_each(Connection::expect_alive);
    drop(clients);
    earlier.iter_mut().for_each(|process| assert!(ended(process).success()));
    line.stop();
}

/// How many connections a process of a line has handed over.
pub(super) fn moved_by(line: &Line, process: usize) -> usize {
    connections_of(line, process, "handed over")
}

/// The number of connections in a line of the log of a process.
pub(super) fn connections_of(line: &Line, process: usize, message: &str) -> usize {
    let mut connections = None;
    // It may be written after the other one has said that it serves.
    wait_until(message, || {
        let log = line.log(process);
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut found = lines.filter(|line| line["message"] == message);
        connections = found.next().and_then(|line| line["connections"].as_u64());
        connections.is_some()
    });
    connections.expect("it was waited for") as usize
}

/// When a process of a line has logged this, in seconds of the minute.
fn logged_s(line: &Line, process: usize, message: &str) -> f64 {
    let mut found = None;
    wait_until("a line of the log", || {
        let log = line.log(process);
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        found = lines.find(|line| line["message"] == message);
        found.is_some()
    });
    let found = found.expect("it was waited for");
    let stamp = found["timestamp"].as_str().unwrap();
    stamp.rsplit_once(':').unwrap().1.trim_end_matches('Z').parse().unwrap()
}

/// A connection to a control socket that has left HTTP, as a new process makes one.
pub(super) fn upgraded(line: &Line) -> UnixStream {
    let mut stream = None;
    // The one before may not be over.
    wait_until("the server to hand over", || {
        let (asked, head) = ask(line);
        assert!(head.starts_with("HTTP/1.1 101 ") || head.starts_with("HTTP/1.1 409 "), "{head}");
        stream = Some(asked).filter(|_| head.starts_with("HTTP/1.1 101 "));
        stream.is_some()
    });
    stream.unwrap()
}

fn ask(line: &Line) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(line.path("control")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = "POST /api/v1/handover HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: ringnbd-handover\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    (stream, String::from_utf8(head).unwrap())
}

/// A message without descriptors: its length, its kind, and how many descriptors come along.
pub(super) fn message(kind: u8, fields: &[u8]) -> Vec<u8> {
    [&(fields.len() as u32).to_le_bytes()[..], &[kind, 0], fields].concat()
}

fn hello() -> Vec<u8> {
    message(0, &[&b"ringnbdH"[..], &[1, 0, 1, 0], &[0; 4]].concat())
}

/// Reads messages, and lets their descriptors go, up to one of this kind.
pub(super) fn read_up_to(stream: &mut UnixStream, kind: u8) {
    loop {
        let mut header = [0; 6];
        stream.read_exact(&mut header).unwrap();
        let mut fields = vec![0; u32::from_le_bytes(header[..4].try_into().unwrap()) as usize];
        stream.read_exact(&mut fields).unwrap();
        if header[4] == kind {
            return;
        }
    }
}

pub(super) const OFFERED: u8 = 4;
pub(super) const PREPARED: u8 = 5;
pub(super) const ALL_SENT: u8 = 7;
pub(super) const READY: u8 = 8;

/// PREPARED, with the only export and no listener.
fn prepared() -> Vec<u8> {
    message(PREPARED, &[&1_u32.to_le_bytes()[..], &0_u32.to_le_bytes(), &0_u32.to_le_bytes(), &[0]].concat())
}

/// READY of a process that is not there any more when COMMIT comes.
pub(super) fn ready_without_a_listener(stream: &mut UnixStream) {
    stream.shutdown(std::net::Shutdown::Read).unwrap();
    stream.write_all(&message(READY, &[])).unwrap();
}

pub(super) fn failed_handovers(line: &Line) -> usize {
    let log = line.log(0);
    log.matches("did not come about").count() + log.matches("the hand-over failed").count()
}

#[test]
fn a_new_process_that_ends_early_changes_nothing() {
    let (mut line, _images) = Line::with_image(128 << 20, &[]);
    let mut clients = [line.over_unix(""), line.over_tcp("")];
    let (is_over, mut failures) = (AtomicBool::new(false), 0);
    std::thread::scope(|scope| {
        let is_over = &is_over;
        let verifiers: Vec<_> = clients
            .iter_mut()
            .zip([0, 64 << 20])
            .map(|(client, start)| scope.spawn(move || verify(client, start, 32 << 20, is_over)))
            .collect();
        for step in 0..7 {
            let mut stream = upgraded(&line);
            if step > 0 {
                stream.write_all(&hello()).unwrap();
            }
            if step > 1 {
                read_up_to(&mut stream, OFFERED);
            }
            if step > 2 {
                stream.write_all(&prepared()).unwrap();
            }
            if step > 3 {
                read_up_to(&mut stream, ALL_SENT);
            }
            if step == 5 {
                stream.write_all(&message(READY, &[])[..3]).unwrap();
            }
            if step == 6 {
                ready_without_a_listener(&mut stream);
            }
            drop(stream);
            failures += 1;
            wait_until("the server to notice", || failed_handovers(&line) == failures);
            line.over_unix("").expect_alive();
        }
        for garbage in [vec![255; 64], message(0, b"ringnbdX"), message(READY, &[]), message(77, &[1; 9])] {
            let mut stream = upgraded(&line);
            stream.write_all(&garbage).unwrap();
            // It ends the conversation, with a reset perhaps.
            let _reset = stream.read_to_end(&mut Vec::new());
            failures += 1;
            wait_until("the server to notice", || failed_handovers(&line) == failures);
        }
        is_over.store(true, Ordering::Relaxed);
        verifiers.into_iter().for_each(|verifier| assert!(verifier.join().unwrap() > 0));
    });
    let mut before = line.succeed();
    assert!(ended(&mut before).success());
    clients.iter_mut().for_each(Connection::expect_alive);
    drop(clients);
    line.stop();
}

/// What cannot move is served where it is, until it ends. The new process has the sockets.
#[test]
fn what_cannot_move_stays_until_it_ends() {
    let images = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = images.path().join("image");
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let image = format!("file={}", path.display());
    let mut line = Line::start(&[&image, "memory=mem:1M", "nothing=null:1M", "--tcp", "127.0.0.1:0"]);
    let mut stays = line.over_unix("memory");
    stays.write(0, &[7; 4096]);
    let mut moves = [line.over_unix("file"), line.over_tcp("nothing")];
    moves[0].write(4096, &[8; 4096]);
    let mut before = line.succeed();
    assert_eq!(moved_by(&line, 0), 2);
    assert_eq!(stays.read(0, 4096), [7; 4096]);
    assert_eq!(moves[0].read(4096, 4096), [8; 4096]);
    moves[1].expect_alive();
    // The other one has a memory of its own.
    assert_eq!(line.over_unix("memory").read(0, 4096), [0; 4096]);
    assert!(before.try_wait().unwrap().is_none(), "somebody is left");
    // The image belongs to the line, whoever of it has it.
    let second = Command::new(crate::binary())
        .args(["serve", "--unix", &line.path("other").display().to_string(), &image, "--sandbox", "off"])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(2), "{}", String::from_utf8_lossy(&second.stderr));
    drop(stays);
    assert!(ended(&mut before).success());
    drop(moves);
    line.stop();
}

/// An export that grows, or is described otherwise, is another one with the same bytes: the clients of both move.
#[test]
fn clients_of_an_export_that_has_changed_move() {
    let (mut line, _images) = Line::with_image(1 << 20, &[]);
    let control = format!("unix:{}", line.path("control").display());
    let change = |arguments: &[&str]| {
        let output = Command::new(crate::binary())
            .args(["ctl", "--control", &control])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let mut clients = vec![line.over_unix("")];
    change(&["resize", "", "2M"]);
    clients.push(line.over_tcp(""));
    // Nobody has this one, and it is forgotten.
    change(&["export", "set", "", "--description", "other words"]);
    change(&["resize", "", "3M"]);
    clients.push(line.over_unix(""));
    let sizes: Vec<_> = clients.iter().map(|client| client.export.size >> 20).collect();
    assert_eq!(sizes, [1, 2, 3]);
    let check =
        Command::new(crate::binary()).args(["upgrade", "--check", "--control", &control]).output().unwrap();
    assert_eq!(String::from_utf8(check.stdout).unwrap(), "All connections can move: 3.\n");
    clients[2].write(0, &[6; 4096]);
    for _ in 0..2 {
        let mut before = line.succeed();
        assert!(ended(&mut before).success());
    }
    assert_eq!([moved_by(&line, 0), moved_by(&line, 1)], [3, 3]);
    for client in &mut clients {
        assert_eq!(client.read(0, 4096), [6; 4096]);
    }
    drop(clients);
    line.stop();
}

/// One thousand connections, each with half a request.
#[test]
fn a_thousand_connections_move_at_once() {
    let (mut line, _images) = Line::with_image(64 << 20, &[]);
    let mut clients: Vec<_> = (0..1000).map(|_| line.over_unix("")).collect();
    let request = crate::support::raw::Request::read(0, 4096).encode(Mode::Structured);
    let halves = |client: usize| request.split_at(client % request.len());
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(halves(number).0);
    }
    let begin = Instant::now();
    let mut before = line.succeed();
    println!("{:?} with the start of the process", begin.elapsed());
    assert_eq!(moved_by(&line, 0), 1000);
    // Between these two the connections wait.
    let (from, to) = (logged_s(&line, 1, "sandbox"), logged_s(&line, 1, "took over"));
    println!("{:.3} s from its readiness to the last connection", (to - from).rem_euclid(60.0));
    assert!(ended(&mut before).success());
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(halves(number).1);
        let reply = client.reply_to(&crate::support::raw::Request::read(0, 4096));
        assert_eq!(reply.error, 0, "client {number}");
    }
    drop(clients);
    line.stop();
}

#[test]
fn a_server_that_cannot_be_taken_over_is_told_of() {
    let (line, _images) = Line::with_image(1 << 20, &[]);
    let refused = |control: &str, more: &[&str]| {
        let output = Command::new(crate::binary())
            .args(["serve", "--takeover", control, "--unix", &line.path("other").display().to_string()])
            .args(more)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let nobody = refused(&format!("unix:{}", line.path("nobody").display()), &["mem:1M"]);
    assert!(nobody.contains("--control"), "{nobody}");
    let nbd = refused(&format!("unix:{}", line.path("nbd.sock").display()), &["mem:1M"]);
    assert!(nbd.contains("does not speak as a control socket does"), "{nbd}");
    // Another pidfile than its own is not the old server's business, and what it cannot open ends it.
    let control = format!("unix:{}", line.path("control").display());
    let missing = refused(&control, &["/nonexistent"]);
    assert!(missing.contains("does not exist"), "{missing}");
    wait_until("the server to notice", || failed_handovers(&line) == 1);
    line.over_unix("").expect_alive();
    line.stop();
}
