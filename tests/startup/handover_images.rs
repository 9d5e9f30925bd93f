//! A new process takes over stores, and the clients of their images.
//!
//! Oracle: what the clients themselves wrote, read by them through whichever process has the store, and the bytes that commands
//! read of the store afterwards.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use super::handover::{
    ALL_SENT, Line, OFFERED, PREPARED, READY, Started, ended, failed_handovers, message, moved_by,
    read_up_to, ready_without_a_listener, upgraded, verify,
};
use crate::support::raw::Connection;
use crate::support::wait_until;
use crate::support::wire::{MODERN, NBD_OPT_GO, NBD_OPT_LIST, info_data, option};

const STORE: u8 = 11;
pub(super) const CLAIM: u8 = 12;
pub(super) const RELEASED: u8 = 13;

pub(super) fn run(arguments: &[&str]) -> Output {
    let output = Command::new(crate::binary()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A directory with a store that has the images vm1 and vm2, and a file to stand on.
pub(super) fn house() -> tempfile::TempDir {
    let house = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = text(&house, "store");
    run(&["store", "init", &store]);
    for image in ["vm1", "vm2"] {
        run(&["image", "create", &format!("{store}/{image}"), "64M"]);
    }
    std::fs::write(house.path().join("base"), vec![9; 32 << 20]).unwrap();
    house
}

pub(super) fn text(house: &tempfile::TempDir, name: &str) -> String {
    house.path().join(name).display().to_string()
}

/// A server of the store, of an overlay on the file, and of a file.
pub(super) fn line(house: &tempfile::TempDir) -> Line {
    line_by(house, |_| {})
}

/// The same by a command that is changed before.
pub(super) fn line_by(house: &tempfile::TempDir, prepare: impl FnOnce(&mut Command)) -> Line {
    let overlay = format!("over=overlay:{}?base={}", text(house, "over.d"), text(house, "base"));
    let file = format!("file={}", text(house, "file"));
    std::fs::File::create(house.path().join("file")).unwrap().set_len(64 << 20).unwrap();
    let store = format!("store:{}", text(house, "store"));
    Line::start_by(&[&store, &overlay, &file, "--tcp", "127.0.0.1:0"], prepare)
}

/// Clients of all kinds, each with the place that it writes to and its longest write.
pub(super) fn clients(line: &Line) -> Vec<(Connection, u64, usize)> {
    vec![
        (line.over_unix("vm1"), 0, 16 << 10),
        (line.over_tcp("vm1"), 16 << 20, 256 << 10),
        (line.over_tcp("vm2"), 0, 64 << 10),
        (line.over_unix("over"), 4096, 64 << 10),
        (line.over_unix("file"), 0, 64 << 10),
    ]
}

/// Verifiers end when this goes, also when a test fails.
pub(super) struct Ending<'a>(pub(super) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` while all clients verify.
pub(super) fn verified(clients: &mut [(Connection, u64, usize)], work: impl FnOnce(&dyn Fn())) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let is_over = &is_over;
        let verifiers: Vec<_> = clients
            .iter_mut()
            .map(|(client, start, longest)| scope.spawn(move || verify(client, *start, *longest, is_over)))
            .collect();
        let _ends_them = Ending(is_over);
        let all_go_on = || {
            assert!(!verifiers.iter().any(std::thread::ScopedJoinHandle::is_finished), "a client has ended")
        };
        work(&all_go_on);
        is_over.store(true, Ordering::Relaxed);
        verifiers.into_iter().for_each(|verifier| assert!(verifier.join().unwrap() > 0));
    });
}

