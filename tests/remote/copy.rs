//! `ringnbd copy`: in all directions, byte by byte.

use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use super::far::{Far, Kind};
use super::proxy::Proxy;
use super::{SIZE, ended};
use crate::peers;
use crate::support::image::{Image, pattern};
use crate::support::server::Server;
use crate::support::wait_until;
use serde_json::Value;

fn copy(arguments: &[&str]) -> peers::Finished {
    peers::run(Command::new(env!("CARGO_BIN_EXE_ringnbd")).arg("copy").args(arguments))
}

#[track_caller]
fn told(arguments: &[&str]) -> Value {
    let finished = copy(&[arguments, &["--json"]].concat());
    serde_json::from_str(&finished.ok()).expect("the answer is JSON")
}

/// Data at odd places, a long hole, and zeroes that were written.
fn picture(image: &Image) {
    image.write(100_000, &pattern(3, 100_000, 300_001));
    image.write(4 << 20, &vec![0; 1 << 20]);
    image.write(SIZE - 5000, &pattern(3, SIZE - 5000, 5000));
}

fn assert_same(one: &Image, other: &Image) {
    assert!(one.read(0, SIZE as usize) == other.read(0, SIZE as usize), "they differ");
}

#[test]
fn a_disk_goes_through_servers_of_all_kinds_and_back() {
    let source = Image::sparse(SIZE);
    picture(&source);
    let path = source.path.to_str().unwrap();
    for kind in [Kind::Ringnbd, Kind::QemuNbd, Kind::Nbdkit, Kind::NbdkitSimple, Kind::NbdServer] {
        let (dirty, back) = (Image::random(SIZE, 9), Image::sparse(SIZE / 2));
        let Some(far) = Far::start(kind, &dirty) else { continue };
        let report = told(&[path, &far.uri(), "--verify"]);
        assert_eq!(
            (report["size"].as_u64(), report["verified"].as_u64()),
            (Some(SIZE), Some(SIZE)),
            "{kind:?}"
        );
        assert_same(&source, &dirty);
        let report = told(&[&far.uri(), back.path.to_str().unwrap(), "--verify"]);
        assert!(report["data"].as_u64().unwrap() < 3 << 20, "{kind:?}: {report}");
        assert_same(&source, &back);
        assert!(back.allocated() < 3 << 20, "{kind:?}: the copy is sparse: {}", back.allocated());
    }
}

#[test]
fn from_server_to_server_and_from_file_to_file() {
    let (source, target, file) = (Image::random(SIZE, 1), Image::sparse(SIZE + 4096), Image::sparse(0));
    target.write(SIZE, &[8; 4096]);
    let server =
        Server::serve(&[format!("a={}", source.path.display()), format!("b={}", target.path.display())]);
    let report = told(&[&server.uri("a"), &server.uri("b"), "--connections", "3"]);
    assert_eq!((report["data"].as_u64(), report["connections"].as_u64()), (Some(SIZE), Some(3)));
    assert_same(&source, &target);
    assert_eq!(target.read(SIZE, 4096), [8; 4096], "what is behind the source stays");
    told(&[source.path.to_str().unwrap(), file.path.to_str().unwrap()]);
    assert_same(&source, &file);
}

#[test]
fn what_cannot_be_copied_is_refused_before_anything_changes() {
    let (large, small) = (Image::random(SIZE, 1), Image::random(SIZE / 2, 2));
    let server = Server::serve(&[
        format!("large={}", large.path.display()),
        format!("small={}", small.path.display()),
        format!("fixed=file:{}?readonly=true", large.path.display()),
    ]);
    let told = ended(copy(&[&server.uri("large"), &server.uri("small")]), 2);
    assert!(told.contains("make it larger"), "{told}");
    let told = ended(copy(&[&server.uri("small"), &server.uri("fixed")]), 2);
    assert!(told.contains("read-only"), "{told}");
    let told = ended(copy(&[&server.uri("none"), &server.uri("small")]), 2);
    assert!(told.contains("none"), "{told}");
    let path = large.path.to_str().unwrap();
    let told = ended(copy(&[path, path]), 2);
    assert!(told.contains("both source and target"), "{told}");
    assert!(large.read(0, SIZE as usize) == pattern(1, 0, SIZE as usize));
    assert!(small.read(0, SIZE as usize / 2) == pattern(2, 0, SIZE as usize / 2));
}

#[test]
fn a_target_that_forgets_is_found_out() {
    let source = Image::random(SIZE, 1);
    let server = Server::serve(&[format!("null=null:{SIZE}")]);
    let told = ended(copy(&[source.path.to_str().unwrap(), &server.uri("null"), "--verify"]), 1);
    assert!(told.contains("differ at 0"), "{told}");
}

