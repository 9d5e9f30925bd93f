//! `qemu-img`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::peers::{self, run};
use crate::picture::Picture;
use crate::subject::{Disk, Subject, Transport};

/// Large enough for several extents and requests, small enough for hundreds of tests.
const SIZE: usize = (24 << 20) + (20 << 10);
/// What a file system may add to the data of a file: its own map, rounding.
const SLACK: u64 = 512 << 10;

fn qemu_img(arguments: &[&str]) -> Option<Command> {
    let mut command = peers::command("qemu-img")?;
    command.args(arguments);
    Some(command)
}

pub(crate) fn info(transport: Transport, disk: Disk) -> Option<()> {
    let subject = Subject::empty(SIZE as u64, transport, disk)?;
    let text = run(qemu_img(&["info", "--output=json", "-f", "raw"])?.arg(subject.uri())).ok();
    let info: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(info["virtual-size"], SIZE, "{text}");
    assert_eq!(info["format"], "raw", "{text}");
    Some(())
}

/// A sparse image replaces other contents: every hole must become zeros, and must not occupy the disk.
pub(crate) fn convert_in(transport: Transport, disk: Disk) -> Option<()> {
    let (before, picture) = (Picture::full(SIZE), Picture::sparse(SIZE));
    let subject = Subject::holding(&before, transport, disk)?;
    let source = subject.scratch("source.img");
    picture.save(&source);
    run(qemu_img(&["convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "8"])?
        .arg(&source)
        .arg(subject.uri()))
    .ok();
    if let Some(allocated) = subject.allocated() {
        assert!(allocated <= picture.allocated() + SLACK, "{allocated} for {} of data", picture.allocated());
    }
    picture.assert_is(&subject.stop_and_read()?, "the disk");
    Some(())
}

pub(crate) fn convert_out(transport: Transport, disk: Disk) -> Option<()> {
    let picture = Picture::sparse(SIZE);
    let subject = Subject::holding(&picture, transport, disk)?;
    let target = subject.scratch("target.img");
    run(qemu_img(&["convert", "-f", "raw", "-O", "raw", "-W", "-m", "8"])?.arg(subject.uri()).arg(&target))
        .ok();
    picture.assert_is(&std::fs::read(&target).unwrap(), "the copy");
    Some(())
}

/// Says "identical" of the same contents, and notices one changed byte: the test can fail.
pub(crate) fn compare(transport: Transport, disk: Disk) -> Option<()> {
    let mut picture = Picture::sparse(SIZE);
    let subject = Subject::holding(&picture, transport, disk)?;
    let copy = subject.scratch("copy.img");
    let compare = |copy: &Path| {
        Some(run(qemu_img(&["compare", "-f", "raw", "-F", "raw"])?.arg(subject.uri()).arg(copy)))
    };
    picture.save(&copy);
    assert!(compare(&copy)?.ok().contains("identical"));
    let changed = picture.data.last().unwrap().end - 1;
    picture.bytes[changed] ^= 1;
    picture.save(&copy);
    let said = compare(&copy)?;
    assert_eq!(said.status.code(), Some(1), "{said}");
    Some(())
}

/// The map covers the disk, calls nothing zero that is not, and shows the holes where the server can know them.
pub(crate) fn map(transport: Transport, disk: Disk) -> Option<()> {
    let picture = Picture::sparse(SIZE);
    let subject = Subject::holding(&picture, transport, disk)?;
    let text = run(qemu_img(&["map", "--output=json", "-f", "raw"])?.arg(subject.uri())).ok();
    let extents: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    for extent in &extents {
        let (start, length) = (extent["start"].as_u64().unwrap(), extent["length"].as_u64().unwrap());
        assert_eq!(start, at, "a gap in {text}");
        at += length;
        if extent["zero"] == true {
            found.push(start as usize..at as usize);
        }
    }
    assert_eq!(at, SIZE as u64, "the end of {text}");
    assert_holes(&picture, &found, disk);
    Some(())
}

/// `zeros` are the ranges that a server says read as zeros.
pub(crate) fn assert_holes(picture: &Picture, zeros: &[std::ops::Range<usize>], disk: Disk) {
    for range in zeros {
        let honest = picture.bytes[range.clone()].iter().all(|byte| *byte == 0);
        assert!(honest, "{range:x?} is said to be zeros and is not");
    }
    let known: usize = zeros.iter().map(std::ops::Range::len).sum();
    let holes: usize = picture.holes().iter().map(std::ops::Range::len).sum();
    match disk {
        Disk::File | Disk::Direct => assert_eq!(known, holes, "every hole of a file, and no more"),
        // Its grain is the server's own business; it must know most of what was never written.
        Disk::Memory => assert!(known >= holes / 2, "knows {known} bytes of holes of {holes}"),
        // A loop device cannot tell.
        Disk::Device | Disk::Overlay => {}
    }
}

/// A file format with its own metadata lives on the served disk: many small writes and flushes, read back and checked.
pub(crate) fn qcow2_inside(transport: Transport, disk: Disk) -> Option<()> {
    let picture = Picture::sparse(SIZE);
    let subject = Subject::empty(2 * SIZE as u64, transport, disk)?;
    let (source, target) = (subject.scratch("source.img"), subject.scratch("target.img"));
    picture.save(&source);
    run(qemu_img(&["create", "-f", "qcow2"])?.arg(subject.uri()).arg(SIZE.to_string())).ok();
    run(qemu_img(&["convert", "-n", "-f", "raw", "-O", "qcow2"])?.arg(&source).arg(subject.uri())).ok();
    run(qemu_img(&["check", "-f", "qcow2"])?.arg(subject.uri())).ok();
    run(qemu_img(&["convert", "-f", "qcow2", "-O", "raw"])?.arg(subject.uri()).arg(&target)).ok();
    picture.assert_is(&std::fs::read(&target).unwrap(), "what came out of the qcow2 image");
    Some(())
}