/// `RINGNBD_HANDOVERS` makes it a campaign.
#[test]
fn clients_of_images_do_not_notice() {
    let wanted = std::env::var("RINGNBD_HANDOVERS").map_or(5, |number| number.parse().expect("a number"));
    let house = house();
    let mut line = line(&house);
    let mut clients = clients(&line);
    // One is in the middle of long writes.
    clients[1].2 = 16 << 20;
    let control = format!("unix:{}", line.path("control").display());
    let store = text(&house, "store");
    let mut earlier = Vec::new();
    verified(&mut clients, |all_go_on| {
        for number in 0..wanted {
            earlier.push(line.succeed());
            all_go_on();
            // Whoever comes now finds the store with the new one, which takes snapshots of it.
            line.over_unix("vm1").expect_alive();
            if number < 3 {
                run(&["image", "snapshot", &format!("{store}/vm1@s{number}"), "--control", &control]);
            }
        }
    });
    earlier.iter_mut().for_each(|process| assert!(ended(process).success()));
    for number in 0..wanted {
        // One more connection of vm1 may be on its way out.
        let moved = moved_by(&line, number);
        assert!((5..=6).contains(&moved), "all move, or the old process keeps the store: {moved}");
    }
    // What was written before the last hand-over is there after it, and what nobody wrote is the base's.
    let known = [0x5a; 8192];
    clients[0].0.write(48 << 20, &known);
    clients[3].0.write(24 << 20, &known);
    let mut before = line.succeed();
    assert_eq!(clients[0].0.read(48 << 20, 8192), known);
    assert_eq!(clients[3].0.read(24 << 20, 8192), known);
    assert_eq!(clients[3].0.read(28 << 20, 4096), [9; 4096]);
    drop(clients);
    assert!(ended(&mut before).success());
    line.stop();
    let raw = text(&house, "raw");
    run(&["image", "snapshot", &format!("{store}/vm1@last")]);
    run(&["image", "export", &format!("{store}/vm1@last"), &raw]);
    assert_eq!(std::fs::read(&raw).unwrap()[48 << 20..][..8192], known);
    run(&["store", "check", &store]);
}

/// As a new process of version 2 begins, up to the offers.
pub(super) fn hello() -> Vec<u8> {
    message(0, &[&b"ringnbdH"[..], &[1, 0, 2, 0], &[0; 4]].concat())
}

pub(super) fn numbers(of: &[u32]) -> Vec<u8> {
    let count = (of.len() as u32).to_le_bytes();
    count.into_iter().chain(of.iter().flat_map(|number| number.to_le_bytes())).collect()
}

pub(super) fn lent(line: &Line) -> usize {
    line.log(0).matches("stores were given to the new process").count()
}

#[test]
fn a_new_process_that_has_the_stores_and_ends_gives_them_back() {
    let house = house();
    let mut line = line(&house);
    let mut clients = clients(&line);
    verified(&mut clients, |all_go_on| {
        for step in 0..6 {
            let mut stream = upgraded(&line);
            stream.write_all(&hello()).unwrap();
            read_up_to(&mut stream, STORE);
            read_up_to(&mut stream, OFFERED);
            stream.write_all(&message(CLAIM, &[numbers(&[0, 1]), vec![0]].concat())).unwrap();
            if step > 0 {
                read_up_to(&mut stream, RELEASED);
            }
            if step > 1 {
                // The file's export is number 0; behind it those of images.
                let images = if step == 2 { vec![0] } else { vec![0, 1, 2, 3] };
                let fields = [numbers(&images), numbers(&[]), vec![0]].concat();
                stream.write_all(&message(PREPARED, &fields)).unwrap();
            }
            if step > 2 {
                read_up_to(&mut stream, ALL_SENT);
            }
            if step == 4 {
                stream.write_all(&message(READY, &[])[..3]).unwrap();
            }
            if step == 5 {
                ready_without_a_listener(&mut stream);
            }
            drop(stream);
            wait_until("the server to notice", || failed_handovers(&line) > step);
            line.over_unix("vm2").expect_alive();
            all_go_on();
        }
    });
    assert_eq!(lent(&line), 6);
    let mut before = line.succeed();
    assert!(ended(&mut before).success());
    assert_eq!(moved_by(&line, 0), 5);
    clients.iter_mut().for_each(|(client, ..)| client.expect_alive());
    drop(clients);
    line.stop();
}

/// A client that has begun and not chosen yet. The server waits for it, but not for long.
fn late(line: &Line) -> Connection {
    let stream = std::os::unix::net::UnixStream::connect(line.path("nbd.sock")).unwrap();
    let mut connection = Connection::over_unix(stream);
    connection.greet(MODERN);
    connection
}

