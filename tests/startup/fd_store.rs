//! A service is restarted, and the service manager keeps its connections meanwhile.
//!
//! Oracle: what the clients wrote, over connections that they never make anew; and a manager of the test's own, which does what
//! systemd's documentation says of its store of descriptors.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use rustix::net::sockopt::{socket_acceptconn, socket_domain};
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process};

use super::handover::{Line, connections_of, ended, negotiated, verify};
use super::handover_images::{Ending, clients as clients_of_images, house, line_by, run, text, verified};
use crate::support::raw::Connection;
use crate::support::wait_until;

const STATE: &str = "kept-state";
const SOCKET: &str = "kept-socket";
/// What a message may bring.
const AT_ONCE: usize = 253;

/// Descriptors and their names.
type Kept = Vec<(String, OwnedFd)>;

/// A service manager with a store of descriptors.
struct Manager {
    directory: tempfile::TempDir,
    room: AtomicUsize,
    heard: Arc<Heard>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Heard {
    kept: Mutex<Kept>,
    /// Nothing is removed.
    removes_nothing: AtomicBool,
    most_at_once: AtomicUsize,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let heard = Arc::new(Heard::default());
        let hears = Arc::clone(&heard);
        let thread = std::thread::spawn(move || while hears.hear(&socket) {});
        Self { directory, room: AtomicUsize::new(512), heard, thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("notify")
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.heard.kept.lock().unwrap()
    }

    /// How many are kept under names that begin so.
    fn count(&self, front: &str) -> usize {
        self.kept().iter().filter(|(name, _)| name.starts_with(front)).count()
    }

    /// Has a process started with all that is kept, as its descriptors from 3 on.
    fn prepare(&self, command: &mut Command) {
        command.env("NOTIFY_SOCKET", self.path());
        command.env("FDSTORE", self.room.load(Ordering::Relaxed).to_string());
        let kept = self.kept();
        let names: Vec<_> = kept.iter().map(|(name, _)| name.as_str()).collect();
        command.env("LISTEN_FDS", kept.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        let numbers: Vec<RawFd> = kept.iter().map(|(_, file)| file.as_raw_fd()).collect();
        let dup = |from: RawFd, to: RawFd| {
            // SAFETY: numbers of open descriptors, in a process that runs nothing else before the program.
            if unsafe { libc::dup2(from, to) } < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        };
        // The child copies them, first above all the numbers that they get. Copies of ours would keep a socket
        // listening that the program has let go of, for as long as this thread does not come to close them.
        const ABOVE: RawFd = 1000;
        let pass = move || {
            numbers.iter().zip(ABOVE..).try_for_each(|(number, above)| dup(*number, above))?;
            (ABOVE..).zip(3..).take(numbers.len()).try_for_each(|(above, number)| dup(above, number))?;
            numbers.iter().zip(ABOVE..).for_each(|(_, above)| {
                // SAFETY: its own copy.
                unsafe { libc::close(above) };
            });
            Ok(())
        };
        // SAFETY: between fork and exec it calls dup2 and close alone.
        unsafe { command.pre_exec(pass) };
    }

    /// The service ends, as its manager wants.
    #[track_caller]
    fn stop(&self, line: &mut Line) {
        kill_process(Pid::from_child(&line.child), Signal::TERM).unwrap();
        let status = ended(&mut line.child);
        assert!(status.success(), "{status}: {}", line.log(line.processes - 1));
    }

    #[track_caller]
    fn start(&self, line: &mut Line) {
        let (mut command, log) = line.next();
        self.prepare(&mut command);
        line.child = command.spawn().unwrap();
        line.wait_for_pidfile(&log);
    }

    /// Gives how many connections were kept, and how many went on.
    #[track_caller]
    fn restart(&self, line: &mut Line) -> (usize, usize) {
        self.stop(line);
        let last = line.processes - 1;
        self.start(line);
        let kept = connections_of(line, last, "kept for the next process");
        (kept, connections_of(line, last + 1, "went on with connections that were kept"))
    }

    #[track_caller]
    fn wait_until_empty(&self) {
        wait_until("the store to be empty", || self.kept().is_empty());
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let end = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"END", self.path()));
        if let (Ok(_), Some(thread)) = (end, self.thread.take()) {
            let _panicked = thread.join();
        }
    }
}

