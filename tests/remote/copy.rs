//! `ringnbd copy`: in all directions, byte by byte.

use std::process::Command;

use super::far::{Far, Kind};
use super::{SIZE, ended};
use crate::peers;
use crate::support::image::{Image, pattern};
use crate::support::server::Server;
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