/// While a new process has the stores nobody knows which images there are: who asks waits, and is not told that there are none.
#[test]
fn who_asks_for_an_image_while_the_stores_are_away_waits() {
    let house = house();
    let mut line = line(&house);
    let [mut chooser, mut fixed, mut lister, mut other] =
        [late(&line), late(&line), late(&line), late(&line)];
    let mut stream = upgraded(&line);
    stream.write_all(&hello()).unwrap();
    read_up_to(&mut stream, OFFERED);
    stream.write_all(&message(CLAIM, &[numbers(&[0, 1]), vec![0]].concat())).unwrap();
    read_up_to(&mut stream, RELEASED);
    chooser.send_option(NBD_OPT_GO, &info_data(b"vm2", &[]));
    // It has a name of its own in the configuration, and comes back with its store.
    fixed.send_option(NBD_OPT_GO, &info_data(b"over", &[]));
    lister.send_option(NBD_OPT_LIST, b"");
    // What is no image is served as always; its answer also says that the others were heard.
    other.go("file");
    other.expect_alive();
    drop(stream);
    assert_eq!(Connection::decode_info(&chooser.replies_to(NBD_OPT_GO)).size, 64 << 20);
    assert_eq!(Connection::decode_info(&fixed.replies_to(NBD_OPT_GO)).size, 32 << 20);
    let listed = lister.replies_to(NBD_OPT_LIST);
    let has = |name: &str| listed.iter().any(|reply| reply.data.ends_with(name.as_bytes()));
    assert!(["vm1", "vm2", "over", "file"].into_iter().all(has), "{listed:02x?}");
    drop((chooser, fixed, lister, other));
    // The next one keeps them: who asks is not answered, and finds it at the same address.
    let mut late = late(&line);
    let (lent_before, next) = (lent(&line), line.begin_takeover());
    wait_until("the stores to leave", || lent(&line) > lent_before);
    // It may have ended already.
    let _ended = late.try_send(&option(NBD_OPT_GO, &info_data(b"vm2", &[])));
    let mut before = std::mem::replace(&mut line.child, next.child);
    line.wait_for_pidfile(&next.log);
    assert!(late.option_reply_or_close().is_none());
    line.over_unix("vm2").expect_alive();
    assert!(ended(&mut before).success());
    line.stop();
}

/// It says a byte now and then, so that it is never silent for long.
#[test]
fn a_new_process_that_is_slow_to_start_does_not_keep_the_clients_of_stores_waiting() {
    let house = house();
    let line = line(&house);
    let mut clients = clients(&line);
    let mut stream = upgraded(&line);
    stream.write_all(&hello()).unwrap();
    read_up_to(&mut stream, OFFERED);
    stream.write_all(&message(CLAIM, &[numbers(&[0, 1]), vec![0]].concat())).unwrap();
    read_up_to(&mut stream, RELEASED);
    stream.write_all(&message(PREPARED, &[0; 1000])[..6]).unwrap();
    // The pace of the new process, and not the time that this takes: it says less than all of it in minutes.
    let said = (0..90).take_while(|_| {
        std::thread::sleep(std::time::Duration::from_millis(500));
        stream.write_all(&[0]).is_ok()
    });
    assert!(said.count() < 90, "the server waits for it");
    wait_until("the server to notice", || failed_handovers(&line) == 1);
    assert!(line.log(0).contains("whose clients wait"), "{}", line.log(0));
    clients.iter_mut().for_each(|(client, ..)| client.expect_alive());
    drop(clients);
    line.stop();
}

/// The real program has opened the store when it fails: it changed nothing that the old one needs.
#[test]
fn a_new_program_that_fails_with_the_stores_open_changes_nothing() {
    let house = house();
    let mut line = line(&house);
    let mut clients = clients(&line);
    line.arguments.extend(["--unix", "/nonexistent/nbd.sock"].map(str::to_owned));
    verified(&mut clients, |all_go_on| {
        for failures in 1..=2 {
            let Started { mut child, log } = line.begin_takeover();
            let status = ended(&mut child);
            let log = std::fs::read_to_string(log).unwrap();
            assert!(!status.success() && log.contains("/nonexistent/nbd.sock"), "{log}");
            wait_until("the server to notice", || failed_handovers(&line) == failures);
            all_go_on();
        }
    });
    assert_eq!(lent(&line), 2);
    line.arguments.truncate(line.arguments.len() - 2);
    let mut before = line.succeed();
    assert!(ended(&mut before).success());
    clients.iter_mut().for_each(|(client, ..)| client.expect_alive());
    drop(clients);
    line.stop();
}