#[test]
fn a_server_that_dies_meanwhile_is_a_failure() {
    let source = Image::sparse(SIZE);
    let server = Server::serve(&[format!("bad=fault:error.write=EIO:null:{SIZE}")]);
    source.write(0, &[1; 4096]);
    let told = ended(copy(&[source.path.to_str().unwrap(), &server.uri("bad")]), 1);
    assert!(told.contains("NBD_CMD_WRITE"), "{told}");
}

/// As QEMU's tools do it: whose disk it is has it for itself.
#[test]
fn a_disk_that_is_served_is_not_emptied() {
    let (source, served) = (Image::random(SIZE, 1), Image::random(SIZE, 2));
    let before = served.read(0, SIZE as usize);
    let server = Server::serve(&[format!("a={}", served.path.display())]);
    let told = ended(copy(&[source.path.to_str().unwrap(), served.path.to_str().unwrap()]), 2);
    assert!(told.contains("in use"), "{told}");
    assert!(served.read(0, SIZE as usize) == before, "it was changed");
    drop(server);
    copy(&[source.path.to_str().unwrap(), served.path.to_str().unwrap()]).ok();
    assert_same(&source, &served);
}

/// QEMU's program, asked once.
fn qemu(tool: &str, arguments: &[&str]) -> Option<()> {
    peers::run(peers::command(tool)?.args(arguments)).ok();
    Some(())
}

/// QEMU says what has changed by a bitmap in a qcow2, and `qemu-nbd -B` passes it on. A copy that was interrupted goes on
/// by the same command.
#[test]
fn what_a_bitmap_of_qemu_says_is_copied() {
    let _ = copy_by_bitmap();
}

fn copy_by_bitmap() -> Option<()> {
    let directory = tempfile::Builder::new().prefix("ringnbd-bitmap").tempdir().unwrap();
    let (disk, socket) = (directory.path().join("disk.qcow2"), directory.path().join("s"));
    let (path, socket_path) = (disk.to_str().unwrap(), socket.to_str().unwrap());
    let target = Image::sparse(SIZE);
    qemu("qemu-img", &["create", "-q", "-f", "qcow2", path, &SIZE.to_string()])?;
    qemu("qemu-io", &["-f", "qcow2", "-c", "write -q -P 1 0 8M", path])?;
    target.write(0, &[1; 8 << 20]);
    qemu("qemu-img", &["bitmap", "--add", "-f", "qcow2", path, "b"])?;
    // Data, a hole in place of data, and the last bytes.
    let last = format!("write -q -P 3 {} 4k", SIZE - 4096);
    let changes = ["-c", "write -q -P 2 1M 3M", "-c", "discard -q 6M 1M", "-c", &last];
    qemu("qemu-io", &[&["-f", "qcow2", "-d", "unmap"], &changes[..], &[path]].concat())?;
    qemu("qemu-img", &["bitmap", "--disable", "-f", "qcow2", path, "b"])?;
    let mut server = peers::command("qemu-nbd")?;
    server.args(["--persistent", "--shared=8", "--read-only", "--format=qcow2", "--export-name=disk"]);
    server.args(["-B", "b", "--socket", socket_path, path]).stdout(Stdio::null());
    let mut server = server.spawn().expect("start qemu-nbd");
    wait_until("the server", || UnixStream::connect(&socket).is_ok());

    let proxy = Proxy::with_limit(socket.clone(), 1 << 20);
    let half = ended(copy(&[&proxy.uri(), target.path.to_str().unwrap(), "--delta", "b"]), 1);
    assert!(half.contains("closed the connection"), "{half}");
    let uri = format!("nbd+unix:///disk?socket={socket_path}");
    let report = told(&[&uri, target.path.to_str().unwrap(), "--delta", "b", "--verify"]);
    assert!(report["data"].as_u64().unwrap() < 5 << 20, "only what has changed: {report}");
    assert_eq!(report["verified"].as_u64(), Some(SIZE));
    let mut expected = vec![0; SIZE as usize];
    for (start, end, byte) in [(0, 1, 1), (1, 4, 2), (4, 6, 1), (7, 8, 1)] {
        expected[start << 20..end << 20].fill(byte);
    }
    expected[SIZE as usize - 4096..].fill(3);
    assert!(target.read(0, SIZE as usize) == expected);
    let refused = ended(copy(&[&uri, target.path.to_str().unwrap(), "--delta", "none"]), 2);
    assert!(refused.contains("none"), "{refused}");
    server.kill().ok();
    server.wait().expect("wait for it");
    Some(())
}
