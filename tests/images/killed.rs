//! Commands that are killed at any moment: each has happened as a whole, or not at all.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

use ringnbd::internal::random::Random;
use rustix::process::{Pid, Signal, kill_process};

use super::Store;
use crate::peers;
use crate::support::image::pattern;
use crate::support::wait_until;

fn spawn(store: &Store, line: &str) -> Child {
    store.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// C2, of offline commands.
#[test]
fn c2_a_command_happened_or_did_not() {
    let seed = std::env::var("RINGNBD_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("RINGNBD_SEED={seed}");
    let mut random = Random::new(seed);
    let store = Store::init();
    store.run("image create STORE/golden 1G").ok();
    store.run("image snapshot STORE/golden@v1").ok();
    let mut expected: BTreeSet<String> = ["golden", "golden@v1"].map(String::from).into();
    let mut outcomes = BTreeSet::new();
    for round in 0..40 {
        let names: Vec<String> = (0..20).map(|number| format!("vm{round}-{number}")).collect();
        let places: Vec<String> = names.iter().map(|name| format!("STORE/{name}")).collect();
        let mut child = spawn(&store, &format!("image clone STORE/golden@v1 {}", places.join(" ")));
        for _ in 0..random.below(4000) {
            std::thread::yield_now();
        }
        let _it_may_be_gone = child.kill();
        child.wait().unwrap();
        let found: BTreeSet<String> = store.names().into_iter().collect();
        let mut with_them = expected.clone();
        with_them.extend(names);
        assert!(found == expected || found == with_them, "round {round}: {found:?}");
        outcomes.insert(found == expected);
        expected = found;
        assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
    }
    println!("both outcomes: {}", outcomes.len() == 2);
}

fn large_file(store: &Store) {
    let file = std::fs::File::create(store.dir.path().join("large.raw")).unwrap();
    let piece = pattern(3, 0, 1 << 20);
    for number in 0..256 {
        file.write_all_at(&piece, number << 20).unwrap();
    }
}

/// The command is in the middle of its copy, or over.
fn begun(store: &Store, child: &mut Child) {
    wait_until("a layer", || !store.layers().is_empty() || child.try_wait().unwrap().is_some());
}

#[test]
fn a_copy_that_was_killed_is_moved_away_by_the_next_change() {
    let store = Store::init();
    large_file(&store);
    let mut child = spawn(&store, "image create STORE/large --from DIR/large.raw");
    begun(&store, &mut child);
    let _it_may_be_gone = child.kill();
    child.wait().unwrap();
    let was_made = !store.names().is_empty();
    store.run("image create STORE/next 1G").ok();
    assert_eq!(store.layers().len(), usize::from(was_made));
    assert_eq!(store.json("store info STORE")["lost"], u64::from(!was_made));
    assert_eq!(store.run("store check STORE").ok(), "Nothing is wrong.\n");
}

#[test]
fn a_copy_that_is_interrupted_leaves_nothing() {
    let store = Store::init();
    large_file(&store);
    let mut child = spawn(&store, "image create STORE/large --from DIR/large.raw");
    begun(&store, &mut child);
    if child.try_wait().unwrap().is_none() {
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    }
    let status = child.wait().unwrap();
    assert_eq!(store.names().is_empty(), !status.success(), "{status}");
    assert!([Some(0), Some(1)].contains(&status.code()), "{status}");
    assert_eq!(store.layers().len(), usize::from(status.success()));
}

/// On a terminal one line says how far a long command is, and goes when it is done; elsewhere there is none.
#[test]
fn a_copy_on_a_terminal_says_how_far_it_is() {
    let store = Store::init();
    large_file(&store);
    if Command::new("script").arg("--version").output().is_err() {
        return peers::skip("script", "install the package bsdutils");
    }
    let line = |name: &str| {
        let command = store.command(&format!("image create STORE/{name} --from DIR/large.raw"));
        let words = [command.get_program()].into_iter().chain(command.get_args());
        words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    };
    let mut script = Command::new("script");
    let inside = format!("stty cols 120; {}", line("shown"));
    let shown = peers::run(script.args(["--quiet", "--return", "--command", &inside, "/dev/null"])).ok();
    for part in ["copying", "of 256.00 MiB", " left"] {
        assert!(shown.contains(part), "{part:?}: {shown:?}");
    }
    let end = shown.rsplit("\x1b[2K").next().unwrap();
    assert!(!end.contains("copying"), "the line is gone at the end: {shown:?}");
    let unseen = store.run("image create STORE/unseen --from DIR/large.raw");
    assert!(unseen.status.success() && unseen.stderr.is_empty(), "{unseen}");
}