impl Heard {
    /// Hears one message; false at the last.
    fn hear(&self, socket: &UnixDatagram) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 512];
        let received =
            recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        let length = received.unwrap().bytes;
        let mut files = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                files.extend(rights);
            }
        }
        self.most_at_once.fetch_max(files.len(), Ordering::Relaxed);
        let text = String::from_utf8_lossy(&bytes[..length]);
        let lines: Vec<_> = text.lines().collect();
        let name = lines.iter().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
        let mut kept = self.kept.lock().unwrap();
        if lines.contains(&"FDSTORE=1") {
            assert!(lines.contains(&"FDPOLL=0"), "connections that end are told to the next process");
            kept.extend(files.into_iter().map(|file| (name.to_owned(), file)));
        } else if lines.contains(&"FDSTOREREMOVE=1") && !self.removes_nothing.load(Ordering::Relaxed) {
            kept.retain(|(of, _)| of != name);
        }
        // What came with BARRIER=1 is closed here.
        text != "END"
    }
}

/// A server with an image, and its manager.
fn service(arguments: &[&str]) -> (Manager, Line, tempfile::TempDir) {
    let manager = Manager::new();
    let images = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = text(&images, "image");
    std::fs::File::create(&path).unwrap().set_len(256 << 20).unwrap();
    let all = [&[path.as_str(), "--tcp", "127.0.0.1:0"], arguments].concat();
    let line = Line::start_by(&all, |command| manager.prepare(command));
    (manager, line, images)
}

/// Ends it by hand, which keeps nothing, and looks at what is left.
#[track_caller]
fn end(line: Line) {
    line.stop_by(Signal::INT);
}

/// A unix socket in a directory whose clients reach a TCP address.
fn relay_to(address: SocketAddr, directory: &Path) -> PathBuf {
    let path = directory.join("relay.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(address).unwrap());
            server.set_nodelay(true).unwrap();
            let (mut from_client, mut to_client) = (client.try_clone().unwrap(), client);
            let (mut from_server, mut to_server) = (server.try_clone().unwrap(), server);
            std::thread::spawn(move || {
                let _gone = std::io::copy(&mut from_client, &mut to_server);
                let _gone = to_server.shutdown(Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _gone = std::io::copy(&mut from_server, &mut to_client);
                let _gone = to_client.shutdown(Shutdown::Write);
            });
        }
    });
    path
}

#[test]
fn clients_do_not_notice_a_restart() {
    let files = tempfile::tempdir().unwrap();
    crate::support::tls::write_files(files.path());
    let tls = ["--tls", files.path().to_str().unwrap(), "--tls-mode", "selective"];
    let (manager, mut line, _images) = service(&tls);
    let over_unix = crate::support::tls::tunnel(&line.path("nbd.sock"), files.path());
    let relay = relay_to(line.tcp_address(), files.path());
    let over_tcp = crate::support::tls::tunnel(&relay, files.path());
    let secure = |tunnel: &Path| negotiated(Connection::over_unix(UnixStream::connect(tunnel).unwrap()), "");
    let mut clients = [
        line.over_unix(""),
        line.over_tcp(""),
        line.over_unix(""),
        line.over_tcp(""),
        secure(&over_unix),
        secure(&over_unix),
        secure(&over_tcp),
        secure(&over_tcp),
    ];
    const PLACES: [(u64, usize); 8] = [
        (0, 16 << 10),
        (32 << 20, 16 << 10),
        (64 << 20, 32 << 20),
        (128 << 20, 32 << 20),
        (192 << 20, 16 << 10),
        (208 << 20, 8 << 20),
        (224 << 20, 16 << 10),
        (240 << 20, 8 << 20),
    ];
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let is_over = &is_over;
        let _ends_them = Ending(is_over);
        let verifiers: Vec<_> = clients
            .iter_mut()
            .zip(PLACES)
            .map(|(client, (start, longest))| scope.spawn(move || verify(client, start, longest, is_over)))
            .collect();
        // The last two follow each other without a pause.
        for _ in 0..6 {
            assert_eq!(manager.restart(&mut line), (8, 8));
            assert!(!verifiers.iter().any(std::thread::ScopedJoinHandle::is_finished));
        }
        is_over.store(true, Ordering::Relaxed);
        verifiers.into_iter().for_each(|verifier| assert!(verifier.join().unwrap() > 0));
    });
    // New ones find the same sockets.
    line.over_unix("").expect_alive();
    line.over_tcp("").expect_alive();
    clients.iter_mut().for_each(Connection::expect_alive);
    manager.wait_until_empty();
    // Whoever ends is gone: nobody else has the connection.
    drop(clients);
    end(line);
}

