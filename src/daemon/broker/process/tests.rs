//! Both ends in one process: the broker's on a thread, the server's in a runtime, or by hand.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Barrier, Mutex};
use std::thread::JoinHandle;

use rustix::net::{AddressFamily, SocketFlags, socketpair};

use super::super::client::{Broker, BrokerError};
use super::super::message::{MESSAGE_BYTES, OpenMode};
use super::*;

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

type Opened = OpenAnswer;

/// A broker that opens in its own way.
fn broker(open: impl Fn(&BrokerRequest) -> Opened + Send + Sync + 'static) -> (OwnedFd, JoinHandle<()>) {
    let (ours, theirs) = pair();
    (ours, std::thread::spawn(move || serve(theirs, SocketOwners::default(), open)))
}

fn with_client<T>(socket: OwnedFd, work: impl AsyncFnOnce(Rc<Broker>) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new()
        .block_on(&runtime, async { work(Rc::new(Broker::new(socket).unwrap())).await })
}

/// What a request names, as the content of a pipe.
fn echo(request: &BrokerRequest) -> Opened {
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;
    let BrokerRequest::Open { path, .. } = request else { return Err("no configuration".to_owned()) };
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(path.as_os_str().as_bytes()).unwrap();
    Ok(Some(reader.into()))
}

