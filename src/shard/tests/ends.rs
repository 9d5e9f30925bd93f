//! How clients learn that their connections are over.
//!
//! Kernels before 6.13 keep a socket open that a shard has closed, while an older operation of its ring goes
//! on. Here the test does so on any kernel: it has the server's end of the socket once more.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use socket2::Socket;

use super::departure::{ID, another, arrive, depart};
use super::*;

/// The number of the connection that ends.
const NUMBER: u64 = 2;
const PATIENCE: Duration = Duration::from_secs(20);
/// A read of the first 512 bytes takes its time.
const URI: &str = "fault:delay.read=50ms,range=0+512:mem:64M";

/// A client, and its server's end of the connection, once more.
struct Watched {
    client: Socket,
    _twin: OwnedFd,
}

fn connect(running: &Running, over_tcp: bool) -> Watched {
    let (client, server): (Socket, OwnedFd) = if over_tcp {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client.into(), listener.accept().unwrap().0.into())
    } else {
        let (client, server) = UnixStream::pair().unwrap();
        (client.into(), server.into())
    };
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let _twin = server.try_clone().unwrap();
    let negotiated = running.negotiated(server, ReplyMode::Simple);
    let negotiated = NewConnection { number: NUMBER, over_tcp, ..negotiated };
    assert!(running.shard.connect(negotiated).is_ok());
    Watched { client, _twin }
}

impl Watched {
    fn ask(&mut self, offset: u64) {
        self.client.write_all(&request(0, 7, offset, 512)).unwrap();
    }

    fn hear(&mut self, what: &str) {
        let mut reply = [0; 16 + 512];
        self.client.read_exact(&mut reply).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(reply[..16], simple(0, 7), "{what}");
    }

    fn is_at_end(&mut self, what: &str) {
        match self.client.read(&mut [0]) {
            Ok(0) => {}
            Ok(_) => panic!("{what}: more than was asked for"),
            // So a stream ends that has bytes of ours unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{what}: the client does not see the end: {error}"),
        }
    }

