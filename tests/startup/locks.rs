//! Files that somebody else has open: of two servers, or of a server and QEMU, each refuses what the other writes.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::peers::{self, Daemon, run};
use crate::refusal::refused;
use crate::support::image::{Image, LoopDevice, disk_dir};
use crate::support::server::{Options, Server};
use crate::{forbid_with, serve};

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
    let symlink = directory.path().join("symlink.img");
    std::os::unix::fs::symlink(&path, &symlink).unwrap();
    let exports = [
        format!("a=file:{path}"),
        format!("b=file:{path}?mapped=false"),
        format!("c=file:{}", link.display()),
        format!("s=file:{}", symlink.display()),
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
    let (directory, path) = image();
    let copy = directory.path().join("copy.img").to_str().unwrap().to_owned();
    let Some(mut read) = qemu("qemu-img", &["convert", "-f", "raw", "-O", "raw", &path, &copy]) else {
        return;
    };
    let Some(mut write) = qemu("qemu-io", &["-f", "raw", "-c", "write 0 512", &path]) else { return };
    let Some(mut info) = qemu("qemu-img", &["info", "-f", "raw", &path]) else { return };
    let server = start(&path, "");
    for command in [&mut read, &mut write] {
        let finished = run(command);
        assert!(!finished.status.success() && finished.stderr.contains("lock"), "{finished}");
    }
    run(&mut info).ok();
    drop(server);
    let reader = start(&path, "?readonly=true");
    run(&mut read).ok();
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
    let daemon = Daemon::start(command, || UnixStream::connect(&socket).is_ok());
    is_refused(directory.path(), "");
    is_refused(directory.path(), "?readonly=true");
    drop(start(&path, "?lock=off"));
    drop(daemon);
    drop(start(&path, ""));
}

#[test]
fn a_check_takes_no_lock() {
    let (directory, path) = image();
    let _server = start(&path, "");
    for parameters in ["", "?lock=on"] {
        let mut check = serve(&["--check", &format!("file:disk.img{parameters}")]);
        let output = check.current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    is_refused(directory.path(), "");
}

/// Where there are no locks a server goes on, and says so; unless it was told that they are a must.
#[test]
fn a_file_system_without_locks() {
    let (directory, path) = image();
    let without = |parameters: &str| {
        let mut command = serve(&["--stdio", &format!("file:disk.img{parameters}")]);
        let set = libc::F_OFD_SETLK as u32;
        // SAFETY: between fork and exec the closure makes two system calls and touches nothing but its own stack.
        unsafe { command.pre_exec(move || forbid_with(libc::SYS_fcntl, Some(set), libc::ENOLCK)) };
        command.current_dir(directory.path());
        command
    };
    let (_client, socket) = UnixStream::pair().unwrap();
    let mut command = without("?lock=on");
    command.stdin(OwnedFd::from(socket));
    refused(command, directory.path(), &["disk.img cannot be locked", "?lock=off"]);
    let (mut client, socket) = UnixStream::pair().unwrap();
    let mut command = without("");
    let output = OwnedFd::from(socket.try_clone().unwrap());
    let server = command.stdin(OwnedFd::from(socket)).stdout(output).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let mut greeting = [0; 8];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"NBDMAGIC");
    // It holds nothing.
    drop(start(&path, ""));
    drop(client);
    let log = String::from_utf8(server.wait_with_output().unwrap().stderr).unwrap();
    assert!(log.contains("the file system has no locks"), "{log}");
}

#[test]
fn a_block_device_has_one_server_too() {
    let Some(device) = LoopDevice::over(Image::sparse(1 << 20)) else { return };
    let path = device.path.to_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let server = start(path, "?direct=true");
    let parts = [path, "is in use by another process"];
    refused(serve(&["--unix", "nbd.sock", path]), directory.path(), &parts);
    if let Some(mut write) = qemu("qemu-io", &["-f", "raw", "-c", "write 0 512", path]) {
        assert!(!run(&mut write).status.success(), "QEMU heeds it");
    }
    drop(server);
    drop(start(path, ""));
}

/// One export past the page cache and one through it, of one file: each sees what the other wrote.
#[test]
fn direct_and_buffered_exports_of_one_file_agree() {
    let directory = disk_dir();
    let path = directory.path().join("disk.img");
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let exports = ["d=file:PATH?direct=true", "b=file:PATH", "r=file:PATH?readonly=true"];
    let server = Server::serve(&exports.map(|export| export.replace("PATH", path.to_str().unwrap())));
    for (from, commands) in [
        ("b", &["read -P 0 0 64k"][..]),
        ("d", &["write -P 1 0 8k", "write -P 2 4000 200"]),
        ("b", &["read -P 1 0 4000", "read -P 2 4000 200", "write -P 3 4096 4096", "write -P 4 9000 100"]),
        ("d", &["read -P 3 4096 4096", "read -P 4 9000 100", "read -P 2 4000 96", "write -P 5 0 512"]),
        ("r", &["read -P 5 0 512", "read -P 1 512 3488", "read -P 3 4096 4096"]),
    ] {
        let words: Vec<_> = commands.iter().flat_map(|command| ["-c", command]).collect();
        let (uri, access) = (server.uri(from), if from == "r" { "-r" } else { "-n" });
        let Some(mut io) = qemu("qemu-io", &[&["-f", "raw", access], &words[..], &[&uri]].concat()) else {
            return;
        };
        let output = run(&mut io).ok();
        assert!(!output.contains("fail"), "{output}");
    }
}
