//! `exec:`: what a command serves on its standard input, and what happens when it dies, hangs or is none.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::*;
use crate::support::wait_until;

/// A script that notes its process and becomes a server on its standard input.
struct Script {
    directory: tempfile::TempDir,
    path: PathBuf,
}

impl Script {
    fn new(server: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("ringnbd-command").tempdir().unwrap();
        let path = directory.path().join("serve");
        let noted = directory.path().join("process");
        let text = format!("#!/bin/sh\necho $$ >> {}\n{server}\n", noted.display());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        Self { directory, path }
    }

    /// One that serves a file.
    fn of(image: &Image) -> Self {
        let program = env!("CARGO_BIN_EXE_ringnbd");
        let disk = image.path.display();
        Self::new(&format!("exec {program} serve --stdio --shards 1 --memory 80M {disk}"))
    }

    fn uri(&self, parameters: &str) -> String {
        format!("exec:{}?{parameters}", self.path.display())
    }

    fn start(&self, parameters: &str) -> Server {
        Options::new().export(format!("x={}", self.uri(parameters))).start()
    }

    /// All that it was so far.
    fn processes(&self) -> Vec<Pid> {
        let noted = std::fs::read_to_string(self.directory.path().join("process")).unwrap_or_default();
        noted.lines().map(|line| Pid::from_raw(line.parse().unwrap()).unwrap()).collect()
    }

    /// Kills the one that runs, and waits for the next one.
    fn kill(&self) {
        let before = self.processes();
        kill_process(*before.last().unwrap(), Signal::KILL).unwrap();
        wait_until("the next one", || self.processes().len() > before.len());
    }
}

fn is_gone(process: Pid) -> bool {
    let path = format!("/proc/{}/stat", process.as_raw_nonzero());
    test_kill_process(process).is_err()
        || std::fs::read_to_string(path).is_ok_and(|text| text.contains(") Z "))
}

#[test]
fn a_killed_command_is_started_again_and_nothing_is_lost() {
    let image = Image::sparse(SIZE);
    let script = Script::of(&image);
    let mut near = script.start("reconnect=60s");
    let uri = near.uri("x").parse().unwrap();
    let threads: Vec<_> = (0..3_u64)
        .map(|thread| {
            let mut client = Client::open(&uri, &[], Timeouts::default()).expect("connect");
            std::thread::spawn(move || {
                let base = thread * (SIZE / 4);
                for round in 0..60 {
                    let at = base + round % 8 * (64 << 10);
                    let bytes = pattern(thread << 8 | round, at, 64 << 10);
                    client.write_at(at, &bytes).expect("a write is sent again");
                    let mut read = vec![0; 64 << 10];
                    client.read_at(at, &mut read).expect("a read is sent again");
                    assert!(read == bytes, "round {round} at {at}");
                }
            })
        })
        .collect();
    for _ in 0..3 {
        script.kill();
    }
    for thread in threads {
        thread.join().expect("no error, no wrong byte");
    }
    for thread in 0..3_u64 {
        for slot in 0..8 {
            let (at, last) = (thread * (SIZE / 4) + slot * (64 << 10), if slot < 4 { 56 } else { 48 });
            assert!(image.read(at, 64 << 10) == pattern(thread << 8 | (last + slot), at, 64 << 10));
        }
    }
    near.stop();
    for process in script.processes() {
        wait_until("the end of all of them", || is_gone(process));
    }
}