    /// Whether nothing has happened to it.
    fn goes_on(&mut self) -> bool {
        self.client.set_nonblocking(true).unwrap();
        let read = self.client.read(&mut [0]);
        self.client.set_nonblocking(false).unwrap();
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

/// What the shard says in its next turn.
fn ask_shard(running: &Running) -> Box<Interval> {
    let (told, heard) = mpsc::channel();
    assert!(running.shard.collect(None, true, move |interval| told.send(interval).unwrap()));
    heard.recv_timeout(PATIENCE).unwrap()
}

/// The shard has acted on what it was told before: messages are taken at the beginning of a turn.
fn wait_for_a_turn(running: &Running) {
    (0..2).for_each(|_| drop(ask_shard(running)));
}

/// Cuts the youngest connection off.
fn kill(running: &Running) {
    let interval = ask_shard(running);
    let youngest = interval.connections.iter().map(|connection| connection.since_ns).max().unwrap();
    assert!(running.shard.end_connection(youngest, |found| assert!(found)));
}

fn remove(running: &Running, how: Removal) {
    assert!(running.shard.remove(ID, how, || {}));
}

/// Who ends a connection, and how.
type End = (&'static str, fn(&Running, &mut Watched));

/// What has begun is answered before these.
const GRACEFUL: &[End] = &[
    ("DISC", |_, watched| watched.client.write_all(&request(2, 0, 0, 0)).unwrap()),
    ("the client sends no more", |_, watched| watched.client.shutdown(std::net::Shutdown::Write).unwrap()),
    ("too old", |running, _| assert!(running.shard.dismiss(vec![NUMBER], Dismissal::TooOld))),
    ("unwelcome", |running, _| assert!(running.shard.dismiss(vec![NUMBER], Dismissal::Unwelcome))),
    ("grown", |running, _| assert!(running.shard.dismiss(vec![NUMBER], Dismissal::Grown))),
    ("removed", |running, _| remove(running, Removal::AtOnce)),
    ("removed with errors", |running, _| remove(running, Removal::WithErrors)),
    ("the server stops", |running, _| running.shard.shutdown()),
];

/// And these do not wait.
const ABRUPT: &[End] = &[
    ("no NBD", |_, watched| watched.client.write_all(&[7; 28]).unwrap()),
    ("killed", |running, _| kill(running)),
    ("removed, cut off", |running, _| remove(running, Removal::CutOff)),
];

#[test]
fn a_client_sees_every_end_though_the_kernel_keeps_its_socket_open() {
    for over_tcp in [false, true] {
        for (what, end) in GRACEFUL.iter().chain(ABRUPT) {
            let running = start(URI);
            let idle = running.connect(ReplyMode::Simple);
            let mut watched = connect(&running, over_tcp);
            watched.ask(4096);
            watched.hear(what);
            end(&running, &mut watched);
            watched.is_at_end(what);
            drop((idle, watched));
            running.stop();
        }
    }
}

#[test]
fn who_has_asked_for_nothing_sees_the_end_as_well() {
    for over_tcp in [false, true] {
        let running = start(URI);
        let idle = running.connect(ReplyMode::Simple);
        let mut watched = connect(&running, over_tcp);
        while running.shard.connections() < 2 {
            std::thread::yield_now();
        }
        running.shard.shutdown();
        watched.is_at_end("the server stops");
        drop((idle, watched));
        running.stop();
    }
}

#[test]
fn what_has_begun_is_answered_before_the_end_is_told() {
    for over_tcp in [false, true] {
        for (what, end) in GRACEFUL {
            let running = start(URI);
            let mut watched = connect(&running, over_tcp);
            // Both are there in one receive: the second one was answered when the first has begun.
            watched.client.write_all(&[request(0, 7, 0, 512), request(0, 7, 4096, 512)].concat()).unwrap();
            watched.hear(what);
            end(&running, &mut watched);
            watched.hear(what);
            watched.is_at_end(what);
            drop(watched);
            running.stop();
        }
    }
}

/// Two shards, the second for whoever has moved.
fn two_shards() -> (Running, Running) {
    let one = start_with(URI, Limits { connections: 64, ..Limits::SMALLEST });
    let other = another(&one.export);
    (one, other)
}

/// What a shard does to a connection that another process has, or is about to have, its client does not see.
#[test]
fn who_has_moved_sees_no_end() {
    let orders: &[End] = &[
        ("nothing", |_, _| {}),
        ("too old", |running, _| assert!(running.shard.dismiss(vec![NUMBER], Dismissal::TooOld))),
        ("killed", |running, _| kill(running)),
        ("removed", |running, _| remove(running, Removal::AtOnce)),
        ("removed, cut off", |running, _| remove(running, Removal::CutOff)),
    ];
    for (what, order) in orders {
        for over_tcp in [false, true] {
            let (one, other) = two_shards();
            let mut watched = connect(&one, over_tcp);
            watched.ask(4096);
            watched.hear(what);
            let leaving = depart(&one.shard, PATIENCE);
            order(&one, &mut watched);
            wait_for_a_turn(&one);
            assert!(one.shard.settle(Settlement::Moved), "{what}");
            while one.shard.connections() > 0 {
                std::thread::yield_now();
            }
            assert!(watched.goes_on(), "{what}: it is told of an end");
            leaving.into_iter().for_each(|leaving| arrive(&other, leaving, None));
            watched.ask(4096);
            watched.hear(what);
            drop(watched);
            one.stop();
            other.stop();
        }
    }
}

/// The order to end comes with the word that a connection has moved, or before it.
#[test]
fn who_has_moved_sees_no_end_of_the_server() {
    for (is_settled, at_once) in [(true, false), (true, true), (false, false), (false, true)] {
        let what = format!("settled: {is_settled}, at once: {at_once}");
        let (one, other) = two_shards();
        let mut watched = connect(&one, false);
        watched.ask(4096);
        watched.hear(&what);
        let leaving = depart(&one.shard, PATIENCE);
        assert!(!is_settled || one.shard.settle(Settlement::Moved), "{what}");
        if at_once {
            one.shard.cut_off();
        }
        one.stop();
        assert!(watched.goes_on(), "{what}: it is told of an end");
        leaving.into_iter().for_each(|leaving| arrive(&other, leaving, None));
        watched.ask(4096);
        watched.hear(&what);
        drop(watched);
        other.stop();
    }
}

#[test]
fn who_was_to_move_and_stays_ends_as_it_was_told_to() {
    // When the server stops it might have moved.
    let orders = GRACEFUL.iter().chain(ABRUPT).filter(|(what, _)| *what != "the server stops");
    for (what, order) in orders {
        let running = start(URI);
        let mut watched = connect(&running, false);
        watched.ask(4096);
        watched.hear(what);
        let leaving = depart(&running.shard, PATIENCE);
        assert_eq!(leaving.len(), 1, "{what}");
        order(&running, &mut watched);
        wait_for_a_turn(&running);
        assert!(running.shard.settle(Settlement::Stay), "{what}");
        watched.is_at_end(what);
        drop((leaving, watched));
        running.stop();
    }
}
