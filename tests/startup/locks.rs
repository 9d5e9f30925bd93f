//! Files that somebody else has open: of two servers, or of a server and QEMU, each refuses what the other writes.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::peers::{self, Daemon, run};
use crate::refusal::refused;
use crate::serve;
use crate::support::server::{Options, Server};

const IN_USE: [&str; 4] = ["disk.img", "is in use by another process", "?shared=true", "?lock=off"];

/// A directory with `disk.img`.
fn image() -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    (directory, path.to_str().unwrap().to_owned())
}

fn start(path: &str, parameters: &str) -> Server {
    Options::new().export(format!("file:{path}{parameters}")).start()
}

/// A further server does not start.
#[track_caller]
fn is_refused(directory: &Path, parameters: &str) {
    let export = format!("file:disk.img{parameters}");
    refused(serve(&["--unix", "nbd.sock", &export]), directory, &IN_USE);
}

#[test]
fn a_file_that_is_written_has_one_server() {
    let (directory, path) = image();
    let server = start(&path, "");
    is_refused(directory.path(), "");
    is_refused(directory.path(), "?readonly=true");
    is_refused(directory.path(), "?shared=true");
    drop(start(&path, "?lock=off"));
    drop(server);
    drop(start(&path, "?lock=on"));
}

#[test]
fn readers_and_those_that_share_go_together() {
    let (directory, path) = image();
    let readers = [start(&path, "?readonly=true"), start(&path, "?readonly=true")];
    is_refused(directory.path(), "");
    drop(readers);
    let _writers = [start(&path, "?shared=true"), start(&path, "?shared=true")];
    is_refused(directory.path(), "");
    is_refused(directory.path(), "?readonly=true");
}

#[test]
fn exports_of_one_server_share_a_lock() {
    let (directory, path) = image();
    let link = directory.path().join("link.img");
    std::fs::hard_link(&path, &link).unwrap();
    let exports = [
        format!("a=file:{path}"),
        format!("b=file:{path}?mapped=false"),
        format!("c=file:{}", link.display()),
        format!("d=file:{path}?readonly=true"),
    ];
    let _server = Server::serve(&exports);
    is_refused(directory.path(), "");
}

fn qemu(tool: &str, arguments: &[&str]) -> Option<Command> {
    let mut command = peers::command(tool)?;
    command.args(arguments);
    Some(command)
}

#[test]
fn qemu_refuses_what_is_served() {
    let (_directory, path) = image();
    let Some(mut info) = qemu("qemu-img", &["info", "-f", "raw", &path]) else { return };
    let Some(mut write) = qemu("qemu-io", &["-f", "raw", "-c", "write 0 512", &path]) else { return };
    let Some(mut unsafe_info) = qemu("qemu-img", &["info", "-U", "-f", "raw", &path]) else { return };
    let server = start(&path, "");
    for command in [&mut info, &mut write] {
        let finished = run(command);
        assert!(!finished.status.success() && finished.stderr.contains("lock"), "{finished}");
    }
    run(&mut unsafe_info).ok();
    drop(server);
    let reader = start(&path, "?readonly=true");
    run(&mut info).ok();
    assert!(!run(&mut write).status.success(), "a reader's file is not written");
    drop(reader);
    let _without = start(&path, "?lock=off");
    run(&mut write).ok();
}

#[test]
fn what_qemu_writes_is_not_served() {
    let (directory, path) = image();
    let sockets = tempfile::tempdir().unwrap();
    let socket = sockets.path().join("qemu.sock");
    let listen = format!("--socket={}", socket.display());
    let Some(command) = qemu("qemu-nbd", &["--persistent", "--format=raw", &listen, &path]) else { return };
    let daemon = Daemon::start(command, || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    is_refused(directory.path(), "");
    is_refused(directory.path(), "?readonly=true");
    drop(start(&path, "?lock=off"));
    drop(daemon);
    drop(start(&path, ""));
}