fn text(file: OwnedFd) -> String {
    let mut text = String::new();
    File::from(file).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn many_calls_at_once_get_each_its_own_answer() {
    let (socket, thread) = broker(|request| match request {
        BrokerRequest::Open { path, .. } if path.as_os_str().len() % 3 == 0 => {
            Err(format!("not {}", path.display()))
        }
        request => echo(request),
    });
    with_client(socket, async |broker| {
        let calls: Vec<_> = (0..500)
            .map(|number| {
                let broker = Rc::clone(&broker);
                tokio::task::spawn_local(async move {
                    let path = format!("/{}/{number}", "x".repeat(number % 7));
                    let answer = broker.open(Path::new(&path), OpenMode::Read).await;
                    match path.len() % 3 {
                        0 => assert_eq!(answer.unwrap_err(), BrokerError::Refused(format!("not {path}"))),
                        _ => assert_eq!(text(answer.unwrap()), path),
                    }
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        assert_eq!(broker.configuration().await.unwrap_err().to_string(), "no configuration");
        let long = PathBuf::from("x".repeat(MESSAGE_BYTES));
        let refused = broker.open(&long, OpenMode::Read).await.unwrap_err();
        assert!(refused.to_string().contains("too long"));
    });
    thread.join().unwrap();
}

#[test]
fn an_open_that_hangs_stops_nobody() {
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let (socket, thread) = broker(move |request| {
        if matches!(request, BrokerRequest::Open { path, .. } if path == Path::new("/hang")) {
            let _until_it_is_dropped = released.lock().unwrap().recv();
        }
        echo(request)
    });
    with_client(socket, async |broker| {
        let hanging: Vec<_> = (0..AT_ONCE - 1)
            .map(|_| {
                let broker = Rc::clone(&broker);
                tokio::task::spawn_local(async move { broker.open(Path::new("/hang"), OpenMode::Read).await })
            })
            .collect();
        for number in 0..100 {
            let path = format!("/{number}");
            assert_eq!(text(broker.open(Path::new(&path), OpenMode::Read).await.unwrap()), path);
        }
        assert!(hanging.iter().all(|call| !call.is_finished()));
        drop(release);
        for call in hanging {
            assert_eq!(text(call.await.unwrap().unwrap()), "/hang");
        }
    });
    thread.join().unwrap();
}

/// Sends bytes by hand, and gives the answer.
fn say(socket: &OwnedFd, bytes: &[u8]) -> (Option<BrokerReply>, usize) {
    packet::send(socket.as_fd(), bytes, None).unwrap();
    let (bytes, files) = packet::receive(socket.as_fd(), RecvFlags::empty()).unwrap();
    (BrokerReply::decode(&bytes), files.len())
}

#[test]
fn a_server_that_was_taken_over_gets_refusals() {
    let (socket, thread) = broker(echo);
    let path = || PathBuf::from("/a");
    let opened = BrokerRequest::Open { id: 5, access: OpenMode::Read, path: path() }.encode();
    for bytes in [
        b"x".to_vec(),
        vec![0xff; 9],
        vec![b'a'; 100_000],
        BrokerRequest::Directory(path()).encode(),
        BrokerRequest::Device(path()).encode(),
        BrokerRequest::ConfigurationIs(path()).encode(),
        BrokerRequest::GivesBack(path()).encode(),
        BrokerRequest::Begin.encode(),
        opened[..9].to_vec(),
    ] {
        let (reply, files) = say(&socket, &bytes);
        assert!(matches!(reply, Some(BrokerReply::Refused { id: 0, .. })) && files == 0, "{reply:?}");
    }
    // A descriptor that comes with a message is closed.
    packet::send(socket.as_fd(), &opened, Some(io::stdin().as_fd())).unwrap();
    let (bytes, files) = packet::receive(socket.as_fd(), RecvFlags::empty()).unwrap();
    assert_eq!((BrokerReply::decode(&bytes), files.len()), (Some(BrokerReply::Opened { id: 5 }), 1));
    drop(socket);
    thread.join().unwrap();
}

#[test]
fn no_more_are_opened_at_once_than_there_are_places() {
    let gate = Arc::new(Barrier::new(AT_ONCE + 1));
    let (socket, thread) = {
        let gate = Arc::clone(&gate);
        broker(move |request| {
            gate.wait();
            echo(request)
        })
    };
    let open = |id| BrokerRequest::Open { id, access: OpenMode::Read, path: "/a".into() }.encode();
    for id in 1..=AT_ONCE as u64 {
        packet::send(socket.as_fd(), &open(id), None).unwrap();
    }
    let (reply, _) = say(&socket, &open(100));
    assert!(
        matches!(&reply, Some(BrokerReply::Refused { id: 100, why }) if why.contains("too many")),
        "{reply:?}"
    );
    gate.wait();
    for _ in 0..AT_ONCE {
        let (bytes, files) = packet::receive(socket.as_fd(), RecvFlags::empty()).unwrap();
        assert!(matches!(BrokerReply::decode(&bytes), Some(BrokerReply::Opened { .. })) && files.len() == 1);
    }
    drop(socket);
    thread.join().unwrap();
}

/// A broker that answers a first call in its own way, and whether its socket was closed for that.
fn answered(answer: impl Fn(&OwnedFd, u64) + Send + 'static) -> (BrokerError, BrokerError) {
    let (ours, theirs) = pair();
    let (heard, hears): (_, Receiver<()>) = channel();
    let enemy = std::thread::spawn(move || {
        let request = receive(theirs.as_fd()).unwrap().0.unwrap();
        answer(&theirs, id_of(request).unwrap().0);
        // It stays, so that its end cannot be the reason.
        let _the_test_is_over = hears.recv();
    });
    let errors = with_client(ours, async |broker| {
        let first = broker.open(Path::new("/a"), OpenMode::Read).await.unwrap_err();
        (first, broker.open(Path::new("/b"), OpenMode::Read).await.unwrap_err())
    });
    drop(heard);
    enemy.join().unwrap();
    errors
}

#[test]
fn a_broker_that_says_nonsense_is_not_asked_again() {
    let gone = (BrokerError::Gone, BrokerError::Gone);
    fn file() -> OwnedFd {
        io::stdin().as_fd().try_clone_to_owned().unwrap()
    }
    assert_eq!(answered(|to, _| packet::send(to.as_fd(), b"nonsense", None).unwrap()), gone);
    assert_eq!(answered(|to, _| packet::send(to.as_fd(), &[b'x'; 50_000], None).unwrap()), gone);
    assert_eq!(answered(|to, _| packet::send(to.as_fd(), &BrokerReply::Ready.encode(), None).unwrap()), gone);
    let stranger = |to: &OwnedFd, id| {
        packet::send(to.as_fd(), &BrokerReply::Opened { id: id + 1 }.encode(), Some(file().as_fd())).unwrap();
    };
    assert_eq!(answered(stranger), gone, "an answer that no call waits for");
    let without =
        |to: &OwnedFd, id| packet::send(to.as_fd(), &BrokerReply::Opened { id }.encode(), None).unwrap();
    assert_eq!(answered(without), gone);
    let with = |to: &OwnedFd, id| {
        let reply = BrokerReply::Refused { id, why: "no".to_owned() };
        packet::send(to.as_fd(), &reply.encode(), Some(file().as_fd())).unwrap();
    };
    assert_eq!(answered(with), gone);
}

#[test]
fn a_broker_that_ends_is_told() {
    let (ours, theirs) = pair();
    let dies = std::thread::spawn(move || receive(theirs.as_fd()).unwrap());
    with_client(ours, async |broker| {
        let (one, other) = tokio::join!(broker.configuration(), broker.open(Path::new("/a"), OpenMode::Read));
        assert_eq!((one.unwrap_err(), other.unwrap_err()), (BrokerError::Gone, BrokerError::Gone));
        let late = broker.configuration().await.unwrap_err();
        assert!(late.to_string().contains("restart the server"), "{late}");
    });
    dies.join().unwrap();
}

#[test]
fn what_is_allowed_is_said_at_the_beginning() {
    let set_up_with = |requests: &[BrokerRequest]| {
        let (ours, theirs) = pair();
        for request in requests {
            packet::send(ours.as_fd(), &request.encode(), None).unwrap();
        }
        let allowed = set_up(theirs.as_fd());
        let (bytes, _) = packet::receive(ours.as_fd(), RecvFlags::empty()).unwrap();
        (allowed.is_some(), BrokerReply::decode(&bytes))
    };
    let directory = tempfile::tempdir().unwrap();
    let directory = || BrokerRequest::Directory(directory.path().to_owned());
    assert_eq!(set_up_with(&[directory(), BrokerRequest::Begin]), (true, Some(BrokerReply::Ready)));
    for wrong in [BrokerRequest::Directory("/nonexistent".into()), BrokerRequest::Configuration { id: 1 }] {
        let (ready, reply) = set_up_with(&[directory(), wrong, BrokerRequest::Begin]);
        assert!(!ready && matches!(reply, Some(BrokerReply::Refused { id: 0, .. })), "{reply:?}");
    }
    let (ours, theirs) = pair();
    drop(ours);
    assert!(set_up(theirs.as_fd()).is_none(), "the server has ended");
}