#[test]
fn clients_of_stores_do_not_notice_a_restart() {
    let (manager, house) = (Manager::new(), house());
    let mut line = line_by(&house, |command| manager.prepare(command));
    let mut clients = clients_of_images(&line);
    clients[1].2 = 16 << 20;
    verified(&mut clients, |all_go_on| {
        for _ in 0..3 {
            assert_eq!(manager.restart(&mut line), (5, 5));
            all_go_on();
        }
    });
    let known = [0x5a; 8192];
    clients[0].0.write(48 << 20, &known);
    clients[3].0.write(24 << 20, &known);
    assert_eq!(manager.restart(&mut line), (5, 5));
    assert_eq!(clients[0].0.read(48 << 20, 8192), known);
    assert_eq!(clients[3].0.read(24 << 20, 8192), known);
    assert_eq!(clients[3].0.read(28 << 20, 4096), [9; 4096]);
    manager.wait_until_empty();
    drop(clients);
    end(line);
    run(&["store", "check", &text(&house, "store")]);
}

/// Starts it again after something was done to what is kept: all of its clients are closed, it serves others, and says why.
#[track_caller]
fn is_refused(harm: impl Fn(&mut Kept), why: &str) {
    let (manager, mut line, _images) = service(&[]);
    let mut clients = [line.over_unix(""), line.over_tcp("")];
    clients.iter_mut().for_each(|client| client.write(0, &[1; 4096]));
    manager.stop(&mut line);
    harm(&mut manager.kept());
    manager.start(&mut line);
    manager.wait_until_empty();
    clients.iter_mut().for_each(|client| drop(client.drain_to_close(why)));
    let mut client = line.over_unix("");
    assert_eq!(client.read(0, 4096), [1; 4096]);
    let log = line.log(1);
    assert!(log.contains(why), "{why}: {log}");
    drop(client);
    end(line);
}

fn state(kept: &Kept) -> std::fs::File {
    let (_, state) = kept.iter().find(|(name, _)| name == STATE).expect("there is a state");
    state.try_clone().unwrap().into()
}

#[test]
fn a_state_that_is_damaged_is_refused_and_the_server_starts() {
    let flip = |kept: &mut Kept| {
        let (state, mut byte) = (state(kept), [0]);
        let middle = state.metadata().unwrap().len() / 2;
        state.read_exact_at(&mut byte, middle).unwrap();
        state.write_all_at(&[!byte[0]], middle).unwrap();
    };
    is_refused(flip, "a checksum does not fit");
    is_refused(|kept| state(kept).set_len(state(kept).metadata().unwrap().len() - 1).unwrap(), "it is cut");
    is_refused(|kept| state(kept).write_all_at(&[9, 9], 8).unwrap(), "its state is of version 2313");
    is_refused(|kept| state(kept).set_len(0).unwrap(), "taken over before");
    is_refused(|kept| kept.retain(|(name, _)| name != STATE), "it is missing");
    // Its file is opened anew, whose lock the manager had.
    is_refused(|kept| kept.retain(|(name, _)| !name.starts_with("kept-file-1")), "cannot go on");
}

#[test]
fn who_has_lost_its_socket_connects_again_and_the_others_go_on() {
    let (manager, mut line, _images) = service(&[]);
    let (mut local, mut remote) = (line.over_unix(""), [line.over_tcp(""), line.over_tcp("")]);
    manager.stop(&mut line);
    manager.kept().retain(|(name, socket)| {
        let is_remote = || socket_domain(socket) == Ok(AddressFamily::INET);
        name != SOCKET || !is_remote() || socket_acceptconn(socket).unwrap()
    });
    manager.start(&mut line);
    assert_eq!(connections_of(&line, 1, "went on with connections that were kept"), 1);
    local.expect_alive();
    remote.iter_mut().for_each(|client| drop(client.drain_to_close("its socket is gone")));
    line.over_tcp("").expect_alive();
    drop(local);
    end(line);
}