#[test]
fn a_loss_is_told_once_to_each_client_of_a_command() {
    let image = Image::sparse(SIZE);
    let script = Script::of(&image);
    let export = format!("x={}", script.uri("reconnect=60s"));
    let near = Options::new().export(export).args(["--admin", "127.0.0.1:0"]).start();
    let (mut writer, mut idle) = (client(&near), client(&near));
    writer.write_at(0, &[1; 4096]).unwrap();
    script.kill();
    writer.read_at(0, &mut [0; 4096]).unwrap();
    assert_eq!(error_of(writer.flush()), 5);
    writer.flush().expect("it has been told");
    assert_eq!(error_of(idle.flush()), 5);
    assert!(near.stderr().contains("a connection was lost"));
    let metrics = crate::http::Address::of(&near).get("/metrics").body;
    for (name, value) in
        [("connections", 1), ("connects_total", 2), ("losses_total", 1), ("failed_flushes_total", 2)]
    {
        let line = format!("ringnbd_remote_{name}{{export=\"x\"}} {value}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}

/// Another project's server, with a plugin that has its disk in memory.
#[test]
fn nbdkit_serves_on_its_standard_input() {
    let Some(nbdkit) = crate::peers::command("nbdkit") else { return };
    let command = format!("exec:{} -s memory 16M?description=of%20nbdkit", nbdkit.get_program().display());
    let near = Options::new().export(format!("x={command}")).start();
    let mut client = client(&near);
    let bytes = pattern(1, 1 << 20, 3 << 20);
    client.write_at(1 << 20, &bytes).unwrap();
    client.flush().unwrap();
    let mut read = vec![0; 5 << 20];
    client.read_at(0, &mut read).unwrap();
    assert!(read[1 << 20..4 << 20] == bytes && read[..1 << 20].iter().all(|byte| *byte == 0));
    assert!(near.complaints().is_empty(), "{:?}", near.complaints());
}

/// Ten children that end at once: each is waited for longer, and clients get errors after the delay.
#[test]
fn a_command_that_stays_broken_fails_requests_and_recovers() {
    let image = Image::sparse(SIZE);
    let script = Script::of(&image);
    let near = script.start("reconnect=300ms");
    let mut client = client(&near);
    client.write_at(0, &[3; 512]).unwrap();
    let whole = std::fs::read(&script.path).unwrap();
    // Another file in its place: one that runs cannot be written.
    replace(&script.path, b"#!/bin/sh\nexit 1\n");
    kill_process(*script.processes().last().unwrap(), Signal::KILL).unwrap();
    assert_eq!(error_of(client.read_at(0, &mut [0; 512])), 5);
    replace(&script.path, &whole);
    let mut read = [0; 512];
    wait_until("it serves again", || client.read_at(0, &mut read).is_ok());
    assert_eq!(read, [3; 512]);
}

fn replace(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// With kill -9 there is nobody who says goodbye: the command and its group end all the same.
#[test]
fn nothing_outlives_a_killed_server() {
    // It ends at once and leaves a process behind. So the start fails, and that process must go as well.
    let script = Script::new("sleep 1000 >/dev/null & echo $! >> $0.sleeper; exec true");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    command.args(["serve", "--unix"]).arg(script.directory.path().join("s")).arg(script.uri(""));
    let told = ended(crate::peers::run(&mut command), 2);
    assert!(told.contains("/serve: the server closed the connection"), "it names the command: {told}");
    let sleeper = std::fs::read_to_string(script.path.with_extension("sleeper")).unwrap();
    let sleeper = Pid::from_raw(sleeper.trim().parse().unwrap()).unwrap();
    wait_until("the end of its group", || is_gone(sleeper));

    let image = Image::sparse(SIZE);
    let script = Script::of(&image);
    let mut near = script.start("");
    client(&near).write_at(0, &[1; 512]).unwrap();
    near.crash();
    for process in script.processes() {
        wait_until("its end", || is_gone(process));
    }
}

#[test]
fn what_is_no_server_is_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    for (uri, word) in [
        ("exec:/nonexistent/program -s", "cannot start /nonexistent/program"),
        ("exec:true", "closed the connection"),
        ("exec:echo hello", "echo"),
        ("exec:cat?user=no-such-user-at-all", "there is no user"),
        ("exec:", "needs a program"),
    ] {
        for more in [&["--check"][..], &[]] {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringnbd"));
            command.args(["serve", &format!("x={uri}"), "--unix"]).arg(directory.path().join("s")).args(more);
            let told = ended(crate::peers::run(&mut command), 2);
            assert!(told.contains(word), "{uri}: {told}");
        }
    }
}

#[test]
fn a_command_is_looked_at_without_being_left() {
    let image = Image::sparse(SIZE);
    let script = Script::of(&image);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    command.args(["serve", "--check", &format!("x={}", script.uri(""))]);
    let told = crate::peers::run(&mut command).ok();
    assert!(told.contains("16777216 bytes"), "{told}");
    let processes = script.processes();
    assert_eq!(processes.len(), 1);
    wait_until("its end", || is_gone(processes[0]));
}

/// Who may use the control socket may not choose what is run.
#[test]
fn no_command_comes_by_the_control_socket() {
    let image = Image::sparse(SIZE);
    let script = Script::of(&image);
    let directory = tempfile::tempdir().unwrap();
    let control = format!("unix:{}", directory.path().join("c").display());
    let near = Options::new().export("mem:1M").args(["--control", &control]).start();
    let add = |uri: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringnbd"));
        command.args(["ctl", "--control", &control, "export", "add", "x", uri]);
        crate::peers::run(&mut command)
    };
    for uri in [script.uri(""), format!("fault::{}", script.uri(""))] {
        let refused = add(&uri);
        assert!(!refused.status.success() && refused.stderr.contains("restart it"), "{refused}");
    }
    assert!(script.processes().is_empty(), "nothing was run");
    drop(near);
}

/// As another user, without the groups of the one who started the server.
#[test]
fn a_command_runs_as_another_user() {
    if !rustix::process::geteuid().is_root() {
        return crate::peers::skip("root", "run the tests as root");
    }
    // A program that other users can reach.
    let directory = tempfile::Builder::new().prefix("ringnbd-user").tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let noted = directory.path().join("who");
    let script = directory.path().join("serve");
    replace(
        &script,
        format!("#!/bin/sh\nid -u >> {0}; id -g >> {0}; id -G >> {0}\n", noted.display()).as_bytes(),
    );
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringnbd"));
    command.args(["serve", "--check", &format!("exec:{}?user=65531:65532", script.display())]);
    ended(crate::peers::run(&mut command), 2);
    wait_until("it said who it is", || {
        std::fs::read_to_string(&noted).is_ok_and(|who| who.lines().count() == 3)
    });
    assert_eq!(std::fs::read_to_string(&noted).unwrap(), "65531\n65532\n65532\n");
}