/// A new process that serves other things leaves the store where it is, with its clients.
#[test]
fn a_store_that_the_new_process_does_not_serve_stays() {
    let house = house();
    let mut line = line(&house);
    let mut client = line.over_unix("vm1");
    client.write(0, &[3; 4096]);
    let store = line.arguments.remove(0);
    assert!(store.starts_with("store:"), "{store}");
    let mut before = line.succeed();
    assert_eq!(lent(&line), 1, "the overlay's");
    assert_eq!(client.read(0, 4096), [3; 4096]);
    assert!(before.try_wait().unwrap().is_none(), "somebody is left");
    drop(client);
    assert!(ended(&mut before).success());
    assert!(Path::new(&text(&house, "store")).exists());
    line.stop();
}

/// With a user that cannot replace it, the pidfile is the old one's until COMMIT.
#[test]
fn a_pidfile_in_a_directory_of_root_names_whoever_serves() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let images = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = text(&images, "image");
    std::fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let mut line = Line::start(&[&image, "--user", "nobody"]);
    let mut clients = [line.over_unix(""), line.over_unix("")];
    let pid = |line: &Line| std::fs::read_to_string(line.path("pid")).unwrap();
    let of_first = pid(&line);
    line.arguments.extend(["--max-connections", "1"].map(str::to_owned));
    let Started { mut child, log } = line.begin_takeover();
    assert!(!ended(&mut child).success(), "{}", std::fs::read_to_string(log).unwrap());
    assert_eq!(pid(&line), of_first);
    clients.iter_mut().for_each(Connection::expect_alive);
    line.arguments.truncate(line.arguments.len() - 2);
    // It waits for the pidfile.
    let mut before = line.succeed();
    assert!(ended(&mut before).success());
    assert_ne!(pid(&line), of_first);
    clients.iter_mut().for_each(Connection::expect_alive);
    drop(clients);
    // What root has made in a directory of root stays behind.
    line.child.kill().unwrap();
    ended(&mut line.child);
}

/// Users and groups of the sockets.
fn owners(line: &Line) -> [(u32, u32); 2] {
    ["nbd.sock", "control"].map(|name| {
        let found = std::fs::metadata(line.path(name)).unwrap();
        (found.uid(), found.gid())
    })
}

/// The new process makes the sockets its user's while it still may, which is before it has the clients.
#[test]
fn sockets_are_of_the_user_whose_server_goes_on() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Debian's, and most others'.
    const NOBODY: u32 = 65534;
    const BIN: u32 = 2;
    let images = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = text(&images, "image");
    std::fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let mut line = Line::start(&[&image, "--user", "nobody", "--unix-group", "3"]);
    let mut clients = [line.over_unix(""), line.over_unix("")];
    let of_first = owners(&line);
    assert_eq!((of_first[0], of_first[1].0), ((NOBODY, 3), NOBODY));
    line.arguments[2] = "bin".to_owned();
    line.arguments.extend(["--max-connections", "1"].map(str::to_owned));
    let Started { mut child, log } = line.begin_takeover();
    assert!(!ended(&mut child).success());
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("raise --max-connections"), "it came far enough: {log}");
    wait_until("the sockets to be given back", || owners(&line) == of_first);
    clients.iter_mut().for_each(Connection::expect_alive);
    line.arguments.truncate(line.arguments.len() - 2);
    let mut before = line.succeed();
    assert!(ended(&mut before).success());
    assert_eq!(owners(&line), [(BIN, 3), (BIN, BIN)], "and the group that was asked for");
    clients.iter_mut().for_each(Connection::expect_alive);
    drop(clients);
    // What root has made in a directory of root stays behind, and is this user's.
    line.child.kill().unwrap();
    ended(&mut line.child);
    assert_eq!(owners(&line), [(BIN, 3), (BIN, BIN)]);
}

#[test]
fn a_command_is_not_run_twice() {
    let house = tempfile::tempdir().unwrap();
    let runs = text(&house, "runs");
    let mut line = Line::start(&["mem:1M"]);
    line.arguments.push(format!("tool=exec:sh -c 'echo >> {runs}'"));
    let Started { mut child, log } = line.begin_takeover();
    assert!(!ended(&mut child).success());
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("is a command, which would run twice"), "{log}");
    assert!(!Path::new(&runs).exists(), "it was started");
    wait_until("the server to notice", || failed_handovers(&line) == 1);
    line.arguments.truncate(1);
    line.over_unix("").expect_alive();
    line.stop();
}