#[test]
fn as_many_are_kept_as_there_is_room_for() {
    let (manager, mut line, _images) = service(&[]);
    let mut clients: Vec<_> = (0..300).map(|_| line.over_unix("")).collect();
    assert_eq!(manager.restart(&mut line), (300, 300));
    manager.wait_until_empty();
    let most = manager.heard.most_at_once.load(Ordering::Relaxed);
    assert!((2..=AT_ONCE).contains(&most), "{most}");
    // The listeners of clients and of the control socket, the state, files, and two clients.
    manager.stop(&mut line);
    let all = manager.kept().len();
    assert_eq!((manager.count(STATE), manager.count(SOCKET)), (1, 303));
    manager.room.store(all - 298, Ordering::Relaxed);
    manager.start(&mut line);
    assert_eq!(manager.restart(&mut line), (2, 2));
    let left = clients.iter_mut().filter_map(|client| {
        client.try_send(&crate::support::raw::Request::flush().encode(client.mode)).ok()?;
        (!client.closes_before_a_byte()).then_some(())
    });
    assert_eq!(left.count(), 2);
    assert!(line.log(2).contains("raise FileDescriptorStoreMax="), "{}", line.log(2));
    drop(clients);
    end(line);
}

#[test]
fn a_stop_ends_connections_when_the_manager_lets_them_go() {
    let (manager, mut line, _images) = service(&["memory=mem:1M"]);
    let (mut kept, mut volatile) = ([line.over_unix(""), line.over_tcp("")], line.over_unix("memory"));
    manager.stop(&mut line);
    volatile.drain_to_close("its bytes are gone");
    assert_eq!(manager.count(SOCKET), 2 + 3);
    manager.kept().clear();
    kept.iter_mut().for_each(|client| drop(client.drain_to_close("a stop")));
    manager.start(&mut line);
    line.over_unix("").expect_alive();
    // Nothing is kept where nobody is.
    manager.stop(&mut line);
    assert!(manager.kept().is_empty() && !line.path("nbd.sock").exists());
    manager.start(&mut line);
    end(line);
}

/// `RuntimeDirectory=` is removed and made anew by a restart.
#[test]
fn a_socket_whose_file_is_gone_is_made_anew() {
    let (manager, mut line, _images) = service(&[]);
    let mut client = line.over_unix("");
    manager.stop(&mut line);
    ["nbd.sock", "control"].iter().for_each(|name| std::fs::remove_file(line.path(name)).unwrap());
    manager.start(&mut line);
    client.expect_alive();
    line.over_unix("").expect_alive();
    drop(client);
    end(line);
}

/// The manager is slow to let go, and the process that has taken them is killed.
#[test]
fn nothing_is_taken_over_twice() {
    let (manager, mut line, _images) = service(&[]);
    let mut client = line.over_tcp("");
    manager.heard.removes_nothing.store(true, Ordering::Relaxed);
    assert_eq!(manager.restart(&mut line), (1, 1));
    client.expect_alive();
    assert_eq!(manager.count(STATE), 1);
    line.child.kill().unwrap();
    ended(&mut line.child);
    manager.heard.removes_nothing.store(false, Ordering::Relaxed);
    manager.start(&mut line);
    manager.wait_until_empty();
    client.drain_to_close("the process that had it was killed");
    assert!(line.log(2).contains("was taken over before"), "{}", line.log(2));
    line.over_unix("").expect_alive();
    end(line);
}

/// Its clients connect again, as after a restart without a store; and the lock of the file is no hindrance.
#[test]
fn an_export_that_has_changed_is_opened_anew() {
    let (manager, mut line, images) = service(&["nothing=null:1M"]);
    let (mut of_file, mut of_null) = (line.over_unix(""), line.over_tcp("nothing"));
    of_file.write(0, &[7; 4096]);
    line.arguments[0] = format!("file:{}?mapped=false", text(&images, "image"));
    assert_eq!(manager.restart(&mut line), (2, 1));
    of_null.expect_alive();
    of_file.drain_to_close("another export");
    assert_eq!(line.over_unix("").read(0, 4096), [7; 4096]);
    drop(of_null);
    end(line);
}

/// A start that fails takes nothing, so that the next one can.
#[test]
fn a_start_that_fails_loses_nothing() {
    let (manager, mut line, _images) = service(&[]);
    let mut client = line.over_tcp("");
    client.write(0, &[3; 4096]);
    manager.stop(&mut line);
    line.arguments.extend(["--unix", "/nonexistent/nbd.sock"].map(str::to_owned));
    let (mut command, log) = line.next();
    manager.prepare(&mut command);
    let mut failing = command.spawn().unwrap();
    drop(command);
    assert!(!ended(&mut failing).success(), "{}", std::fs::read_to_string(log).unwrap());
    line.arguments.truncate(line.arguments.len() - 2);
    manager.start(&mut line);
    assert_eq!(connections_of(&line, 2, "went on with connections that were kept"), 1);
    assert_eq!(client.read(0, 4096), [3; 4096]);
    manager.wait_until_empty();
    drop(client);
    end(line);
}
