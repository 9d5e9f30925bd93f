//! The new program is killed on its way, at any system call before COMMIT: the old one goes on as if nothing had been.
//!
//! Oracle: the clients, which verify all the time; the names in the server's directory; whether somebody else gets the locks.

use std::collections::BTreeSet;
use std::process::Command;

use ringnbd::internal::random::Random;

use super::handover::{Line, PREPARED, READY, ended, moved_by};
use super::handover_images::{clients, house, lent, line, text, verified};
use super::stepper::{Step, Stepper};
use crate::support::wait_until;

const HELLO: u8 = 0;
const CLAIM: u8 = 12;

/// Where the new program ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// It has made so many calls.
    At(usize),
    /// It has said nothing of this yet.
    Before(u8),
    /// It has said so, and makes the next call.
    After(u8),
    /// It makes this call for the first time after it has said so.
    Call(u8, libc::c_long),
}

impl End {
    fn finder(self) -> impl FnMut(&Step) -> bool {
        let mut has_said = false;
        move |step| {
            let is_here = match self {
                Self::At(number) => step.number == number,
                Self::Before(kind) => step.sends == Some(kind),
                Self::After(_) => has_said,
                Self::Call(_, call) => has_said && step.call == call,
            };
            has_said |= matches!(self, Self::After(kind) | Self::Call(kind, _) if step.sends == Some(kind));
            // What it says last before COMMIT.
            is_here || step.sends == Some(READY)
        }
    }
}

/// What is in the directory of a line, but for logs.
fn names(line: &Line) -> BTreeSet<String> {
    let names = std::fs::read_dir(line.directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).filter(|name| !name.starts_with("log")).collect()
}

/// A further server gets neither file nor store.
#[track_caller]
fn are_locked(line: &Line, exports: [&str; 2]) {
    for export in exports {
        let other = line.path("other.sock").display().to_string();
        let output =
            Command::new(crate::binary()).args(["serve", "--unix", &other, export]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("in use"), "{export}: {said}");
    }
}

/// Starts a new program and ends it: how many calls it has made.
#[track_caller]
fn kill(line: &mut Line, end: End) -> usize {
    let (command, log) = line.takeover();
    let killed = Stepper::start(command).kill_at(end.finder());
    let log = || std::fs::read_to_string(&log).unwrap();
    let steps = killed.unwrap_or_else(|| panic!("{end:?}: it has ended: {}", log()));
    println!("{end:?}: killed after {steps} calls");
    steps
}

/// The names of the old one are as they were.
#[track_caller]
fn are_there(line: &Line, before: &BTreeSet<String>, end: End) {
    let pid = std::fs::read_to_string(line.path("pid")).unwrap();
    assert_eq!(pid, format!("{}\n", line.child.id()), "{end:?}");
    let missing: Vec<_> = before.difference(&names(line)).cloned().collect();
    assert!(missing.is_empty(), "{end:?}: {missing:?} are gone");
}

/// One life after the other ends early. `RINGNBD_HANDOVER_KILLS` is how many of them end at a call that is drawn.
#[test]
fn the_old_one_goes_on_wherever_the_new_one_is_killed() {
    let drawn = std::env::var("RINGNBD_HANDOVER_KILLS").map_or(8, |number| number.parse().expect("a number"));
    let house = house();
    let mut line = line(&house);
    let mut clients = clients(&line);
    let (pid, before) = (line.child.id(), names(&line));
    let (file, store) =
        (format!("file={}", text(&house, "file")), format!("store:{}", text(&house, "store")));
    // A name of its own, which the old one does not have.
    let further = line.path("further.sock").display().to_string();
    line.arguments.extend(["--unix".to_owned(), further.clone()]);
    verified(&mut clients, |all_go_on| {
        let mut kill = |end: End| {
            let steps = kill(&mut line, end);
            // All images are here again when somebody gets them.
            line.over_unix("vm2").expect_alive();
            line.over_tcp("file").expect_alive();
            line.over_unix("over").expect_alive();
            all_go_on();
            are_there(&line, &before, end);
            if matches!(end, End::After(_)) {
                are_locked(&line, [&file, &store]);
            }
            steps
        };
        let steps = kill(End::Before(READY));
        for kind in [HELLO, CLAIM, PREPARED] {
            kill(End::Before(kind));
            kill(End::After(kind));
        }
        for call in
            [libc::SYS_flock, libc::SYS_bind, libc::SYS_fdatasync, libc::SYS_seccomp, libc::SYS_recvmsg]
        {
            kill(End::Call(CLAIM, call));
        }
        let seed = std::env::var("RINGNBD_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(pid));
        println!("RINGNBD_SEED={seed}");
        let mut random = Random::new(seed);
        for _ in 0..drawn {
            kill(End::At(random.below(steps as u64) as usize));
        }
    });
    assert!(lent(&line) >= 6, "the stores were given away and came back");
    let mut before_it = line.succeed();
    assert!(ended(&mut before_it).success());
    assert_eq!(moved_by(&line, 0), clients.len());
    clients.iter_mut().for_each(|(client, ..)| client.expect_alive());
    drop(clients);
    let left: Vec<_> = names(&line).difference(&before).cloned().collect();
    assert_eq!(left, ["further.sock"], "what was killed has left something");
    line.stop();
    wait_until("its last name to go", || !std::path::Path::new(&further).exists());
}

/// In a directory that only root may write to, for a server that becomes another user.
#[test]
fn nothing_of_root_is_lost_when_a_new_one_is_killed() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let images = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = text(&images, "image");
    std::fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let mut line = Line::start(&[&image, "--user", "nobody"]);
    let mut client = line.over_unix("");
    let before = names(&line);
    let ends =
        [End::After(HELLO), End::Call(HELLO, libc::SYS_setresuid), End::Before(PREPARED), End::Before(READY)];
    for end in ends.into_iter().chain([End::After(PREPARED)]) {
        kill(&mut line, end);
        line.over_unix("").expect_alive();
        client.expect_alive();
        are_there(&line, &before, end);
    }
    let mut before_it = line.succeed();
    assert!(ended(&mut before_it).success());
    client.expect_alive();
    are_there(&line, &before, End::After(READY));
    assert_eq!(names(&line), before, "what was killed has left something");
    drop(client);
    // What root has made in a directory of root stays behind.
    line.child.kill().unwrap();
    ended(&mut line.child);
}
